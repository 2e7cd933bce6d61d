"""Locks of files: POSIX record locks, open-file-description locks and BSD locks, and their release with the last user.

Not here: the rules of conflict (`meta`).
"""

from __future__ import annotations

import errno
import fcntl

from fuse.operations import Caller, FileLock
from juicefs_py.errors import refuse
from juicefs_py.handles import FileHandle
from juicefs_py.vfs_base import is_internal
from juicefs_py.vfs_files import FileOperations
from juicefs_py.vfs_trace import traced
from meta.plock import Plock
from meta.types import SUPERUSER

_TYPES = {fcntl.F_RDLCK: "R", fcntl.F_WRLCK: "W", fcntl.F_UNLCK: "U"}
_FLOCKS = {fcntl.F_RDLCK: "LOCKSH", fcntl.F_WRLCK: "LOCKEX", fcntl.F_UNLCK: "UNLOCK"}


class LockOperations(FileOperations):
    """Locks. An owner is the kernel's number for a process (record locks) or an open file (the others)."""

    @traced(lambda result, ino, fh, owner, lock: f"({ino},{fh},{owner:016X}): " + (
        f"({result.start},{result.end},{_TYPES.get(result.type, '?')},{result.pid})" if result else ""
    ))  # fmt: skip
    def getlk(self, caller: Caller, ino: int, fh: int, owner: int, lock: FileLock) -> FileLock:
        self._lockable(fh, ino)
        found = self.meta.getlk(self.who(caller), ino, owner, Plock(lock.type, lock.pid, lock.start, lock.end))
        return FileLock(found.start, found.end, found.type, found.pid)

    @traced(lambda result, ino, fh, owner, lock, wait: (
        f"({ino},{fh},{owner:016X},{lock.start},{lock.end},{_TYPES.get(lock.type, '?')},{int(wait)},{lock.pid})"
    ))  # fmt: skip
    def setlk(self, caller: Caller, ino: int, fh: int, owner: int, lock: FileLock, wait: bool) -> None:
        handle = self._lockable(fh, ino)
        if lock.type != fcntl.F_UNLCK:  # before, so that a close that races with the grant finds it
            handle.lock_owners.add(owner)
            handle.inode.lock_owners.add(owner)
        wanted = Plock(lock.type, lock.pid, lock.start, lock.end)
        self.meta.setlk(self.who(caller), ino, owner, wanted, wait, caller.wait)

    @traced(lambda result, ino, fh, owner, kind, wait: (
        f"({ino},{fh},{owner:016X},{_FLOCKS.get(kind, '?')},{str(wait).lower()})"
    ))  # fmt: skip
    def flock(self, caller: Caller, ino: int, fh: int, owner: int, kind: int, wait: bool) -> None:
        handle = self._lockable(fh, ino)
        owner ^= fh
        if kind != fcntl.F_UNLCK:
            handle.flock_owner = owner
        self.meta.flock(self.who(caller), ino, owner, kind, wait, caller.wait)
        if kind == fcntl.F_UNLCK:
            handle.flock_owner = None

    def _lockable(self, fh: int, ino: int) -> FileHandle:
        if is_internal(ino):
            raise refuse(errno.EPERM)
        return self.file_handle(fh, ino)

    def drop_record_locks(self, handle: FileHandle, owners: set[int]) -> None:
        """A process closed a descriptor of the file: by POSIX all its record locks on the file go with it."""
        held = owners & handle.inode.lock_owners
        for owner in held:
            handle.inode.lock_owners.discard(owner)
            handle.lock_owners.discard(owner)
            self.meta.release_plocks(handle.ino, owner)

    def drop_flock(self, handle: FileHandle) -> None:
        """The open file is gone, and with it its BSD lock."""
        if handle.flock_owner is not None:
            self.meta.flock(SUPERUSER, handle.ino, handle.flock_owner, fcntl.F_UNLCK)
