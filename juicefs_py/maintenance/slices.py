"""Which slices a volume refers to: read from its metadata, kept in a temporary database on disk.

Not what objects there are (`objects`) and not what follows (`gc`). A volume may have tens of millions of slices, so
memory does not grow with them; a slice takes about 20 bytes of the temporary directory ($SQLITE_TMPDIR, $TMPDIR).

References move while they are read: a compaction replaces those of a chunk by a delayed entry, the last one that is
given up makes a slice dead. So they are read in this order, in which none can pass by: chunks, delayed, dead. A clone
may move one from a chunk that is still to be read to one that has been; see `counted`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from chunkstore.naming import Block, block_at
from meta.client import MetaClient
from meta.errors import Corrupt
from meta.slices import decode_slices

VALID, COMPACTED, PENDING = range(3)
"""Why a slice is there: some file's, one that a compaction replaced and the trash keeps, one that waits for deletion.

The first that holds counts.
"""

Reference = tuple[int, int, int]
"""Slice id, size in bytes, and why it is there."""

HIGHEST_ID: Final = (1 << 63) - 1
"""Numbers are handed out by signed 64-bit counters."""

CACHE_KIB: Final = 32 << 10
"""Memory of a temporary database, in KiB."""

_SCHEMA = """
CREATE TABLE slice(id INT, size INT, kind INT, PRIMARY KEY(id, size)) WITHOUT ROWID;
"""


def referred(meta: MetaClient, told: Callable[[], object] = lambda: None) -> Iterator[Reference]:
    """Every slice that something refers to, perhaps several times; `told` is called for each.

    Raises `MetaError` if anything could not be read or understood: then nobody knows what else there is.
    """
    engine = meta.engine
    for ino, indx, records in engine.list_slices():
        for slice_id, size in slices_of(ino, indx, records):
            told()
            yield slice_id, size, VALID
    for entry in engine.list_delayed():
        for slice_id, size in entry.slices:
            told()
            yield slice_id, size, COMPACTED
    for slice_id, size in engine.dead_slices():
        yield slice_id, size, PENDING
    meta.reload()  # raises if the volume has gone: a database that was taken away reads as an empty one


def counted(meta: MetaClient) -> Iterator[Reference]:
    """Slices that the metadata counts as referred to. A slice that was cloned is one, whatever moves where."""
    for slice_id, size, count in meta.engine.list_slice_refs():
        if count > 0:
            yield slice_id, size, VALID
    meta.reload()


def slices_of(ino: int, indx: int, records: bytes) -> Iterator[tuple[int, int]]:
    """Id and size of the slices in the records of a chunk; `Corrupt`, which names the chunk."""
    try:
        found = decode_slices(records)
    except Corrupt as problem:
        raise Corrupt(f"chunk {indx} of inode {ino}: {problem}") from None
    for record in found:
        if record.id > HIGHEST_ID:
            raise Corrupt(f"chunk {indx} of inode {ino}: impossible slice number {record.id}")
        if record.id:
            yield record.id, record.size


def temporary_database(schema: str) -> sqlite3.Connection:
    """A database in a file without a name, which vanishes when it is closed."""
    db = sqlite3.connect("", isolation_level=None)
    db.executescript(
        f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-{CACHE_KIB}; {schema} BEGIN;"
    )
    return db


class SliceTable:
    """Slices by id. The methods belong to one thread."""

    def __init__(self) -> None:
        self._db = temporary_database(_SCHEMA)
        self._last: tuple[int, list[tuple[int, int]]] = (0, [])  # blocks of a slice are asked for one after the other

    def close(self) -> None:
        self._db.close()

    def add(self, references: Iterable[Reference]) -> None:
        """Remember slices, each with the first reason that holds."""
        self._db.executemany(
            "INSERT INTO slice VALUES(?, ?, ?) ON CONFLICT DO UPDATE SET kind = min(kind, excluded.kind)", references
        )
        self._last = (0, [])

    def used(self) -> tuple[int, int]:
        """How many slices there are, and their bytes, without those that wait for deletion."""
        count, size = self._db.execute(
            "SELECT count(*), coalesce(sum(size), 0) FROM slice WHERE kind < ?", (PENDING,)
        ).fetchone()
        return int(count), int(size)

    def blocks(self, block_size: int) -> int:
        """How many blocks all of them have."""
        query = "SELECT coalesce(sum((size + :block - 1) / :block), 0) FROM slice"
        (count,) = self._db.execute(query, {"block": block_size}).fetchone()
        return int(count)

    def explain(self, block: Block, block_size: int) -> int | None:
        """Why there is a block; None if there is no such slice, or it has no such block."""
        if self._last[0] != block.slice_id:
            rows = self._db.execute("SELECT size, kind FROM slice WHERE id = ?", (block.slice_id,)).fetchall()
            self._last = (block.slice_id, rows)
        kinds = [kind for size, kind in self._last[1] if fits(block, size, block_size)]
        return min(kinds, default=None)


def fits(block: Block, size: int, block_size: int) -> bool:
    """Whether a slice of `size` bytes has that block."""
    at = block.indx * block_size
    return at < size and block == block_at(block.slice_id, size, at, block_size)
