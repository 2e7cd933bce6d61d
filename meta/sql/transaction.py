"""Writes of records to SQL tables inside an open transaction. Not how it begins and ends (one module per database)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meta.attr import Attr
from meta.slices import RECORD_SIZE, encode_delayed
from meta.sql.reader import SqlReader
from meta.sql.rows import Row, node_row, signed
from meta.sql.statements import QUOTA_TYPES, Statements
from meta.transaction import Appended, Delayed, DeletedFile, DirStat, Owner, Quota, QuotaKind, Read, SessionRecord
from meta.types import Dirent

Execute = Callable[[str, tuple[Any, ...]], Any]
"""Runs a statement on the writer's cursor and returns the cursor."""


class SqlTransaction(SqlReader):
    """`Transaction` whose writes are statements executed at once, so that later reads see them."""

    __slots__ = ("_run",)

    def __init__(self, sql: Statements, run: Execute) -> None:
        super().__init__(sql)
        self._run = run

    def one(self, statement: str, arguments: tuple[Any, ...]) -> Row | None:
        row: Row | None = self._run(statement, arguments).fetchone()
        return row

    def all(self, statement: str, arguments: tuple[Any, ...] = ()) -> list[Row]:
        rows: list[Row] = self._run(statement, arguments).fetchall()
        return rows

    def insert(self, statement: str, arguments: tuple[Any, ...]) -> int:
        """Insert a row and return its serial number."""
        number: int = self._run(statement, arguments).lastrowid
        return number

    def prefetch(self, *reads: Read) -> None:
        """The database is in this process: nothing to gain."""

    def put_attr(self, ino: int, attr: Attr) -> None:
        self._run(self.sql.put_attr, (ino, *node_row(attr)))

    def delete_attr(self, ino: int) -> None:
        self._run(self.sql.delete_attr, (ino,))

    def put_entry(self, parent: int, name: bytes, entry: Dirent) -> None:
        self._run(self.sql.put_entry, (parent, name, entry.ino, entry.type))

    def delete_entry(self, parent: int, name: bytes) -> None:
        self._run(self.sql.delete_entry, (parent, name))

    def add_parent(self, ino: int, parent: int, delta: int) -> None:
        """Derived from the entries."""

    def delete_parents(self, ino: int) -> None:
        """Derived from the entries."""

    def put_symlink(self, ino: int, target: bytes) -> None:
        self._run(self.sql.put_symlink, (ino, target))

    def delete_symlink(self, ino: int) -> None:
        self._run(self.sql.delete_symlink, (ino,))

    def put_xattr(self, ino: int, name: bytes, value: bytes) -> None:
        self._run(self.sql.put_xattr, (ino, name, value))

    def delete_xattr(self, ino: int, name: bytes) -> None:
        self._run(self.sql.delete_xattr, (ino, name))

    def delete_xattrs(self, ino: int) -> None:
        self._run(self.sql.delete_xattrs, (ino,))

    def append_slices(self, ino: int, indx: int, records: bytes) -> Appended:
        appended = Appended()
        ((length,),) = self.all(self.sql.append_slices, (ino, indx, records))
        appended.count = length // RECORD_SIZE
        return appended

    def put_chunk(self, ino: int, indx: int, records: bytes) -> None:
        self._run(self.sql.put_chunk, (ino, indx, records))

    def delete_chunk(self, ino: int, indx: int) -> None:
        self._run(self.sql.delete_chunk, (ino, indx))

    def new_slice(self, slice_id: int, size: int) -> None:
        self._run(self.sql.new_slice, (slice_id, size, 1))

    def add_slice_refs(self, slice_id: int, size: int, delta: int) -> None:
        """A slice without a row counts as 1, and is never made dead: its data may be in use after all."""
        if delta >= 0:
            self._run(self.sql.more_slice_refs, (slice_id, size, 1 + delta))
        else:
            self._run(self.sql.fewer_slice_refs, (delta, slice_id))

    def delete_slice(self, slice_id: int, size: int) -> None:
        self._run(self.sql.delete_slice, (slice_id,))

    def put_delayed(self, entry: Delayed) -> None:
        self._run(self.sql.put_delayed, (entry.id, entry.created, encode_delayed(entry.slices)))

    def delete_delayed(self, slice_id: int, created: int) -> None:
        self._run(self.sql.delete_delayed, (slice_id, created))

    def put_deleted_file(self, entry: DeletedFile) -> None:
        self._run(self.sql.put_deleted_file, entry)

    def delete_deleted_file(self, ino: int, length: int) -> None:
        self._run(self.sql.delete_deleted_file, (ino, length))

    def put_flock(self, ino: int, owner: Owner, kind: bytes | None) -> None:
        key = (ino, owner[0], signed(owner[1]))
        if kind is None:
            self._run(self.sql.delete_flock, key)
        else:
            self._run(self.sql.put_flock, (*key, kind[0]))

    def put_plock(self, ino: int, owner: Owner, records: bytes | None) -> None:
        key = (ino, owner[0], signed(owner[1]))
        if not records:
            self._run(self.sql.delete_plock, key)
        else:
            self._run(self.sql.put_plock, (*key, records))

    def put_session(self, record: SessionRecord) -> None:
        self._run(self.sql.put_session, record)

    def delete_session(self, sid: int) -> None:
        self._run(self.sql.delete_session, (sid,))
        if self.sql.has_legacy_sessions:
            self._run(self.sql.delete_legacy_session, (sid,))

    def put_sustained(self, sid: int, ino: int) -> None:
        self._run(self.sql.put_sustained, (sid, ino))

    def delete_sustained(self, sid: int, ino: int) -> None:
        self._run(self.sql.delete_sustained, (sid, ino))

    def put_detached(self, ino: int, created: int) -> None:
        self._run(self.sql.put_detached, (ino, created))

    def delete_detached(self, ino: int) -> None:
        self._run(self.sql.delete_detached, (ino,))

    def put_dir_stat(self, ino: int, stat: DirStat) -> None:
        self._run(self.sql.put_dir_stat, (ino, *stat))

    def add_dir_stat(self, ino: int, delta: DirStat) -> None:
        self._run(self.sql.add_dir_stat, (*delta, ino))

    def delete_dir_stat(self, ino: int) -> None:
        self._run(self.sql.delete_dir_stat, (ino,))

    def put_quota(self, kind: QuotaKind, key: int, quota: Quota) -> None:
        if kind == "dir":
            self._run(self.sql.put_quota_dir, (key, *quota))
        else:
            self._run(self.sql.put_quota_owner, (QUOTA_TYPES[kind], key, *quota))

    def add_quota(self, kind: QuotaKind, key: int, space: int, inodes: int) -> None:
        if kind == "dir":
            self._run(self.sql.add_quota_dir, (space, inodes, key))
        else:
            self._run(self.sql.add_quota_owner, (QUOTA_TYPES[kind], key, -1, -1, space, inodes))

    def delete_quota(self, kind: QuotaKind, key: int) -> None:
        if kind == "dir":
            self._run(self.sql.delete_quota_dir, (key,))
        else:
            self._run(self.sql.delete_quota_owner, (QUOTA_TYPES[kind], key))

    def add_usage(self, space: int, inodes: int) -> None:
        self._run(self.sql.add_usage, (space, inodes))

    def put_counter(self, name: str, value: int) -> None:
        self._run(self.sql.put_counter, (name, value))

    def put_setting(self, document: bytes) -> None:
        self._run(self.sql.put_setting, (document,))

    def append_changelog(self, line: str) -> None:
        self._run(self.sql.append_changelog, (line,))
