"""Directories that a walk still has to visit, each once: in memory while they are few, else in a temporary file.

Not the walk. A volume may have hundreds of millions of directories, and a damaged one a circle.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from itertools import islice
from typing import Final

IN_MEMORY: Final = 50_000  # directories ever seen; about 8 MiB
_TOGETHER: Final = 1000

_SCHEMA = """
PRAGMA synchronous=OFF; BEGIN;
CREATE TABLE seen(ino INTEGER PRIMARY KEY);
CREATE TABLE todo(number INTEGER PRIMARY KEY, ino INT);
"""


class Directories:
    """A stack of directories; the newest is visited first. For one thread."""

    def __init__(self, first: int) -> None:
        self._seen = {first}
        self._todo = [first]
        self._db: sqlite3.Connection | None = None

    def __enter__(self) -> Directories:
        return self

    def __exit__(self, *_: object) -> None:
        if self._db is not None:
            self._db.close()

    def add(self, inos: Iterable[int]) -> None:
        """Visit these, unless they were added before."""
        rest = iter(inos)
        while some := list(islice(rest, _TOGETHER)):
            if self._db is None and len(self._seen) + len(some) > IN_MEMORY:
                self._move_out()
            if self._db is None:
                self._todo += [ino for ino in dict.fromkeys(some) if ino not in self._seen]
                self._seen.update(some)
                continue
            for ino in some:
                if self._db.execute("INSERT OR IGNORE INTO seen VALUES(?)", (ino,)).rowcount:
                    self._db.execute("INSERT INTO todo(ino) VALUES(?)", (ino,))

    def pop(self) -> int | None:
        """The next one to visit; None when all have been."""
        if self._todo:
            return self._todo.pop()
        if self._db is None:
            return None
        row = self._db.execute("SELECT number, ino FROM todo ORDER BY number DESC LIMIT 1").fetchone()
        if row is None:
            return None
        self._db.execute("DELETE FROM todo WHERE number = ?", (row[0],))
        return int(row[1])

    def _move_out(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)  # no name: a file that vanishes when closed
        self._db.executescript(_SCHEMA)
        self._db.executemany("INSERT INTO seen VALUES(?)", ((ino,) for ino in self._seen))
        self._seen.clear()
