"""Whether the serving process still answers, as its supervisor sees it.

Not here: what becomes of one that was killed (`supervisor`). The question is to open an internal file, which needs the
serving process and nothing behind it: a database or a storage that is away does not count as silence. Nor does a queue:
with all its threads waiting for a storage nobody reads the question, and the process notes that itself (`is_alive`).
"""

from __future__ import annotations

import os
import signal
import time
from typing import Final

from fuse.mountinfo import find_mount
from juicefs_py.cli import log
from juicefs_py.ledger import Ledger
from juicefs_py.mount.process import in_a_child_within

ASK_EVERY_S: Final = 5.0
_ANSWER_WITHIN_S: Final = 1.0
_WARN_S, _ABORT_S, _KILL_S = 30.0, 90.0, 120.0  # of silence


class Watchdog:
    """Asks now and then; aborts a process that is silent for long, so that its stacks are in the log, then kills it."""

    def __init__(self, mountpoint: str, prefixed: bool, ledger: Ledger) -> None:
        self._mountpoint = mountpoint
        self._file = f"{mountpoint}/{'.jfs' if prefixed else ''}.config"
        self._ledger = ledger
        self._alive = 0
        self.forget()

    def forget(self) -> None:
        """Another process serves."""
        self._answered = time.monotonic()
        self._done = 0

    def ask(self, pid: int) -> None:
        """See whether the process answers, and do what its silence asks for."""
        try:
            found = find_mount(self._mountpoint)
            if found is None or found.minor != self._ledger.device:
                self.forget()  # whoever is mounted on top of it would answer
                return
            answered = in_a_child_within(_ANSWER_WITHIN_S, self._open) is not None
        except OSError as error:  # no process, descriptor or memory for that: nothing is known
            log.LOG.warning("cannot ask mount process %d whether it answers: %s", pid, error.strerror)
            return
        was_alive, self._alive = self._alive, self._ledger.alive
        if answered or self._alive != was_alive:
            self.forget()
            return
        silent_s = time.monotonic() - self._answered
        steps = [step for step, after_s in enumerate((_WARN_S, _ABORT_S, _KILL_S), 1) if silent_s >= after_s]
        step = max(steps, default=0)
        if step <= self._done:
            return
        self._done = step
        if step == 1:
            log.LOG.warning("mount process %d has not answered for %.0f s", pid, silent_s)
            return
        number = signal.SIGABRT if step == 2 else signal.SIGKILL
        log.LOG.error("mount process %d has not answered for %.0f s, %s", pid, silent_s, number.name)
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass

    def _open(self) -> bytes:
        try:
            os.close(os.open(self._file, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            pass  # an answer as well
        return b""
