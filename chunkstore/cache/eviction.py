"""How much room a cache directory may take, and how far eviction goes. Not which blocks go: the index knows ages."""

from __future__ import annotations

import errno
import os
import time

from chunkstore.cache.index import ENTRY_COST, Index
from chunkstore.config import StoreConfig

_BYTES_GOAL = 0.95
_ITEMS_GOAL = 0.99
_FULL_FOR_S = 10.0  # how long a refused write counts as a full disk, whatever statvfs says (quotas)
_ROOT_RATIO = 0.2  # kept free of the root file system when a cache disk seems to be unmounted


class Goal:
    """What is left to free."""

    def __init__(self, used: int, items: int, extra_bytes: int, extra_items: int) -> None:
        self._used = used
        self._items = items
        self._extra_bytes = extra_bytes
        self._extra_items = extra_items

    def reached(self, index: Index) -> bool:
        return (
            index.used <= self._used
            and len(index) - index.staged <= self._items
            and self._extra_bytes <= 0
            and self._extra_items <= 0
        )

    def freed(self, size: int) -> None:
        self._extra_bytes -= size + ENTRY_COST
        self._extra_items -= 1


class Room:
    """The bounds of one directory, and the state of the file system under it."""

    def __init__(self, path: str, config: StoreConfig, capacity: int, items: int) -> None:
        self.raw_full = False  # less free than the ratio: no room for reads' blocks
        self.stage_full = False  # less than half of it: none for staged ones either
        self._path = path
        self._ratio = config.free_space_ratio
        self._evicting = config.cache_eviction != "none"
        self._wanted = capacity
        self._capacity = capacity
        self._wanted_items = items
        self._items = items or 1 << 62
        self._lack_bytes = 0
        self._lack_items = 0
        self._refused = 0.0
        self.look()

    def look(self, check_lock: bool = False) -> None:
        """Ask the file system. One that does not answer changes nothing."""
        try:
            state = os.statvfs(self._path)
            if check_lock and self._seems_unmounted():
                self._ratio = max(self._ratio, _ROOT_RATIO)
        except OSError:
            return
        ratio = self._ratio
        total, free = state.f_blocks * state.f_frsize, state.f_bavail * state.f_frsize
        inodes, free_inodes = state.f_files, state.f_favail
        self._capacity = min(self._wanted, int((1 - ratio) * total))
        if not self._wanted_items and inodes:
            self._items = int((1 - ratio) * inodes)
        share = min(free / total if total else 1.0, free_inodes / inodes if inodes else 1.0)
        refused = bool(self._refused) and time.monotonic() - self._refused < _FULL_FOR_S
        self.raw_full = share < ratio or refused
        self.stage_full = share < ratio / 2 or refused
        self._lack_bytes = int(ratio * total) - free
        self._lack_items = int(ratio * inodes) - free_inodes

    def note_full(self, error: OSError) -> None:
        """A write was refused."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            self._refused = time.monotonic()
            self.raw_full = self.stage_full = True

    def exceeded(self, index: Index) -> bool:
        return index.used > self._capacity or len(index) - index.staged > self._items

    def fits(self, size: int, index: Index) -> bool:
        """Whether a file of this size may be made: half of the room is for blocks."""
        if self.raw_full or size > self._capacity // 2:
            return False
        return self._evicting or index.used + size <= self._capacity

    def goal(self) -> Goal:
        """A bit below the bounds, so that not every insertion evicts."""
        used, items = int(self._capacity * _BYTES_GOAL), int(self._items * _ITEMS_GOAL)
        return Goal(used, items, self._lack_bytes, self._lack_items)

    def _seems_unmounted(self) -> bool:
        """Whether the disk went away and its mount point, on the root file system, is being filled instead."""
        return (
            not os.path.exists(f"{self._path}/.lock")
            and os.stat(os.path.dirname(self._path)).st_dev == os.stat("/").st_dev
        )
