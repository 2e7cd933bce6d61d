"""Waiting for a lock that somebody else holds.

Not who may have it (`meta.rules.locks`). No engine tells us when another client releases a lock, so that is asked
again and again, less and less often; a release by this client wakes its own waiters at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

_FIRST_S = 0.001
_LONGEST_S = 0.02  # also how long an interruption may go unnoticed


class LockWaits:
    """The waiters of one client, by inode."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiters: dict[int, int] = {}
        self._releases: dict[int, int] = {}  # counted per inode while somebody waits for it

    def wait(self, ino: int, attempt: Callable[[], bool], interrupted: Callable[[float], bool]) -> bool:
        """Attempt until it succeeds; False if `interrupted` (asked with a time to wait for it) says so first."""
        with self._changed:
            self._waiters[ino] = self._waiters.get(ino, 0) + 1
        try:
            pause = _FIRST_S
            while True:
                seen = self._releases.get(ino, 0)
                if attempt():
                    return True
                with self._changed:
                    if self._releases.get(ino, 0) == seen:
                        self._changed.wait(pause)
                if interrupted(0):
                    return False
                pause = min(pause * 1.5, _LONGEST_S)
        finally:
            with self._changed:
                self._waiters[ino] -= 1
                if not self._waiters[ino]:
                    del self._waiters[ino]
                    self._releases.pop(ino, None)

    def released(self, ino: int) -> None:
        """This client has released or reduced a lock of the inode."""
        if ino not in self._waiters:
            return
        with self._changed:
            if ino in self._waiters:
                self._releases[ino] = self._releases.get(ino, 0) + 1
                self._changed.notify_all()
