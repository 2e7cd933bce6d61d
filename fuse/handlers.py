"""From a decoded request to a call of `Operations`: one function per opcode.

Not here: bytes (abi, request, reply) and which function belongs to which opcode (opcodes). Every handler takes the
file system, the caller, the node id of the header, the fields of the opcode's fixed struct, and what the opcode
carries after it.
"""

from __future__ import annotations

from typing import Any

from fuse import abi
from fuse.errors import MalformedRequest
from fuse.nodes import inode_of
from fuse.operations import Buffer, Caller, Entry, FileLock, Opened, Operations, SetAttr, Stat, StatFs, unsupported
from fuse.reply import Listing, sized

Fields = tuple[Any, ...]


def lookup(fs: Operations, caller: Caller, node: int, fields: Fields, name: bytes) -> Entry:
    return fs.lookup(caller, node, name)


def forget(fs: Operations, caller: Caller, node: int, fields: Fields, _: None) -> None:
    fs.forget(((node, fields[0]),))


def batch_forget(fs: Operations, caller: Caller, node: int, fields: Fields, body: memoryview) -> None:
    length = fields[0] * abi.fuse_forget_one.size
    if length > len(body):
        raise MalformedRequest("BATCH_FORGET is shorter than its count")
    fs.forget(list(abi.fuse_forget_one.iter_unpack(body[:length])))


def getattr_(fs: Operations, caller: Caller, node: int, fields: Fields, _: None) -> tuple[Stat, float]:
    return fs.getattr(caller, node, fields[2] if fields[0] & abi.FUSE_GETATTR_FH else None)


def setattr_(fs: Operations, caller: Caller, node: int, fields: Fields, _: None) -> tuple[Stat, float]:
    valid, fh, size, lock_owner, atime, mtime, ctime, atimensec, mtimensec, ctimensec, mode, uid, gid = fields
    changes = SetAttr(
        valid, size, mode, uid, gid, atime, atimensec, mtime, mtimensec, ctime, ctimensec,
        fh if valid & abi.FATTR_FH else None,
        lock_owner if valid & abi.FATTR_LOCKOWNER else None,
    )  # fmt: skip
    return fs.setattr(caller, node, changes)


def readlink(fs: Operations, caller: Caller, node: int, fields: Fields, _: None) -> bytes:
    return fs.readlink(caller, node)


def symlink(fs: Operations, caller: Caller, node: int, fields: Fields, names: tuple[bytes, bytes]) -> Entry:
    return fs.symlink(caller, node, names[0], names[1])


def mknod(fs: Operations, caller: Caller, node: int, fields: Fields, name: bytes) -> Entry:
    mode, rdev, umask, _ = fields
    return fs.mknod(caller, node, name, mode, rdev, umask)


def mkdir(fs: Operations, caller: Caller, node: int, fields: Fields, name: bytes) -> Entry:
    return fs.mkdir(caller, node, name, fields[0], fields[1])


def unlink(fs: Operations, caller: Caller, node: int, fields: Fields, name: bytes) -> None:
    fs.unlink(caller, node, name)


def rmdir(fs: Operations, caller: Caller, node: int, fields: Fields, name: bytes) -> None:
    fs.rmdir(caller, node, name)


def rename(fs: Operations, caller: Caller, node: int, fields: Fields, names: tuple[bytes, bytes]) -> None:
    fs.rename(caller, node, names[0], fields[0], names[1], 0)


def rename2(fs: Operations, caller: Caller, node: int, fields: Fields, names: tuple[bytes, bytes]) -> None:
    fs.rename(caller, node, names[0], fields[0], names[1], fields[1])


def link(fs: Operations, caller: Caller, node: int, fields: Fields, name: bytes) -> Entry:
    return fs.link(caller, inode_of(fields[0]), node, name)


def open_(fs: Operations, caller: Caller, node: int, fields: Fields, _: None) -> Opened:
    return fs.open(caller, node, fields[0])


def create(fs: Operations, caller: Caller, node: int, fields: Fields, name: bytes) -> tuple[Entry, Opened]:
    flags, mode, umask, _ = fields
    return fs.create(caller, node, name, mode, umask, flags)


def tmpfile(fs: Operations, caller: Caller, node: int, fields: Fields, name: bytes) -> tuple[Entry, Opened]:
    flags, mode, umask, _ = fields
    return fs.tmpfile(caller, node, name, mode, umask, flags)


def read(fs: Operations, caller: Caller, node: int, fields: Fields, _: None) -> Any:
    return fs.read(caller, node, fields[0], fields[1], fields[2])


def write(fs: Operations, caller: Caller, node: int, fields: Fields, body: memoryview) -> int:
    fh, offset, size, write_flags, _, _, _ = fields
    if len(body) != size:
        if len(body) < size:
            raise MalformedRequest("WRITE carries less data than it says")
        body = body[:size]
    return fs.write(caller, node, fh, offset, body, write_flags)


def statfs(fs: Operations, caller: Caller, node: int, fields: Fields, _: None) -> StatFs:
    return fs.statfs(caller, node)


def flush(fs: Operations, caller: Caller, node: int, fields: Fields, _: None) -> None:
    fs.flush(caller, node, fields[0], fields[3])


def release(fs: Operations, caller: Caller, node: int, fields: Fields, _: None) -> None:
    fh, _, release_flags, lock_owner = fields
    fs.release(caller, node, fh, lock_owner, bool(release_flags & abi.FUSE_RELEASE_FLOCK_UNLOCK))


def fsync(fs: Operations, caller: Caller, node: int, fields: Fields, _: None) -> None:
    fs.fsync(caller, node, fields[0], bool(fields[1] & abi.FUSE_FSYNC_FDATASYNC))


def opendir(fs: Operations, caller: Caller, node: int, fields: Fields, _: None) -> Opened:
    return fs.opendir(caller, node, fields[0])


def readdir(fs: Operations, caller: Caller, node: int, fields: Fields, _: None) -> Buffer:
    sink = Listing(fields[2], plus=False)
    fs.readdir(caller, node, fields[0], fields[1], sink)
    return sink.payload


def readdirplus(fs: Operations, caller: Caller, node: int, fields: Fields, _: None) -> Buffer:
    sink = Listing(fields[2], plus=True)
    fs.readdirplus(caller, node, fields[0], fields[1], sink)
    return sink.payload


def releasedir(fs: Operations, caller: Caller, node: int, fields: Fields, _: None) -> None:
    fs.releasedir(caller, node, fields[0])


def fsyncdir(fs: Operations, caller: Caller, node: int, fields: Fields, _: None) -> None:
    fs.fsyncdir(caller, node, fields[0], bool(fields[1] & abi.FUSE_FSYNC_FDATASYNC))


def setxattr(fs: Operations, caller: Caller, node: int, fields: Fields, carried: tuple[bytes, bytes]) -> None:
    size, flags = fields
    name, value = carried
    if len(value) < size:
        raise MalformedRequest("SETXATTR carries less data than it says")
    fs.setxattr(caller, node, name, value[:size], flags)


def getxattr(fs: Operations, caller: Caller, node: int, fields: Fields, name: bytes) -> bytes:
    return sized(fs.getxattr(caller, node, name, fields[0]), fields[0])


def listxattr(fs: Operations, caller: Caller, node: int, fields: Fields, _: None) -> bytes:
    return sized(fs.listxattr(caller, node, fields[0]), fields[0])


def removexattr(fs: Operations, caller: Caller, node: int, fields: Fields, name: bytes) -> None:
    fs.removexattr(caller, node, name)


def access(fs: Operations, caller: Caller, node: int, fields: Fields, _: None) -> None:
    fs.access(caller, node, fields[0])


def getlk(fs: Operations, caller: Caller, node: int, fields: Fields, _: None) -> FileLock:
    return fs.getlk(caller, node, fields[0], fields[1], FileLock(*fields[2:6]))


def setlk(fs: Operations, caller: Caller, node: int, fields: Fields, _: None) -> None:
    _set_lock(fs, caller, node, fields, wait=False)


def setlkw(fs: Operations, caller: Caller, node: int, fields: Fields, _: None) -> None:
    _set_lock(fs, caller, node, fields, wait=True)


def _set_lock(fs: Operations, caller: Caller, node: int, fields: Fields, wait: bool) -> None:
    fh, owner, start, end, kind, pid, lk_flags, _ = fields
    if lk_flags & abi.FUSE_LK_FLOCK:
        fs.flock(caller, node, fh, owner, kind, wait)
    else:
        fs.setlk(caller, node, fh, owner, FileLock(start, end, kind, pid), wait)


def ioctl(fs: Operations, caller: Caller, node: int, fields: Fields, body: memoryview) -> tuple[int, bytes]:
    fh, flags, cmd, arg, in_size, out_size = fields
    if len(body) < in_size:
        raise MalformedRequest("IOCTL carries less data than it says")
    return fs.ioctl(caller, node, fh, cmd, arg, bytes(body[:in_size]), out_size, flags)


def fallocate(fs: Operations, caller: Caller, node: int, fields: Fields, _: None) -> None:
    fh, offset, length, mode, _ = fields
    fs.fallocate(caller, node, fh, offset, length, mode)


def lseek(fs: Operations, caller: Caller, node: int, fields: Fields, _: None) -> int:
    return fs.lseek(caller, node, fields[0], fields[1], fields[2])


def copy_file_range(fs: Operations, caller: Caller, node: int, fields: Fields, _: None) -> int:
    fh, offset, out_node, out_fh, out_offset, length, flags = fields
    return fs.copy_file_range(caller, node, fh, offset, inode_of(out_node), out_fh, out_offset, length, flags)


def syncfs(fs: Operations, caller: Caller, node: int, fields: Fields, _: None) -> None:
    fs.syncfs(caller, node)


def refused(fs: Operations, caller: Caller, node: int, fields: Fields, carried: object) -> None:
    """Opcodes that no file system needs: the kernel does without after an ENOSYS."""
    raise unsupported()


def ignored(fs: Operations, caller: Caller, node: int, fields: Fields, carried: object) -> None:
    """Messages that need no answer and no action."""
