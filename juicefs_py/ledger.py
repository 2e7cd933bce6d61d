"""What a serving process notes for its successor, in memory that outlives it: open files, and unflushed data.

Not here: what a successor makes of it (`vfs_recovery`), and who keeps the memory (`mount.supervisor`).

Layout, native 64-bit words: 16 of header (session number; how many processes have served; device number of the mount,
plus one; how many rows and how many spots were ever used; which layout the tables have; the next handle number; a
number that grows while the process is alive; how many processes have made room; when the last one that served ended, in
seconds since the epoch; 1 if handles may be open that are not noted; the rest is 0), then `FILES` rows of handle
number, node id, and open(2) flags with the backing id in the upper half (handle 0: free), then `DIRTY` spots for inodes
(0: free), then notes of requests under way, whose layout is `fuse.under_way`'s. A row is written inode first and handle
last, so that a process that is killed in between leaves it free. What finds no row is not noted: such handles are lost
with the process (`complete` tells so), and its unflushed data without a word.

The header is the same in all versions, since a supervisor and the process that it has started may be of different ones.
The tables are not: a program with another layout empties them, and has the open files from the document (`state`).
"""

from __future__ import annotations

import mmap
import os
import threading
from typing import Final, NamedTuple

from fuse import nodes, under_way

FILES: Final = 65536
DIRTY: Final = 8192
_HEADER: Final = 16
_ROW: Final = 3
_WORD: Final = 8
_SESSION, _SERVED, _DEVICE, _ROWS, _SPOTS, _LAYOUT, _NEXT, _ALIVE, _MADE_ROOM, _ENDED, _INCOMPLETE = range(11)
_THIS_LAYOUT: Final = 3
_DIRTY_AT: Final = _HEADER + FILES * _ROW
_REQUESTS_AT: Final = _DIRTY_AT + DIRTY
_WORDS: Final = _REQUESTS_AT + under_way.WORDS


class OpenFile(NamedTuple):
    """A handle of a predecessor."""

    fh: int
    ino: int
    flags: int
    node: int = 0  # its node id, if that is an alias
    backing: int = 0  # the backing id by which the kernel reads past us


def _open_file(fh: int, node: int, flags: int) -> OpenFile:
    ino = nodes.inode_of(node)
    return OpenFile(fh, ino, flags & 0xFFFFFFFF, node if node != ino else 0, flags >> 32)


class Ledger:
    """Shared memory, made before the processes that write into it. One of them writes at a time, by any thread.

    `fd` is that of a predecessor, for a program that was started anew.
    """

    def __init__(self, fd: int | None = None) -> None:
        if fd is None:
            fd = os.memfd_create("juicefs-ledger", os.MFD_CLOEXEC)
        if os.fstat(fd).st_size < _WORDS * _WORD:  # never made smaller: the supervisor has it mapped
            os.ftruncate(fd, _WORDS * _WORD)
        self.fd = fd
        self._words = memoryview(mmap.mmap(fd, _WORDS * _WORD)).cast("Q")
        if self._words[_LAYOUT] not in (0, _THIS_LAYOUT):
            tables = _HEADER if self._words[_LAYOUT] > 2 else 8  # as long the header was at first
            self._words[tables:] = memoryview(bytes((_WORDS - tables) * _WORD)).cast("Q")
            self._words[_ROWS] = self._words[_SPOTS] = 0
            self._words[_INCOMPLETE] = 1
        self._words[_LAYOUT] = _THIS_LAYOUT
        self._rows: list[int] = []  # given back; beyond those that were ever used no memory is touched
        self._spots: list[int] = []
        self._dirty: dict[int, int] = {}
        self._kept: dict[int, int] = {}  # handles of a predecessor that are not taken over yet, and their rows
        self._lock = threading.Lock()

    @property
    def requests(self) -> memoryview:
        """The words for `fuse.under_way`."""
        return self._words[_REQUESTS_AT:_WORDS]

    @property
    def session(self) -> int:
        """The session's number; 0 before there is one."""
        return self._words[_SESSION]

    @session.setter
    def session(self, sid: int) -> None:
        self._words[_SESSION] = sid

    @property
    def served(self) -> int:
        """How many processes have begun to serve."""
        return self._words[_SERVED]

    def serves(self) -> None:
        """One more does now."""
        self._words[_SERVED] += 1

    @property
    def made_room(self) -> int:
        """How many processes have ended because they were asked to make room."""
        return self._words[_MADE_ROOM]

    def makes_room(self) -> None:
        """One more does now."""
        self._words[_MADE_ROOM] += 1

    @property
    def ended(self) -> int:
        """When the last process that served ended, in seconds since the epoch; 0 if none has."""
        return self._words[_ENDED]

    @ended.setter
    def ended(self, when: int) -> None:
        self._words[_ENDED] = when

    @property
    def alive(self) -> int:
        """Grows while requests are answered, or wait because all threads are at work."""
        return self._words[_ALIVE]

    def is_alive(self) -> None:
        """The process has seen that it gets on."""
        self._words[_ALIVE] += 1

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

    @property
    def complete(self) -> bool:
        """Whether all open files are noted. Not if there were more than find room, or notes of another layout."""
        return not self._words[_INCOMPLETE]

    def files(self) -> list[OpenFile]:
        """The handles that are noted."""
        words, end = self._words, _HEADER + self._words[_ROWS] * _ROW
        return [_open_file(*words[at : at + _ROW]) for at in range(_HEADER, end, _ROW) if words[at]]

    def dirty(self) -> set[int]:
        """Inodes that have unflushed data, or had when their process died."""
        return {ino for ino in self._words[_DIRTY_AT : _DIRTY_AT + self._words[_SPOTS]] if ino}

    def resume(self, complete: bool) -> None:
        """Go on with what is noted, for whoever takes it over: nothing is unknown in between, should it die as well.

        `complete`: with what else the predecessor has told. `opened` then finds the rows of known handles; what is not
        taken over must be told to be `closed` and clean.
        """
        words = self._words
        words[_INCOMPLETE] = not complete
        rows = range(_HEADER, _HEADER + words[_ROWS] * _ROW, _ROW)
        self._kept = {words[at]: at for at in rows if words[at]}
        self._rows = [at for at in rows if not words[at]]
        spots = range(_DIRTY_AT, _DIRTY_AT + words[_SPOTS])
        self._dirty = {words[at]: at for at in spots if words[at]}
        self._spots = [at for at in spots if not words[at]]

    def clear(self) -> None:
        """Forget all handles and inodes, but not the numbers."""
        words = self._words
        for at in range(_HEADER, _HEADER + words[_ROWS] * _ROW, _ROW):
            words[at] = 0
        for at in range(_DIRTY_AT, _DIRTY_AT + words[_SPOTS]):
            words[at] = 0
        words[_ROWS] = words[_SPOTS] = words[_INCOMPLETE] = 0
        self._rows, self._spots, self._dirty, self._kept = [], [], {}, {}

    def opened(self, fh: int, node: int, flags: int, backing: int = 0) -> int:
        """Note an open file; its row, 0 without one."""
        words = self._words
        with self._lock:
            if fh in self._kept:
                at = self._kept.pop(fh)
            elif self._rows:
                at = self._rows.pop()
            elif words[_ROWS] < FILES:
                at = _HEADER + words[_ROWS] * _ROW
                words[_ROWS] += 1
            else:
                words[_INCOMPLETE] = 1
                return 0
        words[at + 1] = node
        words[at + 2] = flags & 0xFFFFFFFF | backing << 32
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
