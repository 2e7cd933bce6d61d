"""The part of `MetaClient` about BSD and POSIX locks."""

from __future__ import annotations

import errno
from collections.abc import Callable

from meta.client_base import ClientBase
from meta.config import MetaConfig
from meta.engine import Engine
from meta.errors import Refused
from meta.lock_waits import LockWaits
from meta.plock import END_OF_FILE, READ, UNLOCK, WRITE, Plock
from meta.rules import locks
from meta.types import SUPERUSER, Caller

_FLOCK_KINDS = {READ: locks.READ, WRITE: locks.WRITE, UNLOCK: None}

Interrupted = Callable[[float], bool]
"""Asked with a time to wait: whether the caller was interrupted."""


class LockCalls(ClientBase):
    """Locks belong to this client's session and an owner number. A read-only client has no session and no locks."""

    def __init__(self, engine: Engine, config: MetaConfig | None = None) -> None:
        super().__init__(engine, config)
        self._lock_waits = LockWaits()

    def flock(
        self,
        caller: Caller,
        ino: int,
        owner: int,
        kind: int,
        wait: bool = False,
        interrupted: Interrupted | None = None,
    ) -> None:
        """Take or release a BSD lock; `kind` is F_RDLCK, F_WRLCK or F_UNLCK. EAGAIN, or EINTR if told to wait."""
        if kind not in _FLOCK_KINDS:
            raise Refused(errno.EINVAL)
        letter = _FLOCK_KINDS[kind]
        self._lock(
            ino, lambda: self._write(lambda tx: locks.flock(tx, self.vol, ino, owner, letter)), wait, interrupted
        )
        if kind != WRITE:  # a release, or a writer that has become a reader
            self._lock_waits.released(ino)

    def setlk(
        self,
        caller: Caller,
        ino: int,
        owner: int,
        lock: Plock,
        wait: bool = False,
        interrupted: Interrupted | None = None,
    ) -> None:
        """Set or release a POSIX lock on a range. EAGAIN, or EINTR if told to wait."""
        if lock.type not in _FLOCK_KINDS or lock.start > lock.end:
            raise Refused(errno.EINVAL)
        self._lock(
            ino, lambda: self._write(lambda tx: locks.set_plock(tx, self.vol, ino, owner, lock)), wait, interrupted
        )
        if lock.type != WRITE:
            self._lock_waits.released(ino)

    def getlk(self, caller: Caller, ino: int, owner: int, lock: Plock) -> Plock:
        """The lock that is in the way of `lock`, or one of type F_UNLCK."""
        return locks.get_plock(self.reader, self.vol, ino, owner, lock)

    def release_plocks(self, ino: int, owner: int) -> None:
        """A process has closed the file: its POSIX locks of the whole file are gone."""
        self.setlk(SUPERUSER, ino, owner, Plock(UNLOCK, 0, 0, END_OF_FILE))

    def _lock(self, ino: int, attempt: Callable[[], bool], wait: bool, interrupted: Interrupted | None) -> None:
        if attempt():
            return
        if not wait or interrupted is None:
            raise Refused(errno.EAGAIN)
        if not self._lock_waits.wait(ino, attempt, interrupted):
            raise Refused(errno.EINTR)
