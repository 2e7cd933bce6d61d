"""An inode of the in-memory file system. Not here: names and requests (memfs), locks (memlocks)."""

from __future__ import annotations

import stat
import time
from dataclasses import dataclass, field

from bench.memlocks import LockTable
from fuse.operations import Stat

BLOCK = 4096


def now() -> tuple[int, int]:
    """Seconds and nanoseconds."""
    return divmod(time.time_ns(), 1_000_000_000)


@dataclass(slots=True, eq=False)
class Node:
    """An inode. `nlookup` is what the kernel remembers of it: an unlinked node goes when that reaches 0."""

    ino: int
    mode: int
    uid: int
    gid: int
    rdev: int = 0
    nlink: int = 1
    nlookup: int = 0
    parent: int = 0  # of a directory
    data: bytearray = field(default_factory=bytearray)
    entries: dict[bytes, Node] = field(default_factory=dict)
    target: bytes = b""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    locks: LockTable = field(default_factory=LockTable)
    atime: tuple[int, int] = field(default_factory=now)
    mtime: tuple[int, int] = field(default_factory=now)
    ctime: tuple[int, int] = field(default_factory=now)

    def stat(self) -> Stat:
        size = len(self.target) if stat.S_ISLNK(self.mode) else len(self.data)
        return Stat(
            self.ino, size, -(-size // 512), self.atime[0], self.mtime[0], self.ctime[0],
            self.atime[1], self.mtime[1], self.ctime[1], self.mode, self.nlink, self.uid, self.gid, self.rdev, BLOCK,
        )  # fmt: skip

    def touch(self) -> None:
        self.mtime = self.ctime = now()

    def resize(self, size: int) -> None:
        try:
            if size <= len(self.data):
                del self.data[size:]
            else:
                self.data.extend(bytes(size - len(self.data)))
        except BufferError:  # a read's reply still shows the old bytes
            self.data = self.data[:size].ljust(size, b"\0")
