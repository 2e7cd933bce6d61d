"""Reads of records from SQL tables, over whatever runs a statement. Not writes, and not connections."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

from meta.acl import UNSET, Rule, decode_pairs
from meta.attr import Attr
from meta.slices import decode_delayed
from meta.sql.rows import Row, read_node, unsigned
from meta.sql.statements import QUOTA_TYPES, Statements
from meta.transaction import (
    Cursor,
    Delayed,
    DirItem,
    DirPage,
    DirStat,
    Owner,
    Quota,
    QuotaKind,
    SessionRecord,
)
from meta.types import Dirent
from meta.walk import follow

_IN_AT_MOST = 500  # arguments of one IN (...)


class SqlReader(ABC):
    """`Reader` over two calls: `one` returns the first row of a statement or None, `all` every row."""

    __slots__ = ("sql",)

    def __init__(self, sql: Statements) -> None:
        self.sql = sql

    @abstractmethod
    def one(self, statement: str, arguments: tuple[Any, ...]) -> Row | None: ...

    @abstractmethod
    def all(self, statement: str, arguments: tuple[Any, ...] = ()) -> list[Row]: ...

    def attr(self, ino: int) -> Attr | None:
        row = self.one(self.sql.attr, (ino,))
        return None if row is None else read_node(row)

    def opening(self, ino: int) -> tuple[Attr | None, bytes | None]:
        """The list by itself costs as much, and who opens a file may never read it."""
        return self.attr(ino), None

    def lately(self, ino: int, age_s: float) -> tuple[Attr, float] | None:
        """A read costs next to nothing, so nothing is remembered."""
        return None

    def attrs(self, inos: Iterable[int]) -> dict[int, Attr]:
        wanted = list(dict.fromkeys(inos))
        found = {}
        for start in range(0, len(wanted), _IN_AT_MOST):
            part = tuple(wanted[start : start + _IN_AT_MOST])
            marks = ", ".join("?" * len(part))
            for row in self.all(f"{self.sql.attrs}({marks})", part):
                found[row[0]] = read_node(row[1:])
        return found

    def entry(self, parent: int, name: bytes) -> Dirent | None:
        row = self.one(self.sql.entry, (parent, name))
        return None if row is None else Dirent._make(row)

    def target(self, parent: int, name: bytes) -> tuple[Dirent, Attr | None] | None:
        row = self.one(self.sql.target, (parent, name))
        if row is None:
            return None
        return Dirent(row[0], row[1]), _joined_node(row[2:])

    def has_entries(self, ino: int) -> bool:
        return self.one(self.sql.has_entries, (ino,)) is not None

    def targets(self, start: int, names: Sequence[bytes]) -> list[tuple[Dirent, Attr | None]]:
        return follow(self, start, names)

    def list_entries(self, ino: int, *, plus: bool = False, cursor: Cursor = None, limit: int = -1) -> DirPage:
        """By name, which is the cursor. A negative limit is none."""
        arguments = (ino, cursor or b"", limit)
        if plus:
            rows = self.all(self.sql.list_plus, arguments)
            items = [DirItem(row[0], row[1], row[2], _joined_node(row[3:])) for row in rows]
        else:
            items = [DirItem(name, child, kind, None) for name, child, kind in self.all(self.sql.list, arguments)]
        return DirPage(items, items[-1].name if len(items) == limit else None)

    def parents(self, ino: int) -> dict[int, int]:
        return dict(self.all(self.sql.parents, (ino,)))

    def symlink(self, ino: int) -> bytes | None:
        target: bytes | None = self._value(self.sql.symlink, (ino,))
        return target

    def xattr(self, ino: int, name: bytes) -> bytes | None:
        value: bytes | None = self._value(self.sql.xattr, (ino, name))
        return value

    def xattrs(self, ino: int) -> dict[bytes, bytes]:
        return dict(self.all(self.sql.xattrs, (ino,)))

    def chunk(self, ino: int, indx: int) -> bytes:
        return self._value(self.sql.chunk, (ino, indx)) or b""

    def chunks(self, ino: int, length: int = 0) -> dict[int, bytes]:
        return {indx: records for indx, records in self.all(self.sql.chunks, (ino,)) if records}

    def flocks(self, ino: int) -> dict[Owner, bytes]:
        return {(sid, unsigned(owner)): bytes((kind,)) for sid, owner, kind in self.all(self.sql.flocks, (ino,))}

    def plocks(self, ino: int) -> dict[Owner, bytes]:
        return {(sid, unsigned(owner)): records for sid, owner, records in self.all(self.sql.plocks, (ino,))}

    def acl(self, acl_id: int) -> Rule | None:
        row = self.one(self.sql.acl, (acl_id,))
        return None if row is None else read_rule(row)

    def dir_stat(self, ino: int) -> DirStat | None:
        row = self.one(self.sql.dir_stat, (ino,))
        return None if row is None else DirStat._make(row)

    def quota(self, kind: QuotaKind, key: int) -> Quota | None:
        if kind == "dir":
            row = self.one(self.sql.quota_dir, (key,))
        else:
            row = self.one(self.sql.quota_owner, (QUOTA_TYPES[kind], key))
        return None if row is None else Quota._make(row)

    def quotas(self, kind: QuotaKind) -> dict[int, Quota]:
        if kind == "dir":
            rows = self.all(self.sql.quotas_dir)
        else:
            rows = self.all(self.sql.quotas_owner, (QUOTA_TYPES[kind],))
        return {row[0]: Quota._make(row[1:]) for row in rows}

    def counter(self, name: str) -> int:
        value: int | None = self._value(self.sql.counter, (name,))
        return value or 0

    def slice_refs(self, slice_id: int, size: int) -> int:
        """Without a row, 1: whoever lost the row must not make us delete data."""
        refs: int | None = self._value(self.sql.slice_refs, (slice_id,))
        return 1 if refs is None else refs

    def setting(self) -> bytes | None:
        document: bytes | None = self._value(self.sql.setting, ())
        return document

    def session(self, sid: int) -> SessionRecord | None:
        row = self.one(self.sql.session, (sid,))
        return None if row is None else SessionRecord(row[0], row[1], row[2] or b"")

    def sustained(self, sid: int) -> list[int]:
        return [row[0] for row in self.all(self.sql.sustained, (sid,))]

    def delayed(self, slice_id: int, created: int) -> Delayed | None:
        row = self.one(self.sql.delayed, (slice_id, created))
        return None if row is None else Delayed(slice_id, row[0], decode_delayed(row[1]))

    def _value(self, statement: str, arguments: tuple[Any, ...]) -> Any:
        row = self.one(statement, arguments)
        return None if row is None else row[0]


def read_rule(row: Row) -> Rule:
    """A row of the `acl` table without its id. NULL is an absent entry."""
    owner, group, mask, other = (UNSET if perm is None else perm for perm in row[:4])
    return Rule(owner, group, mask, other, decode_pairs(row[4] or b""), decode_pairs(row[5] or b""))


def _joined_node(row: Row) -> Attr | None:
    """The node of an outer join: None if there was none (its type is never NULL)."""
    return None if row[0] is None else read_node(row)
