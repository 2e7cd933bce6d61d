"""The locks of one in-memory file: POSIX record locks and BSD locks. Not here: the file (memfs)."""

from __future__ import annotations

import errno
import fcntl
import threading

from fuse.operations import Caller, FileLock

_LOOK_S = 0.02  # a waiting thread notices an interrupt within this time


class LockTable:
    """Owners are the kernel's lock owner numbers."""

    __slots__ = ("_changed", "_flocks", "_records")

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._records: list[tuple[int, FileLock]] = []
        self._flocks: dict[int, int] = {}

    def _obstacle(self, owner: int, lock: FileLock) -> FileLock | None:
        for holder, held in self._records:
            overlaps = held.start <= lock.end and lock.start <= held.end
            if holder != owner and overlaps and fcntl.F_WRLCK in (held.type, lock.type):
                return held
        return None

    def get(self, owner: int, lock: FileLock) -> FileLock:
        with self._changed:
            return self._obstacle(owner, lock) or lock._replace(type=fcntl.F_UNLCK)

    def set(self, caller: Caller, owner: int, lock: FileLock, wait: bool) -> None:
        with self._changed:
            while lock.type != fcntl.F_UNLCK and self._obstacle(owner, lock):
                self._wait(caller, wait)
            kept = [pair for pair in self._records if pair[0] != owner]
            for _, held in (pair for pair in self._records if pair[0] == owner):
                if held.start < lock.start:
                    kept.append((owner, held._replace(end=min(held.end, lock.start - 1))))
                if held.end > lock.end:
                    kept.append((owner, held._replace(start=max(held.start, lock.end + 1))))
            if lock.type != fcntl.F_UNLCK:
                kept.append((owner, lock))
            self._records = kept
            self._changed.notify_all()

    def flock(self, caller: Caller, owner: int, kind: int, wait: bool) -> None:
        with self._changed:
            self._flocks.pop(owner, None)
            while kind != fcntl.F_UNLCK and any(fcntl.F_WRLCK in (kind, held) for held in self._flocks.values()):
                self._wait(caller, wait)
            if kind != fcntl.F_UNLCK:
                self._flocks[owner] = kind
            self._changed.notify_all()

    def closed(self, owner: int) -> None:
        """A process closed the file: its record locks are gone."""
        with self._changed:
            self._records = [pair for pair in self._records if pair[0] != owner]
            self._changed.notify_all()

    def _wait(self, caller: Caller, wait: bool) -> None:
        if not wait:
            raise BlockingIOError(errno.EAGAIN, "locked")
        if caller.interrupted:
            raise InterruptedError(errno.EINTR, "interrupted")
        self._changed.wait(_LOOK_S)
