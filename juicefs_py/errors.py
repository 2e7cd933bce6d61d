"""The one seam where an exception becomes the errno that a program sees.

Not here: the exceptions themselves (each room has its own small tree).
"""

from __future__ import annotations

import errno

from chunkstore.errors import StoreError
from meta.errors import MetaError


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
