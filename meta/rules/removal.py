"""What becomes of an inode that loses a name: it keeps others, goes to the trash, stays for open handles, or ends.

Not whether the name may go and not the entry itself (unlink, rmdir and rename see to both). A file that ends leaves a
`DeletedFile` record, because its chunks are too many for one transaction.
"""

from __future__ import annotations

from typing import NamedTuple

from meta.attr import Attr
from meta.rules.context import Volume
from meta.rules.directory import Time, reparent, stamp
from meta.rules.trash import bin_for, entry_name
from meta.rules.usage import charge, charge_dir, forget_dir
from meta.transaction import DeletedFile, Transaction
from meta.types import DIR_LENGTH, FILE, SYMLINK, Dirent


class Removed(NamedTuple):
    """An inode that lost a name. `attr` is as it is now, None if there was no record (a damaged entry)."""

    ino: int
    attr: Attr | None
    deleted: DeletedFile | None = None
    """Chunks to be deleted now, or by anybody's hourly job."""
    trashed: bool = False


def release(
    tx: Transaction, vol: Volume, parent: int, name: bytes, entry: Dirent, attr: Attr | None, now: Time,
    *, skip_trash: bool = False,
) -> Removed:  # fmt: skip
    """Take a name away from an inode; a directory must be empty. The entry itself is the caller's affair."""
    ino = entry.ino
    if attr is None:
        return Removed(ino, None)
    hour = bin_for(tx, vol, parent, attr, now, skip=skip_trash)
    trash_name = entry_name(parent, ino, name)
    if hour and not attr.is_dir and attr.nlink > 1 and tx.entry(hour, trash_name) is not None:
        hour = 0  # the same name of the same file went there before: one is enough to bring it back
    if attr.is_dir:
        forget_dir(tx, ino)
    length = attr.length if attr.is_file else 0
    charge_dir(tx, vol, parent, -length, -attr.space, -1)
    stamp(attr, now)
    if hour:
        reparent(tx, ino, attr, parent, hour)
        tx.put_attr(ino, attr)
        tx.put_entry(hour, trash_name, Dirent(attr.type, ino))
        charge_dir(tx, vol, hour, length, attr.space, 1)
        return Removed(ino, attr, trashed=True)
    if attr.is_dir:
        tx.delete_attr(ino)
        tx.delete_xattrs(ino)
        charge(tx, vol, attr.uid, attr.gid, -DIR_LENGTH, -1)
        return Removed(ino, attr)
    return Removed(ino, attr, _unlink(tx, vol, parent, ino, attr, now))


def _unlink(tx: Transaction, vol: Volume, parent: int, ino: int, attr: Attr, now: Time) -> DeletedFile | None:
    """One link less; with the last one goes everything that does not have to wait for somebody."""
    attr.nlink -= 1
    if attr.nlink > 0:
        if not attr.parent:
            tx.add_parent(ino, parent, -1)
        tx.put_attr(ino, attr)
        return None
    tx.delete_xattrs(ino)
    if not attr.parent:
        tx.delete_parents(ino)
    if attr.type == FILE and vol.sid and vol.is_open(ino):
        tx.put_attr(ino, attr)
        tx.put_sustained(vol.sid, ino)
        return None
    if attr.type == SYMLINK:
        tx.delete_symlink(ino)
    tx.delete_attr(ino)
    charge(tx, vol, attr.uid, attr.gid, -attr.space, -1)
    if attr.type != FILE:
        return None
    deleted = DeletedFile(ino, attr.length, now[0])
    tx.put_deleted_file(deleted)
    return deleted
