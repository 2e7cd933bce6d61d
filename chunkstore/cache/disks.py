"""The disk cache: one or several cache directories as one. Not a store: whatever is lost here is fetched again.

A block lives in the directory that the ring names; blocks that an older release put elsewhere are still found.
"""

from __future__ import annotations

import glob
import os
import time
from typing import NamedTuple

from chunkstore.buffers import Page
from chunkstore.cache.directory import CacheDir
from chunkstore.cache.folders import make_dirs
from chunkstore.cache.health import State
from chunkstore.cache.interface import BlockCache
from chunkstore.cache.memory import FALLBACK_SIZE, MemoryCache
from chunkstore.cache.ring import Ring, fnv1
from chunkstore.config import StoreConfig
from chunkstore.metrics import Counters
from chunkstore.naming import Block

_QUEUE_SHARE = 0.2  # of the buffers may wait to be written to the cache


def expand(patterns: tuple[str, ...]) -> list[str]:
    """The directories that patterns stand for, sorted. A tail without wildcards (the UUID) need not exist."""
    found: set[str] = set()
    for pattern in patterns:
        parent, tail = pattern.rstrip("/"), ""
        while glob.has_magic(parent) and not glob.has_magic(os.path.basename(parent)):
            tail = os.path.join(os.path.basename(parent), tail) if tail else os.path.basename(parent)
            parent = os.path.dirname(parent)
        if glob.has_magic(parent):
            found.update(os.path.join(match, tail) if tail else match for match in glob.glob(parent))
        else:
            found.add(parent)
    return sorted(found)


def open_dirs(config: StoreConfig, counters: Counters) -> tuple[list[CacheDir], list[str]]:
    """The directories that can be used, and a sentence for each that cannot."""
    paths = [path for path in expand(config.cache_dirs) if config.auto_create or os.path.isdir(path)]
    usable, problems = [], []
    for path in paths:
        try:
            make_dirs(os.path.join(path, "raw"), config.cache_mode)
            if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
                raise PermissionError(13, "not writable", path)
            usable.append(path)
        except OSError as error:
            problems.append(f"cache directory {path} cannot be used: {error.strerror or error}")
    dirs = []
    for path in usable:
        share = len(usable)
        queue = int(config.buffer_size * _QUEUE_SHARE / share)
        dirs.append(CacheDir(path, config, config.cache_size // share, config.cache_items // share, counters, queue))
    return dirs, problems


class _Routes(NamedTuple):
    """Which directory a block belongs to, of those that are alive. Replaced whole, as threads use it meanwhile."""

    by_id: dict[str, CacheDir]
    ring: Ring
    single: CacheDir | None

    @classmethod
    def of(cls, dirs: list[CacheDir]) -> _Routes:
        by_id = {each.id: each for each in dirs}
        return cls(by_id, Ring(list(by_id)), dirs[0] if len(dirs) == 1 else None)

    def owner(self, key: str) -> CacheDir:
        return self.by_id[self.ring.owner(key)]


class DiskCache(BlockCache):
    """Blocks in `dirs`, at least one."""

    enabled = True

    def __init__(self, dirs: list[CacheDir], config: StoreConfig, counters: Counters) -> None:
        self._all = dirs
        self._hash_prefix = config.hash_prefix
        self._fallback = MemoryCache(config, FALLBACK_SIZE, counters)
        self._routes = _Routes.of(dirs)

    @property
    def dirs(self) -> list[CacheDir]:
        """All directories, whatever their state."""
        return self._all

    def owner(self, block: Block) -> CacheDir | None:
        """The directory that a block belongs to; None when every disk is down."""
        return self._of(block)

    def _of(self, block: Block) -> CacheDir | None:
        """Where a block belongs; None when every disk is down."""
        routes = self._routes
        owner = routes.single or routes.owner(block.key(self._hash_prefix))
        if owner.health.state is not State.DOWN:
            return owner
        living = [each for each in self._all if each.health.state is not State.DOWN]
        if not living:
            return None
        routes = self._routes = _Routes.of(living)
        return routes.single or routes.owner(block.key(self._hash_prefix))

    def _legacy(self, block: Block) -> CacheDir:
        return self._all[fnv1(block.key(self._hash_prefix).encode()) % len(self._all)]

    def _others(self, block: Block, owner: CacheDir) -> list[CacheDir]:
        """Where else a block may be: in its legacy place, or where it was staged when the directories were others."""
        if len(self._all) == 1:
            return []
        legacy = self._legacy(block)
        return [each for each in self._all if each is not owner and (each is legacy or each.holds_staged(block))]

    def read_into(self, block: Block, offset: int, view: memoryview) -> bool:
        single = self._routes.single
        owner = single if single and single.health.state is State.NORMAL else self._of(block)
        if owner is None:
            return self._fallback.read_into(block, offset, view)
        if owner.read_into(block, offset, view):
            return True
        return any(other.read_into(block, offset, view) for other in self._others(block, owner))

    def insert(self, block: Block, page: Page, forced: bool = False) -> None:
        owner = self._of(block)
        if owner is None:
            self._fallback.insert(block, page, forced)
        else:
            owner.insert(block, page, forced)
            if len(self._all) > 1 and (other := self._legacy(block)) is not owner:
                other.remove(block)  # reads look there, too

    def remove(self, block: Block) -> None:
        self._fallback.remove(block)
        owner = self._of(block)
        if owner is not None:
            owner.remove(block)
        if len(self._all) > 1 and (other := self._legacy(block)) is not owner:
            other.remove(block)

    def where(self, block: Block) -> str | None:
        owner = self._of(block)
        if owner is None:
            return self._fallback.where(block)
        places = (each.where(block) for each in (owner, *self._others(block, owner)))
        return next((place for place in places if place is not None), None)

    def usage(self) -> tuple[int, int]:
        usages = [self._fallback.usage(), *(each.usage() for each in self._all)]
        return sum(blocks for blocks, _ in usages), sum(size for _, size in usages)

    def memory(self) -> int:
        return self._fallback.memory()

    def flush(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        flushed = [each.flush(max(0.0, deadline - time.monotonic())) for each in self._all]  # each, whatever the others
        return all(flushed)

    def close(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        closed = [each.close(max(0.0, deadline - time.monotonic())) for each in self._all]
        return all(closed)
