"""What `gc` cleans through the metadata: the expired trash, unfinished clones, removed files, replaced and dead slices,
chunks without a file; and the compaction of all chunks.

Not objects without metadata (`gc`). The rules and most of the work are those of the hourly jobs (`meta.jobs`); here
they run at once, over everything, with counters for whoever waits.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import TypeVar

from chunkstore.errors import StoreError
from chunkstore.store import ChunkStore
from juicefs_py.cli.progress import Meter, Progress
from juicefs_py.data.slice_store import StoredSlices
from juicefs_py.maintenance.columns import column
from juicefs_py.maintenance.parallel import results
from juicefs_py.maintenance.slices import temporary_database
from meta.client import MetaClient
from meta.errors import MetaError
from meta.jobs import clean_clones, clean_slices, empty_hours
from meta.rules.compact import delete_orphan_chunk, release_delayed
from meta.rules.trash import parse_hour
from meta.slices import RECORD_SIZE, Piece
from meta.transaction import Delayed, DeletedFile

log = logging.getLogger(__name__)

_HOUR_S, _DAY_S = 3600, 86400
_FILES_TOGETHER = 100  # removed files that are worked off at a time
_CHUNKS_TOGETHER = 500  # whose inodes are looked up in one round trip
_POLL_S = 0.5

T = TypeVar("T")


class CountedSlices(StoredSlices):
    """Deletes and merges slices, and counts them."""

    def __init__(self, store: ChunkStore, progress: Progress) -> None:
        super().__init__(store)
        self.deleted = progress.spinner("Cleaned pending slices")
        self.merged = column(progress, "Compacted", "slices")

    def delete_slice(self, slice_id: int, size: int) -> None:
        super().delete_slice(slice_id, size)
        self.deleted.advance()

    def compact_slice(self, pieces: Sequence[Piece], slice_id: int, size: int, tier: int) -> None:
        super().compact_slice(pieces, slice_id, size, tier)
        for piece in pieces:
            self.merged.add(piece.len)


class Cleanup:
    """One cleaning of a volume. The client has a slice store, and no session."""

    def __init__(self, meta: MetaClient, progress: Progress, threads: int) -> None:
        self._meta = meta
        self._vol = meta.vol
        self._threads = threads
        self._trash = progress.spinner("Cleaned trash")
        self._clones = progress.spinner("Cleaned detached nodes")
        self.files = column(progress, "Cleaned pending", "files")
        self.slices = column(progress, "Cleaned trash", "slices")
        self._expiry = self._vol.now()[0] - self._vol.setting.trash_days * _DAY_S
        """What went to the trash before that moment has been there for its days."""

    def run(self) -> None:
        """All but the dead slices, some of which this makes (`delete_dead_slices`)."""
        self._empty_trash()
        clean_clones(self._vol, self._meta.deleter, _never, self._clones.advance)
        drain(self._meta)
        for files in _together(self._meta.engine.list_deleted_files(), _FILES_TOGETHER):
            self._clean_files(files)
        for entry in self._meta.engine.list_delayed():
            if entry.created < self._expiry:
                self._clean_delayed(entry)
        orphans = remove_orphans(self._meta)
        if orphans:
            log.info("Deleted %d chunks of files that do not exist", orphans)

    def _empty_trash(self) -> None:
        """Hours that were over when the days of the trash began; all that have begun if it has no days any more.

        The hourly jobs wait somewhat longer, for clients whose clocks differ.
        """
        length = _HOUR_S if self._vol.setting.trash_days else 0

        def is_due(name: bytes) -> bool:
            hour = parse_hour(name)
            return hour is not None and hour + length < self._expiry

        deleter, done = self._meta.deleter, self._trash.advance
        empty_hours(self._vol, deleter, _never, is_due, threads=self._threads, done=done)

    def _clean_files(self, files: list[DeletedFile]) -> None:
        """Of any age: if the client that removed them is at it as well, one of both finds nothing left to do."""
        self._meta.deleter.delete_files_now(files)
        for file in files:
            self.files.add(file.length)

    def _clean_delayed(self, entry: Delayed) -> None:
        dead = self._vol.transact(lambda tx: release_delayed(tx, entry.id, entry.created))
        self._meta.deleter.delete_slices(dead)
        for _, size in entry.slices:
            self.slices.add(size)


def count_pending(meta: MetaClient, progress: Progress) -> None:
    """Show what there would be to clean."""
    files, slices = column(progress, "Pending deleted", "files"), column(progress, "Trash", "slices")
    for file in meta.engine.list_deleted_files():
        files.add(file.length)
    for entry in meta.engine.list_delayed():
        for _, size in entry.slices:
            slices.add(size)


def delete_dead_slices(meta: MetaClient) -> None:
    """Delete what nothing refers to any more."""
    drain(meta)  # or what is on its way would be found once more
    clean_slices(meta.vol, meta.deleter, _never)
    drain(meta)


def drain(meta: MetaClient) -> None:
    """Wait until all deletions that were begun are over."""
    while not meta.deleter.drain(_POLL_S):
        pass


def compact_all(meta: MetaClient, chunks: Meter, threads: int) -> None:
    """Compact every chunk that has more than one record. What fails is logged, and is as good as before."""

    def compact(chunk: tuple[int, int]) -> bool:
        try:
            return meta.compact_fully(*chunk)
        except (MetaError, StoreError) as error:
            log.error("compact chunk %d of inode %d: %s", chunk[1], chunk[0], error)
            return False

    several = ((ino, indx) for ino, indx, records in meta.engine.list_slices() if len(records) > RECORD_SIZE)
    for shorter in results(compact, several, threads):
        chunks.advance(shorter)


def remove_orphans(meta: MetaClient) -> int:
    """Remove chunks whose file does not exist, and of which nobody else will know; how many.

    Redis has no list of a file's chunks, so those far behind the end of a truncated file may stay when it is removed.
    If a name still leads to the inode, its record is lost and not the file: people may mend that, so the data stays.
    """
    with closing(temporary_database("CREATE TABLE orphan(ino INT, indx INT); ")) as db:
        chunks = ((ino, indx) for ino, indx, _ in meta.engine.list_slices())
        for batch in _together(chunks, _CHUNKS_TOGETHER):
            there = meta.reader.attrs(ino for ino, _ in batch)
            db.executemany("INSERT INTO orphan VALUES(?, ?)", (chunk for chunk in batch if chunk[0] not in there))
        if not db.execute("SELECT 1 FROM orphan LIMIT 1").fetchone():
            return 0
        db.execute("CREATE INDEX orphan_ino ON orphan(ino)")
        edges = ((entry.ino,) for _, _, entry in meta.engine.list_edges())
        db.executemany("DELETE FROM orphan WHERE ino = ?", edges)
        removed = 0
        for ino, indx in db.execute("SELECT ino, indx FROM orphan"):
            dead = meta.vol.transact(lambda tx: delete_orphan_chunk(tx, ino, indx))  # noqa: B023 - run at once
            meta.deleter.delete_slices(dead)
            removed += 1
        return removed


def _together(items: Iterator[T], count: int) -> Iterator[list[T]]:
    while batch := list(islice(items, count)):
        yield batch


def _never() -> bool:
    return False
