"""The part of `MetaClient` about whole trees: totals, clone, removal."""

from __future__ import annotations

from meta.client_base import ClientBase
from meta.rules.summary import Summary, TreeSummary, summarize, summarize_tree


class TreeCalls(ClientBase):
    """Operations that take many transactions, so that others see them half done."""

    def summary(self, ino: int, *, recursive: bool = True, strict: bool = False) -> Summary:
        """Totals of what an inode holds; `strict` counts instead of trusting directory statistics."""
        return summarize(self.reader, self.vol, self._real(ino), recursive=recursive, strict=strict)

    def tree_summary(self, ino: int, depth: int = 2, top: int = 10, strict: bool = False) -> TreeSummary:
        """Totals of a tree, `depth` levels deep, with the `top` biggest entries of each directory."""
        return summarize_tree(self.reader, self.vol, self._real(ino), depth, top, strict=strict)
