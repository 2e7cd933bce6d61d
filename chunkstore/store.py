"""The chunk store: slices in, slices out. What a mount or a command holds of the data room.

Not a file system: a slice is a number, a length and bytes. It is written once and never changes.

A read looks into the cache; then it fetches a part of the block, where that is allowed and pays, or the whole block
once for everybody who wants it. Whatever cannot be proven to be the block's bytes is an error, never data.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from chunkstore.bucket import Bucket
from chunkstore.buffers import BufferPool, new_memory
from chunkstore.cache.assembled import Assembled
from chunkstore.cache.disks import DiskCache
from chunkstore.cache.interface import BlockCache
from chunkstore.cache.open import open_cache
from chunkstore.cache.stager import Stager
from chunkstore.config import StoreConfig
from chunkstore.errors import StoreError
from chunkstore.fetch import Fetcher, Prefetcher
from chunkstore.metrics import Counters
from chunkstore.naming import Block, block_at, blocks_of
from chunkstore.transfer import Transfer
from chunkstore.workers import Workers
from chunkstore.writeback import WriteBack
from chunkstore.writer import SliceWriter

_TRIM_AFTER_S = 5.0  # an idle mount gives its buffers back
_CLOSE_S = 30.0

log = logging.getLogger(__name__)


class CacheReport(NamedTuple):
    """What a cache command found of one slice."""

    blocks: int
    bytes: int
    missing_bytes: int  # of blocks that are not cached
    locations: dict[str, int]  # bytes by place


class ChunkStore:
    """Slices of one volume, in `bucket` (whose keys are relative to the volume)."""

    def __init__(self, bucket: Bucket, config: StoreConfig) -> None:
        self.config = config
        self.bucket = bucket
        self.metrics = Counters()
        self.buffers = BufferPool(config.buffer_size)
        self.cache: BlockCache = open_cache(config, self.metrics)
        self._transfer = Transfer(bucket, config, self.buffers, self.metrics)
        self._fetcher = Fetcher(self._transfer, self.cache)
        self._prefetcher = Prefetcher(self._fetcher, self.cache, config.prefetch if self.cache.enabled else 0)
        self._uploads = Workers("upload", config.max_uploads)
        self._writeback = self._new_writeback()
        self.assembled = Assembled(self.cache.dirs) if isinstance(self.cache, DiskCache) else None
        self._stop = threading.Event()
        self._trimmer = threading.Thread(target=self._trim, name="trim-buffers", daemon=True)
        self._trimmer.start()

    # writing

    def _new_writeback(self) -> WriteBack | None:
        """Also without `--writeback`: what an earlier mount staged has to go up."""
        if not isinstance(self.cache, DiskCache) or not self.config.drain_staged:
            if self.config.writeback and self.config.drain_staged:
                log.warning("--writeback is ignored: there is no cache directory to keep blocks in")
            return None
        stager = Stager(self.cache)
        staged = self.config.writeback or next(stager.found(), None) is not None
        return WriteBack(stager, self._transfer) if staged else None

    def new_writer(self, tier: int = 0, writeback: bool = True) -> SliceWriter:
        """A writer for one new slice. Without `writeback`, it is in the bucket when it is finished."""
        return SliceWriter(self._transfer, self.cache, self._uploads, tier, self._writeback if writeback else None)

    @property
    def staged(self) -> tuple[int, int]:
        """Blocks and bytes that wait on local disks for their upload."""
        return self._writeback.waiting if self._writeback is not None else (0, 0)

    def sync(self) -> None:
        """Return when every slice finished before this call survives a loss of power."""
        if self._writeback is not None:
            self._writeback.sync()  # first: what it does not find any more is in the bucket
        self._transfer.sync()

    def remove(self, slice_id: int, size: int) -> None:
        """Delete a slice's objects and cached blocks; what is not there counts as deleted."""
        blocks = list(blocks_of(slice_id, size, self.config.block_size))
        for block in blocks:
            if self._writeback is not None:
                self._writeback.forget(block)
            self.cache.remove(block)
        if blocks:
            self._transfer.delete(blocks)

    # reading

    def read(self, slice_id: int, size: int, offset: int, length: int) -> memoryview:
        """`length` bytes from `offset` of a slice of `size` bytes, in memory that nobody changes."""
        _check(size, offset, length)
        block = block_at(slice_id, size, offset, self.config.block_size)
        if length * 2 > block.size and not (self.cache.enabled and self.cache.where(block)):
            start = offset % self.config.block_size
            if start + length <= block.size and not self._in_part(block, start, length):
                self._count_miss(length)
                return self._fetched(block)[start : start + length]
        view = memoryview(new_memory(length))
        self.read_into(slice_id, size, offset, view)
        return view

    def _fetched(self, block: Block) -> memoryview:
        """The block's bytes as they came, without a copy: most of it is wanted."""
        page = self._fetcher.fetch(block)
        try:
            return page.share()
        finally:
            page.release()

    def read_into(self, slice_id: int, size: int, offset: int, view: memoryview) -> None:
        """Fill `view` from `offset` of a slice of `size` bytes. After an error it may hold anything."""
        _check(size, offset, len(view))
        for block, start, part in self._parts(slice_id, size, offset, view):
            self._read_block(block, start, part)

    def read_cached(self, slice_id: int, size: int, offset: int, view: memoryview) -> bool:
        """The same out of the cache alone, proven as every read of it. False if a part is not (intact) there."""
        parts = self._parts(slice_id, size, offset, view)
        return all(self.cache.read_into(block, start, part) for block, start, part in parts)

    def _parts(
        self, slice_id: int, size: int, offset: int, view: memoryview
    ) -> Iterator[tuple[Block, int, memoryview]]:
        """Block by block: where in it the reading begins, and the part of `view` to fill."""
        block_size = self.config.block_size
        done = 0
        while done < len(view):
            start = (offset + done) % block_size
            block = block_at(slice_id, size, offset + done, block_size)
            count = min(len(view) - done, block.size - start)
            yield block, start, view[done : done + count]
            done += count

    def _read_block(self, block: Block, offset: int, view: memoryview) -> None:
        metrics = self.metrics
        if self.cache.enabled:
            began = time.perf_counter()
            if self.cache.read_into(block, offset, view):
                with metrics.lock:
                    metrics.blockcache_hits += 1
                    metrics.blockcache_hit_bytes += len(view)
                metrics.blockcache_read_hist_seconds.observe(time.perf_counter() - began)
                return
        self._count_miss(len(view))
        if self._in_part(block, offset, len(view)) and not self._fetcher.under_way(block):
            try:
                self._transfer.download_range(block, offset, view)
            except StoreError as error:
                if error.final:
                    raise
            else:
                self._prefetcher.hint(block)
                return
        page = self._fetcher.fetch(block)
        try:
            view[:] = page.data[offset : offset + len(view)]
        finally:
            page.release()

    def _count_miss(self, length: int) -> None:
        with self.metrics.lock:
            self.metrics.blockcache_miss += 1
            self.metrics.blockcache_miss_bytes += length

    def _in_part(self, block: Block, offset: int, length: int) -> bool:
        """Whether to fetch only what is asked for: always without a cache, else a small piece from the middle."""
        if not self._transfer.seekable:
            return False
        return not self.cache.enabled or (offset > 0 and length <= block.size // 4)

    # the cache commands

    def missing(self, slice_id: int, size: int) -> list[Block]:
        """The blocks of a slice that are not cached; none where there is no cache."""
        if not self.cache.enabled:
            return []
        blocks = blocks_of(slice_id, size, self.config.block_size)
        return [block for block in blocks if self.cache.where(block) is None]

    def fill_block(self, block: Block) -> bool:
        """Fetch one block into the cache. False if the cache did not take it. Waits while the buffers are used up."""
        self.buffers.admit(block.size, cancelled=self._transfer.closing.is_set)
        self._fetcher.fetch(block, forced=True).release()
        return self.cache.where(block) is not None

    def fill_cache(self, slice_id: int, size: int) -> CacheReport:
        """Fetch every block that is not cached. Raises the last failure, after trying all."""
        report = self.check_cache(slice_id, size)
        failure: StoreError | None = None
        for block in self.missing(slice_id, size):
            try:
                self.fill_block(block)
            except StoreError as error:
                failure = error
        if failure is not None:
            raise failure
        return report

    def evict_cache(self, slice_id: int, size: int) -> CacheReport:
        """Drop every block from the cache; the report tells what had been there."""
        report = self.check_cache(slice_id, size)
        for block in blocks_of(slice_id, size, self.config.block_size):
            self.cache.remove(block)
        return report

    def check_cache(self, slice_id: int, size: int) -> CacheReport:
        """What of the slice is cached, and where."""
        missing = 0
        locations: dict[str, int] = {}
        count = 0
        for block in blocks_of(slice_id, size, self.config.block_size):
            count += 1
            place = self.cache.where(block)
            if place is None:
                missing += block.size
            else:
                locations[place] = locations.get(place, 0) + block.size
        return CacheReport(count, size, missing, locations)

    # the whole

    def update_limits(self, upload_mbps: float, download_mbps: float) -> None:
        """Change the transfer limits; 0 is without limit."""
        self._transfer.upload_limit.set(upload_mbps)
        self._transfer.download_limit.set(download_mbps)

    def use_bucket(self, bucket: Bucket) -> None:
        """Go on with another bucket. Requests that are under way end in the old one, which nobody closes."""
        old, self.bucket = self.bucket, bucket
        self._transfer.bucket = bucket
        try:
            old.sync()
        except StoreError as error:
            log.error("the last objects in the old storage may not survive a loss of power: %s", error)

    def flush(self, timeout_s: float = _CLOSE_S) -> bool:
        """Wait until what was given to the cache is on its disk. False if it took too long."""
        return self.cache.flush(timeout_s)

    def close(self, timeout_s: float = _CLOSE_S) -> bool:
        """End uploads that were handed over, stop all threads. False if something did not end in time."""
        deadline = time.monotonic() + timeout_s
        self._stop.set()
        ended = self._writeback is None or self._writeback.close(timeout_s / 3)
        ended &= self._uploads.close(timeout_s / 3)
        self._transfer.closing.set()  # from here on nothing waits for retries, limits or memory
        ended &= self._prefetcher.close(max(0.0, deadline - time.monotonic()))
        ended &= self.cache.close(max(0.0, deadline - time.monotonic()))
        if self._writeback is not None:
            self._writeback.tell_left()
        self._trimmer.join(max(0.0, deadline - time.monotonic()))
        self.buffers.trim()
        self.bucket.close()
        return ended and not self._trimmer.is_alive()

    def _trim(self) -> None:
        while not self._stop.wait(_TRIM_AFTER_S):
            self.buffers.trim(_TRIM_AFTER_S)


def _check(size: int, offset: int, length: int) -> None:
    if offset < 0 or offset + length > size:
        raise ValueError(f"read of {length} bytes at {offset} of a slice of {size} bytes")


@contextlib.contextmanager
def opened(bucket: Bucket, config: StoreConfig) -> Iterator[ChunkStore]:
    """A store for the length of a `with`."""
    store = ChunkStore(bucket, config)
    try:
        yield store
    finally:
        store.close()
