"""What can go wrong in the FUSE library itself, as a small tree of exceptions.

Not here: errors of the file system being served; those are its own exceptions, turned into an errno by the session.
"""

from __future__ import annotations

import errno


class FuseError(Exception):
    """Anything that this library raises on its own account."""


class MountError(FuseError, OSError):
    """Mounting or unmounting failed; the message names the mount point, what was tried and why it failed."""


class UnsupportedKernel(FuseError):
    """The kernel's FUSE protocol is too old for this library."""


class SessionEnded(FuseError):
    """The file system was unmounted or its connection aborted: no request will come any more."""


class MalformedRequest(FuseError):
    """A request is shorter than its opcode demands, or contradicts itself: that request fails with EINVAL."""

    errno = errno.EINVAL
