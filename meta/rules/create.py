"""New names for new inodes: files, directories, symlinks, devices, pipes and sockets.

Not a second name for an old inode (link), and not opening what is created. What a new inode inherits from its directory
(group, flags, tier, default ACL) is decided here.
"""

from __future__ import annotations

import errno
from typing import Final, NamedTuple

from meta.attr import Attr
from meta.errors import Refused
from meta.rules.access import WRITE, refuse_flags, require
from meta.rules.context import Volume
from meta.rules.directory import Time, check_name, refuse_trashed, searchable, update_parent
from meta.rules.usage import charge, charge_dir, check_growth, reads_of_chain
from meta.transaction import DirStat, Transaction
from meta.types import (
    BLOCKDEV,
    CHARDEV,
    DIR_LENGTH,
    DIRECTORY,
    FILE,
    FLAG_IMMUTABLE,
    FLAG_SKIP_TRASH,
    MAX_SYMLINK,
    SOCKET,
    SYMLINK,
    TRASH,
    Caller,
    Dirent,
)

_SETGID: Final = 0o2000
_SETGID_EXECUTE: Final = 0o2010


class Exists(Refused):
    """EEXIST, with what was found under the name: its inode number and attributes."""

    def __init__(self, ino: int, attr: Attr) -> None:
        super().__init__(errno.EEXIST)
        self.existing = (ino, attr)


class Created(NamedTuple):
    ino: int
    attr: Attr


def mknod(
    tx: Transaction, vol: Volume, caller: Caller, parent: int, name: bytes, type: int, mode: int, umask: int,
    rdev: int = 0, target: bytes = b"",
) -> Created:  # fmt: skip
    """Create an inode of any type under a new name.

    EEXIST is raised as `Exists`, which carries what was found. `target` is what a symlink says.
    """
    _check_new(parent, name, type, target)
    tx.prefetch(("attr", parent), ("target", parent, name), *reads_of_chain(vol, parent))
    directory = searchable(tx, caller, parent)
    refuse_trashed(directory)
    found = tx.target(parent, name)
    if found is not None:
        raise Exists(found[0].ino, found[1] or Attr(found[0].type))
    require(tx, caller, directory, WRITE)
    refuse_flags(directory, FLAG_IMMUTABLE)
    now = vol.now()
    attr = _inherit(tx, vol, caller, parent, directory, new_attr(caller, type, mode, now), umask)
    if type in (BLOCKDEV, CHARDEV):
        attr.rdev = rdev
    elif type == SYMLINK:
        attr.length = len(target)
    check_growth(tx, vol, attr.uid, attr.gid, (parent,), attr.space, 1)
    ino = vol.inodes.next()
    add_entry(tx, vol, parent, name, ino, attr)
    if type == SYMLINK:
        tx.put_symlink(ino, target)
    update_parent(tx, vol, parent, directory, now, nlink=attr.is_dir)
    return Created(ino, attr)


def add_entry(
    tx: Transaction, vol: Volume, parent: int, name: bytes, ino: int, attr: Attr, *, new: bool = True
) -> None:
    """Put an entry and the `new` inode that it leads to, and account for both.

    The parent's own record is the caller's affair.
    """
    attr.parent = parent
    tx.put_entry(parent, name, Dirent(attr.type, ino))
    if new:
        add_inode(tx, vol, ino, attr)
    charge_dir(tx, vol, parent, attr.length if attr.is_file else 0, attr.space, 1)


def add_inode(tx: Transaction, vol: Volume, ino: int, attr: Attr) -> None:
    """Put a new inode, and account for it where names do not matter."""
    tx.put_attr(ino, attr)
    if attr.is_dir and vol.setting.dir_stats:
        tx.put_dir_stat(ino, DirStat(0, 0, 0))
    charge(tx, vol, attr.uid, attr.gid, attr.space, 1)


def _check_new(parent: int, name: bytes, type: int, target: bytes) -> None:
    if not FILE <= type <= SOCKET:
        raise Refused(errno.EINVAL)
    if parent >= TRASH:
        raise Refused(errno.EPERM)
    check_name(parent, name, errno.EEXIST)
    if type == SYMLINK and (not target or b"\0" in target):
        raise Refused(errno.EINVAL)
    if len(target) > MAX_SYMLINK:
        raise Refused(errno.ENAMETOOLONG)


def new_attr(caller: Caller, type: int, mode: int, now: Time) -> Attr:
    """A new inode of the caller's that has inherited nothing yet."""
    is_dir = type == DIRECTORY
    return Attr(
        type, 0o777 if type == SYMLINK else mode & 0o7777, caller.uid, caller.gid,
        atime=now[0], mtime=now[0], ctime=now[0], atimensec=now[1], mtimensec=now[1], ctimensec=now[1],
        nlink=2 if is_dir else 1, length=DIR_LENGTH if is_dir else 0,
    )  # fmt: skip


def _inherit(
    tx: Transaction, vol: Volume, caller: Caller, parent: int, directory: Attr, attr: Attr, umask: int
) -> Attr:
    """Give a new inode what its directory hands down; the umask counts only where there is no default ACL."""
    attr.parent = parent
    attr.flags = directory.flags & FLAG_SKIP_TRASH
    attr.tier = directory.tier
    if attr.type != SYMLINK:
        default = tx.acl(directory.default_acl) if directory.default_acl else None
        if default is None:
            attr.mode &= ~umask
        else:
            access, attr.mode = default.inherit(attr.mode)
            attr.access_acl = vol.acl_id(access) if access is not None else 0
            attr.default_acl = directory.default_acl if attr.is_dir else 0
    if directory.mode & _SETGID:
        attr.gid = directory.gid
        if attr.is_dir:
            attr.mode |= _SETGID
        elif attr.mode & _SETGID_EXECUTE == _SETGID_EXECUTE and not _may_set_gid(caller, directory.gid):
            attr.mode &= ~_SETGID
    return attr


def _may_set_gid(caller: Caller, gid: int) -> bool:
    return caller.checked or caller.uid == 0 or gid == caller.gid or gid in caller.groups
