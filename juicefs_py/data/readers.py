"""What the readers of a mount share: the read-ahead pool, its byte budget, and the way to tell readers of changes.

Not here: reading (`reader`).
"""

from __future__ import annotations

import threading

from chunkstore.errors import Cancelled
from chunkstore.workers import Workers
from juicefs_py.data.housekeeper import Housekeeper
from juicefs_py.data.ports import BlockStore, SliceMeta
from juicefs_py.data.reader import FileReader, Range

IDLE_S = 30.0  # read-ahead buffers that nobody used for so long are dropped
LOAD_THREADS = 32  # blocks loading at the same time for read-ahead; threads are started as they are needed
BUDGET_SHARE = 0.8  # of the buffers, which writers share
CLOSE_S = 10.0


class Readers:
    """All `FileReader`s of a mount, by inode."""

    def __init__(
        self, meta: SliceMeta, store: BlockStore, block_size: int, *,
        housekeeper: Housekeeper, max_ahead: int | None = None, io_retries: int = 10,
    ) -> None:  # fmt: skip
        self.meta = meta
        self.store = store
        self.block_size = block_size
        self.io_retries = io_retries
        self.budget = int(store.buffers.limit * BUDGET_SHARE)
        self.max_ahead = min(8 * block_size if max_ahead is None else max_ahead, self.budget)
        self.used = 0
        self._lock = threading.Lock()
        self._by_ino: dict[int, set[FileReader]] = {}
        self._pool = Workers("readahead", LOAD_THREADS)
        self._housekeeper = housekeeper
        housekeeper.add(self._expire)

    def open(self, ino: int) -> FileReader:
        """A reader for one more handle of an inode."""
        reader = FileReader(ino, self)
        with self._lock:
            self._by_ino.setdefault(ino, set()).add(reader)
        return reader

    def close(self, reader: FileReader) -> None:
        """The handle is gone."""
        with self._lock:
            readers = self._by_ino.get(reader.ino)
            if readers is not None:
                readers.discard(reader)
                if not readers:
                    del self._by_ino[reader.ino]
        reader.close()

    def invalidate(self, ino: int, off: int = 0, size: int | None = None) -> None:
        """Bytes of a file changed: no read from now on may see the old ones."""
        with self._lock:
            readers = tuple(self._by_ino.get(ino, ()))
        for reader in readers:
            reader.invalidate(off, size)

    def retry_delay(self, attempt: int) -> float:
        """Seconds to wait after the failed attempt number `attempt` (from 1)."""
        return (attempt - 1) * 0.3 + 0.001 if attempt < 30 else 10.0

    def reserve(self, size: int) -> bool:
        """Take bytes of the read-ahead budget; False if it is used up."""
        buffers = self.store.buffers
        with self._lock:
            if self.used + size > self.budget or buffers.used + size > buffers.limit:
                return False
            self.used += size
        buffers.reserve(size)
        return True

    def unreserve(self, size: int) -> None:
        """Give bytes of the budget back."""
        with self._lock:
            self.used -= size
        self.store.buffers.unreserve(size)

    def load(self, reader: FileReader, item: Range) -> None:
        """Have a range loaded in the background."""
        self._housekeeper.wake()
        try:
            self._pool.submit(reader.fill, item)
        except Cancelled:
            reader.fill(item)

    def _expire(self, now: float) -> bool:
        with self._lock:
            readers = [reader for group in self._by_ino.values() for reader in group]
        busy = False
        for reader in readers:
            busy = reader.expire(now - IDLE_S) or busy
        return busy

    def shutdown(self) -> None:
        """End the threads."""
        self._pool.close(CLOSE_S)
