"""What a rule knows besides the records: the volume's setting, the client's options, the clock, ids, open files.

A rule is a function `rule(tx, vol, caller, ...)`. It reads and writes records through `tx` and takes everything else
from `vol`. Bodies may be run again after a conflict, so what `vol` gives must be harmless to take twice (a lost inode
number is).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Literal

from meta.config import MetaConfig
from meta.rules.quotas import QuotaTable
from meta.setting import Setting
from meta.transaction import Engine
from meta.types import ROOT

INODE_BATCH = 1024
SLICE_BATCH = 4096


class IdPool:
    """Fresh inode or slice numbers, reserved from the engine in the batches that official clients use."""

    def __init__(self, engine: Engine, counter: Literal["nextInode", "nextChunk"], batch: int, lowest: int) -> None:
        self._engine = engine
        self._counter = counter
        self._batch = batch
        self._lowest = lowest
        self._lock = threading.Lock()
        self._ids: Iterator[int] = iter(())

    def next(self) -> int:
        """A number that no client has used or will use."""
        with self._lock:
            for number in self._ids:
                if number >= self._lowest:
                    return number
            self._ids = iter(self._engine.allocate(self._counter, self._batch))
            return next(number for number in self._ids if number >= self._lowest)


class Volume:
    """The volume as one client sees it. Shared by all threads; `setting` is replaced whole when it is reloaded."""

    def __init__(self, engine: Engine, setting: Setting, config: MetaConfig) -> None:
        self.engine = engine
        self.setting = setting
        self.config = config
        self.sid = 0  # session id; 0 without a session
        self.root = ROOT  # the inode that this client calls 1 (`--subdir`)
        self.inodes = IdPool(engine, "nextInode", INODE_BATCH, lowest=2)
        self.slices = IdPool(engine, "nextChunk", SLICE_BATCH, lowest=1)
        self.quotas = QuotaTable()  # replaced whole with every heartbeat
        self.is_open: Callable[[int], bool] = lambda ino: False
        """Whether this process holds the inode open (it must then outlive its last link)."""

    @staticmethod
    def now() -> tuple[int, int]:
        """Seconds and nanoseconds since the epoch, by this machine's clock (upstream never uses a server's)."""
        return divmod(time.time_ns(), 1_000_000_000)

    @property
    def trash_enabled(self) -> bool:
        return self.setting.trash_days > 0
