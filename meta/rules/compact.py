"""The end of slices: committing a compaction, giving back what it replaced, and forgetting slices that nothing refers
to.

Not the merging of data (the slice store does that before the commit), and not deletion of objects: a rule here
returns the slices that lost their last reference, the caller deletes their objects and only then lets `forget_slice`
remove the record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from meta.rules.context import Volume
from meta.slices import RECORD_SIZE, Plan, Slice, decode_slices
from meta.transaction import Delayed, Transaction

SliceKey = tuple[int, int]
"""A slice as everything but the records names it: id and size in bytes."""


class Replaced(NamedTuple):
    """Result of a compaction: `committed` is False if the chunk had changed under it; `dead` slices may be deleted."""

    committed: bool
    dead: list[SliceKey]


def commit_compaction(
    tx: Transaction, vol: Volume, ino: int, indx: int, plan: Plan, seen: bytes, slice_id: int
) -> Replaced:
    """Put slice `slice_id` in the place of the records that `plan` merged; `seen` is the chunk as it was planned on.

    Records appended meanwhile stay. With a trash the replaced slices keep their references, which pass to a delayed
    entry.
    """
    tx.prefetch(("chunk", ino, indx))
    head = plan.considered * RECORD_SIZE
    now = tx.chunk(ino, indx)
    if len(now) < head or now[:head] != seen[:head]:
        return Replaced(False, [])
    skipped = plan.skipped * RECORD_SIZE
    merged = Slice(plan.pos, slice_id, plan.size, 0, plan.size).encode()
    tx.put_chunk(ino, indx, now[:skipped] + merged + now[head:])
    tx.new_slice(slice_id, plan.size)
    replaced = [(record.id, record.size) for record in decode_slices(now[skipped:head]) if record.id]
    if not vol.trash_enabled:
        return Replaced(True, release(tx, replaced))
    if replaced:
        tx.put_delayed(Delayed(slice_id, vol.now()[0], tuple(replaced)))
    return Replaced(True, [])


def discard_slice(tx: Transaction, slice_id: int, size: int) -> None:
    """Record a slice that was stored but never used as dead, so that any client's cleaning job will find it."""
    tx.new_slice(slice_id, size)
    tx.add_slice_refs(slice_id, size, -1)


def release(tx: Transaction, slices: Iterable[SliceKey]) -> list[SliceKey]:
    """Give back one reference per item (duplicates count); the slices that lost their last one."""
    dead, counts = [], Counter(slices)
    tx.prefetch(*[("slice_refs", slice_id, size) for slice_id, size in counts])
    for (slice_id, size), count in counts.items():
        tx.add_slice_refs(slice_id, size, -count)
        if tx.slice_refs(slice_id, size) <= 0:
            dead.append((slice_id, size))
    return dead


def release_delayed(tx: Transaction, slice_id: int, created: int) -> list[SliceKey]:
    """The trash has kept replaced slices for long enough: give back what the entry owns, once; the slices that died."""
    tx.prefetch(("delayed", slice_id, created))
    entry = tx.delayed(slice_id, created)
    if entry is None:
        return []  # another client was faster
    tx.delete_delayed(slice_id, created)
    return release(tx, entry.slices)


def forget_slice(tx: Transaction, slice_id: int, size: int) -> None:
    """Drop the record of a dead slice, its objects being gone."""
    tx.delete_slice(slice_id, size)


def delete_chunks(tx: Transaction, chunks: Sequence[tuple[int, int]]) -> list[SliceKey]:
    """Remove the records of deleted files' chunks (inode, index); the slices that lost their last reference."""
    tx.prefetch(*[("chunk", ino, indx) for ino, indx in chunks])
    slices: list[SliceKey] = []
    for ino, indx in chunks:
        records = tx.chunk(ino, indx)
        if records:
            tx.delete_chunk(ino, indx)
            slices += [(record.id, record.size) for record in decode_slices(records) if record.id]
    return release(tx, slices)


def delete_orphan_chunk(tx: Transaction, ino: int, indx: int) -> list[SliceKey]:
    """Remove the records of a chunk whose file does not exist; the slices that lost their last reference.

    Nobody will use it again: numbers of inodes come once, and a chunk is only written where its file is.
    """
    tx.prefetch(("attr", ino), ("chunk", ino, indx))
    return delete_chunks(tx, [(ino, indx)]) if tx.attr(ino) is None else []
