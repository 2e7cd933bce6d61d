"""An open directory: the page of its listing that it is at, and what it remembers of those before.

Not here: what is asked of the engine and told to the kernel (`vfs_dirs`). A page begins at a remembered (row, cursor),
so that a seek backwards finds it again.

Some engines may list a name again in a later page, while their table shrinks: names that were listed are remembered by
their hash, up to a limit, and not listed twice. (Of two names with one hash, one in 2^64, the second would be missing.)
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Sequence
from operator import itemgetter

from juicefs_py.vfs_base import stat_columns
from meta.transaction import Cursor, DirItem, DirPage
from meta.types import TYPE_TO_MODE

LISTED_LIMIT = 200_000  # names whose hashes a listing remembers, about 13 MiB
_NAME = itemgetter(0)


class Page:
    """Entries from row `first` on, and where the engine goes on behind them (None: nothing follows).

    Names, inodes, file types and attributes stand in columns as well, as a reply takes them.
    """

    __slots__ = ("_stats", "first", "inos", "items", "names", "next", "read_at", "types")

    def __init__(self, first: int, items: list[DirItem], next: Cursor, read_at: float) -> None:
        self.first = first
        self.items = items
        self.next = next
        self.read_at = read_at
        self.names: Sequence[bytes]
        self.inos: Sequence[int]
        self.names, self.inos, kinds, _ = zip(*items, strict=True) if items else ((), (), (), ())
        self.types = tuple(map(TYPE_TO_MODE.__getitem__, kinds))
        self._stats: Sequence[Sequence[int]] | None = None

    @property
    def stats(self) -> Sequence[Sequence[int]]:
        """A column for each field of `Stat`; none at all if the attributes of any entry are missing."""
        if self._stats is None:
            attrs = [item.attr for item in self.items if item.attr is not None]
            self._stats = stat_columns(self.inos, attrs) if 0 < len(attrs) == len(self.items) else ()
        return self._stats

    @property
    def last(self) -> bool:
        return self.next is None


class DirHandle:
    """An open directory. `lock` serialises its listings."""

    def __init__(self, ino: int, head: list[tuple[bytes, int, int]]) -> None:
        self.ino = ino
        self.lock = threading.Lock()
        self.head = head  # (name, inode, file type) of the rows before the entries
        self.page: Page | None = None
        self.gone: set[bytes] = set()
        self._rows = [len(head)]
        self._cursors: list[Cursor] = [None]
        self._listed: set[int] = set()
        self._end = 0  # the row behind the last one ever listed

    def restart(self) -> None:
        """A listing from the beginning sees the directory as it is now."""
        self.page = None
        self.gone.clear()
        self._listed.clear()
        self._end = 0
        del self._rows[1:], self._cursors[1:]

    def before(self, row: int) -> tuple[int, Cursor]:
        """Where the page that holds `row` begins, or the nearest known page before it."""
        k = max(bisect_right(self._rows, row) - 1, 0)
        return self._rows[k], self._cursors[k]

    def remember(self, row: int, cursor: Cursor) -> None:
        """A page begins at `row`, which is at `cursor` for the engine."""
        if row > self._rows[-1]:
            self._rows.append(row)
            self._cursors.append(cursor)

    def unlisted(self, first: int, page: DirPage, began: Cursor) -> list[DirItem]:
        """The entries of a page that begins at row `first`, without those that an earlier page has listed."""
        if isinstance(page.next, bytes) or (page.next is None and not isinstance(began, int)):
            return page.items  # by name, or one page
        if first < self._end:
            return page.items  # read again after a seek backwards
        fresh, hashes = page.items, list(map(hash, map(_NAME, page.items)))
        if not self._listed.isdisjoint(hashes):
            fresh = [item for item, number in zip(fresh, hashes, strict=True) if number not in self._listed]
        self._end = first + len(fresh)
        if len(self._listed) < LISTED_LIMIT:
            self._listed.update(hashes)
        return fresh
