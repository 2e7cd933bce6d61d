"""What this client believes to be in the store: values that it has lately read or written, for the first try of a rule.

Not a cache in the usual sense: nothing here is ever given to a user. A transaction that builds on it is checked as a
whole by the server (`scripts.APPLY`), and if anything was different it runs again on what it then reads. So most
changes cost one round trip, and being wrong costs one more.

Two generations: what was not used for a while goes, without bookkeeping for each value. Threads may interleave anyhow;
the worst that can happen is that something is forgotten.
"""

from __future__ import annotations

import time
from typing import Final

Cell = int | bytes | tuple[bytes, bytes]
"""A value in the store: an inode's record by its number, a string by its key, or a field of a hash."""

UNKNOWN: Final = b"unknown cell"
"""Nothing is believed about the cell (told by identity); None is the belief that it does not exist."""

_MOST: Final = 8192  # values per generation; about 2 MiB
_TURN_S: Final = 5.0
_MOST_DIRECTORIES: Final = 1024


class Known:
    """Beliefs about cells."""

    def __init__(self) -> None:
        self._young: dict[Cell, bytes | None] = {}
        self._old: dict[Cell, bytes | None] = {}
        self._turned = time.monotonic()
        self._directories: dict[int, tuple[bytes, float]] = {}

    def get(self, cell: Cell) -> bytes | None:
        """The value believed; `UNKNOWN` without belief."""
        value = self._young.get(cell, UNKNOWN)
        return self._old.get(cell, UNKNOWN) if value is UNKNOWN else value

    def put(self, cell: Cell, value: bytes | None) -> None:
        """Believe a value (None: there is none)."""
        if len(self._young) >= _MOST or time.monotonic() - self._turned > _TURN_S:
            self._turned = time.monotonic()
            self._old, self._young = self._young, {}
        self._young[cell] = value
        self._directories.pop(cell, None)  # type: ignore[arg-type]  # other cells are not in it

    def confirm(self, ino: int, record: bytes) -> None:
        """A change of ours has found a directory as we believed it, and left it so."""
        if len(self._directories) >= _MOST_DIRECTORIES:
            self._directories.clear()
        self._directories[ino] = (record, time.monotonic())

    def confirmed(self, ino: int, age_s: float) -> tuple[bytes, float] | None:
        """A directory's record, if it was confirmed at most `age_s` ago and not read since; and how long ago."""
        found = self._directories.get(ino)
        if found is None:
            return None
        age = time.monotonic() - found[1]
        return (found[0], age) if age < age_s else None

    def drop(self, cell: Cell) -> None:
        """Believe nothing of a cell."""
        self._young.pop(cell, None)
        self._old.pop(cell, None)
