"""Open files and directories of a mount: handle numbers, and what all handles of one inode share.

Not here: what is done through a handle (`vfs_*`).

Handle numbers have a meaning that outlives the process (a successor takes over a running mount): even numbers are files
opened for writing, odd ones everything else, and an odd one that is not known can be opened again. So none is given out
twice: the kernel may still hold a predecessor's.

Concurrency. Request threads share the table; `HandleTable._lock` guards opening and closing, lookups read plain dicts
without it. The gate of an inode is entered by every write and shut by what must see no write half done (truncate,
fallocate, copy). It comes before every other lock of the data path. The kernel holds its own inode lock around the same
calls; the gate is for the other doors, and for direct I/O, which the kernel lets in side by side.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from juicefs_py.data.reader import FileReader
from juicefs_py.data.readers import Readers
from juicefs_py.data.writer import Claim, FileWriter
from juicefs_py.data.writers import Writers
from juicefs_py.errors import refuse
from juicefs_py.ledger import Ledger
from meta.attr import Attr

NEVER = -1e9


_CONDITIONS = [threading.Condition(threading.Lock()) for _ in range(64)]
"""Shared by gates, because making one takes longer than everything else about opening a file."""


class Gate:
    """Many may be inside, or one may hold it shut; who wants it shut goes before newcomers."""

    __slots__ = ("_changed", "_inside", "_shut")

    def __init__(self, ino: int) -> None:
        self._changed = _CONDITIONS[ino % len(_CONDITIONS)]
        self._inside = 0
        self._shut = False

    def enter(self) -> None:
        with self._changed:
            while self._shut:
                self._changed.wait()
            self._inside += 1

    def leave(self) -> None:
        with self._changed:
            self._inside -= 1
            if self._shut and not self._inside:
                self._changed.notify_all()

    @contextmanager
    def shut(self) -> Iterator[None]:
        """Nobody is inside while the block runs."""
        with self._changed:
            while self._shut:
                self._changed.wait()
            self._shut = True
            while self._inside:
                self._changed.wait()
        try:
            yield
        finally:
            with self._changed:
                self._shut = False
                self._changed.notify_all()


class OpenInode:
    """What the handles of one file share: the gate, locks taken, and the length as far as this client knows it.

    `epoch` counts changes made here. Attributes are believed only if none came between their reading and `learn`:
    take the epoch first, then read.
    """

    __slots__ = ("_lock", "_mtime", "epoch", "fresh_at", "gate", "ino", "length", "lock_owners", "refs")

    def __init__(self, ino: int) -> None:
        self.ino = ino
        self.refs = 0
        self.gate = Gate(ino)
        self.lock_owners: set[int] = set()  # owners of record locks taken through this mount
        self.length = 0
        self.epoch = 0
        self.fresh_at = NEVER  # time.monotonic() of the last `learn` that counted
        self._mtime: tuple[int, int] | None = None
        self._lock = threading.Lock()

    def learn(self, attr: Attr, length: int, epoch: int) -> bool:
        """Take in attributes read since `epoch`; True if somebody else may have changed the content before."""
        with self._lock:
            return epoch == self.epoch and self._take(attr, length)

    def expect(self, mtime: tuple[int, int]) -> None:
        """The modification time (s, ns) of the content that the kernel has: another one is somebody's change."""
        with self._lock:
            self._mtime = mtime

    def _take(self, attr: Attr, length: int) -> bool:
        known, self._mtime = self._mtime, (attr.mtime, attr.mtimensec)
        self.length = length
        self.fresh_at = time.monotonic()
        return known is not None and known != self._mtime

    def changed(self, attr: Attr) -> None:
        """The content was changed here, and these are the attributes now."""
        with self._lock:
            self.epoch += 1
            self._take(attr, attr.length)

    def grow(self, end: int) -> None:
        """A write through this mount reached `end`."""
        with self._lock:
            self.epoch += 1
            if end > self.length:
                self.length = end

    def is_stale(self, age_s: float) -> bool:
        """Whether the attributes were learned longer ago than this, or never."""
        return time.monotonic() - self.fresh_at > age_s


class FileHandle:
    """An open file. `writer` and `claim` only if it is open for writing."""

    __slots__ = ("backing", "bytes_read", "claim", "fh", "flags", "flock_owner", "ino", "inode", "lock_owners", "node",
                 "reader", "recovered", "row", "writer")  # fmt: skip

    def __init__(self, fh: int, inode: OpenInode, flags: int, reader: FileReader, writer: FileWriter | None) -> None:
        self.fh = fh
        self.ino = inode.ino
        self.inode = inode
        self.flags = flags
        self.reader = reader
        self.writer = writer
        self.claim: Claim | None = writer.claim() if writer else None
        self.flock_owner: int | None = None
        self.lock_owners: set[int] = set()
        self.recovered = False  # opened by another process: what was locked through it is not known
        self.row = 0  # in the ledger
        self.node = 0  # the node id that the kernel opened, where `passthrough` keeps account of it
        self.backing = 0  # the backing id by which the kernel reads past us
        self.bytes_read = 0

    def __repr__(self) -> str:
        return f"FileHandle(fh={self.fh}, ino={self.ino}, flags={self.flags:#o})"


class HandleTable:
    """All handles of a mount."""

    def __init__(self, readers: Readers, writers: Writers, ledger: Ledger | None = None) -> None:
        self._ledger = ledger
        self._readers = readers
        self._writers = writers
        self._lock = threading.Lock()
        self._next = (ledger.next if ledger is not None else 0) or 1
        self._others: dict[int, object] = {}
        self._files: dict[int, FileHandle] = {}
        self._inodes: dict[int, OpenInode] = {}

    def __len__(self) -> int:
        """Number of inodes that have handles."""
        return len(self._inodes)

    def _number(self, writable: bool) -> int:
        number = self._next
        if (number & 1 == 0) != writable:
            number += 1
        self._given(number)
        return number

    def _given(self, number: int) -> None:
        """The next numbers are above this one; also in a successor, because the ledger has it."""
        self._next = max(self._next, number + 1)
        if self._ledger is not None:
            self._ledger.next = self._next

    def skip(self, number: int) -> None:
        """Numbers below this one may have been given out."""
        with self._lock:
            self._given(number - 1)

    def hold(self, ino: int) -> OpenInode:
        """What the handles of an inode share, kept until `drop`. To be held before the inode's attributes are read."""
        with self._lock:
            inode = self._inodes.get(ino)
            if inode is None:
                inode = self._inodes[ino] = OpenInode(ino)
            inode.refs += 1
            return inode

    def drop(self, inode: OpenInode) -> None:
        """The end of a `hold`."""
        with self._lock:
            inode.refs -= 1
            if inode.refs == 0:
                self._inodes.pop(inode.ino, None)

    def open(
        self, inode: OpenInode, tier: int, flags: int, writable: bool, fh: int = 0, node: int = 0, backing: int = 0
    ) -> FileHandle:
        """A new handle of a held inode, which takes over the hold; `fh` re-creates a known one."""
        reader = self._readers.open(inode.ino)
        writer = self._writers.acquire(inode.ino, tier) if writable else None
        with self._lock:
            if fh:
                self._given(fh)
            handle = FileHandle(fh or self._number(writable), inode, flags, reader, writer)
            handle.node, handle.backing = node, backing
            self._files[handle.fh] = handle
        if self._ledger is not None:
            handle.row = self._ledger.opened(handle.fh, node or inode.ino, flags, backing)
        return handle

    @property
    def next(self) -> int:
        """Above all numbers that were given out."""
        return self._next

    def files(self) -> list[FileHandle]:
        """All open files."""
        with self._lock:
            return list(self._files.values())

    def file(self, fh: int, ino: int) -> FileHandle | None:
        """The handle `fh` if it is one of file `ino`."""
        handle = self._files.get(fh)
        return handle if handle is not None and handle.ino == ino else None

    def inode(self, ino: int) -> OpenInode | None:
        """What the handles of an inode share; None if it is not open."""
        return self._inodes.get(ino)

    def any_open(self, inos: Iterable[int]) -> bool:
        """Whether any of these inodes is open."""
        return not self._inodes.keys().isdisjoint(inos)

    def close(self, fh: int) -> FileHandle | None:
        """Forget a file handle; the caller does what closing means."""
        with self._lock:
            handle = self._files.pop(fh, None)
        if handle is None:
            return None
        if self._ledger is not None:
            self._ledger.closed(handle.row)
        self.drop(handle.inode)
        self._readers.close(handle.reader)
        if handle.writer is not None:
            self._writers.release(handle.writer, handle.claim)
        return handle

    def add(self, handle: object, fh: int = 0) -> int:
        """Number a directory or internal file (always odd)."""
        with self._lock:
            if fh:
                self._given(fh)
            number = fh or self._number(writable=False)
            self._others[number] = handle
            return number

    def other(self, fh: int) -> object | None:
        """What `add` numbered so."""
        return self._others.get(fh)

    def remove(self, fh: int) -> object | None:
        """Forget what `add` numbered so."""
        with self._lock:
            return self._others.pop(fh, None)

    def writable(self, fh: int, ino: int) -> FileHandle:
        """The handle `fh` for a change of `ino`; EBADF if it does not exist or was not opened for writing."""
        handle = self.file(fh, ino)
        if handle is None or handle.writer is None:
            raise refuse(errno.EBADF)
        return handle
