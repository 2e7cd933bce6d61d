"""Walking a cache directory for the blocks in it, tidying as it goes. Keeps nothing: one block at a time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

from chunkstore.naming import Block, parse

_STALE_S = 60.0  # younger temporary files and empty directories may be in use just now


def walk(root: str, hash_prefix: bool, stop: threading.Event) -> Iterator[tuple[Block, int, int]]:
    """Each block below `root` with its index size (negative if staged: another link exists) and its last use."""
    yield from _folder(root, len(root) + 1, hash_prefix, stop)


def _folder(folder: str, skip: int, hash_prefix: bool, stop: threading.Event) -> Iterator[tuple[Block, int, int]]:
    empty = True
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                empty = False
                if stop.is_set():
                    return
                if entry.is_dir(follow_symlinks=False):
                    yield from _folder(entry.path, skip, hash_prefix, stop)
                    continue
                status = entry.stat(follow_symlinks=False)
                block = parse(entry.name)
                if block is not None and block.key(hash_prefix) == entry.path[skip:]:
                    used_at = int(max(0.0, status.st_atime))
                    yield block, -block.size if status.st_nlink > 1 else block.size, used_at
                elif entry.name.endswith(".tmp") and time.time() - status.st_mtime > _STALE_S:
                    os.unlink(entry.path)
        if empty and len(folder) >= skip and time.time() - os.stat(folder).st_mtime > _STALE_S:
            os.rmdir(folder)
    except OSError:  # what cannot be read is not cached, and somebody else may remove things as well
        return
