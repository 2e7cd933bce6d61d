"""All files of a mount that are being written: registry, background commits, back-pressure.

Not here: what happens inside one file (`writer`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from chunkstore.errors import Cancelled
from chunkstore.workers import Workers
from juicefs_py.data.housekeeper import Housekeeper
from juicefs_py.data.ports import BlockStore, SliceMeta
from juicefs_py.data.writer import Claim, FileWriter
from juicefs_py.ledger import Ledger

log = logging.getLogger(__name__)

COMMIT_THREADS = 8  # files that commit in the background at the same time; uploads run in parallel below them
MIN_FLUSH_DEADLINE_S = 300.0
PRESSED_SHARE = 0.9  # of the buffers in use: partly filled blocks go up as well
CLOSE_S = 10.0
ROOM_DEADLINE_S = 300.0  # a write that finds no buffer for so long fails: the bucket is gone for good


class Writers:
    """The `FileWriter` of every inode that is open for writing."""

    def __init__(
        self, meta: SliceMeta, store: BlockStore, block_size: int, *,
        housekeeper: Housekeeper, on_commit: Callable[[int, int, int], None], io_retries: int = 10,
        put_timeout_s: float = 60.0, ledger: Ledger | None = None,
    ) -> None:  # fmt: skip
        self.meta = meta
        self.store = store
        self.block_size = block_size
        self._ledger = ledger
        self.on_commit = on_commit  # (inode, file offset, length): these bytes changed in the store
        self.flush_deadline_s = max(MIN_FLUSH_DEADLINE_S, (io_retries + 2) ** 2 / 2)
        self.interrupt_after_s = 2 * put_timeout_s
        self._lock = threading.Lock()
        self._files: dict[int, FileWriter] = {}
        self._dirty: dict[int, FileWriter] = {}
        self._queued: set[int] = set()
        self._pool = Workers("commit", COMMIT_THREADS)
        self._housekeeper = housekeeper
        housekeeper.add(self._age)

    def acquire(self, ino: int, tier: int = 0) -> FileWriter:
        """The writer of an inode, for one more handle."""
        with self._lock:
            file = self._files.get(ino)
            if file is None:
                file = self._files[ino] = FileWriter(ino, self, tier)
            file.refs += 1
            return file

    def release(self, file: FileWriter, claim: Claim | None = None) -> None:
        """A handle is gone. What it left uncommitted is committed in the background."""
        if claim is not None:
            file.forget(claim)
        with self._lock:
            file.refs -= 1
            if file.refs == 0 and not file.dirty:
                self._files.pop(file.ino, None)

    def get(self, ino: int) -> FileWriter | None:
        """The writer of an inode if there is one."""
        return self._files.get(ino)

    def is_dirty(self, file: FileWriter) -> None:
        """The file has uncommitted data from now on. Called with the file's lock held."""
        with self._lock:
            self._dirty[file.ino] = file
            self._files[file.ino] = file
        self.is_unsettled(file)
        self._housekeeper.wake()

    def is_clean(self, file: FileWriter) -> None:
        """Everything is committed. Called with the file's lock held."""
        with self._lock:
            self._dirty.pop(file.ino, None)
            if file.refs == 0:
                self._files.pop(file.ino, None)

    def is_unsettled(self, file: FileWriter) -> None:
        """Should this process die now, the file's handles are to hear of a loss."""
        if self._ledger is not None:
            self._ledger.is_dirty(file.ino)

    def is_settled(self, file: FileWriter) -> None:
        """Now they need not."""
        if self._ledger is not None:
            self._ledger.is_clean(file.ino)

    def all_heard(self) -> None:
        """Every answer has reached whoever asked: what was told need not be told again by a successor."""
        with self._lock:
            files = list(self._files.values())
        for file in files:
            file.all_heard()

    def commit_soon(self, file: FileWriter) -> None:
        """Have a commit thread work off the frozen slices of a file."""
        with self._lock:
            if file.ino in self._queued:
                return
            self._queued.add(file.ino)
        try:
            self._pool.submit(self._commit, file)
        except Cancelled:
            log.debug("inode %d: closing, its last commit is done by the flush", file.ino)

    def _commit(self, file: FileWriter) -> None:
        with self._lock:
            self._queued.discard(file.ino)
        try:
            file.drain()
        except Exception:  # the last line of a thread: nobody else would tell, and the slices stay for the next round
            log.exception("background commit of inode %d", file.ino)

    def _age(self, now: float) -> bool:
        """One round of the housekeeper; True while there is anything dirty."""
        with self._lock:
            files = list(self._dirty.values())
        buffers = self.store.buffers
        pressed = buffers.used > buffers.limit * PRESSED_SHARE
        for file in files:
            file.age(now, pressed)
        return bool(files)

    def wait_for_room(self, size: int) -> None:
        """Hold a write back while block buffers exceed their budget; `Timeout` if nothing becomes free for minutes."""
        buffers = self.store.buffers
        if buffers.used + size <= buffers.limit:
            return
        with self._lock:
            files = list(self._dirty.values())
        for file in files:
            file.age(time.monotonic(), pressed=True)
        buffers.admit(size, ROOM_DEADLINE_S)

    def commit_all(self) -> list[int]:
        """Commit every file; the inodes for which that failed or took too long."""
        with self._lock:
            files = list(self._dirty.values())
        late = []
        for file in files:
            try:
                file.flush(None, explicit=False)
            except Exception as problem:  # every other file must still be tried
                log.error("inode %d is not flushed: %s", file.ino, problem)
                late.append(file.ino)
        return late

    def close(self) -> None:
        """Commit what is left and end the threads."""
        self.commit_all()
        self._pool.close(CLOSE_S)
