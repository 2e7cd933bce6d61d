"""A small disk for tests that fill it: a tmpfs, mounted for a while. Needs root."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from needs import need, need_root


@contextmanager
def full_disk(path: Path, size_bytes: int) -> Iterator[Path]:
    """A directory that has room for so much."""
    need_root()
    need("mount", "umount")
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
