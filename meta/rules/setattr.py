"""setattr: mode, owner, times, flags and tier of an inode, with the POSIX rules of who may change what.

Not the length (`meta.rules.content.truncate`). Unlike upstream, a call that changes nothing still updates ctime, as
POSIX asks.
"""

from __future__ import annotations

import errno
import stat
from dataclasses import dataclass

from meta.attr import Attr
from meta.errors import Refused
from meta.rules.access import WRITE, require
from meta.rules.content import Changed
from meta.rules.context import Volume
from meta.rules.usage import charge_owner
from meta.transaction import Transaction
from meta.types import (
    FLAG_APPEND,
    FLAG_IMMUTABLE,
    SET_ATIME,
    SET_ATIME_NOW,
    SET_FLAG,
    SET_GID,
    SET_MODE,
    SET_MTIME,
    SET_MTIME_NOW,
    SET_TIER,
    SET_UID,
    TRASH,
    Caller,
)

_OWNERS = SET_UID | SET_GID
_TIMES = SET_ATIME | SET_MTIME | SET_ATIME_NOW | SET_MTIME_NOW
_BOTH_NOW = SET_ATIME_NOW | SET_MTIME_NOW
_SETID = stat.S_ISUID | stat.S_ISGID


@dataclass(slots=True)
class Changes:
    """What to set: `valid` is a mask of SET_* bits naming the fields that count."""

    valid: int = 0
    mode: int = 0
    uid: int = 0
    gid: int = 0
    atime: int = 0
    atimensec: int = 0
    mtime: int = 0
    mtimensec: int = 0
    flags: int = 0
    tier: int = 0


def set_attr(tx: Transaction, vol: Volume, caller: Caller, ino: int, changes: Changes) -> Changed:
    """Apply `changes`; EPERM or EACCES as POSIX tells them apart."""
    tx.prefetch(("attr", ino))
    attr = tx.attr(ino)
    if attr is None:
        raise Refused(errno.ENOENT)
    if attr.parent > TRASH:
        raise Refused(errno.EPERM)
    before = attr.mtime, attr.mtimensec
    _check_protected(attr, changes.valid)
    owner = caller.checked or caller.uid in (0, attr.uid)
    old_uid, old_gid = attr.uid, attr.gid
    mode = changes.mode & 0o7777
    if changes.valid & _OWNERS:
        mode |= attr.mode & _SETID  # what of these bits survives is decided here, whatever else the caller asks for
        kept = _surviving_bits(attr, caller)
        attr.mode &= kept
        mode &= kept
        _change_owner(caller, attr, changes, owner)
    if changes.valid & SET_MODE:
        if not owner and not _only_loses_setid(attr.mode, mode):
            raise Refused(errno.EPERM)
        if not _in_group(caller, attr.gid):
            mode &= ~stat.S_ISGID
        _change_mode(tx, vol, attr, mode)
    if changes.valid & _TIMES:
        if not owner:
            _check_touch(tx, caller, attr, changes.valid)
        _change_times(vol, attr, changes)
    if changes.valid & SET_FLAG and changes.flags != attr.flags:
        if caller.uid != 0 and not caller.checked:
            raise Refused(errno.EPERM)
        attr.flags = changes.flags
    if changes.valid & SET_TIER:
        attr.tier = changes.tier
    attr.ctime, attr.ctimensec = vol.now()
    tx.put_attr(ino, attr)
    if (old_uid, old_gid) != (attr.uid, attr.gid):
        charge_owner(tx, vol, old_uid, old_gid, -attr.space, -1)
        charge_owner(tx, vol, attr.uid, attr.gid, attr.space, 1)
    return Changed(attr, before)


def touch_atime(tx: Transaction, ino: int, now: tuple[int, int]) -> None:
    """Something was read. Neither ctime nor anything else changes, and a file that is gone does not matter."""
    tx.prefetch(("attr", ino))
    attr = tx.attr(ino)
    if attr is not None and (attr.atime, attr.atimensec) < now:
        attr.atime, attr.atimensec = now
        tx.put_attr(ino, attr)


def _check_protected(attr: Attr, valid: int) -> None:
    """Immutable and append-only inodes keep mode, owner and chosen times; immutable ones cannot even be touched."""
    explicit = (valid & SET_ATIME and not valid & SET_ATIME_NOW) or (valid & SET_MTIME and not valid & SET_MTIME_NOW)
    if attr.flags & (FLAG_IMMUTABLE | FLAG_APPEND) and (valid & (SET_MODE | _OWNERS) or explicit):
        raise Refused(errno.EPERM)
    if attr.flags & FLAG_IMMUTABLE and valid & _TIMES:
        raise Refused(errno.EPERM)


def _surviving_bits(attr: Attr, caller: Caller) -> int:
    """The mode bits that outlive a change of owner: directories keep all, root leaves set-group-id without execute."""
    if attr.is_dir or not attr.mode & _SETID:
        return 0o7777
    return 0o1777 if caller.uid != 0 or attr.mode & stat.S_IXGRP else 0o3777


def _change_owner(caller: Caller, attr: Attr, changes: Changes, owner: bool) -> None:
    if changes.valid & SET_GID:
        if not owner or (changes.gid != attr.gid and not _in_group(caller, changes.gid)):
            raise Refused(errno.EPERM)
        attr.gid = changes.gid
    if changes.valid & SET_UID:
        if not owner or (changes.uid != attr.uid and caller.uid != 0 and not caller.checked):
            raise Refused(errno.EPERM)
        attr.uid = changes.uid


def _only_loses_setid(old: int, new: int) -> bool:
    """What the kernel asks for on behalf of any writer: set-id bits go, nothing else changes."""
    return not new & ~old and 0 != old ^ new == (old ^ new) & _SETID


def _change_mode(tx: Transaction, vol: Volume, attr: Attr, mode: int) -> None:
    """Set the mode; a file with an ACL keeps both telling the same."""
    rule = tx.acl(attr.access_acl) if attr.access_acl else None
    if rule is not None:
        rule = rule.with_mode(mode)
        attr.access_acl = vol.acl_id(rule)
        mode = mode & 0o7000 | rule.mode
    attr.mode = mode


def _check_touch(tx: Transaction, caller: Caller, attr: Attr, valid: int) -> None:
    """Others than the owner may set both times to now if they may write (EACCES), and nothing else (EPERM)."""
    if valid & _BOTH_NOW != _BOTH_NOW:
        raise Refused(errno.EPERM)
    require(tx, caller, attr, WRITE)


def _change_times(vol: Volume, attr: Attr, changes: Changes) -> None:
    now = vol.now()
    if changes.valid & SET_ATIME_NOW:
        attr.atime, attr.atimensec = now
    elif changes.valid & SET_ATIME:
        attr.atime, attr.atimensec = changes.atime, changes.atimensec
    if changes.valid & SET_MTIME_NOW:
        attr.mtime, attr.mtimensec = now
    elif changes.valid & SET_MTIME:
        attr.mtime, attr.mtimensec = changes.mtime, changes.mtimensec


def _in_group(caller: Caller, gid: int) -> bool:
    return caller.checked or caller.uid == 0 or gid == caller.gid or gid in caller.groups
