"""A coroutine for each request that pyfuse3 knows, each of which calls one method of the VFS in a thread.

Not here: the life of the mount (`pyfuse3`), values (`pyfuse3_values`). Handlers of open files get no caller and no
inode; both are remembered from `open`, `create`, and `opendir`. What libfuse asks of the kernel at INIT differs from
our own session in two things that are made up for here: O_TRUNC comes with the open, and set-id bits are ours to clear.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar, TypeVarTuple

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, RequestContext

from fuse import abi, opcodes
from fuse.operations import Caller
from juicefs_py.doors.pyfuse3_values import Listing, attributes, caller_of, change, changes, entry, file_info
from juicefs_py.errors import errno_of

if TYPE_CHECKING:
    from juicefs_py.vfs import VFS

log = logging.getLogger(__name__)

MAX_TASKS = 99  # pyfuse3's own default: requests under way at once, each with a thread
_MAX_XATTR = 64 << 10  # bytes, the kernel's own limit
_OF_AN_INODE = frozenset(row.name.lower() for row in opcodes.ROWS if row.opcode in opcodes.OF_AN_INODE)


Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")


class _Open(NamedTuple):
    """What requests on a handle do not say."""

    ino: int
    caller: Caller


class Handlers(pyfuse3.Operations):
    """A coroutine for each request that pyfuse3 knows; each calls one method of the VFS in a thread."""

    supports_dot_lookup = True

    def __init__(self, vfs: VFS, ready: threading.Event, checked: bool) -> None:
        super().__init__()
        self._checked = checked
        self._vfs = vfs
        self._ready = ready
        self._files: dict[int, _Open] = {}
        self._dirs: dict[int, _Open] = {}
        self._limiter = trio.CapacityLimiter(MAX_TASKS)

    def init(self) -> None:
        self._ready.set()

    def _caller(self, context: RequestContext) -> Caller:
        return caller_of(context, self._checked)

    async def _call(self, call: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
        """Call the VFS in a thread; what it raises becomes an errno, as in our own session.

        ENOENT for an inode says that the kernel's node is stale: with ESTALE it follows the path once more.
        """
        try:
            return await trio.to_thread.run_sync(call, *arguments, limiter=self._limiter)
        except Exception as error:
            number = errno_of(error)
            if not number:
                log.exception("%s failed: unexpected error", _name(call))
                number = errno.EIO
            if number == errno.ENOENT and _name(call) in _OF_AN_INODE:
                number = errno.ESTALE
            raise pyfuse3.FUSEError(number) from None

    # -- names

    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        return entry(await self._call(self._vfs.lookup, self._caller(ctx), parent_inode, name))

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        await self._call(self._vfs.forget, inode_list)

    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        call = self._vfs.symlink
        return entry(await self._call(call, self._caller(ctx), parent_inode, name, target))

    async def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        arguments = (self._caller(ctx), parent_inode, name, mode, rdev, ctx.umask)
        return entry(await self._call(self._vfs.mknod, *arguments))

    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        arguments = (self._caller(ctx), parent_inode, name, mode, ctx.umask)
        return entry(await self._call(self._vfs.mkdir, *arguments))

    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        await self._call(self._vfs.unlink, self._caller(ctx), parent_inode, name)

    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        await self._call(self._vfs.rmdir, self._caller(ctx), parent_inode, name)

    async def rename(
        self, parent_inode_old: int, name_old: bytes, parent_inode_new: int, name_new: bytes, flags: int,
        ctx: RequestContext,
    ) -> None:  # fmt: skip
        arguments = (self._caller(ctx), parent_inode_old, name_old, parent_inode_new, name_new, flags)
        await self._call(self._vfs.rename, *arguments)

    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext) -> EntryAttributes:
        arguments = (self._caller(ctx), inode, new_parent_inode, new_name)
        return entry(await self._call(self._vfs.link, *arguments))

    # -- inodes

    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        return attributes(*await self._call(self._vfs.getattr, self._caller(ctx), inode, None))

    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: pyfuse3.SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        caller = self._caller(ctx)
        if fields.update_size:
            await self._drop_set_id(inode, caller)
        return attributes(*await self._call(self._vfs.setattr, caller, inode, changes(attr, fields, fh)))

    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        return await self._call(self._vfs.readlink, self._caller(ctx), inode)

    async def access(self, inode: int, mode: int, ctx: RequestContext) -> bool:
        await self._call(self._vfs.access, self._caller(ctx), inode, mode)
        return True

    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        found = await self._call(self._vfs.statfs, self._caller(ctx), pyfuse3.ROOT_INODE)
        totals = pyfuse3.StatvfsData()
        totals.f_bsize, totals.f_frsize, totals.f_namemax = found.bsize, found.frsize, found.namelen
        totals.f_blocks, totals.f_bfree, totals.f_bavail = found.blocks, found.bfree, found.bavail
        totals.f_files, totals.f_ffree, totals.f_favail = found.files, found.ffree, found.ffree
        return totals

    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        await self._call(self._vfs.setxattr, self._caller(ctx), inode, name, value, 0)

    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        return await self._call(self._vfs.getxattr, self._caller(ctx), inode, name, _MAX_XATTR)

    async def listxattr(self, inode: int, ctx: RequestContext) -> list[bytes]:
        names: bytes = await self._call(self._vfs.listxattr, self._caller(ctx), inode, _MAX_XATTR)
        return [name for name in names.split(b"\0") if name]

    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        await self._call(self._vfs.removexattr, self._caller(ctx), inode, name)

    # -- files

    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        caller = self._caller(ctx)
        opened = await self._call(self._vfs.open, caller, inode, flags)
        self._files[opened.fh] = _Open(inode, caller)
        if flags & os.O_TRUNC:
            await self._truncate(inode, opened.fh, caller)
        return file_info(opened)

    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        caller = self._caller(ctx)
        arguments = (caller, parent_inode, name, mode, ctx.umask, flags)
        made, opened = await self._call(self._vfs.create, *arguments)
        self._files[opened.fh] = _Open(made.stat.ino, caller)
        if flags & os.O_TRUNC and made.stat.size:  # somebody else made it meanwhile
            await self._truncate(made.stat.ino, opened.fh, caller)
        return file_info(opened), entry(made)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        file = self._files[fh]
        data = await self._call(self._vfs.read, file.caller, file.ino, fh, off, size)
        return bytes(data) if isinstance(data, bytes | bytearray | memoryview) else b"".join(data)

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        file = self._files[fh]
        await self._drop_set_id(file.ino, file.caller)
        return await self._call(self._vfs.write, file.caller, file.ino, fh, off, memoryview(buf), 0)

    async def flush(self, fh: int) -> None:
        file = self._files[fh]
        await self._call(self._vfs.flush, file.caller, file.ino, fh, 0)

    async def fsync(self, fh: int, datasync: bool) -> None:
        file = self._files[fh]
        await self._call(self._vfs.fsync, file.caller, file.ino, fh, datasync)

    async def release(self, fh: int) -> None:
        file = self._files.pop(fh)
        await self._call(self._vfs.release, file.caller, file.ino, fh, 0, False)

    async def _truncate(self, inode: int, fh: int, caller: Caller) -> None:
        """O_TRUNC, which libfuse has the kernel send with the open; a file that stays as it was is not held open."""
        try:
            await self._drop_set_id(inode, caller)
            await self._call(self._vfs.setattr, caller, inode, change(abi.FATTR_SIZE))
        except pyfuse3.FUSEError:
            await self.release(fh)
            raise

    async def _drop_set_id(self, inode: int, caller: Caller) -> None:
        """Who changes a file takes its set-id bits away, unless root does: libfuse promised that to the kernel."""
        if caller.uid == 0:
            return
        found, _ = await self._call(self._vfs.getattr, caller, inode, None)
        dropped = stat.S_ISUID | (stat.S_ISGID if found.mode & stat.S_IXGRP else 0)
        if stat.S_ISREG(found.mode) and found.mode & dropped:
            root = Caller(0, 0, caller.pid)
            mode = stat.S_IMODE(found.mode) & ~dropped
            await self._call(self._vfs.setattr, root, inode, change(abi.FATTR_MODE, mode=mode))

    # -- directories

    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        caller = self._caller(ctx)
        opened = await self._call(self._vfs.opendir, caller, inode, 0)
        self._dirs[opened.fh] = _Open(inode, caller)
        return opened.fh

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        directory = self._dirs[fh]
        sink = Listing(self._vfs, directory.caller, token)
        await self._call(self._vfs.readdirplus, directory.caller, directory.ino, fh, start_id, sink)

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        directory = self._dirs[fh]
        await self._call(self._vfs.fsyncdir, directory.caller, directory.ino, fh, datasync)

    async def releasedir(self, fh: int) -> None:
        directory = self._dirs.pop(fh)
        await self._call(self._vfs.releasedir, directory.caller, directory.ino, fh)


def _name(call: object) -> str:
    return getattr(call, "__name__", "?")
