"""Reads of the state at a timestamp. Not which timestamp (store), and no writes (commit)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from meta.errors import EngineError
from meta.tkv.tikv.cluster import Cluster, make
from meta.tkv.tikv.errors import Moved
from meta.tkv.tikv.locks import Locks
from meta.tkv.tikv.patience import Patience
from meta.tkv.tikv.regions import Region

LATEST: Final = (1 << 64) - 1
"""Instead of a timestamp, for the read of a single key: whatever is committed when the region is asked."""

_PAGE: Final = 1024


class Snapshot:
    """The state at `version`."""

    __slots__ = ("_cluster", "_locks", "_passed", "version")

    def __init__(self, cluster: Cluster, locks: Locks, version: int) -> None:
        self._cluster = cluster
        self._locks = locks
        self._passed: list[int] = []  # transactions that will commit after this state
        self.version = version

    def get(self, key: bytes) -> bytes | None:
        """The value of a key."""
        patience = Patience()
        while True:
            reply = self._cluster.single(
                "KvGet",
                key,
                lambda: make("GetRequest", key=key, version=self.version, context=self._context()),
                patience,
            )
            if not reply.HasField("error"):
                return reply.value or None  # nobody stores empty values
            self._clear([reply.error], patience)

    def batch_get(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """The values of many keys; missing ones are absent."""
        found: dict[bytes, bytes] = {}
        left = set(keys)
        patience = Patience()

        def read(part: tuple[Region, list[bytes]]) -> None:
            region, wanted = part
            request = make("BatchGetRequest", keys=wanted, version=self.version, context=self._context())
            try:
                reply = self._cluster.ask("KvBatchGet", region, request, patience)
            except Moved:
                return
            if reply.HasField("error"):
                self._clear([reply.error], patience)
                return
            locked = [pair.error for pair in reply.pairs if pair.HasField("error")]
            found.update((pair.key, pair.value) for pair in reply.pairs if not pair.HasField("error"))
            in_the_way = {error.locked.key for error in locked}
            left.difference_update(set(wanted) - in_the_way)
            if locked:
                self._clear(locked, patience)

        while left:
            self._cluster.together(read, list(self._cluster.regions.group(left).items()))
        return found

    def scan(self, begin: bytes, end: bytes, limit: int = -1) -> Iterator[tuple[bytes, bytes]]:
        """Keys of a range and their values, page by page."""
        while limit:
            count = min(_PAGE, limit) if limit > 0 else _PAGE
            pairs, begin = self.page(begin, end, count)
            yield from pairs
            limit -= len(pairs)
            if not begin:
                return

    def page(self, begin: bytes, end: bytes, count: int) -> tuple[list[tuple[bytes, bytes]], bytes]:
        """At most `count` pairs from `begin` on, and where to go on; empty at the end."""
        patience = Patience()
        while True:
            region = self._cluster.regions.of(begin)
            until = min(end, region.end) if region.end else end
            request = make(
                "ScanRequest", start_key=begin, end_key=until, limit=count, version=self.version,
                context=self._context(),
            )  # fmt: skip
            try:
                reply = self._cluster.ask("KvScan", region, request, patience)
            except Moved:
                continue
            errors = [pair.error for pair in reply.pairs if pair.HasField("error")]
            if reply.HasField("error"):
                errors.append(reply.error)
            if errors:
                self._clear(errors, patience)
                continue
            pairs = [(pair.key, pair.value) for pair in reply.pairs]
            if len(pairs) == count:
                return pairs, pairs[-1][0] + b"\0"
            if until == end:
                return pairs, b""
            if pairs:
                return pairs, until
            begin = until

    def _context(self) -> Any:
        return make("Context", resolved_locks=self._passed)

    def _clear(self, errors: Iterable[Any], patience: Patience) -> None:
        locks = []
        for error in errors:
            if not error.HasField("locked"):
                raise EngineError(f"TiKV: {describe(error)}")
            locks.append(error.locked)
        start_ts = 0 if self.version == LATEST else self.version
        self._passed += self._locks.clear(locks, start_ts, patience)


def describe(error: Any) -> str:
    """A refusal in words."""
    return str(error.abort or error.retryable or " ".join(str(error).split()))
