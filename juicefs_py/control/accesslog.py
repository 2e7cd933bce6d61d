"""The live log of operations that `.accesslog` shows: one line per request, kept only while somebody reads.

Not here: what a line says about each operation (`juicefs_py.vfs_trace`).
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque

QUEUE_LINES = 10240  # per reader; a slower one misses lines rather than slowing the mount down
IDLE_WAIT_S = 1.0
IDLE_LINE = b"#\n"


class LogReader:
    """One opener of `.accesslog`, with its own queue."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._rest = b""

    def put(self, line: bytes) -> None:
        with self._changed:
            if len(self._lines) < QUEUE_LINES:
                self._lines.append(line)
                if len(self._lines) == 1:
                    self._changed.notify()

    def read(self, size: int) -> bytes:
        """Lines of up to `size` bytes; waits up to a second for the first, then answers a lone `#`."""
        with self._changed:
            if not self._rest and not self._lines:
                self._changed.wait(IDLE_WAIT_S)
            out, total = [self._rest], len(self._rest)
            while self._lines and total < size:
                out.append(self._lines.popleft())
                total += len(out[-1])
            data = b"".join(out) or IDLE_LINE
            self._rest = data[size:]
            return data[:size]


class AccessLog:
    """Hands lines to all readers. `active` is what the hot path looks at."""

    def __init__(self) -> None:
        self.active = False
        self._readers: tuple[LogReader, ...] = ()
        self._lock = threading.Lock()

    def open(self) -> LogReader:
        reader = LogReader()
        with self._lock:
            self._readers = (*self._readers, reader)
            self.active = True
        return reader

    def close(self, reader: LogReader) -> None:
        with self._lock:
            self._readers = tuple(other for other in self._readers if other is not reader)
            self.active = bool(self._readers)

    def add(self, who: tuple[int, int, int], text: str, error: int, took_s: float) -> None:
        """One operation by (uid, gid, pid): its name, arguments and result, its errno (0: none) and duration."""
        now = time.time()
        stamp = time.strftime("%Y.%m.%d %H:%M:%S", time.localtime(now))
        outcome = strerror(error) if error else "OK"
        line = (
            f"{stamp}.{int(now * 1e6) % 1000000:06d} [uid:{who[0]},gid:{who[1]},pid:{who[2]}] {text}"
            f" - {outcome} <{took_s:.6f}>\n"
        ).encode(errors="surrogateescape")
        for reader in self._readers:
            reader.put(line)


def strerror(number: int) -> str:
    """The error's text as official clients print it."""
    text = os.strerror(number)
    return text[:1].lower() + text[1:]
