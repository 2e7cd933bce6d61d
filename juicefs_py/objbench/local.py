"""The objects of a local directory as files, for what only files have: owner, permissions, a time that can be set.

Not a bucket: those have nothing of it, and a volume needs nothing of it.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import time
from collections.abc import Iterator

NOBODY = "nobody"
_MODE = 0o755


class LocalFiles:
    """Files below `root`, which ends with "/"; keys are paths in it. Methods raise OSError."""

    def __init__(self, root: str) -> None:
        self.root = root

    def path(self, key: str) -> str:
        return self.root + key

    def chmod(self, key: str, mode: int = _MODE) -> None:
        os.chmod(self.path(key), mode)

    def chown(self, key: str) -> None:
        """Give the file to `nobody` and its group."""
        uid, gid = nobody()
        os.chown(self.path(key), uid, gid)

    def set_mtime(self, key: str, mtime: float | None = None) -> None:
        """Set the time of modification, to now if none is given."""
        seconds = time.time() if mtime is None else mtime
        os.utime(self.path(key), (seconds, seconds))


@contextlib.contextmanager
def removed_afterwards(folders: list[str], prefix: str) -> Iterator[None]:
    """Take away what is below the prefix in these directories, and those of them that were not there before."""
    made = [folder for folder in folders if not os.path.isdir(folder)]
    try:
        yield
    finally:
        for folder in folders:
            shutil.rmtree(folder + prefix, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def nobody() -> tuple[int, int]:
    """User and group that files are given to; FileNotFoundError if this machine has none."""
    try:
        user = pwd.getpwnam(NOBODY)
    except KeyError:
        raise FileNotFoundError(f"this machine has no user `{NOBODY}`") from None
    return user.pw_uid, user.pw_gid


def may_chown() -> str:
    """Empty if this process may give files to `nobody`, else why not."""
    if os.getuid() != 0:
        return "root required"
    try:
        nobody()
    except FileNotFoundError as error:
        return str(error)
    return ""
