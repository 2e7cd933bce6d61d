"""What a block cache offers to the store, and the cache that keeps nothing."""

from __future__ import annotations

from typing import Protocol

from chunkstore.buffers import Page
from chunkstore.naming import Block


class BlockCache(Protocol):
    """Plain bytes of blocks, close at hand. No method raises for trouble of its own."""

    enabled: bool

    def read_into(self, block: Block, offset: int, view: memoryview) -> bool:
        """Fill `view` from `offset` of the block on. False: not (intact) here, and `view` may hold anything."""
        ...

    def insert(self, block: Block, page: Page, forced: bool = False) -> None:
        """Keep the block; its page holds at least its size. May be dropped, less easily when `forced`.

        What was kept under the same name is gone in any case: numbers of slices come again when metadata was restored
        from a backup, and the block is what the bucket holds.
        """
        ...

    def remove(self, block: Block) -> None:
        """Forget the block."""
        ...

    def where(self, block: Block) -> str | None:
        """Where the block is kept, for people; None if it is not."""
        ...

    def usage(self) -> tuple[int, int]:
        """Blocks and bytes kept."""
        ...

    def memory(self) -> int:
        """Bytes of this process's memory that hold cached data."""
        ...

    def flush(self, timeout_s: float) -> bool:
        """Wait until what was inserted is where it stays. False if it took too long."""
        ...

    def close(self, timeout_s: float) -> bool:
        """Stop the threads. False if some did not end in time."""
        ...


class NoCache(BlockCache):
    """Keeps nothing."""

    enabled = False

    def read_into(self, block: Block, offset: int, view: memoryview) -> bool:
        return False

    def insert(self, block: Block, page: Page, forced: bool = False) -> None:
        pass

    def remove(self, block: Block) -> None:
        pass

    def where(self, block: Block) -> str | None:
        return None

    def usage(self) -> tuple[int, int]:
        return 0, 0

    def memory(self) -> int:
        return 0

    def flush(self, timeout_s: float) -> bool:
        return True

    def close(self, timeout_s: float) -> bool:
        return True
