"""Counters of the data room as plain numbers, and histograms as plain lists. Not the page that shows them.

Attribute names are those of the metrics without their `juicefs_` prefix. Adding is not atomic without the GIL, so every
change goes through `Counters.lock`; reading needs none.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from dataclasses import dataclass, field


class Histogram:
    """Counts of values by upper bound, exponential: `first * factor^k`, `count` bounds and one beyond them."""

    __slots__ = ("_lock", "bounds", "counts", "total")

    def __init__(self, first: float, factor: float, count: int) -> None:
        self.bounds = [first * factor**k for k in range(count)]
        self.counts = [0] * (count + 1)
        self.total = 0.0  # sum of all values
        self._lock = threading.Lock()

    def observe(self, value: float) -> None:
        place = bisect_left(self.bounds, value)
        with self._lock:
            self.counts[place] += 1
            self.total += value


def _request_histogram() -> Histogram:
    return Histogram(0.01, 1.5, 25)


def _cache_histogram() -> Histogram:
    return Histogram(1e-5, 2, 20)


@dataclass(slots=True)
class Counters:
    """Since the store was made; one object for a store, its caches and its transfers."""

    lock: threading.Lock = field(default_factory=threading.Lock)

    blockcache_hits: int = 0
    blockcache_miss: int = 0
    blockcache_hit_bytes: int = 0
    blockcache_miss_bytes: int = 0
    blockcache_writes: int = 0
    blockcache_write_bytes: int = 0
    blockcache_drops: int = 0
    blockcache_evicts: int = 0
    blockcache_damaged: int = 0  # ours: cached blocks thrown away for a bad checksum or length
    blockcache_read_hist_seconds: Histogram = field(default_factory=_cache_histogram)
    blockcache_write_hist_seconds: Histogram = field(default_factory=_cache_histogram)

    staging_blocks: int = 0
    staging_block_bytes: int = 0
    staging_writing_blocks: int = 0
    staging_write_bytes: int = 0
    staging_block_delay_seconds: float = 0.0
    staging_block_errors: int = 0

    object_request_errors: int = 0
    object_request_uploading: int = 0
    object_request_data_bytes: dict[str, int] = field(default_factory=lambda: {"GET": 0, "PUT": 0})
    object_request_durations: dict[str, Histogram] = field(
        default_factory=lambda: {method: _request_histogram() for method in ("GET", "PUT", "DELETE")}
    )

    def add(self, **amounts: float) -> None:
        """Add to the named counters. For paths where a dict does not matter; hot ones take the lock themselves."""
        with self.lock:
            for name, amount in amounts.items():
                setattr(self, name, getattr(self, name) + amount)

    def request(self, method: str, seconds: float, size: int = 0) -> None:
        """One request to the object storage that went well."""
        self.object_request_durations[method].observe(seconds)
        if size:
            with self.lock:
                self.object_request_data_bytes[method] += size
