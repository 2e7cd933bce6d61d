"""The words of a request to `scripts.APPLY`: conditions and writes. Not what they are made from (transaction)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from meta.redis import keys as k
from meta.redis.keys import Keys
from meta.redis.known import Cell
from meta.redis.link import Command
from meta.slices import RECORD_SIZE
from meta.transaction import DirStat, QuotaKind
from meta.types import DIRECTORY

Word = bytes | str | int

NO_RECORD: Final = b"\0\0"
"""Stands for the record of an inode of no type."""

_PUSHED_AT_ONCE: Final = 1000  # items of one RPUSH; Lua takes some thousand words per call


def is_directory(record: bytes) -> bool:
    """Whether an inode's record is a directory's (the type is the upper half of the second byte)."""
    return record[1] >> 4 == DIRECTORY


def sets_times(found: bytes | None, record: bytes | None) -> bool:
    """Whether a change of an inode is about itself, its times among the rest; a change of its entries is marked by
    mtime = ctime, and a read by atime alone.
    """
    return bool(found and record) and record[35:47] not in (found[35:47], record[23:35])  # type: ignore[index]


class Conditions:
    """Conditions under construction: their `words`, and how many they are."""

    __slots__ = ("_keys", "count", "words")

    def __init__(self, keys: Keys) -> None:
        self.words: list[Word] = []
        self.count = 0
        self._keys = keys

    def cell(self, cell: Cell, value: bytes | None, exact: bool = False) -> None:
        """The cell has this value (None: not there). Unless `exact`, of a directory all but its times and links."""
        self.count += 1
        if isinstance(cell, tuple):
            self.words += (b"E", *cell) if value is None else (b"F", *cell, value)
            return
        key = self._keys.attr(cell) if isinstance(cell, int) else cell
        if value is None:
            self.words += (b"N", key)
        elif isinstance(cell, int) and not exact and is_directory(value):
            self.words += (b"D", key, value[:11], value[51:])
        else:
            self.words += (b"S", key, value)

    def hash(self, key: bytes, fields: Mapping[bytes, bytes]) -> None:
        """The hash has exactly these fields."""
        self.count += 1
        self.words += (b"H", key, len(fields), *[word for pair in fields.items() for word in pair])

    def list(self, key: bytes, data: bytes) -> None:
        """The list's items, joined, are this."""
        self.count += 1
        self.words += (b"L", key, hashlib.sha1(data, usedforsecurity=False).hexdigest())

    def presence(self, key: bytes, there: bool) -> None:
        """The key exists, or does not."""
        self.count += 1
        self.words += (b"X" if there else b"N", key)


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
