"""Names of block objects: how slice, block number and length become a key, and back.

Not what is in them (`chunkstore.compress`). The same key, relative to the volume's prefix, names cache files.
Format: `chunks/{id/10^6}/{id/10^3}/{id}_{indx}_{size}`, or with a hash prefix
`chunks/{id%256:02X}/{id/10^6}/{id}_{indx}_{size}`. The size is always that of the plain data, compressed or not.
Offsets count from the start of the slice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

MIN_BLOCK_SIZE = 64 << 10
MAX_BLOCK_SIZE = 16 << 20

_NAME = re.compile(r"(\d+)_(\d+)_(\d+)")


class Block(NamedTuple):
    """One object's worth of a slice."""

    slice_id: int
    indx: int
    size: int  # bytes of plain data

    def key(self, hash_prefix: bool = False) -> str:
        """Its name, relative to the volume's prefix."""
        number = self.slice_id
        if hash_prefix:
            return f"chunks/{number % 256:02X}/{number // 1000000}/{number}_{self.indx}_{self.size}"
        return f"chunks/{number // 1000000}/{number // 1000}/{number}_{self.indx}_{self.size}"


def blocks_of(slice_id: int, size: int, block_size: int) -> Iterator[Block]:
    """The blocks of a slice in order; only the last may be shorter. An empty slice has none."""
    for index in range((size + block_size - 1) // block_size):
        yield Block(slice_id, index, min(block_size, size - index * block_size))


def block_at(slice_id: int, size: int, offset: int, block_size: int) -> Block:
    """The block of a slice that holds the byte at `offset`."""
    index = offset // block_size
    return Block(slice_id, index, min(block_size, size - index * block_size))


def parse(name: str) -> Block | None:
    """The block that a key, or its last part, names; None if it names none."""
    match = _NAME.fullmatch(name, name.rfind("/") + 1)
    return Block(int(match[1]), int(match[2]), int(match[3])) if match else None
