"""What a serving process notes for its successor, in memory that outlives it: open files, and unflushed data.

Not here: what a successor makes of it (`vfs_recovery`), and who keeps the memory (`mount.supervisor`).

Layout, native 64-bit words: 8 of header (session number; whether any process has served; device number of the mount,
plus one; how many rows and how many spots were ever used; which layout this is; the next handle number), then `FILES`
rows of handle number, inode and open(2) flags (handle 0: free), then `DIRTY` spots for inodes (0: free). A row is
written inode first and handle last, so that a process that is killed in between leaves it free. What finds no row is
not noted: such handles are lost with the process, and its unflushed data without a word.
"""

from __future__ import annotations

import mmap
import os
import threading
from typing import Final, NamedTuple

FILES: Final = 65536
DIRTY: Final = 8192
_HEADER: Final = 8
_ROW: Final = 3
_WORD: Final = 8
_SESSION, _SERVED, _DEVICE, _ROWS, _SPOTS, _LAYOUT, _NEXT = range(7)
_THIS_LAYOUT: Final = 1
_DIRTY_AT: Final = _HEADER + FILES * _ROW
_WORDS: Final = _DIRTY_AT + DIRTY


class OpenFile(NamedTuple):
    """A handle of a predecessor."""

    fh: int
    ino: int
    flags: int


class Ledger:
    """Shared memory, made before the processes that write into it. One of them writes at a time, by any thread.

    `fd` is that of a predecessor, for a program that was started anew; one of another layout is not used.
    """

    def __init__(self, fd: int | None = None) -> None:
        if fd is None or os.fstat(fd).st_size != _WORDS * _WORD:
            fd = os.memfd_create("juicefs-ledger", os.MFD_CLOEXEC)
            os.ftruncate(fd, _WORDS * _WORD)
        self.fd = fd
        self._words = memoryview(mmap.mmap(fd, _WORDS * _WORD)).cast("Q")
        if self._words[_LAYOUT] not in (0, _THIS_LAYOUT):
            self._words[:] = memoryview(bytes(_WORDS * _WORD)).cast("Q")
        self._words[_LAYOUT] = _THIS_LAYOUT
        self._rows: list[int] = []  # given back; beyond those that were ever used no memory is touched
        self._spots: list[int] = []
        self._dirty: dict[int, int] = {}
        self._lock = threading.Lock()

    @property
    def session(self) -> int:
        """The session's number; 0 before there is one."""
        return self._words[_SESSION]

    @session.setter
    def session(self, sid: int) -> None:
        self._words[_SESSION] = sid

    @property
    def served(self) -> bool:
        """Whether any process has served."""
        return bool(self._words[_SERVED])

    def serves(self) -> None:
        """From now on one has."""
        self._words[_SERVED] = 1

    @property
    def device(self) -> int | None:
        """The device number (`Mount.minor`) of what was mounted last; None before."""
        return self._words[_DEVICE] - 1 if self._words[_DEVICE] else None

    @device.setter
    def device(self, minor: int) -> None:
        self._words[_DEVICE] = minor + 1

    @property
    def next(self) -> int:
        """Above all handle numbers that were given out, also those of directories; 0 if none was."""
        return self._words[_NEXT]

    @next.setter
    def next(self, number: int) -> None:
        self._words[_NEXT] = number

    def files(self) -> list[OpenFile]:
        """The handles that are noted."""
        words, end = self._words, _HEADER + self._words[_ROWS] * _ROW
        return [OpenFile(*words[at : at + _ROW]) for at in range(_HEADER, end, _ROW) if words[at]]

    def dirty(self) -> set[int]:
        """Inodes that have unflushed data, or had when their process died."""
        return {ino for ino in self._words[_DIRTY_AT : _DIRTY_AT + self._words[_SPOTS]] if ino}

    def clear(self) -> None:
        """Forget all handles and inodes, but not the numbers: who takes them over notes them anew."""
        words = self._words
        for at in range(_HEADER, _HEADER + words[_ROWS] * _ROW, _ROW):
            words[at] = 0
        for at in range(_DIRTY_AT, _DIRTY_AT + words[_SPOTS]):
            words[at] = 0
        words[_ROWS] = words[_SPOTS] = 0
        self._rows, self._spots, self._dirty = [], [], {}

    def opened(self, fh: int, ino: int, flags: int) -> int:
        """Note an open file; its row, 0 without one."""
        words = self._words
        with self._lock:
            if self._rows:
                at = self._rows.pop()
            elif words[_ROWS] < FILES:
                at = _HEADER + words[_ROWS] * _ROW
                words[_ROWS] += 1
            else:
                return 0
        words[at + 1] = ino
        words[at + 2] = flags & 0xFFFFFFFF
        words[at] = fh
        return at

    def closed(self, at: int) -> None:
        """A noted file is closed."""
        if at:
            self._words[at] = 0
            with self._lock:
                self._rows.append(at)

    def is_dirty(self, ino: int) -> None:
        """The inode has unflushed data from now on."""
        words = self._words
        with self._lock:
            if ino in self._dirty:
                return
            if self._spots:
                at = self._spots.pop()
            elif words[_SPOTS] < DIRTY:
                at = _DIRTY_AT + words[_SPOTS]
                words[_SPOTS] += 1
            else:
                return
            self._dirty[ino] = at
            words[at] = ino

    def is_clean(self, ino: int) -> None:
        """All of the inode's data is stored and committed."""
        with self._lock:
            at = self._dirty.pop(ino, 0)
            if at:
                self._words[at] = 0
                self._spots.append(at)
