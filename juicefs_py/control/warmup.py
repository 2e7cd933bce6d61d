"""Warm-up, eviction and check of the cache for files and trees (`juicefs warmup`).

Not here: the blocks (`chunkstore`), the stream of answers (`channel`).
"""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from chunkstore.errors import StoreError
from juicefs_py.control.channel import Job, framed
from juicefs_py.control.rights import READ, SEARCH, WRITE, Rights
from meta.errors import MetaError
from meta.slices import Piece
from meta.types import CHUNK_SHIFT, DIRECTORY, FILE, ROOT, SYMLINK, Caller

if TYPE_CHECKING:
    from juicefs_py.control.commands import Payload
    from juicefs_py.vfs import VFS

WARM, EVICT, CHECK = range(3)
MAX_LINKS = 40


class Totals:
    """What one request found. Shared by its threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.files = self.slices = self.bytes = self.missing = 0
        self.locations: dict[str, int] = {}
        self.failure: Exception | None = None

    def document(self) -> bytes:
        return json.dumps({
            "FileCount": self.files, "SliceCount": self.slices, "TotalBytes": self.bytes, "MissBytes": self.missing,
            "Locations": self.locations,
        }).encode()  # fmt: skip


class FillCache:
    """Command 1004. To evict what is cached of a file takes the right to write it, all else the right to read."""

    def __init__(self, vfs: VFS, caller: Caller) -> None:
        self._vfs = vfs
        self._caller = caller
        self._rights = Rights(vfs.meta, caller)

    def run(self, payload: Payload, job: Job) -> bytes:
        paths = [path for path in payload.bytes(payload.take("I")).split(b"\n") if path]
        threads, background = payload.take("H"), payload.take("B")
        action = payload.take("B", WARM)
        if background:
            work = threading.Thread(target=self._all, args=(paths, threads, action, Job()), name="warmup", daemon=True)
            work.start()
            return framed(Totals().document())
        totals = self._all(paths, threads, action, job)
        if totals.failure is not None and action == WARM:
            raise totals.failure
        return framed(totals.document())

    def _all(self, paths: list[bytes], threads: int, action: int, job: Job) -> Totals:
        totals = Totals()
        room = threading.Semaphore(4 * max(threads, 1))  # files handed out ahead of the threads

        def one(ino: int, length: int) -> None:
            try:
                if not job.cancelled:
                    self._vfs.meta.access(self._caller, ino, WRITE if action == EVICT else READ)
                    self._file(ino, length, action, totals)
                    with totals.lock:
                        job.done, job.total = totals.files, totals.bytes
            except (MetaError, StoreError, OSError) as problem:
                totals.failure = problem
            finally:
                room.release()

        with ThreadPoolExecutor(max(threads, 1), "warmup") as pool:
            for path in paths:
                try:
                    for ino, length in self._files(self._resolve(path)):
                        room.acquire()
                        pool.submit(one, ino, length)
                        if job.cancelled:
                            raise OSError(errno.EINTR, "cancelled")
                except MetaError as problem:
                    totals.failure = problem
        return totals

    def _resolve(self, path: bytes) -> int:
        """The inode of a path below the root of the mount; relative symlinks are followed."""
        if path.startswith(b"inode:"):
            return int(path[6:])
        ino, trail = ROOT, [ROOT]
        parts, links = [part for part in path.split(b"/") if part], 0
        while parts:
            name = parts.pop(0)
            if name == b"..":
                trail = trail[:-1] or [ROOT]
                ino = trail[-1]
                continue
            ino, attr = self._vfs.meta.lookup(self._caller, trail[-1], name)
            if attr.type == SYMLINK:
                target = self._vfs.meta.readlink(ino)
                links += 1
                if target.startswith(b"/") or links > MAX_LINKS:
                    raise OSError(errno.ENOTSUP if target.startswith(b"/") else errno.ELOOP, "")
                parts = [part for part in target.split(b"/") if part and part != b"."] + parts
                continue
            trail.append(ino)
        return trail[-1]

    def _files(self, ino: int) -> Iterator[tuple[int, int]]:
        attr = self._vfs.meta.getattr(ino)
        self._rights.reach(ino)
        if attr.type == FILE:
            yield ino, attr.length
            return
        waiting = [ino] if attr.type == DIRECTORY else []
        while waiting:
            for item in self._vfs.meta.list_dir(self._caller, waiting.pop(), True).items:
                if item.type == DIRECTORY and self._rights.allows(item.ino, READ | SEARCH):
                    waiting.append(item.ino)
                elif item.type == FILE and item.attr is not None:
                    yield item.ino, item.attr.length

    def _file(self, ino: int, length: int, action: int, totals: Totals) -> None:
        store = self._vfs.store
        act = {WARM: store.fill_cache, EVICT: store.evict_cache, CHECK: store.check_cache}.get(action)
        if act is None:
            raise OSError(errno.EINVAL, f"unknown cache action {action}")
        with totals.lock:
            totals.files += 1
        seen: set[int] = set()
        for indx in range((length + (1 << CHUNK_SHIFT) - 1) >> CHUNK_SHIFT):
            for piece in self._vfs.meta.read_chunk(ino, indx):
                if piece.id and piece.id not in seen:
                    seen.add(piece.id)
                    self._count(piece, act(piece.id, piece.size), totals)

    @staticmethod
    def _count(piece: Piece, report: object, totals: Totals) -> None:
        missing = getattr(report, "missing_bytes", 0)
        locations: dict[str, int] = getattr(report, "locations", {})
        with totals.lock:
            totals.slices += 1
            totals.bytes += piece.size
            totals.missing += missing
            for place, count in locations.items():
                totals.locations[place] = totals.locations.get(place, 0) + count
