"""Whole blocks out of the bucket: each fetched once, however many ask for it, and ahead of need where told.

Not the decision between part and whole: that is `chunkstore.store`.
"""

from __future__ import annotations

import threading

from chunkstore.buffers import Page
from chunkstore.cache.interface import BlockCache
from chunkstore.errors import StoreError, Timeout
from chunkstore.naming import Block
from chunkstore.transfer import Transfer
from chunkstore.workers import Workers


class _Flight:
    """A fetch under way, and how many wait for it."""

    __slots__ = ("done", "error", "page", "waiting")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.waiting = 0
        self.page: Page | None = None
        self.error: BaseException | None = None


class Fetcher:
    """Single-flight downloads of blocks, put into the cache on the way."""

    def __init__(self, transfer: Transfer, cache: BlockCache) -> None:
        self._transfer = transfer
        self._cache = cache
        self._lock = threading.Lock()
        self._flights: dict[tuple[int, int], _Flight] = {}

    def under_way(self, block: Block) -> bool:
        """Whether somebody fetches the block just now."""
        return (block.slice_id, block.indx) in self._flights

    def fetch(self, block: Block, forced: bool = False) -> Page:
        """The block's page, for the caller to release. `forced` puts it into the cache whatever the policy says."""
        key = (block.slice_id, block.indx)
        with self._lock:
            flight = self._flights.get(key)
            if flight is None:
                mine = self._flights[key] = _Flight()
            else:
                flight.waiting += 1
        if flight is not None:
            return self._wait_for(flight, block)
        try:
            page = self._transfer.download(block)
            if forced or self._wanted(block):
                self._cache.insert(block, page, forced)
        except BaseException as error:
            self._land(key, mine, None, error)
            raise
        self._land(key, mine, page, None)
        return page

    def _wanted(self, block: Block) -> bool:
        config = self._transfer.config
        return config.cache_full_block or block.size < config.block_size

    def _land(self, key: tuple[int, int], flight: _Flight, page: Page | None, error: BaseException | None) -> None:
        with self._lock:
            del self._flights[key]
            if page is not None:
                for _ in range(flight.waiting):
                    page.retain()
            flight.page, flight.error = page, error
            flight.done.set()

    def _wait_for(self, flight: _Flight, block: Block) -> Page:
        timeout_s = 2 * self._transfer.config.get_timeout_s  # the leader may have waited for a slot first
        if not flight.done.wait(timeout_s):
            with self._lock:
                if not flight.done.is_set():
                    flight.waiting -= 1
                    raise Timeout(f"{self._transfer.key(block)} did not arrive in {timeout_s:g} s")
        if flight.page is not None:
            return flight.page
        error = flight.error
        kind = type(error) if isinstance(error, StoreError) else StoreError
        raise kind(str(error)) from error


class Prefetcher:
    """Fetches blocks into the cache that somebody will probably want. A hint that does not fit is forgotten."""

    def __init__(self, fetcher: Fetcher, cache: BlockCache, workers: int) -> None:
        self._fetcher = fetcher
        self._cache = cache
        self._bound = max(4 * workers, 10)
        self._workers = Workers("prefetch", workers) if workers > 0 else None
        self._lock = threading.Lock()
        self._wanted: set[tuple[int, int]] = set()

    def hint(self, block: Block) -> None:
        key = (block.slice_id, block.indx)
        with self._lock:
            if self._workers is None or key in self._wanted or self._workers.queued >= self._bound:
                return
            self._wanted.add(key)
        try:
            self._workers.submit(self._fetch, block)
        except StoreError:  # closing
            self._done(key)

    def close(self, timeout_s: float) -> bool:
        return self._workers is None or self._workers.close(timeout_s)

    def _fetch(self, block: Block) -> None:
        try:
            if self._cache.where(block) is None:
                self._fetcher.fetch(block, forced=True).release()
        except Exception:  # a hint has nobody to hear of its failure; the read that follows will
            pass
        finally:
            self._done((block.slice_id, block.indx))

    def _done(self, key: tuple[int, int]) -> None:
        with self._lock:
            self._wanted.discard(key)
