"""Waiting for a lock, or a place, only so long: every request of a bucket has to end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

from chunkstore.errors import Timeout

Lock: TypeAlias = "threading.Lock | threading.Semaphore"


@contextmanager
def within(timeout_s: float, lock: Lock, complaint: str) -> Iterator[None]:
    """Hold `lock`; after `timeout_s` of waiting for it: `Timeout` with that complaint."""
    if not lock.acquire(timeout=timeout_s):
        raise Timeout(f"{complaint} for {timeout_s:g} s")
    try:
        yield
    finally:
        lock.release()
