"""What the asker of a control command may see and change: what a path would let him do.

Not the rules' own checks (removal and clone make them as well). A command names inodes, and the kernel has checked no
more than that the control file may be opened, which everybody may.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from meta.errors import Refused
from meta.types import Caller

if TYPE_CHECKING:
    from meta.client import MetaClient

READ, WRITE, SEARCH = 4, 2, 1


class Rights:
    """Of one asker. `caller` must not be marked as checked by the kernel."""

    def __init__(self, meta: MetaClient, caller: Caller) -> None:
        self._meta = meta
        self._caller = caller

    def reach(self, ino: int) -> None:
        """EACCES unless one of the paths that lead to the inode may be walked."""
        if self._caller.uid and not any(self._walks(path) for path in self._meta.paths(ino)):
            self._meta.getattr(ino)  # ENOENT if it is not there at all
            raise Refused(errno.EACCES)

    def require(self, ino: int, mask: int) -> None:
        """EACCES unless the asker reaches the inode and may do all of `mask` with it."""
        self.reach(ino)
        self._meta.access(self._caller, ino, mask)

    def allows(self, ino: int, mask: int) -> bool:
        """The same as an answer, of what was found in a directory that the asker reads: its path is walked already."""
        try:
            self._meta.access(self._caller, ino, mask)
        except Refused:
            return False
        return True

    def _walks(self, path: bytes) -> bool:
        try:
            self._meta.resolve(self._caller, path)
        except Refused:
            return False
        return True
