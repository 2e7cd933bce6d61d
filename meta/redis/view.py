"""What a transaction on Redis sees: what it found, under what it has written since. Not writing (transaction).

Values live in *cells* (`known.Cell`); whole hashes and lists are found apart, and seen through the cells written since.
All that was found is remembered: it becomes the conditions of the request that commits.
"""

from __future__ import annotations

import time
from typing import Any, Final

from meta.attr import Attr
from meta.redis import keys as k
from meta.redis.keys import Keys
from meta.redis.known import UNKNOWN, Cell, Known
from meta.redis.link import Command, Link
from meta.redis.reader import RedisReader, joined, pairs
from meta.redis.request import Conditions, sets_times
from meta.tkv.values import decode_entry
from meta.transaction import Cursor, DirItem, DirPage, DirStat, QuotaKind, SessionRecord

_BELIEVED_S: Final = 1.0  # how long totals are taken from memory for checks of limits
TOTALS: Final = ("usedSpace", "totalInodes")

Totals = dict[str, tuple[int, float]]
"""The volume's totals as lately seen, and when (monotonic)."""


class TransactionView(RedisReader):
    """Reads within a transaction. `speculate`: build on what is `known`, which `speculated` then tells."""

    def __init__(self, link: Link, keys: Keys, known: Known, totals: Totals, speculate: bool) -> None:
        super().__init__(link, keys, known)
        self._totals = totals
        self._speculate = speculate
        self.speculated = False
        self.fetches = 0
        self._fetched: dict[Cell, bytes | None] = {}
        self._found: dict[Cell, bytes | None] = {}  # what the rule has really looked at
        self._cells: dict[Cell, bytes | None] = {}
        self._written: dict[Cell, None] = {}  # in order
        self._fetched_whole: dict[bytes, list[bytes]] = {}  # hashes and lists
        self._hashes: dict[bytes, dict[bytes, bytes]] = {}
        self._lists: dict[bytes, bytes] = {}
        self._fetched_presence: dict[bytes, bool] = {}
        self._presence: dict[bytes, bool] = {}
        self._dropped: set[bytes] = set()  # whole hashes that were deleted
        self._list_writes: dict[bytes, tuple[bool, bytes]] = {}  # replaces what is there?, records
        self._counts: dict[tuple[bytes, bytes], int] = {}  # to add to fields
        self._stats: dict[int, DirStat] = {}  # to add
        self._uses: dict[tuple[QuotaKind, int], tuple[int, int]] = {}  # to add
        self._usage = (0, 0)  # to add
        self._sessions: dict[int, SessionRecord | None] = {}
        self._sustained: dict[tuple[int, int], bool] = {}

    def _ask(self, *commands: Command) -> list[Any]:
        self.fetches += 1
        return self.link.ask(*commands)

    def _note(self, cell: Cell, value: bytes | None) -> None:
        """A value was read from the store."""
        self._fetched.setdefault(cell, value)
        self.known.read(cell, value)

    def _peek(self, cell: Cell) -> bytes | None:
        """What would be seen of a cell without asking the store; `UNKNOWN` if it must be asked."""
        for seen in (self._cells, self._fetched):
            if cell in seen:
                return seen[cell]
        if isinstance(cell, tuple) and cell[0] in self._dropped:
            return None
        return self.known.get(cell) if self._speculate else UNKNOWN

    def _see(self, cell: Cell) -> bytes | None:
        """The value of a cell. It becomes a condition if it was not written here before."""
        if cell in self._cells:
            return self._cells[cell]
        value = self._peek(cell)
        if value is UNKNOWN:
            self._note(cell, self._ask(self._command(cell))[0])
            value = self._fetched[cell]
        elif cell not in self._fetched and not (isinstance(cell, tuple) and cell[0] in self._dropped):
            self.speculated = True
        self._cells[cell] = value
        if not (isinstance(cell, tuple) and cell[0] in self._dropped):
            self._found[cell] = value
        return value

    def _command(self, cell: Cell) -> Command:
        if isinstance(cell, tuple):
            return (b"HGET", *cell)
        return (b"GET", self.keys.attr(cell) if isinstance(cell, int) else cell)

    def _loose(self, cell: Cell) -> bytes | None:
        """The value of a cell as read or written here: never a belief, and no condition.

        For what others only add to, and what is held against limits that are soft.
        """
        if cell in self._cells:
            return self._cells[cell]
        if cell not in self._fetched:
            self._fetched[cell] = self._ask(self._command(cell))[0]
        return self._fetched[cell]

    def get(self, key: bytes) -> bytes | None:
        return self._see(key)

    def opening(self, ino: int) -> tuple[Attr | None, bytes | None]:
        return self.attr(ino), None

    def record(self, ino: int) -> bytes | None:
        return self._see(ino)

    def field(self, key: bytes, field: bytes) -> bytes | None:
        return self._see((key, field))

    def hash(self, key: bytes) -> dict[bytes, bytes]:
        if key not in self._hashes and key not in self._dropped:
            fetched = self._fetched_whole.get(key)
            self._hashes[key] = pairs(self._ask((b"HGETALL", key))[0] if fetched is None else fetched)
        seen = {} if key in self._dropped else dict(self._hashes[key])
        for cell in self._written:
            if isinstance(cell, tuple) and cell[0] == key:
                value = self._cells[cell]
                if value is None:
                    seen.pop(cell[1], None)
                else:
                    seen[cell[1]] = value
        for (hash_key, field), delta in self._counts.items():
            if hash_key == key:
                seen[field] = b"%d" % (int(seen.get(field, 0)) + delta)
        return seen

    def exists(self, key: bytes) -> bool:
        """Whether a hash has fields. Without knowledge the first try believes that it is empty: rmdir hopes so."""
        written = [self._cells[cell] for cell in self._written if isinstance(cell, tuple) and cell[0] == key]
        if any(value is not None for value in written):
            return True
        if written:
            return bool(self.hash(key))
        if key not in self._presence:
            if key in self._fetched_presence:
                self._presence[key] = self._fetched_presence[key]
            elif self._speculate:
                self.speculated, self._presence[key] = True, False
            else:
                self._presence[key] = bool(self._ask((b"EXISTS", key))[0])
        return self._presence[key]

    def items(self, key: bytes) -> bytes:
        replaced, data = self._list_writes.get(key, (False, b""))
        if replaced:
            return data
        if key not in self._lists:
            fetched = self._fetched_whole.get(key)
            self._lists[key] = joined(self._ask((b"LRANGE", key, 0, -1))[0] if fetched is None else fetched)
        return self._lists[key] + data

    def list_entries(self, ino: int, *, plus: bool = False, cursor: Cursor = None, limit: int = -1) -> DirPage:
        """Everything at once, by name, whatever the limit."""
        found = [(name, decode_entry(data)) for name, data in sorted(self.hash(self.keys.entries(ino)).items())]
        items = [DirItem(name, e.ino, e.type, self.attr(e.ino) if plus else None) for name, e in found]
        return DirPage(items, None)

    def dir_stat(self, ino: int) -> DirStat | None:
        keys, field = self.keys, b"%d" % ino
        found = [self.field(key, field) for key in (keys.dir_length, keys.dir_space, keys.dir_inodes)]
        if None in found:
            return None
        added = self._stats.get(ino, DirStat(0, 0, 0))
        return DirStat(*[int(value or 0) + more for value, more in zip(found, added, strict=True)])

    def counter(self, name: str) -> int:
        """Totals may be a moment old: the limits that they are held against are soft."""
        if name not in TOTALS or self.keys.counter(name) in self._written:
            return int(self.get(self.keys.counter(name)) or 0)
        known = self._totals.get(name)
        if known is None or time.monotonic() - known[1] > _BELIEVED_S:
            known = (int(self._ask((b"GET", self.keys.counter(name)))[0] or 0), time.monotonic())
            self._totals[name] = known
        return known[0] + self._usage[TOTALS.index(name)]

    def slice_refs(self, slice_id: int, size: int) -> int:
        cell = (self.keys.slice_refs, k.slice_field(slice_id, size))
        return int(self._see(cell) or 0) + self._counts.get(cell, 0) + 1

    def session(self, sid: int) -> SessionRecord | None:
        return self._sessions[sid] if sid in self._sessions else super().session(sid)

    def sustained(self, sid: int) -> list[int]:
        found = set(super().sustained(sid))
        for (session, ino), there in self._sustained.items():
            if session == sid:
                (found.add if there else found.discard)(ino)
        return sorted(found)

    def conditions(self) -> Conditions:
        """What must still be so when the writes are applied."""
        conditions = Conditions(self.keys)
        for cell, value in self._found.items():
            # a time that is set to what it was found to be must not be merged with what others have made of it
            exact = cell in self._written and isinstance(cell, int) and sets_times(value, self._cells[cell])
            conditions.cell(cell, value, exact)
        for key, fields in self._hashes.items():
            conditions.hash(key, fields)
        for key, data in self._lists.items():
            conditions.list(key, data)
        for key, there in self._presence.items():
            conditions.presence(key, there)
        return conditions
