"""The errors of the data room: what object storage, caches and buffers can fail with.

Not the place for a file system's refusals: those are `meta.errors`.
"""

from __future__ import annotations

import errno


class StoreError(Exception):
    """Anything that the data room raises on purpose.

    `errno` is what a file's user gets; `final` says that trying the same request again cannot help.
    """

    errno: int = errno.EIO
    final: bool = False


class NotFound(StoreError):
    """There is no such object."""

    final = True


class Denied(StoreError):
    """The storage refuses access: wrong credentials, or permissions of a local directory."""

    final = True


class Timeout(StoreError):
    """The storage, or room in the buffers, did not come in time."""


class Unavailable(StoreError):
    """The storage cannot be reached, or answered with a failure of its own."""


class Throttled(Unavailable):
    """The storage asks for fewer requests."""


class NoSpace(StoreError):
    """The storage is full, or its quota used up."""

    errno = errno.ENOSPC
    final = True


class Damaged(StoreError):
    """What was read is not what had been written: too short, or not decodable."""


class ChecksumMismatch(Damaged):
    """What was read differs from its checksum."""


class Cancelled(StoreError):
    """The work was given up: the slice was aborted, or the store is closing."""

    final = True


class BadBucket(StoreError):
    """The storage's name, address or options make no sense, or are not supported."""

    final = True


class BadKey(BadBucket):
    """The key that a volume's objects are encrypted with cannot be used."""


class Unsupported(StoreError):
    """This storage cannot do what was asked."""

    errno = errno.EOPNOTSUPP
    final = True


_OF_ERRNO: dict[int, type[StoreError]] = {
    errno.ENOENT: NotFound,
    errno.ENOTDIR: NotFound,
    errno.EACCES: Denied,
    errno.EPERM: Denied,
    errno.EROFS: Denied,
    errno.ENOSPC: NoSpace,
    errno.EDQUOT: NoSpace,
    errno.ETIMEDOUT: Timeout,
}


def from_os_error(error: OSError, what: str) -> StoreError:
    """The error of this room for one of the operating system; `what` names the action and its object."""
    kind = _OF_ERRNO.get(error.errno or 0, Unavailable)
    return kind(f"{what}: {error.strerror or error}")
