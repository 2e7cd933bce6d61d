"""Files that were written and not yet forced to disk, so that one call can do it later for all of them.

Not the writing. Up to `_FEW` files are synced one by one, with their directories; more by one syncfs of their file
system, which all of them must share.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable

_FEW = 64
_READ = os.O_RDONLY | os.O_CLOEXEC


class Dirty:
    """What was written and not yet forced to disk. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flushing = threading.Lock()  # a second flush waits: what it promises may be in the hands of the first
        self._paths: set[str] = set()
        self._many = False

    def add(self, path: str) -> None:
        """A file, or a directory, was written."""
        with self._lock:
            if len(self._paths) < _FEW:
                self._paths.add(path)
            else:
                self._many = True

    def flush(self) -> None:
        """Return when everything that was added before is on its disk. After an OSError nothing is forgotten."""
        with self._flushing:
            with self._lock:
                paths, many = self._paths, self._many
                self._paths, self._many = set(), False
            try:
                if many:
                    _sync_file_system(next(iter(paths)))
                else:
                    for path in paths:
                        _sync(path, os.fdatasync)
                    for folder in {os.path.dirname(path) for path in paths}:
                        _sync(folder, os.fsync)
            except BaseException:
                with self._lock:
                    self._paths, self._many = self._paths | paths, self._many or many
                raise


def _sync(path: str, force: Callable[[int], None]) -> None:
    try:
        fd = os.open(path, _READ)
    except FileNotFoundError:  # deleted since: nothing to keep
        return
    try:
        force(fd)
    finally:
        os.close(fd)


def _sync_file_system(path: str) -> None:
    """syncfs(2) of the file system that holds `path`, or its nearest directory that is still there."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    fd = os.open(path, _READ)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(fd):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
    finally:
        os.close(fd)
