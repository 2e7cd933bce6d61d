"""copy_file_range: a second file gets records of the same slices, and every slice one reference more per record.

Not clone (whole inodes), and no data moves.
"""

from __future__ import annotations

import errno
from collections import defaultdict
from collections.abc import Iterator

from meta.attr import Attr
from meta.errors import Refused
from meta.rules.access import READ, require
from meta.rules.content import stamp_content, writable_file
from meta.rules.context import Volume
from meta.rules.usage import resize
from meta.slices import Piece, Slice, encode_slices, resolve
from meta.transaction import Transaction
from meta.types import CHUNK_SHIFT, CHUNK_SIZE, FLAG_APPEND, MAX_FILE_SIZE, Caller

_MASK = CHUNK_SIZE - 1


def copy_file_range(
    tx: Transaction, vol: Volume, caller: Caller, src: int, off_in: int, dst: int, off_out: int, size: int
) -> tuple[int, Attr]:
    """Share up to `size` bytes from `off_in` of `src` at `off_out` of `dst`.

    Returns the bytes copied (0 behind the end of `src`) and the new attributes of `dst`.
    """
    if min(off_in, off_out, size) < 0:
        raise Refused(errno.EINVAL)
    first, last = off_in >> CHUNK_SHIFT, (off_in + size) >> CHUNK_SHIFT
    tx.prefetch(("attr", src), ("attr", dst), ("chunk", src, first), ("chunk", src, last))
    source = tx.attr(src)
    if source is None:
        raise Refused(errno.ENOENT)
    if not source.is_file:
        raise Refused(errno.EINVAL)
    require(tx, caller, source, READ)
    target = tx.attr(dst)
    if target is not None and not target.is_file:
        raise Refused(errno.EINVAL)
    target = writable_file(tx, caller, dst)
    if target.flags & FLAG_APPEND:
        raise Refused(errno.EPERM)
    size = min(size, source.length - off_in)
    if size <= 0:
        return 0, target
    if src == dst and abs(off_in - off_out) < size:
        raise Refused(errno.EINVAL)
    if off_out + size > MAX_FILE_SIZE:
        raise Refused(errno.EFBIG)
    _share(tx, _pieces(tx, src, off_in, size), dst, off_out)
    if off_out + size > target.length:
        resize(tx, vol, dst, target, off_out + size)
    stamp_content(target, vol.now())
    tx.put_attr(dst, target)
    return size, target


def _pieces(tx: Transaction, ino: int, off: int, size: int) -> Iterator[Piece]:
    """What a range of a file consists of, holes included: pieces that are exactly `size` bytes together."""
    end = off + size
    while off < end:
        indx, pos = off >> CHUNK_SHIFT, off & _MASK
        stop = min(CHUNK_SIZE, pos + end - off)
        at = 0
        for piece in resolve(tx.chunk(ino, indx)):
            lo, hi = max(at, pos), min(at + piece.len, stop)
            if lo < hi:
                yield Piece(piece.id, piece.size, piece.off + lo - at, hi - lo)
            at += piece.len
        if at < stop:
            yield Piece(0, 0, 0, stop - max(at, pos))
        off += stop - pos


def _share(tx: Transaction, pieces: Iterator[Piece], dst: int, off: int) -> None:
    """Lay pieces over a file from `off` on, cut where its chunks end."""
    records: defaultdict[int, list[Slice]] = defaultdict(list)
    refs: defaultdict[tuple[int, int], int] = defaultdict(int)
    for piece in pieces:
        done = 0
        while done < piece.len:
            pos = off & _MASK
            part = min(piece.len - done, CHUNK_SIZE - pos)
            if piece.id:
                records[off >> CHUNK_SHIFT].append(Slice(pos, piece.id, piece.size, piece.off + done, part))
                refs[piece.id, piece.size] += 1
            else:
                records[off >> CHUNK_SHIFT].append(Slice(pos, 0, 0, 0, part))
            done += part
            off += part
    for indx, slices in records.items():
        tx.append_slices(dst, indx, encode_slices(slices))
    for (slice_id, size), count in refs.items():
        tx.add_slice_refs(slice_id, size, count)
