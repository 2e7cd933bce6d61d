"""Objects as rows of a table in a SQLite database: a bucket in one file.

Not the metadata engine, whose file is another one. Table, names and types are those of official clients:

    jfs_blob    id        INTEGER   counts up
                key       BLOB      unique; at most 255 bytes
                size      INTEGER   of `data`
                modified  DATETIME  text in UTC, such as `2024-05-06 07:08:09`
                data      BLOB

Several processes of one machine may use the file at once. `create` makes it with a write-ahead log, so that a writer
and readers do not wait for one another; a file that is there stays as it is (official clients make it with a rollback
journal). With a log, objects are forced to disk by `sync`, otherwise by every `put`.
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from urllib.parse import quote

from chunkstore.bucket import LIST_PAGE, Access, Bucket, Data, Listing, ObjectInfo
from chunkstore.buckets.listing import fold
from chunkstore.buckets.within import within
from chunkstore.errors import (
    BadBucket,
    Damaged,
    Denied,
    NoSpace,
    NotFound,
    StoreError,
    Timeout,
    Unavailable,
    from_os_error,
)

_LONGEST_KEY = 255  # bytes; official clients keep to it in every database
_CHECKPOINT_PAGES = 16384  # 64 MiB; SQLite's 4 MiB would move every block twice, with two flushes
_TABLE = (
    "CREATE TABLE IF NOT EXISTS `jfs_blob` (`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `key` BLOB NOT NULL, "
    "`size` INTEGER NOT NULL, `modified` DATETIME NOT NULL, `data` BLOB NULL)",
    "CREATE UNIQUE INDEX IF NOT EXISTS `UQE_jfs_blob_blob` ON `jfs_blob` (`key`)",
)
_REPLACE = " ON CONFLICT (key) DO UPDATE SET size = excluded.size, modified = excluded.modified, data = excluded.data"
_PUT = "INSERT INTO jfs_blob (key, size, modified, data) VALUES (?, ?, ?, ?)" + _REPLACE
_COPY = (
    "INSERT INTO jfs_blob (key, size, modified, data) SELECT ?, size, ?, data FROM jfs_blob WHERE key = ?" + _REPLACE
)
_PAGE = "SELECT key, size, modified FROM jfs_blob WHERE key > ? AND key >= ? AND key < ? ORDER BY key LIMIT ?"
_AFTER_ALL = b"\xff"  # sorts behind every byte of UTF-8


class SqliteBucket(Bucket):
    """The objects in the database file `path`. Opened when first used."""

    def __init__(self, path: str, access: Access) -> None:
        """`path` may begin with sqlite3:// and end with options of official clients, which have no effect here."""
        bare = re.sub(r"^\w+://", "", path).partition("?")[0]
        if not bare:
            raise BadBucket("the bucket of a sqlite3 storage is the path of a database file")
        self._path = os.path.abspath(bare)
        self._timeout_s = access.timeout_s
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []
        self._closed = False
        self._writing = threading.Lock()  # SQLite lets writers poll for their turn; those of one process can queue

    def describe(self) -> str:
        return f"sqlite3://{self._path}/"

    # one object

    def put(self, key: str, data: Data, tier: int = 0) -> None:
        what = f"write object {self.describe()}{key}"
        with self._asking(what, write=True) as connection:
            connection.execute(_PUT, (_new(key, what), len(data), _now(), data))

    def get_into(self, key: str, offset: int, view: memoryview) -> int:
        data = self.get(key, offset, len(view))
        view[: len(data)] = data
        return len(data)

    def get(self, key: str, offset: int = 0, length: int = -1) -> bytes:
        what = f"read object {self.describe()}{key}"
        part, span = "data", [offset + 1] * (offset > 0 or length >= 0) + [length] * (length >= 0)
        if span:
            part = f"substr(data, {', '.join('?' * len(span))})"
        with self._asking(what) as connection:
            row = connection.execute(f"SELECT {part} FROM jfs_blob WHERE key = ?", (*span, _bytes(key))).fetchone()
        if row is None:
            raise NotFound(f"{what}: not found")
        return bytes(row[0] or b"")

    def delete(self, key: str) -> None:
        with self._asking(f"delete object {self.describe()}{key}", write=True) as connection:
            connection.execute("DELETE FROM jfs_blob WHERE key = ?", (_bytes(key),))

    def head(self, key: str) -> ObjectInfo:
        what = f"look at object {self.describe()}{key}"
        with self._asking(what) as connection:
            row = connection.execute(
                "SELECT key, size, modified FROM jfs_blob WHERE key = ?", (_bytes(key),)
            ).fetchone()
        if row is None:
            raise NotFound(f"{what}: not found")
        return _info(*row)

    def copy(self, target: str, source: str, tier: int = 0) -> None:
        what = f"copy object {self.describe()}{source}"
        with self._asking(what, write=True) as connection:
            if not connection.execute(_COPY, (_new(target, what), _now(), _bytes(source))).rowcount:
                raise NotFound(f"{what}: not found")

    # many

    def list(self, prefix: str = "", after: str = "", limit: int = LIST_PAGE, delimiter: str = "") -> Listing:
        return fold(self.list_all(prefix, after), prefix, after, limit, delimiter)

    def list_all(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        first, last = _bytes(after), _bytes(prefix) + _AFTER_ALL
        while True:
            with self._asking(f"list objects of {self.describe()}{prefix}") as connection:
                rows = connection.execute(_PAGE, (first, _bytes(prefix), last, LIST_PAGE)).fetchall()
            yield from (_info(*row) for row in rows)
            if len(rows) < LIST_PAGE:
                return
            first = rows[-1][0]

    # the file

    def _make_file(self, what: str) -> bool:
        """Make the file, for nobody else to read; False if it is there."""
        try:
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            return True
        except FileExistsError:
            return False
        except OSError as error:
            raise from_os_error(error, what) from error

    def create(self) -> None:
        what = f"create {self.describe()}"
        if not os.path.isdir(os.path.dirname(self._path)):
            raise Unavailable(f"{what}: its directory does not exist; make it first")
        new = self._make_file(what)
        with self._asking(what, write=True, mode="rwc") as connection:
            if new:
                connection.execute("PRAGMA journal_mode=WAL").fetchone()
            connection.execute("BEGIN IMMEDIATE")
            for statement in _TABLE:
                connection.execute(statement)
            connection.execute("COMMIT")

    def sync(self) -> None:
        """Only the log is opened, never the database: closing that would drop the locks SQLite has on it."""
        try:
            for path in (f"{self._path}-wal", os.path.dirname(self._path)):
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
        except FileNotFoundError:  # there is nothing that is not in the database
            return
        except OSError as error:
            raise from_os_error(error, f"sync {self.describe()}") from error

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    @contextmanager
    def _asking(self, what: str, write: bool = False, mode: str = "rw") -> Iterator[sqlite3.Connection]:
        """A connection for the time being. Errors of SQLite come out as StoreError that begin with `what`."""
        turn = within(self._timeout_s, self._writing, f"{what}: other writers were busy") if write else nullcontext()
        try:
            with turn:
                connection = self._take(what, mode)
                try:
                    yield connection
                except BaseException:
                    connection.close()
                    raise
                self._give_back(connection)
        except sqlite3.Error as error:
            raise self._trouble(error, what) from error

    def _take(self, what: str, mode: str) -> _Connection:
        """One to the file that has the path now: what another one gets would be lost with it."""
        file = _identity(self._path)
        if file is None and mode == "rw":
            raise Unavailable(f"{what}: there is no file {self._path}; is its disk mounted?")
        while True:
            with self._lock:
                if not self._idle:
                    break
                connection = self._idle.pop()
            if connection.file == file:
                return connection
            connection.close()
        return self._open(mode)

    def _open(self, mode: str) -> _Connection:
        connection = sqlite3.connect(
            f"file:{quote(os.fsencode(self._path))}?mode={mode}", uri=True, timeout=self._timeout_s,
            isolation_level=None, check_same_thread=False, factory=_Connection,
        )  # fmt: skip
        try:
            connection.file = _identity(self._path)
            if connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
                connection.execute("PRAGMA synchronous=NORMAL")
                connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _give_back(self, connection: _Connection) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def _trouble(self, error: sqlite3.Error, what: str) -> StoreError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        match code:
            case sqlite3.SQLITE_FULL:
                return NoSpace(f"{what}: the file system is full")
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return Timeout(f"{what}: another process has locked it for {self._timeout_s:g} s")
            case sqlite3.SQLITE_NOTADB:
                return BadBucket(f"{what}: {self._path} is not an SQLite database")
            case sqlite3.SQLITE_CORRUPT:
                return Damaged(f"{what}: {self._path} is damaged ({error}); restore it from a backup")
            case sqlite3.SQLITE_PERM | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_AUTH:
                return Denied(f"{what}: {error}; check the permissions of {self._path} and of its directory")
            case sqlite3.SQLITE_CANTOPEN if not os.access(self._path, os.R_OK | os.W_OK):
                return Denied(f"{what}: {error}; check the permissions of {self._path}")
        if "no such table" in str(error):
            return BadBucket(f"{what}: {self._path} has no table jfs_blob")
        return Unavailable(f"{what}: {error}")


class _Connection(sqlite3.Connection):
    """A connection that knows which file it has opened."""

    file: tuple[int, int] | None = None


def _identity(path: str) -> tuple[int, int] | None:
    """Device and inode of the file that has this name; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _bytes(key: str) -> bytes:
    return key.encode(errors="surrogateescape")


def _new(key: str, what: str) -> bytes:
    data = _bytes(key)
    if len(data) > _LONGEST_KEY:
        raise BadBucket(f"{what}: its key has {len(data)} bytes, over the {_LONGEST_KEY} that such a table can hold")
    return data


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")


def _info(key: bytes, size: int, modified: str) -> ObjectInfo:
    name = key.decode(errors="surrogateescape")
    moment = datetime.fromisoformat(modified)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return ObjectInfo(name, size, moment.timestamp(), name.endswith("/"))
