"""How much lies below a directory: bytes, space, files and directories.

Not usage and quotas, which are kept up to date as things change; this counts. Fast by the statistics that directories
keep of their direct children (then only subdirectories are visited), exact (`strict`) by the attributes of each inode.
"""

from __future__ import annotations

import errno
import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from meta.attr import Attr
from meta.errors import Refused
from meta.rules.context import Volume
from meta.rules.lookup import entries
from meta.rules.waiting import Directories
from meta.transaction import Reader
from meta.types import DIR_LENGTH, DIRECTORY


class Summary(NamedTuple):
    """Totals. `length`: bytes of regular files; `size`: space accounted for; `dirs` counts the top as well."""

    length: int = 0
    size: int = 0
    files: int = 0
    dirs: int = 0

    def plus(self, other: Summary) -> Summary:
        return Summary(*[mine + theirs for mine, theirs in zip(self, other, strict=True)])


@dataclass(slots=True)
class TreeSummary:
    """A directory (or file) with its totals and its biggest children."""

    ino: int
    name: bytes
    type: int
    total: Summary
    children: list[TreeSummary] = field(default_factory=list)


def summarize(reader: Reader, vol: Volume, ino: int, *, recursive: bool = True, strict: bool = False) -> Summary:
    """Totals of what an inode holds, itself included. Names are counted, so a file with two links counts twice.

    Without `recursive`, subdirectories count as entries only. A volume that keeps no statistics is always counted.
    """
    strict = strict or not vol.setting.dir_stats
    attr = reader.attr(ino)
    if attr is None:
        raise Refused(errno.ENOENT)
    if not attr.is_dir:
        return _leaf(attr)
    total = Summary(0, DIR_LENGTH, 0, 1)
    with Directories(ino) as waiting:
        while (directory := waiting.pop()) is not None:
            total = total.plus(_directory(reader, directory, strict, waiting if recursive else None))
    return total


def summarize_tree(
    reader: Reader, vol: Volume, ino: int, depth: int = 2, top: int = 10, *, strict: bool = False, name: bytes = b""
) -> TreeSummary:
    """Totals of a tree, broken down `depth` levels with the `top` biggest entries of each directory.

    What is left out of a directory is collected in one child named "...".
    """
    attr = reader.attr(ino)
    if attr is None:
        raise Refused(errno.ENOENT)
    if not attr.is_dir or depth <= 0:
        return TreeSummary(ino, name, attr.type, summarize(reader, vol, ino, strict=strict))
    return _break_down(reader, vol, ino, name, depth, top, strict)


def _break_down(reader: Reader, vol: Volume, ino: int, name: bytes, depth: int, top: int, strict: bool) -> TreeSummary:
    tree = TreeSummary(ino, name, DIRECTORY, Summary(0, DIR_LENGTH, 0, 1))
    kept: list[tuple[int, int, TreeSummary]] = []  # a heap of the biggest by size; numbers keep it from comparing trees
    rest, left_out = Summary(), 0
    for number, child in enumerate(_children(reader, vol, ino, depth - 1, top, strict)):
        tree.total = tree.total.plus(child.total)
        item = (child.total.size, -number, child)
        dropped = item
        if len(kept) < top:
            heapq.heappush(kept, item)
            continue
        if kept:
            dropped = heapq.heappushpop(kept, item)
        rest, left_out = rest.plus(dropped[2].total), left_out + 1
    tree.children = [item[2] for item in sorted(kept, reverse=True)]
    if left_out and top > 0:
        tree.children.append(TreeSummary(0, b"...", 0, rest))
    return tree


def _children(reader: Reader, vol: Volume, ino: int, depth: int, top: int, strict: bool) -> Iterator[TreeSummary]:
    for page in entries(reader, ino, plus=True):
        for item in page:
            if item.type == DIRECTORY:
                yield summarize_tree(reader, vol, item.ino, depth, top, strict=strict, name=item.name)
            elif item.attr is not None:
                yield TreeSummary(item.ino, item.name, item.type, _leaf(item.attr))


def _leaf(attr: Attr) -> Summary:
    return Summary(attr.length if attr.is_file else 0, attr.space, 1, 0)


def _directory(reader: Reader, ino: int, strict: bool, waiting: Directories | None) -> Summary:
    """Totals of a directory's children; those that are directories are added to `waiting`."""
    stat = None if strict else reader.dir_stat(ino)
    if stat is not None and min(stat) < 0:
        stat = None
    leaves = Summary()
    count = dirs = 0
    for page in entries(reader, ino, plus=stat is None):
        below = [item.ino for item in page if item.type == DIRECTORY]
        count, dirs = count + len(page), dirs + len(below)
        if waiting is not None:
            waiting.add(below)
        for item in page if stat is None else ():
            if item.type != DIRECTORY and item.attr is not None:
                leaves = leaves.plus(_leaf(item.attr))
    if stat is not None:
        leaves = Summary(stat.length, stat.space - DIR_LENGTH * dirs, count - dirs, 0)
    return leaves.plus(Summary(0, DIR_LENGTH * dirs, 0, dirs))
