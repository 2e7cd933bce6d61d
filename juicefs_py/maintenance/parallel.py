"""The same work on many things, several at a time, with results. Not for work that finds more work (`control.crew`)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import TypeVar

from chunkstore.workers import Workers

_AHEAD = 2  # items per thread that are taken before their results are asked for
_CLOSE_S = 5.0

T = TypeVar("T")
R = TypeVar("R")


def results(work: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """What `work` makes of each item, as it is done, in any order. The first failure is raised and ends it.

    Items are taken, and results given, in the thread of whoever iterates.
    """
    workers = Workers("maintenance", threads)
    done: SimpleQueue[tuple[bool, R | BaseException]] = SimpleQueue()
    given_up = threading.Event()

    def run(item: T) -> None:
        try:
            if not given_up.is_set():
                done.put((True, work(item)))
        except BaseException as error:  # handed over, whatever it is
            done.put((False, error))

    running = 0
    try:
        for item in items:
            workers.submit(run, item)
            running += 1
            if running >= threads * _AHEAD:
                running -= 1
                yield _result(*done.get())
        for _ in range(running):
            yield _result(*done.get())
    finally:
        given_up.set()
        workers.close(_CLOSE_S)


def _result(good: bool, value: R | BaseException) -> R:
    if good:
        return value  # type: ignore[return-value]  # it is what `work` has returned
    assert isinstance(value, BaseException)
    raise value
