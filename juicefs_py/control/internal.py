"""The internal files: their names, attributes and handles.

Not here: what they contain (`accesslog`, `config_document`, `stats`) and the command channel's protocol (`channel`).
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from fuse.operations import Caller, Stat
from juicefs_py.control.accesslog import AccessLog, LogReader
from juicefs_py.control.channel import Channel
from juicefs_py.control.config_document import config_document
from juicefs_py.control.stats import MountStats
from juicefs_py.errors import refuse
from juicefs_py.vfs_config import VFSConfig
from meta.types import ROOT, SPECIAL, TRASH, TRASH_NAME

if TYPE_CHECKING:
    from meta.client import MetaClient

ACCESSLOG, CONTROL, STATS, CONFIG = (SPECIAL + k for k in range(1, 5))
_MODES = {ACCESSLOG: 0o400, CONTROL: 0o666, STATS: 0o444, CONFIG: 0o400}
_NAMES = {b".accesslog": ACCESSLOG, b".control": CONTROL, b".stats": STATS, b".config": CONFIG}
_WRITING = os.O_WRONLY | os.O_RDWR


class InternalHandle:
    """An open internal file."""

    def __init__(self, ino: int) -> None:
        self.ino = ino

    def read(self, offset: int, size: int) -> bytes:
        raise refuse(errno.EBADF)

    def write(self, offset: int, data: bytes) -> int:
        raise refuse(errno.EBADF)

    def flush(self) -> None:
        """A descriptor was closed."""

    def close(self) -> None:
        """The last descriptor is gone."""


class Snapshot(InternalHandle):
    """A text as it was when the file was opened."""

    def __init__(self, ino: int, text: bytes) -> None:
        super().__init__(ino)
        self._text = text

    def read(self, offset: int, size: int) -> bytes:
        return self._text[offset : offset + size]


class LogHandle(InternalHandle):
    """A reader of the access log: offsets do not matter, each read takes what is new."""

    def __init__(self, log: AccessLog) -> None:
        super().__init__(ACCESSLOG)
        self._log = log
        self._reader: LogReader = log.open()

    def read(self, offset: int, size: int) -> bytes:
        return self._reader.read(size)

    def close(self) -> None:
        self._log.close(self._reader)


class ControlHandle(InternalHandle):
    """A conversation with the mount."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(CONTROL)
        self._channel = channel

    def read(self, offset: int, size: int) -> bytes:
        return self._channel.read(offset, size)

    def write(self, offset: int, data: bytes) -> int:
        return self._channel.write(offset, data)

    def flush(self) -> None:
        self._channel.cancel()

    def close(self) -> None:
        self._channel.cancel()


class InternalFiles:
    """The internal files of one mount. `open_channel` is set by the VFS, whose commands the channel runs."""

    def __init__(self, config: VFSConfig, log: AccessLog, stats: MountStats, meta: MetaClient, has_trash: bool) -> None:
        self._config = config
        self._log = log
        self._stats = stats
        self._meta = meta
        self._born = time.time_ns()
        self._lock = threading.Lock()
        self.open_channel: Callable[[Caller], Channel] | None = None
        prefix = config.internal_prefix
        self._by_name = {prefix + name: ino for name, ino in _NAMES.items()}
        self._control = prefix + b".control"
        self.trash_name = prefix + TRASH_NAME if has_trash else None  # None: `.trash` is a name like any other
        shown = [(name, ino) for name, ino in self._by_name.items() if ino != CONTROL]
        if self.trash_name:
            shown.append((self.trash_name, TRASH))
        self._listing = [] if config.hide_internal else shown
        self._reserved = {*self._by_name, *([self.trash_name] if self.trash_name else [])}

    def lookup(self, parent: int, name: bytes) -> int | None:
        """The inode of an internal file; `.control` is found in every directory, the others in the root only."""
        if name[:1] != b".":
            return None
        if name == self._control:
            return CONTROL
        return self._by_name.get(name) if parent == ROOT else None

    def is_reserved(self, name: bytes) -> bool:
        """Whether nobody may create, remove or rename a file of this name in the root."""
        return name[:1] == b"." and name in self._reserved

    def listing(self, ino: int) -> list[tuple[bytes, int]]:
        """Names and inodes that a listing of the directory shows before its entries."""
        return self._listing if ino == ROOT else []

    def stat(self, ino: int) -> Stat:
        """Attributes; ENOENT for numbers that mean nothing."""
        mode = _MODES.get(ino)
        if mode is None:
            raise refuse(errno.ENOENT)
        seconds, nanos = divmod(self._born, 1_000_000_000)
        return Stat(
            ino, 0, 0, seconds, seconds, seconds, nanos, nanos, nanos, stat.S_IFREG | mode, 1, os.getuid(), os.getgid(),
            0, 65536,
        )  # fmt: skip

    def open(self, ino: int, flags: int, caller: Caller) -> InternalHandle:
        """A handle; EACCES for writing anything but `.control`."""
        if ino == CONTROL:
            if self.open_channel is None:
                raise refuse(errno.EACCES)
            return ControlHandle(self.open_channel(caller))
        if flags & _WRITING:
            raise refuse(errno.EACCES)
        return self.reopen(ino, caller)

    def reopen(self, ino: int, caller: Caller) -> InternalHandle:
        """The same for a handle that an earlier process gave out."""
        if ino == ACCESSLOG:
            return LogHandle(self._log)
        if ino == STATS:
            return Snapshot(ino, self._stats.registry.stats())
        if ino == CONFIG:
            return Snapshot(ino, config_document(self._config, self._meta))
        raise refuse(errno.EBADF)
