"""What one cache directory holds: key, size and last use of each block, in as little memory as Python allows.

Not thread-safe: the directory's lock is held by whoever calls. A block costs about 150 bytes: one dict entry with two
integers, 8 bytes in a list and 9 in arrays. Slots are dense, so that two at random are two list look-ups; a freed slot
is filled with the last one. Sizes below zero mark staged blocks, which are never evicted nor counted.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator

ENTRY_COST = 4096  # a block takes at least a page of disk besides its data, as upstream counts
_INDX_BITS = 16


def pack(slice_id: int, indx: int) -> int:
    """A block's name as one number."""
    return slice_id << _INDX_BITS | indx


def unpack(key: int) -> tuple[int, int]:
    return key >> _INDX_BITS, key & (1 << _INDX_BITS) - 1


class Index:
    """Blocks by packed key."""

    def __init__(self, seed: int | None = None) -> None:
        self.used = 0  # bytes, with ENTRY_COST for each counted block, and of what else is held
        self.staged = 0  # blocks
        self._slots: dict[int, int] = {}
        self._keys: list[int] = []  # shares the dict's integers
        self._sizes = array("i")
        self._atimes = array("I")
        self._marks = array("B")
        self._mark = 0
        self._random = random.Random(seed)

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: int) -> bool:
        return key in self._slots

    def size(self, key: int) -> int | None:
        """Its size, negative when staged; None if it is not here."""
        slot = self._slots.get(key)
        return None if slot is None else self._sizes[slot]

    def touch(self, key: int, now: int) -> bool:
        """Note a use. False if the block is not here."""
        slot = self._slots.get(key)
        if slot is None:
            return False
        self._atimes[slot] = now
        return True

    def add(self, key: int, size: int, atime: int) -> None:
        """Register a block; of one that is known, the later use counts."""
        slot = self._slots.get(key)
        if slot is None:
            self._slots[key] = len(self._keys)
            self._keys.append(key)
            self._sizes.append(size)
            self._atimes.append(atime)
            self._marks.append(self._mark)
        else:
            self._account(self._sizes[slot], -1)
            self._sizes[slot] = size
            self._atimes[slot] = max(atime, self._atimes[slot])
            self._marks[slot] = self._mark
        self._account(size, 1)

    def discard(self, key: int) -> bool:
        """Forget a block. False if it was not here."""
        slot = self._slots.pop(key, None)
        if slot is None:
            return False
        self._account(self._sizes[slot], -1)
        last = self._keys.pop()
        size, atime, mark = self._sizes.pop(), self._atimes.pop(), self._marks.pop()
        if last != key:
            self._keys[slot], self._sizes[slot], self._atimes[slot], self._marks[slot] = last, size, atime, mark
            self._slots[last] = slot
        return True

    def _account(self, size: int, sign: int) -> None:
        if size < 0:
            self.staged += sign
        else:
            self.used += sign * (size + ENTRY_COST)

    def hold(self, size: int) -> None:
        """Count bytes of the directory that are not blocks; with a minus, no longer."""
        self.used += size

    def used_at(self, key: int) -> int:
        """When a block that is here was used last."""
        return self._atimes[self._slots[key]]

    # scans

    def begin_scan(self) -> None:
        """From now on, what is added is marked."""
        self._mark ^= 1

    def end_scan(self) -> int:
        """Forget what was not added since `begin_scan`; returns how many that were."""
        stale = [key for key, mark in zip(self._keys, self._marks, strict=True) if mark != self._mark]
        for key in stale:
            self.discard(key)
        return len(stale)

    # choosing what to give up

    def older_of_two(self) -> int | None:
        """The less recently used of two blocks picked at random; None if nothing evictable was picked."""
        count = len(self._keys)
        if not count:
            return None
        first, second = int(self._random.random() * count), int(self._random.random() * count)
        evictable = [slot for slot in (first, second) if self._sizes[slot] >= 0]
        return self._keys[min(evictable, key=self._atimes.__getitem__)] if evictable else None

    def by_age(self) -> Iterator[int]:
        """Evictable blocks, least recently used first; larger, then older slices first among equals."""
        slots = [slot for slot, size in enumerate(self._sizes) if size >= 0]
        slots.sort(key=lambda slot: (self._atimes[slot], -self._sizes[slot], self._keys[slot]))
        return iter([self._keys[slot] for slot in slots])

    def unused_since(self, when: int, limit: int) -> list[int]:
        """Up to `limit` random slots' blocks that were not used since `when`."""
        count = len(self._keys)
        slots = range(count) if count <= limit else (int(self._random.random() * count) for _ in range(limit))
        return list({self._keys[slot] for slot in slots if self._atimes[slot] < when and self._sizes[slot] >= 0})
