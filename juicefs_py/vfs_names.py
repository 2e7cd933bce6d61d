"""Operations on names: lookup, create, remove, rename, link.

Not here: attributes of inodes (`vfs_attrs`), opening and data (`vfs_files`), listings (`vfs_dirs`).
"""

from __future__ import annotations

import errno
import stat
import time
import uuid

from fuse.abi import FUSE_ROOT_ID
from fuse.operations import Caller, Entry, Opened, Stat
from juicefs_py.errors import refuse
from juicefs_py.vfs_base import INTERNAL_VALID_S, VFSBase, is_internal
from juicefs_py.vfs_trace import entry_of, text, traced
from juicefs_py.vfs_trace import mode as shown
from meta.attr import Attr
from meta.errors import Refused
from meta.types import DIRECTORY, MAX_SYMLINK, MODE_TO_TYPE, SYMLINK, TRASH

O_ACCMODE = 3
NOTHING = Entry(Stat(0, *([0] * 14)), 0.0, 0.0)


class NameOperations(VFSBase):
    """The directory tree."""

    @traced(lambda result, parent, name: f"({parent},{text(name)}):{entry_of(result)}")
    def lookup(self, caller: Caller, parent: int, name: bytes) -> Entry:
        ino = self.internal.lookup(parent, name)
        if ino is not None:
            return Entry(self.internal.stat(ino), INTERNAL_VALID_S, INTERNAL_VALID_S)
        self.check_name(name)
        if parent == FUSE_ROOT_ID and name == self.internal.trash_name:
            return self.entry(TRASH, self.attr(TRASH)[0])
        who = self.who(caller)
        ahead = who.checked and self._names_valid_s > 0
        entry = self._from_ahead(parent, name) if ahead else None
        if entry is not None:
            return entry
        asked = time.monotonic()
        try:
            ino, attr = self.meta.lookup(who, parent, name)
        except Refused as problem:
            if problem.errno == errno.ENOENT and self.config.negative_timeout_s > 0:
                return NOTHING._replace(entry_valid_s=self.config.negative_timeout_s)
            raise
        if ahead:
            self.housekeeper.wake()
            self.look_ahead.pay(parent, time.monotonic() - asked)
        return self.entry(ino, attr)

    def _from_ahead(self, parent: int, name: bytes) -> Entry | None:
        """A name whose directory was read ahead, unless it was changed since; kept for what is left of its time."""
        found = self.look_ahead.find(parent, name)
        if found is None:
            return None
        item, read_at = found
        age_s = time.monotonic() - read_at
        if age_s >= self._names_valid_s or self._changed.get(item.ino, 0.0) >= read_at:
            return None
        try:
            entry = self.entry(item.ino, item.attr)
        except Refused:  # it is open, and gone
            return None
        return entry._replace(entry_valid_s=entry.entry_valid_s - age_s, attr_valid_s=entry.attr_valid_s - age_s)

    @traced(lambda result, parent, name, mode, rdev, umask: (
        f"({parent},{text(name)},{shown(mode)},0x{rdev:08X}):{entry_of(result)}"
    ))  # fmt: skip
    def mknod(self, caller: Caller, parent: int, name: bytes, mode: int, rdev: int, umask: int) -> Entry:
        self._check_new(parent, name)
        kind = MODE_TO_TYPE.get(stat.S_IFMT(mode) or stat.S_IFREG)
        if kind is None or kind in (DIRECTORY, SYMLINK):
            raise refuse(errno.EPERM)
        return self._made(
            parent, name, self.meta.mknod(self.who(caller), parent, name, kind, mode & 0o7777, self.umask(umask), rdev)
        )

    @traced(lambda result, parent, name, mode, umask: (
        f"({parent},{text(name)},{shown(mode | stat.S_IFDIR)}):{entry_of(result)}"
    ))  # fmt: skip
    def mkdir(self, caller: Caller, parent: int, name: bytes, mode: int, umask: int) -> Entry:
        self._check_new(parent, name)
        who = self.who(caller)
        made = self.meta.mknod(who, parent, name, DIRECTORY, mode & 0o7777, self.umask(umask))
        return self._made(parent, name, made)

    @traced(lambda result, parent, name, target: f"({parent},{text(name)},{text(target)}):{entry_of(result)}")
    def symlink(self, caller: Caller, parent: int, name: bytes, target: bytes) -> Entry:
        self._check_new(parent, name)
        if len(target) >= MAX_SYMLINK:
            raise refuse(errno.ENAMETOOLONG)
        who = self.who(caller)
        return self._made(parent, name, self.meta.mknod(who, parent, name, SYMLINK, 0o777, 0, 0, target))

    def _made(self, parent: int, name: bytes, made: tuple[int, object]) -> Entry:
        self.dir_changed(parent, name, there=True)
        return self.entry(*made)  # type: ignore[arg-type]  # (inode, Attr)

    @traced(lambda result, ino: f"({ino}): ({text(result) if result is not None else ''})")
    def readlink(self, caller: Caller, ino: int) -> bytes:
        return self.meta.readlink(ino)

    @traced(lambda result, parent, name: f"({parent},{text(name)})")
    def unlink(self, caller: Caller, parent: int, name: bytes) -> None:
        self._check_old(parent, name)
        ino = self.meta.unlink(self.who(caller), parent, name)
        self.dir_changed(parent, name, there=False)
        self.touch(ino)

    @traced(lambda result, parent, name: f"({parent},{text(name)})")
    def rmdir(self, caller: Caller, parent: int, name: bytes) -> None:
        self._check_old(parent, name)
        ino = self.meta.rmdir(self.who(caller), parent, name)
        self.dir_changed(parent, name, there=False)
        self.touch(ino)

    @traced(lambda result, parent, name, new_parent, new_name, flags: (
        f"({parent},{text(name)},{new_parent},{text(new_name)},{flags})"
    ))  # fmt: skip
    def rename(self, caller: Caller, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        self._check_old(parent, name)
        self._check_old(new_parent, new_name)
        if caller.resent and flags & 2:
            raise refuse(errno.EIO)  # who knows whether they were exchanged already
        done = self.meta.rename(self.who(caller), parent, name, new_parent, new_name, flags)
        self.dir_changed(parent, name, there=bool(flags & 2))  # after an exchange both names are still there
        self.dir_changed(new_parent, new_name, there=True)
        self.touch(done.ino)
        if done.other is not None:
            self.touch(done.other)

    @traced(lambda result, ino, new_parent, new_name: f"({ino},{new_parent},{text(new_name)}):{entry_of(result)}")
    def link(self, caller: Caller, ino: int, new_parent: int, new_name: bytes) -> Entry:
        self._check_old(new_parent, new_name)
        if is_internal(ino):
            raise refuse(errno.EPERM)
        attr = self.meta.link(self.who(caller), ino, new_parent, new_name)
        self.dir_changed(new_parent, new_name, there=True)
        self.touch(ino)
        return self.entry(ino, attr)

    @traced(lambda result, parent, name, mode, umask, flags: (
        f"({parent},{text(name)},{shown(mode | stat.S_IFREG)})"
        + (f":{entry_of(result[0])} [fh:{result[1].fh}]" if result else ":")
    ))  # fmt: skip
    def create(
        self, caller: Caller, parent: int, name: bytes, mode: int, umask: int, flags: int
    ) -> tuple[Entry, Opened]:
        self._check_new(parent, name)
        who = self.who(caller)
        ino, attr = self.meta.create(who, parent, name, mode & 0o7777, self.umask(umask), flags)
        self.dir_changed(parent, name, there=True)
        try:
            return self._opened(ino, attr, flags, current=True)
        except BaseException:
            self.meta.close(ino)
            raise

    @traced(lambda result, parent, name, mode, umask, flags: (
        f"({parent},{text(name)},{shown(mode | stat.S_IFREG)})"
        + (f":{entry_of(result[0])} [fh:{result[1].fh}]" if result else ":")
    ))  # fmt: skip
    def tmpfile(
        self, caller: Caller, parent: int, name: bytes, mode: int, umask: int, flags: int
    ) -> tuple[Entry, Opened]:
        """Created under a name that nobody guesses, held open, and unlinked past the trash."""
        name = b"tmpfile_" + str(uuid.uuid4()).encode()
        who = self.who(caller)
        ino, attr = self.meta.create(who, parent, name, mode & 0o7777, self.umask(umask), flags)
        try:
            self.meta.unlink(who, parent, name, skip_trash=True)
            return self._opened(ino, attr, flags)
        except BaseException:
            self.meta.close(ino)
            raise

    def _opened(self, ino: int, attr: Attr, flags: int, *, current: bool = False) -> tuple[Entry, Opened]:
        """A handle of a file that the metadata client has made and holds open. None is left if anything fails.

        `current`: `attr` was read with the open; if nobody else holds the file here it need not be read again.
        """
        inode = self.handles.hold(ino)
        try:
            current = current and inode.refs == 1
            entry = self.entry(ino, attr, current=current)
            if current:
                self.learn(inode, attr, attr.length, inode.epoch)
            writable = flags & O_ACCMODE != 0
            if self.passthrough is None:
                return entry, Opened(self.handles.open(inode, attr.tier, flags, writable).fh)
            node, _ = self.passthrough.open(ino, 0, attr, None)
            try:
                handle = self.handles.open(inode, attr.tier, flags, writable, node=node)
            except BaseException:
                self.passthrough.release(ino, node, 0)
                raise
            return entry._replace(node=node if node != ino else 0), Opened(handle.fh)
        except BaseException:
            self.handles.drop(inode)
            raise

    def _check_new(self, parent: int, name: bytes) -> None:
        self.check_name(name)
        if self.reserved(parent, name):
            raise refuse(errno.EEXIST)

    def _check_old(self, parent: int, name: bytes) -> None:
        self.check_name(name)
        if self.reserved(parent, name):
            raise refuse(errno.EPERM)

    def dir_changed(self, parent: int, name: bytes, there: bool) -> None:
        """A name came or went through this mount: listings under way must not bring it back."""
        raise NotImplementedError
