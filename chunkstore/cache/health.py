"""Whether a cache disk can be relied on: normal, unstable, or down for good; and what is said about it in the log.

Not here: the disk's fullness (`eviction`).

normal -> unstable after 3 errors within a minute (an error is EIO, ETIMEDOUT, or an operation that takes over 30 s).
Unstable: few operations at a time, and a probe twice a second; after a minute with 60 operations or more and no more
errors than allowed it is normal again, after 30 minutes without that it is down and its blocks go to the other disks.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable
from enum import Enum

_log = logging.getLogger(__name__)

_WINDOW_S = 60.0
_SILENT_S = 60.0  # a sick disk fails thousands of times a minute
_ERRORS_TO_UNSTABLE = 3
_PROVING_OPERATIONS = 60

FAULTS = frozenset({errno.EIO, errno.ETIMEDOUT})


class State(Enum):
    NORMAL = "normal"
    UNSTABLE = "unstable"
    DOWN = "down"


def _number(name: str, default: float) -> float:
    try:
        return float(os.environ.get(name, "").rstrip("s") or default)
    except ValueError:
        return default


class Health:
    """The state of one disk, told by the operations on it and a tick every second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, steady: bool = False) -> None:
        """`steady`: never give the disk up, as it holds what is nowhere else (write-back)."""
        self.state = State.NORMAL
        self._steady = steady
        self._clock = clock
        self._lock = threading.Lock()
        self._running: dict[int, float] = {}  # thread -> start of its operation
        self._late: set[int] = set()
        self._window = clock()
        self._since = 0.0
        self._operations = 0
        self._errors = 0
        self._max_io_s = _number("JFS_MAX_IO_DURATION", 30.0)
        self._max_error_percent = _number("JFS_MAX_IO_ERR_PERCENTAGE", 0.0)
        self._max_unstable_s = _number("JFS_MAX_DURATION_TO_DOWN", 1800.0)
        self._max_at_once = int(_number("JFS_MAX_CONCURRENCY_FOR_UNSTABLE", 10))

    def begin(self) -> bool:
        """Before an operation. False: leave it."""
        if self.state is not State.NORMAL and (self.state is State.DOWN or len(self._running) + 1 >= self._max_at_once):
            return False
        self._running[threading.get_ident()] = self._clock()
        return True

    def end(self, error: OSError | None = None) -> None:
        """After an operation that began."""
        ident = threading.get_ident()
        self._running.pop(ident, None)
        if error is None and self.state is State.NORMAL and not self._late:
            return
        with self._lock:
            self._operations += 1
            late = ident in self._late
            self._late.discard(ident)
            if error is not None and error.errno in FAULTS and not late:
                self._count_error()

    def tick(self) -> None:
        """Every second: count operations that hang, and judge at the end of each minute."""
        now = self._clock()
        with self._lock:
            for ident, start in list(self._running.items()):
                if now - start > self._max_io_s and ident not in self._late:
                    self._late.add(ident)
                    self._count_error()
            if now - self._window >= _WINDOW_S:
                self._judge(now)
                self._window, self._operations, self._errors = now, 0, 0

    def _count_error(self) -> None:
        self._errors += 1
        if self.state is State.NORMAL and self._errors >= _ERRORS_TO_UNSTABLE and not self._steady:
            self.state = State.UNSTABLE
            self._window = self._since = self._clock()
            self._operations = self._errors = 0

    def _judge(self, now: float) -> None:
        if self.state is not State.UNSTABLE:
            return
        allowed = self._operations * self._max_error_percent / 100
        if self._operations >= _PROVING_OPERATIONS and self._errors <= allowed:
            self.state = State.NORMAL
        elif now - self._since >= self._max_unstable_s:
            self.state = State.DOWN


class Complaints:
    """Warnings about one cache directory. Nobody's request fails there, so that the log is the only one to tell."""

    def __init__(self, path: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._told: dict[str, float] = {}
        self._state = State.NORMAL

    def damaged(self, file: str, problem: Exception) -> None:
        if self._due("damaged"):
            reason = str(problem).removeprefix(f"{file}: ")
            _log.warning("cached block %s is fetched again: %s; check its disk if it happens often", file, reason)

    def refused(self, problem: OSError) -> None:
        if self._due("refused"):
            _log.warning(
                "cache directory %s takes no block: %s; data comes from the storage instead, "
                "until there is room or another --cache-dir",
                self._path, problem.strerror or problem,
            )  # fmt: skip

    def state(self, state: State) -> None:
        """Called often; tells of changes."""
        if state is not self._state:
            self._state = state
            _log.warning("cache directory %s: its disk is %s now", self._path, state.value)

    def _due(self, kind: str) -> bool:
        now = self._clock()
        if now - self._told.get(kind, -_SILENT_S) < _SILENT_S:
            return False
        self._told[kind] = now
        return True
