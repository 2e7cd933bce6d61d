"""POSIX record locks of one owner on one file: the stored list, and what setting and releasing a range does to it.

Not who waits for whom (the rules of locks), and not BSD locks (a single letter).
A record, big endian: type u32, pid u32, start u64, end u64 (inclusive); types are Linux's F_RDLCK,
F_WRLCK and F_UNLCK (official clients on other systems write their own numbers).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from meta.errors import Corrupt

READ, WRITE, UNLOCK = 0, 1, 2
END_OF_FILE: Final = 0x7FFF_FFFF_FFFF_FFFF  # the end of a lock that reaches to the end of the file, wherever that is
_RECORD = struct.Struct(">IIQQ")


class Plock(NamedTuple):
    """Bytes `start` to `end`, both included, locked as `type` by process `pid`."""

    type: int
    pid: int
    start: int
    end: int


def decode_plocks(data: bytes) -> list[Plock]:
    """The records of a stored list; `Corrupt` if the length does not fit."""
    if len(data) % _RECORD.size:
        raise Corrupt(f"lock records: {len(data)} bytes are not a multiple of {_RECORD.size}")
    return [Plock._make(fields) for fields in _RECORD.iter_unpack(data)]


def encode_plocks(locks: Iterable[Plock]) -> bytes:
    """The stored form of a list."""
    return b"".join([_RECORD.pack(*lock) for lock in locks])


def update_plocks(locks: Iterable[Plock], new: Plock) -> list[Plock]:
    """The list after its owner sets `new` (or releases its range: type `UNLOCK`), sorted, disjoint, joined.

    Official clients may leave neighbours of equal type and process apart; both forms mean the same.
    """
    kept: list[Plock] = []
    for lock in locks:
        if lock.start < new.start:
            kept.append(lock._replace(end=min(lock.end, new.start - 1)))
        if lock.end > new.end:
            kept.append(lock._replace(start=max(lock.start, new.end + 1)))
    kept.append(new)
    kept.sort(key=lambda lock: lock.start)
    joined: list[Plock] = []
    for lock in kept:
        if lock.type == UNLOCK or lock.start > lock.end:
            continue
        if joined and joined[-1][:2] == lock[:2] and joined[-1].end + 1 == lock.start:
            joined[-1] = joined[-1]._replace(end=lock.end)
        else:
            joined.append(lock)
    return joined


def find_conflict(locks: Iterable[Plock], wanted: Plock) -> Plock | None:
    """The first of another owner's locks that keeps `wanted` from being set."""
    if wanted.type == UNLOCK:
        return None
    for lock in locks:
        overlaps = lock.start <= wanted.end and wanted.start <= lock.end
        if overlaps and WRITE in (lock.type, wanted.type):
            return lock
    return None
