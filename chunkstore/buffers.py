"""Memory for data on its way: one budget of bytes for writers and readers, and block buffers that are used again.

Not a cache: pages hold data only while it moves. `Page.data` is writable memory; whoever took or retained a page
releases it, and the last release gives its memory back.

Who waits for whom. Writers hold half-filled pages while they ask for more, so a budget that never gave in could stop
everybody. Therefore two doors. `admit` stands before an operation that holds nothing yet (no page, no lock): it waits
as long as it takes, up to its timeout, while the budget is used up. `take` is called in the middle of work: it waits
`patience_s` for room, then goes over the budget, up to twice as much; only there it waits until its timeout.
"""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Callable

from chunkstore.errors import Cancelled, Timeout

_POOLED = 64 << 10  # smaller buffers come cheaper from the allocator
_MAPPED = 1 << 20
_HUGE = 2 << 20
_CANCEL_POLL_S = 0.1
_GIVE_UP_S = 300.0


def new_memory(size: int) -> mmap.mmap | bytearray:
    """Memory of its own for `size` bytes, whose content is undefined; it goes back to the system when nobody holds it.

    From 1 MiB on it is mapped apart: what malloc gives back to the system, in a process with many threads, comes back
    a page fault at a time. Filling 4 MiB took 1.8 ms in fresh pages of 4 KiB, and 0.24 ms in huge ones.
    """
    if size < _MAPPED:
        return bytearray(size)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size >= _HUGE:
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
        except OSError:  # a kernel without them
            pass
    return memory


class Page:
    """Memory of at least the size asked for, counted against the budget until its last holder releases it."""

    __slots__ = ("_holders", "_memory", "_pool", "_reusable", "capacity", "data", "size")

    def __init__(self, pool: BufferPool, memory: mmap.mmap | bytearray, size: int) -> None:
        self._pool = pool
        self._memory = memory
        self._holders = 1
        self._reusable = True
        self.capacity = len(memory)
        self.size = size
        self.data = memoryview(memory)[:size]

    def retain(self) -> Page:
        """One more holder."""
        with self._pool.lock:
            self._holders += 1
        return self

    def share(self) -> memoryview:
        """The bytes, for somebody who is no holder: they outlive the page, and its memory is not used again."""
        self._reusable = False
        return self.data.toreadonly()

    def release(self) -> None:
        """One holder less; `data` must not be touched by that holder afterwards."""
        with self._pool.lock:
            self._holders -= 1
            if self._holders:
                return
        self._pool.give_back(self._memory, self._reusable)


class BufferPool:
    """The budget `limit` in bytes, and free buffers of sizes that are powers of two from 64 KiB on."""

    def __init__(self, limit: int, patience_s: float = 1.0) -> None:
        self.limit = limit
        self.lock = threading.Lock()
        self.overdrafts = 0  # pages taken over the budget
        self._patience_s = patience_s
        self._room = threading.Condition(self.lock)
        self._used = 0
        self._waiting = 0
        self._free: dict[int, list[mmap.mmap | bytearray]] = {}
        self._free_bytes = 0
        self._free_limit = limit // 4  # kept for the next writer; more goes back to the system at once
        self._last_take = time.monotonic()

    @property
    def used(self) -> int:
        """Bytes in pages, and reserved."""
        return self._used

    @property
    def resident(self) -> int:
        """Bytes of memory, the free buffers included."""
        return self._used + self._free_bytes

    def admit(self, size: int = 0, timeout_s: float = _GIVE_UP_S, cancelled: Callable[[], bool] | None = None) -> None:
        """Wait until `size` more bytes fit into the budget; takes nothing. For an operation that holds nothing yet."""
        if self._used + size <= self.limit:
            return
        with self._room:
            self._wait_for(size, self.limit, time.monotonic() + timeout_s, cancelled, "admission")

    def take(self, size: int, timeout_s: float = _GIVE_UP_S, cancelled: Callable[[], bool] | None = None) -> Page:
        """A page of `size` bytes with undefined content. `Timeout` when no memory came free in time."""
        capacity = _POOLED << max(0, (size - 1) // _POOLED).bit_length() if size >= _POOLED else size
        memory: mmap.mmap | bytearray | None = None
        with self._room:
            if self._used and self._used + capacity > self.limit:
                self._wait_or_overdraw(capacity, timeout_s, cancelled)
            self._used += capacity
            self._last_take = time.monotonic()
            free = self._free.get(capacity)
            if free:
                memory = free.pop()
                self._free_bytes -= capacity
            elif self._used + self._free_bytes > self.limit:
                self._free.clear()  # of other sizes: what is kept counts like what is used
                self._free_bytes = 0
        if memory is None:
            memory = new_memory(capacity)
        return Page(self, memory, size)

    def reserve(self, size: int) -> None:
        """Count memory that somebody else keeps (a reader's own buffers). Never waits: call `admit` first."""
        with self.lock:
            self._used += size
            if self._used + self._free_bytes > self.limit:
                self._free.clear()
                self._free_bytes = 0

    def unreserve(self, size: int) -> None:
        with self._room:
            self._used -= size
            if self._waiting:
                self._room.notify_all()

    def give_back(self, memory: mmap.mmap | bytearray, reusable: bool = True) -> None:
        """Called by the last release of a page."""
        capacity = len(memory)
        with self._room:
            self._used -= capacity
            kept = self._free_bytes + capacity
            if reusable and capacity >= _POOLED and kept <= self._free_limit and self._used + kept <= self.limit:
                self._free.setdefault(capacity, []).append(memory)
                self._free_bytes += capacity
            if self._waiting:
                self._room.notify_all()

    def trim(self, idle_s: float = 0.0) -> None:
        """Hand the free buffers back to the system if no page was taken for `idle_s` seconds."""
        with self.lock:
            if time.monotonic() - self._last_take >= idle_s:
                self._free.clear()
                self._free_bytes = 0

    def _wait_or_overdraw(self, size: int, timeout_s: float, cancelled: Callable[[], bool] | None) -> None:
        now = time.monotonic()
        try:
            self._wait_for(size, self.limit, now + min(self._patience_s, timeout_s), cancelled, "a page")
        except Timeout:
            self._wait_for(size, 2 * self.limit, now + timeout_s, cancelled, "a page")
            self.overdrafts += 1

    def _wait_for(
        self, size: int, limit: int, deadline: float, cancelled: Callable[[], bool] | None, what: str
    ) -> None:
        self._waiting += 1
        try:
            while self._used and self._used + size > limit:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise Timeout(f"no room for {what} of {size} bytes: {self._used} of {self.limit} bytes are in use")
                if cancelled is None:
                    self._room.wait(left)
                else:
                    if cancelled():
                        raise Cancelled("given up while waiting for buffers")
                    self._room.wait(min(left, _CANCEL_POLL_S))
        finally:
            self._waiting -= 1
