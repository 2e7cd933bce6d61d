"""Threads that share out one job: work that is found while other work is done, with nothing ever queued.

Not a pool: whoever finds work and sees no free hand does it himself. So a tree of any size is walked in the memory of
what is being done just now, one large file is fetched by as many threads as many small ones, and nobody waits for a
thread that waits for him.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

from chunkstore.workers import Workers

_CLOSE_S = 1.0

T = TypeVar("T")


class Crew:
    """Up to `helpers` threads besides whoever shares out. They are daemons: a bucket that hangs must not hold them."""

    def __init__(self, name: str, helpers: int) -> None:
        self._free = threading.Semaphore(helpers)
        self._workers = Workers(name, helpers)

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self._workers.close(_CLOSE_S)

    def share_out(self, task: Callable[[T], object], items: Iterable[T]) -> None:
        """Do a task, which handles its own errors, for every item, and return when all is done.

        The last one, and whatever finds no free helper, is done right here.
        """
        left = _Left()
        held: list[T] = []  # the item before, until another one comes
        try:
            for item in items:
                if held:
                    self._hand_over(task, held.pop(), left)
                held.append(item)
            for item in held:
                task(item)
        finally:
            left.wait()

    def _hand_over(self, task: Callable[[T], object], item: T, left: _Left) -> None:
        if not self._free.acquire(blocking=False):
            task(item)
            return
        left.one_more()
        self._workers.submit(self._help, task, item, left)

    def _help(self, task: Callable[[T], object], item: T, left: _Left) -> None:
        try:
            task(item)
        finally:
            self._free.release()
            left.one_less()


class _Left:
    """How many of one's tasks are with others."""

    def __init__(self) -> None:
        self._count = 0
        self._changed = threading.Condition(threading.Lock())

    def one_more(self) -> None:
        with self._changed:
            self._count += 1

    def one_less(self) -> None:
        with self._changed:
            self._count -= 1
            self._changed.notify_all()

    def wait(self) -> None:
        with self._changed:
            while self._count:
                self._changed.wait()
