"""Names and numbers that every part of the metadata room uses: inode numbers, file types, flags, limits.

The numbers are those of JuiceFS CE 1.4.1: volumes are shared with official clients.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from typing import Final, NamedTuple, NewType, Protocol

Ino = NewType("Ino", int)
SliceId = NewType("SliceId", int)

ROOT: Final = 1
SPECIAL: Final = 0x7FFF_FFFF_0000_0000  # inodes from here on are never ordinary files
TRASH: Final = 0x7FFF_FFFF_1000_0000  # the trash root; hourly directories are TRASH + n
TRASH_NAME: Final = b".trash"

FILE, DIRECTORY, SYMLINK, FIFO, BLOCKDEV, CHARDEV, SOCKET = range(1, 8)

TYPE_TO_MODE: Final = (
    0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFBLK, stat.S_IFCHR, stat.S_IFSOCK,
)  # fmt: skip
"""S_IFMT bits by stored type number."""
MODE_TO_TYPE: Final = {mode: number for number, mode in enumerate(TYPE_TO_MODE) if number}

FLAG_IMMUTABLE: Final = 0x01
FLAG_APPEND: Final = 0x02
FLAG_SKIP_TRASH: Final = 0x20

CHUNK_SHIFT: Final = 26
CHUNK_SIZE: Final = 1 << CHUNK_SHIFT  # files are cut into windows of 64 MiB
MAX_FILE_SIZE: Final = CHUNK_SIZE << 31
MAX_NAME: Final = 255
MAX_SYMLINK: Final = 4096
DIR_LENGTH: Final = 4096

# Bits of a setattr mask (they coincide with FATTR_* of the kernel where both exist, except those not listed here).
SET_MODE, SET_UID, SET_GID, SET_SIZE, SET_ATIME, SET_MTIME = 1, 2, 4, 8, 0x10, 0x20
SET_ATIME_NOW, SET_MTIME_NOW = 0x80, 0x100
SET_TIER: Final = 0x400
SET_FLAG: Final = 0x8000


class Caller(Protocol):
    """On whose behalf an operation runs."""

    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def pid(self) -> int: ...
    @property
    def groups(self) -> Sequence[int]:
        """All groups of the caller, the primary one included."""
        ...

    @property
    def checked(self) -> bool:
        """True if somebody (the kernel) has checked permissions already, so that the rules must not."""
        ...


class Identity(NamedTuple):
    """A caller made of plain values: for commands, background jobs and tests."""

    uid: int = 0
    gid: int = 0
    pid: int = 0
    groups: tuple[int, ...] = (0,)
    checked: bool = False


SUPERUSER: Final = Identity(checked=True)


class Dirent(NamedTuple):
    """What a name in a directory points to."""

    type: int
    ino: int


def align4k(length: int) -> int:
    """Space that a length is accounted with: whole 4 KiB pages, at least one."""
    return 4096 if length <= 0 else (length + 4095) & ~4095
