"""What a rule knows besides the records: the volume's setting, the client's options, the clock, ids, open files.

A rule is a function `rule(tx, vol, caller, ...)`. It reads and writes records through `tx` and takes everything else
from `vol`. Bodies may be run again after a conflict, so what `vol` gives must be harmless to take twice (a lost inode
number is).
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Literal, TypeVar

from meta.acl import Rule
from meta.config import MetaConfig
from meta.engine import Engine
from meta.rules.quotas import QuotaTable
from meta.setting import Setting
from meta.transaction import Transaction
from meta.types import ROOT

T = TypeVar("T")

INODE_BATCH = 1024
SLICE_BATCH = 4096
_ACL_IDS = 10_000  # access control lists whose ids are remembered


class Unprepared(Exception):
    """A rule found that something must be fetched before its transaction; not an error: see `Volume.transact`."""

    def __init__(self, fetch: Callable[[], object]) -> None:
        super().__init__(fetch)
        self.fetch = fetch


class IdPool:
    """Fresh inode or slice numbers, reserved from the engine in the batches that official clients use."""

    def __init__(self, engine: Engine, counter: Literal["nextInode", "nextChunk"], batch: int, lowest: int) -> None:
        self._engine = engine
        self._counter = counter
        self._batch = batch
        self._lowest = lowest
        self._lock = threading.Lock()
        self._filling = threading.Lock()  # comes before the engine's writer and `_lock`; never held in a transaction
        self._ids: Iterator[int] = iter(())

    def next(self) -> int:
        """A number that no client has used or will use, for rules: raises `Unprepared` when the pool is dry."""
        with self._lock:
            for number in self._ids:
                return number
        raise Unprepared(self._refill)

    def take(self) -> int:
        """The same outside of transactions: fills the pool itself."""
        while True:
            try:
                return self.next()
            except Unprepared:
                self._refill()

    def _refill(self) -> None:
        """Reserve a batch, without `_lock`: a transaction that asks for a number holds the writer we wait for here."""
        with self._filling:
            with self._lock:
                for number in self._ids:  # another thread was first
                    self._ids = itertools.chain((number,), self._ids)
                    return
            fresh = self._engine.allocate(self._counter, self._batch)
            with self._lock:
                self._ids = iter(range(max(fresh.start, self._lowest), fresh.stop))


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
        self.usage: tuple[int, int] | None = None  # bytes and inodes as of the last heartbeat, with `fast_statfs`
        self.trash_hour = (b"", 0)  # name and inode of the hourly trash directory last used
        self.is_open: Callable[[int], bool] = lambda ino: False
        """Whether this process holds the inode open (it must then outlive its last link)."""
        self.settle: Callable[[], None] = lambda: None
        """Called by each thread behind its transaction, so that what `is_open` has answered can be followed up."""

        self._acl_ids: dict[Rule, int] = {}

    def transact(self, body: Callable[[Transaction], T]) -> T:
        """`Engine.transact` for rules: fetches what they find missing, and runs them again."""
        try:
            while True:
                try:
                    return self.engine.transact(body)
                except Unprepared as missing:
                    missing.fetch()
        finally:
            self.settle()

    def acl_id(self, rule: Rule) -> int:
        """The id of a stored rule equal to this one. Raises `Unprepared` if this client does not know it yet."""
        number = self._acl_ids.get(rule)
        if number is None:
            raise Unprepared(lambda: self._learn_acl(rule))
        return number

    def _learn_acl(self, rule: Rule) -> None:
        if len(self._acl_ids) >= _ACL_IDS:
            self._acl_ids = {}
        self._acl_ids[rule] = self.engine.intern_acl(rule)

    @staticmethod
    def now() -> tuple[int, int]:
        """Seconds and nanoseconds since the epoch, by this machine's clock (upstream never uses a server's)."""
        return divmod(time.time_ns(), 1_000_000_000)

    @property
    def trash_enabled(self) -> bool:
        return self.setting.trash_days > 0
