"""unlink and rmdir: may this name go, and what that means for its directory.

Not what becomes of the inode (removal), and not whole trees (tree).
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

from meta.attr import Attr
from meta.errors import Refused
from meta.rules.access import WRITE, refuse_flags, require, require_unsticky
from meta.rules.context import Volume
from meta.rules.directory import Time, check_name, searchable, update_parent
from meta.rules.removal import Removed, release
from meta.rules.trash import reads_of_bin
from meta.rules.usage import reads_of_chain
from meta.transaction import Transaction
from meta.types import DIRECTORY, TRASH, Caller, Dirent

_DOT, _DOTDOT = b".", b".."


def unlink(
    tx: Transaction, vol: Volume, caller: Caller, parent: int, name: bytes, *, skip_trash: bool = False
) -> Removed:
    """Remove a name of anything but a directory (EPERM)."""
    check_name(parent, name, errno.EPERM)
    tx.prefetch(("attr", parent), ("target", parent, name), *reads_of_bin(vol), *reads_of_chain(vol, parent))
    directory = _removable_from(tx, caller, parent)
    found = tx.target(parent, name)
    if found is None:
        raise Refused(errno.ENOENT)
    require(tx, caller, directory, WRITE)
    now = vol.now()
    removed = _unlink(tx, vol, caller, parent, directory, name, found, now, skip_trash)
    update_parent(tx, vol, parent, directory, now)
    return removed


def unlink_many(
    tx: Transaction, vol: Volume, caller: Caller, parent: int, names: Iterable[bytes],
    *, skip_trash: bool = False, force: bool = False,
) -> list[Removed]:  # fmt: skip
    """Remove several names of one directory. Names that are gone, or have become directories, are passed over.

    `force`: whatever flags they have.
    """
    wanted = list(names)
    tx.prefetch(
        ("attr", parent),
        *[("target", parent, name) for name in wanted],
        *reads_of_bin(vol),
        *reads_of_chain(vol, parent),
    )
    directory = _removable_from(tx, caller, parent)
    require(tx, caller, directory, WRITE)
    now, removed = vol.now(), []
    for name in wanted:
        found = tx.target(parent, name)
        if found is not None and found[0].type != DIRECTORY:
            removed.append(_unlink(tx, vol, caller, parent, directory, name, found, now, skip_trash, force))
    if removed:
        update_parent(tx, vol, parent, directory, now)
    return removed


def rmdir(
    tx: Transaction, vol: Volume, caller: Caller, parent: int, name: bytes,
    *, skip_trash: bool = False, force: bool = False,
) -> Removed:  # fmt: skip
    """Remove an empty directory. `force`: whatever flags it has."""
    if name == _DOTDOT:
        raise Refused(errno.ENOTEMPTY)
    check_name(parent, name, errno.EINVAL)
    tx.prefetch(("attr", parent), ("target", parent, name), *reads_of_bin(vol), *reads_of_chain(vol, parent))
    directory = _removable_from(tx, caller, parent)
    found = tx.target(parent, name)
    if found is None:
        raise Refused(errno.ENOENT)
    entry, attr = found
    require(tx, caller, directory, WRITE)
    require_unsticky(caller, directory, attr)
    if not force:
        refuse_flags(directory)
        refuse_flags(attr)
    if entry.type != DIRECTORY:
        raise Refused(errno.ENOTDIR)
    if tx.has_entries(entry.ino):
        raise Refused(errno.ENOTEMPTY)
    now = vol.now()
    removed = release(tx, vol, parent, name, entry, attr, now, skip_trash=skip_trash)
    tx.delete_entry(parent, name)
    update_parent(tx, vol, parent, directory, now, nlink=-1)
    return removed


def _unlink(
    tx: Transaction, vol: Volume, caller: Caller, parent: int, directory: Attr, name: bytes,
    found: tuple[Dirent, Attr | None], now: Time, skip_trash: bool, force: bool = False,
) -> Removed:  # fmt: skip
    entry, attr = found
    require_unsticky(caller, directory, attr)
    if entry.type == DIRECTORY:
        raise Refused(errno.EPERM)
    if not force:
        refuse_flags(directory)
        refuse_flags(attr)
    removed = release(tx, vol, parent, name, entry, attr, now, skip_trash=skip_trash)
    tx.delete_entry(parent, name)
    return removed


def _removable_from(tx: Transaction, caller: Caller, parent: int) -> Attr:
    """The directory to remove from; nobody but root takes things out of the trash."""
    if parent >= TRASH and caller.uid:
        raise Refused(errno.EPERM)
    return searchable(tx, caller, parent)
