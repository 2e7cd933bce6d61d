"""Deleting in the background what nothing refers to any more: the chunks of removed files, the objects of dead slices.

Not deciding what is dead (the rules). Objects go before the record that names them, so that whatever is left undone
(a crash, an error, `max_deletes` 0) is found again by a cleaning job, of this client or of another.

Threads: one walks through removed files, up to `max_deletes` delete objects. Both queues are bounded: a file too many
is left to the hourly job, a slice too many makes the walker wait.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from meta.config import SliceStore
from meta.errors import MetaError
from meta.rules.compact import SliceKey, delete_chunk, forget_slice
from meta.rules.context import Volume
from meta.transaction import DeletedFile

log = logging.getLogger(__name__)

_MAX_FILES = 100_000  # removed files that wait here; more are left to the hourly job
_WAITING_PER_WORKER = 4


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
        self._walker = ThreadPoolExecutor(1, "delete-files")
        self._workers = ThreadPoolExecutor(max(1, max_deletes), "delete-slices")

    def delete_file(self, file: DeletedFile) -> None:
        """Have the chunks of a removed file deleted soon. Returns at once."""
        with self._idle:
            if self._closed or self.store is None or self._pending >= _MAX_FILES:
                return
            self._pending += 1
            self._walker.submit(self._run, lambda: self.delete_file_now(file), f"removed file {file.ino}")

    def delete_file_now(self, file: DeletedFile) -> bool:
        """Release every chunk of a removed file, then forget the file; False if this was closed meanwhile.

        Its slices follow in the background.
        """
        for indx in sorted(self._vol.engine.reader.chunks(file.ino, file.length)):
            if self._closed:
                return False
            self.delete_slices(self._vol.transact(lambda tx, indx=indx: delete_chunk(tx, file.ino, indx)))  # type: ignore[misc]
        self._vol.transact(lambda tx: tx.delete_deleted_file(file.ino, file.length))
        return True

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
        try:
            self._run(lambda: self._delete_slice_now(slice_id, size, dead_at), f"slice {slice_id}")
        finally:
            self._slots.release()

    def _delete_slice_now(self, slice_id: int, size: int, dead_at: float) -> None:
        assert self.store is not None
        self._sync_since(dead_at)
        self.store.delete_slice(slice_id, size)
        self._vol.transact(lambda tx: forget_slice(tx, slice_id, size))

    def _sync_since(self, moment: float) -> None:
        """Have what was committed before `moment` on disk, so that no loss of power brings back what names objects."""
        with self._syncing:
            if self._synced < moment:
                started = time.monotonic()
                self._vol.engine.sync()
                self._synced = started

    def _run(self, work: Callable[[], object], what: str) -> None:
        try:
            work()
        except MetaError as e:
            log.warning("cannot delete %s, left to the next cleaning: %s", what, e)
        except Exception as e:  # the store's errors are not ours to know; whatever failed is still recorded
            log.warning("cannot delete the objects of %s, left to the next cleaning: %s", what, e)
        finally:
            with self._idle:
                self._pending -= 1
                if not self._pending:
                    self._idle.notify_all()
