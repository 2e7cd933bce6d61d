"""What this client believes to be in the store: values that it has lately read or written, for the first try of a rule.

Not a cache in the usual sense: nothing here is ever given to a user. A transaction that builds on it is checked as a
whole by the server (`scripts.APPLY`), and if anything was different it runs again on what it then reads. So most
changes cost one round trip, and being wrong costs one more.

Two generations: what was not used for a while goes, without bookkeeping for each value. Threads may interleave anyhow;
the worst that can happen is that something is forgotten. Large values (extended attributes) are not kept.

Apart from beliefs stand directories as our own changes have left them: those are told to the kernel. The lock is about
them only.
"""

from __future__ import annotations

import threading
import time
from typing import Final

Cell = int | bytes | tuple[bytes, bytes]
"""A value in the store: an inode's record by its number, a string by its key, or a field of a hash."""

UNKNOWN: Final = b"unknown cell"
"""Nothing is believed about the cell (told by identity); None is the belief that it does not exist."""

_MOST: Final = 8192  # values per generation; about 2 MiB
_LONGEST: Final = 1024  # bytes of a value
_TURN_S: Final = 5.0
_MOST_DIRECTORIES: Final = 1024


class Known:
    """Beliefs about cells."""

    def __init__(self) -> None:
        self._young: dict[Cell, bytes | None] = {}
        self._old: dict[Cell, bytes | None] = {}
        self._turned = time.monotonic()
        self._directories: dict[int, tuple[bytes | None, float]] = {}  # None: read since, or not known
        self._cleared = float("-inf")
        self._lock = threading.Lock()

    def get(self, cell: Cell) -> bytes | None:
        """The value believed; `UNKNOWN` without belief."""
        value = self._young.get(cell, UNKNOWN)
        return self._old.get(cell, UNKNOWN) if value is UNKNOWN else value

    def put(self, cell: Cell, value: bytes | None) -> None:
        """Believe a value (None: there is none)."""
        if len(self._young) >= _MOST or time.monotonic() - self._turned > _TURN_S:
            self._turned = time.monotonic()
            self._old, self._young = self._young, {}
        if value is not None and len(value) > _LONGEST:
            self.drop(cell)
        else:
            self._young[cell] = value
        if isinstance(cell, int) and cell in self._directories:
            with self._lock:
                ended = self._directories.get(cell)
                if ended is not None:
                    self._directories[cell] = (None, ended[1])

    def left(self, ino: int, record: bytes | None, began: float) -> None:
        """A change of ours that `began` then is over, and has left a directory so; None if nobody knows how.

        Of two that overlap nobody knows which one the server did last, and the record of the first lacks the second.
        """
        with self._lock:
            now = time.monotonic()
            _, ended = self._directories.get(ino, (None, self._cleared))
            if len(self._directories) >= _MOST_DIRECTORIES:
                self._directories.clear()
                self._cleared = now
            self._directories[ino] = (record if ended < began else None, now)

    def lately(self, ino: int, age_s: float) -> tuple[bytes, float] | None:
        """A directory as our last change left it at most `age_s` ago, if it was not read since; and how long ago."""
        record, ended = self._directories.get(ino, (None, 0.0))
        age = time.monotonic() - ended
        return (record, age) if record is not None and age < age_s else None

    def drop(self, cell: Cell) -> None:
        """Believe nothing of a cell."""
        self._young.pop(cell, None)
        self._old.pop(cell, None)
