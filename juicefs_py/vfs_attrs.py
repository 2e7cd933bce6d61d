"""Operations on inodes: attributes, truncation by setattr, extended attributes and ACLs, flags, totals.

Not here: names (`vfs_names`), data (`vfs_files`).
"""

from __future__ import annotations

import errno
import struct

from fuse import abi
from fuse.operations import Caller, SetAttr, Stat, StatFs
from juicefs_py.errors import refuse
from juicefs_py.vfs_base import INTERNAL_VALID_S, VFSBase, is_internal, is_special
from juicefs_py.vfs_trace import entry, text, traced
from meta.acl import EMPTY, Rule
from meta.client import Changes
from meta.errors import Refused
from meta.rules.acls import Kind
from meta.types import (
    FLAG_APPEND,
    FLAG_IMMUTABLE,
    FLAG_SKIP_TRASH,
    MAX_FILE_SIZE,
    SET_ATIME,
    SET_ATIME_NOW,
    SET_FLAG,
    SET_GID,
    SET_MODE,
    SET_MTIME,
    SET_MTIME_NOW,
    SET_UID,
)

MAX_XATTR_NAME = 255
ACL_NAMES: dict[bytes, Kind] = {b"system.posix_acl_access": "access", b"system.posix_acl_default": "default"}
MAX_XATTR_VALUE = 65536
PAGE = 4096

# The kernel's bits of other meaning (FH, LOCKOWNER, CTIME, KILL_SUIDGID) must not reach the rules: some of them mean
# something else there (CTIME would set the storage tier).
_RULE_BITS = SET_MODE | SET_UID | SET_GID | SET_ATIME | SET_MTIME | SET_ATIME_NOW | SET_MTIME_NOW

GETFLAGS = (0x80086601, 0x80046601)
SETFLAGS = (0x40086602, 0x40046602)
FSGETXATTR = 0x801C581F
_FLAG_MAP = ((0x1, FLAG_SKIP_TRASH), (0x10, FLAG_IMMUTABLE), (0x20, FLAG_APPEND))  # FS_*_FL, ours
_XFLAG_MAP = ((0x8, FLAG_IMMUTABLE), (0x10, FLAG_APPEND))  # FS_XFLAG_*
_INT = struct.Struct("=I")


def _setattr_text(result: tuple[Stat, float] | None, ino: int, changes: SetAttr) -> str:
    valid = changes.valid
    fields = [f"mode={changes.mode & 0o7777:o}"] if valid & abi.FATTR_MODE else []
    fields += [f"uid={changes.uid}"] if valid & abi.FATTR_UID else []
    fields += [f"gid={changes.gid}"] if valid & abi.FATTR_GID else []
    if valid & abi.FATTR_ATIME:
        fields.append("atime=NOW" if valid & abi.FATTR_ATIME_NOW else f"atime={changes.atime}")
    if valid & abi.FATTR_MTIME:
        fields.append("mtime=NOW" if valid & abi.FATTR_MTIME_NOW else f"mtime={changes.mtime}")
    fields += [f"size={changes.size}"] if valid & abi.FATTR_SIZE else []
    fh = f"[{changes.fh}]" if changes.fh is not None else ""
    return f"({ino}{fh},0x{valid:X},[{','.join(fields)}]):{entry(result[0] if result else None)}"


class AttrOperations(VFSBase):
    """Attributes of inodes."""

    @traced(lambda result, ino, fh: f"({ino}):{entry(result[0] if result else None)}")
    def getattr(self, caller: Caller, ino: int, fh: int | None) -> tuple[Stat, float]:
        if is_internal(ino):
            return self.internal.stat(ino), INTERNAL_VALID_S
        timeout_s = self.config.attr_timeout_s
        known = self.meta.lately(ino, timeout_s)
        if known is not None:
            attr, age_s = known
            return self.stat_of(ino, attr), timeout_s - age_s
        return self.stat(ino), timeout_s

    @traced(_setattr_text)
    def setattr(self, caller: Caller, ino: int, changes: SetAttr) -> tuple[Stat, float]:
        if is_internal(ino):
            return self.internal.stat(ino), INTERNAL_VALID_S
        who = self.who(caller)
        valid = changes.valid
        if valid & abi.FATTR_SIZE:
            if self.passthrough is not None and changes.fh is None:
                self.passthrough.expect(ino, caller.node or ino)
            self._truncate(caller, ino, changes)
        bits = valid & _RULE_BITS
        if bits:
            file = self.writers.get(ino)
            if file is not None and bits & (SET_MTIME | SET_MTIME_NOW):
                file.commit_all()  # the commit of an earlier write must not change the time that is set now
            self.meta.setattr(who, ino, Changes(
                valid=bits, mode=changes.mode & 0o7777, uid=changes.uid, gid=changes.gid, atime=changes.atime,
                atimensec=changes.atimensec, mtime=changes.mtime, mtimensec=changes.mtimensec,
            ))  # fmt: skip
        self.touch(ino)
        return self.stat(ino), self.config.attr_timeout_s

    def _truncate(self, caller: Caller, ino: int, changes: SetAttr) -> None:
        """Set the length, with no write half done and nothing pending that would grow the file again."""
        size = changes.size
        if size >= MAX_FILE_SIZE:
            raise refuse(errno.EFBIG)
        through_handle = changes.fh is not None and bool(changes.valid & abi.FATTR_FH)
        if through_handle:
            assert changes.fh is not None
            handle = self.handles.file(changes.fh, ino)
            if handle is None or handle.writer is None:
                raise refuse(errno.EACCES)
        inode = self.handles.hold(ino)
        try:
            with inode.gate.shut():
                self.settle(ino)
                attr = self.meta.truncate(self.who(caller), ino, size, handle=through_handle)
                self.readers.invalidate(ino)
                inode.changed(attr)
                if self.passthrough is not None:
                    self.passthrough.outdated(ino, self.meta.files.foreign(ino))  # others, whom we meet only now
                    self.passthrough.resized(ino, size)
        finally:
            self.handles.drop(inode)

    def settle(self, ino: int) -> None:
        """Commit what is pending of an inode before its records are changed; raises what went wrong."""
        file = self.writers.get(ino)
        if file is not None:
            file.flush(None, explicit=False)

    @traced(lambda result, ino: f"({ino})" + (
        f": ({(result.blocks - result.bfree) * PAGE},{result.bavail * PAGE}"
        f",{result.files - result.ffree},{result.ffree})"
        if result else ""
    ))  # fmt: skip
    def statfs(self, caller: Caller, ino: int) -> StatFs:
        totals = self.meta.statfs(self.who(caller), ino)
        blocks = max(totals.total_space // PAGE, 1)
        free = totals.avail_space // PAGE
        files = totals.used_inodes + totals.avail_inodes
        return StatFs(blocks, free, free, files, totals.avail_inodes, PAGE, 255, PAGE)

    @traced(lambda result, ino, mask: f"({ino},0x{mask:X})")
    def access(self, caller: Caller, ino: int, mask: int) -> None:
        if not is_internal(ino):
            self.meta.access(self.who(caller), ino, mask)

    def _check_xattr(self, name: bytes, reading: bool) -> Kind | None:
        """The kind of ACL if the name is one; refuses names that are off or impossible."""
        if not (self.config.enable_xattr or self.meta.setting.enable_acl):
            raise refuse(errno.ENOSYS)
        if not name:
            raise refuse(errno.EINVAL)
        if len(name) > MAX_XATTR_NAME:
            raise refuse(errno.ERANGE)
        kind = ACL_NAMES.get(name)
        off = (
            (kind is not None and not self.meta.setting.enable_acl)
            or (name == b"security.capability" and not self.config.enable_cap)
            or (name == b"security.selinux" and not self.config.enable_selinux)
        )
        if off:
            raise refuse(errno.ENODATA if reading else errno.ENOTSUP)
        return kind

    @traced(lambda result, ino, name, value, flags: f"({ino},{text(name)},{len(value)},{flags})")
    def setxattr(self, caller: Caller, ino: int, name: bytes, value: bytes, flags: int) -> None:
        kind = self._check_xattr(name, reading=False)
        if is_special(ino):
            raise refuse(errno.EPERM)
        if len(value) > MAX_XATTR_VALUE:
            raise refuse(errno.ERANGE)
        if kind is not None:
            self.meta.set_acl(self.who(caller), ino, kind, Rule.from_xattr(value))
            self.touch(ino)
            return
        self.meta.setxattr(self.who(caller), ino, name, value, flags)

    @traced(lambda result, ino, name, size: f"({ino},{text(name)},{size}): ({len(result or b'')})")
    def getxattr(self, caller: Caller, ino: int, name: bytes, size: int) -> bytes:
        kind = self._check_xattr(name, reading=True)
        if is_special(ino):
            raise refuse(errno.ENODATA)
        if kind is not None:
            rule = self.meta.get_acl(ino, kind)
            if rule is None:
                raise refuse(errno.ENODATA)
            return rule.to_xattr()
        return self.meta.getxattr(self.who(caller), ino, name)

    @traced(lambda result, ino, size: f"({ino},{size}): ({len(result or b'')})")
    def listxattr(self, caller: Caller, ino: int, size: int) -> bytes:
        if not (self.config.enable_xattr or self.meta.setting.enable_acl):
            raise refuse(errno.ENOSYS)
        if is_special(ino):
            raise refuse(errno.ENODATA)
        return b"".join(name + b"\0" for name in self.meta.listxattr(self.who(caller), ino))

    @traced(lambda result, ino, name: f"({ino},{text(name)})")
    def removexattr(self, caller: Caller, ino: int, name: bytes) -> None:
        kind = self._check_xattr(name, reading=False)
        if is_special(ino):
            raise refuse(errno.EPERM)
        if kind is not None:
            self.meta.set_acl(self.who(caller), ino, kind, EMPTY)
            self.touch(ino)
            return
        self.meta.removexattr(self.who(caller), ino, name)

    @traced(lambda result, ino, fh, cmd, arg, data, out_size, flags: (
        f"({ino},0x{cmd:X},0x{arg:X},{list(data)},{list(result[1]) if result else []})"
    ))  # fmt: skip
    def ioctl(
        self, caller: Caller, ino: int, fh: int, cmd: int, arg: int, data: bytes, out_size: int, flags: int
    ) -> tuple[int, bytes]:
        if not self.config.enable_ioctl:
            raise refuse(errno.ENOSYS)
        if is_internal(ino):
            raise refuse(errno.EPERM)
        if cmd in GETFLAGS:
            return 0, _INT.pack(_mapped(self.meta.getattr(ino).flags, _FLAG_MAP)).ljust(out_size, b"\0")
        if cmd in SETFLAGS:
            self._set_flags(caller, ino, data)
            return 0, b""
        if cmd == FSGETXATTR:
            return 0, _INT.pack(_mapped(self.meta.getattr(ino).flags, _XFLAG_MAP)).ljust(28, b"\0")
        raise refuse(errno.ENOTTY)

    def _set_flags(self, caller: Caller, ino: int, data: bytes) -> None:
        (wanted,) = _INT.unpack_from(data)
        ours = 0
        for theirs, flag in _FLAG_MAP:
            if wanted & theirs:
                ours |= flag
                wanted &= ~theirs
        if wanted:
            raise refuse(errno.ENOTSUP)
        who = self.who(caller)
        if not who.checked and who.uid != 0:
            raise Refused(errno.EPERM)
        self.meta.setattr(who, ino, Changes(valid=SET_FLAG, flags=ours))
        self.touch(ino)


def _mapped(flags: int, table: tuple[tuple[int, int], ...]) -> int:
    return sum(theirs for theirs, ours in table if flags & ours)
