"""What every change of a directory has in common: valid names, the directory itself, its times and its link count.

Not the entries: those are put and deleted by the rule that changes them.
"""

from __future__ import annotations

import errno
from typing import Final

from meta.attr import Attr
from meta.errors import Refused
from meta.rules.access import EXECUTE, require
from meta.rules.context import Volume
from meta.transaction import Reader, Transaction
from meta.types import MAX_NAME, ROOT, TRASH, TRASH_NAME, Caller

Time = tuple[int, int]
"""Seconds and nanoseconds."""

_DOTS: Final = (b".", b"..")


def check_name(parent: int, name: bytes, dots: int) -> None:
    """Refuse what cannot be a new or changed entry; "." and ".." with the errno `dots`."""
    if name in _DOTS:
        raise Refused(dots)
    if not name or b"/" in name or b"\0" in name:
        raise Refused(errno.EINVAL)
    if len(name) > MAX_NAME:
        raise Refused(errno.ENAMETOOLONG)
    if parent == ROOT and name == TRASH_NAME:
        raise Refused(errno.EPERM)


def searchable(reader: Reader, caller: Caller, ino: int) -> Attr:
    """The attributes of a directory whose entries the caller may look up; ENOENT, ENOTDIR or EACCES."""
    attr = reader.attr(ino)
    if attr is None:
        raise Refused(errno.ENOENT)
    if not attr.is_dir:
        raise Refused(errno.ENOTDIR)
    require(reader, caller, attr, EXECUTE)
    return attr


def refuse_trashed(parent: Attr) -> None:
    """ENOENT for a directory that was moved to the trash: nothing new goes in there."""
    if parent.parent > TRASH:
        raise Refused(errno.ENOENT)


def update_parent(
    tx: Transaction, vol: Volume, ino: int, attr: Attr, now: Time, *, nlink: int = 0, force: bool = False
) -> None:
    """Store a directory whose entries changed: link count, and times unless they are fresh (`skip_dir_mtime_s`).

    `force` sets the times anyway. Directories of the trash never change.
    """
    if ino >= TRASH:
        return
    age = now[0] - attr.mtime + (now[1] - attr.mtimensec) / 1e9
    if force or nlink or not 0 <= age < vol.config.skip_dir_mtime_s:
        attr.mtime, attr.mtimensec = now
        stamp(attr, now)
        attr.nlink = max(attr.nlink + nlink, 1)  # not 2: an engine may add the difference to what there is by then
        tx.put_attr(ino, attr)


def stamp(attr: Attr, now: Time) -> None:
    """Set the time of the last change of the inode."""
    attr.ctime, attr.ctimensec = now


def reparent(tx: Transaction, ino: int, attr: Attr, source: int, target: int) -> None:
    """Note that a name of the inode moved between directories. The caller stores `attr`."""
    if source == target:
        return
    if attr.parent or attr.is_dir:
        attr.parent = target
    else:
        tx.add_parent(ino, target, 1)
        tx.add_parent(ino, source, -1)
