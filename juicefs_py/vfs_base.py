"""What all parts of the VFS share: the rooms below, attributes as the kernel wants them, and whose request it is.

Not here: any operation (`vfs_names`, `vfs_attrs`, `vfs_files`, `vfs_dirs`, `vfs_ranges`, `vfs_locks`).
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Protocol

from fuse.operations import Caller, Entry, Operations, Stat
from juicefs_py.control.accesslog import AccessLog
from juicefs_py.control.internal import InternalFiles
from juicefs_py.control.stats import MountStats
from juicefs_py.data.housekeeper import Housekeeper
from juicefs_py.data.readers import Readers
from juicefs_py.data.writers import Writers
from juicefs_py.errors import Troubles, refuse
from juicefs_py.handles import HandleTable, OpenInode
from juicefs_py.ledger import Ledger
from juicefs_py.look_ahead import LookAhead
from juicefs_py.passthrough import Passthrough
from juicefs_py.vfs_config import VFSConfig
from meta.attr import Attr
from meta.errors import Refused
from meta.types import DIR_LENGTH, DIRECTORY, FILE, MAX_NAME, ROOT, SPECIAL, TRASH, TYPE_TO_MODE, Identity

if TYPE_CHECKING:
    from chunkstore.store import ChunkStore
    from meta.client import MetaClient
    from meta.types import Caller as MetaCaller

BLKSIZE = 65536
INTERNAL_VALID_S = 3600.0
_FIELDS = attrgetter(
    "length", "type", "mode", "atime", "mtime", "ctime", "atimensec", "mtimensec", "ctimensec",
    "nlink", "uid", "gid", "rdev",
)  # fmt: skip
CHANGED_LIMIT = 10_000  # inodes whose last local change is remembered
CHANGED_KEEP_S = 2.0  # longer than a page of a directory listing is trusted


class Notifier(Protocol):
    """How to tell the kernel that what it caches is out of date."""

    def inval_inode(self, ino: int, offset: int, length: int, /) -> object: ...

    def inval_entry(self, parent: int, name: bytes, /) -> object: ...


class VFSBase(Operations):
    """State of a mounted volume."""

    def __init__(self, meta: MetaClient, store: ChunkStore, config: VFSConfig, ledger: Ledger | None = None) -> None:
        self.meta = meta
        self.store = store
        self.config = config
        self.notifier: Notifier | None = None
        self.passthrough: Passthrough | None = None  # only where the kernel agreed to it
        self.accesslog = AccessLog()
        self.troubles = Troubles()
        self.stats = MountStats(config.labels)
        self.housekeeper = Housekeeper()
        block_size = meta.setting.block_size << 10
        self.writers = Writers(
            meta, store, block_size, housekeeper=self.housekeeper, on_commit=self._committed,
            io_retries=config.io_retries, put_timeout_s=config.put_timeout_s, ledger=ledger,
        )  # fmt: skip
        self.readers = Readers(
            meta, store, block_size, housekeeper=self.housekeeper,
            max_ahead=config.max_readahead, io_retries=config.io_retries,
        )  # fmt: skip
        self.handles = HandleTable(self.readers, self.writers, ledger)
        self.internal = InternalFiles(config, self.accesslog, self.stats, meta, has_trash=meta.root == ROOT)
        self._changed: dict[int, float] = {}
        self._changing = threading.Lock()  # of the writers of `_changed`, which is replaced whole when it is cut
        self.reopening = threading.Lock()  # handles of a predecessor, when they are used
        self.lost_since = time.time()  # when the requests that come again were lost with a predecessor
        self._squash = config.all_squash or config.root_squash
        self._plain_callers = not config.checks_permissions
        self._names_valid_s = min(config.attr_timeout_s, config.entry_timeout_s, config.dir_entry_timeout_s)
        self.look_ahead = LookAhead(meta.peek_dir)
        self.housekeeper.add(self.look_ahead.expire)

    def _committed(self, ino: int, off: int, length: int) -> None:
        self.readers.invalidate(ino, off, length)
        self.touch(ino)

    def touch(self, ino: int) -> None:
        """Remember that an inode was changed through this mount just now."""
        now = time.monotonic()
        with self._changing:
            if len(self._changed) > CHANGED_LIMIT:
                self._changed = {k: at for k, at in self._changed.items() if now - at < CHANGED_KEEP_S}
            self._changed[ino] = now

    def who(self, caller: Caller) -> MetaCaller:
        """On whose behalf the rules see a request: the caller, unless squashed, or unless the rules must check."""
        if self._plain_callers:
            return caller
        config = self.config
        if config.all_squash is not None:
            uid, gid = config.all_squash
            return Identity(uid, gid, caller.pid, (gid,), checked=False)
        if config.root_squash is not None and caller.uid == 0:
            uid, gid = config.root_squash
            return Identity(uid, gid, caller.pid, (gid,), checked=False)
        checked = not config.non_default_permission
        return Identity(caller.uid, caller.gid, caller.pid, caller.groups, checked)

    def umask(self, umask: int) -> int:
        """The umask that counts: the kernel's, or the mount's."""
        return umask if self.config.umask is None else self.config.umask

    def attr(self, ino: int) -> tuple[Attr, int, int]:
        """Attributes of an inode, with the length and modification time (ns) that include uncommitted writes."""
        inode = self.handles.inode(ino)
        if inode is None:
            attr = self.trash() if ino == TRASH else self.meta.getattr(ino)
            return self._with(attr, None)
        epoch, file = inode.epoch, self.writers.get(ino)
        while True:
            version, ahead = (file.version, file.uncommitted()) if file is not None else (0, None)
            attr = self.meta.getattr(ino)
            if file is None or version == file.version:
                break  # else a commit came in between, and the two do not belong together
        seen = self._with(attr, ahead)
        self.learn(inode, attr, seen[1], epoch)
        return seen

    def learn(self, inode: OpenInode, attr: Attr, length: int, epoch: int) -> None:
        """The handles of an open file take in what was read since `epoch`."""
        if inode.learn(attr, length, epoch):
            self.readers.invalidate(inode.ino)
            if self.passthrough is not None:
                self.passthrough.outdated(inode.ino, self.meta.files.foreign(inode.ino))

    def trash(self) -> Attr:
        """The trash is there for everybody, also while the volume keeps none."""
        try:
            return self.meta.getattr(TRASH)
        except Refused as problem:
            if problem.errno != errno.ENOENT:
                raise
            return Attr(DIRECTORY, 0o555, nlink=2, length=DIR_LENGTH, parent=ROOT)

    @staticmethod
    def _with(attr: Attr, ahead: tuple[int, int] | None) -> tuple[Attr, int, int]:
        mtime = attr.mtime * 1_000_000_000 + attr.mtimensec
        if ahead is None:
            return attr, attr.length, mtime
        return attr, max(attr.length, ahead[0]), ahead[1]

    def stat(self, ino: int, attr: Attr | None = None) -> Stat:
        """The kernel's view of an inode. With `attr`, of attributes that were read a moment ago."""
        if attr is not None and (attr.type != FILE or self.handles.inode(ino) is None):
            return self.stat_of(ino, attr)
        attr, length, mtime = self.attr(ino)
        seconds, nanos = divmod(mtime, 1_000_000_000)
        return self.stat_of(ino, attr)._replace(size=length, blocks=(length + 511) >> 9, mtime=seconds, mtimensec=nanos)

    @staticmethod
    def stat_of(ino: int, attr: Attr) -> Stat:
        """The kernel's view of attributes, without regard to what this mount knows better."""
        length = attr.length
        return Stat(
            ino, length, (length + 511) >> 9, attr.atime, attr.mtime, attr.ctime,
            attr.atimensec, attr.mtimensec, attr.ctimensec,
            TYPE_TO_MODE[attr.type] | attr.mode, attr.nlink, attr.uid, attr.gid, attr.rdev, BLKSIZE,
        )  # fmt: skip

    def entry(self, ino: int, attr: Attr | None, *, current: bool = False) -> Entry:
        """What a lookup answers. `current`: nothing that this mount knows can be ahead of `attr`."""
        if current and attr is not None:
            stat = self.stat_of(ino, attr)
        else:
            stat = self.stat(ino, attr)
        config = self.config
        is_dir = attr is not None and attr.type == DIRECTORY
        name_s = config.dir_entry_timeout_s if is_dir else config.entry_timeout_s
        node = self.passthrough.node_of(ino) if self.passthrough is not None else 0
        return Entry(stat, name_s, config.attr_timeout_s, node=node)

    def check_name(self, name: bytes) -> None:
        """ENAMETOOLONG for names that no directory can hold."""
        if len(name) > MAX_NAME:
            raise refuse(errno.ENAMETOOLONG)

    def reserved(self, parent: int, name: bytes) -> bool:
        """Whether the name belongs to an internal file."""
        return parent == ROOT and self.internal.is_reserved(name)


def stat_columns(inos: Sequence[int], attrs: Sequence[Attr]) -> list[Sequence[int]]:
    """`VFSBase.stat_of` of many inodes: a column for each field of `Stat`."""
    length, kinds, modes, *fields = zip(*map(_FIELDS, attrs), strict=True)
    blocks = [(size + 511) >> 9 for size in length]
    whole = [TYPE_TO_MODE[kind] | mode for kind, mode in zip(kinds, modes, strict=True)]
    same = [BLKSIZE] * len(inos), [0] * len(inos)
    return [inos, length, blocks, *fields[:6], whole, *fields[6:], *same]


def is_special(ino: int) -> bool:
    """Whether the inode is an internal file or in the upper range that ordinary files never reach."""
    return ino >= SPECIAL


def is_internal(ino: int) -> bool:
    """Whether the inode exists only in this process."""
    return SPECIAL <= ino < TRASH
