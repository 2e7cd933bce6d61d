"""What a chunk store can be told: block format, caches, buffers, limits. Not where objects are: that is a bucket."""

from __future__ import annotations

import time
from dataclasses import dataclass

from chunkstore.errors import BadBucket
from chunkstore.naming import MAX_BLOCK_SIZE, MIN_BLOCK_SIZE

MIN_BUFFER_SIZE = 32 << 20

VERIFY_LEVELS = ("none", "full", "shrink", "extend")
EVICTIONS = ("2-random", "lru", "none")


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Sizes in bytes, times in seconds, limits in Mbps (10^6 bits, 0 is without limit)."""

    block_size: int = 4 << 20
    compress: str = "none"
    hash_prefix: bool = False

    cache_dirs: tuple[str, ...] = ()  # with the volume's UUID appended; ("memory",) caches in memory
    cache_size: int = 100 << 30
    cache_items: int = 0  # 0: as many as the file system has inodes to spare
    free_space_ratio: float = 0.1
    cache_mode: int = 0o600
    cache_eviction: str = "2-random"
    cache_checksum: str = "extend"
    cache_scan_interval_s: float = 3600.0  # 0: only at the start; negative: never
    cache_expire_s: float = 0.0
    cache_full_block: bool = True  # False is --cache-partial-only
    cache_large_write: bool = False

    buffer_size: int = 300 << 20
    readahead: int = 32 << 20
    prefetch: int = 1  # workers; 0 turns prefetching off
    max_uploads: int = 20
    max_downloads: int = 200
    max_stage_write: int = 1000
    max_retries: int = 10
    get_timeout_s: float = 60.0
    put_timeout_s: float = 60.0
    upload_limit: float = 0.0
    download_limit: float = 0.0
    writeback: bool = False
    writeback_threshold: int = 0  # bytes: only smaller blocks are staged; 0: all
    upload_delay_s: float = 0.0
    upload_hours: tuple[int, int] | None = None  # local time, from hour to hour; equal ones are always
    drain_staged: bool = True  # upload what earlier mounts have staged; False for clients that must not write
    auto_create: bool = True  # make missing cache directories

    def __post_init__(self) -> None:
        size = self.block_size
        if not MIN_BLOCK_SIZE <= size <= MAX_BLOCK_SIZE or size & (size - 1):
            raise BadBucket(f"block size {size} is not a power of two between 64 KiB and 16 MiB")
        # As upstream: what cannot be meant falls back to the default instead of failing the mount.
        if self.cache_checksum not in VERIFY_LEVELS:
            object.__setattr__(self, "cache_checksum", "extend")
        if self.cache_eviction not in EVICTIONS:
            object.__setattr__(self, "cache_eviction", "2-random")
        if not 0 < self.free_space_ratio < 1:
            object.__setattr__(self, "free_space_ratio", 0.1)
        object.__setattr__(self, "max_retries", max(0, self.max_retries))
        object.__setattr__(self, "max_uploads", max(1, self.max_uploads))
        object.__setattr__(self, "max_downloads", self.max_downloads if self.max_downloads > 0 else 200)
        object.__setattr__(self, "buffer_size", max(self.buffer_size, MIN_BUFFER_SIZE))

    def uploads_now(self, now: time.struct_time) -> bool:
        """Whether staged blocks may go up at that local time."""
        if self.upload_hours is None or self.upload_hours[0] == self.upload_hours[1]:
            return True
        start, end = self.upload_hours
        return start <= now.tm_hour < end if start < end else now.tm_hour >= start or now.tm_hour < end
