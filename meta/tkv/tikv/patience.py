"""How long an operation is tried, and the pauses between its attempts. Not what is tried."""

from __future__ import annotations

import random
import time
from typing import Final

from meta.errors import Unavailable

PATIENCE_S: Final = 30.0
_FIRST_S: Final = 0.002
_LONGEST_S: Final = 0.5


class Patience:
    """The time of one operation. Each `pause` is about twice as long as the one before."""

    def __init__(self, limit_s: float = PATIENCE_S) -> None:
        self._deadline = time.monotonic() + limit_s
        self._pause_s = _FIRST_S

    def pause(self, reason: object, at_least_s: float = 0.0) -> None:
        """Wait before the next attempt. `Unavailable` with the reason if there is no time for one."""
        pause_s = max(at_least_s, self._pause_s * random.uniform(0.5, 1.0))
        self._pause_s = min(2 * self._pause_s, _LONGEST_S)
        if time.monotonic() + pause_s > self._deadline:
            raise Unavailable(f"TiKV: {reason}")
        time.sleep(pause_s)

    def again(self) -> None:
        """Something was achieved: the next pause is short again."""
        self._pause_s = _FIRST_S
