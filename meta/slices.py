"""Slice records of a chunk: their 24 bytes, what a reader sees through them, and what a compaction takes.

Not the data behind a slice id (the chunk store), and not reference counts (the rules). A record, big endian: pos u32
(offset in the chunk), id u64 (0: zeros), size u32 (of the whole slice, needed to name its objects), off u32 (offset in
the slice), len u32.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from meta.errors import Corrupt

RECORD_SIZE: Final = 24
COMPACT_AT_MOST: Final = 1000  # records that one compaction looks at
_KEEP_FROM: Final = 1 << 20  # a first record smaller than this is always merged
_RECORD = struct.Struct(">IQIII")
_DELAYED = struct.Struct(">QI")


class Slice(NamedTuple):
    """`len` bytes from `off` of slice `id` (which has `size` bytes) laid over the chunk at `pos`."""

    pos: int
    id: int
    size: int
    off: int
    len: int

    def encode(self) -> bytes:
        return _RECORD.pack(*self)


class Piece(NamedTuple):
    """What a reader finds next: `len` bytes from `off` of slice `id`; with id 0 `len` zeros."""

    id: int
    size: int
    off: int
    len: int


Records = bytes | Iterable[Slice]
"""The records of a chunk, oldest first: as stored, or decoded."""


def encode_slices(records: Iterable[Slice]) -> bytes:
    """Records as a chunk stores them, one behind the other."""
    return b"".join([_RECORD.pack(*record) for record in records])


def decode_slices(data: bytes) -> list[Slice]:
    """The records of a stored chunk; `Corrupt` if the length is no multiple of a record's."""
    _check_length(data, RECORD_SIZE, "slice records")
    return [Slice._make(fields) for fields in _RECORD.iter_unpack(data)]


def encode_delayed(items: Iterable[tuple[int, int]]) -> bytes:
    """(slice id, size) items of a delayed-slices entry: u64 and u32, big endian."""
    return b"".join([_DELAYED.pack(slice_id, size) for slice_id, size in items])


def decode_delayed(data: bytes) -> tuple[tuple[int, int], ...]:
    """The items of a delayed-slices entry, duplicates kept."""
    _check_length(data, _DELAYED.size, "delayed slices")
    return tuple(_DELAYED.iter_unpack(data))


def _check_length(data: bytes, unit: int, what: str) -> None:
    if len(data) % unit:
        raise Corrupt(f"{what}: {len(data)} bytes are not a multiple of {unit}")


def resolve(records: Records) -> list[Piece]:
    """What the records show, newer over older: pieces without gaps from offset 0 to the last covered byte.

    Neighbours are not merged. What no record covers is a piece of id 0 (before the first covered byte with size = len).
    """
    starts: list[int] = []  # where each piece begins; it ends where the next begins
    cells: list[tuple[int, int, int]] = []  # id, size, off of each piece
    end = 0
    if isinstance(records, bytes):
        _check_length(records, RECORD_SIZE, "slice records")
        records = _RECORD.iter_unpack(records)  # type: ignore[assignment]  # plain tuples do as well
    for pos, slice_id, size, off, length in records:  # type: ignore[misc]
        stop = pos + length
        cell = (slice_id, size, off)
        if not length:
            continue
        if not starts:
            end = pos
        elif pos > end:
            starts.append(end)
            cells.append((0, 0, 0))
            end = pos
        elif pos < starts[0]:
            starts.insert(0, pos)
            cells.insert(0, (0, 0, 0))
        if pos == end:
            starts.append(pos)
            cells.append(cell)
            end = stop
            continue
        first = bisect_left(starts, pos)  # an earlier piece that reaches over pos simply ends there now
        if stop >= end:
            starts[first:] = (pos,)
            cells[first:] = (cell,)
            end = stop
        else:
            last = bisect_right(starts, stop) - 1  # the piece that shows again from `stop` on
            old_id, old_size, old_off = cells[last]
            rest = (old_id, old_size, old_off + stop - starts[last])
            starts[first : last + 1] = (pos, stop)
            cells[first : last + 1] = (cell, rest)
    return _pieces(starts, cells, end)


def _pieces(starts: list[int], cells: list[tuple[int, int, int]], end: int) -> list[Piece]:
    if not starts:
        return []
    pieces = [Piece(0, starts[0], 0, starts[0])] if starts[0] else []
    stops = [*starts[1:], end]
    pieces += [
        Piece(slice_id, size, off, stop - start)
        for start, stop, (slice_id, size, off) in zip(starts, stops, cells, strict=True)
    ]
    return pieces


class Merged(NamedTuple):
    """One slice that could stand for many records: `pieces` are its content, to be laid over the chunk at `pos`."""

    pos: int
    size: int
    pieces: list[Piece]


class Plan(NamedTuple):
    """A compaction: of the first `considered` records keep `skipped` and replace the others by one new slice."""

    considered: int
    skipped: int
    pos: int
    size: int
    pieces: list[Piece]


def merge(records: Records) -> Merged:
    """What the records show, without the zeros at both ends. Nothing but zeros becomes a single zero byte."""
    pieces = resolve(records)
    first, last, pos = 0, len(pieces), 0
    while last - first > 1 and pieces[first].id == 0:
        pos += pieces[first].len
        first += 1
    while last - first > 1 and pieces[last - 1].id == 0:
        last -= 1
    pieces = pieces[first:last]
    if len(pieces) == 1 and pieces[0].id == 0:
        pieces = [pieces[0]._replace(len=1)]
    return Merged(pos, sum(piece.len for piece in pieces), pieces)


def plan_compaction(records: Records, at_most: int = COMPACT_AT_MOST) -> Plan | None:
    """What to merge, or None if nothing is worth it.

    Large records at the front that are still seen whole, and are at least a fifth of the rest, stay as they are.
    """
    whole = decode_slices(records) if isinstance(records, bytes) else list(records)
    whole = whole[:at_most]
    for skipped in range(len(whole) - 1):
        rest = whole[skipped:]
        merged = merge(rest)
        if not _stays(rest, merged):
            return Plan(len(whole), skipped, *merged) if merged.size else None
    return None


def _stays(records: Sequence[Slice], merged: Merged) -> bool:
    """Whether the first record may be left out of a merge of all of them."""
    first = records[0]
    if first.len < _KEEP_FROM or first.len * 5 < merged.size or not merged.size:
        return False
    shown = merged.pieces[0]
    if merged.pos != first.pos or (shown.id, shown.off, shown.len) != (first.id, first.off, first.len):
        return False
    return first not in records[1:]
