"""All records of a volume in a temporary database on disk: what a dump is written from, and what it is read into.

Engines give their records in the order that suits them, dumps want a tree, or all of one kind; and neither fits into
memory. Not one moment's state, if others work on the volume meanwhile: a name without its inode may be in it, and the
writers say how they treat it. Not the formats (`to_json`, `from_json`, `binary`), and not how it gets into an engine
(`restore`).
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final

from meta.acl import Rule
from meta.attr import Attr
from meta.engine import Engine
from meta.errors import NotFormatted
from meta.setting import Setting
from meta.slices import decode_slices
from meta.transaction import QuotaKind

_SCHEMA = """
CREATE TABLE node(ino INTEGER PRIMARY KEY, type INT, length INT, space INT, uid INT, gid INT, nlink INT, parent INT,
    data BLOB);
CREATE TABLE edge(parent INT, name BLOB, ino INT, type INT, PRIMARY KEY(parent, name)) WITHOUT ROWID;
CREATE TABLE chunk(ino INT, indx INT, data BLOB, PRIMARY KEY(ino, indx)) WITHOUT ROWID;
CREATE TABLE symlink(ino INTEGER PRIMARY KEY, target BLOB);
CREATE TABLE xattr(ino INT, name BLOB, value BLOB, PRIMARY KEY(ino, name)) WITHOUT ROWID;
CREATE TABLE acl(id INTEGER PRIMARY KEY, data BLOB);
CREATE TABLE ref(id INT, size INT, n INT, PRIMARY KEY(id, size)) WITHOUT ROWID;
CREATE TABLE deleted(ino INT, length INT, expire INT, PRIMARY KEY(ino, length)) WITHOUT ROWID;
CREATE TABLE sustained(sid INT, ino INT, PRIMARY KEY(sid, ino)) WITHOUT ROWID;
CREATE TABLE stat(ino INTEGER PRIMARY KEY, length INT, space INT, inodes INT);
CREATE TABLE quota(kind TEXT, key INT, max_space INT, max_inodes INT, used_space INT, used_inodes INT,
    PRIMARY KEY(kind, key)) WITHOUT ROWID;
CREATE TABLE counter(name TEXT PRIMARY KEY, value INT);
"""
_TEMPORARY: Final = "PRAGMA synchronous=OFF; PRAGMA journal_mode=OFF; PRAGMA cache_size=-16384;"
_BATCH: Final = 1000

COUNTERS: Final = ("usedSpace", "totalInodes", "nextInode", "nextChunk", "nextSession", "nextTrash")
"""Those that a dump has, in the official order; what hands out numbers says the next one."""

KINDS: Final[tuple[QuotaKind, ...]] = ("dir", "user", "group")

DAMAGE: Final = (
    sqlite3.Error, struct.error, RecursionError, OverflowError, ValueError, TypeError, KeyError, AttributeError,
    IndexError,
)  # fmt: skip
"""What reading a damaged dump may run into: texts instead of numbers, numbers that are none of anything."""

Progress = Callable[[str, int], None]
"""Told what is being read or written, and how many more records that were."""


def _nothing(what: str, more: int) -> None:
    """Nobody wants to know."""


class Copy:
    """The temporary database: tables above. Numbers of 64 bits without a sign are stored as signed ones."""

    def __init__(self) -> None:
        self.setting: Setting | None = None
        self.db = sqlite3.connect("", isolation_level=None, check_same_thread=False)  # a file that vanishes when closed
        self.db.executescript(f"{_TEMPORARY} BEGIN; {_SCHEMA}")

    def close(self) -> None:
        self.db.close()

    def rows(self, query: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        """The rows of a query. Several may be read at a time."""
        return self.db.execute(query, values)

    def row(self, query: str, *values: Any) -> Any:
        """The first row of a query; None without one."""
        return self.db.execute(query, values).fetchone()

    def put(self, table: str, rows: Iterable[tuple[Any, ...]], progress: Progress = _nothing) -> None:
        """Add rows to a table. Of two with one key the first one stays: a walk may bring a record twice."""
        source = iter(rows)
        while batch := list(islice(source, _BATCH)):
            places = ",".join("?" * len(batch[0]))
            self.db.executemany(f"INSERT OR IGNORE INTO {table} VALUES({places})", batch)
            progress(table, len(batch))

    def put_nodes(self, nodes: Iterable[tuple[int, Attr]], progress: Progress = _nothing) -> None:
        """Add inodes."""
        rows = (
            (signed(ino), attr.type, signed(attr.length), attr.space, attr.uid, attr.gid, attr.nlink,
             signed(attr.parent), attr.encode())
            for ino, attr in nodes
        )  # fmt: skip
        self.put("node", rows, progress)

    def attr(self, ino: int) -> Attr | None:
        """An inode."""
        found = self.row("SELECT data FROM node WHERE ino = ?", signed(ino))
        return None if found is None else Attr.decode(found[0])

    def rule(self, acl_id: int) -> Rule | None:
        """A rule."""
        found = self.row("SELECT data FROM acl WHERE id = ?", acl_id)
        return None if found is None else Rule.decode(found[0])

    def count_references(self) -> None:
        """Count how often each slice is referred to by the chunks; what is counted already is replaced."""
        self.db.execute("DELETE FROM ref")
        for (data,) in self.rows("SELECT data FROM chunk"):
            found = ((record.id, record.size) for record in decode_slices(data) if record.id)
            self.db.executemany("INSERT INTO ref VALUES(?, ?, 1) ON CONFLICT DO UPDATE SET n = n + 1", found)

    def fill(self, engine: Engine, progress: Progress = _nothing) -> None:
        """Take in all records of a volume."""
        reader = engine.reader
        document = reader.setting()
        if document is None:
            raise NotFormatted
        self.setting = Setting.parse(document)
        self.put("counter", ((name, _counter(engine, name)) for name in COUNTERS), progress)
        edges = ((signed(parent), name, signed(entry.ino), entry.type) for parent, name, entry in engine.list_edges())
        self.put("edge", edges, progress)
        self.put_nodes(engine.list_nodes(), progress)
        self.put("chunk", ((signed(ino), indx, data) for ino, indx, data in engine.list_slices()), progress)
        self.put("symlink", ((signed(ino), target) for ino, target in engine.list_symlinks()), progress)
        self.put("xattr", ((signed(ino), name, value) for ino, name, value in engine.list_xattrs()), progress)
        self.put("acl", ((acl_id, rule.encode()) for acl_id, rule in engine.list_acls()), progress)
        self.put("ref", engine.list_slice_refs(), progress)
        files = ((signed(file.ino), signed(file.length), file.deleted) for file in engine.list_deleted_files())
        self.put("deleted", files, progress)
        held = ((session.sid, signed(ino)) for session in engine.sessions() for ino in reader.sustained(session.sid))
        self.put("sustained", held, progress)
        self.put("stat", ((signed(ino), *stat) for ino, stat in engine.list_dir_stats()), progress)
        for kind in KINDS:
            self.put("quota", ((kind, signed(key), *quota) for key, quota in reader.quotas(kind).items()), progress)


def _counter(engine: Engine, name: str) -> int:
    if name == "nextInode":
        return engine.next_number("nextInode")
    return engine.next_number("nextChunk") if name == "nextChunk" else engine.reader.counter(name)


def signed(number: int) -> int:
    """A 64-bit number as SQLite can store it."""
    return number - (1 << 64) if number >= 1 << 63 else number


def unsigned(number: int) -> int:
    """The opposite of `signed`."""
    return number & 0xFFFFFFFFFFFFFFFF
