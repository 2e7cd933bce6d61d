"""clone: a copy of a file or a tree that shares all data with the original.

Not a copy of bytes: slices get one more reference. A tree is many transactions; its top stands registered as detached,
without a name, until everything below it is there, so that nobody ever sees half a clone. Hard links are broken up.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Final, NamedTuple

from meta.attr import Attr
from meta.errors import OutcomeUnknown, Refused
from meta.rules.access import EXECUTE, READ, WRITE, refuse_flags, require
from meta.rules.context import Volume
from meta.rules.create import Created, Exists, add_entry, add_inode
from meta.rules.directory import Time, check_name, refuse_trashed, searchable, update_parent
from meta.rules.lookup import entries
from meta.rules.tree import Report, empty_tree
from meta.rules.usage import charge, check_growth, forget_dir
from meta.slices import decode_slices
from meta.transaction import DirItem, Read, Transaction
from meta.types import FILE, FLAG_IMMUTABLE, SUPERUSER, SYMLINK, TRASH, Caller

PRESERVE: Final = 2
"""Mode bit: keep owner, permissions and times."""
_BATCH: Final = 100  # inodes cloned by one transaction
_BATCH_CHUNKS_LENGTH: Final = 64 << 30  # file bytes after which a transaction is full: a thousand chunks

Progress = Callable[[int], None]
"""Told how many inodes are done."""


class _Style(NamedTuple):
    """How copies differ from their originals."""

    caller: Caller
    preserve: bool
    umask: int
    now: Time


def clone(
    vol: Volume, caller: Caller, src: int, dst_parent: int, name: bytes, mode: int, umask: int,
    progress: Progress | None = None, removed: Report | None = None,
) -> Created:  # fmt: skip
    """Clone the inode `src` as `name` in `dst_parent`. `mode`: `PRESERVE` or 0.

    EEXIST if there is such a name. If a tree cannot be completed, what was made of it is removed, and `removed` told.
    """
    if dst_parent >= TRASH or src >= TRASH:
        raise Refused(errno.EPERM)
    check_name(dst_parent, name, errno.EEXIST)
    style = _Style(caller, bool(mode & PRESERVE), umask, vol.now())
    advance = progress or (lambda count: None)
    created = vol.transact(lambda tx: _clone_top(tx, vol, style, src, dst_parent, name))
    advance(1)
    if not created.attr.is_dir:
        return created
    try:
        _clone_below(vol, style, src, created.ino, advance)
        return vol.transact(lambda tx: _attach(tx, vol, caller, created.ino, dst_parent, name))
    except OutcomeUnknown:
        raise  # the tree may have its name by now, or get it yet: if not, gc will find it
    except BaseException:
        remove_detached(vol, created.ino, removed)
        raise


def remove_detached(vol: Volume, ino: int, removed: Report | None = None) -> None:
    """Remove a tree that was never given a name."""
    empty_tree(vol, SUPERUSER, ino, skip_trash=True, force=True, removed=removed)
    vol.transact(lambda tx: _remove_top(tx, vol, ino))


def _remove_top(tx: Transaction, vol: Volume, ino: int) -> None:
    tx.prefetch(("attr", ino))
    attr = tx.attr(ino)
    tx.delete_detached(ino)
    if attr is not None:
        forget_dir(tx, ino)
        tx.delete_attr(ino)
        tx.delete_xattrs(ino)
        charge(tx, vol, attr.uid, attr.gid, -attr.space, -1)


def _destination(tx: Transaction, caller: Caller, parent: int, name: bytes) -> Attr:
    """The directory that the clone goes to, if it may."""
    tx.prefetch(("attr", parent), ("target", parent, name))
    directory = searchable(tx, caller, parent)
    refuse_trashed(directory)
    found = tx.target(parent, name)
    if found is not None:
        raise Exists(found[0].ino, found[1] or Attr(found[0].type))
    require(tx, caller, directory, WRITE)
    refuse_flags(directory, FLAG_IMMUTABLE)
    return directory


def _clone_top(tx: Transaction, vol: Volume, style: _Style, src: int, parent: int, name: bytes) -> Created:
    directory = _destination(tx, style.caller, parent, name)
    attr = tx.attr(src)
    if attr is None:
        raise Refused(errno.ENOENT)
    if attr.parent >= TRASH:
        raise Refused(errno.EPERM)
    tx.prefetch(*_reads(src, attr.type))
    copy = _copy(tx, vol, style, attr)
    check_growth(tx, vol, copy.uid, copy.gid, (parent,), copy.space, 1)
    ino = vol.inodes.next()
    if copy.is_dir:
        copy.parent = parent
        add_inode(tx, vol, ino, copy)
        tx.put_detached(ino, style.now[0])
    else:
        add_entry(tx, vol, parent, name, ino, copy)
        update_parent(tx, vol, parent, directory, style.now, force=True)
    _copy_content(tx, src, ino, attr)
    return Created(ino, copy)


def _attach(tx: Transaction, vol: Volume, caller: Caller, ino: int, parent: int, name: bytes) -> Created:
    directory = _destination(tx, caller, parent, name)
    attr = tx.attr(ino)
    if attr is None:
        raise Refused(errno.ENOENT)  # somebody took us for dead
    tx.delete_detached(ino)
    add_entry(tx, vol, parent, name, ino, attr, new=False)
    update_parent(tx, vol, parent, directory, vol.now(), nlink=1)
    return Created(ino, attr)


def _clone_below(vol: Volume, style: _Style, src: int, dst: int, advance: Progress) -> None:
    """Clone what is in the directory `src` into `dst`, level by level of a stack of directories."""
    waiting = [(src, dst)]
    while waiting:
        source, target = waiting.pop()
        for batch in _batches(vol, source):
            waiting += vol.transact(partial(_clone_items, vol=vol, style=style, items=batch, target=target))
            advance(len(batch))


def _batches(vol: Volume, ino: int) -> Iterator[list[DirItem]]:
    """The entries of a directory in portions for one transaction each."""
    for page in entries(vol.engine.reader, ino, plus=True):
        rest = iter(page)
        while batch := list(islice(_bounded(rest), _BATCH)):
            yield batch


def _bounded(items: Iterator[DirItem]) -> Iterator[DirItem]:
    length = 0
    for item in items:
        yield item
        length += item.attr.length if item.attr is not None and item.attr.is_file else 0
        if length >= _BATCH_CHUNKS_LENGTH:
            return


def _clone_items(
    tx: Transaction, vol: Volume, style: _Style, items: list[DirItem], target: int
) -> list[tuple[int, int]]:
    """Clone entries into the directory `target`; returns the pairs of directories that are to be filled."""
    tx.prefetch(("attr", target), *[read for item in items for read in _reads(item.ino, item.type)])
    directory = tx.attr(target)
    if directory is None:
        raise Refused(errno.ENOENT)
    copies = []
    for item in items:
        attr = tx.attr(item.ino)
        if attr is not None:  # else removed meanwhile
            copies.append((item, attr, _copy(tx, vol, style, attr)))
    _check_room(tx, vol, target, [copy for _, _, copy in copies])
    below = []
    for item, attr, copy in copies:
        ino = vol.inodes.next()
        add_entry(tx, vol, target, item.name, ino, copy)
        _copy_content(tx, item.ino, ino, attr)
        if copy.is_dir:
            below.append((item.ino, ino))
    if below:
        directory.nlink += len(below)
        tx.put_attr(target, directory)
    return below


def _check_room(tx: Transaction, vol: Volume, target: int, copies: list[Attr]) -> None:
    space: Counter[tuple[int, int]] = Counter()
    inodes: Counter[tuple[int, int]] = Counter()
    for copy in copies:
        space[copy.uid, copy.gid] += copy.space
        inodes[copy.uid, copy.gid] += 1
    for (uid, gid), count in inodes.items():
        check_growth(tx, vol, uid, gid, (target,), space[uid, gid], count)


def _reads(ino: int, type: int) -> list[Read]:
    reads: list[Read] = [("attr", ino), ("xattrs", ino)]
    if type == FILE:
        reads.append(("chunks", ino))
    elif type == SYMLINK:
        reads.append(("symlink", ino))
    return reads


def _copy(tx: Transaction, vol: Volume, style: _Style, attr: Attr) -> Attr:
    """The attributes of the copy; EACCES if the caller may not read the original."""
    if attr.type != SYMLINK:
        require(tx, style.caller, attr, READ | EXECUTE if attr.is_dir else READ)
    copy = attr.copy()
    copy.nlink = 2 if attr.is_dir else 1
    if not style.preserve:
        copy.uid, copy.gid = style.caller.uid, style.caller.gid
        copy.atime, copy.atimensec = copy.mtime, copy.mtimensec = copy.ctime, copy.ctimensec = style.now
        if attr.type != SYMLINK:
            copy.mode &= ~style.umask
        rule = tx.acl(attr.access_acl) if attr.access_acl and copy.mode != attr.mode else None
        if rule is not None:
            copy.access_acl = vol.acl_id(rule.with_mode(copy.mode))
    return copy


def _copy_content(tx: Transaction, src: int, dst: int, attr: Attr) -> None:
    """Give `dst` what `src` holds besides its attributes and entries."""
    for name, value in tx.xattrs(src).items():
        tx.put_xattr(dst, name, value)
    if attr.type == SYMLINK:
        tx.put_symlink(dst, tx.symlink(src) or b"")
    elif attr.is_file:
        references: Counter[tuple[int, int]] = Counter()
        for indx, records in tx.chunks(src, attr.length).items():
            tx.append_slices(dst, indx, records)
            references.update([(piece.id, piece.size) for piece in decode_slices(records) if piece.id])
        for (slice_id, size), count in references.items():
            tx.add_slice_refs(slice_id, size, count)
