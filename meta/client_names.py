"""The part of `MetaClient` about names: lookup, listing, and every change of a directory."""

from __future__ import annotations

import errno
import os

from meta.attr import Attr
from meta.client_files import FileCalls
from meta.errors import Refused
from meta.rules import lookup
from meta.rules.create import Created, Exists, mknod
from meta.rules.link import link
from meta.rules.removal import Removed
from meta.rules.remove import rmdir, unlink
from meta.rules.rename import Renamed, Sizes, rename
from meta.transaction import Cursor, DirPage, Transaction
from meta.types import FILE, ROOT, Caller

_CREATE_ATTEMPTS = 10  # of a name that others keep creating and removing


class NameCalls(FileCalls):
    """Names in directories. Inode 1 means the client's root everywhere."""

    def lookup(self, caller: Caller, parent: int, name: bytes) -> tuple[int, Attr]:
        """Find a name; "." and ".." too, and ".trash" in the volume's root."""
        if parent == ROOT:
            parent = self.root
        ino, attr = lookup.lookup(self.reader, self.vol, caller, parent, name)
        return (ROOT, attr) if ino == self.root else (ino, attr)

    def resolve(self, caller: Caller, path: bytes, start: int = ROOT) -> tuple[int, Attr]:
        """Walk a path without following symlinks."""
        ino, attr = lookup.resolve(self.reader, self.vol, caller, self._real(start), path)
        return (ROOT, attr) if ino == self.root else (ino, attr)

    def list_dir(self, caller: Caller, ino: int, plus: bool, cursor: Cursor = None, limit: int = -1) -> DirPage:
        """Entries without "." and "..", from `cursor` on; with attributes if `plus`."""
        if ino == ROOT:
            ino = self.root
        page = lookup.list_dir(self.reader, self.vol, caller, ino, plus, cursor, limit)
        if cursor is None:
            self.touch_atime(ino)
        return page

    def peek_dir(self, ino: int, cursor: Cursor, limit: int) -> DirPage:
        """About `limit` entries from `cursor` on, with attributes, for lookups to come.

        Nobody's rights are checked, and no access time follows.
        """
        return self.reader.list_entries(self._real(ino), plus=True, cursor=cursor, limit=limit)

    def paths(self, ino: int) -> list[bytes]:
        """Every path that leads to an inode from the client's root."""
        return lookup.paths(self.reader, self.vol, self._real(ino))

    def mknod(
        self, caller: Caller, parent: int, name: bytes, type: int, mode: int, umask: int,
        rdev: int = 0, target: bytes = b"",
    ) -> tuple[int, Attr]:  # fmt: skip
        """Create an inode of any type. EEXIST is `Exists`, which carries what is there in `existing`."""
        vol, where = self.vol, self._real(parent)
        return self._write(lambda tx: mknod(tx, vol, caller, where, name, type, mode, umask, rdev, target))

    def create(self, caller: Caller, parent: int, name: bytes, mode: int, umask: int, flags: int) -> tuple[int, Attr]:
        """Create a regular file and hold it open; without O_EXCL an existing one is opened instead."""
        for attempt in range(_CREATE_ATTEMPTS):
            try:
                return self._create(caller, parent, name, mode, umask)
            except Exists as found:
                ino, attr = found.existing
                if flags & os.O_EXCL or not attr.is_file:
                    raise
            try:
                return ino, self.open(caller, ino, flags).attr
            except Refused as e:  # removed since we found it: the name may be free now
                if e.errno != errno.ENOENT or attempt + 1 == _CREATE_ATTEMPTS:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _create(self, caller: Caller, parent: int, name: bytes, mode: int, umask: int) -> tuple[int, Attr]:
        vol, files, where = self.vol, self.files, self._real(parent)
        held = 0

        def body(tx: Transaction) -> Created:
            nonlocal held
            if held:  # a rerun after a conflict
                files.close(held)
                held = 0
            made = mknod(tx, vol, caller, where, name, FILE, mode, umask)
            files.hold_new(made.ino)  # before anybody can see it, so that no removal can come first
            held = made.ino
            return made

        try:
            ino, attr = self._write(body)
        except BaseException:
            if held:
                self.close(held)
            raise
        files.opened(ino, attr)
        return ino, attr

    def unlink(self, caller: Caller, parent: int, name: bytes, *, skip_trash: bool = False) -> int:
        """Remove a name of anything but a directory; the inode that it led to."""
        vol, where = self.vol, self._real(parent)
        return self._removed(self._write(lambda tx: unlink(tx, vol, caller, where, name, skip_trash=skip_trash)))

    def rmdir(self, caller: Caller, parent: int, name: bytes, *, skip_trash: bool = False) -> int:
        """Remove an empty directory; its inode."""
        vol, where = self.vol, self._real(parent)
        return self._write(lambda tx: rmdir(tx, vol, caller, where, name, skip_trash=skip_trash)).ino

    def rename(
        self, caller: Caller, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0
    ) -> Renamed:
        """Rename as renameat2(2): NOREPLACE 1, EXCHANGE 2, and 33 for what is restored from the trash."""
        vol, src, dst = self.vol, self._real(parent), self._real(new_parent)
        sizes: Sizes = {}
        done = self._write(lambda tx: rename(tx, vol, caller, src, name, dst, new_name, flags, sizes))
        self.files.forget_attr(done.ino)
        if done.other is not None:
            self.files.forget_attr(done.other)
        if done.replaced is not None:
            self._removed(done.replaced)
        return done

    def link(self, caller: Caller, ino: int, parent: int, name: bytes) -> Attr:
        """One more name for an inode."""
        vol, where = self.vol, self._real(parent)
        attr = self._write(lambda tx: link(tx, vol, caller, ino, where, name))
        self.files.forget_attr(ino)
        return attr

    def _removed(self, removed: Removed) -> int:
        """A removal is committed: let the data follow."""
        self.files.forget_attr(removed.ino)
        if removed.deleted is not None:
            self.deleter.delete_file(removed.deleted)
        return removed.ino
