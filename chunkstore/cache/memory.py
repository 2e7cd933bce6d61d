"""Blocks cached in memory: `--cache-dir memory`, or when no cache directory can be used. Not limited by the buffers."""

from __future__ import annotations

import random
import threading
import time

from chunkstore.buffers import Page
from chunkstore.cache.interface import BlockCache
from chunkstore.config import StoreConfig
from chunkstore.metrics import Counters
from chunkstore.naming import Block

FALLBACK_SIZE = 100 << 20


class MemoryCache(BlockCache):
    """Copies of blocks up to `capacity` bytes, the older of two at random given up for new ones."""

    enabled = True

    def __init__(self, config: StoreConfig, capacity: int, counters: Counters, seed: int | None = None) -> None:
        self._capacity = capacity
        self._items = config.cache_items
        self._evicting = config.cache_eviction != "none"
        self._expire_s = config.cache_expire_s
        self._counters = counters
        self._lock = threading.Lock()
        self._blocks: dict[tuple[int, int], int] = {}  # -> place in _held
        self._held: list[tuple[tuple[int, int], bytes, float]] = []
        self._used = 0
        self._random = random.Random(seed)

    def read_into(self, block: Block, offset: int, view: memoryview) -> bool:
        key = (block.slice_id, block.indx)
        with self._lock:
            place = self._blocks.get(key)
            if place is None:
                return False
            _, data, used_at = self._held[place]
            now = time.monotonic()
            if self._expire_s and now - used_at > self._expire_s:
                self._drop(place)
                return False
            self._held[place] = key, data, now
        if len(data) != block.size:
            return False
        view[:] = memoryview(data)[offset : offset + len(view)]
        return True

    def insert(self, block: Block, page: Page, forced: bool = False) -> None:
        key = (block.slice_id, block.indx)
        with self._lock:
            if (place := self._blocks.get(key)) is not None:
                self._drop(place)
            if block.size > self._capacity:
                return
            while self._used + block.size > self._capacity or (self._items and len(self._held) >= self._items):
                if not self._evicting:
                    self._counters.add(blockcache_drops=1)
                    return
                self._drop(self._older_of_two())
                self._counters.add(blockcache_evicts=1)
            self._blocks[key] = len(self._held)
            self._held.append((key, bytes(page.data[: block.size]), time.monotonic()))
            self._used += block.size
        self._counters.add(blockcache_writes=1, blockcache_write_bytes=block.size)

    def remove(self, block: Block) -> None:
        with self._lock:
            place = self._blocks.get((block.slice_id, block.indx))
            if place is not None:
                self._drop(place)

    def where(self, block: Block) -> str | None:
        return "memory" if (block.slice_id, block.indx) in self._blocks else None

    def usage(self) -> tuple[int, int]:
        return len(self._held), self._used

    def memory(self) -> int:
        return self._used

    def flush(self, timeout_s: float) -> bool:
        return True

    def close(self, timeout_s: float) -> bool:
        with self._lock:
            self._blocks.clear()
            self._held.clear()
            self._used = 0
        return True

    def _older_of_two(self) -> int:
        first, second = (int(self._random.random() * len(self._held)) for _ in range(2))
        return first if self._held[first][2] <= self._held[second][2] else second

    def _drop(self, place: int) -> None:
        key, data, _ = self._held[place]
        del self._blocks[key]
        self._used -= len(data)
        last = self._held.pop()
        if place < len(self._held):
            self._held[place] = last
            self._blocks[last[0]] = place
