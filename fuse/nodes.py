"""Node ids: how the kernel calls an inode, and other numbers for the same one. Not inode numbers that programs see.

An inode's node id is its own number, unless the kernel is to know it as a new one while it still has the old one, with
its page cache or its backing file: then it gets an *alias*. Layout: bit 63, 23 bits of a number, 40 bits of the inode.
Inodes beyond 40 bits have none. Operations are always given the inode; `Caller.node` tells by which node id.
"""

from __future__ import annotations

from typing import Final

ALIAS: Final = 1 << 63
_INO_BITS: Final = 40
_NUMBER_BITS: Final = 23
NUMBERS: Final = 1 << _NUMBER_BITS


def inode_of(node: int) -> int:
    """The inode that a node id stands for."""
    return node & (1 << _INO_BITS) - 1 if node & ALIAS else node


def can_alias(ino: int) -> bool:
    """Whether the inode has room for the bits of an alias."""
    return ino < 1 << _INO_BITS


def alias(ino: int, number: int) -> int:
    """The alias of this number (modulo `NUMBERS`) of an inode."""
    return ALIAS | number % NUMBERS << _INO_BITS | ino
