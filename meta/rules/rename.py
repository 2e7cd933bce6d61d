"""rename: move a name, over another one or into its place, or exchange two.

Not what becomes of an inode that is replaced (removal). Everything else that a rename touches is here: the checks of
both directories, the way up from the target (a directory must not end up below itself), link counts, parents, quotas.
"""

from __future__ import annotations

import errno
from typing import Final, NamedTuple

from meta.attr import Attr
from meta.errors import Refused
from meta.rules.access import WRITE, refuse_flags, require, require_movable, require_unsticky
from meta.rules.context import Unprepared, Volume
from meta.rules.directory import check_name, refuse_trashed, reparent, searchable, stamp, update_parent
from meta.rules.removal import Removed, release
from meta.rules.summary import summarize
from meta.rules.trash import reads_of_bin
from meta.rules.usage import charge_stat, move_quota, quota_chain, reads_of_chain
from meta.transaction import Reader, Transaction
from meta.types import DIR_LENGTH, DIRECTORY, FLAG_IMMUTABLE, ROOT, TRASH, Caller, Dirent

NOREPLACE: Final = 1
EXCHANGE: Final = 2
_WHITEOUT: Final = 4
RESTORE: Final = 33
"""NOREPLACE, out of the trash, and also into a directory that is itself in the trash (`juicefs restore`)."""

Sizes = dict[int, tuple[int, int]]
"""What whole subtrees use, space and inodes, by their top directory."""


class Renamed(NamedTuple):
    """The inode that moved; the one that had the new name before, if any; what follows if that was replaced."""

    ino: int
    attr: Attr
    other: int | None = None
    replaced: Removed | None = None


class Place(NamedTuple):
    """A name on one side of a rename, and what is known about it."""

    parent: int
    directory: Attr
    name: bytes
    entry: Dirent
    record: Attr | None

    @property
    def attr(self) -> Attr:
        """The inode record; ENOENT for an entry without one."""
        if self.record is None:
            raise Refused(errno.ENOENT)
        return self.record


def rename(
    tx: Transaction, vol: Volume, caller: Caller, src_parent: int, src_name: bytes, dst_parent: int, dst_name: bytes,
    flags: int = 0, sizes: Sizes | None = None,
) -> Renamed:  # fmt: skip
    """Rename as renameat2(2), or restore from the trash.

    `sizes` should be the same (at first empty) dict in every run of one operation: the use of a directory that moves
    between quotas is measured outside of the transaction and remembered there.
    """
    _check_call(caller, src_parent, src_name, dst_parent, dst_name, flags)
    tx.prefetch(
        ("attr", src_parent), ("attr", dst_parent), ("target", src_parent, src_name), ("target", dst_parent, dst_name),
        *reads_of_bin(vol), *reads_of_chain(vol, src_parent),
        *([("ancestry", dst_parent)] if src_parent != dst_parent else []),
    )  # fmt: skip
    src_dir = searchable(tx, caller, src_parent)
    dst_dir = searchable(tx, caller, dst_parent) if dst_parent != src_parent else src_dir
    found = tx.target(src_parent, src_name)
    if found is None:
        raise Refused(errno.ENOENT)
    source = Place(src_parent, src_dir, src_name, *found)
    if src_parent == dst_parent and src_name == dst_name:
        return Renamed(source.entry.ino, source.attr)
    if flags != RESTORE:
        refuse_trashed(dst_dir)
    found = tx.target(dst_parent, dst_name)
    target = Place(dst_parent, dst_dir, dst_name, *found) if found is not None else None
    if flags & NOREPLACE and target is not None:
        raise Refused(errno.EEXIST)
    if target is not None and target.entry.ino == source.entry.ino:
        return Renamed(source.entry.ino, source.attr)
    if flags != EXCHANGE:
        return _move(tx, vol, caller, source, dst_parent, dst_dir, dst_name, target, sizes)
    if target is None:
        raise Refused(errno.ENOENT)
    return _exchange(tx, vol, caller, source, target, sizes)


def _check_call(caller: Caller, src_parent: int, src_name: bytes, dst_parent: int, dst_name: bytes, flags: int) -> None:
    if flags in (_WHITEOUT, _WHITEOUT | NOREPLACE):
        raise Refused(errno.EOPNOTSUPP)
    if flags not in (0, NOREPLACE, EXCHANGE, RESTORE):
        raise Refused(errno.EINVAL)
    if dst_parent >= TRASH or (src_parent >= TRASH and (caller.uid or flags == EXCHANGE)):
        raise Refused(errno.EPERM)
    check_name(src_parent, src_name, errno.EBUSY)
    check_name(dst_parent, dst_name, errno.EEXIST if flags & NOREPLACE else errno.EBUSY)


def _move(
    tx: Transaction, vol: Volume, caller: Caller, source: Place, parent: int, directory: Attr, name: bytes,
    target: Place | None, sizes: Sizes | None,
) -> Renamed:  # fmt: skip
    """Put `source` under `name` into `parent` (whose record is `directory`), over `target` if there is one."""
    attr, across = source.attr, parent != source.parent
    _require_removable(tx, caller, source)
    if target is not None:
        _require_replaceable(tx, caller, target, attr.is_dir)
    else:
        require(tx, caller, directory, WRITE)
        refuse_flags(directory, FLAG_IMMUTABLE)
    if across:
        _require_movable(tx, caller, source, parent, directory)
    use = _use(tx, vol, source, parent, sizes)
    now, replaced = vol.now(), None
    if target is not None:
        replaced = release(tx, vol, parent, name, target.entry, target.record, now)
    if use is not None:
        move_quota(tx, vol, source.parent, parent, attr.length, *use)
    stamp(attr, now)
    _resettle(tx, vol, source, parent)
    tx.delete_entry(source.parent, source.name)
    tx.put_entry(parent, name, source.entry)
    gained = attr.is_dir if across else 0
    lost = attr.is_dir if target is not None else 0  # a directory replaces directories only
    if across:
        update_parent(tx, vol, source.parent, source.directory, now, nlink=-gained)
    update_parent(tx, vol, parent, directory, now, nlink=gained - lost, force=attr.is_dir and across)
    return Renamed(source.entry.ino, attr, None if target is None else target.entry.ino, replaced)


def _exchange(
    tx: Transaction, vol: Volume, caller: Caller, source: Place, target: Place, sizes: Sizes | None
) -> Renamed:
    across = source.parent != target.parent
    _require_removable(tx, caller, source)
    _require_removable(tx, caller, target)
    if across:
        _require_movable(tx, caller, source, target.parent, target.directory)
        _require_movable(tx, caller, target, source.parent, source.directory)
    goes, comes = _use(tx, vol, source, target.parent, sizes), _use(tx, vol, target, source.parent, sizes)
    if goes is not None and comes is not None:
        space, inodes = goes[0] - comes[0], goes[1] - comes[1]
        move_quota(tx, vol, source.parent, target.parent, 0, max(space, 0), max(inodes, 0))
        move_quota(tx, vol, target.parent, source.parent, 0, max(-space, 0), max(-inodes, 0))
    now = vol.now()
    for place, other in ((source, target), (target, source)):
        stamp(place.attr, now)
        _resettle(tx, vol, place, other.parent)
        tx.put_entry(other.parent, other.name, place.entry)
    gained = source.attr.is_dir - target.attr.is_dir if across else 0
    if across:
        update_parent(tx, vol, source.parent, source.directory, now, nlink=-gained)
    update_parent(tx, vol, target.parent, target.directory, now, nlink=gained)
    return Renamed(source.entry.ino, source.attr, target.entry.ino)


def _require_removable(tx: Transaction, caller: Caller, place: Place) -> None:
    """The caller may take this name out of its directory."""
    require(tx, caller, place.directory, WRITE)
    refuse_flags(place.directory)
    require_unsticky(caller, place.directory, place.record)
    refuse_flags(place.record)


def _require_replaceable(tx: Transaction, caller: Caller, target: Place, by_directory: bool) -> None:
    """The caller may put something in the place of this name."""
    _require_removable(tx, caller, target)
    is_dir = target.entry.type == DIRECTORY
    if is_dir != by_directory:
        raise Refused(errno.EISDIR if is_dir else errno.ENOTDIR)
    if is_dir and tx.has_entries(target.entry.ino):
        raise Refused(errno.ENOTEMPTY)


def _require_movable(tx: Transaction, caller: Caller, moved: Place, parent: int, directory: Attr) -> None:
    """The inode may go to another directory: if it is a directory itself, to none below it."""
    require_movable(caller, moved.directory, moved.attr)
    if not moved.attr.is_dir:
        return
    ino, attr, seen = parent, directory, {0}
    while ino != moved.entry.ino:
        seen.add(ino)
        above = tx.attr(attr.parent) if ino != ROOT and attr.parent not in seen else None
        if above is None:
            require(tx, caller, moved.attr, WRITE)  # its ".." changes
            return
        ino, attr = attr.parent, above
    raise Refused(errno.EINVAL)


def _use(tx: Reader, vol: Volume, moved: Place, parent: int, sizes: Sizes | None) -> tuple[int, int] | None:
    """Space and inodes of all that moves, if it moves between quotas; None if no quota notices."""
    if not vol.quotas.dirs or quota_chain(tx, vol, moved.parent) == quota_chain(tx, vol, parent):
        return None
    ino, attr = moved.entry.ino, moved.attr
    if not attr.is_dir:
        return attr.space, 1
    quota = tx.quota("dir", ino) if ino in vol.quotas.dirs else None
    if quota is not None:
        return quota.used_space + DIR_LENGTH, quota.used_inodes + 1
    if sizes is None:
        return _measure(tx, vol, ino)
    if ino not in sizes:
        raise Unprepared(lambda: sizes.__setitem__(ino, _measure(vol.engine.reader, vol, ino)))
    return sizes[ino]


def _measure(reader: Reader, vol: Volume, ino: int) -> tuple[int, int]:
    total = summarize(reader, vol, ino)
    return total.size, total.files + total.dirs


def _resettle(tx: Transaction, vol: Volume, moved: Place, parent: int) -> None:
    """Store the inode as a child of `parent`, and move what it counts for in the statistics of its directory."""
    attr = moved.attr
    if parent != moved.parent:
        reparent(tx, moved.entry.ino, attr, moved.parent, parent)
        length = attr.length if attr.is_file else 0
        charge_stat(tx, vol, moved.parent, -length, -attr.space, -1)
        charge_stat(tx, vol, parent, length, attr.space, 1)
    tx.put_attr(moved.entry.ino, attr)
