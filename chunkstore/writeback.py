"""Write-back: blocks are kept on a local disk and count as written; they are uploaded in the background.

Not their files (`chunkstore.cache.staging`), nor a slice's other way up (`chunkstore.writer`). Metadata is committed
before the objects exist, so other clients read such a file only when its blocks are up, and a lost disk is lost data.

A staged block goes up when it is older than `upload_delay_s`, within the hours that are allowed, by at most
`max_uploads` at once; when a disk gets crowded, at once. What fails is tried again after a minute, for as long as it
takes: nothing but the upload, or the end of its slice, takes a block off the list. The list is in memory, about 400
bytes per block; the disks are searched for what an earlier mount left when this one begins.

Who runs. `accept` and `forget` in any thread; one thread finds what is due; uploads run in workers of their own, so
that a storage that hangs holds up nobody who writes. `_changed` guards the list and the numbers, and no I/O happens
under it. Invariant: a block is on the list before its file is on the disk, and until that is gone; one thread at a
time, which has claimed the entry, writes, reads or removes the file. Only `forget` does not ask.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from chunkstore.cache.stager import Stager
from chunkstore.config import StoreConfig
from chunkstore.errors import Cancelled, Damaged, StoreError, Timeout
from chunkstore.metrics import Counters
from chunkstore.naming import Block
from chunkstore.transfer import Transfer
from chunkstore.workers import Workers

log = logging.getLogger(__name__)

_ATTEMPTS = 3
_AGAIN_S = 60.0
_LOOK_S = 1.0
_TELL_S = 60.0
_JOIN_S = 5.0
_STALE = 1000  # items of removed blocks that the heap may hold, besides as many as there are others

_Heap = list[tuple[float, Block]]


@dataclass(slots=True)
class _Entry:
    """One block on the list."""

    since: float = 0.0  # when it was staged, seconds since the epoch
    claimed: bool = False  # somebody stages or uploads it just now
    counted: bool = False  # it is on the disk
    unwanted: bool = False  # its slice was removed
    damaged: bool = False  # and told to be


class WriteBack:
    """The blocks of one store that wait for their upload."""

    def __init__(self, stager: Stager, transfer: Transfer, clock: Callable[[], float] = time.time) -> None:
        self._stager = stager
        self._transfer = transfer
        self._clock = clock
        self._config: StoreConfig = transfer.config
        self._counters: Counters = transfer.counters
        self._workers = Workers("write-back", self._config.max_uploads)
        self._changed = threading.Condition(threading.Lock())
        self._entries: dict[Block, _Entry] = {}
        self._due: _Heap = []  # when, by the monotonic clock: that of the day may be set
        self._again: _Heap = []  # what has failed
        self._staging = 0
        self._told = 0.0
        self._complained = -_TELL_S
        self._failures = 0  # since the last complaint
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="write-back", daemon=True)
        self._thread.start()

    # from whoever writes

    def accept(self, block: Block, data: memoryview, tier: int) -> bool:
        """Keep a block for later. False: it has to be uploaded by the caller, now.

        Waits while an older one of the same name goes up (`Timeout`).
        """
        threshold = self._config.writeback_threshold
        if not self._config.writeback or (threshold and block.size >= threshold) or self._stop.is_set():
            return False
        if not self._claim(block):
            return False
        taken = False
        self._counters.add(staging_writing_blocks=1)
        try:
            taken = self._stager.stage(block, data, tier)
        finally:
            self._counters.add(staging_writing_blocks=-1)
            self._staged(block, taken)
        return taken

    def _claim(self, block: Block) -> bool:
        """Have a block on the list for whoever is about to stage it. False if too many are at it."""
        deadline = time.monotonic() + self._config.put_timeout_s
        with self._changed:
            while (entry := self._entries.get(block)) is not None and entry.claimed:
                if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    raise Timeout(f"{self._transfer.key(block)}: an older block of this name is still being uploaded")
            if 0 < self._config.max_stage_write <= self._staging:
                return False
            if entry is None:
                entry = self._entries[block] = _Entry()
            entry.claimed = True
            self._staging += 1
            return True

    def _staged(self, block: Block, taken: bool) -> None:
        """The end of a claim by `accept`."""
        with self._changed:
            self._staging -= 1
            entry = self._entries[block]
            entry.claimed = False
            kept = taken and not entry.unwanted
            replaced = entry.counted
            if kept:
                entry.since = self._clock()
                self._queue(block, entry, self._config.upload_delay_s)
            else:
                self._drop(block)
            self._changed.notify_all()
        if taken:
            self._counters.add(staging_write_bytes=block.size)
        else:
            self._counters.add(staging_block_errors=1)
        if kept and not self._config.upload_delay_s:
            self._wake.set()
        elif not kept and (taken or replaced):
            self._stager.unstage(block)

    def forget(self, block: Block) -> None:
        """The block's slice is removed: its staged copy goes, whoever staged it, and what an upload makes as well."""
        with self._changed:
            entry = self._entries.get(block)
            if entry is not None:
                entry.unwanted = True
                if not entry.claimed:
                    self._drop(block)
        self._stager.unstage(block)

    def sync(self) -> None:
        """Return when everything accepted before this call survives a loss of power. Raises StoreError."""
        self._stager.sync()

    @property
    def waiting(self) -> tuple[int, int]:
        """Blocks and bytes that are not in the bucket yet."""
        return self._counters.staging_blocks, self._counters.staging_block_bytes

    def close(self, timeout_s: float) -> bool:
        """Start no more uploads, and end those that were handed to workers. False if something did not end in time."""
        deadline = time.monotonic() + timeout_s
        self._stop.set()
        self._wake.set()
        self._thread.join(min(_JOIN_S, timeout_s))
        ended = self._workers.close(max(0.0, deadline - time.monotonic()))
        return ended and not self._thread.is_alive()

    def tell_left(self) -> None:
        """When nothing is under way any more: say what is left for the next mount."""
        blocks, size = self.waiting
        if blocks:
            log.warning(
                "%d blocks (%d bytes) are not uploaded yet; mount this volume again with the same --cache-dir to have "
                "them uploaded, and do not delete that directory before",
                blocks, size,
            )  # fmt: skip

    # the list; these are called with the lock held

    def _queue(self, block: Block, entry: _Entry, wait_s: float) -> None:
        """On the list, with its file on the disk, to go up after `wait_s`."""
        if not entry.counted:
            entry.counted = True
            self._counters.add(staging_blocks=1, staging_block_bytes=block.size)
        heapq.heappush(self._due, (time.monotonic() + wait_s, block))
        if len(self._due) > 2 * len(self._entries) + _STALE:
            self._due = [item for item in self._due if item[1] in self._entries]
            heapq.heapify(self._due)

    def _drop(self, block: Block) -> None:
        """Off the list."""
        entry = self._entries.pop(block)
        if entry.counted:
            self._counters.add(staging_blocks=-1, staging_block_bytes=-block.size)

    # the thread that finds what is due

    def _run(self) -> None:
        self._collect()
        while not self._stop.is_set():
            self._start_due()
            self._tell()
            self._wake.wait(_LOOK_S)
            self._wake.clear()

    def _collect(self) -> None:
        """Put on the list what is on the disks."""
        found = 0
        try:
            for block, since in self._stager.found():
                if self._stop.is_set():
                    return
                with self._changed:
                    if block in self._entries:
                        continue
                    entry = self._entries[block] = _Entry(since)
                    age_s = max(0.0, self._clock() - since)
                    self._queue(block, entry, max(0.0, self._config.upload_delay_s - age_s))
                found += 1
        except Exception as error:
            log.warning("staged blocks of earlier mounts could not be found: %s", error)
        if found:
            log.info("%d staged blocks wait for their upload", found)

    def _start_due(self) -> None:
        crowded = self._stager.crowded
        if not crowded and not self._config.uploads_now(time.localtime(self._clock())):
            return
        while not self._stop.is_set() and self._workers.queued < self._config.max_uploads:
            block = self._next(crowded)
            if block is None:
                return
            try:
                self._workers.submit(self._upload, block)
            except Cancelled:
                return

    def _next(self, crowded: bool) -> Block | None:
        """A block that is due, claimed. On a crowded disk all are, but for those that have failed just now."""
        now = time.monotonic()
        with self._changed:
            for heap, at_once in ((self._again, False), (self._due, crowded)):
                while heap and (at_once or heap[0][0] <= now):
                    block = heapq.heappop(heap)[1]
                    entry = self._entries.get(block)
                    if entry is not None and not entry.claimed:
                        entry.claimed = True
                        return block
        return None

    def _tell(self) -> None:
        """Once a minute, how much waits, if it should not."""
        blocks, size = self.waiting
        now = time.monotonic()
        if blocks and not self._config.upload_delay_s and now - self._told >= _TELL_S:
            if self._told:
                log.info("%d staged blocks (%d bytes) wait for their upload", blocks, size)
            self._told = now

    # uploads, in a worker

    def _upload(self, block: Block) -> None:
        done = False
        try:
            done = self._try(block)
        except Cancelled:
            pass
        except Exception as error:
            self._counters.add(staging_block_errors=1)
            self._complain(block, error)
        self._settle(block, done)

    def _try(self, block: Block) -> bool:
        """Whether the block is done with."""
        entry = self._entries[block]
        if entry.unwanted:
            return True
        page = self._transfer.pool.take(block.size, cancelled=self._transfer.closing.is_set)
        try:
            view = page.data[: block.size]
            tier = self._stager.read(block, view)
            if tier is None:
                log.debug("staged block %s is gone: uploaded by another client, or removed", self._transfer.key(block))
                return True
            self._transfer.upload(block, view, tier, attempts=_ATTEMPTS)
        finally:
            page.release()
        self._transfer.sync()  # its file was perhaps synced, and is about to go
        self._counters.add(staging_block_delay_seconds=max(0.0, self._clock() - entry.since))
        return True

    def _settle(self, block: Block, done: bool) -> None:
        """The end of a claim by `_next`."""
        if done:
            self._stager.uploaded(block)
        with self._changed:
            entry = self._entries[block]
            entry.claimed = False
            unwanted = entry.unwanted
            if done or unwanted:
                self._drop(block)
            else:
                heapq.heappush(self._again, (time.monotonic() + _AGAIN_S, block))
            self._changed.notify_all()
        if unwanted:
            self._stager.unstage(block)
            try:
                self._transfer.delete([block])
            except StoreError as error:
                log.info("object %s is left for gc: %s", self._transfer.key(block), error)
        self._wake.set()

    def _complain(self, block: Block, error: Exception) -> None:
        """Once a minute, as a storage that is away fails all; of each damaged block once."""
        if isinstance(error, Damaged):
            # Uploading it would make the damage look sound. The file stays, for whoever can mend it.
            entry = self._entries[block]
            if not entry.damaged:
                entry.damaged = True
                log.error("a staged block is lost unless its disk is mended: %s", error)
            return
        now = time.monotonic()
        with self._changed:
            self._failures += 1
            if now - self._complained < _TELL_S:
                return
            others, self._failures, self._complained = self._failures - 1, 0, now
        log.warning(
            "staged block %s is tried again in a minute: %s%s",
            self._transfer.key(block), error, f" (and {others} more have failed)" if others else "",
            exc_info=None if isinstance(error, StoreError) else error,
        )  # fmt: skip
