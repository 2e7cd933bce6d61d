"""Whether directories are what their entries say: records, link counts, statistics; and repairing them.

Not blocks (`fsck_blocks`), and not the counting and repairing itself, which are rules (`meta.rules.repair`). The walk
holds a page of entries per level. On a volume in use, whatever looks wrong is looked at once more, as of one moment.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from typing import NamedTuple

from juicefs_py.cli.progress import Progress
from juicefs_py.maintenance.names import shown
from meta.attr import Attr
from meta.client import MetaClient
from meta.errors import Refused
from meta.rules.lookup import entries
from meta.rules.repair import Count, inspect_links, inspect_stat, repair_links, sync_dir_stat, sync_usage
from meta.transaction import DirStat
from meta.types import DIRECTORY, FILE, ROOT, TRASH, TRASH_NAME

log = logging.getLogger(__name__)


class Wish(NamedTuple):
    """What is to be checked, and what done about it. `mode` is for directories that have lost their record."""

    path: str
    repair: bool = False
    recursive: bool = False
    sync_stat: bool = False
    mode: int = 0o755


class Node(NamedTuple):
    """A name and what it leads to; no attributes: the record is missing."""

    ino: int
    type: int
    attr: Attr | None
    path: bytes
    parent: int

    def __str__(self) -> str:
        return shown(self.path)


class TreeCheck:
    """One check. `files` runs it; `failed` then tells whether anything is left wrong."""

    def __init__(self, meta: MetaClient, wish: Wish, progress: Progress) -> None:
        self._meta = meta
        self._reader = meta.reader
        self._wish = wish
        self._in_trash = False  # no statistics are kept of what is there
        self.checked = progress.spinner("Checked nodes")
        self.failed = False
        if wish.sync_stat and not meta.setting.dir_stats:
            log.warning("dir stats is disabled, flag '--sync-dir-stat' will be ignored")

    def files(self) -> Iterator[Node]:
        """Check the tree at the path; its files, those without attributes left out."""
        top = self._find()
        for node in self._walk(top):
            self.checked.advance()
            if node.type != DIRECTORY and node.attr is None:
                self._lost_record(node)
            elif node.type == FILE:
                yield node
        wish = self._wish
        if top.ino == ROOT and wish.repair and wish.recursive and wish.sync_stat:
            log.info("the volume uses %d bytes and %d inodes", *sync_usage(self._meta.vol))

    def _find(self) -> Node:
        """What the path leads to. `Refused` if it leads nowhere."""
        node = Node(ROOT, DIRECTORY, self._reader.attr(ROOT), b"/", ROOT)
        for name in filter(None, os.fsencode(self._wish.path).split(b"/")):
            if node.attr is None:
                log.warning(
                    "Attribute of %s (inode %d) is missing, please re-run with '--path %s --repair' to fix it",
                    node, node.ino, node,
                )  # fmt: skip
            path = os.path.join(node.path, name)
            if node.ino == ROOT and name == TRASH_NAME:
                node = Node(TRASH, DIRECTORY, self._reader.attr(TRASH), path, ROOT)
                self._in_trash = True
                continue
            found = self._reader.target(node.ino, name) if node.type == DIRECTORY else None
            if found is None:
                raise Refused(errno.ENOENT, f"{shown(path)}: no such file or directory")
            node = Node(found[0].ino, found[0].type, found[1], path, node.ino)
        return node

    def _walk(self, top: Node) -> Iterator[Node]:
        """Everything from `top` on, or only that. A directory is checked when all in it has been seen."""
        yield top
        if top.type != DIRECTORY:
            return
        above, listings = [top.ino], [self._listing(top)]
        while listings:
            node = next(listings[-1], None)
            if node is None:
                listings.pop()
                above.pop()
            elif self._wish.recursive:
                yield node
                if node.type == DIRECTORY and node.ino in above:
                    log.warning("%s (inode %d) contains itself", node, node.ino)
                    self.failed = True
                elif node.type == DIRECTORY:
                    above.append(node.ino)
                    listings.append(self._listing(node))

    def _listing(self, directory: Node) -> Iterator[Node]:
        """What is in a directory; behind the last entry it is checked."""
        count = Count()
        for page in entries(self._reader, directory.ino, plus=True):
            for item in page:
                count = count.plus(item)
                path = os.path.join(directory.path, item.name)
                yield Node(item.ino, item.type, item.attr, path, directory.ino)
        try:
            self._check_links(directory, count)
            if self._meta.setting.dir_stats and not self._in_trash:
                self._check_stat(directory, count)
        except Refused as problem:
            log.error("%s (inode %d) cannot be checked or repaired: %s", directory, directory.ino, problem)
            self.failed = True

    def _check_links(self, node: Node, count: Count) -> None:
        if node.ino >= TRASH:  # nor are their link counts
            return
        if node.attr is None:
            if self._reader.attr(node.ino) is not None or not self._is_named(node):
                return
            log.warning("attribute of %s is missing", node)
        else:
            if node.attr.nlink == count.nlink:
                return
            attr, nlink = inspect_links(self._reader, node.ino)
            if attr is None or attr.nlink == nlink:
                return
            log.warning("nlink of %s should be %d, but got %d", node, nlink, attr.nlink)
        if self._wish.repair:
            repair_links(self._meta.vol, node.ino, node.parent, self._wish.mode)
            log.debug("Path %s (inode %d) is successfully repaired", node, node.ino)
        else:
            self.failed = True
            log.warning(
                "Path %s (inode %d) can be repaired, please re-run with '--path %s --repair' to fix it",
                node, node.ino, node,
            )  # fmt: skip

    def _is_named(self, node: Node) -> bool:
        """Whether the name still leads there."""
        if node.ino == ROOT:
            return True
        entry = self._reader.entry(node.parent, os.path.basename(node.path))
        return entry is not None and entry.ino == node.ino

    def _check_stat(self, node: Node, count: Count) -> None:
        stat = self._reader.dir_stat(node.ino)
        if stat == count.stat or self._reader.attr(node.ino) is None:
            return
        if stat is None or stat.space < 0 or stat.inodes < 0:
            log.warning("usage stat of %s is missing or broken", node)
        elif self._wish.sync_stat:
            stat, right = inspect_stat(self._reader, node.ino)
            if stat == right:
                return
            log.warning("usage stat of %s should be %s, but got %s", node, _told(right), _told(stat))
        else:
            return
        if self._wish.repair:
            sync_dir_stat(self._meta.vol, node.ino)
            log.debug("Stat of path %s (inode %d) is successfully synced", node, node.ino)
        else:
            self.failed = True
            log.warning(
                "Stat of path %s (inode %d) should be synced, please re-run with '--path %s --repair --sync-dir-stat'"
                " to fix it",
                node, node.ino, node,
            )  # fmt: skip

    def _lost_record(self, node: Node) -> None:
        if self._reader.attr(node.ino) is not None or not self._is_named(node):
            return
        self.failed = True
        log.warning(
            "Attribute of %s (inode %d type %d) is missing and cannot be auto-repaired, please repair it manually or"
            " remove it",
            node, node.ino, node.type,
        )  # fmt: skip


def _told(stat: DirStat | None) -> str:
    if stat is None:
        return "nothing"
    return f"{stat.length} bytes in {stat.inodes} inodes using {stat.space}"
