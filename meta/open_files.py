"""What this client knows about files that are, or recently were, open: who holds them, and what may be cached of them.

Not handles (the program's) and not attributes of other inodes. Three jobs in one table, under one lock that is never
held over I/O:

* *Holding.* A file that this client holds open must outlive its last link. A removal asks `claim` inside its
  transaction; an open that meets a removal under way waits for its outcome, so that either the removal sees the
  handle or the open sees that the file is gone. A file removed while open is handed back by the last `close`.
* *Chunk lists.* Kept while the file's mtime stays the same. A list read from the engine is kept only if nothing was
  invalidated since the read began (`version`).
* *Attributes*, for `--open-cache`, and whether the kernel may keep its pages (`KEEP_CACHE`): only if nobody else has
  changed the file since this client last opened it.
"""

from __future__ import annotations

import threading
import time
from collections import Counter

from meta.attr import Attr
from meta.slices import Piece

_FAR_PAST = -1e9
_KEPT_CHUNKS = 16  # lists that a closed file keeps; more are dropped
_MOST_CHUNKS = 1024  # lists that an open file keeps, 64 GiB of it: the oldest goes first

Stamp = tuple[int, int]
"""An mtime, seconds and nanoseconds: the version of a file's content."""


class _File:
    """One row. `stamp` is the mtime that `chunks` belong to; `kept` whether the kernel's pages do too."""

    __slots__ = ("attr", "chunks", "foreign", "handles", "kept", "removed", "seen_at", "stamp", "version")

    def __init__(self) -> None:
        self.handles = 0
        self.stamp: Stamp | None = None
        self.kept = False
        self.removed = False  # lost its last link while held here
        self.attr: Attr | None = None
        self.seen_at = _FAR_PAST
        self.chunks: dict[int, list[Piece]] = {}
        self.version = 0
        self.foreign = 0  # changes of the content that were not this client's, as far as it noticed

    def keep_chunk(self, indx: int, pieces: list[Piece]) -> None:
        if len(self.chunks) >= _MOST_CHUNKS:
            del self.chunks[next(iter(self.chunks))]
        self.chunks[indx] = pieces

    def drop_chunks(self, indx: int | None = None) -> None:
        self.version += 1
        if indx is None:
            self.chunks.clear()
        else:
            self.chunks.pop(indx, None)

    def see(self, attr: Attr) -> None:
        stamp = (attr.mtime, attr.mtimensec)
        if stamp != self.stamp:
            self.drop_chunks()
            self.foreign += 1
            self.stamp, self.kept = stamp, False
        self.attr, self.seen_at = attr, time.monotonic()


class OpenFiles:
    """The table. `ttl_s`: how long attributes are believed (0: not at all); `limit`: closed files to remember."""

    def __init__(self, ttl_s: float = 0.0, limit: int = 10_000) -> None:
        self._ttl_s = ttl_s
        self._limit = limit
        self._open: dict[int, _File] = {}
        self._closed: dict[int, _File] = {}  # oldest first
        self._removing: Counter[int] = Counter()  # files whose removal is under way, and by how many threads
        self._changed = threading.Condition(threading.Lock())
        self._thread = threading.local()  # .asked: what this thread's transaction has claimed, and the answers

    def hold(self, ino: int) -> None:
        """Count a handle, before the file's attributes are read. Waits for a removal of the file that is under way."""
        with self._changed:
            while self._removing and ino in self._removing:
                self._changed.wait()
            self._row(ino).handles += 1

    def hold_new(self, ino: int) -> None:
        """Count a handle on a file that the running transaction creates: nobody else can know it yet."""
        with self._changed:
            self._row(ino).handles += 1

    def adopt(self, ino: int, removed: bool) -> None:
        """Count a handle that another process has opened."""
        with self._changed:
            file = self._row(ino)
            file.handles += 1
            file.removed = file.removed or removed

    def opened(self, ino: int, attr: Attr) -> bool:
        """The attributes that an open has read; whether the kernel may keep the pages it has of the file."""
        with self._changed:
            file = self._row(ino)
            if file.stamp is None:
                file.see(attr)
            elif file.stamp != (attr.mtime, attr.mtimensec):
                file.drop_chunks()  # changed by this client since it was read, or a later open was faster
                return False
            kept, file.kept = file.kept, True
            return kept

    def close(self, ino: int) -> bool:
        """One handle less. True if it was the last one of a file without links, which must now be deleted.

        Opens of that file wait until `released`, so that none finds it just before it goes.
        """
        with self._changed:
            file = self._open.get(ino)
            if file is None:
                return False
            file.handles -= 1
            if file.handles:
                return False
            del self._open[ino]
            if file.removed:
                self._removing[ino] += 1
                return True
            self._remember(ino, file)
            return False

    def is_open(self, ino: int) -> bool:
        """Whether this client has a handle on the file at the moment."""
        return ino in self._open

    def inodes(self) -> list[int]:
        """The files that are open."""
        with self._changed:
            return list(self._open)

    def claim(self, ino: int) -> bool:
        """Asked inside a transaction that removes a file: is it open? If not, opens of it now wait for `settle`."""
        asked: dict[int, bool] = self._thread.__dict__.setdefault("asked", {})
        with self._changed:
            if ino not in asked:
                asked[ino] = ino in self._open
                if not asked[ino]:
                    self._removing[ino] += 1
            return asked[ino]

    def settle(self) -> list[int]:
        """This thread's transaction is over. Returns files that it left to handles which are closed by now.

        They must be deleted; opens of them wait until `released`.
        """
        asked: dict[int, bool] | None = self._thread.__dict__.get("asked")
        if not asked:
            return []
        orphans = []
        with self._changed:
            for ino, was_open in asked.items():
                if was_open:
                    file = self._open.get(ino)
                    if file is None:
                        self._removing[ino] += 1
                        orphans.append(ino)
                    else:
                        file.removed = True  # if it still has links, closing it finds out
                else:
                    self._leave(ino)
            self._changed.notify_all()
        asked.clear()
        return orphans

    def released(self, ino: int) -> None:
        """A file that `close` or `settle` has handed back is deleted, or that has failed."""
        with self._changed:
            self._leave(ino)
            self._changed.notify_all()

    def _leave(self, ino: int) -> None:
        self._removing[ino] -= 1
        if not self._removing[ino]:
            del self._removing[ino]

    def foreign(self, ino: int, attr: Attr | None = None) -> int:
        """Grows whenever somebody else may have changed the content of an open file.

        -1 if it is not open, or known to have another mtime than that of `attr`.
        """
        file = self._open.get(ino)
        if file is None:
            return -1
        count = file.foreign  # before the stamp
        return count if attr is None or file.stamp == (attr.mtime, attr.mtimensec) else -1

    def version(self, ino: int) -> int:
        """To be taken before a read of the file's records whose result is to be kept here."""
        file = self._open.get(ino)
        return file.version if file is not None else -1

    def chunk(self, ino: int, indx: int) -> list[Piece] | None:
        """The kept pieces of a chunk of an open file: the same list as long as it is valid."""
        file = self._open.get(ino)
        return file.chunks.get(indx) if file is not None else None

    def keep_chunk(self, ino: int, indx: int, pieces: list[Piece], version: int) -> None:
        """Keep what was read, unless something was invalidated since `version` was taken."""
        with self._changed:
            file = self._open.get(ino)
            if file is not None and file.version == version:
                file.keep_chunk(indx, pieces)

    def drop(self, ino: int, indx: int | None = None) -> None:
        """Forget the kept pieces of a chunk, or of all chunks of a file."""
        with self._changed:
            file = self._open.get(ino) or self._closed.get(ino)
            if file is not None:
                file.drop_chunks(indx)
                file.attr = None

    def forget_attr(self, ino: int) -> None:
        """This client changed something of the inode, but not its content: its links or its ACL."""
        file = self._open.get(ino) if self._ttl_s else None
        if file is not None:
            with self._changed:
                file.version += 1  # a read under way is too old as well
                file.attr = None

    def attr(self, ino: int) -> Attr | None:
        """Attributes that are fresh enough for `--open-cache`."""
        if not self._ttl_s:
            return None
        file = self._open.get(ino)
        if file is None or file.attr is None or time.monotonic() - file.seen_at >= self._ttl_s:
            return None
        attr = file.attr  # another thread may clear it meanwhile
        return attr.copy() if attr is not None else None

    def seen(self, ino: int, attr: Attr, version: int, first: list[Piece] | None = None) -> None:
        """Attributes that were read since `version` was taken; ignored if this client has changed the file since.

        With the pieces of the first chunk, if those were read as well, and not before.
        """
        with self._changed:
            file = self._open.get(ino)
            if file is not None and file.version == version:
                file.see(attr)
                if first is not None:
                    file.keep_chunk(0, first)

    def changed(self, ino: int, attr: Attr, before: Stamp | None = None, indx: int | None = None) -> None:
        """This client changed the file to `attr`; in chunk `indx` only, if given.

        `before` is the mtime that the change found: if it is the one known here, nobody else has been there and what is
        kept of the other chunks, here and in the kernel, stays good.
        """
        stamp = (attr.mtime, attr.mtimensec)
        with self._changed:
            file = self._open.get(ino) or self._closed.get(ino)
            if file is None:
                return
            if before is not None and before == file.stamp:
                file.drop_chunks(indx)
                file.attr, file.seen_at = attr, time.monotonic()
            else:  # somebody else's change, or our own threads' reports out of order
                file.drop_chunks()
                file.foreign += 1
                file.kept = False
                file.attr = None
            file.stamp = stamp

    def _row(self, ino: int) -> _File:
        file = self._open.get(ino)
        if file is None:
            file = self._open[ino] = self._closed.pop(ino) if ino in self._closed else _File()
        return file

    def _remember(self, ino: int, file: _File) -> None:
        if len(file.chunks) > _KEPT_CHUNKS:
            file.drop_chunks()
        self._closed[ino] = file
        while len(self._closed) > self._limit:
            del self._closed[next(iter(self._closed))]
