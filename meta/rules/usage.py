"""Accounting: what an operation adds to or takes from the volume, directories, quotas - and whether it still may.

Not the totals themselves: those are records. Limits are soft where an engine answers totals from memory, as in
upstream; shrinking is never refused. Order of checks: user and group quota (EDQUOT), capacity and inodes (ENOSPC),
directory quotas (EDQUOT).
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Iterable

from meta.attr import Attr
from meta.errors import Refused
from meta.rules.context import Volume
from meta.rules.quotas import exceeds
from meta.transaction import DirStat, Read, Reader, Transaction
from meta.types import ROOT, TRASH, align4k


def check_growth(
    tx: Reader, vol: Volume, caller_uid: int, gid: int, parents: Iterable[int], space: int, inodes: int
) -> None:
    """Refuse (EDQUOT, ENOSPC) a growth that a quota or the volume has no room for.

    `parents` are the directories that would hold the growth: one, or each directory of a hard-linked file.
    """
    if space <= 0 and inodes <= 0:
        return
    quotas, setting = vol.quotas, vol.setting
    if caller_uid in quotas.users:
        quota = tx.quota("user", caller_uid)
        if quota is not None and exceeds(quota, space, inodes):
            raise Refused(errno.EDQUOT)
    if gid in quotas.groups:
        quota = tx.quota("group", gid)
        if quota is not None and exceeds(quota, space, inodes):
            raise Refused(errno.EDQUOT)
    if setting.capacity > 0 and space > 0 and tx.counter("usedSpace") + space > setting.capacity:
        raise Refused(errno.ENOSPC)
    if setting.inodes > 0 and inodes > 0 and tx.counter("totalInodes") + inodes > setting.inodes:
        raise Refused(errno.ENOSPC)
    check_directories(tx, vol, parents, space, inodes)


def check_directories(tx: Reader, vol: Volume, parents: Iterable[int], space: int, inodes: int) -> None:
    """Refuse (EDQUOT) a growth that only directory quotas count, such as another link."""
    if vol.quotas.dirs:  # several names of a file may lie below one quota, which then grows by each
        _check_chain(tx, [ino for parent in parents for ino in quota_chain(tx, vol, parent)], space, inodes)


def charge(tx: Transaction, vol: Volume, uid: int, gid: int, space: int, inodes: int) -> None:
    """Add to the usage of the volume and of the owners."""
    if not space and not inodes:
        return
    tx.add_usage(space, inodes)
    charge_owner(tx, vol, uid, gid, space, inodes)


def charge_owner(tx: Transaction, vol: Volume, uid: int, gid: int, space: int, inodes: int) -> None:
    """Add to the usage of a user and a group only (what changes hands when an owner changes)."""
    if vol.setting.user_group_quota:
        tx.add_quota("user", uid, space, inodes)
        tx.add_quota("group", gid, space, inodes)


def charge_dir(tx: Transaction, vol: Volume, parent: int, length: int, space: int, inodes: int) -> None:
    """Add to the statistics of the directory `parent` and to every directory quota from there upwards."""
    charge_stat(tx, vol, parent, length, space, inodes)
    if vol.quotas.dirs and (space or inodes):
        for ino in quota_chain(tx, vol, parent):
            tx.add_quota("dir", ino, space, inodes)


def charge_stat(tx: Transaction, vol: Volume, parent: int, length: int, space: int, inodes: int) -> None:
    """Add to the statistics of the directory `parent` alone: totals of its direct children."""
    if vol.setting.dir_stats and (length or space or inodes):
        tx.add_dir_stat(parent, DirStat(length, space, inodes))


def holders(tx: Reader, ino: int, attr: Attr) -> list[int]:
    """The directories that hold an inode, one item per name. Empty for an inode without links."""
    if attr.parent:
        return [attr.parent] if attr.nlink else []
    return [parent for parent, count in tx.parents(ino).items() for _ in range(count)]


def resize(tx: Transaction, vol: Volume, ino: int, attr: Attr, length: int) -> None:
    """Account a file's change to `length` everywhere (checking it first if it grows) and set it in `attr`.

    The owner pays, whoever the writer is.
    """
    if length == attr.length:
        return
    grown, space = length - attr.length, align4k(length) - align4k(attr.length)
    parents = holders(tx, ino, attr)
    check_growth(tx, vol, attr.uid, attr.gid, parents, space, 0)
    charge(tx, vol, attr.uid, attr.gid, space, 0)
    for parent in parents:
        charge_dir(tx, vol, parent, grown, space, 0)
    attr.length = length


def forget_dir(tx: Transaction, ino: int) -> None:
    """A directory was removed (or trashed): its statistics and its quota go with it."""
    tx.delete_dir_stat(ino)
    tx.delete_quota("dir", ino)  # even if it is not known here: it may have been set since the last heartbeat


def move_quota(
    tx: Transaction, vol: Volume, src_parent: int, dst_parent: int, length: int, space: int, inodes: int
) -> None:
    """Move a renamed subtree's whole use between the directory quotas above it; EDQUOT if there is no room.

    Statistics of the two parents are another matter (`charge_stat`): they count direct children only.
    """
    if not vol.quotas.dirs or src_parent == dst_parent:
        return
    source = quota_chain(tx, vol, src_parent)
    target = quota_chain(tx, vol, dst_parent)
    gaining = [ino for ino in target if ino not in source]
    _check_chain(tx, gaining, space, inodes)
    for ino in gaining:
        tx.add_quota("dir", ino, space, inodes)
    for ino in source:
        if ino not in target:
            tx.add_quota("dir", ino, -space, -inodes)


def quota_chain(tx: Reader, vol: Volume, parent: int) -> list[int]:
    """The directories with a quota from `parent` up to the volume's root, nearest first; none above trash."""
    dirs = vol.quotas.dirs
    found: list[int] = []
    seen: set[int] = set()  # a damaged volume may hold a circle
    ino = parent
    while 0 < ino < TRASH and ino not in seen:
        if ino in dirs:
            found.append(ino)
        if ino == ROOT:
            return found
        seen.add(ino)
        attr = tx.attr(ino)
        ino = attr.parent if attr is not None else 0
    return []


def reads_of_chain(vol: Volume, *parents: int) -> tuple[Read, ...]:
    """What `quota_chain` will read, for a rule's `prefetch`."""
    return tuple([("ancestry", parent) for parent in parents]) if vol.quotas.dirs else ()


def _check_chain(tx: Reader, chain: Iterable[int], space: int, inodes: int) -> None:
    for ino, times in Counter(chain).items():
        quota = tx.quota("dir", ino)
        if quota is not None and exceeds(quota, space * times, inodes * times):
            raise Refused(errno.EDQUOT)
