"""SQLite files: connections, transactions, errors, durability. Knows statements, not records.

Who runs: any thread. One connection writes, under `_lock`, in `BEGIN IMMEDIATE` transactions; others read beside it,
each borrowed by one thread at a time (WAL: readers see the latest commit and never wait). Other processes may use the
file at the same time. A database must not be carried across a fork: open it in the process that uses it.

Durability: `synchronous=NORMAL`, that is, a commit is a write to the log without a flush. A crash of the process loses
nothing; a loss of power may lose the last commits, unless `sync` returned after them. It never damages the file.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import parse_qsl, quote

from meta.errors import BadURL, Conflict, Corrupt, EngineError, OutOfSpace, Unavailable, VolumeGone

T = TypeVar("T")

_PATIENCE_S: Final = 30.0  # how long a writer waits for another process before it gives up
_ATTEMPTS: Final = 50  # of a transaction that conflicts
_IDLE_READERS: Final = 8  # more than usually read at once; each costs a page cache and descriptors
_CHECKPOINT_PAGES: Final = 4000  # 16 MiB of log between checkpoints; each is two fsyncs in some commit


_UNKNOWN: Final = (-1, -1)


class Options(NamedTuple):
    """What a `sqlite3://` URL says."""

    path: str
    prefix: str  # of table names
    busy_timeout_ms: int
    journal: str
    synchronous: str

    @classmethod
    def parse(cls, url: str) -> Options:
        """Read `sqlite3://path?table_prefix=&_timeout=&_journal=&_sync=`; other options have no effect here."""
        path, _, query = url.partition("://")[2].partition("?")
        if not path or ":memory:" in path or path.startswith("file:"):
            raise BadURL(f"{url}: expected sqlite3:// and the path of a file (memkv:// is a volume in memory)")
        given = dict(parse_qsl(query))
        table_prefix = given.get("table_prefix", "")
        if not all(c.isalnum() or c == "_" for c in table_prefix):
            raise BadURL(f"{url}: a table_prefix is made of letters, digits and underscores")
        try:
            timeout = int(given.get("_timeout") or given.get("_busy_timeout") or 5000)
        except ValueError as e:
            raise BadURL(f"{url}: _timeout is a number of milliseconds") from e
        journal = (given.get("_journal") or given.get("_journal_mode") or "WAL").upper()
        synchronous = (
            given.get("_sync") or given.get("_synchronous") or ("NORMAL" if journal == "WAL" else "FULL")
        ).upper()
        if not (journal.isalpha() and synchronous.isalnum()):
            raise BadURL(f"{url}: _journal and _sync are words")
        prefix = f"jfs_{table_prefix}_" if table_prefix else "jfs_"
        return cls(os.path.abspath(path), prefix, timeout, journal, synchronous)


class Absent(Exception):
    """There is no database file, or it lacks the table: nothing has been stored there."""


class Database:
    """A SQLite file. Opened when first needed; only `create` makes a file that is not there."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.path = options.path
        self._lock = threading.Lock()
        self._owner = 0  # thread inside `transact`
        self._writer: sqlite3.Cursor | None = None
        self._idle: deque[sqlite3.Cursor] = deque()
        self._closed = False
        self._file: tuple[int, int] | None = None  # device and inode of what was opened; none yet

    def __repr__(self) -> str:
        return f"Database({self.path!r}, {len(self._idle)} idle readers)"

    def one(self, statement: str, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """The first row of a read that has at most one, from the latest committed state. Raises `Absent`."""
        cursor = self._borrow()
        try:
            row: tuple[Any, ...] | None = cursor.execute(statement, arguments).fetchone()
            return row
        except sqlite3.Error as e:
            raise self.translate(e) from e
        finally:
            self._give_back(cursor)

    def all(self, statement: str, arguments: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        """Every row of a read, from the latest committed state. Raises `Absent`."""
        cursor = self._borrow()
        try:
            return cursor.execute(statement, arguments).fetchall()
        except sqlite3.Error as e:
            raise self.translate(e) from e
        finally:
            self._give_back(cursor)

    def view(self, body: Callable[[sqlite3.Cursor], T]) -> T:
        """Run `body` with a cursor that sees one state throughout."""
        cursor = self._borrow()
        try:
            cursor.execute("BEGIN")
            try:
                return body(cursor)
            finally:
                if cursor.connection.in_transaction:  # SQLite itself rolls back after some errors
                    cursor.execute("ROLLBACK")
        except sqlite3.Error as e:
            raise self.translate(e) from e
        finally:
            self._give_back(cursor)

    def transact(self, body: Callable[[sqlite3.Cursor], T]) -> T:
        """Run `body` in a write transaction; again, if it raises `Conflict` or another process came between."""
        if self._owner == threading.get_ident():
            raise RuntimeError("a transaction inside a transaction")
        for attempt in range(_ATTEMPTS):
            arrived = time.monotonic()
            try:
                with self._lock:
                    self._owner = threading.get_ident()
                    try:
                        return self._transact_once(body, arrived)
                    finally:
                        self._owner = 0
            except Conflict as e:
                if attempt == _ATTEMPTS - 1:
                    raise Unavailable(f"{e}, {_ATTEMPTS} times in a row") from e
            time.sleep(random.random() * (attempt + 1) ** 2 / 1000)
        raise AssertionError("unreachable")

    def _transact_once(self, body: Callable[[sqlite3.Cursor], T], arrived: float) -> T:
        cursor = self._writer or self._open_writer()
        try:
            self._begin(cursor, arrived)
            try:
                self.check_place()
                result = body(cursor)
                cursor.execute("COMMIT")
                return result
            except BaseException:
                if cursor.connection.in_transaction:
                    cursor.execute("ROLLBACK")
                raise
        except sqlite3.Error as e:
            raise self.translate(e) from e

    def _begin(self, cursor: sqlite3.Cursor, arrived: float) -> None:
        """Become the writer; SQLite waits `busy_timeout_ms` for another process, we ask again until patience ends.

        Patience counts from the arrival: those who queue behind one that waits in vain do not wait as long again each.
        """
        while True:
            try:
                if time.monotonic() - arrived < _PATIENCE_S:
                    cursor.execute("BEGIN IMMEDIATE")
                else:
                    self._begin_at_once(cursor)
                return
            except sqlite3.OperationalError as e:
                waited = time.monotonic() - arrived
                if not _is_busy(e):
                    raise
                if waited >= _PATIENCE_S:
                    raise Unavailable(
                        f"{self.path} has been locked by another process for {waited:.0f} s;"
                        " wait for it to finish, or find it with `fuser` and stop it"
                    ) from e
            time.sleep(0.01)

    def _begin_at_once(self, cursor: sqlite3.Cursor) -> None:
        cursor.execute("PRAGMA busy_timeout=0")
        try:
            cursor.execute("BEGIN IMMEDIATE")
        finally:
            cursor.execute(f"PRAGMA busy_timeout={self.options.busy_timeout_ms}")

    def check_place(self) -> None:
        """Raise `VolumeGone` if the file does not have its name any more: whatever is written is gone at the end.

        Costs a stat, 1.5 us. SQLite itself does not look, and goes on with the file that it has open.
        """
        if self._file not in (None, _UNKNOWN) and _identity(self.path) not in (self._file, _UNKNOWN):
            raise VolumeGone(f"{self.path} was removed or replaced while it was in use")

    def create(self) -> None:
        """Make the file if there is none, and put it into the journal mode that the options ask for."""
        if not os.path.isdir(os.path.dirname(self.path)):
            raise Unavailable(f"cannot create {self.path}: its directory does not exist")
        with self._lock:
            if self._writer is None:
                _make_private(self.path)
                self._open_writer("rwc")

    def sync(self) -> None:
        """Force the log to disk.

        Not through SQLite: it offers no such call short of a checkpoint. The frames of finished commits are in the -wal
        file, or were checkpointed, which flushes the database file before the log starts over; flushing -wal is enough.
        That file carries no locks. The database file does: closing any descriptor of it would drop all POSIX locks that
        SQLite holds on it for this process, so it must never be opened here.
        """
        self.check_place()
        try:
            fd = os.open(self.path + "-wal", os.O_RDONLY)
        except FileNotFoundError:  # nothing written yet, or another journal mode, which flushes at each commit
            return
        try:
            os.fdatasync(fd)
        except OSError as e:
            raise EngineError(f"cannot flush {self.path}-wal: {e.strerror}") from e
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close all connections; the last one of all processes moves the log into the database file."""
        with self._lock:
            self._closed = True
            while self._idle:
                self._idle.pop().connection.close()
            if self._writer is not None:
                self._writer.connection.close()
                self._writer = None

    def translate(self, error: sqlite3.Error) -> Exception:
        """What an error of the library means to us."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        text = f"{self.path}: {error}"
        if code == sqlite3.SQLITE_FULL:
            return OutOfSpace(f"{text}; make room on its file system")
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return Conflict(text)
        if code == sqlite3.SQLITE_NOTADB:
            return Corrupt(f"{self.path} is not a SQLite database; check the path, or restore it from a backup")
        if code == sqlite3.SQLITE_CORRUPT:
            return Corrupt(f"{text}; restore it from a backup, or try `sqlite3 FILE .recover`")
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
            return Unavailable(f"{text}; {_access_advice(self.path)}")
        if code == sqlite3.SQLITE_IOERR:
            return Unavailable(f"{text}; check its disk, the kernel's log says more")
        if "no such table" in str(error):
            return Absent(text)
        return EngineError(text)

    def _borrow(self) -> sqlite3.Cursor:
        try:
            return self._idle.pop()
        except IndexError:
            return self._connect("rw", "PRAGMA query_only=ON")

    def _give_back(self, cursor: sqlite3.Cursor) -> None:
        if len(self._idle) < _IDLE_READERS and not self._closed:
            self._idle.append(cursor)
        else:
            cursor.connection.close()

    def _open_writer(self, mode: str = "rw") -> sqlite3.Cursor:
        journal, synchronous = self.options.journal, self.options.synchronous
        self._writer = self._connect(
            mode, f"PRAGMA journal_mode={journal}", f"PRAGMA synchronous={synchronous}",
            f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}",
        )  # fmt: skip
        return self._writer

    def _connect(self, mode: str, *pragmas: str) -> sqlite3.Cursor:
        if self._closed:
            raise Unavailable(f"{self.path} is closed")
        self.check_place()
        if mode == "rw" and not os.path.exists(self.path):
            raise Absent(f"{self.path} does not exist")
        try:
            connection = sqlite3.connect(
                f"file:{quote(os.fsencode(self.path))}?mode={mode}", uri=True, isolation_level=None,
                check_same_thread=False, timeout=self.options.busy_timeout_ms / 1000, cached_statements=256,
            )  # fmt: skip
            cursor = connection.cursor()
            for pragma in pragmas:
                cursor.execute(pragma).fetchall()
            self._file = self._file or _identity(self.path)
            return cursor
        except sqlite3.Error as e:
            raise self.translate(e) from e


def _identity(path: str) -> tuple[int, int] | None:
    """Device and inode of the file of this name; None without one, `_UNKNOWN` where that cannot be seen."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return _UNKNOWN
    return found.st_dev, found.st_ino


def _access_advice(path: str) -> str:
    """What to do about a database file that cannot be opened, or not for writing."""
    directory = os.path.dirname(path)
    if os.path.isdir(path):
        return "it is a directory, name a file in it"
    if not os.path.isdir(directory):
        return "its directory does not exist"
    for place, needed in ((directory, os.R_OK | os.W_OK | os.X_OK), (path, os.R_OK | os.W_OK)):
        if os.path.exists(place) and not os.access(place, needed):
            return f"user {os.geteuid()} needs permission to read and write {place}"
    return "check that it and its directory may be written, and for too many open files"


def _make_private(path: str) -> None:
    """Make a database file that only its owner may read: it holds keys and names. SQLite itself would make it 0644.

    It gets its name when its descriptor is closed already: closing one of a database in use drops SQLite's locks.
    Where that cannot be done, SQLite makes the file.
    """
    if os.path.exists(path):
        return
    temporary = f"{path}.{os.getpid()}.{threading.get_ident()}.tmp"
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            os.link(temporary, path)
        finally:
            os.unlink(temporary)
    except OSError:
        pass


def _is_busy(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
