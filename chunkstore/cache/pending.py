"""Blocks on their way to a cache disk: readable at once, bounded in bytes and number. Not the thread that writes them.

Not thread-safe: the directory's lock is held by whoever calls. Each waiting block holds its page.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from chunkstore.buffers import Page
from chunkstore.naming import Block

_MOST_BLOCKS = 4096  # so that many tiny blocks do not queue without end


class Waiting(NamedTuple):
    """One block that is not on the disk yet."""

    block: Block
    page: Page


class Pending:
    """Up to `limit` bytes in the queue; the one being written is still found, but no longer counted."""

    def __init__(self, limit: int) -> None:
        self.queued_bytes = 0
        self.writing = 0  # taken from the queue and not settled
        self._limit = limit
        self._waiting: dict[int, Waiting] = {}
        self._queue: deque[int] = deque()

    def __contains__(self, key: int) -> bool:
        return key in self._waiting

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        return not self._queue and not self.writing

    def page(self, key: int) -> Page | None:
        """The page of a waiting block."""
        found = self._waiting.get(key)
        return None if found is None else found.page

    def fits(self, size: int) -> bool:
        """Whether the queue has room. An empty one has, however large the block."""
        return not self._queue or (self.queued_bytes + size <= self._limit and len(self._queue) < _MOST_BLOCKS)

    def add(self, key: int, block: Block, page: Page) -> None:
        """Queue a block with a hold on its page."""
        self._waiting[key] = Waiting(block, page)
        self._queue.append(key)
        self.queued_bytes += block.size

    def take(self) -> tuple[int, Waiting] | None:
        """The next to write; None if there is none. It stays readable until `settle`."""
        if not self._queue:
            return None
        key = self._queue.popleft()
        waiting = self._waiting[key]
        self.queued_bytes -= waiting.block.size
        self.writing += 1
        return key, waiting

    def settle(self, key: int, waiting: Waiting) -> bool:
        """After the attempt to write. False if the block was dropped meanwhile (its page has been handed back then)."""
        self.writing -= 1
        if self._waiting.get(key) is not waiting:
            return False
        del self._waiting[key]
        return True

    def drop(self, key: int) -> Page | None:
        """Forget a block; the page, if there was one, is the caller's to release."""
        waiting = self._waiting.pop(key, None)
        if waiting is None:
            return None
        if key in self._queue:
            self._queue.remove(key)
            self.queued_bytes -= waiting.block.size
        return waiting.page
