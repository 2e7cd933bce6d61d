"""Values of an ordered key/value store that are not records of their own module (inode, ACL, slices, record locks)."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Final

from meta.errors import Corrupt
from meta.transaction import DirStat, Owner, Quota
from meta.types import Dirent

_LITTLE = struct.Struct("<q")
_BIG = struct.Struct(">q")
_ENTRY = struct.Struct(">BQ")
_STAT = struct.Struct(">qqq")
_QUOTA = struct.Struct(">qqqq")
_FLOCK = struct.Struct(">QQc")
_PLOCK = struct.Struct(">QQI")

GATES: Final = frozenset(
    {"lastCleanupSessions", "lastCleanupFiles", "lastCleanupTrash", "lastCleanupChangelog", "nextCleanupSlices"}
)
"""Counters that hold a time: big endian, while all others are little endian."""


def _unpack(layout: struct.Struct, data: bytes, what: str) -> tuple[int, ...]:
    if len(data) != layout.size:
        raise Corrupt(f"{what} of {len(data)} bytes, expected {layout.size}")
    return layout.unpack(data)


def encode_counter(name: str, value: int) -> bytes:
    return (_BIG if name in GATES else _LITTLE).pack(value)


def decode_counter(name: str, data: bytes) -> int:
    return _unpack(_BIG if name in GATES else _LITTLE, data, f"counter {name}")[0]


def encode_count(value: int) -> bytes:
    """Counts of links and references: little endian."""
    return _LITTLE.pack(value)


def decode_count(data: bytes) -> int:
    return _unpack(_LITTLE, data, "count")[0]


def encode_time(seconds: int) -> bytes:
    return _BIG.pack(seconds)


def decode_time(data: bytes) -> int:
    return _unpack(_BIG, data, "time")[0]


def encode_entry(entry: Dirent) -> bytes:
    """Type u8, inode u64, big endian here although not in keys."""
    return _ENTRY.pack(*entry)


def decode_entry(data: bytes) -> Dirent:
    if len(data) != _ENTRY.size:
        raise Corrupt(f"directory entry of {len(data)} bytes, expected {_ENTRY.size}")
    return Dirent(*_ENTRY.unpack(data))


def decode_entries(values: Iterable[bytes]) -> list[tuple[int, int]]:
    """Many at once: types and inodes."""
    try:
        return list(map(_ENTRY.unpack, values))
    except struct.error as problem:
        raise Corrupt(f"a directory entry that has not {_ENTRY.size} bytes: {problem}") from None


def encode_dir_stat(stat: DirStat) -> bytes:
    return _STAT.pack(*stat)


def decode_dir_stat(data: bytes) -> DirStat:
    return DirStat._make(_unpack(_STAT, data, "directory statistics"))


def encode_quota(quota: Quota) -> bytes:
    return _QUOTA.pack(*quota)


def decode_quota(data: bytes) -> Quota:
    return Quota._make(_unpack(_QUOTA, data, "quota"))


def encode_flocks(locks: Mapping[Owner, bytes]) -> bytes:
    return b"".join([_FLOCK.pack(sid, owner, kind) for (sid, owner), kind in locks.items()])


def decode_flocks(data: bytes) -> dict[Owner, bytes]:
    """Repeated session id u64, owner u64, letter."""
    if len(data) % _FLOCK.size:
        raise Corrupt(f"BSD locks: {len(data)} bytes are not a multiple of {_FLOCK.size}")
    return {(sid, owner): kind for sid, owner, kind in _FLOCK.iter_unpack(data)}


def encode_plocks(locks: Mapping[Owner, bytes]) -> bytes:
    return b"".join([_PLOCK.pack(*owner, len(records)) + records for owner, records in locks.items()])


def decode_plocks(data: bytes) -> dict[Owner, bytes]:
    """Repeated session id u64, owner u64, number of bytes u32, and that many bytes of records."""
    locks: dict[Owner, bytes] = {}
    at = 0
    while at < len(data):
        if at + _PLOCK.size > len(data):
            raise Corrupt(f"record locks of {len(data)} bytes end within an owner")
        sid, owner, length = _PLOCK.unpack_from(data, at)
        at += _PLOCK.size
        if at + length > len(data):
            raise Corrupt(f"record locks of {len(data)} bytes end within a list")
        locks[sid, owner] = data[at : at + length]
        at += length
    return locks
