"""The rules of names called by path, over a fresh volume of any engine, with a clock that tests set.

Not a client: no sessions of its own, no caches. Paths are text with slashes, without one in front; "" is the root.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from clients import new_engine

from meta.attr import Attr
from meta.config import MetaConfig
from meta.errors import Refused
from meta.rules.clone import clone
from meta.rules.context import Volume
from meta.rules.create import Created, mknod
from meta.rules.link import link
from meta.rules.lookup import list_dir, lookup, resolve
from meta.rules.quotas import QuotaTable
from meta.rules.removal import Removed
from meta.rules.remove import rmdir, unlink
from meta.rules.rename import Renamed, Sizes, rename
from meta.rules.sessions import release_sustained
from meta.rules.summary import summarize
from meta.rules.tree import remove_tree
from meta.setting import Setting
from meta.transaction import Quota, SessionRecord
from meta.types import DIRECTORY, FILE, ROOT, SUPERUSER, SYMLINK, Caller, Identity

START_S = 1_700_000_000  # 2023-11-14 22:13:20 UTC
SID = 7


def user(uid: int, *groups: int) -> Identity:
    """A caller whom nobody has checked; the first group is the primary one (the uid, if none is given)."""
    gids = groups or (uid,)
    return Identity(uid, gids[0], 0, gids)


class Namespace:
    """A volume, and what tests do to it. `caller` is on whose behalf, `held` are the inodes that count as open."""

    def __init__(self, kind: str, tmp_path: Path, config: MetaConfig | None = None, **setting: Any) -> None:
        self.engine = new_engine(kind, tmp_path, **setting)
        document = Setting.parse(self.engine.reader.setting() or b"")
        self.vol = Volume(self.engine, document, config or MetaConfig())
        self.held: set[int] = set()
        self.clock = [START_S, 0]
        self.caller: Caller = SUPERUSER
        self.vol.sid = SID
        self.vol.is_open = self.held.__contains__
        self.vol.now = lambda: (self.clock[0], self.clock[1])  # type: ignore[method-assign]
        self.engine.transact(lambda tx: tx.put_session(SessionRecord(SID, START_S * 2, b"{}")))

    @property
    def reader(self) -> Any:
        return self.engine.reader

    def find(self, path: str) -> tuple[int, Attr]:
        return resolve(self.reader, self.vol, self.caller, ROOT, path.encode())

    def ino(self, path: str) -> int:
        return self.find(path)[0]

    def attr(self, path: str) -> Attr:
        return self.find(path)[1]

    def place(self, path: str) -> tuple[int, bytes]:
        """The directory and the last name of a path."""
        above, _, name = path.rpartition("/")
        ino, attr = self.find(above)
        if not attr.is_dir:  # the kernel would not even ask
            raise Refused(errno.ENOTDIR)
        return ino, name.encode()

    def lookup(self, path: str) -> tuple[int, Attr]:
        return lookup(self.reader, self.vol, self.caller, *self.place(path))

    def names(self, path: str = "") -> list[bytes]:
        return sorted(item.name for item in list_dir(self.reader, self.vol, self.caller, self.ino(path), False).items)

    def mknod(self, path: str, type: int = FILE, mode: int = 0o644, umask: int = 0, **more: Any) -> Created:
        parent, name = self.place(path)
        return self.vol.transact(lambda tx: mknod(tx, self.vol, self.caller, parent, name, type, mode, umask, **more))

    def create(self, path: str, mode: int = 0o644) -> int:
        return self.mknod(path, FILE, mode).ino

    def mkdir(self, path: str, mode: int = 0o755) -> int:
        return self.mknod(path, DIRECTORY, mode).ino

    def symlink(self, path: str, target: bytes = b"target") -> int:
        return self.mknod(path, SYMLINK, 0o777, target=target).ino

    def link(self, old: str, new: str) -> Attr:
        ino = self.ino(old)
        parent, name = self.place(new)
        return self.vol.transact(lambda tx: link(tx, self.vol, self.caller, ino, parent, name))

    def unlink(self, path: str, **options: bool) -> Removed:
        parent, name = self.place(path)
        return self.vol.transact(lambda tx: unlink(tx, self.vol, self.caller, parent, name, **options))

    def rmdir(self, path: str, **options: bool) -> Removed:
        parent, name = self.place(path)
        return self.vol.transact(lambda tx: rmdir(tx, self.vol, self.caller, parent, name, **options))

    def rename(self, old: str, new: str, flags: int = 0) -> Renamed:
        src, dst, sizes = self.place(old), self.place(new), Sizes()
        return self.vol.transact(lambda tx: rename(tx, self.vol, self.caller, *src, *dst, flags, sizes))

    def clone(self, old: str, new: str, mode: int = 0, umask: int = 0) -> Created:
        return clone(self.vol, self.caller, self.ino(old), *self.place(new), mode, umask)

    def remove_tree(self, path: str, **options: Any) -> None:
        remove_tree(self.vol, self.caller, *self.place(path), **options)

    def hold(self, path: str) -> int:
        """Open a file."""
        ino = self.ino(path)
        self.held.add(ino)
        return ino

    def let_go(self, ino: int) -> None:
        """Close a file, deleting it if it has no links any more."""
        self.held.discard(ino)
        if ino in self.reader.sustained(SID):
            self.vol.transact(lambda tx: release_sustained(tx, self.vol, SID, ino))

    def change(self, path: str, **changes: int) -> None:
        """Set attributes of an inode whatever the rules say."""
        ino, attr = self.find(path)
        for name, value in changes.items():
            setattr(attr, name, value)
        self.engine.transact(lambda tx: tx.put_attr(ino, attr))

    def set_quota(self, path: str, space: int = -1, inodes: int = -1) -> None:
        """Put a quota on a directory, with the use that it has now."""
        ino = self.ino(path)
        total = summarize(self.reader, self.vol, ino, strict=True)
        quota = Quota(space, inodes, total.size - 4096, total.files + total.dirs - 1)
        self.engine.transact(lambda tx: tx.put_quota("dir", ino, quota))
        self.reload_quotas()

    def reload_quotas(self) -> None:
        self.vol.quotas = QuotaTable.load(self.reader, dirs=True, owners=self.vol.setting.user_group_quota)
