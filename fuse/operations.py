"""What a file system implements to be served: one method per kernel request, plain values in and out.

Not here: bytes (abi, request, reply), the device, threads. A method fails by raising; the session turns the exception
into an errno (`OSError.errno`, or whatever the `errno_of` given to it says; anything unknown is EIO and logged). A
method that is not overridden answers ENOSYS, which the kernel remembers for most operations.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from fuse.abi import FUSE_UNIQUE_RESEND

Buffer = bytes | bytearray | memoryview


class Caller:
    """Who sent a request: credentials as the kernel gives them, and whether the request was interrupted meanwhile.

    `groups` is read from /proc when first asked for (the kernel sends only the primary group). `checked` says that the
    kernel has already checked permissions (mount option default_permissions), so that the file system need not. `node`
    is the node id that the request is about, as the kernel has it: perhaps an alias (`fuse.nodes`); 0 if nobody told.
    """

    __slots__ = ("_event", "_groups", "checked", "gid", "node", "pid", "uid", "unique")

    def __init__(self, uid: int, gid: int, pid: int, unique: int = 0, checked: bool = True, node: int = 0) -> None:
        self.uid = uid
        self.gid = gid
        self.pid = pid
        self.unique = unique
        self.checked = checked
        self.node = node
        self._event: threading.Event | None = None
        self._groups: tuple[int, ...] | None = None

    def __repr__(self) -> str:
        return f"Caller(uid={self.uid}, gid={self.gid}, pid={self.pid})"

    @property
    def groups(self) -> tuple[int, ...]:
        """Primary and supplementary groups of the calling process."""
        if self._groups is None:
            self._groups = (self.gid, *supplementary_groups(self.pid))
        return self._groups

    @property
    def resent(self) -> bool:
        """Whether another process has read this request before, and may have done what it asks."""
        return bool(self.unique & FUSE_UNIQUE_RESEND)

    @property
    def interrupted(self) -> bool:
        """True once the kernel asked to interrupt this request."""
        return self._event is not None and self._event.is_set()

    def interrupt(self) -> None:
        """Mark the request as interrupted and wake its `wait`."""
        self.event.set()

    @property
    def event(self) -> threading.Event:
        """Set when the request is interrupted; created on first use because most requests never wait."""
        if self._event is None:
            self._event = threading.Event()
        return self._event

    def wait(self, timeout_s: float) -> bool:
        """Sleep for at most `timeout_s`; True if the request was interrupted."""
        return self.event.wait(timeout_s)


def supplementary_groups(pid: int) -> tuple[int, ...]:
    """The supplementary groups of a process from /proc/PID/status; none if it is gone or unreadable."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("Groups:"):
                    return tuple(int(word) for word in line.split()[1:])
    except OSError:
        pass
    return ()


class Stat(NamedTuple):
    """An inode's attributes, in the field order of the kernel's `struct fuse_attr` so that packing is one call."""

    ino: int
    size: int
    blocks: int  # of 512 bytes
    atime: int
    mtime: int
    ctime: int
    atimensec: int
    mtimensec: int
    ctimensec: int
    mode: int  # type and permission bits
    nlink: int
    uid: int
    gid: int
    rdev: int
    blksize: int
    flags: int = 0


class Entry(NamedTuple):
    """A directory entry as LOOKUP answers it. `stat.ino` is the node id, unless `node` is an alias (`fuse.nodes`).

    An inode of 0 caches the absence of the name.
    """

    stat: Stat
    entry_valid_s: float
    attr_valid_s: float
    generation: int = 1
    node: int = 0


class Opened(NamedTuple):
    """An open file or directory: handle number, FOPEN_* flags (`fuse.abi`), with FOPEN_PASSTHROUGH a backing id."""

    fh: int
    flags: int = 0
    backing_id: int = 0


class SetAttr(NamedTuple):
    """The values of a SETATTR; `valid` (FATTR_* bits) says which of them count."""

    valid: int
    size: int
    mode: int
    uid: int
    gid: int
    atime: int
    atimensec: int
    mtime: int
    mtimensec: int
    ctime: int
    ctimensec: int
    fh: int | None
    lock_owner: int | None


class FileLock(NamedTuple):
    """A POSIX record lock: `type` is fcntl's F_RDLCK, F_WRLCK or F_UNLCK; `end` is inclusive (2^63-1: to the end)."""

    start: int
    end: int
    type: int
    pid: int


class StatFs(NamedTuple):
    """File system totals, in the field order of the kernel's `struct fuse_kstatfs`."""

    blocks: int
    bfree: int
    bavail: int
    files: int
    ffree: int
    bsize: int
    namelen: int
    frsize: int


class DirSink(Protocol):
    """Where `readdir` puts entries. `add*` answers False when the reply is full: that entry is not taken.

    Those that take many are made of the others here; who can do better does.
    """

    def add(self, name: bytes, ino: int, file_type: int, next_offset: int) -> bool:
        """Add a plain entry; `file_type` is the S_IFMT part of a mode; `next_offset` resumes the listing after it."""
        ...

    def add_plus(self, name: bytes, entry: Entry, next_offset: int) -> bool:
        """Add an entry with attributes (READDIRPLUS). Counts as a lookup of that node, except for `.` and `..`."""
        ...

    @property
    def at_most(self) -> int:
        """There is no room for more entries than this."""
        ...

    def add_all(self, names: Sequence[bytes], inos: Sequence[int], types: Sequence[int], next_offset: int) -> int:
        """Add plain entries, told in columns, whose offsets count up from `next_offset`; how many were taken."""
        for took, (name, ino, file_type) in enumerate(zip(names, inos, types, strict=True)):
            if not self.add(name, ino, file_type, next_offset + took):
                return took
        return len(names)

    def add_all_plus(
        self, names: Sequence[bytes], stats: Sequence[Sequence[int]], valid: Sequence[tuple[float, float]],
        next_offset: int,
    ) -> int:  # fmt: skip
        """The same with attributes: a column for each field of `Stat`, and how long names and attributes are valid."""
        for took, (name, fields, times) in enumerate(zip(names, zip(*stats, strict=True), valid, strict=True)):
            if not self.add_plus(name, Entry(Stat(*fields), *times), next_offset + took):
                return took
        return len(names)


class Operations:
    """One method per FUSE request. `ino` is the node id given out in `Entry.stat.ino`; 1 is the root."""

    def lookup(self, caller: Caller, parent: int, name: bytes) -> Entry:
        raise unsupported()

    def forget(self, nodes: Sequence[tuple[int, int]]) -> None:
        """The kernel dropped `nlookup` references of each (node id, nlookup). No reply, may not fail."""

    def getattr(self, caller: Caller, ino: int, fh: int | None) -> tuple[Stat, float]:
        """Attributes and for how many seconds the kernel may keep them."""
        raise unsupported()

    def setattr(self, caller: Caller, ino: int, changes: SetAttr) -> tuple[Stat, float]:
        raise unsupported()

    def readlink(self, caller: Caller, ino: int) -> bytes:
        raise unsupported()

    def symlink(self, caller: Caller, parent: int, name: bytes, target: bytes) -> Entry:
        raise unsupported()

    def mknod(self, caller: Caller, parent: int, name: bytes, mode: int, rdev: int, umask: int) -> Entry:
        raise unsupported()

    def mkdir(self, caller: Caller, parent: int, name: bytes, mode: int, umask: int) -> Entry:
        raise unsupported()

    def unlink(self, caller: Caller, parent: int, name: bytes) -> None:
        raise unsupported()

    def rmdir(self, caller: Caller, parent: int, name: bytes) -> None:
        raise unsupported()

    def rename(self, caller: Caller, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        """RENAME (flags 0) and RENAME2 (RENAME_NOREPLACE 1, RENAME_EXCHANGE 2)."""
        raise unsupported()

    def link(self, caller: Caller, ino: int, new_parent: int, new_name: bytes) -> Entry:
        raise unsupported()

    def open(self, caller: Caller, ino: int, flags: int) -> Opened:
        raise unsupported()

    def create(
        self, caller: Caller, parent: int, name: bytes, mode: int, umask: int, flags: int
    ) -> tuple[Entry, Opened]:
        raise unsupported()

    def tmpfile(
        self, caller: Caller, parent: int, name: bytes, mode: int, umask: int, flags: int
    ) -> tuple[Entry, Opened]:
        """O_TMPFILE: an unnamed file in `parent`; `name` is a hint that the kernel made up."""
        raise unsupported()

    def read(self, caller: Caller, ino: int, fh: int, offset: int, size: int) -> Buffer | Sequence[Buffer]:
        """At most `size` bytes, as one buffer or several; fewer means end of file."""
        raise unsupported()

    def write(self, caller: Caller, ino: int, fh: int, offset: int, data: memoryview, flags: int) -> int:
        """Write `data` (valid only until this returns). `flags`: FUSE_WRITE_CACHE, FUSE_WRITE_KILL_SUIDGID."""
        raise unsupported()

    def statfs(self, caller: Caller, ino: int) -> StatFs:
        raise unsupported()

    def flush(self, caller: Caller, ino: int, fh: int, lock_owner: int) -> None:
        """A descriptor was closed (there may be others of the same open file). Errors reach close(2)."""
        raise unsupported()

    def release(self, caller: Caller, ino: int, fh: int, lock_owner: int, flock_release: bool) -> None:
        """The last descriptor of the handle is gone. Errors are ignored by the kernel."""
        raise unsupported()

    def fsync(self, caller: Caller, ino: int, fh: int, datasync: bool) -> None:
        raise unsupported()

    def opendir(self, caller: Caller, ino: int, flags: int) -> Opened:
        raise unsupported()

    def readdir(self, caller: Caller, ino: int, fh: int, offset: int, sink: DirSink) -> None:
        """List from `offset` (0 at first, then a `next_offset` given out earlier) until the sink is full."""
        raise unsupported()

    def readdirplus(self, caller: Caller, ino: int, fh: int, offset: int, sink: DirSink) -> None:
        """As `readdir`, with attributes (`sink.add_plus`); `sink.add` is allowed where they are not known."""
        raise unsupported()

    def releasedir(self, caller: Caller, ino: int, fh: int) -> None:
        raise unsupported()

    def fsyncdir(self, caller: Caller, ino: int, fh: int, datasync: bool) -> None:
        raise unsupported()

    def setxattr(self, caller: Caller, ino: int, name: bytes, value: bytes, flags: int) -> None:
        """`flags`: XATTR_CREATE 1, XATTR_REPLACE 2."""
        raise unsupported()

    def getxattr(self, caller: Caller, ino: int, name: bytes, size: int) -> bytes:
        """The value; the session answers its length when `size` is 0 and ERANGE when it does not fit."""
        raise unsupported()

    def listxattr(self, caller: Caller, ino: int, size: int) -> bytes:
        """The names, each ended by a NUL; `size` as for `getxattr`."""
        raise unsupported()

    def removexattr(self, caller: Caller, ino: int, name: bytes) -> None:
        raise unsupported()

    def access(self, caller: Caller, ino: int, mask: int) -> None:
        raise unsupported()

    def getlk(self, caller: Caller, ino: int, fh: int, owner: int, lock: FileLock) -> FileLock:
        """The lock that would stop `lock`, or one of type F_UNLCK."""
        raise unsupported()

    def setlk(self, caller: Caller, ino: int, fh: int, owner: int, lock: FileLock, wait: bool) -> None:
        """Set or clear a record lock; `wait` blocks until granted or the caller is interrupted (EINTR)."""
        raise unsupported()

    def flock(self, caller: Caller, ino: int, fh: int, owner: int, kind: int, wait: bool) -> None:
        """BSD lock of the whole file: `kind` is F_RDLCK, F_WRLCK or F_UNLCK."""
        raise unsupported()

    def ioctl(
        self, caller: Caller, ino: int, fh: int, cmd: int, arg: int, data: bytes, out_size: int, flags: int
    ) -> tuple[int, bytes]:
        """The ioctl's result and its output bytes."""
        raise unsupported()

    def fallocate(self, caller: Caller, ino: int, fh: int, offset: int, length: int, mode: int) -> None:
        raise unsupported()

    def lseek(self, caller: Caller, ino: int, fh: int, offset: int, whence: int) -> int:
        """SEEK_DATA 3 or SEEK_HOLE 4: the offset found, or ENXIO."""
        raise unsupported()

    def copy_file_range(
        self, caller: Caller, ino: int, fh: int, offset: int, out_ino: int, out_fh: int, out_offset: int,
        length: int, flags: int,
    ) -> int:  # fmt: skip
        """Copy inside the file system; the number of bytes copied."""
        raise unsupported()

    def syncfs(self, caller: Caller, ino: int) -> None:
        raise unsupported()

    def destroy(self) -> None:
        """The file system was unmounted."""


def unsupported() -> OSError:
    """The error of an operation that a file system does not have."""
    return OSError(errno.ENOSYS, "operation not implemented")
