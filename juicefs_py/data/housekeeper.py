"""One thread that looks after things that age: pending slices, idle read-ahead buffers. Asleep while there are none.

Not here: what a round does; each owner adds its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

ROUND_S = 0.25  # fine enough for slices that are due after 1 s


class Housekeeper:
    """Calls rounds (`round(now) -> bool`, True while there is work left) every `ROUND_S` until all are idle."""

    def __init__(self) -> None:
        self._rounds: list[Callable[[float], bool]] = []
        self._awake = threading.Event()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, round: Callable[[float], bool]) -> None:
        """Have `round` called from now on. It may not block for long and may not raise."""
        self._rounds.append(round)

    def wake(self) -> None:
        """There is work; cheap when it is known already."""
        if self._awake.is_set():
            return
        self._awake.set()
        with self._lock:
            if self._thread is None and not self._stopped.is_set():
                self._thread = threading.Thread(target=self._run, name="housekeeper", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._awake.wait()
            if self._stopped.wait(ROUND_S):
                return
            self._awake.clear()  # before looking: work that comes meanwhile sets it again
            if self._one_round(time.monotonic()):
                self._awake.set()

    def _one_round(self, now: float) -> bool:
        busy = False
        for round in self._rounds:
            try:
                busy = round(now) or busy
            except Exception:  # one owner's bug must not stop the aging of the others
                log.exception("housekeeping")
                busy = True
        return busy

    def close(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._awake.set()
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
