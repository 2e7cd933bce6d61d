"""The SQL engine: sessions, scans, counters and schema over a SQLite `Database`. Not the records (reader, transaction).

Differs from official clients in one way that they do not notice: usage, directory statistics and quotas change inside
the transaction that causes the change, and so are exact after a crash; official clients collect them for a second.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar

from meta.acl import Rule, encode_pairs
from meta.attr import Attr
from meta.errors import Refused, SettingError, Unavailable
from meta.slices import decode_delayed
from meta.sql.dialect import Dialect
from meta.sql.reader import SqlReader, read_rule
from meta.sql.rows import NODE_COLUMNS, Row, read_node, unsigned
from meta.sql.schema import TABLES, add_column, create_indexes, create_table
from meta.sql.sqlite import Absent, Database, Options
from meta.sql.statements import QUOTA_TYPES, Statements
from meta.sql.transaction import SqlTransaction
from meta.transaction import Delayed, DeletedFile, DirStat, QuotaKind, Reader, SessionRecord, Transaction
from meta.types import Dirent

T = TypeVar("T")

_PAGE: Final = 2000  # rows that a scan holds at once
_DELAYED_PAGE: Final = 200  # of up to 1000 slices each
_XATTR_PAGE = 100  # a value may have 64 KiB
_FIRST: Final = {"nextInode": 2, "nextChunk": 1}
_COUNTERS: Final = {**_FIRST, "nextSession": 0, "usedSpace": 0, "totalInodes": 0, "nextCleanupSlices": 0}
"""Rows that every volume has: official clients lose additions to a row that is missing."""
_LEGACY_GRACE_S: Final = 300


class PooledReader(SqlReader):
    """Reads outside transactions. A database or table that is not there holds nothing."""

    __slots__ = ("_db",)

    def __init__(self, sql: Statements, db: Database) -> None:
        super().__init__(sql)
        self._db = db

    def one(self, statement: str, arguments: tuple[Any, ...]) -> Row | None:
        try:
            return self._db.one(statement, arguments)
        except Absent:
            return None

    def setting(self) -> bytes | None:
        self._db.check_place()  # each heartbeat asks: is it still this volume?
        return super().setting()

    def all(self, statement: str, arguments: tuple[Any, ...] = ()) -> list[Row]:
        try:
            return self._db.all(statement, arguments)
        except Absent:
            return []


class SqlEngine:
    """`Engine` over a SQLite file."""

    name = "sqlite3"
    counts_every_slice = True
    defers_totals = False

    def __init__(self, options: Options, read_only: bool = False) -> None:
        self._db = Database(options)
        self._prefix = options.prefix
        self._dialect = Dialect()
        self._read_only = read_only
        self._sql = Statements(self._dialect, self._prefix)
        self._pooled = PooledReader(self._sql, self._db)
        self.reader: Reader = self._pooled
        self._look_at_schema()

    def __repr__(self) -> str:
        return f"SqlEngine({self._db!r})"

    # Transactions

    def transact(self, body: Callable[[Transaction], T]) -> T:
        if self._read_only:
            raise Refused(errno.EROFS)
        try:
            return self._db.transact(lambda cursor: body(SqlTransaction(self._sql, cursor.execute)))
        except Absent as e:
            raise Unavailable(str(e)) from e

    def view(self, body: Callable[[Reader], T]) -> T:
        try:
            return self._db.view(lambda cursor: body(SqlTransaction(self._sql, cursor.execute)))
        except Absent:
            return body(self.reader)

    def _write(self, body: Callable[[SqlTransaction], T]) -> T:
        return self.transact(body)  # type: ignore[arg-type]  # every Transaction of this engine is a SqlTransaction

    # Counters and ids

    def allocate(self, counter: Literal["nextInode", "nextChunk"], count: int) -> range:
        def body(tx: SqlTransaction) -> range:
            tx.all(self._sql.new_counter, (counter, _FIRST[counter]))
            tx.all(self._sql.add_counter, (counter, count))
            end = tx.counter(counter)
            return range(end - count, end)

        return self._write(body)

    def next_number(self, counter: Literal["nextInode", "nextChunk"]) -> int:
        return max(self.reader.counter(counter), _COUNTERS[counter])

    def increment(self, counter: str, delta: int = 1) -> int:
        def body(tx: SqlTransaction) -> int:
            tx.all(self._sql.add_counter, (counter, delta))
            return tx.counter(counter)

        return self._write(body)

    def gate(self, name: str, now: int, period: int) -> bool:
        def body(tx: SqlTransaction) -> bool:
            tx.all(self._sql.new_counter, (name, 0))
            if tx.counter(name) > now - period:
                return False
            tx.put_counter(name, now)
            return True

        return self._write(body)

    def intern_acl(self, rule: Rule) -> int:
        def body(tx: SqlTransaction) -> int:
            for row in tx.all(self._sql.acls):
                if read_rule(row[1:]) == rule:
                    return int(row[0])
            return tx.insert(self._sql.new_acl, (*rule[:4], encode_pairs(rule.users), encode_pairs(rule.groups)))

        return self._write(body)

    def init_counters(self, values: Mapping[str, int]) -> None:
        def body(tx: SqlTransaction) -> None:
            for name, value in {**_COUNTERS, **values}.items():
                tx.all(self._sql.new_counter, (name, value))

        self._write(body)

    # Sessions and locks

    def sessions(self) -> list[SessionRecord]:
        found = [SessionRecord(sid, expire, info or b"") for sid, expire, info in self._pooled.all(self._sql.sessions)]
        if self._sql.has_legacy_sessions:
            for sid, heartbeat, info in self._pooled.all(self._sql.legacy_sessions):
                found.append(SessionRecord(sid, heartbeat + _LEGACY_GRACE_S, info or b""))
        return found

    def stale_sessions(self, now: int, limit: int) -> list[int]:
        rows = self._pooled.all(self._sql.stale_sessions, (now, limit))
        if self._sql.has_legacy_sessions:
            rows += self._pooled.all(self._sql.stale_legacy_sessions, (now - _LEGACY_GRACE_S, limit))
        return [row[0] for row in rows][:limit]

    def session_locks(self, sid: int) -> tuple[dict[int, dict[int, bytes]], dict[int, dict[int, bytes]]]:
        flocks: dict[int, dict[int, bytes]] = {}
        plocks: dict[int, dict[int, bytes]] = {}
        for ino, owner, kind in self._pooled.all(self._sql.session_flocks, (sid,)):
            flocks.setdefault(ino, {})[unsigned(owner)] = bytes((kind,))
        for ino, owner, records in self._pooled.all(self._sql.session_plocks, (sid,)):
            plocks.setdefault(ino, {})[unsigned(owner)] = records
        return flocks, plocks

    def drop_locks(self, sid: int) -> None:
        def body(tx: SqlTransaction) -> None:
            tx.all(self._sql.drop_flocks, (sid,))
            tx.all(self._sql.drop_plocks, (sid,))

        self._write(body)

    # Scans

    def deleted_files(self, before: int, limit: int) -> list[DeletedFile]:
        return [DeletedFile._make(row) for row in self._pooled.all(self._sql.deleted_before, (before, limit))]

    def remaining_chunks(self, files: Sequence[DeletedFile]) -> list[tuple[int, int]]:
        return [(file.ino, indx) for file in files for indx in sorted(self.reader.chunks(file.ino))]

    def delayed_slices(self, before: int, limit: int = -1) -> list[Delayed]:
        rows = self._pooled.all(self._sql.delayed_before, (before, limit))
        return [Delayed(slice_id, created, decode_delayed(slices)) for slice_id, created, slices in rows]

    def list_delayed(self) -> Iterator[Delayed]:
        rows = self._scan(self._sql.delayed_from, _DELAYED_PAGE)
        return (Delayed(slice_id, created, decode_delayed(slices)) for slice_id, created, slices in rows)

    def list_deleted_files(self) -> Iterator[DeletedFile]:
        return (DeletedFile._make(row) for row in self._scan(self._sql.deleted_from))

    def detached(self, before: int) -> list[int]:
        return [row[0] for row in self._pooled.all(self._sql.detached_before, (before,))]

    def dead_slices(self) -> Iterator[tuple[int, int]]:
        return ((row[0], row[1]) for row in self._scan(self._sql.dead_from))

    def list_slices(self) -> Iterator[tuple[int, int, bytes]]:
        return ((ino, indx, records) for _, ino, indx, records in self._scan(self._sql.chunks_from) if records)

    def list_nodes(self) -> Iterator[tuple[int, Attr]]:
        return ((row[0], read_node(row[1:])) for row in self._scan(self._sql.nodes_from))

    def list_edges(self) -> Iterator[tuple[int, bytes, Dirent]]:
        return ((row[1], row[2], Dirent(row[3], row[4])) for row in self._scan(self._sql.edges_from))

    def list_symlinks(self) -> Iterator[tuple[int, bytes]]:
        return ((row[0], row[1]) for row in self._scan(self._sql.symlinks_from))

    def list_xattrs(self) -> Iterator[tuple[int, bytes, bytes]]:
        return ((row[1], row[2], row[3]) for row in self._scan(self._sql.xattrs_from, _XATTR_PAGE))

    def list_acls(self) -> Iterator[tuple[int, Rule]]:
        return ((row[0], read_rule(row[1:])) for row in self._pooled.all(self._sql.acls))

    def list_dir_stats(self) -> Iterator[tuple[int, DirStat]]:
        return ((row[0], DirStat(*row[1:])) for row in self._scan(self._sql.dir_stats_from))

    def list_slice_refs(self) -> Iterator[tuple[int, int, int]]:
        return ((row[0], row[1], row[2]) for row in self._scan(self._sql.refs_from))

    def _scan(self, statement: str, page: int = _PAGE) -> Iterator[Row]:
        """All rows of a statement that takes the last key seen and a number of rows. No read stays open in between."""
        last = -(1 << 63)
        while rows := self._pooled.all(statement, (last, page)):
            yield from rows
            last = rows[-1][0]

    def last_change(self) -> int:
        rows = self._pooled.all(self._sql.last_change)
        return int(rows[0][0]) if rows else 0

    def changes(self, after: int, limit: int) -> list[tuple[int, str]]:
        return [(number, entry) for number, entry in self._pooled.all(self._sql.changes, (after, limit))]

    def clear_dir_stats(self) -> None:
        self._write(lambda tx: tx.all(self._sql.clear_dir_stats))

    def clear_quotas(self, kinds: Iterable[QuotaKind]) -> None:
        def body(tx: SqlTransaction) -> None:
            for kind in kinds:
                if kind == "dir":
                    tx.all(self._sql.clear_quotas_dir)
                else:
                    tx.all(self._sql.clear_quotas_owner, (QUOTA_TYPES[kind],))

        self._write(body)

    # Schema

    def prepare(self) -> None:
        """Create the file, missing tables, columns, indexes. `SettingError` if the database is somebody else's."""
        if self._read_only:
            return
        self._db.create()

        def body(cursor: sqlite3.Cursor) -> None:
            existing, indexes = _existing(cursor)
            strangers = self._strangers(existing)
            if strangers:
                raise SettingError(
                    f"{self._db.path} holds a database of something else (tables {', '.join(strangers)});"
                    " choose another file"
                )
            for name, table in TABLES.items():
                columns = existing.get(self._prefix + name)
                if columns is None:
                    cursor.execute(create_table(self._dialect, self._prefix, name))
                for column in table.columns:
                    if columns is not None and column.name not in columns:
                        cursor.execute(add_column(self._dialect, self._prefix, name, column))
                for index, statement in create_indexes(self._prefix, name):
                    if index not in indexes:
                        cursor.execute(statement)

        self._db.transact(body)
        self._look_at_schema()

    def is_foreign(self) -> bool:
        """Whether the file is a database of something else: it has tables, and none that any volume would have."""
        try:
            return bool(self._strangers(self._db.view(_existing)[0]))
        except Absent:
            return False

    def is_empty(self) -> bool:
        return self.reader.setting() is None

    def reset(self) -> None:
        """Drop the volume's tables. The file stays, with whatever else it holds."""

        def body(cursor: sqlite3.Cursor) -> None:
            for name in (*TABLES, "session"):
                cursor.execute(f"DROP TABLE IF EXISTS `{self._prefix}{name}`")

        self._db.transact(body)

    def tend(self) -> None:
        """It looks after itself."""

    def sync(self) -> None:
        self._db.sync()

    def flush(self) -> None:
        """Nothing is deferred."""

    def close(self) -> None:
        self._db.close()

    def _look_at_schema(self) -> None:
        """Fit the statements to what the database has."""
        try:
            existing, _ = self._db.view(_existing)
        except Absent:
            return
        columns = existing.get(self._prefix + "node", NODE_COLUMNS)
        self._sql = Statements(self._dialect, self._prefix, columns, self._prefix + "session" in existing)
        self._pooled.sql = self._sql

    @staticmethod
    def _strangers(existing: Mapping[str, object]) -> list[str]:
        if any(name.startswith("jfs_") for name in existing):
            return []
        return sorted(existing)


def _existing(cursor: sqlite3.Cursor) -> tuple[dict[str, set[str]], set[str]]:
    """Tables of the database with their columns, and the names of its indexes."""
    rows = cursor.execute(
        "SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c"
        " WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    ).fetchall()
    tables: dict[str, set[str]] = {}
    for table, column in rows:
        tables.setdefault(table, set()).add(column)
    indexes = {row[0] for row in cursor.execute("SELECT name FROM sqlite_master WHERE type = 'index'").fetchall()}
    return tables, indexes


def open_url(url: str, read_only: bool) -> SqlEngine:
    """The engine of a `sqlite3://` URL."""
    return SqlEngine(Options.parse(url), read_only)
