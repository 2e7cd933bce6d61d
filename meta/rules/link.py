"""link: one more name for an inode.

From the first hard link on, `Attr.parent` is 0 and a map of parents takes its place.
"""

from __future__ import annotations

import errno

from meta.attr import Attr
from meta.errors import Refused
from meta.rules.access import WRITE, refuse_flags, require
from meta.rules.context import Volume
from meta.rules.create import Exists
from meta.rules.directory import check_name, refuse_trashed, searchable, stamp, update_parent
from meta.rules.usage import charge_dir, check_directories, reads_of_chain
from meta.transaction import Transaction
from meta.types import FLAG_IMMUTABLE, TRASH, Caller, Dirent


def link(tx: Transaction, vol: Volume, caller: Caller, ino: int, parent: int, name: bytes) -> Attr:
    """Give an inode another name. EPERM for directories, for what must not change, and for the trash.

    A file without a name can have one only while this session holds it open: how O_TMPFILE files are named (that other
    unlinked files are not is the kernel's care).
    """
    if parent >= TRASH:
        raise Refused(errno.EPERM)
    check_name(parent, name, errno.EEXIST)
    tx.prefetch(("attr", parent), ("target", parent, name), ("attr", ino), *reads_of_chain(vol, parent))
    directory = searchable(tx, caller, parent)
    refuse_trashed(directory)
    attr = tx.attr(ino)
    if attr is None or (not attr.nlink and not vol.is_open(ino)):
        raise Refused(errno.ENOENT)
    found = tx.target(parent, name)
    if found is not None:
        raise Exists(found[0].ino, found[1] or Attr(found[0].type))
    require(tx, caller, directory, WRITE)
    refuse_flags(directory, FLAG_IMMUTABLE)
    if attr.is_dir or attr.parent >= TRASH:
        raise Refused(errno.EPERM)
    refuse_flags(attr)
    check_directories(tx, vol, (parent,), attr.space, 1)
    now = vol.now()
    if not attr.nlink:
        tx.delete_sustained(vol.sid, ino)
        attr.parent = parent
    else:
        if attr.parent:
            tx.add_parent(ino, attr.parent, 1)
            attr.parent = 0
        tx.add_parent(ino, parent, 1)
    attr.nlink += 1
    stamp(attr, now)
    tx.put_attr(ino, attr)
    tx.put_entry(parent, name, Dirent(attr.type, ino))
    charge_dir(tx, vol, parent, attr.length if attr.is_file else 0, attr.space, 1)
    update_parent(tx, vol, parent, directory, now)
    return attr
