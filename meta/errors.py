"""The errors of the metadata room: refusals of the file system's rules, and troubles of the engine underneath."""

from __future__ import annotations

import errno
import os


class MetaError(Exception):
    """Anything that the metadata room raises on purpose."""

    errno: int = errno.EIO


class Refused(MetaError):
    """The rules of the file system refuse the operation; `errno` says why, as POSIX names it."""

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message)
        self.errno = number

    def __str__(self) -> str:
        return str(self.args[0]) or os.strerror(self.errno)  # put into words only when somebody looks


class EngineError(MetaError):
    """The engine failed: the operation may be tried again later. EIO to the caller."""


class Unavailable(EngineError):
    """The server or database file cannot be reached, or stays locked. Nothing of the transaction was applied."""


class OutcomeUnknown(EngineError):
    """The connection broke after a commit was sent: it may or may not have been applied."""


class Conflict(EngineError):
    """Another client changed what the transaction had read. `Engine.transact` retries it."""


class OutOfSpace(EngineError):
    """The engine has no room for the write. Nothing of the transaction was applied."""

    errno = errno.ENOSPC


class Corrupt(MetaError):
    """A stored record cannot be what it claims to be. Never repaired silently."""


class SettingError(MetaError):
    """The volume's setting forbids what was asked: not formatted, other version, other volume, immutable field."""


class VolumeGone(SettingError):
    """The volume that a client has open is not in the database any more; another one may be in its place.

    Nothing may be written any more: inode numbers would mean other files.
    """


class NotFormatted(VolumeGone):
    """There is no volume in the database."""

    def __init__(self) -> None:
        super().__init__("database is not formatted, please run `juicefs format ...` first")


class BadURL(MetaError):
    """A metadata URL that no engine understands."""
