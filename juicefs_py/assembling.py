"""Putting files together from cached blocks, so that the kernel can read them without us (`passthrough`).

Not in anybody's way: what a full read of a file makes worth it happens in one thread in the background, and serves the
next open. `juicefs warmup --assemble` waits for it, and fetches what is not cached.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final

from chunkstore.cache.assembled import write_all
from chunkstore.errors import Cancelled, NotFound, StoreError
from chunkstore.workers import Workers
from juicefs_py.inode_modes import version_of
from meta.attr import Attr
from meta.errors import MetaError
from meta.types import CHUNK_SHIFT, CHUNK_SIZE, FILE

if TYPE_CHECKING:
    from juicefs_py.vfs import VFS

log = logging.getLogger(__name__)

SMALLEST: Final = 1 << 20
"""Bytes. An open and close with a backing file takes 0.3 ms longer, and saves 1 to 3 ms per MiB that is read."""
_QUEUED: Final = 64  # files that wait; what comes on top has to be read once more
_STEP: Final = 4 << 20
_CLOSE_S: Final = 5.0


class Assembler:
    """Makes copies of the files of a mount."""

    def __init__(self, vfs: VFS) -> None:
        self._vfs = vfs
        self._meta = vfs.meta
        self._store = vfs.store
        self._workers = Workers("assemble", 1)
        self._lock = threading.Lock()
        self._waiting: set[int] = set()
        self._closing = False

    def note(self, ino: int) -> None:
        """As much as all of the file was read through one handle."""
        with self._lock:
            if ino in self._waiting or len(self._waiting) >= _QUEUED or self._closing:
                return
            self._waiting.add(ino)
        self._submit(self._in_background, ino)

    def rebuild(self, ino: int) -> None:
        """Bring outdated copies of a file up to date in the background."""
        self._submit(self._rebuild, ino)

    def _submit(self, task: object, ino: int) -> None:
        try:
            self._workers.submit(task, ino)  # type: ignore[arg-type]
        except Cancelled:
            pass

    def close(self) -> None:
        """End the thread."""
        self._closing = True
        self._workers.close(_CLOSE_S)

    def _in_background(self, ino: int) -> None:
        with self._lock:
            self._waiting.discard(ino)
        if self._closing:
            return
        try:
            reason = self.assemble(ino)
        except (MetaError, StoreError, OSError) as problem:
            reason = str(problem)
        except Exception:
            log.exception("assembling inode %d", ino)
            return
        log.debug("assembling inode %d: %s", ino, reason or "done")

    def assemble(self, ino: int, fetch: bool = False) -> str:
        """Make a copy of the present version, with `fetch` also of what is not cached. Empty, or why there is none.

        MetaError, StoreError or OSError if something fails.
        """
        place = self._store.assembled.of(str(ino)) if self._store.assembled is not None else None
        if place is None:
            return "no cache directory can take it"
        attr = self._fresh(ino)
        if attr is None or attr.type != FILE:
            return "it is no file"
        if attr.length < SMALLEST:
            return "it is small"
        if self._vfs.writers.get(ino) is not None:
            return "it is being written"
        version = version_of(attr)
        if place.has(str(ino), version):
            return ""
        with place.draft(str(ino), version, attr.length) as draft:
            if draft is None:
                return "the cache has no room for it, or it is being done"
            self._meta.invalidate_chunk(ino, None)
            for start in range(0, attr.length, CHUNK_SIZE):
                if not self._whole_chunk(draft.fd, ino, start, min(CHUNK_SIZE, attr.length - start), fetch):
                    return "not all of it is cached, intact"
            after = self._fresh(ino)
            if after is None or version_of(after) != version:
                return "it was changed meanwhile"
            draft.right = True
        return ""

    def _fresh(self, ino: int) -> Attr | None:
        return self._meta.reader.attrs({ino}).get(ino)

    def _whole_chunk(self, fd: int, ino: int, start: int, length: int, fetch: bool) -> bool:
        """The same as `_chunk`, once more with a fresh list if the chunk was compacted meanwhile."""
        try:
            return self._chunk(fd, ino, start, length, fetch)
        except NotFound:
            self._meta.invalidate_chunk(ino, start >> CHUNK_SHIFT)
            return self._chunk(fd, ino, start, length, fetch)

    def _chunk(self, fd: int, ino: int, start: int, length: int, fetch: bool) -> bool:
        """Copy one chunk; holes stay holes. False if a block is not cached."""
        at = 0
        for piece in self._meta.read_chunk(ino, start >> CHUNK_SHIFT):
            done = 0
            while piece.id and done < piece.len and at + done < length:
                if self._closing:
                    return False
                size = min(_STEP - (piece.off + done) % _STEP, piece.len - done, length - at - done)
                view = memoryview(bytearray(size))
                if fetch:
                    self._store.read_into(piece.id, piece.size, piece.off + done, view)
                elif not self._store.read_cached(piece.id, piece.size, piece.off + done, view):
                    return False
                write_all(fd, view, start + at + done)
                done += size
            at += piece.len
        return True

    def _rebuild(self, ino: int) -> None:
        """Nobody writes while a part is read and put."""
        vfs, passthrough = self._vfs, self._vfs.passthrough
        if passthrough is None or self._closing:
            return
        inode = vfs.handles.hold(ino)
        seen = passthrough.changes(ino)
        try:
            offset = 0
            while True:
                with inode.gate.shut():
                    length = vfs.stat(ino).size
                    if offset >= length:
                        passthrough.resized(ino, length, outdated=True)
                        passthrough.rebuilt(ino, seen)
                        return
                    for part in vfs.content(ino, offset, min(_STEP, length - offset)):
                        passthrough.wrote(ino, offset, part, outdated=True)
                        offset += len(part)
        except (MetaError, StoreError, OSError) as problem:
            log.error("inode %d: its assembled copy is out of date, will be tried again: %s", ino, problem)
            passthrough.try_again(ino)
        except Exception:
            log.exception("assembled copy of inode %d", ino)
        finally:
            vfs.handles.drop(inode)
