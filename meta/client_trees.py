"""The part of `MetaClient` about whole trees: totals, clone, removal."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable

from meta.attr import Attr
from meta.client_base import ClientBase
from meta.errors import Refused
from meta.rules.clone import Progress, clone
from meta.rules.removal import Removed
from meta.rules.summary import Summary, TreeSummary, summarize, summarize_tree
from meta.rules.tree import Report, remove_tree
from meta.slices import RECORD_SIZE
from meta.types import Caller


class TreeCalls(ClientBase):
    """Operations that take many transactions, so that others see them half done."""

    def summary(self, ino: int, *, recursive: bool = True, strict: bool = False) -> Summary:
        """Totals of what an inode holds; `strict` counts instead of trusting directory statistics."""
        return summarize(self.reader, self.vol, self._real(ino), recursive=recursive, strict=strict)

    def tree_summary(self, ino: int, depth: int = 2, top: int = 10, strict: bool = False) -> TreeSummary:
        """Totals of a tree, `depth` levels deep, with the `top` biggest entries of each directory."""
        return summarize_tree(self.reader, self.vol, self._real(ino), depth, top, strict=strict)

    def compact_all(self, ino: int = 0, stop: Callable[[], bool] = lambda: False) -> int:
        """Compact every chunk of a file, or of the volume (`ino` 0), that is worth it; how many became shorter."""
        self._check_writable()
        if ino:
            chunks: Iterable[tuple[int, int]] = [(ino, indx) for indx in sorted(self.reader.chunks(ino))]
        else:
            chunks = ((owner, indx) for owner, indx, records in self.engine.list_slices() if len(records) > RECORD_SIZE)
        done = 0
        for owner, indx in chunks:
            if stop():
                break
            done += self.compactor.compact(owner, indx)
        return done

    def clone(
        self, caller: Caller, src: int, dst_parent: int, name: bytes, mode: int, umask: int,
        progress: Progress | None = None,
    ) -> tuple[int, Attr]:  # fmt: skip
        """Clone an inode, a directory with all that is in it, as a new name. Data is shared, not copied."""
        self._check_writable()
        return clone(
            self.vol, caller, self._real(src), self._real(dst_parent), name, mode, umask, progress, self._follow
        )

    def remove_tree(
        self, caller: Caller, parent: int, name: bytes, *, skip_trash: bool = False, threads: int = 1,
        progress: Report | None = None,
    ) -> None:  # fmt: skip
        """Remove a name and everything below it; `progress` is told of every inode."""
        self._check_writable()

        def report(removed: Removed) -> None:
            self._follow(removed)
            if progress is not None:
                progress(removed)

        remove_tree(self.vol, caller, self._real(parent), name, skip_trash=skip_trash, threads=threads, removed=report)

    def _follow(self, removed: Removed) -> None:
        if removed.deleted is not None:
            self.deleter.delete_file(removed.deleted)

    def _check_writable(self) -> None:
        if self.config.read_only:
            raise Refused(errno.EROFS)
