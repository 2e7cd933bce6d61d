"""The part of `MetaClient` about the content of files: open and close, chunk lists, writes, lengths."""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from meta.attr import Attr
from meta.client_base import ClientBase
from meta.compaction import is_due
from meta.errors import Refused
from meta.rules.access import EXECUTE, READ, WRITE, require
from meta.rules.content import fallocate, truncate, write_slice
from meta.rules.copying import copy_file_range
from meta.slices import COMPACT_AT_MOST, RECORD_SIZE, Piece, resolve
from meta.types import FLAG_APPEND, FLAG_IMMUTABLE, TRASH, Caller

_FMODE_EXEC = 0x20
_ACCESS = {os.O_RDONLY: READ, os.O_WRONLY: WRITE, os.O_RDWR: READ | WRITE}


class Opened(NamedTuple):
    """An opened file; `keep_cache`: what the kernel has cached of it is still good."""

    attr: Attr
    keep_cache: bool


class FileCalls(ClientBase):
    """Regular files. Every open must be met by a close."""

    def open(self, caller: Caller, ino: int, flags: int) -> Opened:
        """Open a file with open(2) `flags`. From now on it outlives its last link, as far as this client is asked."""
        self.files.hold(ino)
        try:
            attr = self._look(ino, flags)
            if flags & (os.O_ACCMODE | os.O_TRUNC) or attr.flags or attr.parent > TRASH or not caller.checked:
                self._check_open(caller, attr, flags)
            self.touch_atime(ino, attr)
        except BaseException:
            self.close(ino)
            raise
        return Opened(attr, self.files.opened(ino, attr))

    def close(self, ino: int) -> None:
        """One handle less; the last handle of a file without links deletes it."""
        if self.files.close(ino):
            self._release(ino)

    def read_chunk(self, ino: int, indx: int) -> list[Piece]:
        """What a chunk consists of, up to the last byte covered. The same list as long as nothing changes."""
        files = self.files
        pieces = files.chunk(ino, indx)
        if pieces is not None:
            return pieces
        version = files.version(ino)
        records = self.reader.chunk(ino, indx)
        if not records:
            attr = self.reader.attr(ino)
            if attr is None:
                raise Refused(errno.ENOENT)
            if not attr.is_file:
                raise Refused(errno.EPERM)
        pieces = resolve(records)
        if version >= 0:
            files.keep_chunk(ino, indx, pieces, version)
        if is_due(records, len(pieces)) and not self.config.read_only:
            self.compactor.request(ino, indx)
        return pieces

    def invalidate_chunk(self, ino: int, indx: int | None = None) -> None:
        """Forget what is cached of a chunk, or of all: after a block could not be read (a compaction elsewhere)."""
        self.files.drop(ino, indx)

    def new_slice_id(self) -> int:
        """A fresh slice number."""
        if self.config.read_only:
            raise Refused(errno.EROFS)
        return self.vol.slices.take()

    def write_slice(self, ino: int, indx: int, pos: int, slice_id: int, length: int, mtime: tuple[int, int]) -> Attr:
        """Commit a stored slice as `length` bytes at `pos` of a chunk. ENOENT: the file is gone, delete the objects."""
        vol = self.vol
        done = self._write(lambda tx: write_slice(tx, vol, ino, indx, pos, slice_id, length, mtime))
        self.files.changed(ino, done.attr, done.before, indx)
        self.compactor.written(ino, indx, done.appended.count)
        return done.attr

    def truncate(self, caller: Caller, ino: int, length: int, *, handle: bool = False) -> Attr:
        """Set a file's length; `handle`: through a descriptor open for writing."""
        done = self._write(lambda tx: truncate(tx, self.vol, caller, ino, length, handle=handle))
        self.files.changed(ino, done.attr, done.before)
        return done.attr

    def fallocate(self, caller: Caller, ino: int, mode: int, off: int, size: int) -> Attr:
        """Reserve, punch or zero a range, as fallocate(2)."""
        done = self._write(lambda tx: fallocate(tx, self.vol, caller, ino, mode, off, size))
        self.files.changed(ino, done.attr, done.before)
        return done.attr

    def copy_file_range(
        self, caller: Caller, src: int, off_in: int, dst: int, off_out: int, size: int
    ) -> tuple[int, Attr]:
        """Share a range of `src` at `off_out` of `dst`: bytes copied, and the new attributes of `dst`."""
        done = self._write(lambda tx: copy_file_range(tx, self.vol, caller, src, off_in, dst, off_out, size))
        if done[0]:
            self.files.changed(dst, done[1])
        return done

    def compact_chunk(self, ino: int, indx: int) -> bool:
        """Compact one chunk now; whether it became shorter."""
        if self.config.read_only:
            raise Refused(errno.EROFS)
        return self.compactor.compact(ino, indx)

    def compact_fully(self, ino: int, indx: int) -> bool:
        """The same in as many goes as the length takes that the chunk has now; each leaves one record of so many."""
        records = len(self.reader.chunk(ino, indx)) // RECORD_SIZE
        shorter = False
        for _ in range((records - 2) // (COMPACT_AT_MOST - 1) + 1):
            if not self.compact_chunk(ino, indx):
                break
            shorter = True
        return shorter

    def _look(self, ino: int, flags: int) -> Attr:
        """The attributes that an open goes by. For one that may read, the first chunk's list comes along if it is free.

        Not a list that is due for compaction: the read that finds it asks for that.
        """
        files = self.files
        writes_only = flags & os.O_ACCMODE == os.O_WRONLY or flags & os.O_TRUNC
        if writes_only or files.chunk(ino, 0) is not None or files.attr(ino) is not None:
            return self.getattr(ino)
        version = files.version(ino)
        attr, records = self.reader.opening(self._real(ino))
        if attr is None:
            raise Refused(errno.ENOENT)
        pieces = None
        if records is not None and attr.is_file:
            found = resolve(records)
            pieces = None if is_due(records, len(found)) else found
        files.seen(ino, attr, version, pieces)
        return attr

    def _check_open(self, caller: Caller, attr: Attr, flags: int) -> None:
        """Who may open for what; flags of the inode bind everybody."""
        writing = flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC
        if writing and self.config.read_only:
            raise Refused(errno.EROFS)
        if writing and (attr.flags & FLAG_IMMUTABLE or attr.parent > TRASH):
            raise Refused(errno.EPERM)
        if attr.flags & FLAG_APPEND and (flags & os.O_TRUNC or (writing and not flags & os.O_APPEND)):
            raise Refused(errno.EPERM)
        wanted = EXECUTE if flags & _FMODE_EXEC else _ACCESS.get(flags & os.O_ACCMODE, READ | WRITE)
        if flags & os.O_TRUNC:
            wanted |= WRITE
        require(self.reader, caller, attr, wanted)
