"""Keys of a volume in an ordered key/value store, byte for byte those of the official client. Not the values.

Letters are ASCII. Inode numbers are little endian, so that neighbours spread over the store; every other number is big
endian. `tikv_prefix` stands before each key where the store is shared; the connection adds it.
"""

from __future__ import annotations

import struct
from typing import Final

_INO = struct.Struct("<Q")
_U64 = struct.Struct(">Q")
_U32 = struct.Struct(">I")
_CHUNK = struct.Struct("<cQc")
_SLICE = struct.Struct(">cQI")
_PAIR = struct.Struct(">cQQ")

SETTING: Final = b"setting"
QUOTA_PREFIX: Final = {"dir": b"QD", "user": b"QU", "group": b"QG"}


def tikv_prefix(path: str) -> bytes:
    """What TiKV keys begin with: the path of the URL without its first slash, and one byte that no text has."""
    return path.removeprefix("/").encode() + b"\xfd"


def prefix_end(prefix: bytes) -> bytes:
    """The first key behind all that begin with `prefix`."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes((stripped[-1] + 1,))


def ino_bytes(ino: int) -> bytes:
    return _INO.pack(ino)


def read_ino(data: bytes, at: int = 0) -> int:
    number: int = _INO.unpack_from(data, at)[0]
    return number


def read_u64(data: bytes, at: int = 0) -> int:
    number: int = _U64.unpack_from(data, at)[0]
    return number


def read_u32(data: bytes, at: int = 0) -> int:
    number: int = _U32.unpack_from(data, at)[0]
    return number


def counter_key(name: str) -> bytes:
    return b"C" + name.encode()


def attr_key(ino: int) -> bytes:
    return _CHUNK.pack(b"A", ino, b"I")


def entry_key(parent: int, name: bytes = b"") -> bytes:
    """Without a name, what all entries of the directory begin with."""
    return _CHUNK.pack(b"A", parent, b"D") + name


def parents_key(ino: int) -> bytes:
    """What the parent counts of a hard-linked inode begin with."""
    return _CHUNK.pack(b"A", ino, b"P")


def parent_key(ino: int, parent: int) -> bytes:
    return parents_key(ino) + _INO.pack(parent)


def chunks_key(ino: int) -> bytes:
    """What all chunks of the file begin with."""
    return _CHUNK.pack(b"A", ino, b"C")


def chunk_key(ino: int, indx: int) -> bytes:
    return chunks_key(ino) + _U32.pack(indx)


def symlink_key(ino: int) -> bytes:
    return _CHUNK.pack(b"A", ino, b"S")


def xattr_key(ino: int, name: bytes = b"") -> bytes:
    """Without a name, what all extended attributes of the inode begin with."""
    return _CHUNK.pack(b"A", ino, b"X") + name


def deleted_file_key(ino: int, length: int) -> bytes:
    return b"D" + _INO.pack(ino) + _U64.pack(length)


def flock_key(ino: int) -> bytes:
    return b"F" + _INO.pack(ino)


def plock_key(ino: int) -> bytes:
    return b"P" + _INO.pack(ino)


def slice_key(slice_id: int, size: int) -> bytes:
    return _SLICE.pack(b"K", slice_id, size)


def delayed_key(created: int, slice_id: int) -> bytes:
    return _PAIR.pack(b"L", created, slice_id)


def session_key(kind: bytes, sid: int) -> bytes:
    """`kind`: SE expiry, SI description, SH heartbeat of old clients, SS what all sustained inodes begin with."""
    return kind + _U64.pack(sid)


def sustained_key(sid: int, ino: int) -> bytes:
    return session_key(b"SS", sid) + _INO.pack(ino)


def dir_stat_key(ino: int) -> bytes:
    return b"U" + _INO.pack(ino)


def detached_key(ino: int) -> bytes:
    return b"N" + _INO.pack(ino)


def quota_key(kind: str, key: int) -> bytes:
    return QUOTA_PREFIX[kind] + (_INO if kind == "dir" else _U64).pack(key)


def acl_key(acl_id: int) -> bytes:
    return b"R" + _U32.pack(acl_id)


def changelog_key(number: int, shards: int = 0) -> bytes:
    """A line of the change log; with `shards` behind the one it is in, so that the end of the log is in many places."""
    shard = bytes((changelog_shard(number, shards),)) if shards else b""
    return b"XLOG" + shard + _U64.pack(number)


def changelog_shard(number: int, shards: int = 64) -> int:
    """The shard of a change log line where keys are spread (TiKV)."""
    return (number ^ number >> 18) % shards
