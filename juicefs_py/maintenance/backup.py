"""Automatic backups of the metadata: a JSON dump into the volume's own bucket, as often as `--backup-meta` says.

Of all clients of a volume one makes it: whoever finds the time of the last one, kept as an attribute `lastBackup` of
the root, too long ago, and puts the present one there. Objects are `meta/dump-YYYY-MM-DD-HHMMSS.json.gz`, in UTC; which
of the old ones stay is said by `outdated`. The dump is made by a process of its own, so that neither its memory nor its
time are taken from those who use the mount. Not the format of a dump (`meta.dump`).
"""

from __future__ import annotations

import contextlib
import datetime
import gzip
import io
import json
import logging
import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from chunkstore.bucket import Bucket
from chunkstore.errors import StoreError
from meta.client import MetaClient
from meta.errors import MetaError
from meta.rules.sessions import rfc3339
from meta.transaction import Transaction
from meta.types import ROOT

log = logging.getLogger(__name__)

LAST: Final = b"lastBackup"
FOLDER: Final = "meta/"
_STAMP: Final = "%Y-%m-%d-%H%M%S"
_NAME: Final = f"dump-{_STAMP}.json.gz"
_HOUR_S: Final = 3600.0
_MANY: Final = 1_000_000
"""So many inodes are not backed up every hour; somebody must want it less often, or at all."""
_STOPS_WITHIN_S: Final = 0.5
_DAY: Final = datetime.timedelta(days=1)

Stop = Callable[[], bool]


class Plan(NamedTuple):
    """What to back up, how often, and where the metadata is."""

    url: str
    interval_s: float
    skip_trash: bool


class Backups:
    """The backups of one mount."""

    def __init__(self, meta: MetaClient, plan: Plan, bucket: Callable[[], Bucket]) -> None:
        self._meta = meta
        self._plan = plan
        self._bucket = bucket
        self.last_success = 0.0  # seconds since the epoch
        self.last_took_s = 0.0

    def run_due(self, stop: Stop) -> bool:
        """Make a backup if it is time for one and nobody else does; whether there is a new one. Troubles are logged."""
        try:
            if not self._due():
                self.last_took_s = 0.0
                return False
        except (MetaError, ValueError) as problem:
            log.warning("backup metadata: time of the last one: %s", problem)
            return False
        began = time.time()
        name = datetime.datetime.fromtimestamp(began, datetime.UTC).strftime(_NAME)
        try:
            self._make(name, stop)
        except Exception as problem:  # whatever it is: no reason to end the mount
            expected = isinstance(problem, MetaError | StoreError | OSError | subprocess.SubprocessError)
            log.warning("backup metadata failed: %s", problem, exc_info=None if expected else problem)
            return False
        finally:
            self.last_took_s = time.time() - began
        self.last_success = time.time()
        log.info('backup metadata succeed, path: "%s", used %.1fs', FOLDER + name, self.last_took_s)
        self._remove_outdated(began)
        return True

    def _due(self) -> bool:
        """Whether it is this client's turn; then it is nobody else's."""
        now = datetime.datetime.now().astimezone().replace(microsecond=0)

        def body(tx: Transaction) -> bool:
            value = tx.xattr(ROOT, LAST)
            if (
                value
                and (now - datetime.datetime.fromisoformat(value.decode())).total_seconds() < self._plan.interval_s
            ):
                return False
            tx.put_xattr(ROOT, LAST, rfc3339(now).encode())
            return True

        inodes = self._meta.reader.counter("totalInodes")
        if self._plan.interval_s <= _HOUR_S and inodes > _MANY:
            log.warning(
                "backup metadata skipped because of too many inodes: %d; increase --backup-meta to enable it again",
                inodes,
            )
            return False
        return self._meta.engine.transact(body)

    def _make(self, name: str, stop: Stop) -> None:
        with tempfile.TemporaryDirectory(prefix="juicefs-backup-") as folder:
            path = os.path.join(folder, name)
            if self._meta.engine.name == "memkv":  # nobody else can read it
                write_dump(self._meta.engine, path, self._plan.skip_trash)
            else:
                _in_a_process(self._plan, path, stop)
            with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                view = memoryview(data)
                try:
                    self._bucket().put(FOLDER + name, view)
                finally:
                    view.release()

    def _remove_outdated(self, now: float) -> None:
        bucket = self._bucket()
        try:
            names = [found.key.removeprefix(FOLDER) for found in bucket.list_all(FOLDER) if not found.is_dir]
            failed = bucket.delete_many(
                FOLDER + name for name in outdated(names, datetime.datetime.fromtimestamp(now, datetime.UTC))
            )
        except (StoreError, OSError) as problem:
            log.warning("old backups are not removed: %s", problem)
            return
        for key, reason in failed.items():
            log.warning("delete object %s: %s", key, reason)


def outdated(names: Iterable[str], now: datetime.datetime) -> list[str]:
    """Of backups those that are not kept any more.

    Kept are all of the last two days, the earliest of each day for two weeks, of each week for two months, of each
    month for two years; nothing is older.
    """
    try:
        limit = now.replace(year=now.year - 2)
    except ValueError:  # the 29th of February
        limit = now.replace(year=now.year - 2, day=28)
    found: dict[int, list[str]] = {}
    gone = []
    for name in sorted(names):
        try:
            at = datetime.datetime.strptime(name, _NAME).replace(tzinfo=datetime.UTC)
        except ValueError:
            log.warning("%s is no backup of metadata, and is left alone", FOLDER + name)
            continue
        if at < limit:
            gone.append(name)
        elif now - at > 2 * _DAY:
            found.setdefault(_period((now - at) / _DAY), []).append(name)
    return sorted(gone + [name for names in found.values() for name in names[1:]])


def _period(days: float) -> int:
    """The number of the period that lies so many days ago: days, from the 14th on weeks, from the 60th on months."""
    edge, number = 2, 0
    while days > edge:
        edge += 1 if edge < 14 else 7 if edge < 60 else 30
        number += 1
    return number


def write_dump(engine: Any, path: str, skip_trash: bool) -> None:
    """Dump a volume into a new file."""
    from meta.dump.copy import Copy
    from meta.dump.to_json import JsonDump

    copy = Copy()
    try:
        copy.fill(engine)
        with open(path, "xb") as file, gzip.GzipFile("", "wb", 1, file) as packed:
            text = io.TextIOWrapper(packed, encoding="utf-8", newline="\n")
            JsonDump(copy, text).write(skip_trash=skip_trash)
            text.flush()
    finally:
        copy.close()


_CHILD: Final = "from juicefs_py.maintenance.backup import child; child()"


def _in_a_process(plan: Plan, path: str, stop: Stop) -> None:
    """Have another process make the dump. It hears the address by its standard input, where nobody else reads it."""
    job = json.dumps({"url": plan.url, "path": path, "skip_trash": plan.skip_trash})
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(_import_path())}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-c", _CHILD], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said,
            env=environment, cwd="/",
        )  # fmt: skip
        with process:
            assert process.stdin is not None
            process.stdin.write(job.encode())
            process.stdin.close()
            try:
                while process.poll() is None:
                    if stop():
                        raise subprocess.SubprocessError("the mount ends")
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(_STOPS_WITHIN_S)
            finally:
                process.kill()
        if process.returncode:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            raise subprocess.SubprocessError(lines[-1] if lines else f"the dump ended with {process.returncode}")


def _import_path() -> list[str]:
    """Where another process finds our code. If it is one file, its name is a descriptor of this process."""
    return [path.replace("/proc/self/", f"/proc/{os.getpid()}/") for path in sys.path if path]


def child() -> None:
    """The process that makes a dump."""
    from meta.engines import open_engine

    os.nice(10)
    job = json.loads(sys.stdin.read())
    try:
        engine = open_engine(job["url"], read_only=True)
        try:
            write_dump(engine, job["path"], job["skip_trash"])
        finally:
            engine.close()
    except (MetaError, OSError) as problem:
        sys.exit(str(problem))
