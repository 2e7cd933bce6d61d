"""A small, elastic set of threads for work that waits on disks and networks.

Not `concurrent.futures`: its threads hold up the end of the process, which a bucket that hangs must never do. Threads
start when there is work and none is idle, up to a bound, and go after a while without work.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from chunkstore.errors import Cancelled

_IDLE_S = 10.0  # long enough to serve a burst of small files with one thread


class Workers:
    """Runs tasks in order of submission on at most `limit` daemon threads. A task handles its own errors."""

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._gone = threading.Condition(self._lock)
        self._tasks: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._idle = 0
        self._threads = 0
        self._started = 0
        self._closing = False

    @property
    def queued(self) -> int:
        """Tasks that no thread has taken yet."""
        return len(self._tasks)

    def submit(self, task: Callable[..., object], *args: Any) -> None:
        """Queue a task. Whoever submits bounds their number (by page, by queue length); this does not."""
        with self._lock:
            if self._closing:
                raise Cancelled(f"{self._name}: the store is closing")
            self._tasks.append((task, args))
            if self._idle >= len(self._tasks) or self._threads >= self._limit:
                self._work.notify()
                return
            self._threads += 1
            self._started += 1
            number = self._started
        threading.Thread(target=self._run, name=f"{self._name}-{number}", daemon=True).start()

    def close(self, timeout_s: float) -> bool:
        """Finish what is queued, and join the threads. False if some did not end in time."""
        deadline = time.monotonic() + timeout_s
        with self._lock:
            self._closing = True
            self._work.notify_all()
            while self._threads:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._gone.wait(left)
        return True

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._tasks:
                    self._idle += 1
                    woken = not self._closing and self._work.wait(_IDLE_S)
                    self._idle -= 1
                    if not self._tasks and (self._closing or not woken):
                        self._threads -= 1
                        self._gone.notify_all()
                        return
                task, args = self._tasks.popleft()
            task(*args)
            del task, args  # an idle thread holds nobody's page
