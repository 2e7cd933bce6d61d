"""What the metadata client wants done to data: delete slices, merge pieces into a new one.

Not here: when (`meta.deleter`, `meta.compaction`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from chunkstore.store import ChunkStore
from meta.slices import Piece


class GroupSync:
    """Lets many threads wait for one sync: each for one that began after it came."""

    def __init__(self, sync: Callable[[], None]) -> None:
        self._sync = sync
        self._changed = threading.Condition()
        self._begun = self._synced = 0  # numbers of syncs: the latest that began, the latest that succeeded
        self._running = False

    def wait(self) -> None:
        """Return when a sync that began after this call has succeeded; raises what this thread's own sync raised."""
        with self._changed:
            wanted = self._begun + 1
            while self._running:
                self._changed.wait()
            if self._synced >= wanted:
                return
            self._running = True
            self._begun += 1
            number = self._begun
        try:
            self._sync()
        except BaseException:
            number = 0
            raise
        finally:
            with self._changed:
                self._running = False
                self._synced = max(self._synced, number)
                self._changed.notify_all()


class StoredSlices:
    """`meta.config.SliceStore` over a chunk store.

    `sync` makes metadata durable; `compacted`, if set, is told the size of each merged slice.
    """

    def __init__(self, store: ChunkStore, sync: Callable[[], None]) -> None:
        self._store = store
        self._sync = GroupSync(sync)
        self.compacted: Callable[[float], None] | None = None

    def delete_slice(self, slice_id: int, size: int) -> None:
        """Delete every object of a slice, once it is certain that no loss of power brings back what refers to it."""
        self._sync.wait()
        self._store.remove(slice_id, size)

    def compact_slice(self, pieces: Sequence[Piece], slice_id: int, size: int, tier: int) -> None:
        """Write what the pieces show as a new slice, a block at a time."""
        step = self._store.config.block_size
        zeros = bytes(step)
        writer = self._store.new_writer(tier)
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
        except BaseException:
            writer.abort()
            raise
        if self.compacted is not None:
            self.compacted(size)
