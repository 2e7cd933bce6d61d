"""Reads that a rule announces: all that is not seen or believed yet, in one round trip. Not the reads themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from meta.attr import Attr
from meta.redis import keys as k
from meta.redis.known import UNKNOWN, Cell
from meta.redis.link import Command
from meta.redis.reader import TOLD_APART
from meta.redis.scripts import ANCESTRY, LOOKUP, call
from meta.redis.view import TransactionView
from meta.tkv.values import decode_entry
from meta.transaction import Quota, QuotaKind, Read
from meta.types import Dirent

_LEVELS: Final = 1000  # directories that one request climbs

Absorb = Callable[[Any], object]


class ReadAhead(TransactionView):
    """`Transaction.prefetch`, and the reads that are made of several."""

    def target(self, parent: int, name: bytes) -> tuple[Dirent, Attr | None] | None:
        self.prefetch(("target", parent, name))
        data = self._see((self.keys.entries(parent), name))
        if data is None:
            return None
        entry = decode_entry(data)
        return entry, self.attr(entry.ino)

    def quota(self, kind: QuotaKind, key: int) -> Quota | None:
        self.prefetch(("quota", kind, key))
        limit_hash, *used_hashes = self.keys.quota(kind)
        limits = self.field(limit_hash, b"%d" % key)
        space, inodes = (self._loose((used_hash, b"%d" % key)) for used_hash in used_hashes)
        more = self._uses.get((kind, key), (0, 0))
        if limits is None:
            if kind == "dir" or (kind, key) not in self._uses:
                return None
            limits = k.NO_LIMITS
        return Quota(*k.decode_limits(limits), int(space or 0) + more[0], int(inodes or 0) + more[1])

    def prefetch(self, *reads: Read) -> None:
        """All that is not seen or believed yet, in one round trip."""
        commands: list[Command] = []
        absorbers: list[Absorb] = []
        for name, *arguments in reads:
            for command, absorb in self._reads_of(name, arguments):
                commands.append(command)
                absorbers.append(absorb)
        if commands:
            for absorb, answer in zip(absorbers, self._ask(*commands), strict=True):
                absorb(answer)

    def _reads_of(self, name: str, arguments: list[Any]) -> list[tuple[Command, Absorb]]:
        keys = self.keys
        if name == "attr":
            return self._cells_of(arguments[0])
        if name == "target":
            return self._lookup(*arguments)
        if name == "entry":
            return self._cells_of((keys.entries(arguments[0]), arguments[1]))
        if name == "ancestry":
            return self._climb(arguments[0])
        if name in ("flocks", "plocks", "xattrs"):
            return self._hash_of(getattr(keys, name)(*arguments))
        if name == "chunk":
            return self._list_of(keys.chunk(*arguments))
        if name == "xattr":
            return self._cells_of((keys.xattrs(arguments[0]), arguments[1]))
        if name == "symlink":
            return self._cells_of(keys.symlink(*arguments))
        if name == "acl":
            return self._cells_of((keys.acls, b"%d" % arguments[0]))
        if name == "slice_refs":
            return self._cells_of((keys.slice_refs, k.slice_field(*arguments)))
        if name == "delayed":
            return self._cells_of((keys.delayed, k.delayed_field(*arguments)))
        if name == "quota":
            return self._quota_of(*arguments)
        return []

    def _cells_of(self, *cells: Cell) -> list[tuple[Command, Absorb]]:
        return [
            (self._command(cell), lambda answer, cell=cell: self._note(cell, answer))  # type: ignore[misc]
            for cell in cells
            if self._peek(cell) is UNKNOWN
        ]

    def _quota_of(self, kind: QuotaKind, key: int) -> list[tuple[Command, Absorb]]:
        """The limits, and the use as it is now (`_loose`)."""
        limits, *used = [(key_hash, b"%d" % key) for key_hash in self.keys.quota(kind)]
        return self._cells_of(limits) + [
            (self._command(cell), lambda answer, cell=cell: self._fetched.setdefault(cell, answer))
            for cell in used
            if cell not in self._cells and cell not in self._fetched
        ]

    def _lookup(self, parent: int, name: bytes) -> list[tuple[Command, Absorb]]:
        entries = self.keys.entries(parent)
        data = self._peek((entries, name))
        if data is not UNKNOWN:
            return self._cells_of(decode_entry(data).ino) if data is not None else []

        def absorb(answer: list[Any]) -> None:
            self._note((entries, name), answer[0] if answer else None)
            if not answer or answer[1] == TOLD_APART:
                return
            ino = decode_entry(answer[0]).ino
            self._note(ino, answer[1])
            if len(answer) > 2:
                self._fetched_presence.setdefault(self.keys.entries(ino), bool(answer[2]))

        return [(call(LOOKUP, entries, self.keys.prefix, name), absorb)]

    def _climb(self, ino: int) -> list[tuple[Command, Absorb]]:
        """The records from a directory up to the root, unless all of them are seen or believed."""
        at, levels = ino, 0
        while (data := self._peek(at)) is not UNKNOWN and levels < _LEVELS:
            if data is None or at == 1:
                return []
            at, levels = Attr.decode(data).parent, levels + 1

        def absorb(answer: list[Any]) -> None:
            for number, record in zip(answer[::2], answer[1::2], strict=True):
                self._note(int(number), record)

        return [(call(ANCESTRY, self.keys.attr(at), self.keys.prefix, at, _LEVELS), absorb)]

    def _hash_of(self, key: bytes) -> list[tuple[Command, Absorb]]:
        if key in self._hashes or key in self._fetched_whole:
            return []
        return [((b"HGETALL", key), lambda answer: self._fetched_whole.setdefault(key, answer))]

    def _list_of(self, key: bytes) -> list[tuple[Command, Absorb]]:
        if key in self._lists or key in self._fetched_whole or self._list_writes.get(key, (False,))[0]:
            return []
        return [((b"LRANGE", key, 0, -1), lambda answer: self._fetched_whole.setdefault(key, answer))]
