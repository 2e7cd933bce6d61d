"""One suite for every bucket: what the store relies on."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from buckets import MAKERS, PAGED

from chunkstore.bucket import Bucket
from chunkstore.buckets import open_bucket, with_prefix
from chunkstore.errors import BadBucket, ChecksumMismatch, Denied, NoSpace, NotFound, Unavailable, Unsupported


@pytest.fixture(params=MAKERS)
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bucket]:
    made = MAKERS[request.param](tmp_path)
    made.create()
    yield made
    made.close()


@pytest.fixture(params=PAGED)
def paged(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bucket]:
    made = MAKERS[request.param](tmp_path)
    made.create()
    yield made
    made.close()


def _get_into(bucket: Bucket, key: str, offset: int, size: int) -> bytes:
    buffer = bytearray(b"?" * size)
    return bytes(buffer[: bucket.get_into(key, offset, memoryview(buffer))])


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_what_was_put_is_got(bucket: Bucket, kind: type) -> None:
    data = os.urandom(100_000)
    bucket.put("chunks/0/0/1_0_100000", kind(data))
    assert bucket.get("chunks/0/0/1_0_100000") == data
    assert _get_into(bucket, "chunks/0/0/1_0_100000", 0, 100_000) == data


def test_ranges(bucket: Bucket) -> None:
    bucket.put("k", b"0123456789")
    assert bucket.get("k", 3) == b"3456789"
    assert bucket.get("k", 3, 4) == b"3456"
    assert bucket.get("k", 8, 4) == b"89"
    assert bucket.get("k", 10, 4) == bucket.get("k", 99, 4) == bucket.get("k", 99) == b""
    assert _get_into(bucket, "k", 3, 4) == b"3456"
    assert _get_into(bucket, "k", 8, 4) == b"89"
    assert _get_into(bucket, "k", 99, 4) == b""


def test_put_replaces_and_delete_repeats(bucket: Bucket) -> None:
    bucket.put("a/b", b"longer than the next")
    bucket.put("a/b", b"short")
    assert bucket.get("a/b") == b"short" and bucket.head("a/b").size == 5
    bucket.delete("a/b")
    bucket.delete("a/b")
    bucket.delete("never/was")


def test_missing_objects(bucket: Bucket) -> None:
    for call in (bucket.get, bucket.head, lambda key: _get_into(bucket, key, 0, 1)):
        with pytest.raises(NotFound):
            call("not/there")


def test_delete_many(bucket: Bucket) -> None:
    keys = [f"d/{n}" for n in range(20)]
    for key in keys[:10]:
        bucket.put(key, b"x")
    assert bucket.delete_many(keys) == {}
    assert list(bucket.list_all()) == []


def test_head(bucket: Bucket) -> None:
    bucket.put("x/y", b"123")
    info = bucket.head("x/y")
    assert (info.key, info.size, info.is_dir) == ("x/y", 3, False)
    assert info.mtime > 1.6e9


FILE_NAMES = ["a-b", "a/b-c", "a/b.c", "a/b/c", "a0", "b/x", "chunks/0/1", "chunks/10/2", "chunks/9/3", "z"]


def test_list_all_is_sorted_bytewise(bucket: Bucket) -> None:
    for name in reversed(FILE_NAMES):
        bucket.put(name, name.encode())
    assert [info.key for info in bucket.list_all()] == FILE_NAMES
    assert [info.key for info in bucket.list_all("a")] == [n for n in FILE_NAMES if n.startswith("a")]
    assert [info.key for info in bucket.list_all("chunks/")] == FILE_NAMES[6:9]
    assert list(bucket.list_all("nothing/here")) == []
    for after in [*FILE_NAMES, "a/", "a/b", "chunks/1", "chunks/10/"]:
        assert [info.key for info in bucket.list_all("", after)] == [n for n in FILE_NAMES if n > after], after
    assert {info.key: info.size for info in bucket.list_all()} == {n: len(n) for n in FILE_NAMES}


def test_pages(paged: Bucket) -> None:
    for name in FILE_NAMES:
        paged.put(name, b"")
    seen: list[str] = []
    while True:
        objects, more = paged.list("", seen[-1] if seen else "", limit=3)
        assert len(objects) <= 3
        seen += [info.key for info in objects]
        if not more:
            break
    assert seen == FILE_NAMES


def test_delimiter_folds_directories(paged: Bucket) -> None:
    for name in FILE_NAMES:
        paged.put(name, b"1")
    listed = paged.list("", delimiter="/").objects
    assert [(info.key, info.is_dir) for info in listed] == [
        ("a-b", False), ("a/", True), ("a0", False), ("b/", True), ("chunks/", True), ("z", False),
    ]  # fmt: skip
    assert [info.key for info in paged.list("chunks/", delimiter="/").objects] == [
        "chunks/0/",
        "chunks/10/",
        "chunks/9/",
    ]
    assert [info.key for info in paged.list("chunks/1", delimiter="/").objects] == ["chunks/10/"]
    assert [info.key for info in paged.list("", "a/", delimiter="/").objects] == ["a0", "b/", "chunks/", "z"]


def test_copy(paged: Bucket) -> None:
    paged.put("from", b"bytes")
    paged.copy("to/there", "from")
    assert paged.get("to/there") == paged.get("from") == b"bytes"


def test_sync_and_close(bucket: Bucket) -> None:
    for number in range(100):
        bucket.put(f"s/{number % 7}/{number}", b"x")
        if number % 30 == 0:
            bucket.sync()
    bucket.delete("s/1/1")
    bucket.sync()
    bucket.sync()
    bucket.close()


def test_many_threads(bucket: Bucket) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(20):
                key = f"t/{number}/{turn}"  # of its own: the test server removes a directory that others just filled
                bucket.put(key, key.encode())
                assert bucket.get(key) == key.encode()
                if turn % 2:
                    bucket.delete(key)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(list(bucket.list_all("t/"))) == 60


def test_shards_spread_and_refuse_pages(tmp_path: Path) -> None:
    shards = open_bucket("file", f"{tmp_path}/s%d/", shards=4)
    for number in range(64):
        shards.put(f"v/{number}", b"")
    counts = [len(list((tmp_path / f"s{n}" / "v").iterdir())) for n in range(4)]
    assert sum(counts) == 64 and min(counts) > 4
    with pytest.raises(Unsupported):
        shards.list("v/")


# the file bucket's own promises


def test_file_layout_and_modes(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        bucket = with_prefix(open_bucket("file", f"{tmp_path}/"), "myjfs/")
        bucket.put("chunks/0/0/1_0_3", b"abc")
    finally:
        os.umask(old)
    path = tmp_path / "myjfs/chunks/0/0/1_0_3"
    assert path.read_bytes() == b"abc"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    assert bucket.describe() == f"file://{tmp_path}/myjfs/"
    assert [entry.name for entry in path.parent.iterdir()] == ["1_0_3"]


def test_file_directories_by_trailing_slash(tmp_path: Path) -> None:
    bucket = open_bucket("file", f"{tmp_path}/")
    bucket.put("testing/", b"")
    assert (tmp_path / "testing").is_dir()
    assert bucket.get("testing/") == b"" and bucket.head("testing/").is_dir
    bucket.delete("testing/")
    assert not (tmp_path / "testing").exists()


def test_file_temporary_names_are_seen_and_short_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = open_bucket("file", f"{tmp_path}/")
    seen: list[str] = []
    real = os.rename
    monkeypatch.setattr(os, "rename", lambda a, b: (seen.append(a), real(a, b)))
    bucket.put("d/" + "n" * 250, b"x")
    assert os.path.dirname(seen[0]) == f"{tmp_path}/d"
    assert os.path.basename(seen[0]).startswith(".jfs." + "n" * 200 + ".tmp.")


def test_file_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = open_bucket("file", f"{tmp_path}/")

    def full(fd: int, data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(NoSpace) as caught:
            bucket.put("a/b", b"x")
    assert caught.value.errno == errno.ENOSPC and str(tmp_path) in str(caught.value)
    assert list((tmp_path / "a").iterdir()) == []
    bucket.put("a/b", b"x")


def test_file_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = open_bucket("file", f"{tmp_path}/")
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: real(fd, memoryview(data)[:7]))
        bucket.put("k", bytes(range(100)))
    assert bucket.get("k") == bytes(range(100))


def test_file_sync_forces_each_file_and_directory_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = open_bucket("file", f"{tmp_path}/")
    forced: list[str] = []
    note = lambda fd: forced.append(os.readlink(f"/proc/self/fd/{fd}"))  # noqa: E731
    bucket.put("a/b/1", b"x")
    bucket.put("a/b/2", b"x")
    bucket.put("a/b/gone", b"x")
    bucket.delete("a/b/gone")
    monkeypatch.setattr(os, "fdatasync", note)
    monkeypatch.setattr(os, "fsync", note)
    bucket.sync()
    assert {f"{tmp_path}/a/b/1", f"{tmp_path}/a/b/2", f"{tmp_path}/a/b", f"{tmp_path}/a", str(tmp_path)} == set(forced)
    forced.clear()
    bucket.sync()
    assert forced == []


def test_file_sync_that_failed_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = open_bucket("file", f"{tmp_path}/")
    bucket.put("k", b"x")

    def broken(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        with pytest.raises(Exception, match="sync objects"):
            bucket.sync()
    forced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", forced.append)
    bucket.sync()
    assert len(forced) == 1


@pytest.mark.parametrize("left", ["nothing", "an empty directory"])
@pytest.mark.parametrize("root", ["{}/", "{}/a"])
@pytest.mark.parametrize("written", ["by this client", "before"])
def test_file_directory_that_vanished_is_not_made_anew(left: str, root: str, written: str, tmp_path: Path) -> None:
    """The disk was unmounted: what was written below its mount point would be hidden when it is back."""
    disk, away = tmp_path / "disk", tmp_path / "away"
    bucket = with_prefix(open_bucket("file", root.format(disk)), "vol/")
    bucket.put("chunks/0/0/1_0_1", b"x")
    if written == "before":
        bucket = with_prefix(open_bucket("file", root.format(disk)), "vol/")
    disk.rename(away)
    if left != "nothing":
        disk.mkdir()
    with pytest.raises(Unavailable, match="has vanished: is its disk still mounted"):
        bucket.put("chunks/0/0/2_0_1", b"y")
    if disk.exists():
        disk.rmdir()
    away.rename(disk)
    bucket.put("chunks/0/0/2_0_1", b"y")
    assert bucket.get("chunks/0/0/1_0_1") + bucket.get("chunks/0/0/2_0_1") == b"xy"


def test_file_directory_that_was_deleted_on_purpose_is_made_anew(tmp_path: Path) -> None:
    bucket = open_bucket("file", f"{tmp_path}/objects/")
    for _ in range(2):
        bucket.put("testing/1", b"x")
        bucket.delete("testing/1")
        bucket.delete("testing/")


def test_file_content_that_changed_is_an_error(tmp_path: Path) -> None:
    bucket = open_bucket("file", f"{tmp_path}/")
    data = os.urandom(1000)
    bucket.put("k", data)
    if not os.listxattr(tmp_path / "k"):
        pytest.skip("this file system keeps no extended attributes")
    assert bucket.get("k") == bucket.get("k", 0, 5000) == _get_into(bucket, "k", 0, 1000) == data
    (tmp_path / "k").write_bytes(data[:500] + bytes((data[500] ^ 1,)) + data[501:])
    for read in (lambda: bucket.get("k"), lambda: bucket.get("k", 0, 5000), lambda: _get_into(bucket, "k", 0, 1000)):
        with pytest.raises(ChecksumMismatch, match="/k is damaged: its content does not match"):
            read()
    assert bucket.get("k", 0, 100) == data[:100], "a part cannot be verified"
    bucket.put("k", data)
    assert bucket.get("k") == data


def test_file_without_a_checksum_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an official client, or on a file system that keeps none."""
    bucket = open_bucket("file", f"{tmp_path}/")
    (tmp_path / "theirs").write_bytes(b"data")

    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", unsupported)
    bucket.put("ours", b"data")
    assert bucket.get("theirs") == bucket.get("ours") == b"data"


def test_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "chunks").write_bytes(b"not a directory")
    bucket = open_bucket("file", f"{tmp_path}/")
    with pytest.raises(NotFound):
        bucket.get("chunks/0/0/1_0_1")
    with pytest.raises(Exception, match="chunks/0/0"):
        bucket.put("chunks/0/0/1_0_1", b"x")


def test_mem_buckets_of_one_name_share() -> None:
    open_bucket("mem", "shared-by-name").put("k", b"v")
    assert open_bucket("mem", "shared-by-name").get("k") == b"v"
    open_bucket("mem", "shared-by-name").delete("k")


@pytest.mark.parametrize(
    ("storage", "advice"), [("hdfs", "this version opens: file, mem, s3"), ("obs", "its S3-compatible endpoint")]
)
def test_storages_of_later_versions_say_so(storage: str, advice: str) -> None:
    with pytest.raises(BadBucket, match=f"storage '{storage}' is not supported yet.*{advice}"):
        open_bucket(storage, "http://example.com/bucket")


def test_unknown_storage() -> None:
    with pytest.raises(BadBucket, match="invalid storage: 'floppy'"):
        open_bucket("floppy", "/a")
    with pytest.raises(BadBucket):
        open_bucket("file", "")


def test_permissions_have_their_error() -> None:
    from chunkstore.errors import from_os_error

    assert isinstance(from_os_error(PermissionError(errno.EACCES, "no"), "x"), Denied)
