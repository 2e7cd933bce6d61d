"""What differs between relational databases in the SQL we send. Not connections or errors (one module per database)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final


class Dialect:
    """SQLite's way; another database overrides what it says differently."""

    name = "sqlite3"
    types: Final = {"big": "INTEGER", "int": "INTEGER", "string": "TEXT", "text": "TEXT", "blob": "BLOB"}
    serial = "INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL"

    def upsert(self, table: str, columns: Sequence[str], key: Sequence[str], updates: Sequence[str]) -> str:
        """Insert a row of `columns`, or, if `key` exists, apply `updates` ("x" stands for x = the new value)."""
        marks = ", ".join("?" * len(columns))
        sets = ", ".join(item if "=" in item else f"`{item}` = excluded.`{item}`" for item in updates)
        names = ", ".join(f"`{column}`" for column in columns)
        action = f"UPDATE SET {sets}" if sets else "NOTHING"
        return f"INSERT INTO {table} ({names}) VALUES ({marks}) ON CONFLICT ({', '.join(key)}) DO {action}"

    def as_text(self, value: str) -> str:
        """Text made of bytes, whether or not they are UTF-8."""
        return f"CAST({value} AS TEXT)"

    def as_bytes(self, value: str) -> str:
        """The bytes of a column that may be typed as text (official clients leave `slices` so after an append)."""
        return f"CAST({value} AS BLOB)"
