"""Names of the keys of a volume in Redis, and the values that only this engine has. Not what is in the other values.

Every key begins with a prefix: nothing, or `{<database>}` in a cluster, where the braces put all keys of a volume into
one hash slot. Numbers in keys, fields and most values are decimal.
"""

from __future__ import annotations

import struct
from typing import Final

from meta.errors import Corrupt
from meta.transaction import Owner

_LIMITS = struct.Struct(">qq")
NO_LIMITS: Final = _LIMITS.pack(-1, -1)

_COUNTERS: Final = {"nextInode": b"nextinode", "nextChunk": b"nextchunk", "nextSession": b"nextsession"}
"""Counters whose keys are not their names. Inodes and chunks: the last number handed out, not the next."""

_QUOTAS: Final = {"dir": b"dirQuota", "user": b"userQuota", "group": b"groupQuota"}


class Keys:
    """The keys of one volume."""

    def __init__(self, prefix: bytes = b"") -> None:
        self.prefix = prefix
        self.setting = prefix + b"setting"
        self.sessions = prefix + b"allSessions"
        self.session_infos = prefix + b"sessionInfos"
        self.deleted_files = prefix + b"delfiles"
        self.detached = prefix + b"detachedNodes"
        self.delayed = prefix + b"delSlices"
        self.slice_refs = prefix + b"sliceRef"
        self.acls = prefix + b"acl"
        self.dir_length = prefix + b"dirDataLength"
        self.dir_space = prefix + b"dirUsedSpace"
        self.dir_inodes = prefix + b"dirUsedInodes"
        self.used_space = prefix + b"usedSpace"
        self.total_inodes = prefix + b"totalInodes"
        self.changelog = prefix + b"txnLog"
        self.changelog_count = prefix + b"txnLastLog"

    def attr(self, ino: int) -> bytes:
        return b"%bi%d" % (self.prefix, ino)

    def entries(self, ino: int) -> bytes:
        return b"%bd%d" % (self.prefix, ino)

    def parents(self, ino: int) -> bytes:
        return b"%bp%d" % (self.prefix, ino)

    def chunk(self, ino: int, indx: int) -> bytes:
        return b"%bc%d_%d" % (self.prefix, ino, indx)

    def symlink(self, ino: int) -> bytes:
        return b"%bs%d" % (self.prefix, ino)

    def xattrs(self, ino: int) -> bytes:
        return b"%bx%d" % (self.prefix, ino)

    def flocks(self, ino: int) -> bytes:
        return b"%blockf%d" % (self.prefix, ino)

    def plocks(self, ino: int) -> bytes:
        return b"%blockp%d" % (self.prefix, ino)

    def locked(self, sid: int) -> bytes:
        """The set of lock keys in which a session may hold something."""
        return b"%blocked%d" % (self.prefix, sid)

    def sustained(self, sid: int) -> bytes:
        return b"%bsession%d" % (self.prefix, sid)

    def counter(self, name: str) -> bytes:
        return self.prefix + _COUNTERS.get(name, name.encode())

    def ticket(self, name: bytes) -> bytes:
        """Ours alone (`once`), never there for longer than an hour: official clients neither know nor find it."""
        return self.prefix + b"request" + name

    def quota(self, kind: str) -> tuple[bytes, bytes, bytes]:
        """The hashes of limits, used space and used inodes."""
        base = self.prefix + _QUOTAS[kind]
        return base, base + b"UsedSpace", base + b"UsedInodes"


def slice_field(slice_id: int, size: int) -> bytes:
    return b"k%d_%d" % (slice_id, size)


def read_slice_field(field: bytes) -> tuple[int, int]:
    """The slice that a field of the reference counts is about."""
    slice_id, _, size = field[1:].partition(b"_")
    return int(slice_id), int(size)


def delayed_field(slice_id: int, created: int) -> bytes:
    return b"%d_%d" % (slice_id, created)


def deleted_member(ino: int, length: int) -> bytes:
    return b"%d:%d" % (ino, length)


def read_deleted_member(member: bytes) -> tuple[int, int]:
    """Inode and length; members of old clients may lack the length or say more."""
    parts = member.split(b":")
    return int(parts[0]), int(parts[1]) if len(parts) > 1 else 0


def owner_field(owner: Owner) -> bytes:
    """Session in decimal, owner number in 16 upper-case hexadecimal digits."""
    return b"%d_%016X" % owner


def read_owner(field: bytes) -> Owner:
    sid, _, owner = field.partition(b"_")
    return int(sid), int(owner, 16)


def encode_limits(max_space: int, max_inodes: int) -> bytes:
    """The limits of a quota: two i64, big endian."""
    return _LIMITS.pack(max_space, max_inodes)


def decode_limits(data: bytes) -> tuple[int, int]:
    if len(data) != _LIMITS.size:
        raise Corrupt(f"quota of {len(data)} bytes, expected {_LIMITS.size}")
    space, inodes = _LIMITS.unpack(data)
    return space, inodes
