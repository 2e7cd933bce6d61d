"""Writing one slice: requests are copied once into block buffers, and full blocks go up while the rest is written.

Not a file's writer: it knows neither positions in a file nor when a slice ends; whoever calls says so. Blocks that were
handed to the upload never change: their objects are immutable.

Who runs. `write_at`, `flush_to`, `seal` and `finish` are called by one thread at a time (the file's writer sees to
that). Uploads end in worker threads; `_state` guards what they share with the caller: in flight, uploaded, first error.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from chunkstore.buffers import Page
from chunkstore.cache.interface import BlockCache
from chunkstore.errors import Cancelled, StoreError, Timeout
from chunkstore.naming import Block
from chunkstore.transfer import Transfer
from chunkstore.workers import Workers
from chunkstore.writeback import WriteBack

_ASK_EVERY_S = 0.25  # how often whoever waits for uploads may give up
_STEPS = (64 << 10, 1 << 20)  # a small file must not hold a whole block's memory


class SliceWriter:
    """One slice on its way into the bucket."""

    __slots__ = (
        "_cache", "_error", "_given_up", "_handed_over", "_id", "_in_flight", "_pages", "_state", "_tier",
        "_transfer", "_uploaded", "_workers", "_writeback", "length",
    )  # fmt: skip

    def __init__(
        self, transfer: Transfer, cache: BlockCache, workers: Workers, tier: int, writeback: WriteBack | None = None
    ) -> None:
        """With `writeback`, blocks are staged where it takes them."""
        self.length = 0  # bytes written so far; a slice has no holes
        self._transfer = transfer
        self._cache = cache
        self._workers = workers
        self._tier = tier
        self._writeback = writeback
        self._id = 0
        self._pages: dict[int, Page] = {}  # of blocks not yet handed over
        self._handed_over = 0  # blocks below this index belong to the upload
        self._state = threading.Condition(threading.Lock())
        self._in_flight = 0
        self._uploaded: list[Block] = []
        self._error: Exception | None = None
        self._given_up = threading.Event()

    def __repr__(self) -> str:
        return f"SliceWriter(id={self._id}, length={self.length}, in_flight={self._in_flight}, error={self._error!r})"

    @property
    def error(self) -> Exception | None:
        """The first failure of an upload so far."""
        return self._error

    def set_id(self, slice_id: int) -> None:
        """Name the slice. Nothing can be uploaded before."""
        self._id = slice_id

    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Copy `data` to `offset`: at the end, or over bytes whose block was not yet handed to the upload.

        If there is no memory for all of it, nothing is copied (`Timeout`).
        """
        size = self._transfer.config.block_size
        if offset > self.length or offset < self._handed_over * size:
            raise ValueError(
                f"write at {offset} of a slice of {self.length} bytes, {self._handed_over} blocks uploading"
            )
        source = memoryview(data).cast("B")
        self._take_pages(offset, offset + len(source))
        done = 0
        while done < len(source):
            index, start = divmod(offset + done, size)
            count = min(len(source) - done, size - start)
            self._pages[index].data[start : start + count] = source[done : done + count]
            done += count
        self.length = max(self.length, offset + done)

    def _take_pages(self, start: int, end: int) -> None:
        """Have the pages of a range, or leave everything as it was."""
        size = self._transfer.config.block_size
        try:
            for index in range(start // size, -(-end // size)):
                self._page(index, min(end - index * size, size))
        except BaseException:
            for index in [index for index in self._pages if index * size >= self.length]:
                self._pages.pop(index).release()
            raise

    def _page(self, index: int, needed: int) -> Page:
        """The page of a block, grown to hold `needed` bytes: small at first, whole from the second block on."""
        page = self._pages.get(index)
        if page is not None and page.size >= needed:
            return page
        block_size = self._transfer.config.block_size
        fitting = (step for step in _STEPS if needed <= step < block_size and index == 0)
        larger = self._transfer.pool.take(next(fitting, block_size), cancelled=self._given_up.is_set)
        if page is not None:
            larger.data[: page.size] = page.data
            page.release()
        self._pages[index] = larger
        return larger

    def flush_to(self, offset: int) -> None:
        """Start the upload of every complete block that ends at or below `offset`."""
        size = self._transfer.config.block_size
        while (self._handed_over + 1) * size <= min(offset, self.length):
            self._hand_over(size)

    def seal(self, length: int) -> None:
        """Start the upload of everything, the shorter last block included. Nothing can be written afterwards."""
        self._check_length(length)
        self.flush_to(length)
        rest = length - self._handed_over * self._transfer.config.block_size
        if rest > 0:
            self._hand_over(rest)

    def finish(self, length: int, timeout_s: float = 0.0, give_up: Callable[[], bool] | None = None) -> bool:
        """Seal, and wait until every block is in the bucket. Raises the first failure; `abort` is then the way out.

        `give_up` is asked while waiting: when it says so, the answer is False, the uploads go on, and `finish` may be
        called again.
        """
        self._check_length(length)
        self.flush_to(length)
        rest = length - self._handed_over * self._transfer.config.block_size
        if rest > 0:
            # A single small block: cheaper to try it here than to wake a thread and wait for it.
            self._hand_over(rest, here=not self._in_flight)
        ended = self._wait(timeout_s or self._patience_s(), give_up)
        if self._error is not None:
            raise self._error
        return ended

    def abort(self) -> None:
        """Give the slice up: stop what is under way and remove, in the background, what was uploaded."""
        self._given_up.set()
        for page in self._pages.values():
            page.release()
        self._pages.clear()
        with self._state:
            uploaded, self._uploaded = self._uploaded, []
        if uploaded:
            self._workers.submit(self._remove, uploaded)

    def _check_length(self, length: int) -> None:
        if length != self.length:
            raise ValueError(f"slice has {self.length} bytes, not {length}")

    def _patience_s(self) -> float:
        """Until every attempt of an upload has had its time, plus the pauses between."""
        config = self._transfer.config
        tries = config.max_retries + 1
        return tries * config.put_timeout_s + sum(t * t for t in range(tries)) + config.put_timeout_s

    def _wait(self, timeout_s: float, give_up: Callable[[], bool] | None) -> bool:
        deadline = time.monotonic() + timeout_s
        with self._state:
            while self._in_flight and self._error is None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise Timeout(f"slice {self._id}: {self._in_flight} blocks were not uploaded in {timeout_s:.0f} s")
                if give_up is None:
                    self._state.wait(left)
                elif give_up():
                    return False
                else:
                    self._state.wait(min(left, _ASK_EVERY_S))
        return True

    def _hand_over(self, size: int, here: bool = False) -> None:
        if not self._id:
            raise ValueError("the slice has no id yet")
        if self._given_up.is_set():
            raise Cancelled(f"slice {self._id} was aborted")
        block = Block(self._id, self._handed_over, size)
        page = self._pages.pop(block.indx)
        self._handed_over += 1
        with self._state:
            self._in_flight += 1
        first = self._upload_here(block, page) if here else 0
        if first is None:
            return
        try:
            self._workers.submit(self._upload, block, page, first)
        except Cancelled as error:
            page.release()
            self._ended(block, error)

    def _upload_here(self, block: Block, page: Page) -> int | None:
        """One attempt by the caller of `finish`. None if that settled it, else which attempt a worker is to make."""
        first, failure = None, None
        if self._staged(block, page):
            return None
        try:
            first = self._transfer.upload_at_once(block, page.data[: block.size], self._tier)
        except Exception as error:  # as in a worker: `finish` raises it
            failure = error
        if first is None:
            self._settled(block, page, failure)
        return first

    def _upload(self, block: Block, page: Page, first: int) -> None:
        """Runs in a worker."""
        failure: Exception | None = None
        if self._staged(block, page):
            return
        try:
            self._transfer.upload(block, page.data[: block.size], self._tier, self._given_up, first)
        except Exception as error:  # whatever a driver raised is the writer's to hear, not the worker thread's
            failure = error
        self._settled(block, page, failure)

    def _staged(self, block: Block, page: Page) -> bool:
        """Whether the block was taken for write-back, and so settled."""
        if self._writeback is None:
            return False
        failure: Exception | None = None
        taken = False
        try:
            taken = self._writeback.accept(block, page.data[: block.size], self._tier)
        except Exception as error:  # as any failure of an upload
            taken, failure = True, error
        if taken:
            page.release()
            self._ended(block, failure)
        return taken

    def _settled(self, block: Block, page: Page, failure: Exception | None) -> None:
        config = self._transfer.config
        try:
            if failure is not None:
                pass  # `abort` removes it
            elif config.cache_large_write or block.size < config.block_size:
                self._cache.insert(block, page)
            else:
                self._cache.remove(block)  # older, of a number that came again: see `BlockCache.insert`
        finally:
            page.release()
            self._ended(block, failure)

    def _ended(self, block: Block, failure: Exception | None) -> None:
        with self._state:
            self._in_flight -= 1
            late = self._given_up.is_set()
            if failure is not None:
                self._error = self._error or _as_store_error(failure)
            if not late:
                self._uploaded.append(block)  # a failed put may have arrived after all
            self._state.notify_all()
        if late and failure is None:
            self._remove([block])

    def _remove(self, blocks: list[Block]) -> None:
        for block in blocks:
            if self._writeback is not None:
                self._writeback.forget(block)
            self._cache.remove(block)
        try:
            self._transfer.delete(blocks)
        except Exception:  # nobody waits for it; what is left is found by the volume's garbage collection
            pass


def _as_store_error(error: Exception) -> StoreError:
    if isinstance(error, StoreError):
        return error
    wrapped = StoreError(f"upload failed: {error!r}")
    wrapped.__cause__ = error
    return wrapped
