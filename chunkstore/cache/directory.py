"""One cache directory on a local disk: its files, what is known of them, and the threads that keep it in bounds.

Not the choice between directories (`chunkstore.cache.disks`). Files are shared with other clients:
`{dir}/.lock` (the directory's id), `{dir}/raw/{key}`, and `{dir}/rawstaging` (`chunkstore.cache.staging`). Ours alone
is `{dir}/assembled` (`chunkstore.cache.assembled`).

Who runs. Any thread reads, inserts and removes. One writer thread brings inserted blocks to disk; one keeper looks
after the disk (`chunkstore.cache.keeper`). `lock` guards index, pending blocks and open files; no I/O happens under it.
Invariant: a block is registered only after its file has its final name, and a removed block's file goes after its
registration, so a reader sees a miss or right bytes, never a wrong file.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict

from chunkstore.buffers import Page
from chunkstore.cache import blockfile
from chunkstore.cache.assembled import AssembledDir
from chunkstore.cache.blockfile import BlockFile
from chunkstore.cache.eviction import Room
from chunkstore.cache.folders import make_dirs, read_id, unlink_quietly
from chunkstore.cache.health import Complaints, Health
from chunkstore.cache.index import Index, pack
from chunkstore.cache.keeper import Keeper
from chunkstore.cache.pending import Pending
from chunkstore.cache.staging import StagingArea
from chunkstore.config import StoreConfig
from chunkstore.errors import Damaged
from chunkstore.metrics import Counters
from chunkstore.naming import Block

_LAST_SECOND = (1 << 32) - 1  # that the index can tell
_OPEN_FILES = 128  # descriptors kept per directory: an open costs more than the read of 4 KiB behind it


class CacheDir:
    """The blocks of `path`, at most `capacity` bytes and `items` blocks (0: as the file system allows)."""

    def __init__(
        self, path: str, config: StoreConfig, capacity: int, items: int, counters: Counters, queue: int
    ) -> None:
        self.path = path
        self.health = Health(steady=config.writeback)
        self.staging = StagingArea(path, config)
        self.complaints = Complaints(path)
        self.id = read_id(path, config.cache_mode)
        self.config = config
        self.counters = counters
        self._level = config.cache_checksum
        self.lock = threading.Lock()
        self.index = Index()
        self._pending = Pending(queue)
        self._changed = threading.Condition(self.lock)
        self.open_files: OrderedDict[int, BlockFile] = OrderedDict()
        self.scanning = True  # until the first scan is through, the disk is asked
        self.stopping = threading.Event()
        self.room = Room(path, config, capacity, items)
        self.assembled = AssembledDir(self)
        self.keeper = Keeper(self)
        self._threads = [
            threading.Thread(target=run, name=f"cache-{name}", daemon=True)
            for name, run in (("write", self._write_pending), ("keep", self.keeper.run))
        ]
        for thread in self._threads:
            thread.start()

    def file_of(self, block: Block) -> str:
        return f"{self.path}/raw/{block.key(self.config.hash_prefix)}"

    # reading

    def read_into(self, block: Block, offset: int, view: memoryview) -> bool:
        """As `BlockCache.read_into`."""
        key = pack(block.slice_id, block.indx)
        with self.lock:
            page = self._pending.page(key)
            if page is not None:
                page.retain()
            elif not self.index.touch(key, int(time.time())) and not self.scanning:
                return False
            file = self.open_files.get(key)
            if file is not None:
                self.open_files.move_to_end(key)
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
            self.counters.add(blockcache_damaged=1)
            self.complaints.damaged(self.file_of(block), problem)
            self.remove(block)
        except OSError as error:
            failure = error
            if not self.holds_staged(block):  # that is nowhere else, and the next attempt may go better
                self._forget(key)
        finally:
            self.health.end(failure)
        return False

    def _open_file(self, key: int, block: Block) -> BlockFile:
        try:
            file = BlockFile(self.file_of(block), block.size)
        except FileNotFoundError:
            if not (self.scanning or self.holds_staged(block)):
                raise
            file = BlockFile(self.staging.file_of(block), block.size)
        with self.lock:
            if key in self.index:  # one that was removed meanwhile must not stay open
                self.open_files[key] = file
                if len(self.open_files) > _OPEN_FILES:
                    self.open_files.popitem(last=False)
        return file

    def _forget(self, key: int) -> None:
        with self.lock:
            self.index.discard(key)
            self.open_files.pop(key, None)

    def where(self, block: Block) -> str | None:
        key = pack(block.slice_id, block.indx)
        with self.lock:
            if key in self._pending or key in self.index:
                return self.path
            if not self.scanning:
                return None
        return self.path if os.path.exists(self.file_of(block)) or self.staging.holds(block) else None

    # writing

    def insert(self, block: Block, page: Page, forced: bool) -> None:
        """As `BlockCache.insert`. Forced ones wait for room in the queue."""
        if not self._queue(block, page, forced):
            self.counters.add(blockcache_drops=1)
            self.remove(block)  # what is kept under its name is older

    def _queue(self, block: Block, page: Page, forced: bool) -> bool:
        """Hand a block to the writer thread, in the place of what was kept under its name. False without room."""
        key = pack(block.slice_id, block.indx)
        deadline = time.monotonic() + self.config.get_timeout_s
        with self.lock:
            while not self._pending.fits(block.size) and not self.stopping.is_set():
                if not forced or not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    return False
            if self.stopping.is_set() or (self.room.raw_full and self.config.cache_eviction == "none"):
                return False
            if (self.index.size(key) or 0) < 0:  # staged: another client is about to upload it
                return True
            replaced = self._pending.drop(key)
            self.index.discard(key)
            self.open_files.pop(key, None)
            self._pending.add(key, block, page.retain())
            self._changed.notify_all()
        if replaced is not None:
            replaced.release()
        return True

    def _write_pending(self) -> None:
        while True:
            with self.lock:
                while (taken := self._pending.take()) is None:
                    if self.stopping.is_set():
                        return
                    self._changed.wait()
                key, (block, page) = taken
                page.retain()  # `remove` may release the other hold
            written = self._write(block, page)
            with self.lock:
                wanted = self._pending.settle(key, taken[1])
                if wanted and written:
                    self.index.add(key, block.size, int(time.time()))
                self._changed.notify_all()
            page.release()
            if wanted:
                page.release()
            elif written:
                unlink_quietly(self.file_of(block))
            del taken, page  # a waiting thread holds nobody's page
            if self.room.exceeded(self.index):
                self.keeper.evict()

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
                blockfile.write(path, data, self.config.cache_mode, with_checksums)
            except FileNotFoundError:
                make_dirs(os.path.dirname(path), self.config.cache_mode)
                blockfile.write(path, data, self.config.cache_mode, with_checksums)
        except OSError as error:
            failure = error
            self.room.note_full(error)
            self.complaints.refused(error)
            self.counters.add(blockcache_drops=1)
            unlink_quietly(path)  # an older block of this name
            return False
        finally:
            self.health.end(failure)
        self.counters.add(blockcache_writes=1, blockcache_write_bytes=block.size)
        self.counters.blockcache_write_hist_seconds.observe(time.perf_counter() - began)
        return True

    # write-back

    def stage(self, block: Block, data: memoryview, tier: int) -> bool:
        """Keep a block that its bucket does not have yet. False if this disk should not, or cannot."""
        if self.room.stage_full or self.stopping.is_set() or not self.health.begin():
            return False
        failure: OSError | None = None
        try:
            self.staging.write(block, data, tier, self.file_of(block))
        except OSError as error:
            failure = error
            self.room.note_full(error)
            self.complaints.refused(error)
            return False
        finally:
            self.health.end(failure)
        self.note_staged(block, int(time.time() - self.config.cache_expire_s / 2))
        return True

    def note_staged(self, block: Block, atime: int) -> None:
        """A block is in the staging area: whatever was cached under its name is not it."""
        key = pack(block.slice_id, block.indx)
        with self.lock:
            page = self._pending.drop(key)
            self.open_files.pop(key, None)
            self.index.discard(key)
            self.index.add(key, -block.size, max(0, min(atime, _LAST_SECOND)))
        if page is not None:
            page.release()

    def note_uploaded(self, block: Block) -> None:
        """The bucket has it now: it is cached like any other, if its file is there."""
        key = pack(block.slice_id, block.indx)
        there = os.path.exists(self.file_of(block))
        with self.lock:
            if self.index.size(key) == -block.size:
                self.index.discard(key)
                if there:
                    self.index.add(key, block.size, int(time.time()))

    def unstage(self, block: Block) -> None:
        """Forget a staged block that nobody wants any more, and a cached one as well."""
        key = pack(block.slice_id, block.indx)
        with self.lock:
            if (self.index.size(key) or 0) < 0:
                self.index.discard(key)
                self.open_files.pop(key, None)
        try:
            self.staging.drop(block)
        except OSError as error:
            self.complaints.refused(error)
        unlink_quietly(self.file_of(block))

    def holds_staged(self, block: Block) -> bool:
        """Whether the block waits here for its upload."""
        with self.lock:
            return bool(self.index.staged) and (self.index.size(pack(block.slice_id, block.indx)) or 0) < 0

    @property
    def crowded(self) -> bool:
        """Whether the disk is so full that what waits for upload should not wait longer."""
        return self.room.raw_full

    # removing

    def remove(self, block: Block) -> None:
        """Forget a block and unlink its file; one that waits for another client's upload stays."""
        key = pack(block.slice_id, block.indx)
        with self.lock:
            page = self._pending.drop(key)
            size = self.index.size(key)
            staged = size is not None and size < 0
            known = not staged and self.index.discard(key)
            if not staged:
                self.open_files.pop(key, None)
            self._changed.notify_all()
        if page is not None:
            page.release()
        if known or (self.scanning and not staged):
            unlink_quietly(self.file_of(block))

    # the whole

    def usage(self) -> tuple[int, int]:
        with self.lock:
            return len(self.index) + len(self._pending), self.index.used + self._pending.queued_bytes

    def flush(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        with self.lock:
            while not self._pending.idle:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def close(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        flushed = self.flush(timeout_s)
        with self.lock:
            self.stopping.set()
            self.open_files.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return flushed and not any(thread.is_alive() for thread in self._threads)
