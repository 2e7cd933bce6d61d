"""What the metadata client wants done to data: delete slices, merge pieces into a new one.

Not here: when (`meta.deleter`, `meta.compaction`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chunkstore.store import ChunkStore
from meta.slices import Piece


class StoredSlices:
    """`meta.config.SliceStore` over a chunk store.

    `compacted`, if set, is told the size of each merged slice.
    """

    def __init__(self, store: ChunkStore) -> None:
        self._store = store
        self.compacted: Callable[[float], None] | None = None

    def delete_slice(self, slice_id: int, size: int) -> None:
        """Delete every object of a slice."""
        self._store.remove(slice_id, size)

    def compact_slice(self, pieces: Sequence[Piece], slice_id: int, size: int, tier: int) -> None:
        """Write what the pieces show as a new slice, a block at a time."""
        step = self._store.config.block_size
        zeros = bytes(step)
        writer = self._store.new_writer(tier, writeback=False)
        writer.set_id(slice_id)
        at = 0
        try:
            for piece in pieces:
                done = 0
                while done < piece.len:
                    count = min(step, piece.len - done)
                    if piece.id:
                        writer.write_at(at, self._store.read(piece.id, piece.size, piece.off + done, count))
                    else:
                        writer.write_at(at, memoryview(zeros)[:count])
                    done += count
                    at += count
                    writer.flush_to(at)
            writer.finish(size)
            self._store.bucket.sync()  # what it replaces may have been, and is deleted once this is committed
        except BaseException:
            writer.abort()
            raise
        if self.compacted is not None:
            self.compacted(size)
