"""What changes the bytes of a file: write, truncate, fallocate - as records appended to the slice lists of its chunks.

Not where bytes are kept: slices are named here, never read. Nothing is ever cut out of a list; what must read as zero
is covered by a record of slice 0, and compaction drops what is covered. Every change gives the file an mtime that it
did not have before, because clients keep slice lists for as long as the mtime stays the same.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

from meta.attr import Attr
from meta.errors import Refused
from meta.rules.access import WRITE, require
from meta.rules.context import Volume
from meta.rules.usage import resize
from meta.slices import Slice
from meta.transaction import Appended, Transaction
from meta.types import CHUNK_SHIFT, CHUNK_SIZE, FIFO, FLAG_APPEND, FLAG_IMMUTABLE, MAX_FILE_SIZE, TRASH, Caller

KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE, INSERT_RANGE = 0x01, 0x02, 0x08, 0x10, 0x20
_MASK = CHUNK_SIZE - 1
_FEW_CHUNKS = 64  # more than that are listed with one read instead of one by one


class Written(NamedTuple):
    """A committed slice: the new attributes, the mtime before, and how long the list of the chunk has become."""

    attr: Attr
    before: tuple[int, int]
    appended: Appended


def write_slice(
    tx: Transaction, vol: Volume, ino: int, indx: int, pos: int, slice_id: int, length: int, mtime: tuple[int, int]
) -> Written:
    """Commit a slice whose objects are stored: `length` bytes at `pos` of chunk `indx`, written at `mtime` (s, ns).

    ENOENT if the file is gone (its writer must delete the objects), EDQUOT or ENOSPC if it may not grow.
    """
    tx.prefetch(("attr", ino))
    attr = tx.attr(ino)
    if attr is None:
        raise Refused(errno.ENOENT)
    if not attr.is_file:
        raise Refused(errno.EPERM)
    if length <= 0 or pos < 0 or pos + length > CHUNK_SIZE:
        raise Refused(errno.EINVAL, f"a slice of {length} bytes at {pos} leaves its chunk")
    end = (indx << CHUNK_SHIFT) + pos + length
    if end > attr.length:
        resize(tx, vol, ino, attr, end)
    before = attr.mtime, attr.mtimensec
    stamp_content(attr, vol.now(), mtime)
    appended = tx.append_slices(ino, indx, Slice(pos, slice_id, length, 0, length).encode())
    tx.new_slice(slice_id, length)
    tx.put_attr(ino, attr)
    return Written(attr, before, appended)


class Changed(NamedTuple):
    """The new attributes, and the mtime that the inode had before."""

    attr: Attr
    before: tuple[int, int]


def truncate(tx: Transaction, vol: Volume, caller: Caller, ino: int, length: int, *, handle: bool = False) -> Changed:
    """Set the length of a file; whatever lies between the old and the new one reads as zero.

    `handle`: through a descriptor open for writing, which is all the permission needed.
    """
    tx.prefetch(("attr", ino))
    attr = writable_file(tx, caller, ino, handle=handle)
    if not 0 <= length <= MAX_FILE_SIZE:
        raise Refused(errno.EFBIG if length > 0 else errno.EINVAL)
    if attr.flags & FLAG_APPEND or (not handle and attr.parent > TRASH):
        raise Refused(errno.EPERM)
    if length != attr.length:
        zero_range(tx, ino, *sorted((attr.length, length)))
        resize(tx, vol, ino, attr, length)
    before = attr.mtime, attr.mtimensec
    stamp_content(attr, vol.now())
    tx.put_attr(ino, attr)
    return Changed(attr, before)


def fallocate(tx: Transaction, vol: Volume, caller: Caller, ino: int, mode: int, off: int, size: int) -> Changed:
    """Reserve or clear a range, as fallocate(2). Reserving stores nothing but the length, which space follows."""
    _check_fallocate_mode(mode, off, size)
    tx.prefetch(("attr", ino))
    attr = writable_file(tx, caller, ino)
    if attr.flags & FLAG_APPEND and mode & ~KEEP_SIZE:
        raise Refused(errno.EPERM)
    old = attr.length
    if off + size > old and not mode & KEEP_SIZE:
        resize(tx, vol, ino, attr, off + size)
    if mode & (PUNCH_HOLE | ZERO_RANGE) and off < old:
        zero_range(tx, ino, off, min(off + size, old))
    before = attr.mtime, attr.mtimensec
    stamp_content(attr, vol.now())
    tx.put_attr(ino, attr)
    return Changed(attr, before)


def stamp_content(attr: Attr, now: tuple[int, int], mtime: tuple[int, int] | None = None) -> None:
    """Content has changed: a new mtime (the writer's, or now), different from the one before in any case, and ctime.

    Both are the time of the change, as POSIX has it: a commit may come seconds after the write, and programs rely on
    ctime <= mtime after it. ctime never goes back.
    """
    sec, nsec = mtime or now
    if (sec, nsec) == (attr.mtime, attr.mtimensec):
        sec, nsec = (sec, nsec + 1) if nsec < 999_999_999 else (sec + 1, 0)
    attr.mtime, attr.mtimensec = sec, nsec
    attr.ctime, attr.ctimensec = max((attr.ctime, attr.ctimensec), (sec, nsec))


def writable_file(tx: Transaction, caller: Caller, ino: int, *, handle: bool = False) -> Attr:
    """The attributes of a regular file that the caller may change; the errno that says why not."""
    attr = tx.attr(ino)
    if attr is None:
        raise Refused(errno.ENOENT)
    if attr.type == FIFO:
        raise Refused(errno.EPIPE)
    if not attr.is_file or attr.flags & FLAG_IMMUTABLE:
        raise Refused(errno.EPERM)
    if not handle:
        require(tx, caller, attr, WRITE)
    return attr


def _check_fallocate_mode(mode: int, off: int, size: int) -> None:
    if mode in (COLLAPSE_RANGE, INSERT_RANGE):
        raise Refused(errno.EOPNOTSUPP)
    if mode & ~(KEEP_SIZE | PUNCH_HOLE | ZERO_RANGE) or off < 0 or size <= 0:
        raise Refused(errno.EINVAL)
    if mode & PUNCH_HOLE and (not mode & KEEP_SIZE or mode & ZERO_RANGE):
        raise Refused(errno.EINVAL)
    if off + size > MAX_FILE_SIZE:
        raise Refused(errno.EFBIG)


def zero_range(tx: Transaction, ino: int, start: int, end: int) -> None:
    """Make [start, end) of a file zeros: a record in the chunk of each end, and in those between that hold anything."""
    first, last = start >> CHUNK_SHIFT, end >> CHUNK_SHIFT
    pos = start & _MASK
    tx.append_slices(ino, first, _zeros(pos, min(CHUNK_SIZE - pos, end - start)))
    if last - first > _FEW_CHUNKS:
        between = [indx for indx in tx.chunks(ino, end) if first < indx < last]
    else:
        between = [indx for indx in range(first + 1, last) if tx.chunk(ino, indx)]
    for indx in between:
        tx.append_slices(ino, indx, _zeros(0, CHUNK_SIZE))
    if last > first and end & _MASK:
        tx.append_slices(ino, last, _zeros(0, end & _MASK))


def _zeros(pos: int, length: int) -> bytes:
    return Slice(pos, 0, 0, 0, length).encode()
