"""Which store leads the region of a key, as far as it is known. Not how stores are asked (cluster)."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterable
from typing import Any, Final

from meta.tkv.tikv.messages import message
from meta.tkv.tikv.pd import Pd

_AT_MOST: Final = 100_000
"""Regions that are remembered; beyond, all are forgotten and asked for again as they are needed."""


class Region:
    """Keys from `start` up to, not including, `end` (empty: no end), and who serves them. Never changed."""

    __slots__ = ("context", "end", "id", "peers", "start", "store")

    def __init__(self, described: Any, leader: Any) -> None:
        self.id: int = described.id
        self.start: bytes = described.start_key
        self.end: bytes = described.end_key
        self.peers: list[Any] = list(described.peers)
        chosen = leader if leader is not None and leader.id else self.peers[0]
        self.store: int = chosen.store_id
        self.context = message("Context")(region_id=self.id, region_epoch=described.region_epoch, peer=chosen)

    def holds(self, key: bytes) -> bool:
        """Whether the key is one of this region's."""
        return self.start <= key and (not self.end or key < self.end)

    def led_by(self, peer: Any) -> Region:
        """The same region with another leader."""
        other = Region.__new__(Region)
        other.id, other.start, other.end, other.peers = self.id, self.start, self.end, self.peers
        other.store = peer.store_id
        other.context = message("Context")(region_id=self.id, region_epoch=self.context.region_epoch, peer=peer)
        return other


class Regions:
    """What is known about regions. Thread-safe."""

    def __init__(self, pd: Pd) -> None:
        self._pd = pd
        self._starts: list[bytes] = []
        self._regions: list[Region] = []
        self._lock = threading.Lock()

    def of(self, key: bytes) -> Region:
        """The region of a key."""
        with self._lock:
            at = bisect_right(self._starts, key) - 1
            if at >= 0 and self._regions[at].holds(key):
                return self._regions[at]
        region = Region(*self._pd.region(key))
        self.learn(region)
        return region

    def group(self, keys: Iterable[bytes]) -> dict[Region, list[bytes]]:
        """Keys by region, in order."""
        groups: dict[Region, list[bytes]] = {}
        region: Region | None = None
        for key in sorted(keys):
            if region is None or not region.holds(key):
                region = self.of(key)
            groups.setdefault(region, []).append(key)
        return groups

    def learn(self, region: Region) -> None:
        """Remember a region, instead of those that overlap with it."""
        with self._lock:
            if len(self._regions) >= _AT_MOST:
                self._starts, self._regions = [], []
            first = bisect_right(self._starts, region.start)
            while first and (not self._regions[first - 1].end or self._regions[first - 1].end > region.start):
                first -= 1
            last = first
            while last < len(self._regions) and (not region.end or self._starts[last] < region.end):
                last += 1
            self._starts[first:last] = [region.start]
            self._regions[first:last] = [region]

    def forget(self, region: Region) -> None:
        """It is not as it was thought to be."""
        with self._lock:
            at = bisect_right(self._starts, region.start) - 1
            if at >= 0 and self._regions[at] is region:
                del self._starts[at], self._regions[at]
