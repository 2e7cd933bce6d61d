"""The one seam where an exception becomes the errno that a program sees, and the line in the log that tells why.

Not here: the exceptions themselves (each room has its own small tree).
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable

from chunkstore.errors import StoreError
from meta.errors import MetaError, Refused

log = logging.getLogger(__name__)

_SILENT_S = 10.0
_REMEMBERED = 100  # different texts; they name records and objects, of which there may be any number


def errno_of(problem: BaseException) -> int | None:
    """The errno of an expected problem; None if nobody foresaw it (the session then logs it and answers EIO)."""
    if isinstance(problem, (MetaError, StoreError, OSError)):
        return problem.errno or errno.EIO
    if isinstance(problem, MemoryError):
        return errno.ENOMEM
    return None


def refuse(number: int) -> OSError:
    """An error of the VFS's own."""
    return OSError(number, "")


def is_trouble(problem: BaseException) -> bool:
    """Whether the metadata engine or the storage failed, as opposed to an answer that the caller deserves."""
    return isinstance(problem, (MetaError, StoreError)) and not isinstance(problem, Refused)


class Troubles:
    """Logs troubles of which a program sees but an errno. The same text once in `_SILENT_S`: all requests may fail."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[str, float] = {}

    def tell(self, op: str, problem: BaseException) -> None:
        """An operation failed; what is no trouble is passed over."""
        if not is_trouble(problem):
            return
        text, now = str(problem), self._clock()
        if now - self._told.get(text, -_SILENT_S) < _SILENT_S:
            return
        if len(self._told) >= _REMEMBERED:
            self._told = {}
        self._told[text] = now
        log.error("%s failed: %s", op, text)
