"""Following names from directory to directory, one by one: for engines where a round trip costs nothing."""

from __future__ import annotations

from collections.abc import Sequence

from meta.attr import Attr
from meta.transaction import Reader
from meta.types import Dirent


def follow(reader: Reader, start: int, names: Sequence[bytes]) -> list[tuple[Dirent, Attr | None]]:
    """`Reader.targets` by `Reader.target`: as far as there are entries."""
    found: list[tuple[Dirent, Attr | None]] = []
    ino = start
    for name in names:
        target = reader.target(ino, name)
        if target is None:
            break
        found.append(target)
        ino = target[0].ino
    return found
