"""What all parts of `MetaClient` share: the engine, the volume, the table of open files, the background workers.

Not an interface for others: see `meta.client`.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import TypeVar

from meta.attr import Attr
from meta.compaction import Compactor
from meta.config import MetaConfig, SliceStore
from meta.deleter import Deleter
from meta.engine import Engine
from meta.errors import MetaError, NotFormatted, Refused
from meta.jobs import Ended
from meta.open_files import OpenFiles
from meta.rules.context import Volume
from meta.rules.quotas import QuotaTable
from meta.rules.sessions import release_sustained
from meta.rules.setattr import touch_atime
from meta.rules.statfs import read_usage
from meta.setting import Setting
from meta.transaction import Transaction
from meta.types import ROOT, TRASH

log = logging.getLogger(__name__)

_DAY_S = 86400

T = TypeVar("T")


class ClientBase:
    """State of a client. `root` is the inode that this client calls 1."""

    def __init__(self, engine: Engine, config: MetaConfig | None = None) -> None:
        self.engine = engine
        self.config = config or MetaConfig()
        self.reader = engine.reader
        self.files = OpenFiles(self.config.open_cache_s, self.config.open_cache_limit)
        self.vol = Volume(engine, Setting(), self.config)
        self.vol.is_open = self.files.claim
        self.vol.settle = self._settle
        self.root = ROOT
        self.on_setting: list[Callable[[Setting], None]] = []
        """Called with the new setting whenever a heartbeat finds that it was changed."""
        self.job_done: Ended = lambda name, status, took_s, deleted: None
        """Told of each background job that has ended."""
        self.deleter = Deleter(self.vol, self.config.max_deletes)
        self.compactor = Compactor(self.vol, self.files, self.deleter)

    @property
    def setting(self) -> Setting:
        """The volume's setting as last loaded."""
        return self.vol.setting

    @property
    def sid(self) -> int:
        """The session's number, 0 without one."""
        return self.vol.sid

    def load(self, *, check_version: bool = True) -> Setting:
        """Read the volume's setting and quotas. `NotFormatted` or `SettingError` if this client cannot use it."""
        document = self.reader.setting()
        if document is None:
            raise NotFormatted
        setting = Setting.parse(document)
        if check_version:
            setting.check_version()
        self.vol.setting = setting.decrypted()
        self.load_quotas()
        return self.vol.setting

    def load_quotas(self) -> None:
        """Learn which directories, users and groups have quotas, and with `fast_statfs` how much is used."""
        setting = self.vol.setting
        self.vol.quotas = QuotaTable.load(self.reader, dirs=setting.dir_stats, owners=setting.user_group_quota)
        if self.config.fast_statfs:
            self.vol.usage = read_usage(self.reader)

    def set_slice_store(self, store: SliceStore) -> None:
        """Who deletes and merges slices. Without one this client leaves both to others."""
        self.deleter.store = store
        self.compactor.store = store

    def getattr(self, ino: int) -> Attr:
        """The attributes of an inode; ENOENT if it is gone."""
        if ino == ROOT:
            ino = self.root
        cached = self.files.attr(ino)
        if cached is not None:
            return cached
        version = self.files.version(ino)
        attr = self.reader.attr(ino)
        if attr is None:
            raise Refused(errno.ENOENT)
        if version >= 0:
            self.files.seen(ino, attr, version)
        return attr

    def lately(self, ino: int, age_s: float) -> tuple[Attr, float] | None:
        """A directory as our last change left it, and how long ago: for kernels, which ask again after each change.

        What others have done to it in the meantime is missing, as in attributes that are kept for `age_s`.
        """
        return self.reader.lately(self._real(ino), age_s)

    def _real(self, ino: int) -> int:
        return self.root if ino == ROOT else ino

    def _write(self, body: Callable[[Transaction], T]) -> T:
        """Run rules that write; EROFS for a read-only client."""
        if self.config.read_only:
            raise Refused(errno.EROFS)
        return self.vol.transact(body)

    def touch_atime(self, ino: int, attr: Attr | None = None) -> None:
        """Something of the inode was read: update its atime if the mount wants that, and it is due.

        That it cannot be noted is no reason to refuse the reading.
        """
        mode = self.config.atime_mode
        if mode == "noatime" or self.config.read_only or ino >= TRASH:
            return
        try:
            attr = attr or self.reader.attr(ino)
            if attr is None:
                return
            now = self.vol.now()
            age = now[0] - attr.atime
            if mode == "relatime":
                atime = attr.atime, attr.atimensec
                due = age > _DAY_S or atime < (attr.mtime, attr.mtimensec) or atime < (attr.ctime, attr.ctimensec)
            else:
                due = age > 1
            if due:
                self.vol.transact(lambda tx: touch_atime(tx, ino, now))
                attr.atime, attr.atimensec = now
        except MetaError as problem:
            log.debug("access time of inode %d: %s", ino, problem)

    def _settle(self) -> None:
        orphans = self.files.settle()
        try:
            while orphans:
                self._release(orphans.pop())
        finally:
            for ino in orphans:
                self.files.released(ino)

    def _release(self, ino: int) -> None:
        """Nobody here holds `ino` any more, which may have lost its last link meanwhile."""
        try:
            deleted = self.vol.transact(lambda tx: release_sustained(tx, self.vol, self.vol.sid, ino))
        finally:
            self.files.released(ino)
        if deleted is not None:
            self.deleter.delete_file(deleted)
