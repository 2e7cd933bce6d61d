"""Operations on open files: open, read, write, flush, fsync, release.

Not here: ranges (fallocate, copy, seek: `vfs_ranges`), locks (`vfs_locks`), what becomes of the bytes (`data`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence

from fuse.abi import FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE, FOPEN_PASSTHROUGH
from fuse.nodes import inode_of
from fuse.operations import Buffer, Caller, Opened
from juicefs_py.assembling import SMALLEST
from juicefs_py.control.internal import InternalHandle
from juicefs_py.errors import refuse
from juicefs_py.handles import FileHandle, OpenInode
from juicefs_py.passthrough import Passthrough
from juicefs_py.vfs_base import VFSBase, is_internal
from juicefs_py.vfs_names import O_ACCMODE
from juicefs_py.vfs_trace import traced
from meta.attr import Attr
from meta.errors import Refused
from meta.types import FILE, MAX_FILE_SIZE, SUPERUSER

LENGTH_FRESH_S = 1.0  # a read at the end of the file asks for the length again after this long
_NOT_OPEN = frozenset({errno.ENOENT, errno.EPERM, errno.EINVAL})  # of a file that was fine when it was opened: EBADF


class FileOperations(VFSBase):
    """Data of files."""

    @traced(lambda result, ino, flags: f"({ino},0x{flags:X})" + (f" [fh:{result.fh}]" if result else ""))
    def open(self, caller: Caller, ino: int, flags: int) -> Opened:
        if is_internal(ino):
            handle = self.internal.open(ino, flags, caller)
            return Opened(self.handles.add(handle), FOPEN_DIRECT_IO)
        inode = self.handles.hold(ino)
        try:
            epoch, writing = inode.epoch, self.writers.get(ino) is not None
            opened = self.meta.open(self.who(caller), ino, flags)
            try:
                if writing:
                    self.stat(ino)  # what is not committed yet counts
                else:
                    self.learn(inode, opened.attr, opened.attr.length, epoch)
                file = self._new_handle(caller, inode, opened.attr, flags, lambda: not writing and inode.epoch == epoch)
            except BaseException:
                self.meta.close(ino)
                raise
        except BaseException:
            self.handles.drop(inode)
            raise
        keep = opened.keep_cache and (self.passthrough is None or self.passthrough.keeps_pages(ino))
        if not opened.keep_cache and self.notifier is not None:
            # Another client may have changed the length. Attributes only (-1): nothing else may be told while we serve.
            self.notifier.inval_inode(file.node or ino, -1, 0)
        if file.backing:
            return Opened(file.fh, FOPEN_PASSTHROUGH, file.backing)
        return Opened(file.fh, FOPEN_KEEP_CACHE if keep else 0)

    def _new_handle(
        self, caller: Caller, inode: OpenInode, attr: Attr, flags: int, fresh: Callable[[], bool]
    ) -> FileHandle:
        """A handle through us, or past us if the kernel can read a copy of what `attr` tells of."""
        writable = flags & O_ACCMODE != 0
        passthrough = self.passthrough
        if passthrough is None:
            return self.handles.open(inode, attr.tier, flags, writable)
        foreign = self.meta.files.foreign(inode.ino, attr)
        readable = fresh if not writable and foreign >= 0 else None
        asked = caller.node if inode_of(caller.node) == inode.ino else 0  # else the request is about its directory
        node, backing = passthrough.open(inode.ino, asked, attr, readable, foreign)
        try:
            return self.handles.open(inode, attr.tier, flags, writable, node=node, backing=backing)
        except BaseException:
            passthrough.release(inode.ino, node, backing)
            raise

    def file_handle(self, fh: int, ino: int) -> FileHandle:
        """The handle; an odd one that is not known (we took over from another process) is opened again for reading."""
        handle = self.handles.file(fh, ino)
        if handle is not None:
            return handle
        if fh & 1 == 0:
            raise refuse(errno.EBADF)
        with self.reopening:
            handle = self.handles.file(fh, ino)
            if handle is not None:
                return handle  # by another request, a moment ago
            opened = self.meta.open(SUPERUSER, ino, os.O_RDONLY)
            if opened.attr.type != FILE:
                self.meta.close(ino)
                raise refuse(errno.EBADF)
            inode = self.handles.hold(ino)
            return self.handles.open(inode, opened.attr.tier, os.O_RDONLY, writable=False, fh=fh)

    def internal_handle(self, fh: int, ino: int, caller: Caller) -> InternalHandle:
        """The same for internal files; a command channel that is not known is gone for good."""
        handle = self.handles.other(fh)
        if handle is None:
            with self.reopening:
                handle = self.handles.other(fh)
                if handle is None:
                    handle = self.internal.reopen(ino, caller)
                    self.handles.add(handle, fh)
        if not isinstance(handle, InternalHandle) or handle.ino != ino:
            raise refuse(errno.EBADF)
        return handle

    @traced(lambda result, ino, fh, offset, size: (
        f"({ino},{size},{offset},{fh}): " + (f"{_total(result)}" if is_internal(ino) else f"({_total(result)})")
    ))  # fmt: skip
    def read(self, caller: Caller, ino: int, fh: int, offset: int, size: int) -> Buffer | Sequence[Buffer]:
        if is_internal(ino):
            return self.internal_handle(fh, ino, caller).read(offset, size)
        handle = self.file_handle(fh, ino)
        if handle.flags & O_ACCMODE == os.O_WRONLY and not self.config.writeback_cache:
            raise refuse(errno.EBADF)
        if offset >= MAX_FILE_SIZE or offset + size >= MAX_FILE_SIZE:
            raise refuse(errno.EFBIG)
        file = self.writers.get(ino)
        if file is not None:
            file.before_read(offset, size)
        self.stats.read_sizes.observe(size)
        handle.bytes_read += size
        try:
            return handle.reader.read(offset, size, self._length(handle.inode, offset + size))
        except Refused as problem:
            if problem.errno == errno.ENOENT:
                raise refuse(errno.EBADF) from problem
            raise

    def content(self, ino: int, offset: int, size: int) -> list[Buffer]:
        """Bytes of a file that is so long, as a read through the mount would see them."""
        file = self.writers.get(ino)
        if file is not None:
            file.before_read(offset, size)
        reader = self.readers.open(ino)
        try:
            found = reader.read(offset, size, offset + size)
        finally:
            self.readers.close(reader)
        return found if isinstance(found, list) else [found]

    def _length(self, inode: OpenInode, end: int) -> int:
        """Length of an open file, good enough for a read that ends at `end`."""
        known = inode.length
        if end > known and inode.is_stale(LENGTH_FRESH_S):
            return self.stat(inode.ino).size
        return known

    @traced(lambda result, ino, fh, offset, data, flags: f"({ino},{len(data)},{offset},{fh})")
    def write(self, caller: Caller, ino: int, fh: int, offset: int, data: memoryview, flags: int) -> int:
        size = len(data)
        if is_internal(ino):
            return self.internal_handle(fh, ino, caller).write(offset, bytes(data))
        if offset >= MAX_FILE_SIZE or offset + size >= MAX_FILE_SIZE:
            raise refuse(errno.EFBIG)
        handle = self.handles.writable(fh, ino)
        assert handle.writer is not None and handle.claim is not None
        inode = handle.inode
        inode.gate.enter()
        try:
            handle.writer.write(handle.claim, offset, data)
            inode.grow(offset + size)
            if self.passthrough is not None:
                self.passthrough.wrote(ino, offset, data)
        except Refused as problem:
            raise refuse(errno.EBADF if problem.errno in _NOT_OPEN else problem.errno) from problem
        finally:
            inode.gate.leave()
        self.stats.written_sizes.observe(size)
        return size

    @traced(lambda result, ino, fh, lock_owner: f"({ino},{fh},{lock_owner:016X})")
    def flush(self, caller: Caller, ino: int, fh: int, lock_owner: int) -> None:
        if is_internal(ino):
            self.internal_handle(fh, ino, caller).flush()
            return
        handle = self.handles.file(fh, ino)
        if handle is None:
            if fh & 1:
                return  # a reader of our predecessor: nothing of it is pending here
            raise refuse(errno.EBADF)
        try:
            if handle.writer is not None:
                handle.writer.flush(handle.claim, explicit=False, interrupted=lambda: caller.interrupted)
        finally:
            self.drop_record_locks(handle, {lock_owner})

    @traced(lambda result, ino, fh, datasync: f"({ino},{int(datasync)})")
    def fsync(self, caller: Caller, ino: int, fh: int, datasync: bool) -> None:
        if is_internal(ino):
            return
        handle = self.file_handle(fh, ino)
        file = self.writers.get(ino)
        if file is not None:
            file.flush(handle.claim, explicit=True, interrupted=lambda: caller.interrupted)
        self.sync_rooms()

    def sync_rooms(self) -> None:
        """What is committed survives a loss of power when this returns: first the data, then what refers to it."""
        self.store.sync()
        self.meta.sync()

    @traced(lambda result, ino, fh, lock_owner, flock_release: f"({ino},{fh})")
    def release(self, caller: Caller, ino: int, fh: int, lock_owner: int, flock_release: bool) -> None:
        if is_internal(ino):
            internal = self.handles.remove(fh)
            if isinstance(internal, InternalHandle):
                internal.close()
            return
        handle = self.handles.file(fh, ino)
        if handle is None:
            return
        owners = handle.lock_owners.copy()
        if handle.recovered:  # by which handle a lock was taken is not known: the last one drops what is left
            owners |= handle.inode.lock_owners if handle.inode.refs == 1 else set()
            handle.flock_owner = lock_owner ^ fh if flock_release else None
        try:
            if handle.writer is not None:
                handle.writer.flush(handle.claim, explicit=False)  # dirty pages of a mapping come after the last close
        finally:
            self.drop_record_locks(handle, owners)
            self.drop_flock(handle)
            self.handles.close(fh)
            if self.passthrough is not None:
                self._let_go(self.passthrough, handle)
            self.meta.close(ino)

    def _let_go(self, passthrough: Passthrough, handle: FileHandle) -> None:
        if handle.node:
            passthrough.release(handle.ino, handle.node, handle.backing)
        whole = handle.bytes_read >= max(handle.inode.length, SMALLEST)
        if passthrough.assembler is not None and whole and handle.writer is None:
            passthrough.assembler.note(handle.ino)

    @traced(lambda result, ino: f"({ino})")
    def syncfs(self, caller: Caller, ino: int) -> None:
        late = self.writers.commit_all()
        self.sync_rooms()
        if late:
            raise OSError(errno.EIO, f"{len(late)} files could not be flushed")

    def drop_record_locks(self, handle: FileHandle, owners: set[int]) -> None:
        """Remove the record locks of these owners on the handle's file (`vfs_locks`)."""
        raise NotImplementedError

    def drop_flock(self, handle: FileHandle) -> None:
        """Remove the BSD lock taken through the handle (`vfs_locks`)."""
        raise NotImplementedError


def _total(result: Buffer | Sequence[Buffer] | None) -> int:
    if result is None:
        return 0
    return len(result) if isinstance(result, (bytes, bytearray, memoryview)) else sum(len(part) for part in result)
