"""One cache directory on a local disk: its files, what is known of them, and the threads that keep it in bounds.

Not the choice between directories (`chunkstore.cache.disks`). Files are shared with other clients:
`{dir}/.lock` (the directory's id), `{dir}/raw/{key}`, and `{dir}/rawstaging`, which is not ours to touch.

Who runs. Any thread reads, inserts and removes. One writer thread brings inserted blocks to disk; one keeper looks
after the disk every second, and starts a scan thread when one is due. `_lock` guards index, pending blocks and open
files; no I/O happens under it. Invariant: a block is registered only after its file has its final name, and a removed
block's file goes after its registration, so a reader sees a miss or right bytes, never a wrong file.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict

from chunkstore.buffers import Page
from chunkstore.cache import blockfile
from chunkstore.cache.blockfile import BlockFile
from chunkstore.cache.eviction import Room
from chunkstore.cache.folders import make_dirs, read_id, unlink_quietly
from chunkstore.cache.health import Complaints, Health, State
from chunkstore.cache.index import Index, pack, unpack
from chunkstore.cache.pending import Pending
from chunkstore.cache.scan import walk
from chunkstore.config import StoreConfig
from chunkstore.errors import Damaged
from chunkstore.metrics import Counters
from chunkstore.naming import Block

_OPEN_FILES = 128  # descriptors kept per directory: an open costs more than the read of 4 KiB behind it
_EVICT_BATCH = 64
_TICK_S = 1.0
_LOCK_CHECK_TICKS = 10
_EXPIRE_SCANNED = 1000
_PROBE = Block(0, 0, 3)


class CacheDir:
    """The blocks of `path`, at most `capacity` bytes and `items` blocks (0: as the file system allows)."""

    def __init__(
        self, path: str, config: StoreConfig, capacity: int, items: int, counters: Counters, queue: int
    ) -> None:
        self.path = path
        self.health = Health()
        self._complaints = Complaints(path)
        self.id = read_id(path, config.cache_mode)
        self._config = config
        self._counters = counters
        self._level = config.cache_checksum
        self._lock = threading.Lock()
        self._index = Index()
        self._pending = Pending(queue)
        self._changed = threading.Condition(self._lock)
        self._open: OrderedDict[int, BlockFile] = OrderedDict()
        self._scanning = True  # until the first scan is through, the disk is asked
        self._stop = threading.Event()
        self._room = Room(path, config, capacity, items)
        self._threads = [
            threading.Thread(target=run, name=f"cache-{name}", daemon=True)
            for name, run in (("write", self._write_pending), ("keep", self._keep))
        ]
        for thread in self._threads:
            thread.start()

    def file_of(self, block: Block) -> str:
        return f"{self.path}/raw/{block.key(self._config.hash_prefix)}"

    # reading

    def read_into(self, block: Block, offset: int, view: memoryview) -> bool:
        """As `BlockCache.read_into`."""
        key = pack(block.slice_id, block.indx)
        with self._lock:
            page = self._pending.page(key)
            if page is not None:
                page.retain()
            elif not self._index.touch(key, int(time.time())) and not self._scanning:
                return False
            file = self._open.get(key)
            if file is not None:
                self._open.move_to_end(key)
        if page is not None:
            view[:] = page.data[offset : offset + len(view)]
            page.release()
            return True
        if not self.health.begin():
            return False
        failure: OSError | None = None
        try:
            if file is None:
                file = self._open_file(key, block)
            file.read_into(offset, view, self._level)
            return True
        except FileNotFoundError:
            self._forget(key)
        except Damaged as problem:
            self._counters.add(blockcache_damaged=1)
            self._complaints.damaged(self.file_of(block), problem)
            self.remove(block)
        except OSError as error:
            failure = error
            self._forget(key)
        finally:
            self.health.end(failure)
        return False

    def _open_file(self, key: int, block: Block) -> BlockFile:
        file = BlockFile(self.file_of(block), block.size)
        with self._lock:
            if key in self._index:  # one that was removed meanwhile must not stay open
                self._open[key] = file
                if len(self._open) > _OPEN_FILES:
                    self._open.popitem(last=False)
        return file

    def _forget(self, key: int) -> None:
        with self._lock:
            self._index.discard(key)
            self._open.pop(key, None)

    def where(self, block: Block) -> str | None:
        key = pack(block.slice_id, block.indx)
        with self._lock:
            if key in self._pending or key in self._index:
                return self.path
            if not self._scanning:
                return None
        return self.path if os.path.exists(self.file_of(block)) else None

    # writing

    def insert(self, block: Block, page: Page, forced: bool) -> None:
        """As `BlockCache.insert`. Forced ones wait for room in the queue."""
        if not self._queue(block, page, forced):
            self._counters.add(blockcache_drops=1)
            self.remove(block)  # what is kept under its name is older

    def _queue(self, block: Block, page: Page, forced: bool) -> bool:
        """Hand a block to the writer thread, in the place of what was kept under its name. False without room."""
        key = pack(block.slice_id, block.indx)
        deadline = time.monotonic() + self._config.get_timeout_s
        with self._lock:
            while not self._pending.fits(block.size) and not self._stop.is_set():
                if not forced or not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    return False
            if self._stop.is_set() or (self._room.raw_full and self._config.cache_eviction == "none"):
                return False
            if (self._index.size(key) or 0) < 0:  # staged: another client is about to upload it
                return True
            replaced = self._pending.drop(key)
            self._index.discard(key)
            self._open.pop(key, None)
            self._pending.add(key, block, page.retain())
            self._changed.notify_all()
        if replaced is not None:
            replaced.release()
        return True

    def _write_pending(self) -> None:
        while True:
            with self._lock:
                while (taken := self._pending.take()) is None:
                    if self._stop.is_set():
                        return
                    self._changed.wait()
                key, (block, page) = taken
                page.retain()  # `remove` may release the other hold
            written = self._write(block, page)
            with self._lock:
                wanted = self._pending.settle(key, taken[1])
                if wanted and written:
                    self._index.add(key, block.size, int(time.time()))
                self._changed.notify_all()
            page.release()
            if wanted:
                page.release()
            elif written:
                unlink_quietly(self.file_of(block))
            del taken, page  # a waiting thread holds nobody's page
            if self._room.exceeded(self._index):
                self.evict()

    def _write(self, block: Block, page: Page) -> bool:
        """Bring one block to disk. A cache that cannot is no reason to fail anybody: the block is dropped."""
        if not self.health.begin():
            return False
        began = time.perf_counter()
        path = self.file_of(block)
        failure: OSError | None = None
        try:
            data = page.data[: block.size]
            with_checksums = self._level != "none"
            try:
                blockfile.write(path, data, self._config.cache_mode, with_checksums)
            except FileNotFoundError:
                make_dirs(os.path.dirname(path), self._config.cache_mode)
                blockfile.write(path, data, self._config.cache_mode, with_checksums)
        except OSError as error:
            failure = error
            self._room.note_full(error)
            self._complaints.refused(error)
            self._counters.add(blockcache_drops=1)
            unlink_quietly(path)  # an older block of this name
            return False
        finally:
            self.health.end(failure)
        self._counters.add(blockcache_writes=1, blockcache_write_bytes=block.size)
        self._counters.blockcache_write_hist_seconds.observe(time.perf_counter() - began)
        return True

    # removing

    def remove(self, block: Block) -> None:
        """Forget a block and unlink its file; one that waits for another client's upload stays."""
        key = pack(block.slice_id, block.indx)
        with self._lock:
            page = self._pending.drop(key)
            size = self._index.size(key)
            staged = size is not None and size < 0
            known = not staged and self._index.discard(key)
            if not staged:
                self._open.pop(key, None)
            self._changed.notify_all()
        if page is not None:
            page.release()
        if known or (self._scanning and not staged):
            unlink_quietly(self.file_of(block))

    def evict(self) -> None:
        """Give blocks up until the directory is within its bounds, a bit below them."""
        if self._config.cache_eviction == "none":
            return
        goal = self._room.goal()
        aged = None
        while not self._stop.is_set():
            victims: list[Block] = []
            with self._lock:
                if aged is None and self._config.cache_eviction == "lru":
                    aged = self._index.by_age()
                for _ in range(4 * _EVICT_BATCH):
                    if goal.reached(self._index) or len(victims) == _EVICT_BATCH:
                        break
                    key = self._index.older_of_two() if aged is None else next(aged, None)
                    size = None if key is None else self._index.size(key)
                    if key is None or size is None:
                        continue
                    self._index.discard(key)
                    self._open.pop(key, None)
                    goal.freed(size)
                    victims.append(Block(*unpack(key), size))
            self._unlink_evicted(victims)
            if len(victims) < _EVICT_BATCH:
                return

    def _unlink_evicted(self, victims: list[Block]) -> None:
        for block in victims:
            unlink_quietly(self.file_of(block))
        if victims:
            self._counters.add(blockcache_evicts=len(victims))

    # looking after the disk

    def _keep(self) -> None:
        ticks = 0
        last_scan = 0.0
        scanner: threading.Thread | None = None
        interval = self._config.cache_scan_interval_s
        while True:
            due = not last_scan or (interval > 0 and time.monotonic() - last_scan >= interval)
            if due and interval >= 0 and (scanner is None or not scanner.is_alive()):
                last_scan = time.monotonic()
                scanner = threading.Thread(target=self.scan, name="cache-scan", daemon=True)
                scanner.start()
            self._room.look(check_lock=ticks % _LOCK_CHECK_TICKS == 0)
            if self._room.raw_full or self._room.exceeded(self._index):
                self.evict()
            if self._config.cache_expire_s and ticks % max(1, min(60, int(self._config.cache_expire_s))) == 0:
                self.expire()
            self.health.tick()
            self._complaints.state(self.health.state)
            if self.health.state is State.UNSTABLE:
                self._probe()
            ticks += 1
            if self._stop.wait(_TICK_S):
                break
        if scanner is not None:
            scanner.join()

    def expire(self) -> None:
        """Drop what was not used for `cache_expire_s`."""
        with self._lock:
            old = self._index.unused_since(int(time.time() - self._config.cache_expire_s), _EXPIRE_SCANNED)
            victims = [Block(*unpack(key), self._index.size(key) or 0) for key in old]
            for key in old:
                self._index.discard(key)
                self._open.pop(key, None)
        self._unlink_evicted(victims)

    def scan(self) -> None:
        """Learn what is on the disk. Without this, or until its end, each miss asks the disk."""
        with self._lock:
            self._scanning = True
            self._index.begin_scan()
        for block, size, atime in walk(f"{self.path}/raw", self._config.hash_prefix, self._stop):
            with self._lock:
                self._index.add(pack(block.slice_id, block.indx), size, atime)
        if self._stop.is_set():
            return
        with self._lock:
            self._index.end_scan()
            self._scanning = False

    def _probe(self) -> None:
        """Twice a tick, write, read and remove a tiny file of an unstable disk, so that it can prove itself."""
        number = time.time_ns() // 1000000
        path = f"{self.path}/raw/probe/{number % 256:02X}/{number // 1000000}/{number}_0_3"
        data = memoryview(b"\x01\x02\x03")
        for _ in range(2):
            if not self.health.begin():
                return
            failure: OSError | None = None
            try:
                make_dirs(os.path.dirname(path), self._config.cache_mode)
                blockfile.write(path, data, self._config.cache_mode, with_checksums=False)
                BlockFile(path, len(data)).read_into(0, memoryview(bytearray(len(data))), "none")
                os.unlink(path)
            except OSError as error:
                failure = error
            finally:
                self.health.end(failure)

    # the whole

    def usage(self) -> tuple[int, int]:
        with self._lock:
            return len(self._index) + len(self._pending), self._index.used + self._pending.queued_bytes

    def flush(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        with self._lock:
            while not self._pending.idle:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def close(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        flushed = self.flush(timeout_s)
        with self._lock:
            self._stop.set()
            self._open.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return flushed and not any(thread.is_alive() for thread in self._threads)
