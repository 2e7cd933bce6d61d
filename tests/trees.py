"""What a directory tree looks like, as plain data, so that two file systems can be compared after the same work.

Not here: the work.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import NamedTuple


class Node(NamedTuple):
    """Everything about one name that must be the same on two file systems."""

    kind: str
    mode: int
    owner: tuple[int, int]
    size: int  # 0 for directories, whose size every file system chooses
    mtime_ns: int  # 0 where not asked for
    same_as: str  # first name of a hard-linked inode
    content: str  # SHA-256, or the target of a symlink
    xattrs: tuple[tuple[str, bytes], ...]


def snapshot(root: Path, *, mtimes: bool = False, skip: tuple[str, ...] = ()) -> dict[str, Node]:
    """Every name below `root` with what it is. `mtimes` of files only (a directory's time is the time of the work)."""
    seen: dict[int, str] = {}
    tree: dict[str, Node] = {}
    for directory, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in skip)
        for name in sorted([*folders, *files]):
            if name in skip:
                continue
            path = Path(directory, name)
            relative = str(path.relative_to(root))
            tree[relative] = _node(path, relative, seen, mtimes)
    return tree


def _node(path: Path, relative: str, seen: dict[int, str], mtimes: bool) -> Node:
    info = os.lstat(path)
    kind = stat.filemode(info.st_mode)[0]
    same_as = ""
    if info.st_nlink > 1 and kind != "d":
        same_as = seen.setdefault(info.st_ino, relative)
    content = ""
    if kind == "-":
        content = digest(path)
    elif kind == "l":
        content = os.readlink(path)
    names = os.listxattr(path, follow_symlinks=False)
    values = [
        (name, os.getxattr(path, name, follow_symlinks=False)) for name in sorted(names) if name.startswith("user.")
    ]
    return Node(
        kind,
        stat.S_IMODE(info.st_mode),
        (info.st_uid, info.st_gid),
        0 if kind == "d" else info.st_size,
        info.st_mtime_ns if mtimes and kind != "d" else 0,
        same_as,
        content,
        tuple(values),
    )


def digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differences(expected: dict[str, Node], found: dict[str, Node], limit: int = 10) -> list[str]:
    """What is not the same, in words; empty when the trees agree."""
    lines = []
    for name in sorted(expected.keys() | found.keys()):
        want, have = expected.get(name), found.get(name)
        if want == have:
            continue
        if want is None or have is None:
            lines.append(f"{name}: {'only here' if want is None else 'missing'}")
            continue
        for field, a, b in zip(Node._fields, want, have, strict=True):
            if a != b:
                lines.append(f"{name}: {field} {b!r}, expected {a!r}")
    return lines[:limit] + ([f"... and {len(lines) - limit} more"] if len(lines) > limit else [])
