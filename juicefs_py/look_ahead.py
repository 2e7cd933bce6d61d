"""Directories read ahead of lookups: who asks for name after name gets the rest of the directory from memory.

Not here: what the kernel is told (`vfs_names`), and what was changed through this mount lately (`VFSBase.touch`).

A lookup that the store has answered pays for reading ahead with the time that it took. As soon as enough is paid for a
page it is read, so that reading ahead never takes longer than the lookups did; a page of which nothing was used makes
the next one dearer. Where the store is far away that is after a few names, next door after some more.

What was read serves for `VALID_S` at most, which is taken off the time that the kernel may keep the answer. A name is
served while nobody has changed it through this mount since the page was asked for, and once: who asks again doubts the
answer (a path that led nowhere, an exclusive create). Names that are quite new are left out, because those may be meant
to be short-lived, like lock files. That a name is not there is never concluded.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from meta.errors import MetaError
from meta.transaction import Cursor, DirItem, DirPage

log = logging.getLogger(__name__)

VALID_S: Final = 1.0
SETTLED_S: Final = 2.0  # since an inode was made, renamed or changed, by the clock of whoever did it
MOST_ENTRIES: Final = 20_000  # of all directories, about 12 MiB
MOST_DIRECTORIES: Final = 4096
_PATIENCE: Final = 4  # lookups in a directory before anything is read
_PAGES: Final = (32, 128, 512, 1024)  # entries; the last size repeats
_ENTRY_S: Final = 10e-6  # what an entry is believed to cost until one was read
_PROFIT: Final = 0.5  # of the time that hits have saved, what may be spent on reading the directory again

ReadPage = Callable[[int, Cursor, int], DirPage]
"""Entries of a directory (inode, cursor, about how many) with their attributes."""


class _Directory:
    """What is known of a directory, from its first lookup on; thrown away as a whole after `VALID_S`."""

    __slots__ = ("began", "changed", "credit_s", "cursor", "done", "hits", "items", "lookup_s", "lookups", "pages",
                 "reading", "unused", "used")  # fmt: skip

    def __init__(self, began: float, credit_s: float) -> None:
        self.began = began
        self.credit_s = credit_s
        self.items: dict[bytes, tuple[DirItem, float]] = {}  # with the time when the page was asked for
        self.changed: dict[bytes, float] = {}  # names, and when they were changed through this mount
        self.cursor: Cursor = None
        self.done = False
        self.reading = False
        self.pages = 0
        self.lookups = 0
        self.lookup_s = 0.0  # what all of them took
        self.hits = 0
        self.used = 0  # hits when the last page was read
        self.unused = 0  # pages in a row that brought no hit

    def profit_s(self) -> float:
        """What the next round may begin with."""
        return _PROFIT * self.hits * self.lookup_s / max(self.lookups, 1)


class LookAhead:
    """Names of many directories, for a moment. Thread-safe."""

    def __init__(self, read: ReadPage) -> None:
        self._read = read
        self._directories: dict[int, _Directory] = {}
        self._entries = 0
        self._entry_s = _ENTRY_S
        self._lock = threading.Lock()

    def find(self, parent: int, name: bytes) -> tuple[DirItem, float] | None:
        """An entry with its attributes, and since when (monotonic) it is so; None if the store must be asked."""
        directory = self._directories.get(parent)
        if directory is None or name not in directory.items:
            return None
        with self._lock:
            found = directory.items.pop(name, None)
            if found is None:
                return None
            if self._directories.get(parent) is directory:
                self._entries -= 1
            directory.hits += 1
        return found if time.monotonic() - found[1] < VALID_S else None

    def pay(self, parent: int, took_s: float) -> None:
        """The store has found a name of this directory, in that time. May read a page."""
        directory = self._directory(parent, time.monotonic())
        directory.lookups += 1
        directory.lookup_s += took_s
        directory.credit_s += took_s
        if directory.lookups < _PATIENCE and not directory.credit_s > directory.lookup_s:
            return
        round_trip_s = directory.lookup_s / directory.lookups
        count = self._affordable(directory, round_trip_s)
        if not count or directory.done:
            return
        with self._lock:
            if directory.reading or self._entries + count > MOST_ENTRIES:
                return
            directory.reading = True
        try:
            self._page(parent, directory, count, round_trip_s)
        except MetaError as problem:  # whoever needs an answer will ask himself
            log.debug("reading directory %d ahead: %s", parent, problem)
        finally:
            directory.reading = False

    def _affordable(self, directory: _Directory, round_trip_s: float) -> int:
        """The largest page that is paid for, 0 if not even the next one is."""
        smallest = min(directory.pages, len(_PAGES) - 1)
        for count in reversed(_PAGES[smallest:]):
            if directory.credit_s >= (round_trip_s + count * self._entry_s) * 2**directory.unused:
                return count
        return 0

    def _page(self, parent: int, directory: _Directory, count: int, round_trip_s: float) -> None:
        asked, settled = time.monotonic(), time.time() - SETTLED_S
        page = self._read(parent, directory.cursor, count)
        took_s = time.monotonic() - asked
        directory.credit_s -= took_s
        if len(page.items) >= _PAGES[0]:
            self._entry_s += (max(took_s - round_trip_s, 0.0) / len(page.items) - self._entry_s) / 4
        directory.unused = 0 if directory.hits > directory.used or directory.pages < 2 else directory.unused + 1
        directory.used = directory.hits
        directory.pages += 1
        directory.cursor = page.next
        directory.done = page.next is None
        with self._lock:
            if self._directories.get(parent) is not directory:
                return
            changed, items = directory.changed, directory.items
            before = len(items)
            for item in page.items:
                if item.attr is not None and item.attr.ctime < settled and changed.get(item.name, 0.0) < asked:
                    items[item.name] = (item, asked)
            self._entries += len(items) - before

    def _directory(self, parent: int, now: float) -> _Directory:
        directory = self._directories.get(parent)
        if directory is not None and now - directory.began < VALID_S:
            return directory
        with self._lock:
            directory = self._directories.get(parent)
            if directory is None or now - directory.began >= VALID_S:
                credit_s = 0.0 if directory is None else directory.profit_s()
                self._drop(parent)
                if len(self._directories) >= MOST_DIRECTORIES:
                    self._clear()
                directory = self._directories[parent] = _Directory(now, credit_s)
            return directory

    def changed(self, parent: int, name: bytes) -> None:
        """A name was changed through this mount just now."""
        if parent not in self._directories:  # nor is a page on its way that was asked for before
            return
        with self._lock:
            directory = self._directories.get(parent)
            if directory is not None:
                directory.changed[name] = time.monotonic()
                if directory.items.pop(name, None) is not None:
                    self._entries -= 1

    def expire(self, now: float) -> bool:
        """Forget what is too old to serve; whether anything is left."""
        with self._lock:
            for parent in [ino for ino, one in self._directories.items() if now - one.began >= 2 * VALID_S]:
                self._drop(parent)
            return bool(self._directories)

    def _drop(self, parent: int) -> None:
        directory = self._directories.pop(parent, None)
        if directory is not None:
            self._entries -= len(directory.items)

    def _clear(self) -> None:
        self._directories.clear()
        self._entries = 0
