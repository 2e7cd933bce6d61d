"""How many requests may be under way at once: as many as allowed while they go well, fewer while the storage suffers.

Not a limit of bytes (`limit`), and not the retries: those are whoever's who asked. A storage that answers "slow down",
or not in time, is asked by fewer at once: a third less after each such answer (at most once in `_SETTLE_S`), down to
one. Two successes raise the number by one again. And after "slow down" nobody asks anything for a moment, which gets
longer as long as it goes on.
"""

from __future__ import annotations

import random
import threading
import time
from types import TracebackType

from chunkstore.errors import Throttled, Timeout

_SETTLE_S = 1.0
_RECOVERY = 0.5
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 8.0


class Gate:
    """Lets up to `most` through at once; `enter` and `leave`, or `pass_through` as a context."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._allowed = float(most)
        self._inside = 0
        self._changed = threading.Condition(threading.Lock())
        self._waiting = 0
        self._settled = 0.0  # when the number may be lowered again
        self._closed_until = 0.0
        self._pause_s = 0.0

    @property
    def allowed(self) -> int:
        """How many may be inside now."""
        return max(1, int(self._allowed))

    def enter(self, timeout_s: float | None = None, stop: threading.Event | None = None) -> bool:
        """Wait for a place. False if none came free in time, or `stop` was set meanwhile; 0 asks without waiting."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            if self._inside < self.allowed and not self._closed_until:
                self._inside += 1
                return True
            while True:
                now = time.monotonic()
                closed = self._closed_until - now
                if self._inside < self.allowed and closed <= 0:
                    self._closed_until = 0.0
                    self._inside += 1
                    return True
                if (deadline is not None and now >= deadline) or (stop is not None and stop.is_set()):
                    return False
                waits = [0.25] if stop is not None else []
                if closed > 0:
                    waits.append(closed)
                if deadline is not None:
                    waits.append(deadline - now)
                self._waiting += 1
                self._changed.wait(min(waits) if waits else None)
                self._waiting -= 1

    def leave(self, failure: BaseException | None = None) -> None:
        """Give the place back, and tell how it went."""
        with self._changed:
            self._inside -= 1
            if failure is None:
                if self._allowed < self.most:
                    self._allowed = min(float(self.most), self._allowed + _RECOVERY)
                self._pause_s = 0.0
            elif isinstance(failure, Throttled | Timeout):
                self._suffer(isinstance(failure, Throttled))
            if self._waiting:
                self._changed.notify(2 if failure is None else 1)

    def _suffer(self, asked_to: bool) -> None:
        now = time.monotonic()
        if now >= self._settled:
            self._settled = now + _SETTLE_S
            self._allowed = max(1.0, min(self._allowed, self._inside + 1.0) * 2 / 3)
        if asked_to and now >= self._closed_until:
            self._pause_s = min(_LONGEST_PAUSE_S, max(_FIRST_PAUSE_S, 2 * self._pause_s))
            self._closed_until = now + self._pause_s * random.uniform(0.5, 1.0)

    def pass_through(self, timeout_s: float | None = None, stop: threading.Event | None = None) -> _Pass:
        """A context that waits for a place (`Timeout` if none comes free) and gives it back."""
        return _Pass(self, timeout_s, stop)


class _Pass:
    __slots__ = ("_gate", "_stop", "_timeout_s")

    def __init__(self, gate: Gate, timeout_s: float | None, stop: threading.Event | None) -> None:
        self._gate = gate
        self._timeout_s = timeout_s
        self._stop = stop

    def __enter__(self) -> None:
        if not self._gate.enter(self._timeout_s, self._stop):
            raise Timeout(f"no place for a request came free in {self._timeout_s or 0:g} s")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gate.leave(error)
