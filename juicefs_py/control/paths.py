"""From the paths that a control command names to the files below them. Not how the kernel walks: it asks name by name.

Symlinks in the paths are followed, those in the trees are not. Absolute ones lead out of the mount and are refused,
unless they lead back in by the mount point's own name.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from juicefs_py.control.rights import READ, SEARCH, Rights
from meta.attr import Attr
from meta.errors import MetaError, Refused
from meta.rules.access import require
from meta.rules.lookup import entries
from meta.transaction import DirItem
from meta.types import DIRECTORY, FILE, ROOT, SYMLINK, Caller

if TYPE_CHECKING:
    from juicefs_py.control.channel import Job
    from meta.client import MetaClient

MAX_LINKS = 40
BY_NUMBER = b"inode:"

Found = tuple[int, Attr]
Failed = Callable[[Exception, Callable[[], str]], None]
"""Told what failed, and how to find out the name of what it failed with."""


class Finder:
    """Finds files for one job of one caller. What cannot be reached or listed is handed to `failed`, and passed over.

    Of each directory on the way down a page is held, whatever its size.
    """

    def __init__(self, meta: MetaClient, caller: Caller, mount_point: str, job: Job, failed: Failed) -> None:
        self._meta = meta
        self._caller = caller
        self._mount_point = mount_point
        self._job = job
        self._failed = failed

    def find(self, paths: list[bytes]) -> Iterator[Found]:
        """The files at and below all paths, until the job is cancelled. Empty is the root of the mount."""
        for path in paths:
            try:
                ino, attr = self._look_up(path)
            except MetaError as problem:
                self._failed(problem, lambda path=path: shown(path) or "/")  # type: ignore[misc]
            else:
                if attr.type == FILE:
                    yield ino, attr
                elif attr.type == DIRECTORY:
                    yield from self._walk(ino, attr)
            if self._job.cancelled:
                return

    def _look_up(self, path: bytes) -> Found:
        ino = numbered(path)
        if ino is None:
            return follow(self._meta, self._caller, path, self._mount_point)
        Rights(self._meta, self._caller).reach(ino)
        return ino, self._meta.getattr(ino)

    def _walk(self, ino: int, attr: Attr) -> Iterator[Found]:
        above = [self._entries(ino, attr)]
        while above and not self._job.cancelled:
            item = next(above[-1], None)
            if item is None:
                above.pop()
            elif item.attr is not None and item.type == DIRECTORY:
                above.append(self._entries(item.ino, item.attr))
            elif item.attr is not None and item.type == FILE:
                yield item.ino, item.attr

    def _entries(self, ino: int, attr: Attr) -> Iterator[DirItem]:
        reader = self._meta.reader
        try:
            require(reader, self._caller, attr, READ | SEARCH)
            for page in entries(reader, self._meta.root if ino == ROOT else ino, plus=True):
                yield from page
        except MetaError as problem:
            self._failed(problem, lambda: name_of(self._meta, ino))


def shown(path: bytes) -> str:
    """A path as text that can be printed everywhere."""
    return path.decode(errors="backslashreplace")


def name_of(meta: MetaClient, ino: int) -> str:
    """A path of an inode, for people."""
    try:
        paths = meta.paths(ino)
    except MetaError:
        paths = []
    return shown(paths[0]) if paths else f"inode {ino}"


def numbered(path: bytes) -> int | None:
    """The inode that a path of the form `inode:N` names."""
    number = path[len(BY_NUMBER) :]
    return int(number) if path.startswith(BY_NUMBER) and number.isdigit() else None


def follow(meta: MetaClient, caller: Caller, path: bytes, mount_point: str) -> tuple[int, Attr]:
    """The inode and attributes at the end of `path`, which begins at the root of the mount."""
    try:
        ino, attr = meta.resolve(caller, b"/" + path.strip(b"/"))
    except Refused as problem:
        if problem.errno not in (errno.ENOTDIR, errno.ENOENT):
            raise
    else:
        if attr.type != SYMLINK:
            return ino, attr
    return _follow_links(meta, caller, path, os.fsencode(mount_point))


def _follow_links(meta: MetaClient, caller: Caller, path: bytes, mount_point: bytes) -> tuple[int, Attr]:
    """The same name by name."""
    trail = [(ROOT, meta.getattr(ROOT))]
    names, links = deque(_names(path)), 0
    while names:
        name = names.popleft()
        if name == b"..":
            trail = trail[:-1] or trail
            continue
        ino, attr = meta.lookup(caller, trail[-1][0], name)
        if attr.type != SYMLINK:
            trail.append((ino, attr))
            continue
        links += 1
        if links > MAX_LINKS:
            raise Refused(errno.ELOOP)
        target = meta.readlink(ino)
        if target.startswith(b"/"):
            if not (target + b"/").startswith(mount_point.rstrip(b"/") + b"/"):
                raise Refused(errno.ENOTSUP, f"symlink to {shown(target)}, which is outside of the mount")
            target, trail = target[len(mount_point.rstrip(b"/")) :], trail[:1]
        names.extendleft(reversed(_names(target)))
    return trail[-1]


def _names(path: bytes) -> list[bytes]:
    return [name for name in path.split(b"/") if name not in (b"", b".")]
