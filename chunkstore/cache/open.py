"""Which cache a store's configuration asks for."""

from __future__ import annotations

from chunkstore.buffers import BufferPool
from chunkstore.cache.interface import BlockCache, NoCache
from chunkstore.config import StoreConfig
from chunkstore.metrics import Counters


def open_cache(config: StoreConfig, pool: BufferPool, counters: Counters) -> BlockCache:
    """No cache at all without directories or size."""
    return NoCache()
