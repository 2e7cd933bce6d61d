"""Bodies of requests and answers as boto3 handles them: files of a kind. Not the requests (`s3`)."""

from __future__ import annotations

import time

from chunkstore.bucket import Data
from chunkstore.errors import Timeout


class Outgoing:
    """A body on its way out, in pieces: a socket's time limit is for one send, and a whole block may take longer.

    But not for ever: `Timeout` when it is not out after `timeout_s`.
    """

    def __init__(self, data: Data, timeout_s: float, what: str) -> None:
        self._view = memoryview(data)
        self._at = 0
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._what = what

    def __len__(self) -> int:
        return len(self._view)

    def read(self, size: int = -1) -> bytes:
        start = self._at
        if time.monotonic() > self._deadline:
            raise Timeout(f"{self._what}: {start} of {len(self)} bytes went out in {self._timeout_s:g} s")
        self._at = len(self._view) if size < 0 else min(start + size, len(self._view))
        return bytes(self._view[start : self._at])

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, len(self._view))[whence]
        return self._at


class Nothing:
    """The body of a range behind the end."""

    def readinto(self, buffer: memoryview, /) -> int:
        return 0

    def close(self) -> None:
        return
