"""Bringing back what an hour's directory of the trash holds: to where it was, or only into trees inside of the trash.

Not the names in the trash (`meta.rules.trash`) and not the move itself, which is a rename of its own for each entry.
So it may be interrupted anywhere and run again; several runs at once only find less to do.

Trees are put together inside of the trash first, where no quota counts them, and then moved out whole: a tree that
grows while it moves between quotas is not measured right.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator

from juicefs_py.cli.progress import Progress
from juicefs_py.maintenance.names import shown
from juicefs_py.maintenance.parallel import results
from meta.client import MetaClient
from meta.errors import Refused
from meta.rules.lookup import entries
from meta.rules.rename import RESTORE
from meta.rules.trash import TrashName, parse_entry
from meta.types import ROOT, SUPERUSER, TRASH

log = logging.getLogger(__name__)

_KNOWN = 10_000  # directories of which it is remembered in which hour they lie

DONE, SKIPPED, CONFLICT, FAILED = range(4)


class Restoring:
    """One run over one hour. `counts` tells what became of its entries, by the numbers above."""

    def __init__(self, meta: MetaClient, hour: int, put_back: bool) -> None:
        self._meta = meta
        self._hour = hour
        self._put_back = put_back
        self._known: dict[int, int] = {}
        self.counts = [0, 0, 0, 0]

    def run(self, progress: Progress, threads: int) -> None:
        """Restore all entries, several at a time."""
        names = ["restored" if self._put_back else "rebuilt", "need-put-back", "conflicts", "failed"]
        meters = [progress.spinner(name) for name in names]
        for last in (False, True) if self._put_back else (True,):
            self._known.clear()
            step = self._restore if last else self._rebuild
            for outcome in results(step, self._names(), threads):
                if last or outcome == DONE:
                    self.counts[outcome] += 1
                    meters[outcome].advance()

    def _names(self) -> Iterator[bytes]:
        return (item.name for page in entries(self._meta.reader, self._hour) for item in page)

    def _rebuild(self, name: bytes) -> int:
        """Move one entry if it goes to a directory in the trash. What prevents that is told by the second try."""
        origin = parse_entry(name)
        if origin is None or self._hour_of(origin.parent) < TRASH:
            return SKIPPED
        try:
            self._move(name, origin)
        except Refused:
            return SKIPPED
        return DONE

    def _restore(self, name: bytes) -> int:
        """Move one entry to the directory that it was removed from."""
        origin = parse_entry(name)
        if origin is None:
            log.warning("restore %s: invalid trash entry", shown(name))
            return FAILED
        if not self._put_back and self._hour_of(origin.parent) != self._hour:
            return SKIPPED
        try:
            self._move(name, origin)
        except Refused as problem:
            if problem.errno == errno.ENOENT and self._meta.reader.entry(self._hour, name) is None:
                return DONE  # somebody else has been faster
            exists = problem.errno == errno.EEXIST
            log.warning("restore %s: %s", shown(name), "target already exists" if exists else str(problem).lower())
            return CONFLICT if exists else FAILED
        return DONE

    def _move(self, name: bytes, origin: TrashName) -> None:
        self._meta.rename(SUPERUSER, self._hour, name, origin.parent, origin.name, RESTORE)

    def _hour_of(self, ino: int) -> int:
        """The hour's directory that a directory lies in, at whatever depth; less than `TRASH` if in none."""
        if (known := self._known.get(ino)) is not None:
            return known
        first, seen = ino, set[int]()
        while ROOT < ino < TRASH and ino not in seen:
            seen.add(ino)
            attr = self._meta.reader.attr(ino)
            ino = attr.parent if attr is not None and attr.is_dir else 0
        if len(self._known) >= _KNOWN:
            self._known.clear()
        self._known[first] = ino
        return ino


def find_hour(meta: MetaClient, name: str) -> int:
    """The directory of an hour; `Refused` ENOENT if there is none."""
    entry = meta.reader.entry(TRASH, name.encode(errors="surrogateescape"))
    if entry is None:
        raise Refused(errno.ENOENT)
    return entry.ino
