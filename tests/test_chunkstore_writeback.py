"""Write-back: blocks staged on a local disk, uploaded later, found again after a crash, and never lost on the way."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from faults import FaultyBucket

from chunkstore.buckets.mem import MemBucket
from chunkstore.cache import blockfile
from chunkstore.cache.disks import DiskCache
from chunkstore.config import StoreConfig
from chunkstore.errors import Denied, StoreError, Unavailable
from chunkstore.store import ChunkStore, opened

BLOCK = 64 << 10


def config(path: Path, **changes: object) -> StoreConfig:
    settings: dict[str, object] = {
        "block_size": BLOCK, "cache_dirs": (str(path),), "cache_size": 1 << 30, "free_space_ratio": 0.01,
        "writeback": True, "buffer_size": 32 << 20, **changes,
    }  # fmt: skip
    return StoreConfig(**settings)  # type: ignore[arg-type]


def write(store: ChunkStore, slice_id: int, data: bytes, tier: int = 0) -> None:
    writer = store.new_writer(tier)
    writer.set_id(slice_id)
    writer.write_at(0, data)
    writer.finish(len(data))


def until(what: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def staged_files(path: Path) -> list[str]:
    root = path / "rawstaging"
    return sorted(str(each.relative_to(root)) for each in root.rglob("*") if each.is_file())


@contextmanager
def away(bucket: FaultyBucket) -> Iterator[None]:
    """The bucket takes nothing meanwhile."""

    def refuse(method: str, key: str) -> None:
        if method == "put":
            raise Unavailable("the storage is away")

    bucket.fail = refuse
    try:
        yield
    finally:
        bucket.fail = lambda method, key: None


@pytest.fixture
def bucket() -> FaultyBucket:
    return FaultyBucket(MemBucket())


@pytest.mark.parametrize("size", [1, 100, BLOCK, 3 * BLOCK + 17])
def test_written_blocks_are_staged_and_uploaded(bucket: FaultyBucket, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    with opened(bucket, config(tmp_path)) as store:
        write(store, 7, data)
        assert store.read(7, size, 0, size) == data
        until(lambda: store.staged == (0, 0))
        assert staged_files(tmp_path) == []
        assert len(list(bucket.list_all())) == -(-size // BLOCK)
        assert store.read(7, size, 0, size) == data
        assert bucket.count("get") == 0, "an uploaded block stays cached"
    with opened(bucket, config(tmp_path / "other", writeback=False)) as other:
        assert other.read(7, size, 0, size) == data


def test_nothing_goes_up_before_its_time(bucket: FaultyBucket, tmp_path: Path) -> None:
    with opened(bucket, config(tmp_path, upload_delay_s=3600.0)) as store:
        write(store, 7, b"x" * 10)
        time.sleep(1.5)
        assert store.staged == (1, 10) and bucket.count("put") == 0
        assert store.read(7, 10, 2, 5) == b"xxxxx"
        assert os.stat(tmp_path / "rawstaging/chunks/0/0/7_0_10").st_nlink == 2
    with opened(bucket, config(tmp_path)):
        until(lambda: bucket.count("put") == 1 and staged_files(tmp_path) == [])
    assert os.stat(tmp_path / "raw/chunks/0/0/7_0_10").st_nlink == 1


def test_a_later_mount_uploads_what_was_left(bucket: FaultyBucket, tmp_path: Path) -> None:
    data = os.urandom(2 * BLOCK + 5)
    with away(bucket), opened(bucket, config(tmp_path)) as store:
        write(store, 8, data)
        assert len(staged_files(tmp_path)) == 3
    with opened(bucket, config(tmp_path, writeback=False)) as store:  # not even told to stage
        assert store.read(8, len(data), 0, len(data)) == data
        until(lambda: staged_files(tmp_path) == [])
    with opened(bucket, config(tmp_path / "other", writeback=False)) as other:
        assert other.read(8, len(data), 0, len(data)) == data


def test_a_client_that_may_not_write_leaves_staged_blocks_alone(bucket: FaultyBucket, tmp_path: Path) -> None:
    with away(bucket), opened(bucket, config(tmp_path)) as store:
        write(store, 8, b"abc")
    with opened(bucket, config(tmp_path, writeback=False, drain_staged=False)) as store:
        time.sleep(0.3)
        assert bucket.count("put") <= 3 and list(bucket.list_all()) == []
        assert store.read(8, 3, 0, 3) == b"abc"


def test_tiers_are_kept_with_staged_blocks(tmp_path: Path) -> None:
    seen: list[int] = []

    class Tiers(MemBucket):
        def put(self, key: str, data: object, tier: int = 0) -> None:
            seen.append(tier)
            super().put(key, data, tier)  # type: ignore[arg-type]

    inner = Tiers()
    with opened(inner, config(tmp_path, upload_delay_s=3600.0)) as store:
        write(store, 9, b"abc", tier=2)
        assert store.read(9, 3, 0, 3) == b"abc"
    for level in ("extend", "none"):
        with opened(inner, config(tmp_path, cache_checksum=level)):
            until(lambda: staged_files(tmp_path) == [])
        assert seen[-1] == 2
        with opened(inner, config(tmp_path, cache_checksum="none", upload_delay_s=3600.0)) as store:
            write(store, 10, b"abcd", tier=2)


def test_footers_are_those_of_official_clients() -> None:
    assert blockfile.footer(2, True).hex() == "46530010" + "82a474696572cc02a3706164c4020000"
    assert blockfile.footer(2, False).hex() == "4653000e" + "82a474696572cc02a3706164c400"
    assert blockfile.footer(0, True) == b""


@pytest.mark.parametrize("reason", ["threshold", "disk full"])
def test_what_cannot_be_staged_is_uploaded_at_once(
    bucket: FaultyBucket, tmp_path: Path, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, dict[str, object]] = {
        "threshold": {"writeback_threshold": BLOCK}, "disk full": {},
    }  # fmt: skip
    if reason == "disk full":

        def refuse(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(blockfile, "write", refuse)
    with opened(bucket, config(tmp_path, upload_delay_s=3600.0, **settings[reason])) as store:
        write(store, 7, b"x" * BLOCK)
        assert bucket.count("put") == 1 and staged_files(tmp_path) == []
        assert store.read(7, BLOCK, 0, BLOCK) == b"x" * BLOCK


@pytest.mark.parametrize("most", [1, 0])
def test_only_so_many_blocks_are_staged_at_the_same_time(
    bucket: FaultyBucket, tmp_path: Path, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = threading.Event(), threading.Event()
    plain = blockfile.write

    def slow(path: str, *args: object) -> None:
        if "7_0" in path:
            entered.set()
            assert go_on.wait(10)
        plain(path, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(blockfile, "write", slow)
    with opened(bucket, config(tmp_path, upload_delay_s=3600.0, max_stage_write=most)) as store:
        first = threading.Thread(target=write, args=(store, 7, b"abc"))
        first.start()
        assert entered.wait(10)
        write(store, 8, b"abc")
        assert bucket.count("put") == most, "0 is as many as there are"
        go_on.set()
        first.join()
        assert len(staged_files(tmp_path)) == 2 - most


def test_failures_are_tried_again(bucket: FaultyBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chunkstore.writeback._AGAIN_S", 0.2)
    monkeypatch.setattr("chunkstore.writeback._ATTEMPTS", 1)
    with opened(bucket, config(tmp_path)) as store:
        with away(bucket):
            write(store, 7, b"abc")
            until(lambda: store.metrics.staging_block_errors >= 2)
            assert store.staged == (1, 3)
        until(lambda: store.staged == (0, 0))
    assert bucket.inner.get("chunks/0/0/7_0_3") == b"abc"


def test_removed_slices_are_not_uploaded(bucket: FaultyBucket, tmp_path: Path) -> None:
    with opened(bucket, config(tmp_path, upload_delay_s=3600.0)) as store:
        write(store, 7, b"abc")
        store.remove(7, 3)
        assert store.staged == (0, 0) and staged_files(tmp_path) == []
        assert not (tmp_path / "raw/chunks/0/0/7_0_3").exists()


def test_a_slice_removed_during_its_upload_leaves_no_object(bucket: FaultyBucket, tmp_path: Path) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def wait(method: str, key: str) -> None:
        if method == "put":
            entered.set()
            assert go_on.wait(10)

    bucket.fail = wait
    with opened(bucket, config(tmp_path)) as store:
        write(store, 7, b"abc")
        assert entered.wait(10)
        store.remove(7, 3)
        go_on.set()
        until(lambda: store.staged == (0, 0) and list(bucket.list_all()) == [])
    assert staged_files(tmp_path) == []


def test_a_damaged_staged_block_is_not_uploaded(
    bucket: FaultyBucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(bucket, config(tmp_path, upload_delay_s=3600.0)) as store:
        write(store, 7, b"abc")
    path = tmp_path / "rawstaging/chunks/0/0/7_0_3"
    with open(path, "r+b") as file:
        file.write(b"X")
    with opened(bucket, config(tmp_path)) as store:
        until(lambda: store.metrics.staging_block_errors == 1)
        assert store.staged == (1, 3)
    assert path.exists() and list(bucket.list_all()) == []
    assert "a staged block is lost unless its disk is mended" in caplog.text


def test_uploads_keep_to_their_hours() -> None:
    def at(hour: int, hours: tuple[int, int] | None) -> bool:
        return StoreConfig(upload_hours=hours).uploads_now(time.struct_time((2026, 1, 1, hour, 30, 0, 0, 1, 0)))

    assert at(3, None) and at(3, (5, 5))
    assert [hour for hour in range(24) if at(hour, (22, 2))] == [0, 1, 22, 23]
    assert [hour for hour in range(24) if at(hour, (9, 12))] == [9, 10, 11]


def test_sync_forces_staged_blocks_to_disk(
    bucket: FaultyBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced: list[str] = []
    plain = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (forced.append(os.readlink(f"/proc/self/fd/{fd}")), plain(fd)))
    with opened(bucket, config(tmp_path, upload_delay_s=3600.0)) as store:
        write(store, 7, b"abc")
        store.sync()
    assert str(tmp_path / "rawstaging/chunks/0/0/7_0_3") in forced


def test_staged_blocks_are_not_evicted(bucket: FaultyBucket, tmp_path: Path) -> None:
    small = config(tmp_path, cache_size=8 * (BLOCK + 4096), upload_delay_s=3600.0)
    with opened(bucket, small) as store:
        for number in range(1, 20):
            write(store, number, bytes([number]) * BLOCK)
        plain = store.new_writer(writeback=False)
        plain.set_id(100)
        plain.write_at(0, b"p" * 40 * BLOCK)
        plain.finish(40 * BLOCK)
        for start in range(40):
            store.read(100, 40 * BLOCK, start * BLOCK, BLOCK)
        store.flush()
        for number in range(1, 20):
            assert store.read(number, BLOCK, 0, 1) == bytes([number])
        assert len(staged_files(tmp_path)) == 19 and bucket.count("put") == 40


def test_several_directories(bucket: FaultyBucket, tmp_path: Path) -> None:
    dirs = tuple(str(tmp_path / name) for name in "ab")
    with opened(bucket, config(tmp_path, cache_dirs=dirs, upload_delay_s=3600.0)) as store:
        for number in range(1, 31):
            write(store, number, b"x")
        assert min(len(staged_files(tmp_path / name)) for name in "ab") > 3
    with opened(bucket, config(tmp_path, cache_dirs=dirs[:1])):  # one disk is gone: its blocks wait
        until(lambda: staged_files(tmp_path / "a") == [])
    assert staged_files(tmp_path / "b")
    with opened(bucket, config(tmp_path, cache_dirs=dirs)):
        until(lambda: staged_files(tmp_path / "b") == [])
    assert len(list(bucket.list_all())) == 30


def test_without_a_disk_there_is_no_write_back(bucket: FaultyBucket, caplog: pytest.LogCaptureFixture) -> None:
    with opened(bucket, config(Path("memory"), cache_dirs=("memory",))) as store:
        write(store, 7, b"abc")
        assert bucket.count("put") == 1
    assert "--writeback is ignored" in caplog.text


def test_an_object_of_an_aborted_slice_goes(bucket: FaultyBucket, tmp_path: Path) -> None:
    with opened(bucket, config(tmp_path, upload_delay_s=3600.0)) as store:
        writer = store.new_writer()
        writer.set_id(7)
        writer.write_at(0, b"x" * 2 * BLOCK)
        writer.flush_to(2 * BLOCK)
        until(lambda: store.staged[0] == 2)
        writer.abort()
        until(lambda: store.staged == (0, 0) and staged_files(tmp_path) == [])


def test_a_storage_that_hangs_holds_up_no_writer(bucket: FaultyBucket, tmp_path: Path) -> None:
    go_on = threading.Event()

    def hang(method: str, key: str) -> None:
        if method == "put":
            assert go_on.wait(20)

    bucket.fail = hang
    with opened(bucket, config(tmp_path, max_uploads=2)) as store:
        try:
            for number in range(1, 6):
                write(store, number, b"x")
            until(lambda: bucket.count("put") == 2)
            start = time.monotonic()
            write(store, 7, bytes(5 * BLOCK))
            assert time.monotonic() - start < 2
            assert store.staged[0] == 10
        finally:
            go_on.set()
        until(lambda: store.staged == (0, 0))


def test_a_staged_block_goes_only_when_its_object_is_durable(tmp_path: Path) -> None:
    done: list[str] = []

    class Lazy(MemBucket):
        """Keeps in mind until `sync`, as local directories do."""

        def put(self, key: str, data: object, tier: int = 0) -> None:
            super().put(key, data, tier)  # type: ignore[arg-type]
            done.append("put")

        def sync(self) -> None:
            done.append("sync" if staged_files(tmp_path) else "sync too late")

    with opened(Lazy(), config(tmp_path)) as store:
        write(store, 7, b"abc")
        until(lambda: staged_files(tmp_path) == [])
    assert done == ["put", "sync"]


@pytest.mark.parametrize("interval", [0.0, 1.0, -1.0])
def test_a_staged_block_without_its_second_name_stays_readable(
    bucket: FaultyBucket, tmp_path: Path, interval: float
) -> None:
    late = config(tmp_path, upload_delay_s=3600.0, cache_scan_interval_s=interval)
    with opened(bucket, late) as store:
        write(store, 7, b"abc")
        os.unlink(tmp_path / "raw/chunks/0/0/7_0_3")
        assert store.read(7, 3, 0, 3) == b"abc"
    with opened(bucket, late) as store:
        for _ in range(3):  # scans come and go
            until(lambda: store.staged == (1, 3))
            assert store.read(7, 3, 0, 3) == b"abc"
            time.sleep(0.6)
    assert bucket.count("get") == 0


def test_a_block_that_another_client_has_uploaded_can_be_evicted(bucket: FaultyBucket, tmp_path: Path) -> None:
    """Its second name went while a scan was looking, or before the next one."""
    with opened(bucket, config(tmp_path, upload_delay_s=3600.0)) as store:
        write(store, 7, b"abc")
        with opened(bucket, config(tmp_path, writeback=False, drain_staged=False, cache_scan_interval_s=1.0)) as other:
            assert isinstance(other.cache, DiskCache)
            until(lambda: other.cache.dirs[0].index.staged == 1)  # type: ignore[attr-defined]
            os.unlink(tmp_path / "rawstaging/chunks/0/0/7_0_3")
            until(lambda: other.cache.usage() == (1, 3 + 4096))
            assert other.cache.dirs[0].index.staged == 0


def test_staged_blocks_are_read_wherever_they_are(bucket: FaultyBucket, tmp_path: Path) -> None:
    """One directory more, and others are the owners of many blocks."""
    dirs = tuple(str(tmp_path / name) for name in "abc")
    late = config(tmp_path, upload_delay_s=3600.0)
    with opened(bucket, replace(late, cache_dirs=dirs[:1])) as store:
        for number in range(1, 31):
            write(store, number, b"x")
    with opened(bucket, replace(late, cache_dirs=dirs)) as store:
        until(lambda: store.staged[0] == 30)
        for number in range(1, 31):
            assert store.read(number, 1, 0, 1) == b"x"
            assert store.missing(number, 1) == []
    assert bucket.count("get") == 0


def test_a_failed_read_of_a_staged_block_is_not_its_end(
    bucket: FaultyBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(bucket, config(tmp_path, upload_delay_s=3600.0)) as store:
        write(store, 7, b"abc")
        time.sleep(0.3)  # the first scan is through
        with monkeypatch.context() as patch:
            patch.setattr(blockfile.BlockFile, "read_into", _too_many_open_files)
            with pytest.raises(StoreError):
                store.read(7, 3, 0, 3)
        assert store.read(7, 3, 0, 3) == b"abc"


def _too_many_open_files(*_: object) -> None:
    raise OSError(24, "Too many open files")


def test_a_crowded_disk_does_not_make_failures_come_faster(
    bucket: FaultyBucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(method: str, key: str) -> None:
        if method == "put":
            raise Denied("not for you")

    bucket.fail = refuse
    with opened(bucket, config(tmp_path, upload_delay_s=3600.0)) as store:
        for number in range(1, 31):
            write(store, number, b"x")
        assert isinstance(store.cache, DiskCache)
        store.cache.dirs[0].room._ratio = 1.0  # as if hardly anything were free
        until(lambda: bucket.count("put") == 30)
        time.sleep(1.5)
        assert bucket.count("put") == 30, "each once; again in a minute"
    assert sum("tried again in a minute" in message for message in caplog.messages) == 1, "no flood in the log"


def test_a_slice_is_removed_before_its_staged_blocks_are_found(bucket: FaultyBucket, tmp_path: Path) -> None:
    """Another mount on the same directory has staged them, or an earlier one."""
    with opened(bucket, config(tmp_path, upload_delay_s=3600.0)) as other, opened(bucket, config(tmp_path)) as store:
        time.sleep(0.3)  # it has looked
        write(other, 7, b"abc")
        store.remove(7, 3)
        assert staged_files(tmp_path) == [] and not (tmp_path / "raw/chunks/0/0/7_0_3").exists()
    with opened(bucket, config(tmp_path)):
        time.sleep(0.5)
    assert list(bucket.list_all()) == []


def test_a_block_staged_again_while_its_older_self_goes_up(bucket: FaultyBucket, tmp_path: Path) -> None:
    """Numbers of slices come again when metadata was restored from a backup: the later content counts."""
    entered, go_on = threading.Event(), threading.Event()

    def wait(method: str, key: str) -> None:
        if method == "put":
            entered.set()
            assert go_on.wait(10)

    bucket.fail = wait
    with opened(bucket, config(tmp_path)) as store:
        write(store, 7, b"old")
        assert entered.wait(10)
        threading.Timer(0.5, go_on.set).start()
        write(store, 7, b"new")
        until(lambda: store.staged == (0, 0))
        assert bucket.inner.get("chunks/0/0/7_0_3") == b"new" == bytes(store.read(7, 3, 0, 3))


def test_a_clock_that_was_wrong_holds_up_no_upload(bucket: FaultyBucket, tmp_path: Path) -> None:
    with opened(bucket, config(tmp_path, upload_delay_s=3600.0)) as store:
        write(store, 7, b"abc")
        write(store, 8, b"abc")
    os.utime(tmp_path / "rawstaging/chunks/0/0/7_0_3", (time.time() + 1e6,) * 2)
    os.utime(tmp_path / "rawstaging/chunks/0/0/8_0_3", (-1e6, -1e6))
    with opened(bucket, config(tmp_path)) as store:
        until(lambda: staged_files(tmp_path) == [])


def test_short_lived_slices_leave_nothing_on_the_list(bucket: FaultyBucket, tmp_path: Path) -> None:
    with opened(bucket, config(tmp_path, upload_delay_s=3600.0)) as store:
        for number in range(1, 3001):
            write(store, number, b"x")
            store.remove(number, 1)
        assert store._writeback is not None and len(store._writeback._due) < 1500
        assert store.staged == (0, 0)


def test_uploads_count_as_buffers(bucket: FaultyBucket, tmp_path: Path) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def wait(method: str, key: str) -> None:
        if method == "put":
            entered.set()
            assert go_on.wait(10)

    bucket.fail = wait
    with opened(bucket, config(tmp_path)) as store:
        write(store, 7, bytes(BLOCK))
        assert entered.wait(10)
        assert store.buffers.used == BLOCK
        go_on.set()
        until(lambda: store.staged == (0, 0) and store.buffers.used == 0)


def test_checksums_of_staged_blocks_count_whatever_the_cache_is_told(bucket: FaultyBucket, tmp_path: Path) -> None:
    with opened(bucket, config(tmp_path, upload_delay_s=3600.0)) as store:
        write(store, 7, b"abc")
    with open(tmp_path / "rawstaging/chunks/0/0/7_0_3", "r+b") as file:
        file.write(b"X")
    with opened(bucket, config(tmp_path, cache_checksum="none")) as store:
        until(lambda: store.metrics.staging_block_errors == 1)
    assert list(bucket.list_all()) == []


def test_new_directories_are_forced_to_disk_as_well(
    bucket: FaultyBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced: set[str] = set()
    plain = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (forced.add(os.readlink(f"/proc/self/fd/{fd}")), plain(fd)))
    with opened(bucket, config(tmp_path / "new", upload_delay_s=3600.0)) as store:
        write(store, 7, b"abc")
        store.sync()
    root = tmp_path / "new"
    wanted = [tmp_path, root, *(root / each for each in ("rawstaging", "rawstaging/chunks", "rawstaging/chunks/0"))]
    assert {str(each) for each in wanted} <= forced


def test_a_link_from_elsewhere_does_not_make_a_block_staged(bucket: FaultyBucket, tmp_path: Path) -> None:
    """As backups make them, or an upload that ends while the directory is scanned."""
    plain = config(tmp_path / "cache", writeback=False)
    with opened(bucket, plain) as store:
        write(store, 7, b"abc")
        store.flush()
    (tmp_path / "backup").hardlink_to(tmp_path / "cache/raw/chunks/0/0/7_0_3")
    with opened(bucket, plain) as store:
        until(lambda: store.cache.usage() == (1, 3 + 4096))


def test_a_block_that_cannot_be_staged_after_all_leaves_no_older_self(
    bucket: FaultyBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(bucket, config(tmp_path, upload_delay_s=3600.0)) as store:
        write(store, 7, b"old")
        with monkeypatch.context() as patch:
            patch.setattr(blockfile, "write", _too_many_open_files)
            write(store, 7, b"new")
        assert store.staged == (0, 0) and staged_files(tmp_path) == []
        assert bytes(store.read(7, 3, 0, 3)) == b"new" == bucket.inner.get("chunks/0/0/7_0_3")


def test_whatever_happens_at_once_the_bucket_holds_what_was_kept(
    bucket: FaultyBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slices come, are read and go while uploads fail, disks are scanned and blocks evicted."""
    monkeypatch.setattr("chunkstore.writeback._AGAIN_S", 0.05)
    monkeypatch.setattr("chunkstore.writeback._ATTEMPTS", 1)
    faults = random.Random(1)

    def fail(method: str, key: str) -> None:
        if method == "put" and faults.random() < 0.3:
            raise Unavailable("this time it does not work")

    bucket.fail = fail
    dirs = tuple(str(tmp_path / name) for name in "ab")
    busy = config(tmp_path, cache_dirs=dirs, cache_size=20 * BLOCK, cache_scan_interval_s=1.0, max_uploads=4)
    kept: dict[int, bytes] = {}

    def work(store: ChunkStore, first: int) -> None:
        rng = random.Random(first)
        mine: dict[int, bytes] = {}
        number, end = first, time.monotonic() + 2.5
        while time.monotonic() < end:
            number += 1
            mine[number] = rng.randbytes(rng.choice([1, 100, BLOCK, 2 * BLOCK + 5]))
            write(store, number, mine[number])
            if rng.random() < 0.2:
                store.sync()
            for chosen in rng.sample(list(mine), min(2, len(mine))):
                data = mine[chosen]
                assert store.read(chosen, len(data), 0, len(data)) == data
            if rng.random() < 0.5:
                removed = rng.choice(list(mine))
                store.remove(removed, len(mine.pop(removed)))
        kept.update(mine)

    with opened(bucket, busy) as store:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(work, (store,) * 3, (0, 100_000, 200_000)))
        bucket.fail = lambda method, key: None
        until(lambda: store.staged == (0, 0))
        assert not any(staged_files(tmp_path / name) for name in "ab")
        assert store.buffers.used == 0 and store.metrics.staging_writing_blocks == 0
        assert isinstance(store.cache, DiskCache)
        assert [each.index.staged for each in store.cache.dirs] == [0, 0]
        assert {int(each.key.split("/")[-1].split("_")[0]) for each in bucket.list_all()} == set(kept)
    with opened(bucket, config(tmp_path / "other", writeback=False)) as other:
        for number, data in kept.items():
            assert other.read(number, len(data), 0, len(data)) == data
