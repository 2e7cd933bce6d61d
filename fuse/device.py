"""The only place that touches the /dev/fuse descriptor: read a request, write a reply.

Not here: what the bytes mean. Errors of the descriptor are sorted into three: try again (interrupted, or the request
was taken back before we read it), the session is over, or a plain OSError.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from fuse.errors import SessionEnded
from fuse.operations import Buffer

_TRY_AGAIN = frozenset({errno.EINTR, errno.EAGAIN, errno.ENOENT})
_ENDED = frozenset({errno.ENODEV, errno.ECONNABORTED, errno.EBADF})


class Device:
    """A /dev/fuse descriptor whose mount exists already. Thread-safe: the kernel hands each request to one reader."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, True)
        self.fd = fd

    def read(self, buffers: Sequence[bytearray | memoryview]) -> int:
        """Wait for a request, put it into `buffers` and return its length. Raises SessionEnded."""
        while True:
            try:
                return os.readv(self.fd, buffers)
            except OSError as error:
                if error.errno in _ENDED:
                    raise SessionEnded from None
                if error.errno not in _TRY_AGAIN:
                    raise

    def write(self, parts: Sequence[Buffer]) -> None:
        """Send one message, gathered from `parts`, whole or not at all."""
        os.writev(self.fd, parts)

    def close(self) -> None:
        """Give up this process's hold on the connection; the last one closed ends the mount."""
        os.close(self.fd)
