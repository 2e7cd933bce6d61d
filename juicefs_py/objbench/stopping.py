"""Being interrupted: INT, TERM and HUP ask for an end, and everything looks whether they have. Not what is cleaned up.

No exception out of a signal handler: it may hit any line, also one that swallows it, or one in the middle of a lock of
`threading` (a `join` that is hit takes its thread for ended, and what that thread puts afterwards would stay).
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopping:
    """Asked once, nothing new is begun; asked again, the process dies of it, as if it had not listened."""

    def __init__(self) -> None:
        self.number = 0  # the signal that asked
        self._asked = threading.Event()

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    def check(self) -> None:
        """KeyboardInterrupt if an end was asked for."""
        if self.asked:
            raise KeyboardInterrupt

    def hear(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        if self.asked:
            die_of(number)
        self.number = number
        self._asked.set()


@contextlib.contextmanager
def stopping() -> Iterator[Stopping]:
    """Listen to the signals inside; if one came, the process dies of it afterwards."""
    state = Stopping()
    heard = [each for each in _HEARD if signal.getsignal(each) is not signal.SIG_IGN]
    before = {number: signal.signal(number, state.hear) for number in heard}
    try:
        yield state
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if state.asked:
            die_of(state.number)


def die_of(number: int) -> None:
    """End this process by a signal, as one that does not handle it."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
