"""Is a mount there and does it answer? A look at a mount point that can never hang the looker.

A `stat` of a dead or stuck FUSE mount may block for good, so it runs in a forked child that can be left behind.
"""

from __future__ import annotations

import errno
import os
import select
import time
from typing import NamedTuple

from juicefs_py.mount.process import in_a_child_within

_POLL_S = 0.02
_DOT_S = 0.5
_MOST_SAID = 4096  # what a pipe takes at once

SERVES, FAILED = b"1", b"!"
"""First byte of what the serving process says."""


class Look(NamedTuple):
    """What a look found: the inode number, or the errno, or neither if there was no answer in time."""

    ino: int | None
    error: int | None

    @property
    def hangs(self) -> bool:
        return self.ino is None and self.error is None


def look(path: str, limit_s: float) -> Look:
    """`stat` the path within `limit_s` seconds."""
    words = (in_a_child_within(limit_s, lambda: _look(path)) or b"").split()
    if not words:
        return Look(None, None)
    ino, error = map(int, words)
    return Look(None, error) if error else Look(ino, None)


def _look(path: str) -> bytes:
    try:
        os.statvfs(path)  # always asks the server, whereas attributes of a dead mount may still be cached
        return b"%d 0" % os.stat(path).st_ino
    except OSError as error:
        return b"0 %d" % (error.errno or errno.EIO)


def timeout_s() -> float:
    """How long a mount may take to become ready (JFS_MOUNT_TIMEOUT, 10 s)."""
    try:
        return max(1.0, float(os.environ.get("JFS_MOUNT_TIMEOUT", "")))
    except ValueError:
        return 10.0


def wait_until_ready(path: str, status: int, limit_s: float) -> str:
    """Wait for the serving process: "" once the mount answers with inode 1, otherwise what went wrong.

    `status` is a pipe on which the serving process says that it serves, or why it cannot, and which closes when it is
    gone.
    """
    end = time.monotonic() + limit_s
    next_dot = time.monotonic() + _DOT_S
    dots = False
    serving = False
    while time.monotonic() < end:
        if not serving and select.select([status], [], [], _POLL_S)[0]:
            said = os.read(status, _MOST_SAID)
            serving = said.startswith(SERVES)
            if not serving:
                reason = f": {said[1:].decode(errors='replace')}" if said else ""
                return _ended(dots, f"The mount process ended before it was ready{reason}")
        if serving:
            if path.startswith("/dev/fd/") or look(path, end - time.monotonic()).ino == 1:
                return _ended(dots, "")
            time.sleep(_POLL_S)
        if time.monotonic() >= next_dot:
            print(".", end="", flush=True)
            dots, next_dot = True, next_dot + _DOT_S
    return _ended(dots, f"The mount point is not ready in {limit_s:.0f} seconds")


def tell_caller(status: int, what: bytes) -> None:
    """Write `SERVES`, or `FAILED` and the reason, on the pipe to the caller."""
    try:
        os.write(status, what[:_MOST_SAID])
    except BrokenPipeError:
        pass  # gone: it has been told by a predecessor of this process, or has given up waiting


def _ended(dots: bool, problem: str) -> str:
    if dots:
        print(flush=True)
    return problem
