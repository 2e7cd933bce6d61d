"""Writes of one file: bytes to pending slices, uploads, commits in order, and errors to those who must hear of them.

Not here: which slice takes a write (`pending`), all files of a mount and their background flush (`writers`), blocks
(`chunkstore`).

Concurrency. One `FileWriter` per inode, shared by all its handles. `_lock` guards its state and is held while a request
is copied into block buffers and handed to the uploads, never while they run nor over a commit. Who runs: request
threads (`write`, `flush`, `before_read`), the housekeeper (`age`) and commit threads (`drain`). Commits of a file are
made by one thread at a time, whoever finds `_committing` false: a flush does it itself, which saves the hand-over.
Order of locks: the inode's gate (`handles`) → `FileWriter._lock` → `Writers._lock`. Invariants: a slice leaves
`_pending` only after its commit *and* after readers were told (`on_commit`), so a read that finds no pending byte in
its range finds them in the metadata; sequence numbers of commits only grow, so a flush waits for a number and later
writes cannot hold it up.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

from chunkstore.errors import StoreError
from juicefs_py.data.pending import PendingSlice, PendingSlices
from meta.errors import MetaError, OutcomeUnknown
from meta.types import CHUNK_SHIFT, CHUNK_SIZE

if TYPE_CHECKING:
    from juicefs_py.data.writers import Writers

log = logging.getLogger(__name__)

MAX_SLICES = 800  # more pending slices than this in one file: the older half is frozen
STOP_SLICES = 1000  # at this many, writes wait: each holds at least one block buffer
WAIT_STEP_S = 1.0  # how often a waiting flush looks at its deadline and at interrupts
SECOND_NS = 1_000_000_000


class Claim:
    """What one handle has to do with the errors of a file: since when it listens, and whether it ever wrote.

    `warned`: of how many failures a write has told it; flush or fsync tell it of those as well. `heard`: of how many
    the answer has surely arrived, which its next request tells. A successor goes on owing the others.
    """

    __slots__ = ("heard", "seen", "warned", "wrote")

    def __init__(self, seen: int) -> None:
        self.heard = self.seen = self.warned = seen
        self.wrote = False


class FileWriter:
    """The uncommitted data of one inode. Thread-safe."""

    def __init__(self, ino: int, writers: Writers, tier: int = 0) -> None:
        self.ino = ino
        self.refs = 0
        self.version = 0  # changes with every commit, for readers of length and attributes
        self._tier = tier
        self._writers = writers
        self._lock = threading.Condition()
        self._pending = PendingSlices(writers.block_size)
        self._committing = False
        self._failures = 0
        self._failure: Exception | None = None
        self._claims: set[Claim] = set()  # of handles that are open

    def __repr__(self) -> str:
        return f"FileWriter(ino={self.ino}, pending={len(self._pending)}, failures={self._failures})"

    @property
    def dirty(self) -> bool:
        """Whether anything waits to be committed."""
        return len(self._pending) > 0

    @property
    def owes(self) -> bool:
        """Whether a handle that wrote has not heard of a failure yet. A successor must go on owing it."""
        return self._failures > 0 and any(map(self.owes_to, self._claims))

    def owes_to(self, claim: Claim) -> bool:
        """Whether this handle has not heard of a failure yet."""
        return claim.wrote and claim.heard < self._failures

    def claim(self) -> Claim:
        """For a new handle: errors from now on are its errors."""
        with self._lock:
            claim = Claim(self._failures)
            self._claims.add(claim)
        return claim

    def forget(self, claim: Claim) -> None:
        """Its handle is closed."""
        with self._lock:
            self._claims.discard(claim)
            self._settle()

    def all_heard(self) -> None:
        """All answers that were given have arrived."""
        with self._lock:
            for claim in self._claims:
                claim.heard = claim.seen
            self._settle()

    def _settle(self) -> None:
        """Called with the lock held, when something may have become true that a successor need not know any more."""
        if not self._pending and not self.owes:
            self._writers.is_settled(self)

    def lose(self, problem: Exception) -> None:
        """Data that was written before is lost: every handle that is open now hears of it."""
        with self._lock:
            self._failures += 1
            self._failure = problem
            if self.owes:
                self._writers.is_unsettled(self)

    def uncommitted(self) -> tuple[int, int] | None:
        """End of the pending bytes and their modification time (ns since the epoch); None if there are none."""
        with self._lock:
            if not self._pending:
                return None
            return self._pending.end, self._pending.last.mtime_ns

    def write(self, claim: Claim, off: int, data: memoryview) -> None:
        """Take `data` at file offset `off`. Raises an error of an earlier write that this handle has not heard of.

        Once: who writes again, and never asks by fsync, must not be refused for ever.
        """
        failures = self._failures
        if claim.heard != claim.seen:
            self._arrived(claim)
        if claim.wrote and max(claim.seen, claim.warned) < failures and self._failure is not None:
            claim.warned = failures
            raise self._failure.with_traceback(None)  # still owed to flush or fsync
        self._writers.wait_for_room(len(data))
        claim.wrote = True
        done = 0
        with self._lock:
            while len(self._pending) >= STOP_SLICES:
                self._lock.wait(WAIT_STEP_S)
            was_clean = not self._pending
            try:
                while done < len(data):
                    indx, pos = (off + done) >> CHUNK_SHIFT, (off + done) & (CHUNK_SIZE - 1)
                    part = data[done : done + CHUNK_SIZE - pos]
                    self._put(indx, pos, part)
                    done += len(part)
            finally:
                if was_clean and self._pending:  # what was taken before a failure is committed as any other
                    self._writers.is_dirty(self)
            if len(self._pending) > MAX_SLICES:
                self._freeze_first(len(self._pending) // 2)
            ready = self._pending.first.frozen and not self._committing
        if ready:
            self._writers.commit_soon(self)

    def _put(self, indx: int, pos: int, part: memoryview) -> None:
        """Copy bytes into the slice that takes them. A full block starts its upload at once."""
        now = time.monotonic()
        item, passed = self._pending.find(indx, pos, len(part))
        for other in passed:
            self._freeze(other)
        if item is None:
            slice_id = self._writers.meta.new_slice_id()
            blocks = self._writers.store.new_writer(self._tier)
            blocks.set_id(slice_id)
            blocks.write_at(0, part)  # before it is known to anybody: if there is no memory, there is no such slice
            item = self._pending.add(indx, pos, slice_id, blocks, now)
        else:
            item.blocks.write_at(pos - item.off, part)
        self._pending.wrote(item, pos, len(part), now, time.time_ns())
        if item.length == CHUNK_SIZE:
            self._freeze(item)
        elif item.length >= self._pending.block_size:
            item.blocks.flush_to(item.length)

    @staticmethod
    def _freeze(item: PendingSlice) -> None:
        """Close a slice to writes and start the upload of its tail."""
        if not item.frozen:
            item.frozen = True
            item.blocks.seal(item.length)

    def _freeze_first(self, count: int) -> None:
        for item in islice(self._pending, count):
            self._freeze(item)

    def age(self, now: float, pressed: bool) -> None:
        """Freeze what is due (all of it when memory is short) and have it committed."""
        with self._lock:
            count = 0
            for position, item in enumerate(self._pending, 1):
                if pressed or item.due(now):
                    count = position
            self._freeze_first(count)
            ready = len(self._pending) > 0 and self._pending.first.frozen and not self._committing
        if ready:
            self._writers.commit_soon(self)

    def before_read(self, off: int, size: int) -> None:
        """Make a range of the file readable from the store: commit pending slices if one of them touches it."""
        if not self._pending:
            return
        with self._lock:
            overlap = self._pending.overlaps(off, size)
        if overlap:
            self.commit_all()

    def flush(self, claim: Claim | None, explicit: bool, interrupted: Callable[[], bool] | None = None) -> None:
        """Commit everything written so far and report what went wrong, once to each handle.

        A handle hears of every failure since its last report if it ever wrote, or if it asks (`explicit`: fsync); one
        that did neither, of failures during this call.
        """
        since = self._failures
        if claim is not None and claim.heard != claim.seen:
            self._arrived(claim)
        if claim is not None and (claim.wrote or explicit):
            since = claim.seen
        self.commit_all(interrupted)
        if self._failures > since:
            if claim is not None:
                claim.seen = self._failures
            assert self._failure is not None
            raise self._failure.with_traceback(None)

    def _arrived(self, claim: Claim) -> None:
        """The handle goes on, so the answer to its last request has arrived. Not before: who sends it may die."""
        with self._lock:
            claim.heard = claim.seen
            self._settle()

    def commit_all(self, interrupted: Callable[[], bool] | None = None) -> None:
        """Commit everything written so far. OSError EIO if that takes too long, EINTR if interrupted."""
        with self._lock:
            if not self._pending:
                return
            until = self._pending.last.seq
            if len(self._pending) == 1:
                self._pending.first.frozen = True  # this thread uploads the tail itself: no hand-over, no wait for one
            else:
                self._freeze_first(len(self._pending))
        started = time.monotonic()

        def out_of_patience() -> OSError | None:
            waited = time.monotonic() - started
            if waited > self._writers.flush_deadline_s:
                return OSError(errno.EIO, f"inode {self.ino}: flush takes longer than {waited:.0f} s")
            if interrupted is not None and waited > self._writers.interrupt_after_s and interrupted():
                return OSError(errno.EINTR, "")
            return None

        while not self.drain(until, lambda: out_of_patience() is not None):
            problem = out_of_patience()
            if problem is not None:
                raise problem

    def drain(self, until: int | None = None, give_up: Callable[[], bool] | None = None) -> bool:
        """Commit frozen slices in order, up to the number `until`; True when done, False to be called again.

        `give_up` ends the wait for uploads: the slice stays the first, and the next to come commits it.
        """
        with self._lock:
            while self._pending and (until is None or self._pending.first.seq <= until):
                if self._committing:
                    if until is None:
                        return True  # another thread is at it
                    self._lock.wait(WAIT_STEP_S)
                    return not self._pending or self._pending.first.seq > until
                if not self._pending.first.frozen:
                    return until is None
                self._committing = True
                try:
                    if not self._commit_first(self._pending.first, give_up):
                        return False
                finally:
                    self._committing = False
                    self._lock.notify_all()
            return True

    def _commit_first(self, item: PendingSlice, give_up: Callable[[], bool] | None) -> bool:
        """Called with the lock held, gives it up meanwhile. False if the slice is not stored yet and stays."""
        failure: Exception | None = None
        self._lock.release()
        try:
            if not self._stored(item, give_up):
                return False
            self._commit(item)
        except Exception as problem:  # whatever it is: a slice that stayed would fail every flush to come
            failure = problem
            expected = isinstance(problem, StoreError | MetaError | OSError)
            log.warning("inode %d: %r is lost: %s", self.ino, item, problem, exc_info=None if expected else problem)
        finally:
            self._writers.on_commit(self.ino, item.start, item.length)
            self._lock.acquire()
        if failure is not None:
            self._failures += 1
            self._failure = failure
        self._pending.pop_first()
        self.version += 1
        if not self._pending:
            self._writers.is_clean(self)
            self._settle()
        return True

    def _stored(self, item: PendingSlice, give_up: Callable[[], bool] | None) -> bool:
        """Whether the slice is in the bucket, False if the caller gave up waiting. If it cannot be, its objects go."""
        try:
            return item.blocks.finish(item.length, give_up=give_up)
        except Exception:
            self._discard(item)
            raise

    def _commit(self, item: PendingSlice) -> None:
        """Have the file refer to a stored slice. Its objects go if it surely does not; in doubt they stay for `gc`."""
        mtime = divmod(item.mtime_ns, SECOND_NS)
        try:
            self._writers.meta.write_slice(self.ino, item.indx, item.off, item.id, item.length, mtime)
        except OutcomeUnknown:
            raise
        except (MetaError, OSError):
            self._discard(item)
            raise

    def _discard(self, item: PendingSlice) -> None:
        """Delete the objects of a slice that no file will ever refer to."""
        try:
            item.blocks.abort()
        except (StoreError, OSError) as left:
            log.info("inode %d: objects of %r are left for gc: %s", self.ino, item, left)
