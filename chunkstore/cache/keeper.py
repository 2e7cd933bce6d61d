"""Who looks after one cache directory: eviction, expiry, scans of what is on the disk, probes of a sick one.

Not reading and writing blocks (`chunkstore.cache.directory`), nor which block goes first (`index`) and how much has to
(`eviction`). One thread per directory, and another while a scan is under way; `evict` is also called by the writer.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from chunkstore.cache import blockfile
from chunkstore.cache.blockfile import BlockFile
from chunkstore.cache.folders import make_dirs, unlink_quietly
from chunkstore.cache.health import State
from chunkstore.cache.index import pack, unpack
from chunkstore.cache.scan import walk
from chunkstore.naming import Block

if TYPE_CHECKING:
    from chunkstore.cache.directory import CacheDir

_EVICT_BATCH = 64
_TICK_S = 1.0
_LOCK_CHECK_TICKS = 10
_EXPIRE_SCANNED = 1000


class Keeper:
    """Looks after `directory`, whose index, room and lock it shares."""

    def __init__(self, directory: CacheDir) -> None:
        self._dir = directory

    def run(self) -> None:
        """The keeper's thread: a look every second, until the directory is closed."""
        ticks = 0
        last_scan = 0.0
        scanner: threading.Thread | None = None
        interval = self._dir.config.cache_scan_interval_s
        while True:
            due = not last_scan or (interval > 0 and time.monotonic() - last_scan >= interval)
            if due and interval >= 0 and (scanner is None or not scanner.is_alive()):
                last_scan = time.monotonic()
                scanner = threading.Thread(target=self.scan, name="cache-scan", daemon=True)
                scanner.start()
            self._dir.room.look(check_lock=ticks % _LOCK_CHECK_TICKS == 0)
            if self._dir.room.raw_full or self._dir.room.exceeded(self._dir.index):
                self.evict()
            if self._dir.config.cache_expire_s and ticks % max(1, min(60, int(self._dir.config.cache_expire_s))) == 0:
                self.expire()
            self._dir.health.tick()
            self._dir.complaints.state(self._dir.health.state)
            if self._dir.health.state is State.UNSTABLE:
                self._probe()
            ticks += 1
            if self._dir.stopping.wait(_TICK_S):
                break
        if scanner is not None:
            scanner.join()

    def expire(self) -> None:
        """Drop what was not used for `cache_expire_s`."""
        with self._dir.lock:
            old = self._dir.index.unused_since(int(time.time() - self._dir.config.cache_expire_s), _EXPIRE_SCANNED)
            victims = [Block(*unpack(key), self._dir.index.size(key) or 0) for key in old]
            for key in old:
                self._dir.index.discard(key)
                self._dir.open_files.pop(key, None)
        self._unlink_evicted(victims)
        self._expire_copies(time.time() - self._dir.config.cache_expire_s)

    def _expire_copies(self, before: float) -> None:
        while True:
            with self._dir.lock:
                oldest = self._dir.assembled.oldest()
                if oldest is None or oldest[1] >= before:
                    return
                self._dir.assembled.evict(oldest[0])
            unlink_quietly(f"{self._dir.assembled.path}/{oldest[0]}")

    def scan(self) -> None:
        """Learn what is on the disk. Without this, or until its end, each miss asks the disk."""
        with self._dir.lock:
            self._dir.scanning = True
            self._dir.index.begin_scan()
        self._dir.assembled.scan()
        for block, size, atime in walk(f"{self._dir.path}/raw", self._dir.config.hash_prefix, self._dir.stopping):
            with self._dir.lock:
                self._dir.index.add(pack(block.slice_id, block.indx), size, atime)
            if size < 0 and not self._dir.staging.holds(block):
                self._dir.note_uploaded(block)  # between the look and the note
        self._find_staged()
        if self._dir.stopping.is_set():
            return
        with self._dir.lock:
            self._dir.index.end_scan()
            self._dir.scanning = False

    def _find_staged(self) -> None:
        """Those without a second name, too: nothing else tells that they are here."""
        for block, _ in self._dir.staging.found():
            if self._dir.stopping.is_set():
                return
            with self._dir.lock:
                self._dir.index.add(pack(block.slice_id, block.indx), -block.size, 0)
            if not self._dir.staging.holds(block):
                self._dir.note_uploaded(block)

    def _probe(self) -> None:
        """Twice a tick, write, read and remove a tiny file of an unstable disk, so that it can prove itself."""
        number = time.time_ns() // 1000000
        path = f"{self._dir.path}/raw/probe/{number % 256:02X}/{number // 1000000}/{number}_0_3"
        data = memoryview(b"\x01\x02\x03")
        for _ in range(2):
            if not self._dir.health.begin():
                return
            failure: OSError | None = None
            try:
                make_dirs(os.path.dirname(path), self._dir.config.cache_mode)
                blockfile.write(path, data, self._dir.config.cache_mode, with_checksums=False)
                BlockFile(path, len(data)).read_into(0, memoryview(bytearray(len(data))), "none")
                os.unlink(path)
            except OSError as error:
                failure = error
            finally:
                self._dir.health.end(failure)

    def evict(self) -> None:
        """Give blocks up until the directory is within its bounds, a bit below them."""
        if self._dir.config.cache_eviction == "none":
            return
        goal = self._dir.room.goal()
        aged = None
        while not self._dir.stopping.is_set():
            victims: list[Block] = []
            copies: list[str] = []
            with self._dir.lock:
                oldest = self._dir.assembled.oldest()
                if aged is None and self._dir.config.cache_eviction == "lru":
                    aged = self._dir.index.by_age()
                for _ in range(4 * _EVICT_BATCH):
                    if goal.reached(self._dir.index) or len(victims) == _EVICT_BATCH:
                        break
                    key = self._dir.index.older_of_two() if aged is None else next(aged, None)
                    size = None if key is None else self._dir.index.size(key)
                    if oldest and (key is None or size is None or oldest[1] <= self._dir.index.used_at(key)):
                        goal.freed(self._dir.assembled.evict(oldest[0]))
                        copies.append(oldest[0])
                        oldest = self._dir.assembled.oldest()
                        continue
                    if key is None or size is None or size < 0:  # staged since the order was made
                        continue
                    self._dir.index.discard(key)
                    self._dir.open_files.pop(key, None)
                    goal.freed(size)
                    victims.append(Block(*unpack(key), size))
            self._unlink_evicted(victims)
            for name in copies:
                unlink_quietly(f"{self._dir.assembled.path}/{name}")
            if len(victims) < _EVICT_BATCH:
                return

    def _unlink_evicted(self, victims: list[Block]) -> None:
        for block in victims:
            unlink_quietly(self._dir.file_of(block))
        if victims:
            self._dir.counters.add(blockcache_evicts=len(victims))
