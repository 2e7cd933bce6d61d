"""Operations on ranges of open files: preallocate, punch, copy inside the volume, find data and holes.

Not here: plain reads and writes (`vfs_files`).
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack

from fuse.operations import Caller
from juicefs_py.errors import refuse
from juicefs_py.vfs_attrs import AttrOperations
from juicefs_py.vfs_base import is_internal
from juicefs_py.vfs_files import FileOperations
from juicefs_py.vfs_trace import traced
from meta.attr import Attr
from meta.types import CHUNK_SHIFT, CHUNK_SIZE, MAX_FILE_SIZE

COPY_STEP = 4 << 20
COPY_AT_MOST = (1 << 32) - CHUNK_SIZE  # the reply counts bytes in 32 bits


class RangeOperations(AttrOperations, FileOperations):
    """Ranges of files."""

    @traced(lambda result, ino, fh, offset, length, mode: f"({ino},{mode},{offset},{length})")
    def fallocate(self, caller: Caller, ino: int, fh: int, offset: int, length: int, mode: int) -> None:
        if is_internal(ino):
            raise refuse(errno.EPERM)
        if length <= 0:
            raise refuse(errno.EINVAL)
        if offset + length > MAX_FILE_SIZE:
            raise refuse(errno.EFBIG)
        handle = self.handles.writable(fh, ino)
        with handle.inode.gate.shut():
            self.settle(ino)
            attr = self.meta.fallocate(self.who(caller), ino, mode, offset, length)
            self._content_changed(ino, attr)
            self._renew_copies(ino, attr, offset, length)

    def _content_changed(self, ino: int, attr: Attr) -> None:
        self.readers.invalidate(ino)
        inode = self.handles.inode(ino)
        if inode is not None:
            inode.changed(attr)
        if self.passthrough is not None:
            self.passthrough.outdated(ino, self.meta.files.foreign(ino))  # others, whom we meet only now
        self.touch(ino)

    @traced(lambda result, ino, fh, offset, out_ino, out_fh, out_offset, length, flags: (
        f"({ino},{offset},{out_ino},{out_offset},{length},{flags})"
    ))  # fmt: skip
    def copy_file_range(
        self, caller: Caller, ino: int, fh: int, offset: int, out_ino: int, out_fh: int, out_offset: int,
        length: int, flags: int,
    ) -> int:  # fmt: skip
        if is_internal(ino) or is_internal(out_ino):
            raise refuse(errno.ENOTSUP)
        length = min(length, COPY_AT_MOST)
        overlap = ino == out_ino and offset < out_offset + length and out_offset < offset + length
        if flags or overlap:
            raise refuse(errno.EINVAL)
        if offset + length > MAX_FILE_SIZE or out_offset + length > MAX_FILE_SIZE:
            raise refuse(errno.EFBIG)
        source = self.file_handle(fh, ino)
        target = self.handles.writable(out_fh, out_ino)
        with ExitStack() as stack:
            for inode in sorted({source.inode, target.inode}, key=lambda inode: inode.ino):  # one order for everybody
                stack.enter_context(inode.gate.shut())
            self.settle(ino)
            self.settle(out_ino)
            copied, attr = self.meta.copy_file_range(self.who(caller), ino, offset, out_ino, out_offset, length)
            self._content_changed(out_ino, attr)
            self._renew_copies(out_ino, attr, out_offset, copied)
        return copied

    def _renew_copies(self, ino: int, attr: Attr, offset: int, length: int) -> None:
        """Bring a range of what the kernel reads past us up to date, while nobody writes."""
        passthrough = self.passthrough
        if passthrough is None or not passthrough.uses(ino):
            return
        end = min(offset + length, attr.length)
        passthrough.resized(ino, attr.length)
        try:
            while offset < end:
                for part in self.content(ino, offset, min(COPY_STEP, end - offset)):
                    passthrough.wrote(ino, offset, part)
                    offset += len(part)
        except BaseException:
            passthrough.spoiled(ino)
            raise

    @traced(lambda result, ino, fh, offset, whence: f"({ino},{offset},{whence}): {result}")
    def lseek(self, caller: Caller, ino: int, fh: int, offset: int, whence: int) -> int:
        if is_internal(ino) or whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise refuse(errno.EINVAL)
        self.file_handle(fh, ino)
        file = self.writers.get(ino)
        if file is not None:
            file.commit_all()
        length = self.stat(ino).size
        if offset < 0 or offset >= length:
            raise refuse(errno.ENXIO)
        found = self._seek(ino, offset, length, data=whence == os.SEEK_DATA)
        if found >= length:
            if whence == os.SEEK_DATA:
                raise refuse(errno.ENXIO)
            return length
        return found

    def _seek(self, ino: int, offset: int, length: int, data: bool) -> int:
        """First offset from `offset` on that is in data (or in a hole); `length` or more if there is none."""
        while offset < length:
            indx, pos = offset >> CHUNK_SHIFT, offset & (CHUNK_SIZE - 1)
            start = 0
            for piece in self.meta.read_chunk(ino, indx):
                end = start + piece.len
                if pos < end and (piece.id != 0) == data:
                    return (indx << CHUNK_SHIFT) + max(pos, start)
                start = end
            if not data and start < CHUNK_SIZE:
                return (indx << CHUNK_SHIFT) + max(pos, start)
            offset = (indx + 1) << CHUNK_SHIFT
        return length
