"""Limits of transfer: a token bucket of bytes per second. Not a limit of requests at once."""

from __future__ import annotations

import threading
import time

_SHARE = 0.85  # of the nominal rate: the rest is headers and retransmission, as upstream reckons
_BURST_S = 0.1


class RateLimit:
    """At most `mbps` megabits (10^6) a second; 0 is without limit. May change while in use."""

    def __init__(self, mbps: float = 0.0) -> None:
        self._lock = threading.Lock()
        self._rate = 0.0  # bytes per second
        self._burst = 0.0
        self._tokens = 0.0
        self._updated = time.monotonic()
        self.set(mbps)

    @property
    def limited(self) -> bool:
        """Whether anybody may have to wait."""
        return self._rate > 0

    def set(self, mbps: float) -> None:
        """Change the limit; those who wait go on under their old one."""
        with self._lock:
            nominal = mbps * 1e6 / 8
            self._rate = nominal * _SHARE
            self._burst = nominal * _BURST_S
            self._tokens = min(self._tokens, self._burst) if self._tokens else self._burst

    def wait(self, size: int, stop: threading.Event | None = None) -> None:
        """Wait until `size` bytes may pass, or `stop` is set. Large ones go into debt: nothing waits forever."""
        if not self._rate:
            return
        with self._lock:
            now = time.monotonic()
            self._tokens = min(self._burst, self._tokens + (now - self._updated) * self._rate) - size
            self._updated = now
            delay = -self._tokens / self._rate
        if delay > 0:
            if stop is not None:
                stop.wait(delay)
            else:
                time.sleep(delay)
