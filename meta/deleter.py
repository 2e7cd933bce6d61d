"""Deleting in the background what nothing refers to any more: the chunks of removed files, the objects of dead slices.

Not deciding what is dead (the rules). Objects go before the record that names them, so that whatever is left undone
(a crash, an error, `max_deletes` 0) is found again by a cleaning job, of this client or of another.

Threads: one walks through removed files, many at a time, up to `max_deletes` delete objects. Both queues are bounded: a
file too many is left to the hourly job, a slice too many makes the walker wait.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from meta.config import SliceStore
from meta.errors import Corrupt, MetaError
from meta.rules.compact import SliceKey, delete_chunks, forget_slice
from meta.rules.context import Volume
from meta.transaction import DeletedFile, Transaction

log = logging.getLogger(__name__)

_MAX_FILES = 100_000  # removed files that wait here; more are left to the hourly job
_WAITING_PER_WORKER = 4
_TOGETHER = 100  # removed files that are looked at in one round trip, and forgotten in one transaction
_CHUNKS_TOGETHER = 32  # chunks in one transaction; each may refer to a thousand slices
_GATHER_S = 0.02


class Deleter:
    """Background deletion of one client."""

    def __init__(self, vol: Volume, max_deletes: int) -> None:
        self.store: SliceStore | None = None
        self._vol = vol
        self._max_deletes = max(0, max_deletes)
        self._slots = threading.Semaphore(self._max_deletes * _WAITING_PER_WORKER)
        self._idle = threading.Condition()
        self._pending = 0
        self._closed = False
        self._syncing = threading.Lock()  # held over the sync on purpose: those who wait are served by the same one
        self._synced = 0.0  # when the last sync began
        self._files: deque[DeletedFile] = deque()
        self._walking = False
        self._gone: deque[SliceKey] = deque()  # whose objects are deleted, and records not yet
        self._forgetting = False
        self._walker = ThreadPoolExecutor(1, "delete-files")
        self._workers = ThreadPoolExecutor(max(1, max_deletes), "delete-slices")

    def delete_file(self, file: DeletedFile) -> None:
        """Have the chunks of a removed file deleted soon. Returns at once."""
        with self._idle:
            if self._closed or self.store is None or self._pending >= _MAX_FILES:
                return
            self._pending += 1
            self._files.append(file)
            if not self._walking:
                self._walking = True
                self._walker.submit(self._walk)

    def _walk(self) -> None:
        """Work off removed files. They are left to gather for a moment: most have no chunks, and go all at once."""
        while True:
            time.sleep(_GATHER_S)
            with self._idle:
                if self._closed:
                    self._pending -= len(self._files)
                    self._files.clear()
                files = [self._files.popleft() for _ in range(min(len(self._files), _TOGETHER))]
                self._walking = bool(files)
            if not files:
                return
            shown = f"{len(files)} removed files, the first of them {files[0].ino}"
            self._run(lambda files=files: self.delete_files_now(files), shown, len(files))  # type: ignore[misc]

    def delete_files_now(self, files: Sequence[DeletedFile]) -> bool:
        """Release every chunk of removed files, then forget the files; False if this was closed meanwhile.

        Their slices follow in the background. A damaged file does not keep the others.
        """
        damaged: set[int] = set()
        chunks = self._vol.engine.remaining_chunks(files)
        for at in range(0, len(chunks), _CHUNKS_TOGETHER):
            if self._closed:
                return False
            damaged |= self._delete_chunks(chunks[at : at + _CHUNKS_TOGETHER])

        def forget(tx: Transaction) -> None:
            for file in files:
                if file.ino not in damaged:
                    tx.delete_deleted_file(file.ino, file.length)

        self._vol.transact(forget)
        return True

    def _delete_chunks(self, chunks: Sequence[tuple[int, int]]) -> set[int]:
        """Release chunks; the inodes of those that cannot be read."""
        try:
            dead = self._vol.transact(lambda tx: delete_chunks(tx, chunks))
        except Corrupt as e:
            if len(chunks) > 1:  # one of them: each by itself
                return set().union(*[self._delete_chunks([chunk]) for chunk in chunks])
            [(ino, indx)] = chunks
            log.warning("cannot delete chunk %d of removed file %d: %s", indx, ino, e)
            return {ino}
        self.delete_slices(dead)
        return set()

    def delete_slices(self, dead: Iterable[SliceKey]) -> None:
        """Have the objects of dead slices deleted. Waits while too many are waiting already."""
        if self.store is None or not self._max_deletes:
            return
        dead_at = time.monotonic()
        for slice_id, size in dead:
            self._slots.acquire()
            with self._idle:
                if self._closed:
                    self._slots.release()
                    return
                self._pending += 1
                self._workers.submit(self._delete_slice, slice_id, size, dead_at)

    def drain(self, timeout_s: float) -> bool:
        """Wait until nothing is left to do; False if there still is."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._pending, timeout_s)

    def close(self, timeout_s: float = 2.0) -> None:
        """Finish what can be finished within `timeout_s` and what is running; the rest stays recorded for others."""
        self.drain(timeout_s)
        with self._idle:
            self._closed = True
        self._walker.shutdown(cancel_futures=True)
        self._workers.shutdown(cancel_futures=True)
        self._slots.release(max(1, self._max_deletes * _WAITING_PER_WORKER))  # whoever waits finds that it is over

    def _delete_slice(self, slice_id: int, size: int, dead_at: float) -> None:
        gone = False

        def delete_objects() -> None:
            nonlocal gone
            assert self.store is not None
            self._sync_since(dead_at)
            self.store.delete_slice(slice_id, size)
            gone = True

        try:
            self._run(delete_objects, f"slice {slice_id}", done=lambda: not gone)
        finally:
            self._slots.release()
        if gone:
            self._forget((slice_id, size))

    def _forget(self, slice_: SliceKey) -> None:
        """Drop the record of a slice whose objects are gone. Who comes first does it for those that come meanwhile."""
        with self._idle:
            self._gone.append(slice_)
            if self._forgetting:
                return
            self._forgetting = True
        while True:
            with self._idle:
                slices = [self._gone.popleft() for _ in range(min(len(self._gone), _TOGETHER))]
                self._forgetting = bool(slices)
            if not slices:
                return

            def forget(tx: Transaction, slices: Sequence[SliceKey] = slices) -> None:
                for each in slices:
                    forget_slice(tx, *each)

            self._run(lambda: self._vol.transact(forget), f"the records of {len(slices)} slices", len(slices))

    def _sync_since(self, moment: float) -> None:
        """Have what was committed before `moment` on disk, so that no loss of power brings back what names objects."""
        with self._syncing:
            if self._synced < moment:
                started = time.monotonic()
                self._vol.engine.sync()
                self._synced = started

    def _run(
        self, work: Callable[[], object], what: str, count: int = 1, done: Callable[[], bool] = lambda: True
    ) -> None:
        """Do a part of the work, and take `count` off what is pending, unless it goes on."""
        try:
            work()
        except MetaError as e:
            log.warning("cannot delete %s, left to the next cleaning: %s", what, e)
        except Exception as e:  # the store's errors are not ours to know; whatever failed is still recorded
            log.warning("cannot delete the objects of %s, left to the next cleaning: %s", what, e)
        finally:
            if done():
                with self._idle:
                    self._pending -= count
                    if not self._pending:
                        self._idle.notify_all()
