"""Warm-up, eviction and check of the cache for files and trees (`juicefs warmup`).

Not here: the blocks (`chunkstore`), the stream of answers (`channel`), who does what at the same time (`crew`). What
cannot be read is counted and told, and the rest goes on; only a metadata engine that fails ends the whole.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import TYPE_CHECKING

from chunkstore.errors import Cancelled, StoreError
from chunkstore.naming import Block
from juicefs_py.control.channel import Job, framed
from juicefs_py.control.crew import Crew
from juicefs_py.control.findings import Findings
from juicefs_py.control.paths import Finder, Found, name_of
from juicefs_py.control.rights import READ, WRITE
from meta.errors import EngineError, MetaError, SettingError
from meta.rules.access import require
from meta.types import CHUNK_SHIFT, Caller

if TYPE_CHECKING:
    from juicefs_py.control.commands import Payload
    from juicefs_py.vfs import VFS

WARM, EVICT, CHECK, ASSEMBLE = range(4)  # the last one is not the official clients'
TITLES = ("warmup cache", "evict cache", "check cache", "assemble")

log = logging.getLogger(__name__)


class FillCache:
    """Command 1004. To evict what is cached of a file takes the right to write it, all else the right to read."""

    def __init__(self, vfs: VFS, caller: Caller) -> None:
        self._vfs = vfs
        self._caller = caller
        self._turn = threading.Lock()  # what one client sends to the background goes on one after the other

    def run(self, payload: Payload, job: Job) -> bytes:
        paths = payload.bytes(payload.take("I")).split(b"\n")
        threads, background = payload.take("H"), payload.take("B")
        action = payload.take("B", WARM)
        if action not in (WARM, EVICT, CHECK, ASSEMBLE):
            raise OSError(errno.EINVAL, f"unknown cache action {action}")
        if action == ASSEMBLE and (self._vfs.passthrough is None or self._vfs.passthrough.assembler is None):
            raise OSError(errno.EOPNOTSUPP, "this mount is without --passthrough")
        if background:
            rounds = Round(self._vfs, self._caller, action, Job())
            threading.Thread(target=self._alone, args=(rounds, paths, threads), name="warmup", daemon=True).start()
            return framed(Findings(Job()).document())
        rounds = Round(self._vfs, self._caller, action, job)
        rounds.go(paths, threads)
        return framed(rounds.findings.document())

    def _alone(self, rounds: Round, paths: list[bytes], threads: int) -> None:
        """In the background, where only the log can tell what went wrong."""
        found = rounds.findings
        with self._turn:
            try:
                rounds.go(paths, threads)
            except (MetaError, StoreError, OSError) as problem:
                found.told.append(f"it ended: {problem}")
        if found.told:
            title = TITLES[rounds.action]
            log.warning("%s in the background: %d failures: %s", title, found.errors, "; ".join(found.told))


class Round:
    """One request at work."""

    def __init__(self, vfs: VFS, caller: Caller, action: int, job: Job) -> None:
        self.action = action
        self.findings = Findings(job)
        self._job = job
        self._vfs = vfs
        self._meta = vfs.meta
        self._store = vfs.store
        self._caller = caller
        self._ended: Exception | None = None  # what the whole ends with

    def go(self, paths: list[bytes], threads: int) -> None:
        """Do it with so many threads. Raises what ended it early, or the first failure if nothing could be done."""
        began, evicted = time.monotonic(), self._store.metrics.blockcache_evicts
        helpers = min(max(threads, 1), self._store.config.max_downloads) - 1
        with self._vfs.jobs.running(self._job), Crew("warmup", helpers) as self._crew:
            finder = Finder(self._meta, self._caller, self._vfs.config.mount_point, self._job, self._failed)
            self._crew.share_out(self._file, finder.find(paths))
        findings = self.findings
        log.info(
            "%s: %d files, %d errors in %.1f s", TITLES[self.action], findings.files, findings.errors,
            time.monotonic() - began,
        )  # fmt: skip
        if self._ended is not None:
            raise self._ended
        if self._job.cancelled:
            raise OSError(errno.EINTR, "cancelled")
        if findings.first is not None and not findings.files:
            raise findings.first
        if self.action == WARM:
            self._note_shortage(self._store.metrics.blockcache_evicts - evicted)

    def _note_shortage(self, evicted: int) -> None:
        if not self._store.cache.enabled:
            self.findings.told.append("nothing was cached: the mount keeps no cache (--cache-size 0)")
        elif evicted:
            self.findings.told.append(
                f"the cache is too small: {evicted} blocks had to go meanwhile (--cache-size, --free-space-ratio)"
            )

    def _failed(self, problem: Exception, name: Callable[[], str]) -> None:
        """Count it, unless it means that nothing else will work either."""
        if isinstance(problem, Cancelled | EngineError | SettingError):
            if not self._job.cancelled:
                self._ended = self._ended or problem
            self._job.cancel()
        elif not self._job.cancelled:
            self.findings.fail(problem, name)

    def _file(self, found: Found) -> None:
        ino, attr = found
        if self._job.cancelled:
            return
        chunk = self._warm if self.action in (WARM, ASSEMBLE) else self._look
        chunks = takewhile(self._wanted, range((attr.length + (1 << CHUNK_SHIFT) - 1) >> CHUNK_SHIFT))
        try:
            require(self._meta.reader, self._caller, attr, WRITE if self.action == EVICT else READ)
            with self._held(ino):
                self._crew.share_out(lambda indx: self._guarded(chunk, ino, indx), chunks)
            if self.action == ASSEMBLE and not self._job.cancelled:
                self._assemble(ino)
        except (MetaError, StoreError, OSError) as problem:
            self._failed(problem, lambda: name_of(self._meta, ino))
        else:
            self.findings.add(files=1)

    def _assemble(self, ino: int) -> None:
        """Have the kernel read the file past us, from the next open on."""
        assembler = self._vfs.passthrough.assembler if self._vfs.passthrough is not None else None
        reason = assembler.assemble(ino, fetch=True) if assembler is not None else "this mount is without --passthrough"
        if reason:
            self._failed(OSError(0, f"not assembled: {reason}"), lambda: name_of(self._meta, ino))

    @contextlib.contextmanager
    def _held(self, ino: int) -> Iterator[None]:
        """With `--open-cache`, what is known of open files is warmed up as well: attributes, and lists of slices."""
        if self.action != WARM or not self._meta.config.open_cache_s:
            yield
            return
        self._meta.open(self._caller, ino, os.O_RDONLY)
        try:
            yield
        finally:
            self._meta.close(ino)

    def _wanted(self, _: object) -> bool:
        """A sparse file may have more chunks than anybody can wait for."""
        return not self._job.cancelled

    def _guarded(self, chunk: Callable[[int, int], None], ino: int, indx: int) -> None:
        if self._job.cancelled:
            return
        try:
            chunk(ino, indx)
        except (MetaError, StoreError) as problem:
            self._failed(problem, lambda: name_of(self._meta, ino))
        except Exception:  # a helper must not die of it, and the others go on
            log.exception("%s of chunk %d of inode %d", TITLES[self.action], indx, ino)
            self.findings.fail(OSError(errno.EIO, "internal error"), lambda: f"inode {ino}")

    def _slices(self, ino: int, indx: int) -> dict[int, int]:
        """Sizes of the slices of a chunk, by their numbers."""
        return {piece.id: piece.size for piece in self._meta.read_chunk(ino, indx) if piece.id}

    def _look(self, ino: int, indx: int) -> None:
        """Evict or check the blocks of a chunk."""
        act = self._store.evict_cache if self.action == EVICT else self._store.check_cache
        for slice_id, size in self._slices(ino, indx).items():
            report = act(slice_id, size)
            self.findings.add(slices=1, size=size, missing=report.missing_bytes)
            self.findings.place(report.locations)

    def _warm(self, ino: int, indx: int) -> None:
        """Fetch what is missing of a chunk. After a failure, its list is read again: it may have been compacted."""
        slices = self._slices(ino, indx)
        failures = self._fill(slices)
        if failures:
            self._meta.invalidate_chunk(ino, indx)
            newer = self._slices(ino, indx)
            if newer != slices:
                failures = self._fill(newer)
        for block, problem in failures.items():
            self.findings.add(missing=block.size)
            self._failed(problem, lambda: name_of(self._meta, ino))

    def _fill(self, slices: dict[int, int]) -> dict[Block, Exception]:
        """Fetch the missing blocks of slices; what could not be had, and why."""
        blocks = [block for slice_id, size in slices.items() for block in self._store.missing(slice_id, size)]
        failures: dict[Block, Exception] = {}

        def fill(block: Block) -> None:
            if self._job.cancelled:
                return
            try:
                if not self._store.fill_block(block):
                    failures[block] = StoreError(f"{block.key()} was fetched, but the cache has no room for it")
            except StoreError as problem:
                failures[block] = problem
            self.findings.add(size=block.size)

        self.findings.add(slices=len(slices), size=sum(slices.values()) - sum(block.size for block in blocks))
        self._crew.share_out(fill, blocks)
        return failures
