"""A complete little file system in memory: the subject of the FUSE benchmark and of the FUSE tests.

Not a file system to keep anything in. One lock around the tree (plain dictionaries), file contents in one bytearray
each, holes not tracked except by `lseek`, which takes aligned runs of zeros for holes. `delays` lets a test make one
operation slow.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
import time
from collections.abc import Sequence

from bench.memnode import BLOCK, Node, now
from fuse import abi
from fuse.operations import Caller, DirSink, Entry, FileLock, Opened, Operations, SetAttr, Stat, StatFs

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
XATTR_CREATE, XATTR_REPLACE = 1, 2
SEEK_DATA = 3


class MemFS(Operations):
    """Implements every operation. `valid_s` is how long the kernel may cache names and attributes."""

    def __init__(self, valid_s: float = 1.0) -> None:
        self.valid_s = valid_s
        self.delays: dict[str, float] = {}
        self.destroyed = threading.Event()
        self._lock = threading.RLock()
        self._last_ino = 1
        self._nodes: dict[int, Node] = {1: Node(1, stat.S_IFDIR | 0o755, os.getuid(), os.getgid(), nlink=2, parent=1)}
        self._listings: dict[int, list[tuple[bytes, Node]]] = {}
        self._last_fh = 0

    def __len__(self) -> int:
        return len(self._nodes)

    def _node(self, ino: int) -> Node:
        try:
            return self._nodes[ino]
        except KeyError:
            raise OSError(errno.ESTALE, "no such inode") from None

    def _child(self, parent: int, name: bytes) -> Node:
        try:
            return self._node(parent).entries[name]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "no such entry") from None

    def _entry(self, node: Node) -> Entry:
        node.nlookup += 1
        return Entry(node.stat(), self.valid_s, self.valid_s)

    def _drop(self, node: Node) -> None:
        if node.nlink == 0 and node.nlookup <= 0:
            self._nodes.pop(node.ino, None)

    def _new(self, caller: Caller, parent: int, mode: int, rdev: int = 0) -> Node:
        above = self._node(parent)
        gid = above.gid if above.mode & stat.S_ISGID else caller.gid
        if above.mode & stat.S_ISGID and stat.S_ISDIR(mode):
            mode |= stat.S_ISGID
        self._last_ino += 1
        node = Node(self._last_ino, mode, caller.uid, gid, rdev)
        self._nodes[node.ino] = node
        return node

    def _add(self, parent: int, name: bytes, node: Node) -> None:
        above = self._node(parent)
        if above.nlink == 0:
            raise FileNotFoundError(errno.ENOENT, "directory was removed")
        if name in above.entries:
            raise FileExistsError(errno.EEXIST, "exists")
        above.entries[name] = node
        above.touch()
        if stat.S_ISDIR(node.mode):
            node.nlink, node.parent = 2, parent
            above.nlink += 1

    def _slow(self, operation: str) -> None:
        if self.delays:
            time.sleep(self.delays.get(operation, 0))

    # -- names

    def lookup(self, caller: Caller, parent: int, name: bytes) -> Entry:
        self._slow("lookup")
        with self._lock:
            if name == b".":
                return self._entry(self._node(parent))
            if name == b"..":
                return self._entry(self._node(self._node(parent).parent))
            return self._entry(self._child(parent, name))

    def forget(self, nodes: Sequence[tuple[int, int]]) -> None:
        with self._lock:
            for ino, count in nodes:
                node = self._nodes.get(ino)
                if node is not None:
                    node.nlookup -= count
                    self._drop(node)

    def symlink(self, caller: Caller, parent: int, name: bytes, target: bytes) -> Entry:
        with self._lock:
            node = self._new(caller, parent, stat.S_IFLNK | 0o777)
            node.target = target
            self._add(parent, name, node)
            return self._entry(node)

    def readlink(self, caller: Caller, ino: int) -> bytes:
        return self._node(ino).target

    def mknod(self, caller: Caller, parent: int, name: bytes, mode: int, rdev: int, umask: int) -> Entry:
        with self._lock:
            node = self._new(caller, parent, mode, rdev)
            self._add(parent, name, node)
            return self._entry(node)

    def mkdir(self, caller: Caller, parent: int, name: bytes, mode: int, umask: int) -> Entry:
        return self.mknod(caller, parent, name, stat.S_IFDIR | mode, 0, umask)

    def unlink(self, caller: Caller, parent: int, name: bytes) -> None:
        with self._lock:
            node = self._child(parent, name)
            del self._node(parent).entries[name]
            self._node(parent).touch()
            node.nlink -= 1
            node.ctime = now()
            self._drop(node)

    def rmdir(self, caller: Caller, parent: int, name: bytes) -> None:
        with self._lock:
            node = self._child(parent, name)
            if not stat.S_ISDIR(node.mode):
                raise NotADirectoryError(errno.ENOTDIR, "not a directory")
            if node.entries:
                raise OSError(errno.ENOTEMPTY, "not empty")
            above = self._node(parent)
            del above.entries[name]
            above.nlink -= 1
            above.touch()
            node.nlink = 0
            self._drop(node)

    def link(self, caller: Caller, ino: int, new_parent: int, new_name: bytes) -> Entry:
        with self._lock:
            node = self._node(ino)
            self._add(new_parent, new_name, node)
            node.nlink += 1
            node.ctime = now()
            return self._entry(node)

    def rename(self, caller: Caller, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        with self._lock:
            node = self._child(parent, name)
            other = self._node(new_parent).entries.get(new_name)
            if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE):
                raise OSError(errno.EINVAL, "unknown rename flag")
            if flags & RENAME_EXCHANGE:
                self._put(parent, name, self._child(new_parent, new_name))
                self._put(new_parent, new_name, node)
                return
            if other is node:
                return
            if other is not None:
                if flags & RENAME_NOREPLACE:
                    raise FileExistsError(errno.EEXIST, "exists")
                if stat.S_ISDIR(other.mode):
                    self.rmdir(caller, new_parent, new_name)
                else:
                    self.unlink(caller, new_parent, new_name)
            del self._node(parent).entries[name]
            self._node(parent).touch()
            if stat.S_ISDIR(node.mode):
                self._node(parent).nlink -= 1
                self._node(new_parent).nlink += 1
            self._put(new_parent, new_name, node)

    def _put(self, parent: int, name: bytes, node: Node) -> None:
        above = self._node(parent)
        above.entries[name] = node
        above.touch()
        node.ctime = now()
        if stat.S_ISDIR(node.mode):
            node.parent = parent

    # -- attributes

    def getattr(self, caller: Caller, ino: int, fh: int | None) -> tuple[Stat, float]:
        self._slow("getattr")
        return self._node(ino).stat(), self.valid_s

    def setattr(self, caller: Caller, ino: int, changes: SetAttr) -> tuple[Stat, float]:
        valid = changes.valid
        with self._lock:
            node = self._node(ino)
            if valid & abi.FATTR_MODE:
                node.mode = stat.S_IFMT(node.mode) | changes.mode & 0o7777
            if valid & abi.FATTR_UID:
                node.uid = changes.uid
            if valid & abi.FATTR_GID:
                node.gid = changes.gid
            if valid & abi.FATTR_SIZE:
                node.resize(changes.size)
                node.touch()
            if valid & abi.FATTR_ATIME:
                node.atime = now() if valid & abi.FATTR_ATIME_NOW else (changes.atime, changes.atimensec)
            if valid & abi.FATTR_MTIME:
                node.mtime = now() if valid & abi.FATTR_MTIME_NOW else (changes.mtime, changes.mtimensec)
            node.ctime = now()
            return node.stat(), self.valid_s

    def access(self, caller: Caller, ino: int, mask: int) -> None:
        self._node(ino)

    def statfs(self, caller: Caller, ino: int) -> StatFs:
        return StatFs(1 << 20, 1 << 19, 1 << 19, 1 << 20, (1 << 20) - len(self._nodes), BLOCK, 255, BLOCK)

    def setxattr(self, caller: Caller, ino: int, name: bytes, value: bytes, flags: int) -> None:
        with self._lock:
            xattrs = self._node(ino).xattrs
            if flags & XATTR_CREATE and name in xattrs:
                raise FileExistsError(errno.EEXIST, "exists")
            if flags & XATTR_REPLACE and name not in xattrs:
                raise OSError(errno.ENODATA, "no such attribute")
            xattrs[name] = value

    def getxattr(self, caller: Caller, ino: int, name: bytes, size: int) -> bytes:
        try:
            return self._node(ino).xattrs[name]
        except KeyError:
            raise OSError(errno.ENODATA, "no such attribute") from None

    def listxattr(self, caller: Caller, ino: int, size: int) -> bytes:
        return b"".join(name + b"\0" for name in self._node(ino).xattrs)

    def removexattr(self, caller: Caller, ino: int, name: bytes) -> None:
        if self._node(ino).xattrs.pop(name, None) is None:
            raise OSError(errno.ENODATA, "no such attribute")

    # -- directories

    def _new_fh(self) -> int:
        with self._lock:
            self._last_fh += 1
            return self._last_fh

    def opendir(self, caller: Caller, ino: int, flags: int) -> Opened:
        with self._lock:
            node = self._node(ino)
            fh = self._new_fh()
            above = self._nodes.get(node.parent, node)
            self._listings[fh] = [(b".", node), (b"..", above), *node.entries.items()]
            return Opened(fh)

    def readdir(self, caller: Caller, ino: int, fh: int, offset: int, sink: DirSink) -> None:
        for position, (name, node) in enumerate(self._listings[fh][offset:], offset + 1):
            if not sink.add(name, node.ino, stat.S_IFMT(node.mode), position):
                return

    def readdirplus(self, caller: Caller, ino: int, fh: int, offset: int, sink: DirSink) -> None:
        with self._lock:
            for position, (name, node) in enumerate(self._listings[fh][offset:], offset + 1):
                if not sink.add_plus(name, Entry(node.stat(), self.valid_s, self.valid_s), position):
                    return
                if name not in (b".", b".."):
                    node.nlookup += 1

    def releasedir(self, caller: Caller, ino: int, fh: int) -> None:
        self._listings.pop(fh, None)

    def fsyncdir(self, caller: Caller, ino: int, fh: int, datasync: bool) -> None:
        self._node(ino)

    # -- files

    def open(self, caller: Caller, ino: int, flags: int) -> Opened:
        self._slow("open")
        self._node(ino)
        return Opened(self._new_fh())

    def create(
        self, caller: Caller, parent: int, name: bytes, mode: int, umask: int, flags: int
    ) -> tuple[Entry, Opened]:
        return self.mknod(caller, parent, name, mode, 0, umask), Opened(self._new_fh())

    def tmpfile(
        self, caller: Caller, parent: int, name: bytes, mode: int, umask: int, flags: int
    ) -> tuple[Entry, Opened]:
        with self._lock:
            node = self._new(caller, parent, mode)
            node.nlink = 0
            return self._entry(node), Opened(self._new_fh())

    def read(self, caller: Caller, ino: int, fh: int, offset: int, size: int) -> memoryview:
        self._slow("read")
        return memoryview(self._node(ino).data)[offset : offset + size]

    def write(self, caller: Caller, ino: int, fh: int, offset: int, data: memoryview, flags: int) -> int:
        self._slow("write")
        with self._lock:
            node = self._node(ino)
            end = offset + len(data)
            if end > len(node.data):
                node.resize(end)
            memoryview(node.data)[offset:end] = data
            node.touch()
            return len(data)

    def flush(self, caller: Caller, ino: int, fh: int, lock_owner: int) -> None:
        self._node(ino).locks.closed(lock_owner)

    def release(self, caller: Caller, ino: int, fh: int, lock_owner: int, flock_release: bool) -> None:
        node = self._nodes.get(ino)
        if node is not None and flock_release:
            node.locks.flock(caller, lock_owner, fcntl.F_UNLCK, False)

    def fsync(self, caller: Caller, ino: int, fh: int, datasync: bool) -> None:
        self._slow("fsync")

    def fallocate(self, caller: Caller, ino: int, fh: int, offset: int, length: int, mode: int) -> None:
        with self._lock:
            node = self._node(ino)
            if mode & ~(KEEP_SIZE | PUNCH_HOLE | ZERO_RANGE):
                raise OSError(errno.EOPNOTSUPP, "mode not supported")
            if mode & (PUNCH_HOLE | ZERO_RANGE):
                end = min(offset + length, len(node.data))
                if end > offset:
                    node.data[offset:end] = bytes(end - offset)
            if not mode & KEEP_SIZE and offset + length > len(node.data):
                node.resize(offset + length)
            node.touch()

    def lseek(self, caller: Caller, ino: int, fh: int, offset: int, whence: int) -> int:
        with self._lock:
            data = self._node(ino).data
            if offset >= len(data):
                raise OSError(errno.ENXIO, "beyond the end")
            wanted = whence == SEEK_DATA
            for start in range(offset - offset % BLOCK, len(data), BLOCK):
                if any(data[start : start + BLOCK]) == wanted:
                    return max(start, offset)
            if wanted:
                raise OSError(errno.ENXIO, "no data after the offset")
            return len(data)

    def copy_file_range(
        self, caller: Caller, ino: int, fh: int, offset: int, out_ino: int, out_fh: int, out_offset: int,
        length: int, flags: int,
    ) -> int:  # fmt: skip
        with self._lock:
            data = bytes(memoryview(self._node(ino).data)[offset : offset + length])
            return self.write(caller, out_ino, out_fh, out_offset, memoryview(data), 0)

    def ioctl(
        self, caller: Caller, ino: int, fh: int, cmd: int, arg: int, data: bytes, out_size: int, flags: int
    ) -> tuple[int, bytes]:
        """Every command answers its own input, reversed."""
        return len(data), data[::-1][:out_size]

    def syncfs(self, caller: Caller, ino: int) -> None:
        pass

    def destroy(self) -> None:
        self.destroyed.set()

    # -- locks

    def getlk(self, caller: Caller, ino: int, fh: int, owner: int, lock: FileLock) -> FileLock:
        return self._node(ino).locks.get(owner, lock)

    def setlk(self, caller: Caller, ino: int, fh: int, owner: int, lock: FileLock, wait: bool) -> None:
        self._node(ino).locks.set(caller, owner, lock, wait)

    def flock(self, caller: Caller, ino: int, fh: int, owner: int, kind: int, wait: bool) -> None:
        self._node(ino).locks.flock(caller, owner, kind, wait)
