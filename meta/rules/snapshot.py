"""A volume's records, copied into a temporary database on disk, so that the checker need not join them in memory.

Not a backup: only what invariants speak about. Not one state either, if others work on the volume meanwhile. Inodes,
names, chunks and counts come page by page; what waits for deletion and unfinished clones are read at once, as engines
have no other way to list them: about 200 bytes for each removed file that is not deleted yet.

A walk may bring a record twice (Redis, while its tables grow or shrink). No engine can keep two under one key, so the
second one is nothing but that, and is left out.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any

from meta.engine import Engine
from meta.errors import Corrupt
from meta.slices import decode_slices
from meta.types import CHUNK_SIZE

_SCHEMA = """
CREATE TABLE node(ino INTEGER PRIMARY KEY, type INT, mode INT, uid INT, gid INT, nlink INT, length INT, space INT,
    parent INT, acl INT, default_acl INT);
CREATE TABLE edge(parent INT, name BLOB, ino INT, type INT, UNIQUE(parent, name));
CREATE TABLE chunk(ino INT, indx INT, PRIMARY KEY(ino, indx)) WITHOUT ROWID;
CREATE TABLE ref(id INT, size INT, n INT, PRIMARY KEY(id, size)) WITHOUT ROWID;
CREATE TABLE stored_ref(id INT, size INT, n INT, PRIMARY KEY(id, size)) WITHOUT ROWID;
CREATE TABLE deleted(ino INT, length INT);
CREATE TABLE sustained(sid INT, ino INT);
CREATE TABLE detached(ino INTEGER PRIMARY KEY);
"""
_INDEXES = """
CREATE INDEX edge_ino ON edge(ino, parent, type);
CREATE INDEX edge_parent ON edge(parent, type);
CREATE INDEX deleted_ino ON deleted(ino);
"""
_EVER = 1 << 62
_ALL = 1 << 31


class Snapshot:
    """The temporary database (tables above); `damage` lists records that could not be read."""

    def __init__(self, engine: Engine) -> None:
        self.damage: list[str] = []
        self.db = sqlite3.connect("", isolation_level=None)  # no name: a file that vanishes when closed
        self.db.executescript("PRAGMA synchronous=OFF; BEGIN;" + _SCHEMA)
        self._insert("edge", 4, ((parent, name, e.ino, e.type) for parent, name, e in engine.list_edges()))
        self._insert("node", 11, _nodes(engine))
        sids = [session.sid for session in engine.sessions()]
        self._insert("sustained", 2, ((sid, ino) for sid in sids for ino in engine.reader.sustained(sid)))
        self._insert("detached", 1, ((ino,) for ino in engine.detached(_EVER)))
        self._insert("deleted", 2, ((file.ino, file.length) for file in engine.deleted_files(_EVER, _ALL)))
        self._insert("stored_ref", 3, engine.list_slice_refs())
        for ino, indx, records in engine.list_slices():
            self._chunk(ino, indx, records)
        delayed = {(entry.id, entry.created): entry.slices for entry in engine.delayed_slices(_EVER)}
        for slices in delayed.values():
            self._refer(slices)
        self.db.executescript(_INDEXES)

    def close(self) -> None:
        self.db.close()

    def rows(self, query: str, *values: int) -> Iterator[tuple[Any, ...]]:
        """The rows of a query. Several may be read at a time."""
        return self.db.execute(query, values)

    def number(self, query: str, *values: int) -> int:
        """The one number that a query answers."""
        (number,) = self.db.execute(query, values).fetchone()
        return int(number)

    def _insert(self, table: str, width: int, rows: Iterable[tuple[int | bytes, ...]]) -> int:
        """How many of the rows were not there yet."""
        return self.db.executemany(f"INSERT OR IGNORE INTO {table} VALUES({','.join('?' * width)})", rows).rowcount

    def _chunk(self, ino: int, indx: int, records: bytes) -> None:
        if not self._insert("chunk", 2, [(ino, indx)]):
            return
        try:
            slices = decode_slices(records)
        except Corrupt as e:
            self.damage.append(f"chunk {indx} of inode {ino}: {e}")
            return
        for piece in slices:
            if piece.pos + piece.len > CHUNK_SIZE or (piece.id and piece.off + piece.len > piece.size):
                self.damage.append(f"chunk {indx} of inode {ino}: impossible record {piece}")
        self._refer((piece.id, piece.size) for piece in slices)

    def _refer(self, slices: Iterable[tuple[int, int]]) -> None:
        self.db.executemany(
            "INSERT INTO ref VALUES(?, ?, 1) ON CONFLICT DO UPDATE SET n = n + 1", (item for item in slices if item[0])
        )


def _nodes(engine: Engine) -> Iterator[tuple[int, ...]]:
    for ino, attr in engine.list_nodes():
        yield (
            ino, attr.type, attr.mode, attr.uid, attr.gid, attr.nlink, attr.length, attr.space, attr.parent,
            attr.access_acl, attr.default_acl,
        )  # fmt: skip
