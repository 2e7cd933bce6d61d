"""Compaction of chunks: when it is due, and how it runs - merge the data first, then commit if the chunk is as it was.

Not which records to merge (`meta.slices.plan_compaction`) nor the commit itself (`meta.rules.compact`). A compaction
changes no byte of any file. Threads: a few of our own for those that can wait; a writer that meets an overlong chunk
does one itself.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

from meta.config import SliceStore
from meta.deleter import Deleter
from meta.errors import MetaError, OutcomeUnknown
from meta.open_files import OpenFiles
from meta.rules.compact import commit_compaction, discard_slice
from meta.rules.context import Volume
from meta.slices import RECORD_SIZE, Plan, decode_slices, plan_compaction

log = logging.getLogger(__name__)

READ_THRESHOLD = 5  # records or pieces that make a reader ask for a compaction
_MAX_THREADS = 4
_MAX_WAITING = 1000
_WRITE_EVERY = 100
_ASYNC_ABOVE, _SYNC_FROM = 350, 2500


class Compactor:
    """Compactions of one client."""

    def __init__(self, vol: Volume, files: OpenFiles, deleter: Deleter) -> None:
        self.store: SliceStore | None = None
        self._vol = vol
        self._files = files
        self._deleter = deleter
        self._lock = threading.Condition()
        self._running = 0
        self._waiting: set[tuple[int, int]] = set()
        self._threads = ThreadPoolExecutor(_MAX_THREADS, "compact")

    def written(self, ino: int, indx: int, count: int) -> None:
        """A write has made a chunk `count` records long. Waits for a compaction if that is far too long."""
        if count >= _SYNC_FROM:
            self._run((ino, indx))  # its failure is not the writer's
        elif count % _WRITE_EVERY == _WRITE_EVERY - 1 or count > _ASYNC_ABOVE:
            self.request(ino, indx)

    def request(self, ino: int, indx: int) -> None:
        """Have a chunk compacted soon, unless that is under way or too much is waiting."""
        key = (ino, indx)
        with self._lock:
            if self.store is None or key in self._waiting or len(self._waiting) >= _MAX_WAITING:
                return
            self._waiting.add(key)
            self._threads.submit(self._run, key)

    def compact(self, ino: int, indx: int) -> bool:
        """Compact a chunk now. True if it became shorter, False if there was nothing to gain or it has changed."""
        reader = self._vol.engine.reader
        attr, seen = reader.attr(ino), reader.chunk(ino, indx)
        plan, store = plan_compaction(seen), self.store
        if store is None or attr is None or plan is None:
            return False
        slice_id = self._vol.slices.take()
        try:
            store.compact_slice(plan.pieces, slice_id, plan.size, attr.tier)
        except Exception:
            if not reader.chunk(ino, indx).startswith(seen):
                return False  # deleted or compacted by another meanwhile, and its objects with it
            raise
        try:
            done = self._vol.transact(lambda tx: commit_compaction(tx, self._vol, ino, indx, plan, seen, slice_id))
        except OutcomeUnknown:
            if self._committed(ino, indx, slice_id):
                return True
            raise  # the new slice is left to gc: it cannot be deleted while the commit may still arrive
        if not done.committed:
            self._discard(slice_id, plan)
            return False
        self._files.drop(ino, indx)
        self._deleter.delete_slices(done.dead)
        return True

    def drain(self, timeout_s: float) -> bool:
        """Wait until nothing is left to do; False if there still is."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._waiting and not self._running, timeout_s)

    def close(self, timeout_s: float = 10.0) -> None:
        """Start nothing any more, and wait for what runs. What takes longer fails with its store, or at its commit."""
        with self._lock:
            self.store = None
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._waiting.clear()
            self._lock.wait_for(lambda: not self._running, timeout_s)

    def _run(self, key: tuple[int, int]) -> None:
        with self._lock:
            self._running += 1
        try:
            self.compact(*key)
        except MetaError as e:
            log.warning("compaction of chunk %d of inode %d failed: %s", key[1], key[0], e)
        except Exception as e:  # the store's errors are not ours to know; the chunk is as good as before
            log.warning("compaction of chunk %d of inode %d: cannot merge its data: %s", key[1], key[0], e)
        finally:
            with self._lock:
                self._waiting.discard(key)
                self._running -= 1
                self._lock.notify_all()

    def _committed(self, ino: int, indx: int, slice_id: int) -> bool:
        records = self._vol.engine.reader.chunk(ino, indx)
        return any(record.id == slice_id for record in decode_slices(records))

    def _discard(self, slice_id: int, plan: Plan) -> None:
        self._vol.transact(lambda tx: discard_slice(tx, slice_id, plan.size))
        self._deleter.delete_slices([(slice_id, plan.size)])


def is_due(records: bytes, pieces: int) -> bool:
    """Whether a reader that finds a chunk like this should ask for its compaction."""
    return pieces >= READ_THRESHOLD or len(records) >= READ_THRESHOLD * RECORD_SIZE
