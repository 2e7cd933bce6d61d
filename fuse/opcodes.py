"""The one table of FUSE opcodes: number, name, request struct, what follows it, handler and reply kind, a row each.

Dispatch, the debug line, the list in the docs (`listing`) and the wire tests all derive from it; nothing else knows an
opcode by number. INIT is answered by the session before it serves; in the place of INTERRUPT and SETLKW, which concern
its threads, it puts its own methods.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct
from typing import Any

from fuse import abi, reply
from fuse import handlers as do
from fuse import request as carry

Handler = Callable[..., Any]

FUSE_GETATTR = 3
FUSE_SETLK = 32
FUSE_SETLKW = 33
FUSE_INIT = 26
FUSE_INTERRUPT = 36


@dataclass(frozen=True, slots=True)
class Row:
    """One opcode. `encode` None: no reply is sent, not even an error."""

    opcode: int
    name: str
    struct: Struct
    carries: Callable[[memoryview], Any]
    handler: Handler
    encode: Callable[[Any], reply.Payload] | None

    @property
    def implemented(self) -> bool:
        """False for opcodes that are always answered ENOSYS."""
        return self.handler is not do.refused or self.opcode == FUSE_INIT


# fmt: off
ROWS: tuple[Row, ...] = (
    Row(1, "LOOKUP", abi.NOTHING, carry.name, do.lookup, reply.entry),
    Row(2, "FORGET", abi.fuse_forget_in, carry.nothing, do.forget, None),
    Row(3, "GETATTR", abi.fuse_getattr_in, carry.nothing, do.getattr_, reply.attr),
    Row(4, "SETATTR", abi.fuse_setattr_in, carry.nothing, do.setattr_, reply.attr),
    Row(5, "READLINK", abi.NOTHING, carry.nothing, do.readlink, reply.raw),
    Row(6, "SYMLINK", abi.NOTHING, carry.two_names, do.symlink, reply.entry),
    Row(8, "MKNOD", abi.fuse_mknod_in, carry.name, do.mknod, reply.entry),
    Row(9, "MKDIR", abi.fuse_mkdir_in, carry.name, do.mkdir, reply.entry),
    Row(10, "UNLINK", abi.NOTHING, carry.name, do.unlink, reply.nothing),
    Row(11, "RMDIR", abi.NOTHING, carry.name, do.rmdir, reply.nothing),
    Row(12, "RENAME", abi.fuse_rename_in, carry.two_names, do.rename, reply.nothing),
    Row(13, "LINK", abi.fuse_link_in, carry.name, do.link, reply.entry),
    Row(14, "OPEN", abi.fuse_open_in, carry.nothing, do.open_, reply.opened),
    Row(15, "READ", abi.fuse_read_in, carry.nothing, do.read, reply.data),
    Row(16, "WRITE", abi.fuse_write_in, carry.data, do.write, reply.written),
    Row(17, "STATFS", abi.NOTHING, carry.nothing, do.statfs, reply.statfs),
    Row(18, "RELEASE", abi.fuse_release_in, carry.nothing, do.release, reply.nothing),
    Row(20, "FSYNC", abi.fuse_fsync_in, carry.nothing, do.fsync, reply.nothing),
    Row(21, "SETXATTR", abi.fuse_setxattr_in, carry.name_and_data, do.setxattr, reply.nothing),
    Row(22, "GETXATTR", abi.fuse_getxattr_in, carry.name, do.getxattr, reply.raw),
    Row(23, "LISTXATTR", abi.fuse_getxattr_in, carry.nothing, do.listxattr, reply.raw),
    Row(24, "REMOVEXATTR", abi.NOTHING, carry.name, do.removexattr, reply.nothing),
    Row(25, "FLUSH", abi.fuse_flush_in, carry.nothing, do.flush, reply.nothing),
    Row(26, "INIT", abi.fuse_init_in, carry.data, do.refused, reply.raw),
    Row(27, "OPENDIR", abi.fuse_open_in, carry.nothing, do.opendir, reply.opened),
    Row(28, "READDIR", abi.fuse_read_in, carry.nothing, do.readdir, reply.data),
    Row(29, "RELEASEDIR", abi.fuse_release_in, carry.nothing, do.releasedir, reply.nothing),
    Row(30, "FSYNCDIR", abi.fuse_fsync_in, carry.nothing, do.fsyncdir, reply.nothing),
    Row(31, "GETLK", abi.fuse_lk_in, carry.nothing, do.getlk, reply.lock),
    Row(32, "SETLK", abi.fuse_lk_in, carry.nothing, do.setlk, reply.nothing),
    Row(33, "SETLKW", abi.fuse_lk_in, carry.nothing, do.setlkw, reply.nothing),
    Row(34, "ACCESS", abi.fuse_access_in, carry.nothing, do.access, reply.nothing),
    Row(35, "CREATE", abi.fuse_create_in, carry.name, do.create, reply.created),
    Row(36, "INTERRUPT", abi.fuse_interrupt_in, carry.nothing, do.ignored, None),
    Row(37, "BMAP", abi.fuse_bmap_in, carry.nothing, do.refused, reply.nothing),
    Row(38, "DESTROY", abi.NOTHING, carry.nothing, do.ignored, reply.nothing),
    Row(39, "IOCTL", abi.fuse_ioctl_in, carry.data, do.ioctl, reply.ioctl),
    Row(40, "POLL", abi.fuse_poll_in, carry.nothing, do.refused, reply.nothing),
    Row(41, "NOTIFY_REPLY", abi.NOTHING, carry.nothing, do.ignored, None),
    Row(42, "BATCH_FORGET", abi.fuse_batch_forget_in, carry.data, do.batch_forget, None),
    Row(43, "FALLOCATE", abi.fuse_fallocate_in, carry.nothing, do.fallocate, reply.nothing),
    Row(44, "READDIRPLUS", abi.fuse_read_in, carry.nothing, do.readdirplus, reply.data),
    Row(45, "RENAME2", abi.fuse_rename2_in, carry.two_names, do.rename2, reply.nothing),
    Row(46, "LSEEK", abi.fuse_lseek_in, carry.nothing, do.lseek, reply.offset),
    Row(47, "COPY_FILE_RANGE", abi.fuse_copy_file_range_in, carry.nothing, do.copy_file_range, reply.written),
    Row(50, "SYNCFS", abi.fuse_syncfs_in, carry.nothing, do.syncfs, reply.nothing),
    Row(51, "TMPFILE", abi.fuse_create_in, carry.name, do.tmpfile, reply.created),
    Row(52, "STATX", abi.fuse_statx_in, carry.nothing, do.refused, reply.nothing),  # GETATTR says all we know: no btime
    Row(53, "COPY_FILE_RANGE_64", abi.fuse_copy_file_range_in, carry.nothing, do.copy_file_range, reply.copied),
)
# fmt: on

BY_OPCODE: dict[int, Row] = {row.opcode: row for row in ROWS}

OF_AN_INODE = frozenset(
    row.opcode
    for row in ROWS
    if row.name in ("GETATTR", "SETATTR", "READLINK", "LINK", "OPEN", "OPENDIR", "ACCESS") or row.name.endswith("XATTR")
)
"""Requests that a path has led to, about the inode itself: if that is gone the name may lead to another one by now."""

FOLLOWED_AGAIN = frozenset(
    row.opcode
    for row in ROWS
    if row.name in ("LOOKUP", "GETATTR", "READLINK", "OPEN", "OPENDIR", "ACCESS", "STATFS", "GETXATTR", "LISTXATTR")
)
"""Requests on the way along a path that change nothing: on ESTALE the kernel follows it once more."""


def listing() -> str:
    """What is implemented, one line per opcode, for the docs."""
    return "\n".join(f"{row.opcode:3} {row.name:18} {'yes' if row.implemented else 'ENOSYS'}" for row in ROWS)
