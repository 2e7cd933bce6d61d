"""What only SQLite has: the schema, files of other clients, other processes, durability, damage."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from meta.attr import Attr
from meta.engines import mask_url, open_engine
from meta.errors import BadURL, Corrupt, MetaError, OutOfSpace, Refused, SettingError, Unavailable, VolumeGone
from meta.slices import Slice
from meta.sql import sqlite
from meta.sql.engine import SqlEngine, open_url
from meta.types import DIRECTORY, FILE, Dirent

RECORD = Slice(0, 5, 100, 0, 100).encode()

SCHEMA = {
    "jfs_setting": "CREATE TABLE `jfs_setting` (`name` TEXT PRIMARY KEY NOT NULL, `value` TEXT NOT NULL)",
    "jfs_edge": (
        "CREATE TABLE `jfs_edge` (`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `parent` INTEGER NOT NULL,"
        " `name` BLOB NOT NULL, `inode` INTEGER NOT NULL, `type` INTEGER NOT NULL)"
    ),
    "jfs_node": (
        "CREATE TABLE `jfs_node` (`inode` INTEGER PRIMARY KEY NOT NULL, `type` INTEGER NOT NULL,"
        " `flags` INTEGER NOT NULL, `mode` INTEGER NOT NULL, `uid` INTEGER NOT NULL, `gid` INTEGER NOT NULL,"
        " `atime` INTEGER NOT NULL, `mtime` INTEGER NOT NULL, `ctime` INTEGER NOT NULL,"
        " `atimensec` INTEGER DEFAULT 0 NOT NULL, `mtimensec` INTEGER DEFAULT 0 NOT NULL,"
        " `ctimensec` INTEGER DEFAULT 0 NOT NULL, `nlink` INTEGER NOT NULL, `length` INTEGER NOT NULL,"
        " `rdev` INTEGER NULL, `parent` INTEGER NULL, `access_acl_id` INTEGER NULL, `default_acl_id` INTEGER NULL,"
        " `tier_id` INTEGER NULL)"
    ),
    "jfs_user_group_quota": (
        "CREATE TABLE `jfs_user_group_quota` (`qtype` INTEGER NOT NULL, `qkey` INTEGER NOT NULL,"
        " `max_space` INTEGER NOT NULL, `max_inodes` INTEGER NOT NULL, `used_space` INTEGER NOT NULL,"
        " `used_inodes` INTEGER NOT NULL, PRIMARY KEY (`qtype`, `qkey`))"
    ),
    "UQE_jfs_edge_edge": "CREATE UNIQUE INDEX `UQE_jfs_edge_edge` ON `jfs_edge` (`parent`,`name`)",
    "IDX_jfs_edge_inode": "CREATE INDEX `IDX_jfs_edge_inode` ON `jfs_edge` (`inode`)",
    "UQE_jfs_plock_plock": "CREATE UNIQUE INDEX `UQE_jfs_plock_plock` ON `jfs_plock` (`inode`,`sid`,`owner`)",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a volume %41?#\udcff.db".replace("?", "")


@pytest.fixture
def engine(path: Path) -> Iterator[SqlEngine]:
    engine = open_url(f"sqlite3://{path}", False)
    engine.prepare()
    engine.init_counters({})
    yield engine
    engine.close()


def query(path: Path, statement: str, *arguments: object) -> list[tuple[object, ...]]:
    """Run a statement as another client would, and commit it."""
    connection = sqlite3.connect(path)
    connection.text_factory = bytes
    try:
        rows = connection.execute(statement, arguments).fetchall()
        connection.commit()
        return rows
    finally:
        connection.close()


# URLs


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:pw@h", "redis://:****@h"),
        ("mysql://u:p@(h)/d", "mysql://u:****@(h)/d"),
        ("redis://user@h", "redis://user@h"),
        ("redis://h:6379/1", "redis://h:6379/1"),
        ("postgres://u:p@ss@h:5432/d", "postgres://u:****@h:5432/d"),
        ("sqlite3:///a:b/c.db", "sqlite3:///a:b/c.db"),
        ("u:p@h", "u:****@h"),
    ],
)
def test_mask_url(url: str, shown: str) -> None:
    assert mask_url(url) == shown


def test_urls_nobody_understands() -> None:
    with pytest.raises(BadURL, match=r"^Invalid meta driver: xyz$"):
        open_engine("xyz://a")
    with pytest.raises(MetaError, match=r"mysql is not supported yet; supported: .*sqlite3"):
        open_engine("mysql://db/x")
    for url in ("sqlite3://", "sqlite3://:memory:", "sqlite3://a.db?table_prefix=a;b", "sqlite3://a.db?_timeout=x"):
        with pytest.raises(BadURL):
            open_engine(url)


# Schema and other clients


def test_the_schema_is_what_official_clients_create(engine: SqlEngine, path: Path) -> None:
    found = {
        name.decode(): sql.decode()
        for name, sql in query(path, "SELECT name, sql FROM sqlite_master WHERE sql NOT NULL")
    }
    assert {name: found[name] for name in SCHEMA} == SCHEMA
    tables = sorted(name for name, sql in found.items() if sql.startswith("CREATE TABLE `"))
    assert tables == sorted(
        f"jfs_{name}"
        for name in (
            "acl",
            "change_log",
            "chunk",
            "chunk_ref",
            "counter",
            "delegation_token",
            "delfile",
            "delslices",
            "detached_node",
            "dir_quota",
            "dir_stats",
            "edge",
            "flock",
            "node",
            "plock",
            "session2",
            "setting",
            "sustained",
            "symlink",
            "user_group_quota",
            "xattr",
        )
    )
    indexes = sorted(name for name, sql in found.items() if "INDEX" in sql)
    assert indexes == [
        "IDX_jfs_chunk_ref_refs", "IDX_jfs_edge_inode", "UQE_jfs_chunk_chunk", "UQE_jfs_edge_edge",
        "UQE_jfs_flock_flock", "UQE_jfs_plock_plock", "UQE_jfs_sustained_sustained", "UQE_jfs_xattr_name",
    ]  # fmt: skip


def test_a_new_volume_has_the_counters_that_official_clients_need(engine: SqlEngine, path: Path) -> None:
    assert dict(query(path, "SELECT name, value FROM jfs_counter")) == {
        b"nextInode": 2, b"nextChunk": 1, b"nextSession": 0, b"usedSpace": 0, b"totalInodes": 0,
        b"nextCleanupSlices": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "nanoseconds", "micro", "rest"),
    [
        (1_700_000_000, 111_222_333, 1_700_000_000_111_222, 333),
        (-1, 999_999_999, 0, -1),
        (-2, 500, -1_999_999, -500),
        (-5, 0, -5_000_000, 0),
        (1 << 62, 5, (1 << 63) - 1, 0),
    ],
)
def test_times_are_microseconds_and_a_rest(
    engine: SqlEngine, path: Path, seconds: int, nanoseconds: int, micro: int, rest: int
) -> None:
    attr = Attr(FILE, 0o644, mtime=seconds, mtimensec=nanoseconds)
    engine.transact(lambda tx: tx.put_attr(5, attr))
    assert query(path, "SELECT mtime, mtimensec FROM jfs_node") == [(micro, rest)]
    found = engine.reader.attr(5)
    assert found is not None
    if seconds < 1 << 62:
        assert (found.mtime, found.mtimensec) == (seconds, nanoseconds)


def test_rows_of_official_clients(engine: SqlEngine, path: Path) -> None:
    query(path, "INSERT INTO jfs_node VALUES (5,1,0,420,0,0,1000001,0,0,7,0,0,1,10,NULL,NULL,NULL,NULL,NULL)")
    attr = engine.reader.attr(5)
    assert attr == Attr(FILE, 0o644, atime=1, atimensec=1007, length=10, parent=0)
    query(path, "INSERT INTO jfs_chunk (inode, indx, slices) VALUES (5, 0, ?)", RECORD)
    query(path, "UPDATE jfs_chunk SET slices = slices || ?", RECORD)  # SQLite makes TEXT of it
    assert query(path, "SELECT typeof(slices) FROM jfs_chunk") == [(b"text",)]
    assert engine.reader.chunk(5, 0) == RECORD * 2
    assert engine.transact(lambda tx: tx.append_slices(5, 0, RECORD)).count == 3
    assert engine.reader.chunks(5) == {0: RECORD * 3}
    assert list(engine.list_slices()) == [(5, 0, RECORD * 3)]
    query(path, "INSERT INTO jfs_acl VALUES (1, 7, 5, 65535, 0, NULL, NULL)")
    rule = engine.reader.acl(1)
    assert rule is not None and rule.is_minimal and engine.intern_acl(rule) == 1


def test_columns_of_newer_clients_survive(engine: SqlEngine, path: Path) -> None:
    query(path, "ALTER TABLE jfs_node ADD COLUMN future INTEGER NULL")
    engine.transact(lambda tx: tx.put_attr(5, Attr(FILE, 0o644)))
    query(path, "UPDATE jfs_node SET future = 42")
    engine.transact(lambda tx: tx.put_attr(5, Attr(FILE, 0o600)))
    assert query(path, "SELECT mode, future FROM jfs_node") == [(0o600, 42)]


def test_a_volume_of_an_old_client(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(
        """CREATE TABLE jfs_setting (name TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL);
        INSERT INTO jfs_setting VALUES ('format', '{}');
        CREATE TABLE jfs_node (inode INTEGER PRIMARY KEY NOT NULL, type INTEGER NOT NULL, flags INTEGER NOT NULL,
         mode INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL, atime INTEGER NOT NULL,
         mtime INTEGER NOT NULL, ctime INTEGER NOT NULL, nlink INTEGER NOT NULL, length INTEGER NOT NULL,
         rdev INTEGER NULL, parent INTEGER NULL);
        INSERT INTO jfs_node VALUES (1, 2, 0, 511, 0, 0, 1000001, 0, 0, 2, 4096, 0, 1);
        CREATE TABLE jfs_session (sid INTEGER PRIMARY KEY NOT NULL, heartbeat INTEGER NOT NULL, info BLOB);
        INSERT INTO jfs_session VALUES (7, 1000, NULL);"""
    )
    connection.close()
    root = Attr(DIRECTORY, 0o777, nlink=2, length=4096, parent=1, atime=1, atimensec=1000)
    reading = open_url(f"sqlite3://{path}", True)
    assert reading.reader.attr(1) == root
    assert reading.reader.quotas("user") == {}
    reading.close()
    engine = open_url(f"sqlite3://{path}", False)
    engine.prepare()
    assert engine.reader.attr(1) == root
    engine.transact(lambda tx: tx.put_attr(1, Attr(DIRECTORY, 0o700, tier=2)))
    assert engine.reader.attr(1) == Attr(DIRECTORY, 0o700, tier=2)
    assert [record.expire for record in engine.sessions()] == [1300]
    assert (engine.stale_sessions(1300, 5), engine.stale_sessions(1301, 5)) == ([], [7])
    engine.transact(lambda tx: tx.delete_session(7))
    assert engine.sessions() == []
    engine.close()


def test_two_volumes_in_one_file(engine: SqlEngine, path: Path) -> None:
    other = open_url(f"sqlite3://{path}?table_prefix=b", False)
    other.prepare()
    engine.transact(lambda tx: tx.put_setting(b"a"))
    other.transact(lambda tx: tx.put_setting(b"b"))
    other.transact(lambda tx: tx.put_attr(5, Attr(FILE, 0o600)))
    assert (engine.reader.setting(), other.reader.setting()) == (b"a", b"b")
    assert engine.reader.attr(5) is None
    other.reset()
    assert other.is_empty() and not engine.is_empty()
    other.close()


# Files that are not a volume


def test_a_missing_file_is_not_created_by_looking(path: Path) -> None:
    engine = open_url(f"sqlite3://{path}", False)
    assert engine.is_empty() and not engine.is_foreign()
    assert engine.reader.setting() is None and engine.reader.attr(1) is None and engine.sessions() == []
    assert engine.view(lambda reader: reader.setting()) is None
    with pytest.raises(Unavailable, match="does not exist"):
        engine.transact(lambda tx: tx.put_setting(b""))
    engine.close()
    assert list(path.parent.iterdir()) == []
    with pytest.raises(Unavailable, match="directory does not exist"):
        open_url(f"sqlite3://{path}/no/x.db", False).prepare()


def test_only_the_owner_may_read_a_new_database(engine: SqlEngine, path: Path) -> None:
    """It may hold keys of the bucket; SQLite gives its log and shared memory the mode of the database file."""
    engine.prepare()
    engine.increment("nextSession")
    kept = [each for each in path.parent.iterdir() if each.name.startswith(path.name)]
    assert len(kept) == 3
    assert {each.stat().st_mode & 0o777 for each in kept} == {0o600}
    os.chmod(path, 0o640)  # a choice of its owner
    with contextlib.closing(open_url(f"sqlite3://{path}", False)) as other:
        other.prepare()
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("how", ["removed", "replaced", "its directory moved"])
def test_a_file_that_is_removed_or_replaced_in_use_takes_no_more_writes(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite would go on with the file that has no name any more, and all that is written would be gone at the end."""
    path, other = tmp_path / "d" / "meta.db", tmp_path / "other.db"
    path.parent.mkdir()
    for each in (path, other):
        with contextlib.closing(open_url(f"sqlite3://{each}", False)) as engine:
            engine.prepare()
            engine.increment("nextSession")
    with contextlib.closing(open_url(f"sqlite3://{path}", False)) as engine:
        assert engine.increment("nextSession") == 2
        with monkeypatch.context() as patch:  # where it cannot be seen, it is there
            patch.setattr(os, "stat", _denied)
            assert engine.increment("nextSession") == 3
        match how:
            case "removed":
                path.unlink()
            case "replaced":
                for end in ("-wal", "-shm"):  # what a restore has to remove
                    Path(f"{path}{end}").unlink()
                other.rename(path)
            case "its directory moved":
                path.parent.rename(tmp_path / "e")
        for call in (lambda: engine.increment("nextSession"), engine.reader.setting, engine.sync):
            with pytest.raises(VolumeGone, match="was removed or replaced while it was in use"):
                call()
    if how == "replaced":
        with contextlib.closing(open_url(f"sqlite3://{path}", False)) as engine:
            assert engine.increment("nextSession") == 2


def _denied(path: object) -> os.stat_result:
    raise PermissionError(13, "Permission denied")


def test_somebody_elses_database_is_left_alone(path: Path) -> None:
    query(path, "CREATE TABLE customers (id INTEGER)")
    engine = open_url(f"sqlite3://{path}", False)
    assert engine.is_foreign() and engine.is_empty()
    with pytest.raises(SettingError, match="customers"):
        engine.prepare()
    assert query(path, "SELECT name FROM sqlite_master") == [(b"customers",)]
    engine.close()


def test_a_file_that_is_no_database(path: Path) -> None:
    path.write_bytes(b"hello world " * 1000)
    with pytest.raises(Corrupt, match="is not a SQLite database"):
        open_url(f"sqlite3://{path}", False)
    assert path.read_bytes() == b"hello world " * 1000


def test_a_damaged_database_is_told(engine: SqlEngine, path: Path) -> None:
    engine.transact(lambda tx: [tx.put_attr(ino, Attr(FILE, 0o600)) for ino in range(2, 5000)])
    engine.close()
    data = bytearray(path.read_bytes())
    for page in range(len(data) // 8192, len(data) // 4096):
        data[page * 4096 : page * 4096 + 4096] = b"\xa5" * 4096
    path.write_bytes(data)
    damaged = open_url(f"sqlite3://{path}", False)
    with pytest.raises(Corrupt, match="malformed"):
        list(damaged.list_nodes())
    with pytest.raises(Corrupt):
        damaged.transact(lambda tx: tx.put_attr(4000, Attr(FILE)))
    damaged.close()


def test_a_file_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may everything, so only the answer of access(2) is another user's here."""
    with pytest.raises(Unavailable, match="it is a directory, name a file in it"):
        open_url(f"sqlite3://{tmp_path}", False).reader.setting()
    file = tmp_path / "m.db"
    file.mkdir()
    monkeypatch.setattr(os.path, "isdir", lambda path: path == str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: path != str(tmp_path))
    message = f"unable to open database file; user {os.geteuid()} needs permission to read and write {tmp_path}$"
    with pytest.raises(Unavailable, match=message):
        open_url(f"sqlite3://{file}", False).reader.setting()


def test_a_full_disk(engine: SqlEngine) -> None:
    pages = engine._db.transact(lambda cursor: cursor.execute("PRAGMA page_count").fetchone()[0])
    engine._db._writer.execute(f"PRAGMA max_page_count={pages + 2}").fetchall()
    with pytest.raises(OutOfSpace, match="full"):
        engine.transact(lambda tx: [tx.put_xattr(5, b"user.%d" % n, b"x" * 60000) for n in range(10)])
    assert engine.reader.xattrs(5) == {}
    engine._db._writer.execute("PRAGMA max_page_count=1000000").fetchall()
    engine.transact(lambda tx: tx.put_xattr(5, b"user.a", b"x" * 60000))
    assert len(engine.reader.xattrs(5)) == 1


def test_a_read_only_engine_writes_nothing(engine: SqlEngine, path: Path) -> None:
    engine.transact(lambda tx: tx.put_setting(b"{}"))
    reading = open_engine(f"sqlite3://{path}", read_only=True)
    assert reading.reader.setting() == b"{}"
    with pytest.raises(Refused):
        reading.transact(lambda tx: tx.put_setting(b""))
    reading.prepare()
    with pytest.raises(MetaError):
        reading.view(lambda reader: reader.put_setting(b""))
    reading.close()


# Other processes


def test_readers_see_each_commit_of_another_client(engine: SqlEngine, path: Path) -> None:
    other = open_url(f"sqlite3://{path}", False)
    for length in range(50):
        engine.transact(lambda tx, length=length: tx.put_attr(5, Attr(FILE, length=length)))
        assert other.reader.attr(5).length == length
        other.transact(lambda tx, length=length: tx.put_entry(1, b"x", Dirent(FILE, length)))
        assert engine.reader.entry(1, b"x") == Dirent(FILE, length)
    other.close()


WORKER = """
import sys
from meta.engines import open_engine
from meta.attr import Attr
engine = open_engine(sys.argv[1])
def body(tx):
    attr = tx.attr(5)
    attr.length += 1
    tx.put_attr(5, attr)
    tx.add_usage(1, 1)
for _ in range(int(sys.argv[2])):
    engine.transact(body)
print("done", flush=True)
sys.stdin.readline()
"""


def start(script: str, *arguments: str) -> subprocess.Popen[bytes]:
    root = str(Path(__file__).resolve().parent.parent)
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def test_no_update_is_lost_between_processes(engine: SqlEngine, path: Path) -> None:
    engine.transact(lambda tx: tx.put_attr(5, Attr(FILE, length=0)))
    workers = [start(WORKER, f"sqlite3://{path}", "150") for _ in range(3)]
    for worker in workers:
        assert worker.communicate(b"\n", timeout=60)[0] == b"done\n"
        assert worker.returncode == 0
    assert engine.reader.attr(5).length == 450
    assert engine.reader.counter("usedSpace") == 450


def test_commits_survive_a_killed_process(engine: SqlEngine, path: Path) -> None:
    engine.transact(lambda tx: tx.put_attr(5, Attr(FILE, length=0)))
    engine.close()
    worker = start(WORKER, f"sqlite3://{path}", "20")
    assert worker.stdout is not None and worker.stdout.readline() == b"done\n"
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    after = open_url(f"sqlite3://{path}", False)
    assert (after.reader.attr(5).length, after.reader.counter("totalInodes")) == (20, 20)
    after.close()


def test_a_database_locked_for_long_is_told(engine: SqlEngine, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_PATIENCE_S", 0.2)
    hasty = open_url(f"sqlite3://{path}?_timeout=50", False)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="locked by another process"):
        hasty.transact(lambda tx: tx.put_attr(5, Attr()))
    assert hasty.reader.attr(5) is None  # reading goes on meanwhile
    blocker.execute("COMMIT")
    blocker.close()
    hasty.transact(lambda tx: tx.put_attr(5, Attr()))
    assert hasty.reader.attr(5) is not None
    hasty.close()


def test_who_queues_for_a_locked_database_waits_no_longer(
    engine: SqlEngine, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_PATIENCE_S", 0.4)
    hasty = open_url(f"sqlite3://{path}?_timeout=100", False)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        calls = [pool.submit(hasty.transact, lambda tx: tx.put_attr(5, Attr())) for _ in range(16)]
    assert all("locked by another process" in str(call.exception()) for call in calls)
    assert time.monotonic() - started < 2
    blocker.execute("COMMIT")
    blocker.close()
    hasty.transact(lambda tx: tx.put_attr(5, Attr()))
    hasty.close()


# Durability

PRY = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=0.1, isolation_level=None)
try:
    print(connection.execute("PRAGMA journal_mode=DELETE").fetchone()[0])
except sqlite3.OperationalError as e:
    print("refused:", e)
"""


def test_sync_flushes_the_log_and_keeps_sqlites_locks(
    engine: SqlEngine, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leaving WAL mode needs every other client gone, which SQLite learns from the locks that they hold."""
    engine.transact(lambda tx: tx.put_attr(5, Attr()))
    flushed: list[tuple[str, int]] = []
    real = os.fdatasync

    def fdatasync(fd: int) -> None:
        flushed.append((os.readlink(f"/proc/self/fd/{fd}"), os.fstat(fd).st_size))
        real(fd)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    engine.sync()
    assert flushed == [(f"{path}-wal", os.path.getsize(f"{path}-wal"))] and flushed[0][1] > 0
    answer = start(PRY, str(path)).communicate(timeout=30)[0]
    assert answer.startswith(b"refused:"), "somebody could take the database from under us"
    engine.close()
    assert start(PRY, str(path)).communicate(timeout=30)[0] == b"delete\n"


def test_sync_meets_checkpoints(engine: SqlEngine, path: Path) -> None:
    stop = threading.Event()

    def checkpoint() -> None:
        while not stop.is_set():
            query(path, "PRAGMA wal_checkpoint(TRUNCATE)")

    other = threading.Thread(target=checkpoint)
    other.start()
    try:
        for length in range(100):
            engine.transact(lambda tx, length=length: tx.put_attr(5, Attr(length=length)))
            engine.sync()
    finally:
        stop.set()
        other.join()
    assert engine.reader.attr(5).length == 99


def test_another_journal_mode_flushes_at_each_commit(path: Path) -> None:
    engine = open_url(f"sqlite3://{path}?_journal=DELETE", False)
    engine.prepare()
    engine.transact(lambda tx: tx.put_attr(5, Attr()))
    engine.sync()
    assert engine._db._writer.execute("PRAGMA synchronous").fetchall() == [(2,)]
    assert not Path(f"{path}-wal").exists()
    assert engine.reader.attr(5) == Attr()
    engine.close()


def test_a_closed_engine_says_so(engine: SqlEngine) -> None:
    engine.close()
    with pytest.raises(Unavailable, match="closed"):
        engine.reader.attr(1)
    with pytest.raises(Unavailable, match="closed"):
        engine.transact(lambda tx: None)
