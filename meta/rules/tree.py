"""Removing whole trees: many small transactions, several at a time, never one that grows with the tree.

Not a single rule, so it takes the volume instead of a transaction. Others may work in the tree meanwhile: what they
remove is passed over, what they create is removed as well, unless they keep creating.

Workers take directories from one stack. Each is emptied of files, and its subdirectories are stacked; it is removed by
whoever finishes the last of them. `_lock` guards the stack and the counts; no engine call is made under it.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from meta.errors import Refused
from meta.rules.access import EXECUTE, READ, require
from meta.rules.context import Volume
from meta.rules.directory import searchable
from meta.rules.lookup import entries
from meta.rules.removal import Removed
from meta.rules.remove import rmdir, unlink, unlink_many
from meta.types import DIRECTORY, TRASH, Caller

BATCH: Final = 250  # names removed by one transaction, as in official clients
_ATTEMPTS: Final = 10  # at a directory that others fill while it is emptied

Report = Callable[[Removed], None]
"""Told of every inode that lost a name; in any of the threads, after the commit."""


class _Directory:
    """A directory being emptied. `pending`: itself while it is worked on, and its subdirectories."""

    __slots__ = ("attempts", "ino", "name", "parent", "pending")

    def __init__(self, ino: int, name: bytes, parent: _Directory | None) -> None:
        self.ino = ino
        self.name = name
        self.parent = parent
        self.pending = 1
        self.attempts = 0


def remove_tree(
    vol: Volume, caller: Caller, parent: int, name: bytes, *, skip_trash: bool = False, force: bool = False,
    threads: int = 1, removed: Report | None = None,
) -> None:  # fmt: skip
    """Remove a name and everything below it; what is in a directory even if it is immutable, with `force`.

    The first refusal ends it, and is raised; what is gone stays gone.
    """
    skip = skip_trash or parent >= TRASH
    report = removed or _silent
    reader = vol.engine.reader
    searchable(reader, caller, parent)
    entry = reader.entry(parent, name)
    if entry is None:
        raise Refused(errno.ENOENT)
    if entry.type == DIRECTORY:
        for _ in range(_ATTEMPTS):
            empty_tree(vol, caller, entry.ino, skip_trash=skip, force=force, threads=threads, removed=report)
            try:
                report(vol.transact(lambda tx: rmdir(tx, vol, caller, parent, name, skip_trash=skip)))
                return
            except Refused as e:
                if e.errno != errno.ENOTEMPTY:
                    raise
        raise Refused(errno.ENOTEMPTY)
    report(vol.transact(lambda tx: unlink(tx, vol, caller, parent, name, skip_trash=skip)))


def empty_tree(
    vol: Volume, caller: Caller, ino: int, *, skip_trash: bool = False, force: bool = False, threads: int = 1,
    removed: Report | None = None,
) -> None:  # fmt: skip
    """Remove everything below a directory; with `force` even what is immutable."""
    options = {"skip_trash": skip_trash or ino >= TRASH, "force": force}
    _Removal(vol, caller, options, removed or _silent).run(_Directory(ino, b"", None), threads)


def _silent(removed: Removed) -> None:
    """For callers that leave deleted chunks to the hourly job."""


class _Removal:
    """One removal and its workers."""

    def __init__(self, vol: Volume, caller: Caller, options: dict[str, bool], report: Report) -> None:
        self._vol = vol
        self._caller = caller
        self._options = options
        self._report = report
        self._lock = threading.Condition()
        self._stack: list[_Directory] = []
        self._working = 0
        self._error: BaseException | None = None

    def run(self, top: _Directory, threads: int) -> None:
        """Empty `top` with this thread and as many more as there is work for, up to `threads`."""
        self._stack.append(top)
        helpers = [threading.Thread(target=self._work, name="remove-tree") for _ in range(threads - 1)]
        for helper in helpers:
            helper.start()
        try:
            self._work()
        except BaseException as e:  # an interrupt while waiting
            self._fail(e)
        for helper in helpers:
            helper.join()
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (directory := self._take()) is not None:
            try:
                self._empty(directory)
                self._finish(directory)
            except BaseException as e:  # handed to the caller of `run`, whichever thread met it
                self._fail(e)
            with self._lock:
                self._working -= 1
                self._lock.notify_all()

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._error = error
            self._lock.notify_all()

    def _take(self) -> _Directory | None:
        """The next directory to empty; None when all is done, or has failed."""
        with self._lock:
            while self._error is None:
                if self._stack:
                    self._working += 1
                    return self._stack.pop()
                if not self._working:
                    return None
                self._lock.wait()
            return None

    def _empty(self, directory: _Directory) -> None:
        reader = self._vol.engine.reader
        attr = reader.attr(directory.ino)
        if attr is None:
            return
        require(reader, self._caller, attr, READ | EXECUTE)
        for page in entries(reader, directory.ino):
            below = [_Directory(item.ino, item.name, directory) for item in page if item.type == DIRECTORY]
            with self._lock:
                directory.pending += len(below)
                self._stack += below
                self._lock.notify_all()
            names = (item.name for item in page if item.type != DIRECTORY)
            while batch := list(islice(names, BATCH)):
                self._unlink(directory.ino, batch)

    def _unlink(self, parent: int, names: list[bytes]) -> None:
        vol, caller = self._vol, self._caller
        try:
            gone = vol.transact(lambda tx: unlink_many(tx, vol, caller, parent, names, **self._options))
        except Refused as e:
            if e.errno == errno.ENOENT:  # others have removed the directory
                return
            raise
        for removed in gone:
            self._report(removed)

    def _finish(self, directory: _Directory) -> None:
        """One reason less to keep the directory; without any, remove it, and look at the one above."""
        for above in self._up(directory):
            if not self._rmdir(above):
                return

    def _up(self, directory: _Directory | None) -> Iterator[_Directory]:
        """The directories that are done, from here upwards, below the top."""
        while directory is not None:
            with self._lock:
                directory.pending -= 1
                if directory.pending:
                    return
            if directory.parent is not None:
                yield directory
            directory = directory.parent

    def _rmdir(self, directory: _Directory) -> bool:
        """Remove an emptied directory; False if it was filled meanwhile and is to be emptied again."""
        vol, caller, above = self._vol, self._caller, directory.parent
        assert above is not None
        parent, name = above.ino, directory.name
        try:
            self._report(vol.transact(lambda tx: rmdir(tx, vol, caller, parent, name, **self._options)))
        except Refused as e:
            if e.errno == errno.ENOTEMPTY and directory.attempts < _ATTEMPTS:
                directory.attempts += 1
                directory.pending = 1
                with self._lock:
                    self._stack.append(directory)
                    self._lock.notify_all()
                return False
            if e.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
        return True
