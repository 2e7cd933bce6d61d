"""The budget of bytes: respected, shared, and never a reason to wait forever."""

from __future__ import annotations

import threading
import time

import pytest

from chunkstore.buffers import BufferPool
from chunkstore.errors import Cancelled, Timeout

MIB = 1 << 20


def test_pages_are_counted_until_their_last_holder_lets_go() -> None:
    pool = BufferPool(8 * MIB)
    page = pool.take(4 * MIB)
    assert pool.used == 4 * MIB and len(page.data) == 4 * MIB
    page.retain().release()
    assert pool.used == 4 * MIB
    page.release()
    assert pool.used == 0


@pytest.mark.parametrize(
    ("size", "capacity"),
    [(1, 1), (4096, 4096), (65536, 65536), (65537, 131072), (3 * MIB, 4 * MIB), (4 * MIB, 4 * MIB)],
)
def test_capacity(size: int, capacity: int) -> None:
    pool = BufferPool(64 * MIB)
    page = pool.take(size)
    assert (page.size, page.capacity, pool.used) == (size, capacity, capacity)
    page.release()


def test_buffers_are_used_again_and_given_back() -> None:
    pool = BufferPool(64 * MIB)
    first = pool.take(MIB)
    first.data[:3] = b"abc"
    first.release()
    assert pool.resident == MIB
    again = pool.take(MIB)
    assert bytes(again.data[:3]) == b"abc"  # the very same memory
    again.release()
    pool.trim(idle_s=60)
    assert pool.resident == MIB
    pool.trim()
    assert pool.resident == 0


def test_free_buffers_are_bounded() -> None:
    pool = BufferPool(16 * MIB)
    pages = [pool.take(MIB) for _ in range(16)]
    for page in pages:
        page.release()
    assert pool.resident == 4 * MIB


def test_take_waits_for_room() -> None:
    pool = BufferPool(2 * MIB, patience_s=10)
    held = pool.take(2 * MIB)
    threading.Timer(0.1, held.release).start()
    start = time.monotonic()
    page = pool.take(MIB)
    assert 0.05 < time.monotonic() - start < 5
    assert pool.overdrafts == 0
    page.release()


def test_take_overdraws_after_patience_but_never_past_twice_the_budget() -> None:
    pool = BufferPool(2 * MIB, patience_s=0.02)
    pages = [pool.take(MIB) for _ in range(4)]
    assert (pool.used, pool.overdrafts) == (4 * MIB, 2)
    with pytest.raises(Timeout):
        pool.take(MIB, timeout_s=0.1)
    assert pool.used == 4 * MIB
    for page in pages:
        page.release()
    assert pool.used == 0


def test_a_page_larger_than_the_budget_is_given_alone() -> None:
    pool = BufferPool(MIB)
    pool.take(4 * MIB).release()


def test_waiting_can_be_given_up() -> None:
    pool = BufferPool(MIB, patience_s=10)
    held = pool.take(MIB)
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(Cancelled):
        pool.take(MIB, cancelled=stop.is_set)
    with pytest.raises(Cancelled):
        pool.admit(1, cancelled=stop.is_set)
    with pytest.raises(Timeout):
        pool.admit(1, timeout_s=0.05)
    held.release()
    pool.admit(MIB, timeout_s=0)


def test_others_memory_counts() -> None:
    pool = BufferPool(MIB)
    pool.reserve(MIB)
    with pytest.raises(Timeout):
        pool.admit(1, timeout_s=0.05)
    pool.unreserve(MIB)
    pool.admit(1, timeout_s=0)


def test_budget_under_threads() -> None:
    pool = BufferPool(4 * MIB, patience_s=30)
    seen: list[int] = []

    def work(seed: int) -> None:
        for turn in range(60):
            page = pool.take(64 << 10 << (turn + seed) % 5)
            seen.append(pool.used)
            page.data[0] = 1
            page.release()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(seen) <= 4 * MIB and pool.used == 0 and pool.overdrafts == 0
