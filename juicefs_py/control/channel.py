"""The command channel `.control`: requests written to a descriptor, answers read from the same one.

Not here: what the commands do (`commands`). A request is u32 command, u32 length (big endian) and the payload; it may
come in several writes, of which the first holds at least the 8 bytes. The answers stand in the file behind the request:
a client that shares one offset for reading and writing sees only them. Elements: 0xFE u64 u64 progress, 0xFF u32 length
and JSON, and last a single byte, the errno.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import struct
import threading
from collections.abc import Callable, Iterator

from juicefs_py.errors import errno_of, is_trouble

log = logging.getLogger(__name__)

_HEAD = struct.Struct(">II")
_PROGRESS = struct.Struct(">BQQ")
_DATA = struct.Struct(">BI")
PROGRESS_S = 0.3
MAX_REQUEST = 64 << 20  # a warm-up batch of 10240 long paths is about 40 MiB
KEEP = 2 << 20  # answers already read beyond this are dropped, in steps
STEP = 1 << 20
END_S = 5.0  # for jobs under way when the mount ends


class Job:
    """A command under way: its counters, and whether the client is still there."""

    def __init__(self) -> None:
        self.done = 0
        self.total = 0
        self._cancelled = threading.Event()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        self._cancelled.set()

    def progress(self, done: int = 0, total: int = 0) -> None:
        """Add to the two counters; OSError EINTR once the client has gone."""
        self.done += done
        self.total += total
        if self.cancelled:
            raise OSError(errno.EINTR, "the client has closed the control file")


class Jobs:
    """The long commands under way, so that the end of the mount can end them first. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._running: set[Job] = set()
        self._closing = False

    @contextlib.contextmanager
    def running(self, job: Job) -> Iterator[None]:
        """While a job is at work; one that begins after the end is cancelled at once."""
        with self._changed:
            self._running.add(job)
            if self._closing:
                job.cancel()
        try:
            yield
        finally:
            with self._changed:
                self._running.discard(job)
                self._changed.notify_all()

    def close(self, timeout_s: float = END_S) -> bool:
        """Cancel all and wait until they have ended. False if some have not, in time."""
        with self._changed:
            self._closing = True
            for job in self._running:
                job.cancel()
            return self._changed.wait_for(lambda: not self._running, timeout_s)


Command = Callable[[int, bytes, Job], bytes]
"""Runs a command (number, payload): the bytes that end its answer, errno included."""


class Channel:
    """One open descriptor of `.control`. Thread-safe."""

    def __init__(self, run: Command) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._request = bytearray()
        self._wanted = 0  # length of the request being received, 0 between requests
        self._base = 0  # file offset of the first byte kept in _answer
        self._answer = bytearray()
        self._job: Job | None = None

    def write(self, offset: int, data: bytes) -> int:
        """Take (a part of) a request; starts the command when it is complete."""
        with self._lock:
            if not self._wanted:
                if len(data) < _HEAD.size:
                    raise OSError(errno.EINVAL, "a control request begins with 8 bytes")
                self._request.clear()
                self._wanted = _HEAD.size + _HEAD.unpack_from(data)[1]
                if self._wanted > MAX_REQUEST:
                    self._wanted = 0
                    raise OSError(errno.EINVAL, "control request is too long")
            self._request += data
            self._skip(len(data))
            if len(self._request) < self._wanted:
                return len(data)
            excess = len(self._request) > self._wanted
            command, payload = _HEAD.unpack_from(self._request)[0], bytes(self._request[_HEAD.size : self._wanted])
            self._wanted = 0
            if excess:
                self._answer.append(errno.EIO)
                return len(data)
            job = self._job = Job()
        threading.Thread(
            target=self._work, args=(job, command, payload), name=f"control-{command}", daemon=True
        ).start()
        return len(data)

    def _skip(self, count: int) -> None:
        """The request takes its place in the stream of answers."""
        self._answer += bytes(count)

    def read(self, offset: int, size: int) -> bytes:
        """Answers from `offset` on; nothing means that the command is still at work."""
        with self._lock:
            start = max(offset - self._base, 0)
            data = bytes(self._answer[start : start + size])
            if start > KEEP:
                drop = start // STEP * STEP - STEP
                del self._answer[:drop]
                self._base += drop
            return data

    def cancel(self) -> None:
        """The client has gone."""
        with self._lock:
            if self._job is not None:
                self._job.cancel()

    def _work(self, job: Job, command: int, payload: bytes) -> None:
        finished = threading.Event()
        ticker = threading.Thread(target=self._tick, args=(job, finished), name="control-progress", daemon=True)
        ticker.start()
        try:
            end = self._run(command, payload, job)
        except Exception as problem:  # whatever it is, the client waits for a last byte
            number = errno_of(problem)
            if number is None:
                log.exception("control command %d", command)
            elif is_trouble(problem):
                log.error("control command %d failed: %s", command, problem)
            end = bytes((min(number or errno.EIO, 255),))
        finally:
            finished.set()
            ticker.join()
        with self._lock:
            if job.done or job.total:
                self._answer += _PROGRESS.pack(0xFE, job.done, job.total)
            self._answer += end
            if self._job is job:
                self._job = None

    def _tick(self, job: Job, finished: threading.Event) -> None:
        while not finished.wait(PROGRESS_S):
            with self._lock:
                self._answer += _PROGRESS.pack(0xFE, job.done, job.total)


def framed(document: bytes) -> bytes:
    """JSON as the final element of an answer."""
    return _DATA.pack(0xFF, len(document)) + document
