"""What this client believes to be in the store: values that it has lately read or written, for the first try of a rule.

Not a cache in the usual sense: nothing here is ever given to a user. A transaction that builds on it is checked as a
whole by the server (`scripts.APPLY`), and if anything was different it runs again on what it then reads. So most
changes cost one round trip, and being wrong costs one more.

Two generations: what was not used for a while goes, without bookkeeping for each value. Threads may interleave anyhow;
the worst that can happen is that something is forgotten. Large values (extended attributes) are not kept.

Apart from beliefs stand directories as our own changes have left them, or as they were read since: those are told to
the kernel, with their age. Each of our changes makes the kernel ask for them again, though most change nothing that it
would see. The lock is about them only.
"""

from __future__ import annotations

import threading
import time
from typing import Final

Cell = int | bytes | tuple[bytes, bytes]
"""A value in the store: an inode's record by its number, a string by its key, or a field of a hash."""

_Directory = tuple[bytes | None, float, float, float]
"""The record, if it may be told, and since when it is so; when the last change of ours ended, and the last read."""

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
        self._directories: dict[int, _Directory] = {}
        self._cleared = float("-inf")
        self._lock = threading.Lock()

    def get(self, cell: Cell) -> bytes | None:
        """The value believed; `UNKNOWN` without belief."""
        value = self._young.get(cell, UNKNOWN)
        return self._old.get(cell, UNKNOWN) if value is UNKNOWN else value

    def wrote(self, cell: Cell, value: bytes | None) -> None:
        """Believe a value (None: there is none)."""
        if len(self._young) >= _MOST or time.monotonic() - self._turned > _TURN_S:
            self._turned = time.monotonic()
            self._old, self._young = self._young, {}
        if value is not None and len(value) > _LONGEST:
            self.drop(cell)
        else:
            self._young[cell] = value

    def read(self, cell: Cell, value: bytes | None) -> None:
        """Believe a value that was read; that of a directory may be newer than what else is known of it."""
        self.wrote(cell, value)
        if isinstance(cell, int) and cell in self._directories:
            with self._lock:
                _, as_of, ended, _ = self._directory(cell)
                self._directories[cell] = (None, as_of, ended, time.monotonic())

    def seen(self, ino: int, record: bytes, began: float) -> None:
        """A read that `began` then has found a directory so; if a change of ours overlaps, who knows."""
        self.wrote(ino, record)
        with self._lock:
            _, as_of, ended, _ = self._directory(ino)
            told = record if began > max(as_of, ended) else None
            self._directories[ino] = (told, began, ended, time.monotonic())

    def left(self, ino: int, record: bytes | None, began: float) -> None:
        """A change of ours that `began` then is over, and has left a directory so; None if nobody knows how.

        Of two that overlap nobody knows which one the server did last, and the record of the first lacks the second.
        What a read has found meanwhile may be newer.
        """
        with self._lock:
            _, _, ended, read = self._directory(ino)
            told = record if began > max(ended, read) else None
            self._directories[ino] = (told, began, time.monotonic(), read)

    def _directory(self, ino: int) -> _Directory:
        """What is known of a directory; makes room for it."""
        known = self._directories.get(ino)
        if known is None:
            if len(self._directories) >= _MOST_DIRECTORIES:
                self._directories.clear()
                self._cleared = time.monotonic()
            known = (None, self._cleared, self._cleared, self._cleared)
        return known

    def lately(self, ino: int, age_s: float) -> tuple[bytes, float] | None:
        """A directory as it was at most `age_s` ago, unless what was seen or done since may be newer; and its age."""
        record, as_of, _, _ = self._directories.get(ino, (None, 0.0, 0.0, 0.0))
        age = time.monotonic() - as_of
        return (record, age) if record is not None and age < age_s else None

    def drop(self, cell: Cell) -> None:
        """Believe nothing of a cell."""
        self._young.pop(cell, None)
        self._old.pop(cell, None)
