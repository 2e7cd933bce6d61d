"""The SQLite bucket: the table that official clients share, several processes at once, and files that fail."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest
from full_disk import full_disk

from chunkstore.bucket import Access, Bucket
from chunkstore.buckets import open_bucket
from chunkstore.buckets.sqlite import SqliteBucket
from chunkstore.errors import BadBucket, Damaged, Denied, NoSpace, NotFound, Timeout, Unavailable

BLOCK = os.urandom(4 << 20)

# What the official client 1.4.1 leaves behind when it has put two objects and replaced one (`.dump`).
OFFICIAL = """
CREATE TABLE `jfs_blob` (`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `key` BLOB NOT NULL, `size` INTEGER NOT NULL, `modified` DATETIME NOT NULL, `data` BLOB NULL);
CREATE UNIQUE INDEX `UQE_jfs_blob_blob` ON `jfs_blob` (`key`);
INSERT INTO jfs_blob VALUES(1,X'766f6c2f6368756e6b732f302f302f315f305f33',3,'2026-11-26 05:45:38',X'616263');
INSERT INTO jfs_blob VALUES(2,X'766f6c2f74776f',6,'2026-11-26 05:45:38',X'6c6f6e676572');
"""  # noqa: E501 - as it is


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "objects.db"


@pytest.fixture
def bucket(path: Path) -> Iterator[Bucket]:
    made = open_bucket("sqlite3", str(path), Access(timeout_s=0.5))
    made.create()
    yield made
    made.close()


def ask(path: Path, query: str, *values: object) -> list[tuple[object, ...]]:
    """What a connection that is none of ours finds, or does."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return connection.execute(query, values).fetchall()


# addresses


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("/a/b.db", "/a/b.db"),
        ("sqlite3:///a/b.db", "/a/b.db"),
        ("/a/b.db?_journal=WAL&_timeout=5", "/a/b.db"),
        ("b.db", f"{os.getcwd()}/b.db"),
    ],
)
def test_addresses_are_paths(address: str, path: str) -> None:
    assert open_bucket("sqlite3", address).describe() == f"sqlite3://{path}/"


def test_an_address_is_needed() -> None:
    with pytest.raises(BadBucket, match="path of a database file"):
        open_bucket("sqlite3", "")


# the table


def test_the_table_is_that_of_official_clients(bucket: Bucket, path: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "official.db")) as connection:
        connection.executescript(OFFICIAL)
    schema = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"
    assert ask(path, schema) == ask(tmp_path / "official.db", schema)


@pytest.fixture
def official(path: Path) -> Path:
    """A file that an official client has made."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(OFFICIAL)
    return path


@pytest.fixture
def far_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


def test_files_of_official_clients_are_used_as_they_are(official: Path, far_east: None) -> None:
    bucket = open_bucket("sqlite3", str(official))
    assert [(each.key, each.size, each.mtime) for each in bucket.list_all()] == [
        ("vol/chunks/0/0/1_0_3", 3, 1795671938), ("vol/two", 6, 1795671938)
    ]  # fmt: skip
    assert bucket.get("vol/chunks/0/0/1_0_3") == b"abc"
    bucket.create()
    bucket.put("vol/two", b"ours")
    bucket.put("vol/zero", b"")
    bucket.sync()
    bucket.close()
    assert ask(official, "PRAGMA journal_mode") == [("delete",)]
    rows = ask(official, "SELECT key, typeof(key), size, typeof(size), data, typeof(data) FROM jfs_blob WHERE id > 1")
    assert rows == [
        (b"vol/two", "blob", 4, "integer", b"ours", "blob"),
        (b"vol/zero", "blob", 0, "integer", b"", "blob"),
    ]
    for (modified,) in ask(official, "SELECT modified FROM jfs_blob WHERE id > 1"):
        assert isinstance(modified, str) and re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", modified)
        assert abs(datetime.fromisoformat(modified + "+00:00").timestamp() - time.time()) < 60


def test_rows_without_data_are_empty_objects(official: Path) -> None:
    ask(official, "UPDATE jfs_blob SET data = NULL, size = 0")
    bucket = open_bucket("sqlite3", str(official))
    assert bucket.get("vol/two") == bucket.get("vol/two", 1, 2) == b""
    bucket.close()


def test_keys_may_have_255_bytes(bucket: Bucket) -> None:
    bucket.put("ä" * 127 + "x", b"1")
    assert bucket.get("ä" * 127 + "x") == b"1"
    bucket.put("a", b"1")
    for call in (lambda: bucket.put("ä" * 128, b""), lambda: bucket.copy("k" * 256, "a")):
        with pytest.raises(BadBucket, match="its key has 256 bytes, over the 255"):
            call()
    with pytest.raises(NotFound):
        bucket.get("k" * 256)


def test_copies_replace(bucket: Bucket) -> None:
    bucket.put("a", b"one")
    bucket.put("b", b"three")
    bucket.copy("b", "a")
    assert bucket.get("b") == b"one" and bucket.head("b").size == 3
    with pytest.raises(NotFound, match="copy object"):
        bucket.copy("c", "not/there")


def test_many_pages(bucket: Bucket) -> None:
    names = sorted(f"v/{number}" for number in range(2500))
    for name in names:
        bucket.put(name, b"")
    bucket.put("w", b"")
    assert [each.key for each in bucket.list_all("v/")] == names
    assert [each.key for each in bucket.list("v/", names[999], 5).objects] == names[1000:1005]
    assert [each.key for each in bucket.list("", delimiter="/").objects] == ["v/", "w"]


# several at once

WRITER = """
import sys
from chunkstore.buckets import open_bucket
path, name = sys.argv[1:]
bucket = open_bucket("sqlite3", path)
for number in range(50):
    bucket.put(f"{name}/{number}", name.encode() * 10_000)
    bucket.put("shared", name.encode() * 10_000)
    assert len(bucket.get("shared")) == 10_000
bucket.close()
"""


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_processes_and_threads_write_at_once(bucket: Bucket, path: Path, journal: str) -> None:
    bucket.close()
    ask(path, f"PRAGMA journal_mode={journal}")
    command = [sys.executable, "-c", WRITER, str(path)]
    root = Path(__file__).resolve().parent.parent
    processes = [subprocess.Popen([*command, name], cwd=root) for name in "abc"]
    bucket = open_bucket("sqlite3", str(path))
    threads = [
        threading.Thread(target=lambda name=name: [bucket.put(f"{name}/{number}", b"x") for number in range(50)])
        for name in "xyz"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    found = [each.key for each in bucket.list_all()]
    assert found == sorted([f"{name}/{number}" for name in "abcxyz" for number in range(50)] + ["shared"])
    assert bucket.get("c/49") == b"c" * 10_000
    bucket.close()


def test_a_file_that_another_process_keeps_locked_is_a_timeout(bucket: Bucket, path: Path) -> None:
    bucket.put("a", b"1")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        calls: list[Callable[[], object]] = [lambda: bucket.put("b", b"2"), lambda: bucket.delete("a")]
        for call in calls:
            began = time.monotonic()
            with pytest.raises(Timeout, match=r"another process has locked it for 0.5 s"):
                call()
            assert 0.4 < time.monotonic() - began < 3
        assert bucket.get("a") == b"1", "the log lets readers go on"
        other.execute("ROLLBACK")
    bucket.put("b", b"2")


def test_writers_of_one_process_wait_for_a_time(bucket: Bucket) -> None:
    assert isinstance(bucket, SqliteBucket)
    with bucket._writing, pytest.raises(Timeout, match=r"other writers were busy for 0.5 s"):
        bucket.put("a", b"1")


# durability


def test_sync_forces_the_log(bucket: Bucket, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(path, "PRAGMA journal_mode") == [("wal",)]
    bucket.put("a", BLOCK)
    forced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: forced.append(os.readlink(f"/proc/self/fd/{fd}")))
    bucket.sync()
    assert forced == [f"{path}-wal", str(path.parent)]


DYING = """
import os, sys
from chunkstore.buckets import open_bucket
bucket = open_bucket("sqlite3", sys.argv[1])
bucket.create()
bucket.put("a", b"x" * 5_000_000)
os._exit(9)
"""


def test_an_object_survives_the_death_of_its_writer(path: Path) -> None:
    root = Path(__file__).resolve().parent.parent
    assert subprocess.run([sys.executable, "-c", DYING, str(path)], cwd=root).returncode == 9
    bucket = open_bucket("sqlite3", str(path))
    assert bucket.get("a") == b"x" * 5_000_000
    bucket.close()


# files that fail


def test_a_file_that_is_not_there_is_not_made_by_the_way(tmp_path: Path) -> None:
    bucket = open_bucket("sqlite3", str(tmp_path / "folder" / "objects.db"))
    for call in (lambda: bucket.get("a"), lambda: bucket.put("a", b"1"), lambda: list(bucket.list_all())):
        with pytest.raises(Unavailable, match=r"there is no file .*objects.db; is its disk mounted"):
            call()
    with pytest.raises(Unavailable, match="its directory does not exist"):
        bucket.create()
    assert not (tmp_path / "folder").exists()
    (tmp_path / "folder").mkdir()
    bucket.create()
    bucket.put("a", b"1")
    bucket.close()


def test_a_file_that_was_replaced_is_noticed(bucket: Bucket, path: Path, tmp_path: Path) -> None:
    bucket.put("a", b"1")
    bucket.close()
    bucket = open_bucket("sqlite3", str(path))
    assert bucket.get("a") == b"1"
    path.rename(tmp_path / "away.db")
    with pytest.raises(Unavailable, match="there is no file"):
        bucket.put("b", b"2")
    other = open_bucket("sqlite3", str(path))
    other.create()
    other.close()
    with pytest.raises(NotFound):
        bucket.get("a")
    bucket.put("b", b"2")
    assert ask(path, "SELECT key FROM jfs_blob") == [(b"b",)]
    bucket.close()


def test_a_file_that_is_no_database(path: Path) -> None:
    path.write_bytes(b"something else" * 1000)
    bucket = open_bucket("sqlite3", str(path))
    for call in (lambda: bucket.get("a"), bucket.create):
        with pytest.raises(BadBucket, match=r"objects.db is not an SQLite database"):
            call()


def test_a_database_without_the_table(path: Path) -> None:
    ask(path, "CREATE TABLE metadata (x)")
    bucket = open_bucket("sqlite3", str(path))
    with pytest.raises(BadBucket, match=r"objects.db has no table jfs_blob"):
        bucket.get("a")
    bucket.create()
    bucket.put("a", b"1")
    bucket.close()


def test_a_damaged_file(official: Path) -> None:
    content = bytearray(official.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    official.write_bytes(content)
    bucket = open_bucket("sqlite3", str(official))
    with pytest.raises(Damaged, match=r"objects.db is damaged .*restore it from a backup"):
        bucket.get("vol/two")
    bucket.close()


def test_a_full_disk_is_no_space(tmp_path: Path) -> None:
    with full_disk(tmp_path / "disk", 1 << 20) as disk:
        bucket = open_bucket("sqlite3", str(disk / "objects.db"))
        bucket.create()
        with pytest.raises(NoSpace, match="write object"):
            bucket.put("a", BLOCK)
        bucket.put("a", b"fits")
        assert bucket.get("a") == b"fits"
        bucket.close()


def test_a_file_that_may_not_be_written(tmp_path: Path, official: Path) -> None:
    with full_disk(tmp_path / "disk", 1 << 20) as disk:
        shutil.copy(official, disk / "objects.db")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        bucket = open_bucket("sqlite3", str(disk / "objects.db"))
        assert bucket.get("vol/two") == b"longer"
        with pytest.raises(Denied, match="check the permissions of"):
            bucket.put("a", b"1")
        bucket.close()
