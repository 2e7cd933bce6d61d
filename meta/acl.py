"""POSIX access control lists: the rule record, the kernel's xattr form, and what a rule allows and hands down.

Not where rules are kept or shared (engines intern them), and not which callers may change them (the rules of setfacl).
A stored rule, big endian: owner, group, mask, other u16 each, then a u32 count and (u32 id, u16 perm) pairs for
named users, then the same for named groups.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Container, Iterable
from typing import Final, NamedTuple

from meta.errors import Corrupt, Refused

UNSET: Final = 0xFFFF
_HEAD = struct.Struct(">HHHHI")
_COUNT = struct.Struct(">I")
_PAIR = struct.Struct(">IH")

Pairs = tuple[tuple[int, int], ...]

XATTR_NAMES: Final = {b"system.posix_acl_access": "access", b"system.posix_acl_default": "default"}
_XATTR_VERSION: Final = 2
_XATTR_HEAD = struct.Struct("<I")
_XATTR_ENTRY = struct.Struct("<HHI")
_NO_ID: Final = 0xFFFFFFFF
_OWNER, _USER, _GROUP, _NAMED_GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20


class Rule(NamedTuple):
    """An access control list; permission bits are rwx (4, 2, 1), `UNSET` where the entry is absent."""

    owner: int = UNSET
    group: int = UNSET
    mask: int = UNSET
    other: int = UNSET
    users: Pairs = ()
    groups: Pairs = ()

    @property
    def is_empty(self) -> bool:
        """No entry at all: setting it removes the list."""
        return self == EMPTY

    @property
    def is_minimal(self) -> bool:
        """Says no more than mode bits can: no mask and nobody named."""
        return self.mask == UNSET and not self.users and not self.groups

    @property
    def mode(self) -> int:
        """The nine permission bits that stat shows: the mask stands in the group's place if there is one."""
        group = self.group if self.is_minimal else self.mask
        return (self.owner & 7) << 6 | (group & 7) << 3 | self.other & 7

    def with_mode(self, mode: int) -> Rule:
        """What chmod makes of the list: owner, other, and the mask (the group, if the list is minimal)."""
        owner, group, other = mode >> 6 & 7, mode >> 3 & 7, mode & 7
        if self.is_minimal:
            return self._replace(owner=owner, group=group, other=other)
        return self._replace(owner=owner, mask=group, other=other)

    def filled(self, mode: int) -> Rule:
        """The list with absent owner, group and other entries taken from mode bits."""
        return self._replace(
            owner=mode >> 6 & 7 if self.owner == UNSET else self.owner,
            group=mode >> 3 & 7 if self.group == UNSET else self.group,
            other=mode & 7 if self.other == UNSET else self.other,
        )

    def allows(self, uid: int, gids: Container[int], owner_uid: int, owner_gid: int, wanted: int) -> bool:
        """Whether a caller may do all of `wanted` (rwx bits) on a file of that owner. Root is not special here."""
        if uid == owner_uid:
            return self.owner & wanted == wanted
        for named, perm in self.users:
            if named == uid:
                return perm & self.mask & wanted == wanted
        matched = False
        for gid, perm in ((owner_gid, self.group), *self.groups):
            if gid in gids:
                if perm & self.mask & wanted == wanted:
                    return True
                matched = True
        return not matched and self.other & wanted == wanted

    def inherit(self, mode: int) -> tuple[Rule | None, int]:
        """What this default list gives a new file of `mode` (umask not applied): its access list if any, its mode."""
        if self.is_minimal:
            return None, mode & (~0o777 | self.mode)
        child = self._replace(
            owner=mode >> 6 & self.owner & 7, mask=mode >> 3 & self.mask & 7, other=mode & self.other & 7
        )
        return child, mode & ~0o777 | child.mode

    def encode(self) -> bytes:
        """The stored record."""
        head = _HEAD.pack(self.owner, self.group, self.mask, self.other, len(self.users))
        return head + encode_pairs(self.users) + _COUNT.pack(len(self.groups)) + encode_pairs(self.groups)

    @classmethod
    def decode(cls, data: bytes) -> Rule:
        """Read a stored record; `Corrupt` if it is short or long."""
        try:
            owner, group, mask, other, n_users = _HEAD.unpack_from(data)
            middle = _HEAD.size + n_users * _PAIR.size
            (n_groups,) = _COUNT.unpack_from(data, middle)
        except struct.error as e:
            raise Corrupt(f"ACL record of {len(data)} bytes is too short") from e
        if len(data) != middle + _COUNT.size + n_groups * _PAIR.size:
            raise Corrupt(f"ACL record of {len(data)} bytes does not hold {n_users} users and {n_groups} groups")
        users = decode_pairs(data[_HEAD.size : middle])
        return cls(owner, group, mask, other, users, decode_pairs(data[middle + _COUNT.size :]))

    def to_xattr(self) -> bytes:
        """The value of system.posix_acl_access or _default, as the kernel and the acl tools read it."""
        entries = [(_OWNER, self.owner, _NO_ID)]
        entries += [(_USER, perm, uid) for uid, perm in self.users]
        entries.append((_GROUP, self.group, _NO_ID))
        entries += [(_NAMED_GROUP, perm, gid) for gid, perm in self.groups]
        entries += [(_MASK, self.mask, _NO_ID), (_OTHER, self.other, _NO_ID)]
        packed = [_XATTR_ENTRY.pack(*entry) for entry in entries if entry[1] != UNSET]
        return _XATTR_HEAD.pack(_XATTR_VERSION) + b"".join(packed)

    @classmethod
    def from_xattr(cls, blob: bytes) -> Rule:
        """Read the kernel's form; EINVAL if malformed. No bytes at all, or only a header, are the empty list."""
        if not blob:
            return EMPTY
        if len(blob) % _XATTR_ENTRY.size != _XATTR_HEAD.size or _XATTR_HEAD.unpack_from(blob) != (_XATTR_VERSION,):
            raise Refused(errno.EINVAL, "malformed ACL attribute")
        single: dict[int, int] = {}
        users: list[tuple[int, int]] = []
        groups: list[tuple[int, int]] = []
        for tag, perm, number in _XATTR_ENTRY.iter_unpack(blob[_XATTR_HEAD.size :]):
            if tag == _USER:
                users.append((number, perm))
            elif tag == _NAMED_GROUP:
                groups.append((number, perm))
            elif tag in (_OWNER, _GROUP, _MASK, _OTHER) and tag not in single:
                single[tag] = perm
            else:
                raise Refused(errno.EINVAL, f"unknown or repeated ACL entry, tag {tag:#x}")
        if (users or groups) and _MASK not in single:
            raise Refused(errno.EINVAL, "ACL with named entries but without a mask")
        owner, group, mask, other = (single.get(tag, UNSET) for tag in (_OWNER, _GROUP, _MASK, _OTHER))
        return cls(owner, group, mask, other, tuple(users), tuple(groups))


EMPTY: Final = Rule()


def encode_pairs(pairs: Iterable[tuple[int, int]]) -> bytes:
    """(id, perm) pairs without a count, as SQL columns keep them."""
    return b"".join([_PAIR.pack(*pair) for pair in pairs])


def decode_pairs(data: bytes) -> Pairs:
    """Pairs without a count; `Corrupt` if the length does not fit."""
    if len(data) % _PAIR.size:
        raise Corrupt(f"ACL pairs: {len(data)} bytes are not a multiple of {_PAIR.size}")
    return tuple(_PAIR.iter_unpack(data))
