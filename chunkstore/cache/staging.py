"""Blocks that live on a local disk until they are uploaded: `{dir}/rawstaging/{key}`, in one cache directory.

Not when they go up: that is `chunkstore.writeback`. A staged block is one file with two names, the second one below
`raw/`: two links are the lasting sign of a block that its bucket does not have, and what is left when the first name
goes is an ordinary cached block. Official clients read and write the same.

Crash points. The file gets its name by rename, so a staging name never shows half a block. Without its second link the
block is only not cached. A staging name is taken away after the upload alone, so whatever happens before, the next
mount finds it and uploads again, which does no harm.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import NamedTuple

from chunkstore.cache import blockfile
from chunkstore.cache.folders import make_dirs, unlink_quietly
from chunkstore.config import StoreConfig
from chunkstore.dirty import Dirty
from chunkstore.naming import Block, parse

_STALE_S = 60.0


class Staged(NamedTuple):
    """One block that waits for its upload."""

    block: Block
    since: float  # seconds since the epoch


class StagingArea:
    """The staged blocks of one cache directory. Raises OSError as it comes."""

    def __init__(self, path: str, config: StoreConfig) -> None:
        self.path = path
        self._config = config
        self._with_checksums = config.cache_checksum != "none"
        self._dirty = Dirty()
        self._dirty.add(path)  # made for this mount, perhaps

    def file_of(self, block: Block) -> str:
        return f"{self.path}/rawstaging/{block.key(self._config.hash_prefix)}"

    def write(self, block: Block, data: memoryview, tier: int, cached: str) -> None:
        """Keep a block, and link it to `cached`, its place in the cache, where that is possible."""
        path = self.file_of(block)
        mode = self._config.cache_mode
        try:
            blockfile.write(path, data, mode, self._with_checksums, tier)
        except FileNotFoundError:
            for folder in make_dirs(os.path.dirname(path), mode):
                self._dirty.add(folder)
            blockfile.write(path, data, mode, self._with_checksums, tier)
        self._dirty.add(path)
        try:
            self._link(path, cached)
        except OSError:
            unlink_quietly(cached)  # an older block of this name; reads find the staged one

    def _link(self, path: str, cached: str) -> None:
        for attempt in range(2):
            try:
                os.link(path, cached)
                return
            except FileExistsError:
                unlink_quietly(cached)
            except FileNotFoundError:
                make_dirs(os.path.dirname(cached), self._config.cache_mode)
            if attempt:
                os.link(path, cached)

    def read(self, block: Block, view: memoryview) -> int:
        """A staged block's bytes into `view`, verified if they have sums, whatever the cache is told; returns its tier.

        `FileNotFoundError` or `Damaged` if it cannot be had.
        """
        file = blockfile.BlockFile(self.file_of(block), block.size)
        file.read_into(0, view, "full")
        return file.tier()

    def holds(self, block: Block) -> bool:
        """Whether the block is staged here."""
        return os.path.exists(self.file_of(block))

    def drop(self, block: Block) -> None:
        """The block is uploaded, or nobody wants it any more."""
        try:
            os.unlink(self.file_of(block))
        except FileNotFoundError:
            pass

    def sync(self) -> None:
        """Return when everything staged before this call survives a loss of power."""
        self._dirty.flush()

    def found(self) -> Iterator[Staged]:
        """What is staged on the disk, by whichever client."""
        root = f"{self.path}/rawstaging"
        for folder, _, names in os.walk(root):
            for name in names:
                path = f"{folder}/{name}"
                if name.endswith(".tmp"):
                    _remove_stale(path)
                    continue
                block = parse(name)
                if block is None or not block.size or path != self.file_of(block):
                    continue
                try:
                    yield Staged(block, os.stat(path).st_mtime)
                except OSError:  # uploaded by somebody else just now
                    continue


def _remove_stale(path: str) -> None:
    """Half a block of a mount that was killed; a younger one may be written just now."""
    try:
        if time.time() - os.stat(path).st_mtime > _STALE_S:
            os.unlink(path)
    except OSError:
        pass
