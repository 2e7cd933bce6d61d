"""What clients clean up behind each other: dead sessions, removed files and dead slices, clones without a
name, the expired trash.

Not deletions that follow a removal at once (`meta.deleter`). Each job is elected by a gate: of all clients of a
volume one runs it per period. Each is bounded in time, deletes a piece at a time, and leaves the rest to the next run.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import NamedTuple

from meta.deleter import Deleter
from meta.errors import MetaError, Refused
from meta.rules.clone import remove_detached
from meta.rules.compact import release_delayed
from meta.rules.context import Volume
from meta.rules.lookup import entries
from meta.rules.removal import Removed
from meta.rules.sessions import end_session
from meta.rules.trash import is_due
from meta.rules.tree import Report, remove_tree
from meta.types import SUPERUSER, TRASH

log = logging.getLogger(__name__)

_HOUR_S = 3600
_DAY_S = 86400
_LONGEST_S = 3000  # a run ends after 50 minutes
_SESSIONS, _FILES = 1000, 600_000  # at most per run
_FILES_PAGE, _DELAYED_PAGE = 10_000, 100  # records held at once; a delayed one names up to 1000 slices
_FILES_TOGETHER = 100
_FILE_AGE_S = 3600  # younger removed files are in the hands of the client that removed them

Stop = Callable[[], bool]
Done = Callable[[int], None]
"""Told how many more are done; in any of the threads."""


Ended = Callable[[str, str, float, int], None]
"""Told the name of a job, how it ended (`succ`, `fail`, `canceled`), its seconds, and how much it has deleted."""


class _Stopped(Exception):
    """Raised from within a removal of a tree to end it."""


class Job(NamedTuple):
    """A row: `run(vol, deleter, stop)` once per period, if the gate opens. A period of 0 is the heartbeat."""

    gate: str
    period_s: int
    run: Callable[[Volume, Deleter, Stop], int]  # how much was deleted
    name: str = ""  # what official clients call it in their metrics; empty: it is not in them


def clean_sessions(vol: Volume, deleter: Deleter, stop: Stop) -> int:
    """Undo sessions that have missed their heartbeats: locks, then open files without links, then the record."""
    done = 0
    for sid in vol.engine.stale_sessions(vol.now()[0], _SESSIONS):
        if stop():
            break
        record = vol.engine.reader.session(sid)
        if sid == vol.sid or (record is not None and record.expire >= vol.now()[0]):
            continue  # late, but alive: its heartbeat puts it right, or has done so while we were at others
        log.info("cleaning up stale session %d", sid)
        for file in end_session(vol, sid):
            deleter.delete_file(file)
        done += 1
    return done


def clean_files(vol: Volume, deleter: Deleter, stop: Stop) -> int:
    """Delete what is left of files that lost their last link an hour ago or earlier."""
    before, done = vol.now()[0] - _FILE_AGE_S, 0
    while done < _FILES and (files := vol.engine.deleted_files(before, _FILES_PAGE)):
        for at in range(0, len(files), _FILES_TOGETHER):
            if stop() or not deleter.delete_files_now(files[at : at + _FILES_TOGETHER]):
                return done + at
        done += len(files)
        if len(files) < _FILES_PAGE:  # what is left now cannot be removed
            break
    clean_clones(vol, deleter, stop)
    return done


def clean_clones(vol: Volume, deleter: Deleter, stop: Stop, done: Done = lambda count: None) -> None:
    """Remove the trees of clones that were begun a day ago and never got their name: their client has died."""
    follow = _follow(deleter, stop)
    for ino in vol.engine.detached(vol.now()[0] - _DAY_S):
        log.info("removing the unfinished clone %d", ino)
        try:
            remove_detached(vol, ino, follow)
        except _Stopped:
            return
        except Refused as e:  # must not keep the others
            log.warning("the unfinished clone %d cannot be removed: %s", ino, e)
        else:
            done(1)


def clean_slices(vol: Volume, deleter: Deleter, stop: Stop) -> int:
    """Delete slices without references that somebody did not get round to, after a look at the store itself."""
    vol.engine.tend()
    done = 0
    for dead in vol.engine.dead_slices():
        if stop():
            break
        deleter.delete_slices([dead])
        done += 1
    return done


def clean_trash(vol: Volume, deleter: Deleter, stop: Stop) -> int:
    """Empty the hours of the trash that are due, oldest first, then release replaced slices of that age."""
    now, days = vol.now()[0], vol.setting.trash_days
    deleted = 0

    def count(more: int) -> None:
        nonlocal deleted
        deleted += more

    empty_hours(vol, deleter, stop, lambda name: is_due(name, now, days), done=count)
    if not stop():
        clean_delayed(vol, deleter, stop)
    return deleted


def empty_hours(
    vol: Volume, deleter: Deleter, stop: Stop, due: Callable[[bytes], bool], *, threads: int = 1,
    done: Done = lambda count: None,
) -> None:  # fmt: skip
    """Remove the hourly directories of the trash whose names are `due`, with all that is in them, oldest first."""
    hours = [item for page in entries(vol.engine.reader, TRASH) for item in page if due(item.name)]
    follow = _follow(deleter, stop, done)
    for hour in sorted(hours, key=lambda item: item.ino):
        try:
            remove_tree(vol, SUPERUSER, TRASH, hour.name, skip_trash=True, force=True, threads=threads, removed=follow)
        except _Stopped:
            return
        except Refused as e:  # must not keep the others
            log.warning("the trash of hour %s cannot be removed: %s", hour.name.decode(), e)


def _follow(deleter: Deleter, stop: Stop, done: Done = lambda count: None) -> Report:
    """What follows from each inode that a removal of a tree tells of."""

    def follow(removed: Removed) -> None:
        done(1)
        if removed.deleted is not None:
            deleter.delete_file(removed.deleted)
        if stop():
            raise _Stopped

    return follow


def clean_delayed(vol: Volume, deleter: Deleter, stop: Stop) -> None:
    """Release slices that compactions replaced, once they are older than the days of the trash."""
    before = vol.now()[0] - vol.setting.trash_days * _DAY_S
    while entries_due := vol.engine.delayed_slices(before, _DELAYED_PAGE):
        for entry in entries_due:
            if stop():
                return
            deleter.delete_slices(vol.transact(lambda tx, e=entry: release_delayed(tx, e.id, e.created)))  # type: ignore[misc]


JOBS = (
    Job("lastCleanupSessions", 0, clean_sessions),
    Job("lastCleanupFiles", _HOUR_S, clean_files, "cleanupDeletedFiles"),
    Job("nextCleanupSlices", _HOUR_S, clean_slices, "cleanupSlices"),
    Job("lastCleanupTrash", _HOUR_S, clean_trash, "cleanTrashFile"),
)


class Jobs:
    """When each job is due next, for one client."""

    def __init__(
        self, vol: Volume, deleter: Deleter, jobs: tuple[Job, ...] = JOBS,
        ended: Ended = lambda name, status, took_s, deleted: None,
    ) -> None:  # fmt: skip
        self._ended = ended
        self._vol = vol
        self._deleter = deleter
        start = time.monotonic()
        self._due = {job: start + self._pause(job) for job in jobs}

    def run_due(self, stop: Stop) -> None:
        """Run what is due. A job that fails is logged and has its next chance a period later."""
        for job, due in self._due.items():
            if time.monotonic() < due or stop() or (not job.period_s and not self._vol.config.heartbeat_s):
                continue
            self._due[job] = time.monotonic() + self._pause(job)
            try:
                self.run(job, stop)
            except MetaError as e:
                log.warning("job %s: %s", job.gate, e)

    def run(self, job: Job, stop: Stop) -> bool:
        """Run a job now if its gate opens; whether it did."""
        period = job.period_s or self._vol.config.heartbeat_s
        if not self._vol.engine.gate(job.gate, self._vol.now()[0], int(period * 0.9)):
            return False
        began = time.monotonic()
        cut = False

        def enough() -> bool:
            nonlocal cut
            cut = cut or stop() or time.monotonic() > began + _LONGEST_S
            return cut

        status, deleted = "fail", 0
        try:
            deleted = job.run(self._vol, self._deleter, enough)
            status = "canceled" if cut else "succ"
        finally:
            if job.name:
                self._ended(job.name, status, time.monotonic() - began, deleted)
        return True

    def _pause(self, job: Job) -> float:
        return (job.period_s or self._vol.config.heartbeat_s) * random.uniform(0.95, 1.05)
