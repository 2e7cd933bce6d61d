"""An ordered key/value store in memory, with real snapshots and conflicts, for tests and `memkv://`. Not durable.

Who runs: any thread; `_lock` guards everything and is never held over a caller's code. A key's history is a list of
(version, value or None), oldest first; versions that nobody can see are dropped when the last open transaction ends.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator

from meta.errors import Conflict
from meta.tkv.kv import KvReader, KvTransaction, overlaid

_BATCH = 500  # pairs that a scan takes at once under the lock

_stores: dict[str, MemoryStore] = {}
_stores_lock = threading.Lock()


class MemoryStore:
    """`KvStore` in memory."""

    name = "memkv"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._version = 0
        self._keys: list[bytes] = []  # sorted
        self._history: dict[bytes, list[tuple[int, bytes | None]]] = {}
        self._open: Counter[int] = Counter()  # transactions by the version they see
        self._outdated: set[bytes] = set()  # keys with versions that may be dropped
        self.latest: KvReader = _View(self, None)

    def __repr__(self) -> str:
        return f"MemoryStore({len(self._keys)} keys, version {self._version})"

    @classmethod
    def named(cls, name: str) -> MemoryStore:
        """The store of that name in this process; without a name, a new one."""
        with _stores_lock:
            return _stores.setdefault(name, cls()) if name else cls()

    def begin(self) -> KvTransaction:
        with self._lock:
            self._open[self._version] += 1
            return MemoryTransaction(self, self._version)

    def tend(self) -> None:
        """Old versions go by themselves."""

    def close(self) -> None:
        """Nothing to release: other clients of the name may go on."""

    def read(self, key: bytes, at: int | None) -> bytes | None:
        """The value of a key at a version (None: the latest)."""
        with self._lock:
            return self._value(key, at)

    def read_range(self, begin: bytes, end: bytes, count: int, at: int | None) -> list[tuple[bytes, bytes]]:
        """At most `count` pairs of a range, at a version."""
        found: list[tuple[bytes, bytes]] = []
        with self._lock:
            for index in range(bisect_left(self._keys, begin), len(self._keys)):
                key = self._keys[index]
                if key >= end or len(found) == count:
                    break
                value = self._value(key, at)
                if value is not None:
                    found.append((key, value))
        return found

    def apply(self, start: int, held: set[bytes], writes: dict[bytes, bytes | None]) -> None:
        """Commit, unless a key that is held or written has a version newer than `start`."""
        with self._lock:
            for keys in (held, writes):
                for key in keys:
                    history = self._history.get(key)
                    if history and history[-1][0] > start:
                        raise Conflict(f"key {key!r} was changed by another transaction")
            self._version += 1
            for key, value in writes.items():
                history = self._history.get(key)
                if history is None:
                    history = self._history[key] = []
                    insort(self._keys, key)
                history.append((self._version, value))
                if len(history) > 1 or value is None:
                    self._outdated.add(key)

    def end(self, start: int) -> None:
        """A transaction that saw the version `start` is over."""
        with self._lock:
            self._open[start] -= 1
            if not self._open[start]:
                del self._open[start]
            if not self._open:
                for key in self._outdated:
                    self._drop_old(key)
                self._outdated.clear()

    def _drop_old(self, key: bytes) -> None:
        history = self._history[key]
        if history[-1][1] is None:
            del self._history[key]
            del self._keys[bisect_left(self._keys, key)]
        else:
            del history[:-1]

    def _value(self, key: bytes, at: int | None) -> bytes | None:
        history = self._history.get(key)
        if history is None:
            return None
        if at is None:
            return history[-1][1]
        for version, value in reversed(history):
            if version <= at:
                return value
        return None


class _View:
    """`KvReader` of a version."""

    def __init__(self, store: MemoryStore, at: int | None) -> None:
        self._store = store
        self._at = at

    def get(self, key: bytes) -> bytes | None:
        return self._store.read(key, self._at)

    def batch_get(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        found = {key: self.get(key) for key in keys}
        return {key: value for key, value in found.items() if value is not None}

    def scan(self, begin: bytes, end: bytes, limit: int = -1) -> Iterator[tuple[bytes, bytes]]:
        while limit:
            part = self._store.read_range(begin, end, min(_BATCH, limit) if limit > 0 else _BATCH, self._at)
            if not part:
                return
            yield from part
            limit -= len(part)
            begin = part[-1][0] + b"\0"


class MemoryTransaction(_View):
    """`KvTransaction` over a `MemoryStore`."""

    def __init__(self, store: MemoryStore, start: int) -> None:
        super().__init__(store, start)
        self.start = start
        self._held: set[bytes] = set()
        self._writes: dict[bytes, bytes | None] = {}
        self._ended = False

    def get(self, key: bytes) -> bytes | None:
        if key in self._writes:
            return self._writes[key]
        return self._store.read(key, self.start)

    def scan(self, begin: bytes, end: bytes, limit: int = -1) -> Iterator[tuple[bytes, bytes]]:
        """Keys that the range gains before the commit are not noticed, as in TiKV: the parent is held instead."""
        ours = sum(begin <= key < end for key in self._writes)
        pairs = dict(super().scan(begin, end, limit if limit < 0 else limit + ours))
        return overlaid(pairs.items(), self._writes, begin, end, limit)

    def hold(self, key: bytes) -> None:
        self._held.add(key)

    def set(self, key: bytes, value: bytes) -> None:
        self._writes[key] = value

    def delete(self, key: bytes) -> None:
        self._writes[key] = None

    def commit(self) -> None:
        if self._writes:
            self._store.apply(self.start, self._held, self._writes)

    def close(self) -> None:
        if not self._ended:
            self._ended = True
            self._store.end(self.start)
