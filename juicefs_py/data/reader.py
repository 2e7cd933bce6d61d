"""Reads of one open file: bytes at file offsets out of slices, whole blocks ahead while the reads are sequential.

Not here: how far ahead (`readahead`), what all handles share (`readers`), blocks and caches (`chunkstore`).

Concurrency. One `FileReader` per handle, called by many request threads. `_lock` guards the table of ranges and the
sessions, never held over I/O. A range is loaded by one thread of the pool; others wait for its event. Buffers are
handed out as memoryviews and never reused, so a range may be dropped at any moment: who still holds a view keeps the
bytes alive. `invalidate` takes ranges out of the table; a load in flight then fills an orphan that no later read can
find.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from chunkstore.errors import NotFound, StoreError
from juicefs_py.data.ports import Buffer
from juicefs_py.data.readahead import ReadAhead
from meta.slices import Piece
from meta.types import CHUNK_SHIFT, CHUNK_SIZE

if TYPE_CHECKING:
    from juicefs_py.data.readers import Readers

log = logging.getLogger(__name__)

ZEROS = memoryview(bytes(1 << 20))  # holes are served as views of this
LOAD_WAIT_S = 120.0  # longer than any single GET: a loader that takes longer is not waited for
LOST_ATTEMPTS = 3  # a missing object of an unchanged slice list stays missing; a remote compaction shows at once


class Range:
    """One block-sized window of the file, being loaded or loaded. `parts`: (start in the window, bytes), no gaps."""

    __slots__ = ("length", "parts", "ready", "start", "used_at")

    def __init__(self, start: int, length: int, now: float) -> None:
        self.start = start
        self.length = length
        self.used_at = now
        self.parts: list[tuple[int, memoryview]] | None = None
        self.ready = threading.Event()

    def cut(self, off: int, size: int, out: list[Buffer]) -> None:
        """Append the bytes of [off, off+size) of the window to `out`."""
        assert self.parts is not None
        for start, data in self.parts:
            first, last = max(off - start, 0), min(off + size - start, len(data))
            if first < last:
                out.append(data[first:last])


class FileReader:
    """Reads of one handle."""

    def __init__(self, ino: int, readers: Readers) -> None:
        self.ino = ino
        self._readers = readers
        self._lock = threading.Lock()
        self._ranges: dict[int, Range] = {}
        self._ahead = ReadAhead(readers.block_size, readers.max_ahead)

    def __repr__(self) -> str:
        return f"FileReader(ino={self.ino}, ranges={len(self._ranges)})"

    def read(self, off: int, size: int, length: int) -> Buffer | list[Buffer]:
        """Bytes [off, off+size) of a file of `length` bytes, as one buffer or several.

        MetaError if the metadata cannot be read, OSError EIO if a block cannot after all retries.
        """
        size = min(size, length - off)
        if size <= 0:
            return b""
        shared = self._readers
        block = shared.block_size
        with self._lock:
            ahead = self._ahead.note(off, size, shared.budget, shared.used)
            wanted = self._plan(off, size, ahead, length) if ahead else ()
        for item in wanted:
            shared.load(self, item)
        if not self._ranges:
            return self._direct(off, size)
        out: list[Buffer] = []
        at, end = off, off + size
        while at < end:
            n = min(end - at, block - at % block)
            loaded = self._loaded(at // block)
            if loaded is not None and at + n <= loaded.start + loaded.length:
                loaded.cut(at - loaded.start, n, out)
            else:
                part = self._direct(at, n)
                out += part if isinstance(part, list) else [part]
            at += n
        self._leave_behind(off, end)
        return out[0] if len(out) == 1 else out

    def _plan(self, off: int, size: int, ahead: int, length: int) -> Sequence[Range]:
        """New ranges for the blocks of [end, end+ahead) that are not there yet."""
        block = self._readers.block_size
        end = off + size
        stop = min(end + ahead, length)
        now = time.monotonic()
        fresh = []
        for indx in range((end + block - 1) // block, (stop + block - 1) // block):
            if indx in self._ranges:
                continue
            start = indx * block
            item = Range(start, min(block, length - start), now)
            if not self._readers.reserve(item.length):
                break
            self._ranges[indx] = item
            fresh.append(item)
        return fresh

    def _loaded(self, indx: int) -> Range | None:
        item = self._ranges.get(indx)
        if item is None:
            return None
        item.used_at = time.monotonic()
        if not item.ready.is_set() and not item.ready.wait(LOAD_WAIT_S):
            return None
        return item if item.parts is not None else None

    def _leave_behind(self, off: int, end: int) -> None:
        """Drop ranges that a sequential reader has passed, and the oldest when there are too many."""
        block = self._readers.block_size
        limit = self._readers.max_ahead // block * 2 + 1
        with self._lock:
            gone = [indx for indx in self._ranges if indx < off // block - 1 and (indx + 1) * block <= off]
            excess = len(self._ranges) - len(gone) - limit
            if excess > 0:
                kept = [indx for indx in self._ranges if indx not in gone]
                gone += sorted(kept, key=lambda indx: self._ranges[indx].used_at)[:excess]
            self._drop(gone)

    def _drop(self, indexes: Sequence[int]) -> None:
        for indx in indexes:
            item = self._ranges.pop(indx, None)
            if item is not None:
                self._readers.unreserve(item.length)

    def expire(self, before: float) -> bool:
        """Drop ranges not used since `before` (time.monotonic()); True if any are left."""
        with self._lock:
            self._drop([indx for indx, item in self._ranges.items() if item.used_at < before])
            return bool(self._ranges)

    def invalidate(self, off: int, size: int | None) -> None:
        """Bytes of the file changed: forget what was loaded of [off, off+size), or from `off` on if `size` is None."""
        if not self._ranges:
            return
        block = self._readers.block_size
        with self._lock:
            self._drop([
                indx for indx in self._ranges
                if (indx + 1) * block > off and (size is None or indx * block < off + size)
            ])  # fmt: skip

    def close(self) -> None:
        """Give the buffers back."""
        with self._lock:
            self._drop(list(self._ranges))

    def fill(self, item: Range) -> None:
        """Load a range; called by a thread of the pool. After a failure the read goes to the blocks."""
        try:
            with self._lock:
                if self._ranges.get(item.start // self._readers.block_size) is not item:
                    return  # dropped before its turn
            parts: list[tuple[int, memoryview]] = []
            at = 0
            for data in self._pieces(item.start, item.length):
                parts.append((at, memoryview(data)))
                at += len(data)
            item.parts = parts
        except Exception as problem:  # read-ahead is a hint: the read that needs the bytes will report
            log.debug("read ahead of inode %d at %d: %s", self.ino, item.start, problem)
        finally:
            if item.parts is None:
                self._forget(item)
            item.ready.set()

    def _forget(self, item: Range) -> None:
        with self._lock:
            indx = item.start // self._readers.block_size
            if self._ranges.get(indx) is item:
                self._drop([indx])

    def _direct(self, off: int, size: int) -> Buffer | list[Buffer]:
        """Read through the block layer, again and again while a block fails, with fresh slices each time."""
        attempt = 0
        while True:
            try:
                parts = self._pieces(off, size)
                return parts[0] if len(parts) == 1 else parts
            except StoreError as problem:
                attempt += 1
                limit = LOST_ATTEMPTS if isinstance(problem, NotFound) else self._readers.io_retries
                if attempt > limit:
                    log.error("inode %d: %d bytes at %d cannot be read: %s", self.ino, size, off, problem)
                    raise OSError(errno.EIO, str(problem)) from problem
                first, last = off >> CHUNK_SHIFT, (off + size - 1) >> CHUNK_SHIFT
                for indx in range(first, last + 1):
                    self._readers.meta.invalidate_chunk(self.ino, indx)
                time.sleep(self._readers.retry_delay(attempt))

    def _pieces(self, off: int, size: int) -> list[Buffer]:
        out: list[Buffer] = []
        while size > 0:
            indx, pos = off >> CHUNK_SHIFT, off & (CHUNK_SIZE - 1)
            n = min(size, CHUNK_SIZE - pos)
            self._chunk(self._readers.meta.read_chunk(self.ino, indx), pos, n, out)
            off += n
            size -= n
        return out

    def _chunk(self, pieces: Sequence[Piece], pos: int, size: int, out: list[Buffer]) -> None:
        """Bytes [pos, pos+size) of a chunk; zeros behind its last piece."""
        block = self._readers.block_size
        read = self._readers.store.read
        start = 0
        for piece in pieces:
            end = start + piece.len
            while pos < end and size > 0:
                n = min(size, end - pos)
                if piece.id == 0:
                    _zeros(n, out)
                else:
                    within = piece.off + pos - start
                    n = min(n, block - within % block)
                    out.append(read(piece.id, piece.size, within, n))
                pos += n
                size -= n
            if size == 0:
                return
            start = end
        _zeros(size, out)


def _zeros(count: int, out: list[Buffer]) -> None:
    while count > 0:
        n = min(count, len(ZEROS))
        out.append(ZEROS[:n])
        count -= n
