"""Slices written and read back; what goes wrong is an error and never wrong bytes."""

from __future__ import annotations

import errno
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import FaultyBucket, failing_first
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkstore.buckets.file import FileBucket
from chunkstore.buckets.mem import MemBucket
from chunkstore.buffers import Page
from chunkstore.config import StoreConfig
from chunkstore.errors import BadBucket, Damaged, NoSpace, NotFound, StoreError, Timeout, Unavailable
from chunkstore.store import ChunkStore, opened

KIB, MIB = 1 << 10, 1 << 20

Make = Callable[..., tuple[ChunkStore, FaultyBucket]]


@pytest.fixture
def make() -> Iterator[Make]:
    stores: list[ChunkStore] = []

    def new(**options: object) -> tuple[ChunkStore, FaultyBucket]:
        options.setdefault("block_size", 64 * KIB)
        bucket = FaultyBucket(MemBucket())
        store = ChunkStore(bucket, StoreConfig(**options))  # type: ignore[arg-type]
        stores.append(store)
        return store, bucket

    yield new
    for store in stores:
        assert store.close(10)
        assert store.buffers.used == 0, "a page was not released"


def write(store: ChunkStore, slice_id: int, data: bytes, step: int = 100_000) -> None:
    writer = store.new_writer()
    writer.set_id(slice_id)
    for start in range(0, len(data), step):
        writer.write_at(start, data[start : start + step])
        writer.flush_to(writer.length)
    writer.finish(len(data))


def used_memory(store: ChunkStore) -> int:
    return store.buffers.used + store.cache.memory()


@pytest.mark.parametrize("compress", ["none", "lz4", "zstd"])
@pytest.mark.parametrize("cached", ["no cache", "memory", "disk"])
@pytest.mark.parametrize("block_size", [64 * KIB, MIB, 16 * MIB])
def test_random_reads_of_random_slices(compress: str, cached: str, block_size: int, make: Make, tmp_path: Path) -> None:
    seed = block_size + len(compress + cached)
    print(f"seed {seed}")
    chance = random.Random(seed)
    dirs = {"no cache": (), "memory": ("memory",), "disk": (str(tmp_path / "cache"),)}[cached]
    store, _ = make(block_size=block_size, compress=compress, cache_dirs=dirs, hash_prefix=bool(seed % 2))
    for slice_id in range(1, 6):
        size = chance.choice([1, 4096, block_size - 1, block_size, block_size + 1, chance.randrange(1, 2 * block_size)])
        data = chance.randbytes(size // 2) + bytes(size - size // 2)
        write(store, slice_id, data, step=chance.choice([4 * KIB, 128 * KIB, MIB]) if size < MIB else 300_001)
        for _ in range(25):
            offset = chance.randrange(size)
            length = chance.choice([1, 4096, chance.randrange(size)])
            length = min(length, size - offset)
            assert store.read(slice_id, size, offset, length) == data[offset : offset + length]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_writes_that_append_or_overwrite_the_open_tail(data: st.DataObject) -> None:
    block_size = 64 * KIB
    with opened(MemBucket(), StoreConfig(block_size=block_size)) as store:
        writer = store.new_writer()
        writer.set_id(3)
        model = bytearray()
        flushed = 0
        for turn in range(data.draw(st.integers(1, 8))):
            offset = data.draw(st.integers(flushed, len(model)))
            piece = bytes([turn + 1]) * data.draw(st.sampled_from([1, 100, 4096, 65535, 65536, 65537, 150_000]))
            writer.write_at(offset, piece)
            model[offset : offset + len(piece)] = piece
            if data.draw(st.booleans()):
                writer.flush_to(len(model))
                flushed = len(model) // block_size * block_size
        assert writer.length == len(model)
        writer.finish(len(model))
        assert store.read(3, len(model), 0, len(model)) == model
        assert store.buffers.used == 0


def test_full_blocks_go_up_while_the_slice_is_written(make: Make) -> None:
    store, bucket = make()
    writer = store.new_writer()
    writer.set_id(1)
    writer.write_at(0, bytes(200 * KIB))
    writer.flush_to(200 * KIB)
    for _ in range(200):
        if bucket.count("put") == 3:
            break
        time.sleep(0.01)
    assert bucket.count("put") == 3
    with pytest.raises(ValueError, match="write at 1000"):
        writer.write_at(1000, b"x")
    with pytest.raises(ValueError, match="write at 204801"):
        writer.write_at(200 * KIB + 1, b"x")
    with pytest.raises(ValueError, match="204800 bytes"):
        writer.finish(1)
    writer.finish(200 * KIB)
    assert [info.key for info in bucket.list_all()] == [
        "chunks/0/0/1_0_65536", "chunks/0/0/1_1_65536", "chunks/0/0/1_2_65536", "chunks/0/0/1_3_8192",
    ]  # fmt: skip


def test_seal_lets_many_tails_go_up_together(make: Make) -> None:
    store, bucket = make()
    together = threading.Barrier(3, timeout=10)
    bucket.fail = lambda method, key: together.wait() and None if method == "put" else None
    writers = [store.new_writer() for _ in range(3)]
    for number, writer in enumerate(writers, 1):
        writer.set_id(number)
        writer.write_at(0, b"tail")
        writer.seal(4)
    for writer in writers:
        writer.finish(4)
    bucket.fail = lambda method, key: None
    assert store.read(2, 4, 0, 4) == b"tail"


def test_uploads_at_once_are_bounded(make: Make) -> None:
    store, bucket = make(max_uploads=3)
    lock, now, most = threading.Lock(), [0], [0]

    def slow(method: str, key: str) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.01)
        with lock:
            now[0] -= 1

    bucket.fail = slow
    write(store, 1, bytes(20 * 64 * KIB))
    bucket.fail = lambda method, key: None
    assert most[0] == 3


def test_a_small_file_does_not_hold_a_whole_block(make: Make) -> None:
    store, _ = make(block_size=4 * MIB)
    writer = store.new_writer()
    writer.set_id(1)
    writer.write_at(0, bytes(5000))
    assert used_memory(store) == 64 * KIB
    writer.write_at(5000, bytes(100_000))
    assert used_memory(store) == MIB
    writer.abort()


def test_upload_is_tried_again(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    store, bucket = make()
    bucket.fail = failing_first(2)
    start = time.monotonic()
    write(store, 1, b"x" * 10)
    assert 5 <= time.monotonic() - start < 9  # 1 s and 4 s of pause
    assert store.metrics.object_request_errors == 2
    (line,) = caplog.messages  # who waits for a bucket that is away finds the reason in the log
    assert line.startswith("fault in put ") and line.endswith(f"; tried 2 times of {store.config.max_retries + 1}")
    assert store.read(1, 10, 0, 10) == b"x" * 10


def test_an_upload_that_never_works_is_the_writers_error(make: Make) -> None:
    store, bucket = make(max_retries=1)
    bucket.fail = failing_first(100)
    writer = store.new_writer()
    writer.set_id(1)
    writer.write_at(0, bytes(130 * KIB))
    with pytest.raises(Unavailable, match="fault in put") as caught:
        writer.finish(130 * KIB)
    assert caught.value.errno == errno.EIO
    assert writer.error is not None
    writer.abort()
    assert bucket.count("put") >= 2


def test_no_upload_succeeds_without_an_attempt(make: Make) -> None:
    store, bucket = make(max_retries=-1)
    write(store, 1, b"data")
    assert bucket.count("put") == 1 and store.read(1, 4, 0, 4) == b"data"
    bucket.fail = failing_first(100)
    with pytest.raises(Unavailable):
        write(store, 2, b"data")


def test_a_full_bucket_is_told_at_once(make: Make) -> None:
    store, bucket = make()
    bucket.fail = failing_first(100, error=NoSpace("bucket is full"))
    start = time.monotonic()
    with pytest.raises(NoSpace) as caught:
        write(store, 1, b"data")
    assert caught.value.errno == errno.ENOSPC and time.monotonic() - start < 1


def test_foreign_exceptions_of_a_driver_reach_the_writer(make: Make) -> None:
    store, bucket = make()
    bucket.fail = failing_first(100, error=RuntimeError("driver bug"))
    with pytest.raises(StoreError, match="driver bug"):
        write(store, 1, b"data")


def test_finish_gives_up_after_its_time(make: Make) -> None:
    store, bucket = make()
    gate = threading.Event()
    bucket.fail = lambda method, key: gate.wait(10) and None if method == "put" else None
    writer = store.new_writer()
    writer.set_id(1)
    writer.write_at(0, bytes(65 * KIB))
    writer.flush_to(65 * KIB)
    with pytest.raises(Timeout):
        writer.finish(65 * KIB, timeout_s=0.1)
    gate.set()
    writer.abort()


def test_a_write_without_memory_changes_nothing(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = make()
    writer = store.new_writer()
    writer.set_id(1)
    writer.write_at(0, b"a" * 1000)
    take, left = store.buffers.take, [1]

    def scarce(size: int, **options: Any) -> Page:
        left[0] -= 1
        if left[0] < 0:
            raise Timeout("no memory")
        return take(size, **options)

    monkeypatch.setattr(store.buffers, "take", scarce)
    with pytest.raises(Timeout):
        writer.write_at(1000, b"b" * 130 * KIB)  # three blocks: the page of the second is there, the third has none
    monkeypatch.undo()
    assert (writer.length, store.buffers.used) == (1000, 64 * KIB)
    writer.write_at(1000, b"c" * 10)
    writer.finish(1010)
    assert store.read(1, 1010, 0, 1010) == b"a" * 1000 + b"c" * 10


def test_whoever_waits_may_give_up_and_come_again(make: Make) -> None:
    store, bucket = make()
    bucket.fail = failing_first(1)
    writer = store.new_writer()
    writer.set_id(1)
    writer.write_at(0, b"data")
    start = time.monotonic()
    assert not writer.finish(4, give_up=lambda: True)
    assert time.monotonic() - start < 0.9  # the pause before the second attempt is another thread's
    assert writer.finish(4)
    assert store.read(1, 4, 0, 4) == b"data" and store.metrics.object_request_errors == 1


def test_abort_removes_what_was_uploaded(make: Make) -> None:
    store, bucket = make()
    writer = store.new_writer()
    writer.set_id(9)
    writer.write_at(0, bytes(300 * KIB))
    writer.flush_to(300 * KIB)
    writer.abort()
    deadline = time.monotonic() + 10
    while (list(bucket.list_all()) or store.buffers.used) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert list(bucket.list_all()) == []


def test_remove(make: Make) -> None:
    store, bucket = make(cache_dirs=("memory",))
    write(store, 5, bytes(150 * KIB))
    store.read(5, 150 * KIB, 0, 150 * KIB)
    bucket.delete("chunks/0/0/5_1_65536")
    store.remove(5, 150 * KIB)
    assert list(bucket.list_all()) == [] and store.cache.usage() == (0, 0)
    store.remove(5, 150 * KIB)
    store.remove(6, 0)
    with pytest.raises(NotFound):
        store.read(5, 150 * KIB, 0, 1)
    bucket.fail = failing_first(1, "delete")
    with pytest.raises(Unavailable):
        store.remove(5, 150 * KIB)
    assert bucket.count("delete") >= 9  # the others were tried


@pytest.mark.parametrize("compress", ["none", "lz4", "zstd"])
def test_short_and_damaged_objects_are_errors(compress: str, make: Make) -> None:
    store, bucket = make(compress=compress)
    data = random.Random(4).randbytes(50 * KIB)
    write(store, 1, data)
    bucket.cut = 1
    for offset, length in ((0, len(data)), (len(data) - 10, 10)):
        with pytest.raises(Damaged):
            store.read(1, len(data), offset, length)
    bucket.cut = 0
    assert store.read(1, len(data), 0, len(data)) == data


def test_reads_outside_of_the_slice_are_refused(make: Make) -> None:
    store, _ = make()
    write(store, 1, b"12345")
    for offset, length in ((0, 6), (5, 1), (-1, 2)):
        with pytest.raises(ValueError, match="of a slice of 5 bytes"):
            store.read(1, 5, offset, length)
    assert store.read(1, 5, 5, 0) == b""


def test_what_was_read_does_not_change_when_its_memory_could_be_used_again(make: Make, tmp_path: Path) -> None:
    """Whole blocks are handed out as they came, while the cache writes the same bytes to its disk."""
    store, _ = make(cache_dirs=(str(tmp_path / "cache"),), block_size=MIB, buffer_size=64 * MIB)
    blocks = [random.Random(number).randbytes(MIB) for number in range(12)]
    for number, data in enumerate(blocks, 1):
        write(store, number, data)
        store.evict_cache(number, MIB)
    views = [store.read(number, MIB, number * 1000, MIB - number * 1000) for number in range(1, 13)]
    for number in range(1, 13):
        store.evict_cache(number, MIB)
        store.read(number, MIB, 0, MIB)
        write(store, 100 + number, b"\xff" * MIB)  # in memory that was free
    assert store.flush()
    assert [bytes(view) for view in views] == [data[number * 1000 :] for number, data in enumerate(blocks, 1)]
    with pytest.raises(TypeError, match="read-only"):
        views[0][0] = 1
    assert store.check_cache(3, MIB).missing_bytes == 0 and bytes(store.read(3, MIB, 0, MIB)) == blocks[2]


def test_single_flight(make: Make) -> None:
    store, bucket = make(cache_dirs=("memory",))
    data = random.Random(5).randbytes(64 * KIB)
    write(store, 1, data)
    bucket.gate = threading.Event()
    results: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: results.append(bytes(store.read(1, len(data), 0, 1000)))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while (
        next(iter(store._fetcher._flights.values()), None) is None
        or next(iter(store._fetcher._flights.values())).waiting < 7
    ):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    bucket.gate.set()
    for thread in threads:
        thread.join()
    assert bucket.count("get") == 1
    assert results == [data[:1000]] * 8


def test_single_flight_shares_its_failure(make: Make) -> None:
    store, bucket = make(cache_dirs=("memory",))
    gate = bucket.gate = threading.Event()
    failures: list[type] = []

    def attempt() -> None:
        try:
            store.read(77, 1000, 0, 1000)
        except StoreError as error:
            failures.append(type(error))

    threads = [threading.Thread(target=attempt) for _ in range(4)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join()
    assert failures == [NotFound] * 4


def test_part_of_a_block_is_fetched_alone(make: Make) -> None:
    """Without a cache always; with one, a small piece that does not begin the block, which then is prefetched whole."""
    store, bucket = make()
    write(store, 1, bytes(range(256)) * 256)
    bucket.calls.clear()
    assert store.read(1, 65536, 0, 10) == bytes(range(10))
    assert store.metrics.object_request_data_bytes["GET"] == 10

    store, bucket = make(cache_dirs=("memory",))
    write(store, 1, bytes(range(256)) * 256)
    assert store.read(1, 65536, 256, 10) == bytes(range(10))
    deadline = time.monotonic() + 10
    while not store.cache.usage()[0] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert store.cache.usage() == (1, 65536)
    assert store.metrics.object_request_data_bytes["GET"] == 10 + 65536
    gets = bucket.count("get")
    store.read(1, 65536, 300, 60_000)
    assert bucket.count("get") == gets

    store, bucket = make(cache_dirs=("memory",), compress="lz4")
    write(store, 1, bytes(65536))
    store.read(1, 65536, 256, 10)
    assert store.cache.usage()[0] == 1  # compressed: never in part


def test_failed_part_falls_back_to_the_whole(make: Make) -> None:
    store, bucket = make(cache_dirs=("memory",), prefetch=0)
    write(store, 1, bytes(65536))
    bucket.fail = failing_first(1, "get")
    assert store.read(1, 65536, 100, 10) == bytes(10)
    assert bucket.count("get") == 2


def test_cache_commands(make: Make, tmp_path: Path) -> None:
    where = str(tmp_path / "cache")
    store, _ = make(cache_dirs=(where,))
    write(store, 1, bytes(130 * KIB))
    assert store.flush()
    assert store.check_cache(1, 130 * KIB) == (3, 130 * KIB, 128 * KIB, {where: 2 * KIB})  # short blocks are cached
    assert store.fill_cache(1, 130 * KIB).missing_bytes == 128 * KIB
    assert store.flush()
    assert store.check_cache(1, 130 * KIB) == (3, 130 * KIB, 0, {where: 130 * KIB})
    assert store.evict_cache(1, 130 * KIB).missing_bytes == 0
    assert store.check_cache(1, 130 * KIB) == (3, 130 * KIB, 130 * KIB, {})
    with pytest.raises(NotFound):
        store.fill_cache(2, 10)


def test_limits(make: Make) -> None:
    store, _ = make()
    store.update_limits(8.0, 8.0)  # 1 MB/s nominal: 0.85 MB/s, 0.1 MB at once
    start = time.monotonic()
    write(store, 1, bytes(500_000))
    took = time.monotonic() - start
    assert 0.35 < took < 2
    store.update_limits(0, 0)
    start = time.monotonic()
    write(store, 2, bytes(500_000))
    assert time.monotonic() - start < took


def test_budget_holds_while_the_bucket_is_slow(make: Make) -> None:
    store, bucket = make(block_size=MIB, buffer_size=32 * MIB, max_uploads=4)
    bucket.fail = lambda method, key: time.sleep(0.004) if method == "put" else None
    most = 0
    writer = store.new_writer()
    writer.set_id(1)
    piece = bytes(MIB)
    for number in range(64):
        writer.write_at(number * MIB, piece)
        writer.flush_to(writer.length)
        most = max(most, used_memory(store))
    writer.finish(64 * MIB)
    assert most <= 32 * MIB and store.buffers.overdrafts == 0


def test_many_writers_and_readers(make: Make, tmp_path: Path) -> None:
    store, _ = make(cache_dirs=(str(tmp_path),), compress="zstd", cache_size=2 * MIB)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        chance = random.Random(number)
        try:
            for turn in range(8):
                slice_id = number * 100 + turn + 1
                data = chance.randbytes(chance.randrange(1, 300_000))
                write(store, slice_id, data)
                for _ in range(5):
                    offset = chance.randrange(len(data))
                    length = min(chance.randrange(1, 70_000), len(data) - offset)
                    assert store.read(slice_id, len(data), offset, length) == data[offset : offset + length]
                if turn % 3 == 0:
                    store.remove(slice_id, len(data))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_close_stops_every_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    store = ChunkStore(FileBucket(f"{tmp_path}/o/"), StoreConfig(cache_dirs=(f"{tmp_path}/c",)))
    write(store, 1, bytes(10 * MIB))
    store.read(1, 10 * MIB, 5, MIB)
    assert store.close()
    assert set(threading.enumerate()) <= before


def test_sync_reaches_the_bucket(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    store, bucket = make()
    synced: list[int] = []
    monkeypatch.setattr(bucket, "sync", lambda: synced.append(1))
    store.sync()
    assert synced == [1]


@pytest.mark.parametrize("size", [0, 100, 32 * KIB, 65 * KIB, 32 * MIB])
def test_wrong_block_sizes(size: int) -> None:
    with pytest.raises(BadBucket, match="block size"):
        StoreConfig(block_size=size)


def test_options_that_cannot_be_meant() -> None:
    config = StoreConfig(
        cache_checksum="maybe", cache_eviction="fifo", free_space_ratio=0, max_uploads=0, max_downloads=-1
    )
    assert (config.cache_checksum, config.cache_eviction, config.free_space_ratio) == ("extend", "2-random", 0.1)
    assert (config.max_uploads, config.max_downloads) == (1, 200)
