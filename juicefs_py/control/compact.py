"""Compaction of a file or of all files of a tree (`juicefs compact`), several chunks at a time.

Not the compaction of a chunk (`meta.compaction`), and not who does what at the same time (`crew`). Of a tree, files
that the asker may not write are passed over. A chunk that cannot be compacted is as good as before, and does not keep
the others; only a metadata engine that fails ends the whole.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from chunkstore.errors import StoreError
from juicefs_py.control.channel import Job
from juicefs_py.control.crew import Crew
from juicefs_py.control.paths import BY_NUMBER, Finder
from juicefs_py.control.rights import WRITE
from juicefs_py.errors import is_trouble
from meta.errors import EngineError, MetaError
from meta.rules.access import require
from meta.types import CHUNK_SHIFT, CHUNK_SIZE, Caller

if TYPE_CHECKING:
    from juicefs_py.control.commands import Payload
    from juicefs_py.vfs import VFS

_THREADS, _MOST_THREADS = 10, 50  # each holds a block or two in memory

log = logging.getLogger(__name__)

Chunk = tuple[int, int]
"""Inode and index."""


class Compaction:
    """Command 1008."""

    def __init__(self, vfs: VFS, caller: Caller) -> None:
        self._vfs = vfs
        self._caller = caller

    def run(self, payload: Payload, job: Job) -> None:
        """Raises what ended it early, or the first failure."""
        ino, threads = payload.take("Q"), payload.take("H", _THREADS)
        Round(self._vfs, self._caller, job).go(ino, min(max(threads, 1), _MOST_THREADS))


class Round:
    """One request at work. `_lock` guards what its threads count."""

    def __init__(self, vfs: VFS, caller: Caller, job: Job) -> None:
        self._vfs = vfs
        self._meta = vfs.meta
        self._caller = caller
        self._job = job
        self._lock = threading.Lock()
        self._failure: Exception | None = None

    def go(self, ino: int, threads: int) -> None:
        """Compact what is at and below an inode. Of the job's two counters tools take the first for the total."""
        finder = Finder(self._meta, self._caller, self._vfs.config.mount_point, self._job, self._failed)
        with self._vfs.jobs.running(self._job), Crew("compact-tree", threads - 1) as crew:
            crew.share_out(self._compact, self._chunks(finder, ino))
        if self._failure is not None and (is_trouble(self._failure) or not self._job.done):
            raise self._failure
        if self._job.cancelled:
            raise OSError(errno.EINTR, "cancelled")

    def _chunks(self, finder: Finder, ino: int) -> Iterator[Chunk]:
        for file, attr in finder.find([BY_NUMBER + b"%d" % ino]):
            try:
                require(self._meta.reader, self._caller, attr, WRITE)
            except MetaError as problem:
                self._failed(problem, lambda: f"inode {file}")  # noqa: B023 - called at once
                continue
            pending = self._vfs.writers.get(file)
            if pending is not None:
                pending.commit_all()
            for indx in range((attr.length + CHUNK_SIZE - 1) >> CHUNK_SHIFT):
                with self._lock:
                    self._job.done += 1
                yield file, indx

    def _compact(self, chunk: Chunk) -> None:
        if self._job.cancelled:
            return
        try:
            self._meta.compact_fully(*chunk)
        except (MetaError, StoreError, OSError) as problem:
            self._failed(problem, lambda: "chunk {1} of inode {0}".format(*chunk))
        except Exception as problem:  # a helper must not die of it, and the others go on
            log.exception("compaction of chunk %d of inode %d", chunk[1], chunk[0])
            self._failed(OSError(errno.EIO, str(problem)), lambda: "")
        with self._lock:
            self._job.total += 1

    def _failed(self, problem: Exception, name: Callable[[], str]) -> None:
        if is_trouble(problem):
            log.error("compaction of %s: %s", name(), problem)
        with self._lock:
            if self._failure is None or is_trouble(problem) > is_trouble(self._failure):
                self._failure = problem
        if isinstance(problem, EngineError):
            self._job.cancel()
