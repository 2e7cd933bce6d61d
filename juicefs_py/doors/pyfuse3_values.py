"""Values of pyfuse3 from those of `fuse.operations`, and back. Nothing is asked of anybody, but in a listing.

Not here: requests (`pyfuse3_handlers`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, RequestContext

from fuse import abi
from fuse.operations import Caller, DirSink, Entry, Opened, SetAttr, Stat

if TYPE_CHECKING:
    from juicefs_py.vfs import VFS

_S = 10**9  # in nanoseconds
_DOTS = (b".", b"..")
_AT_MOST = 1024  # entries of a reply; libfuse's buffers take fewer


def caller_of(context: RequestContext, checked: bool) -> Caller:
    return Caller(context.uid, context.gid, context.pid, 0, checked)


def attributes(found: Stat, valid_s: float) -> EntryAttributes:
    """What GETATTR and SETATTR answer."""
    made = EntryAttributes()
    made.st_ino = pyfuse3.InodeT(found.ino)
    made.st_mode = pyfuse3.ModeT(found.mode)
    made.st_nlink, made.st_uid, made.st_gid, made.st_rdev = found.nlink, found.uid, found.gid, found.rdev
    made.st_size, made.st_blocks, made.st_blksize = found.size, found.blocks, found.blksize
    made.st_atime_ns = found.atime * _S + found.atimensec
    made.st_mtime_ns = found.mtime * _S + found.mtimensec
    made.st_ctime_ns = found.ctime * _S + found.ctimensec
    made.attr_timeout = made.entry_timeout = valid_s
    return made


def entry(found: Entry) -> EntryAttributes:
    """What LOOKUP answers; inode 0 is a name that is not there."""
    made = attributes(found.stat, found.attr_valid_s)
    made.entry_timeout = found.entry_valid_s
    made.generation = found.generation
    return made


def file_info(opened: Opened) -> FileInfo:
    return FileInfo(
        fh=pyfuse3.FileHandleT(opened.fh),
        direct_io=bool(opened.flags & abi.FOPEN_DIRECT_IO),
        keep_cache=bool(opened.flags & abi.FOPEN_KEEP_CACHE),
    )


def change(valid: int, mode: int = 0) -> SetAttr:
    """A SETATTR of our own: to a mode, or to no length."""
    return SetAttr(valid, 0, mode, 0, 0, 0, 0, 0, 0, 0, 0, None, None)


def changes(given: EntryAttributes, fields: pyfuse3.SetattrFields, fh: int | None) -> SetAttr:
    """A SETATTR of the kernel. "Now" has become a time on its way here."""
    asked = (
        (fields.update_mode, abi.FATTR_MODE), (fields.update_uid, abi.FATTR_UID), (fields.update_gid, abi.FATTR_GID),
        (fields.update_size, abi.FATTR_SIZE), (fields.update_atime, abi.FATTR_ATIME),
        (fields.update_mtime, abi.FATTR_MTIME), (fields.update_ctime, abi.FATTR_CTIME), (fh is not None, abi.FATTR_FH),
    )  # fmt: skip
    valid = sum(bit for wanted, bit in asked if wanted)
    atime, atimensec = divmod(given.st_atime_ns, _S)
    mtime, mtimensec = divmod(given.st_mtime_ns, _S)
    ctime, ctimensec = divmod(given.st_ctime_ns, _S)
    return SetAttr(
        valid, given.st_size, given.st_mode, given.st_uid, given.st_gid,
        atime, atimensec, mtime, mtimensec, ctime, ctimensec, fh, None,
    )  # fmt: skip


class Listing(DirSink):
    """Where the VFS puts the entries of a READDIRPLUS; pyfuse3 answers nothing but these.

    An entry without attributes is asked for them: the kernel would keep whatever stood there.
    """

    def __init__(self, vfs: VFS, caller: Caller, token: pyfuse3.ReaddirToken) -> None:
        self._vfs = vfs
        self._caller = caller
        self._token = token

    def add(self, name: bytes, ino: int, file_type: int, next_offset: int) -> bool:
        if name in _DOTS:
            made = EntryAttributes()
            made.st_ino, made.st_mode = pyfuse3.InodeT(ino), pyfuse3.ModeT(file_type)
        else:
            made = attributes(*self._vfs.getattr(self._caller, ino, None))
            made.entry_timeout = 0
        return pyfuse3.readdir_reply(self._token, pyfuse3.FileNameT(name), made, next_offset)

    @property
    def at_most(self) -> int:
        return _AT_MOST

    def add_plus(self, name: bytes, entry_: Entry, next_offset: int) -> bool:
        return pyfuse3.readdir_reply(self._token, pyfuse3.FileNameT(name), entry(entry_), next_offset)
