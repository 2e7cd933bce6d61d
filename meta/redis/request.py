"""The words of a request to `scripts.APPLY`: conditions and writes. Not what they are made from (transaction)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final, NamedTuple

from meta.redis import keys as k
from meta.redis.keys import Keys
from meta.redis.known import Cell
from meta.redis.link import Command
from meta.slices import RECORD_SIZE
from meta.transaction import DirStat, QuotaKind
from meta.types import DIRECTORY

Word = bytes | str | int

_PUSHED_AT_ONCE: Final = 1000  # items of one RPUSH; Lua takes some thousand words per call


def is_directory(record: bytes) -> bool:
    """Whether an inode's record is a directory's (the type is the upper half of the second byte)."""
    return record[1] >> 4 == DIRECTORY


class Condition(NamedTuple):
    """Words of one condition, and the cell that it is about, if it is about one."""

    words: tuple[Word, ...]
    cell: Cell | None = None

    @classmethod
    def of_cell(cls, keys: Keys, cell: Cell, value: bytes | None) -> Condition:
        """The cell has this value (None: does not exist). Of a directory's record: all but its times and links."""
        if isinstance(cell, tuple):
            return cls((b"E", *cell) if value is None else (b"F", *cell, value), cell)
        key = keys.attr(cell) if isinstance(cell, int) else cell
        if value is None:
            return cls((b"N", key), cell)
        if isinstance(cell, int) and is_directory(value):
            return cls((b"D", key, value[:11], value[51:]), cell)
        return cls((b"S", key, value), cell)

    @classmethod
    def of_hash(cls, key: bytes, fields: Mapping[bytes, bytes]) -> Condition:
        """The hash has exactly these fields."""
        return cls((b"H", key, len(fields), *[word for pair in fields.items() for word in pair]))

    @classmethod
    def of_list(cls, key: bytes, data: bytes) -> Condition:
        """The list's items, joined, are this."""
        return cls((b"L", key, hashlib.sha1(data, usedforsecurity=False).hexdigest()))

    @classmethod
    def of_presence(cls, key: bytes, there: bool) -> Condition:
        return cls((b"X" if there else b"N", key))


class Request:
    """Writes under construction. `words` follow the conditions."""

    def __init__(self, keys: Keys) -> None:
        self.words: list[Word] = []
        self.merged: list[int] = []  # directories whose records are answered
        self._keys = keys

    def command(self, command: Command, *, answer: bool = False) -> None:
        """Any command; `answer`: what it answers is wanted."""
        self.words += (b"R" if answer else b"W", len(command), *command)

    def admit(self) -> None:
        """Have a server without memory do all that follows: it lets a script through that has deleted something."""
        self.command((b"DEL", self._keys.ticket(b"")))  # never there

    def delete(self, cell: Cell) -> None:
        if isinstance(cell, tuple):
            self.command((b"HDEL", *cell))
        else:
            self.command((b"DEL", self._keys.attr(cell) if isinstance(cell, int) else cell))

    def put(self, cell: Cell, value: bytes, found: bytes | None) -> None:
        """Store a value. A directory's times and links are merged with what others have made of them since `found`."""
        if isinstance(cell, tuple):
            self.command((b"HSET", *cell, value))
        elif isinstance(cell, bytes):
            self.command((b"SET", cell, value))
        elif found is None or not (is_directory(found) and is_directory(value)):
            self.command((b"SET", self._keys.attr(cell), value))
        else:
            times = [value[at : at + 12] if value[at : at + 12] != found[at : at + 12] else b"" for at in (11, 23, 35)]
            links = int.from_bytes(value[47:51], "big") - int.from_bytes(found[47:51], "big")
            self.merged.append(cell)
            self.words += (b"M", self._keys.attr(cell), value[:11], *times, links, value[51:])

    def records(self, key: bytes, data: bytes, replaced: bool) -> None:
        """Append records to a chunk's list, or make them all that it holds."""
        if replaced:
            self.command((b"DEL", key))
        items = [data[at : at + RECORD_SIZE] for at in range(0, len(data), RECORD_SIZE)]
        for at in range(0, len(items), _PUSHED_AT_ONCE):
            last = at + _PUSHED_AT_ONCE >= len(items)
            self.command((b"RPUSH", key, *items[at : at + _PUSHED_AT_ONCE]), answer=last)

    def add_stat(self, ino: int, stat: DirStat) -> None:
        keys = self._keys
        self.words += (b"A", keys.dir_length, keys.dir_space, keys.dir_inodes, ino, *stat)

    def add_use(self, kind: QuotaKind, key: int, space: int, inodes: int) -> None:
        new = b"" if kind == "dir" else k.NO_LIMITS
        self.words += (b"Q", *self._keys.quota(kind), key, space, inodes, new)

    def add_usage(self, space: int, inodes: int) -> None:
        self.words += (b"U", self._keys.used_space, self._keys.total_inodes, space, inodes)
