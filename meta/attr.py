"""The inode record: `Attr` and its 72 to 81 bytes as stored in Redis, TKV and binary dumps.

Layout, big endian: flags u8, type and mode u16 (type in the top 4 bits), uid u32, gid u32, then atime, mtime and ctime,
each as seconds i64 and nanoseconds u32, nlink u32, length u64, rdev u32, parent u64, then
access and default ACL ids u32 (only if one is set), tier u8 (only if set), and one zero byte of padding that
the official encoder has always left at the end.
"""

from __future__ import annotations

import struct

from meta.errors import Corrupt
from meta.types import DIR_LENGTH, DIRECTORY, FILE, align4k

_HEAD = struct.Struct(">BHII qI qI qI IQI".replace(" ", ""))  # 63 bytes, through rdev
_PLAIN = struct.Struct(">BHIIqIqIqIIQIQx")  # 72 bytes: head, parent, pad
_ACL = struct.Struct(">BHIIqIqIqIIQIQIIx")  # 80 bytes
_READ = struct.Struct(">BHIIqIqIqIIQIQB")  # the same 72 bytes, pad and all
_PARENT = struct.Struct(">Q")
_IDS = struct.Struct(">II")


class Attr:
    """Attributes of one inode. Mutable: a rule changes its own copy and puts it back."""

    __slots__ = (
        "access_acl", "atime", "atimensec", "ctime", "ctimensec", "default_acl", "flags", "gid", "length", "mode",
        "mtime", "mtimensec", "nlink", "parent", "rdev", "tier", "type", "uid",
    )  # fmt: skip

    def __init__(
        self, type: int = FILE, mode: int = 0, uid: int = 0, gid: int = 0, *, flags: int = 0,
        atime: int = 0, atimensec: int = 0, mtime: int = 0, mtimensec: int = 0, ctime: int = 0, ctimensec: int = 0,
        nlink: int = 1, length: int = 0, rdev: int = 0, parent: int = 0,
        access_acl: int = 0, default_acl: int = 0, tier: int = 0,
    ) -> None:  # fmt: skip
        self.type = type
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.flags = flags
        self.atime = atime
        self.atimensec = atimensec
        self.mtime = mtime
        self.mtimensec = mtimensec
        self.ctime = ctime
        self.ctimensec = ctimensec
        self.nlink = nlink
        self.length = length
        self.rdev = rdev
        self.parent = parent
        self.access_acl = access_acl
        self.default_acl = default_acl
        self.tier = tier

    def copy(self) -> Attr:
        """An independent copy."""
        other = Attr.__new__(Attr)
        for name in Attr.__slots__:
            setattr(other, name, getattr(self, name))
        return other

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Attr):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in Attr.__slots__)

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return (
            f"Attr(type={self.type}, mode=0{self.mode:o}, uid={self.uid}, gid={self.gid}, nlink={self.nlink}, "
            f"length={self.length}, parent={self.parent})"
        )

    @property
    def is_dir(self) -> bool:
        return self.type == DIRECTORY

    @property
    def is_file(self) -> bool:
        return self.type == FILE

    @property
    def space(self) -> int:
        """Bytes that this inode is accounted with in usage, quotas and directory statistics."""
        return align4k(self.length) if self.type == FILE else DIR_LENGTH

    def encode(self) -> bytes:
        """The stored record."""
        head = (
            self.flags, self.type << 12 | self.mode & 0xFFF, self.uid, self.gid,
            self.atime, self.atimensec, self.mtime, self.mtimensec, self.ctime, self.ctimensec,
            self.nlink, self.length, self.rdev, self.parent,
        )  # fmt: skip
        if self.access_acl or self.default_acl:
            data = _ACL.pack(*head, self.access_acl, self.default_acl)
        else:
            data = _PLAIN.pack(*head)
        return data[:-1] + bytes((self.tier, 0)) if self.tier else data

    @classmethod
    def decode(cls, data: bytes) -> Attr:
        """Read a record of any generation (64 bytes in the oldest ones, which have no parent)."""
        if len(data) < _HEAD.size:
            raise Corrupt(f"inode record of {len(data)} bytes, expected at least {_HEAD.size}")
        attr = cls.__new__(cls)
        attr.parent = attr.access_acl = attr.default_acl = attr.tier = 0
        if len(data) == _READ.size:  # nearly all: one call for them
            (
                attr.flags, mode, attr.uid, attr.gid, attr.atime, attr.atimensec, attr.mtime, attr.mtimensec,
                attr.ctime, attr.ctimensec, attr.nlink, attr.length, attr.rdev, attr.parent, attr.tier,
            ) = _READ.unpack(data)  # fmt: skip
            attr.type, attr.mode = mode >> 12, mode & 0xFFF
            return attr
        (
            attr.flags, mode, attr.uid, attr.gid, attr.atime, attr.atimensec, attr.mtime, attr.mtimensec,
            attr.ctime, attr.ctimensec, attr.nlink, attr.length, attr.rdev,
        ) = _HEAD.unpack_from(data)  # fmt: skip
        attr.type, attr.mode = mode >> 12, mode & 0xFFF
        at, left = _HEAD.size, len(data) - _HEAD.size
        if left >= 8:
            (attr.parent,) = _PARENT.unpack_from(data, at)
            at, left = at + 8, left - 8
        if left >= 8:
            attr.access_acl, attr.default_acl = _IDS.unpack_from(data, at)
            at, left = at + 8, left - 8
        if left >= 1:
            attr.tier = data[at]
        return attr
