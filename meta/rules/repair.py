"""What a directory's entries say about it - link count, statistics - and putting right what says something else.

Not finding what else may be wrong with a volume (`check`), and nothing about data. The entries of a directory may be
too many for one transaction, so they are counted outside, and what they say is written only if the directory is then as
it was before the count: every new or removed subdirectory changes its record, every change below it its statistics.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Final, NamedTuple, TypeVar

from meta.attr import Attr
from meta.engine import Engine
from meta.errors import Refused
from meta.rules.context import Volume
from meta.rules.create import new_attr
from meta.rules.directory import stamp
from meta.rules.lookup import entries
from meta.transaction import DirItem, DirStat, Reader, Transaction
from meta.types import DIR_LENGTH, DIRECTORY, ROOT, SUPERUSER, TRASH

S = TypeVar("S")
C = TypeVar("C")

_ATTEMPTS: Final = 10
_UNKNOWN: Final = DirStat(-(1 << 60), -(1 << 60), -(1 << 60))
"""Statistics that nobody believes (they are negative), but to which changes are added as to any others."""


class Count(NamedTuple):
    """What the entries of a directory add up to."""

    nlink: int = 2
    stat: DirStat = DirStat(0, 0, 0)

    def plus(self, item: DirItem) -> Count:
        """With one more entry, which was listed with attributes."""
        length, space, inodes = self.stat
        attr = item.attr
        stat = DirStat(
            length + (attr.length if attr is not None and attr.is_file else 0),
            space + (attr.space if attr is not None else DIR_LENGTH),
            inodes + 1,
        )
        return Count(self.nlink + (item.type == DIRECTORY), stat)


def count_entries(reader: Reader, ino: int) -> Count:
    """Add up a directory, page by page."""
    count = Count()
    for page in entries(reader, ino, plus=True):
        for item in page:
            count = count.plus(item)
    return count


def inspect_links(reader: Reader, ino: int) -> tuple[Attr | None, int]:
    """The record of a directory and the link count that its entries say, both of one time."""
    return _unchanged(ino, lambda: reader.attr(ino), lambda: count_entries(reader, ino).nlink)


def inspect_stat(reader: Reader, ino: int) -> tuple[DirStat | None, DirStat]:
    """The statistics of a directory and what its entries add up to, both of one time."""
    return _unchanged(ino, lambda: reader.dir_stat(ino), lambda: count_entries(reader, ino).stat)


def _unchanged(ino: int, see: Callable[[], S], count: Callable[[], C]) -> tuple[S, C]:
    """What is seen before and after a count as the same, and the count."""
    before = see()
    for _ in range(_ATTEMPTS):
        found = count()
        after = see()
        if before == after:
            return before, found
        before = after
    raise _busy(ino)


def repair_links(vol: Volume, ino: int, parent: int, mode: int) -> None:
    """Give a directory the link count that its entries say; without a record, one of `mode` that is root's.

    `parent`: the directory that holds it.
    """
    for _ in range(_ATTEMPTS):
        seen, nlink = inspect_links(vol.engine.reader, ino)
        if vol.transact(lambda tx: _put_links(tx, vol, ino, parent, mode, seen, nlink)):  # noqa: B023 - run at once
            return
    raise _busy(ino)


def _put_links(tx: Transaction, vol: Volume, ino: int, parent: int, mode: int, seen: Attr | None, nlink: int) -> bool:
    tx.prefetch(("attr", ino))
    attr = tx.attr(ino)
    if attr != seen:
        return False
    now = vol.now()
    if attr is None:
        attr = new_attr(SUPERUSER, DIRECTORY, mode, now)
        attr.parent = parent
    attr.nlink = nlink
    stamp(attr, now)
    tx.put_attr(ino, attr)
    return True


def sync_dir_stat(vol: Volume, ino: int) -> None:
    """Make the statistics of a directory what its entries add up to."""
    for _ in range(_ATTEMPTS):
        vol.transact(lambda tx: _keep_stat(tx, ino))
        vol.engine.flush()
        seen, counted = inspect_stat(vol.engine.reader, ino)
        if seen is None or vol.transact(lambda tx: _put_stat(tx, ino, seen, counted)):  # noqa: B023 - run at once
            return
    raise _busy(ino)


def _keep_stat(tx: Transaction, ino: int) -> None:
    """Have a record, which changes during the count will change; none for a directory that is gone."""
    tx.prefetch(("attr", ino))
    if tx.dir_stat(ino) is None and tx.attr(ino) is not None:
        tx.put_dir_stat(ino, _UNKNOWN)


def _put_stat(tx: Transaction, ino: int, seen: DirStat, counted: DirStat) -> bool:
    if tx.dir_stat(ino) != seen:
        return False
    tx.put_dir_stat(ino, counted)
    return True


def sync_usage(vol: Volume) -> tuple[int, int]:
    """Make the volume's totals what its inodes add up to; those are returned, bytes and inodes.

    What others change meanwhile may be missing: for a volume at rest.
    """
    vol.engine.flush()
    with closing(sqlite3.connect("", isolation_level=None)) as db:  # a file without a name: an inode may come twice
        db.executescript("PRAGMA synchronous=OFF; CREATE TABLE node(ino INTEGER PRIMARY KEY, space INT); BEGIN")
        db.executemany("INSERT OR IGNORE INTO node VALUES(?, ?)", _spaces(vol.engine))
        space, inodes = db.execute("SELECT coalesce(sum(space), 0), count(*) FROM node").fetchone()

    def body(tx: Transaction) -> None:
        tx.put_counter("usedSpace", space)
        tx.put_counter("totalInodes", inodes)

    vol.transact(body)
    return space, inodes


def _spaces(engine: Engine) -> Iterator[tuple[int, int]]:
    return ((ino, attr.space) for ino, attr in engine.list_nodes() if ino not in (ROOT, TRASH))


def _busy(ino: int) -> Refused:
    return Refused(errno.EBUSY, f"directory {ino} changes faster than its entries can be counted; try again later")
