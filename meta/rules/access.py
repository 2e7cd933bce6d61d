"""Who may do what to an inode: permission bits, access control lists, sticky directories, immutable and append-only.

Not quotas, and not the rules of single operations. A caller that the kernel has checked already (`caller.checked`)
passes the permission bits here; sticky directories and flags are looked at for everybody, because the kernel sees
neither our flags nor what other clients changed a moment ago.
"""

from __future__ import annotations

import errno
from typing import Final

from meta.attr import Attr
from meta.errors import Refused
from meta.transaction import Reader
from meta.types import FLAG_APPEND, FLAG_IMMUTABLE, Caller

READ: Final = 4
WRITE: Final = 2
EXECUTE: Final = 1
_STICKY: Final = 0o1000


def allowed(reader: Reader, caller: Caller, attr: Attr, wanted: int) -> bool:
    """Whether the caller's identity may do all of `wanted` (READ, WRITE, EXECUTE bits). Root may do everything."""
    if caller.uid == 0 or not wanted:
        return True
    if attr.access_acl and attr.mode & 0o070:
        rule = reader.acl(attr.access_acl)
        if rule is not None:
            return rule.allows(caller.uid, caller.groups, attr.uid, attr.gid, wanted)
    if caller.uid == attr.uid:
        bits = attr.mode >> 6
    elif attr.gid == caller.gid or attr.gid in caller.groups:
        bits = attr.mode >> 3
    else:
        bits = attr.mode
    return bits & wanted == wanted


def require(reader: Reader, caller: Caller, attr: Attr, wanted: int) -> None:
    """EACCES unless the kernel has checked the caller, or the caller may do all of `wanted`."""
    if not caller.checked and not allowed(reader, caller, attr, wanted):
        raise Refused(errno.EACCES)


def require_unsticky(caller: Caller, directory: Attr, victim: Attr | None) -> None:
    """EACCES if the directory is sticky and neither it nor the victim of a removal belongs to the caller."""
    if not directory.mode & _STICKY or caller.uid in (0, directory.uid):
        return
    if victim is None or caller.uid != victim.uid:
        raise Refused(errno.EACCES)


def require_movable(caller: Caller, directory: Attr, moved: Attr) -> None:
    """EACCES if a sticky directory keeps the caller from moving something of hers to another directory.

    Its owner may move away anybody's file, but not anybody's directory.
    """
    if not directory.mode & _STICKY or caller.uid in (0, moved.uid):
        return
    if caller.uid != directory.uid or moved.is_dir:
        raise Refused(errno.EACCES)


def refuse_flags(attr: Attr | None, flags: int = FLAG_IMMUTABLE | FLAG_APPEND) -> None:
    """EPERM if the inode has one of `flags`."""
    if attr is not None and attr.flags & flags:
        raise Refused(errno.EPERM)
