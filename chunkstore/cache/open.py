"""Which cache a store's configuration asks for."""

from __future__ import annotations

import logging

from chunkstore.cache.disks import DiskCache, open_dirs
from chunkstore.cache.interface import BlockCache, NoCache
from chunkstore.cache.memory import FALLBACK_SIZE, MemoryCache
from chunkstore.config import StoreConfig
from chunkstore.metrics import Counters

_log = logging.getLogger(__name__)


def open_cache(config: StoreConfig, counters: Counters) -> BlockCache:
    """No cache without directories or size; one in memory when asked for, or when no directory can be used."""
    if not config.cache_dirs or config.cache_size <= 0:
        return NoCache()
    if config.cache_dirs == ("memory",):
        return MemoryCache(config, config.cache_size, counters)
    dirs, problems = open_dirs(config, counters)
    for problem in problems:
        _log.warning("%s", problem)
    if not dirs:
        _log.warning("no cache directory can be used: caching %d MiB in memory", FALLBACK_SIZE >> 20)
        return MemoryCache(config, FALLBACK_SIZE, counters)
    return DiskCache(dirs, config, counters)
