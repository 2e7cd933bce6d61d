"""How often a supervisor starts another serving process.

Not here: starting it (`supervisor`). Two kinds of failure: a process that died, of which three within ten seconds are
given up, as official clients do; and a successor that ended by itself before it served, because the database is away,
say. The kernel's requests wait for the next one meanwhile, so that is tried for minutes, with pauses that grow.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Final

_DEATHS: Final = 3
_WITHIN_S: Final = 10.0
_PAUSE_S: Final = 1.0  # before a restart that follows closely on another
_LONGEST_PAUSE_S: Final = 30.0
_UNABLE_S: Final = 300.0


class Patience:
    """Counts failures; afterwards, as a string, tells what they were."""

    def __init__(self) -> None:
        self._deaths: deque[float] = deque(maxlen=_DEATHS)
        self._unable_since = 0.0
        self._unable = 0

    def __str__(self) -> str:
        if self._unable:
            return f"no mount process could begin for {time.monotonic() - self._unable_since:.0f} s"
        return f"fail {len(self._deaths)} times in {self._deaths[-1] - self._deaths[0]:.0f} s"

    def served(self) -> None:
        """One has begun: what kept others from it is over."""
        self._unable = 0

    def after_failure(self, died: bool) -> float | None:
        """Seconds to wait before the next try, None for no other. `died`: it did not just find that it cannot serve."""
        now = time.monotonic()
        if not died:
            if not self._unable:
                self._unable_since = now
            self._unable += 1
            pause_s = min(_PAUSE_S * 2 ** min(self._unable - 1, 10), _LONGEST_PAUSE_S)
            return None if now - self._unable_since > _UNABLE_S else pause_s
        self._unable = 0
        self._deaths.append(now)
        if len(self._deaths) == _DEATHS and now - self._deaths[0] < _WITHIN_S:
            return None
        return _PAUSE_S if len(self._deaths) > 1 and now - self._deaths[-2] < _WITHIN_S else 0.0
