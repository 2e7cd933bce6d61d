"""The staging areas of all cache directories as one. Not when what is staged goes up: `chunkstore.writeback`.

A block is staged in the directory that the ring gives it, where official clients look for it, too. It is looked for in
all of them, as the directories may have been others when it was staged.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from chunkstore.cache.directory import CacheDir
from chunkstore.cache.disks import DiskCache
from chunkstore.cache.staging import Staged
from chunkstore.errors import Damaged, from_os_error
from chunkstore.naming import Block

log = logging.getLogger(__name__)


class Stager:
    """Blocks that wait on the disks of `cache`."""

    def __init__(self, cache: DiskCache) -> None:
        self._cache = cache

    @property
    def crowded(self) -> bool:
        """Whether some disk would be glad to be rid of blocks."""
        return any(each.crowded for each in self._cache.dirs)

    def stage(self, block: Block, data: memoryview, tier: int) -> bool:
        """Keep a block on its disk until `uploaded`. False if it cannot take it."""
        owner = self._cache.owner(block)
        return owner is not None and owner.stage(block, data, tier)

    def read(self, block: Block, view: memoryview) -> int | None:
        """A staged block's bytes into `view`; returns its tier, or None if it is not there (uploaded by another client,
        or removed).

        `Damaged` if its disk has changed it.
        """
        for each in self._around(block):
            try:
                return each.staging.read(block, view)
            except FileNotFoundError:
                continue
            except Damaged as error:
                raise Damaged(f"{each.staging.file_of(block)} is damaged: {error}") from None
            except OSError as error:
                raise from_os_error(error, f"read staged block {each.staging.file_of(block)}") from error
        return None

    def uploaded(self, block: Block) -> None:
        """The bucket has it."""
        for each in self._around(block):
            try:
                each.staging.drop(block)
                each.note_uploaded(block)
            except OSError as error:
                log.warning("%s was uploaded but cannot be removed: %s", each.staging.file_of(block), error.strerror)

    def unstage(self, block: Block) -> None:
        """Nobody wants the block any more."""
        for each in self._around(block):
            each.unstage(block)

    def found(self) -> Iterator[Staged]:
        """What waits on the disks, left by an earlier mount or put there by another client."""
        for each in self._cache.dirs:
            for staged in each.staging.found():
                each.note_staged(staged.block, int(staged.since))
                yield staged

    def sync(self) -> None:
        """Return when everything staged before this call survives a loss of power. Raises StoreError."""
        for each in self._cache.dirs:
            try:
                each.staging.sync()
            except OSError as error:
                raise from_os_error(error, f"sync staged blocks of {each.path}") from error

    def _around(self, block: Block) -> list[CacheDir]:
        """All directories, the likeliest first."""
        owner = self._cache.owner(block)
        return sorted(self._cache.dirs, key=lambda each: each is not owner)
