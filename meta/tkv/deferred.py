"""Totals that all transactions would write and conflict over: collected in memory, added about once a second.

Official clients do the same. A client that dies takes a second of them with it; `fsck` and `quota check` count again.
Not how they are added (engine).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from meta.transaction import DirStat


@dataclass(slots=True)
class Totals:
    """Changes of the volume's usage, and of statistics of directories by their inode."""

    space: int = 0
    inodes: int = 0
    dirs: dict[int, DirStat] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.space or self.inodes or self.dirs)

    def add_dir(self, ino: int, delta: DirStat) -> None:
        """Add to what is collected for one directory."""
        self.dirs[ino] = plus(self.dirs.get(ino, DirStat(0, 0, 0)), delta)

    def add(self, other: Totals) -> None:
        """Add all that another one has."""
        self.space += other.space
        self.inodes += other.inodes
        for ino, delta in other.dirs.items():
            self.add_dir(ino, delta)


class Deferred:
    """Totals of committed transactions that wait to be added. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals = Totals()

    def collect(self, totals: Totals) -> None:
        """For later."""
        if totals:
            with self._lock:
                self._totals.add(totals)

    def take(self) -> Totals:
        """All of it; who cannot add it must give it back (`collect`)."""
        with self._lock:
            taken, self._totals = self._totals, Totals()
            return taken


def plus(stat: DirStat, delta: DirStat) -> DirStat:
    """The sum of two."""
    return DirStat(stat.length + delta.length, stat.space + delta.space, stat.inodes + delta.inodes)


def parts(dirs: Mapping[int, DirStat], size: int) -> list[dict[int, DirStat]]:
    """At most `size` directories each, for one transaction each."""
    items = list(dirs.items())
    return [dict(items[begin : begin + size]) for begin in range(0, len(items), size)]
