"""The file system: what a mounted volume does for every request of the kernel.

Not here: the operations themselves, which stand by subject in `vfs_names`, `vfs_attrs`, `vfs_files`, `vfs_ranges`,
`vfs_dirs` and `vfs_locks`; this page puts them together and ends them.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from fuse.operations import Caller
from juicefs_py.control.channel import Channel, Jobs
from juicefs_py.control.commands import ControlCommands
from juicefs_py.control.rooms import register_rooms
from juicefs_py.ledger import Ledger
from juicefs_py.metrics import Registry
from juicefs_py.vfs_config import VFSConfig
from juicefs_py.vfs_dirs import DirOperations
from juicefs_py.vfs_locks import LockOperations
from juicefs_py.vfs_names import NameOperations
from juicefs_py.vfs_ranges import RangeOperations
from meta.types import Identity

if TYPE_CHECKING:
    from chunkstore.store import ChunkStore
    from meta.client import MetaClient

log = logging.getLogger(__name__)


class VFS(DirOperations, LockOperations, RangeOperations, NameOperations):
    """A volume as a file system. Thread-safe; lives from the mount to `close`."""

    def __init__(
        self, meta: MetaClient, store: ChunkStore, config: VFSConfig | None = None, ledger: Ledger | None = None
    ) -> None:
        super().__init__(meta, store, config or VFSConfig(), ledger)
        self._open_dirs = {}
        self._dirs_lock = threading.Lock()
        self._closed = False
        self.jobs = Jobs()
        self.internal.open_channel = self._open_channel
        register_rooms(self)

    def _open_channel(self, caller: Caller) -> Channel:
        """The rules check what is asked through the channel: the kernel has checked no more than its mode."""
        who = self.who(caller)
        asker = Identity(who.uid, who.gid, who.pid, tuple(who.groups), checked=False)
        return Channel(ControlCommands(self, asker).run)

    @property
    def metrics(self) -> Registry:
        """All metrics; `metrics.render()` is what the metrics server answers."""
        return self.stats.registry

    def flush_all(self, timeout_s: float = 60.0) -> bool:
        """Commit every pending write; False if some could not be, or not in time."""
        started = time.monotonic()
        late = self.writers.commit_all()
        if late:
            log.error("%d files could not be flushed: %s", len(late), late[:10])
        return not late and time.monotonic() - started <= timeout_s

    def destroy(self) -> None:
        """The kernel let go of the file system: nothing more will come."""
        self.flush_all()

    def close(self) -> None:
        """Commit what is pending and end all threads. The metadata client and the store stay open."""
        if self._closed:
            return
        self._closed = True
        if not self.jobs.close():
            log.warning("not all commands of the control file ended in time")
        self.writers.close()
        if self.passthrough is not None and self.passthrough.assembler is not None:
            self.passthrough.assembler.close()
        self.readers.shutdown()
        self.housekeeper.close()
