"""The parent of the serving process: forwards signals to it, starts it again when it dies, and cleans up behind it.

It has one thread, no connection and no memory to speak of, so that it outlives whatever happens to its child.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from types import FrameType

from juicefs_py.cli import log
from juicefs_py.cli.report import report
from juicefs_py.mount.prepare import lazy_umount
from juicefs_py.mount.process import flush_streams

UNMOUNT_AND_STOP = 11
"""Exit code of the serving process that asks for exactly that."""

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_FAILURES, _WITHIN_S = 3, 10.0


class Told:
    """What the serving process tells its supervisor, in memory that both see."""

    _FIELDS = struct.Struct("=?q")
    _NO_DEVICE = -1

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, self._FIELDS.size)
        self._FIELDS.pack_into(self._memory, 0, False, self._NO_DEVICE)

    @property
    def served(self) -> bool:
        """Whether any generation has served."""
        return bool(self._FIELDS.unpack_from(self._memory)[0])

    @property
    def device(self) -> int | None:
        """The device number (`Mount.minor`) of what was mounted last; None before."""
        device = int(self._FIELDS.unpack_from(self._memory)[1])
        return None if device == self._NO_DEVICE else device

    def mounted(self, device: int) -> None:
        self._FIELDS.pack_into(self._memory, 0, self.served, device)

    def serves(self) -> None:
        self._FIELDS.pack_into(self._memory, 0, True, self._FIELDS.unpack_from(self._memory)[1])


class Supervisor:
    """Runs `serve(told)` in a child until it ends for good."""

    def __init__(self, mountpoint: str, serve: Callable[[Told], int]) -> None:
        self.mountpoint = mountpoint
        self._serve = serve
        self._child = 0
        self._stopping = False
        self._told = Told()

    def run(self) -> int:
        """Until the mount is gone; the exit code."""
        for number in _FORWARDED:
            signal.signal(number, self._forward)
        failures: deque[float] = deque(maxlen=_FAILURES)
        while True:
            self._start()
            problem = self._wait()
            if problem is None:
                return 0
            if not self._told.served:
                return 1  # it never served, and has said why
            if self._stopping:
                lazy_umount(self.mountpoint, self._told.device)
                return 0
            failures.append(time.monotonic())
            lazy_umount(self.mountpoint, self._told.device)
            if len(failures) == _FAILURES and failures[-1] - failures[0] < _WITHIN_S:
                log.LOG.error("fail %d times in %.0f s, give up", _FAILURES, failures[-1] - failures[0])
                return 1
            log.LOG.error("mount process %d: %s, will restart in 1 second", self._child, problem)
            time.sleep(1)

    def _start(self) -> None:
        flush_streams()
        # A signal between fork and the child's own handlers must wait, or it would be handled as the supervisor's.
        signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
        pid = os.fork()
        if pid == 0:
            self._be_child()
        self._child = pid
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)

    def _be_child(self) -> None:
        code = 1
        try:
            for number in _FORWARDED:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
            code = self._serve(self._told)
        except BaseException as error:  # the outermost frame of this process
            report(error)
        finally:
            flush_streams()
            os._exit(code)

    def _wait(self) -> str | None:
        """Wait for the child; None if it ended well, otherwise what happened."""
        _, status = os.waitpid(self._child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code == UNMOUNT_AND_STOP:
            log.LOG.error("received umount exit code")
            lazy_umount(self.mountpoint, self._told.device)
            return None
        if code == 0:
            return None
        return f"signal: {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"

    def _forward(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGHUP:
            self._stopping = True
        try:
            os.kill(self._child, number) if self._child else sys.exit(0)
        except ProcessLookupError:
            pass
