"""Setting and reading POSIX ACLs: a file's own (access) and what a directory hands down (default).

Not the algebra of lists and their forms (`meta.acl`). A list is stored once and shared by number; stat's mode bits
and an access list always tell the same.
"""

from __future__ import annotations

import errno
import stat
from typing import Literal

from meta.acl import Rule
from meta.attr import Attr
from meta.errors import Refused
from meta.rules.context import Volume
from meta.transaction import Reader, Transaction
from meta.types import FLAG_APPEND, FLAG_IMMUTABLE, Caller

Kind = Literal["access", "default"]


def get_acl(reader: Reader, vol: Volume, ino: int, kind: Kind) -> Rule | None:
    """The list, or None if the inode has none of that kind. ENOTSUP where the volume has no ACLs."""
    if not vol.setting.enable_acl:
        raise Refused(errno.ENOTSUP)
    attr = reader.attr(ino)
    if attr is None:
        raise Refused(errno.ENOENT)
    number = attr.access_acl if kind == "access" else attr.default_acl
    return reader.acl(number) if number else None


def set_acl(tx: Transaction, vol: Volume, caller: Caller, ino: int, kind: Kind, rule: Rule) -> Attr:
    """Set, or with the empty rule remove, a list. Only the owner and root may; a default list needs a directory."""
    if not vol.setting.enable_acl:
        raise Refused(errno.ENOTSUP)
    tx.prefetch(("attr", ino))
    attr = tx.attr(ino)
    if attr is None:
        raise Refused(errno.ENOENT)
    if caller.uid not in (0, attr.uid) or attr.flags & (FLAG_IMMUTABLE | FLAG_APPEND):
        raise Refused(errno.EPERM)
    if kind == "default" and not attr.is_dir:
        if rule.is_empty:
            return attr
        raise Refused(errno.EACCES)
    before = attr.copy()
    if kind == "access":
        _set_access(vol, caller, attr, rule)
    else:
        attr.default_acl = 0 if rule.is_empty else vol.acl_id(rule.filled(attr.mode))
    if attr != before:
        attr.ctime, attr.ctimensec = vol.now()
        tx.put_attr(ino, attr)
    return attr


def _set_access(vol: Volume, caller: Caller, attr: Attr, rule: Rule) -> None:
    if caller.uid != 0 and attr.gid != caller.gid and attr.gid not in caller.groups:
        attr.mode &= ~stat.S_ISGID
    if rule.is_empty:
        attr.access_acl = 0
        return
    rule = rule.filled(attr.mode)
    attr.access_acl = 0 if rule.is_minimal else vol.acl_id(rule)
    attr.mode = attr.mode & 0o7000 | rule.mode
