"""Which of several cache directories keeps a block: a consistent hash ring, the same as upstream's.

Not about what directories do. Point r of a node is murmur3(decimal(r) + id); a key belongs to the first point at or
after its own hash, around the end. With two nodes or more the number of points of each is adjusted, at most five times,
until their arcs are about equal.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

_REPLICAS = 100
_ROUNDS = 5
_SPACE = 1 << 32


def murmur3(data: bytes) -> int:
    """MurmurHash3 x86 32 bits, seed 0."""
    value = 0
    whole = len(data) & ~3
    for start in range(0, whole, 4):
        k = int.from_bytes(data[start : start + 4], "little") * 0xCC9E2D51 & 0xFFFFFFFF
        k = (k << 15 | k >> 17) * 0x1B873593 & 0xFFFFFFFF
        value ^= k
        value = (value << 13 | value >> 19) * 5 + 0xE6546B64 & 0xFFFFFFFF
    if tail := data[whole:]:
        k = int.from_bytes(tail, "little") * 0xCC9E2D51 & 0xFFFFFFFF
        value ^= (k << 15 | k >> 17) * 0x1B873593 & 0xFFFFFFFF
    value ^= len(data)
    value = (value ^ value >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    value = (value ^ value >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return value ^ value >> 16


def fnv1(data: bytes) -> int:
    """FNV-1, 32 bits (not 1a): where releases before the ring put a block."""
    value = 0x811C9DC5
    for byte in data:
        value = (value * 0x01000193 & 0xFFFFFFFF) ^ byte
    return value


class Ring:
    """Owners of keys among the ids of cache directories."""

    def __init__(self, ids: Sequence[str]) -> None:
        replicas = dict.fromkeys(ids, _REPLICAS)
        points = _points(replicas)
        for _ in range(_ROUNDS if len(replicas) > 1 else 0):
            if not _adjust(replicas, points):
                break
            points = _points(replicas)
        self._hashes = [value for value, _ in points]
        self._owners = [node for _, node in points]

    def owner(self, key: str) -> str:
        """The id that owns a key."""
        place = bisect_left(self._hashes, murmur3(key.encode()))
        return self._owners[place % len(self._owners)]


def _points(replicas: dict[str, int]) -> list[tuple[int, str]]:
    return sorted((murmur3(f"{r}{node}".encode()), node) for node, count in replicas.items() for r in range(count))


def _adjust(replicas: dict[str, int], points: list[tuple[int, str]]) -> bool:
    """Give a node more points for a small share of the ring, fewer for a large one. False when nothing changed."""
    arcs = dict.fromkeys(replicas, 0)
    previous = points[-1][0] - _SPACE
    for value, node in points:
        arcs[node] += value - previous
        previous = value
    expected = 1 / len(replicas)
    changed = False
    for node, count in replicas.items():
        change = int(count * (expected - arcs[node] / _SPACE) / expected * 0.75)
        if change != 1:
            replicas[node] = max(1, count + change)
            changed |= change != 0
    return changed
