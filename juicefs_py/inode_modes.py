"""What is known of one inode that the kernel may read past us: its node ids, handles and copies. Decides nothing.

Not thread-safe: `passthrough` holds the inode's lock.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from typing import Final

from chunkstore.cache.assembled import AssembledDir, Copy, write_all
from meta.attr import Attr

Buffer = bytes | bytearray | memoryview

STEADY_S: Final = 5.0
"""How long the node id of an inode with an alias stays the current one after the last close, and how long nothing but
ordinary handles is opened on a new one: who is on the way to it must not be sent on, as the kernel asks only twice."""
_LONG_AGO: Final = -1e9
_VERSION: Final = re.compile(r"\d+-(-?\d+)-(\d+)-.*")


def version_of(attr: Attr) -> str:
    """The version of a file's content."""
    return f"{attr.length}-{attr.mtime}-{attr.mtimensec}-{attr.ctime}-{attr.ctimensec}"


def mtime_of(version: str) -> tuple[int, int] | None:
    """The modification time of such a version, seconds and nanoseconds; None of one that was altered."""
    words = _VERSION.fullmatch(version)
    return (int(words[1]), int(words[2])) if words else None


class Live:
    """A copy in the hands of the kernel. Without `copy`, one that was not found again after a hand-over."""

    __slots__ = ("copy", "foreign", "handles", "node", "number", "outdated", "place", "version")

    def __init__(self, node: int, place: AssembledDir | None, copy: Copy | None, number: int) -> None:
        self.node = node
        self.place = place
        self.copy = copy
        self.number = number  # the backing id; 0: only mapped
        self.handles = 0
        self.foreign = 0  # `OpenFiles.foreign` of what it holds
        self.version = copy.version if copy is not None and not copy.altered else ""
        self.outdated = copy is not None and copy.altered  # it may hold what was lost, or lack what others wrote

    def write(self, data: Buffer, offset: int) -> None:
        """Write all of it into the copy. OSError as it comes."""
        assert self.copy is not None
        write_all(self.copy.fd, data, offset)

    def resize(self, length: int) -> None:
        """Give the copy this length. OSError as it comes."""
        assert self.copy is not None
        os.ftruncate(self.copy.fd, length)


class Mode:
    """An inode that has handles, or copies that somebody uses."""

    __slots__ = ("lives", "node", "ordinary", "renewed_at", "steady")

    def __init__(self, node: int) -> None:
        self.node = node  # the current one, as long as there are handles
        self.renewed_at = _LONG_AGO  # time.monotonic() when it was made up
        self.steady = _LONG_AGO  # until when it stays current without handles
        self.ordinary: Counter[int] = Counter()  # handles through us, by node id
        self.lives: dict[int, Live] = {}

    def begin(self, node: int) -> None:
        """Another node id is the current one, which the kernel knows already."""
        self.node, self.renewed_at = node, _LONG_AGO

    @property
    def is_open(self) -> bool:
        return bool(self.ordinary) or any(live.handles for live in self.lives.values())

    @property
    def is_settled(self) -> bool:
        """Whether the node id is the current one for everybody."""
        return self.is_open or time.monotonic() < self.steady

    @property
    def is_ripe(self) -> bool:
        """Whether nobody is on the way to a new node id for another purpose than passthrough."""
        return time.monotonic() - self.renewed_at > STEADY_S
