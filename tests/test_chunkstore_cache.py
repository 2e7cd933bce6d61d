"""The cache as the store sees it: whatever happens to its disk, reads are right and writes do not fail."""

from __future__ import annotations

import errno
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults import FaultyBucket

from chunkstore.bucket import Bucket
from chunkstore.buckets.mem import MemBucket
from chunkstore.cache import blockfile
from chunkstore.cache.disks import DiskCache
from chunkstore.cache.eviction import Room
from chunkstore.cache.health import State
from chunkstore.cache.memory import MemoryCache
from chunkstore.cache.pending import Pending
from chunkstore.cache.ring import fnv1
from chunkstore.config import StoreConfig
from chunkstore.naming import Block
from chunkstore.store import ChunkStore

KIB = 1 << 10
SIZE = 64 * KIB
DATA = random.Random(9).randbytes(SIZE)

Make = Callable[..., tuple[ChunkStore, FaultyBucket]]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    stores: list[ChunkStore] = []

    def new(bucket: Bucket | None = None, **options: object) -> tuple[ChunkStore, FaultyBucket]:
        options = {"block_size": SIZE, "cache_dirs": (f"{tmp_path}/cache",), "cache_large_write": True, **options}
        faulty = FaultyBucket(bucket or MemBucket())
        stores.append(ChunkStore(faulty, StoreConfig(**options)))  # type: ignore[arg-type]
        return stores[-1], faulty

    yield new
    for store in stores:
        assert store.close(10)
        assert store.buffers.used == 0


def put(store: ChunkStore, *slice_ids: int, data: bytes = DATA) -> None:
    for slice_id in slice_ids:
        writer = store.new_writer()
        writer.set_id(slice_id)
        writer.write_at(0, data)
        writer.finish(len(data))
        assert store.flush()


def scanned(store: ChunkStore) -> None:
    assert isinstance(store.cache, DiskCache)
    deadline = time.monotonic() + 10
    while any(each.scanning for each in store.cache._all):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def file_of(tmp_path: Path, slice_id: int) -> Path:
    return tmp_path / "cache/raw" / Block(slice_id, 0, SIZE).key()


def check(store: ChunkStore, slice_id: int) -> None:
    for offset, length in ((0, SIZE), (33_000, 4096), (SIZE - 1, 1)):
        assert store.read(slice_id, SIZE, offset, length) == DATA[offset : offset + length]


def test_layout_and_hits(make: Make, tmp_path: Path) -> None:
    store, bucket = make()
    put(store, 1)
    raw = file_of(tmp_path, 1).read_bytes()
    assert raw == DATA + blockfile.checksums(memoryview(DATA))
    assert len((tmp_path / "cache/.lock").read_text()) == 36
    assert os.stat(tmp_path / "cache/raw/chunks").st_mode & 0o777 == 0o700
    check(store, 1)
    assert bucket.count("get") == 0
    assert store.metrics.blockcache_hits == 3 and store.metrics.blockcache_hit_bytes == SIZE + 4097
    assert store.cache.usage() == (1, SIZE + 4096)


def test_mode_of_shared_caches(make: Make, tmp_path: Path) -> None:
    for mode, of_file, of_directory, umask in ((0o644, 0o644, 0o777, 0o077), (0o600, 0o600, 0o700, 0)):
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        old = os.umask(umask)
        try:
            store, _ = make(cache_mode=mode)
            put(store, 1)
        finally:
            os.umask(old)
        for path in (tmp_path / "cache/.lock", file_of(tmp_path, 1), *file_of(tmp_path, 1).parents):
            if path == tmp_path:
                break
            assert path.stat().st_mode & 0o777 == (of_directory if path.is_dir() else of_file), path


def test_a_block_is_read_while_it_waits_for_the_disk(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    store, bucket = make()
    gate = threading.Event()
    real = blockfile.write
    monkeypatch.setattr(blockfile, "write", lambda *args: (gate.wait(10), real(*args)))
    writer = store.new_writer()
    writer.set_id(1)
    writer.write_at(0, DATA)
    writer.finish(SIZE)
    assert store.cache.usage()[0] == 1
    check(store, 1)
    assert bucket.count("get") == 0
    store.evict_cache(1, SIZE)
    gate.set()
    assert store.flush()
    assert store.cache.usage() == (0, 0)
    check(store, 1)


@pytest.mark.parametrize("known", ["open", "closed", "after restart"])
@pytest.mark.parametrize("fault", ["flip", "cut", "cut to nothing", "sums cut", "gone", "a directory"])
def test_damaged_cache_files_are_fetched_again(
    fault: str, known: str, make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inner = MemBucket()
    store, bucket = make(inner)
    put(store, 1)
    if known == "open":
        check(store, 1)
    path = file_of(tmp_path, 1)
    raw = bytearray(path.read_bytes())
    match fault:
        case "flip":
            for place in (100, 33_100, SIZE - 1):
                raw[place] ^= 0x10
            path.write_bytes(raw)
        case "cut":
            os.truncate(path, SIZE - 5)
        case "cut to nothing":
            os.truncate(path, 0)
        case "sums cut":
            os.truncate(path, SIZE + 4)
        case "gone":
            path.unlink()
        case "a directory":
            path.unlink()
            path.mkdir()
    if known == "after restart":
        store, bucket = make(inner)
        scanned(store)
    check(store, 1)
    assert store.flush()
    check(store, 1)
    if fault in ("flip", "cut", "cut to nothing"):
        assert bucket.count("get") >= 1 and store.metrics.blockcache_damaged >= 1
        assert f"cached block {path} is fetched again: " in caplog.text
        assert path.read_bytes() == DATA + blockfile.checksums(memoryview(DATA))  # healed


def test_random_damage_never_gives_wrong_bytes(make: Make, tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    store, _ = make()
    put(store, 1)
    for _ in range(150):
        path = file_of(tmp_path, 1)
        if path.is_file():
            match chance.randrange(4):
                case 0:
                    raw = bytearray(path.read_bytes())
                    if raw:
                        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
                    path.write_bytes(raw)
                case 1:
                    os.truncate(path, chance.randrange(SIZE))  # a footer-like tail would read as "no checksums"
        offset = chance.randrange(SIZE)
        length = min(chance.choice([1, 4096, SIZE]), SIZE - offset)
        assert store.read(1, SIZE, offset, length) == DATA[offset : offset + length]
        assert store.flush()


def test_cache_survives_a_restart(make: Make) -> None:
    inner = MemBucket()
    store, _ = make(inner)
    put(store, 1, 2)
    assert store.close(10)
    again, bucket = make(inner)
    check(again, 1)  # before or after the scan
    scanned(again)
    check(again, 2)
    assert bucket.count("get") == 0 and again.cache.usage()[0] == 2
    assert again.cache._all[0].id == store.cache._all[0].id  # type: ignore[attr-defined]


@pytest.mark.parametrize("where", ["same mount", "next mount", "never scanned", "two directories", "memory"])
@pytest.mark.parametrize("how", ["kept", "not kept", "queue full", "disk full"])
def test_a_slice_number_that_comes_again_is_not_read_from_the_cache(
    where: str, how: str, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metadata that was restored from a backup gives numbers out again, and the cache has blocks of their first use."""
    options: dict[str, object] = {"cache_large_write": how != "not kept"}
    if where == "never scanned":
        options["cache_scan_interval_s"] = -1
    elif where == "two directories":
        options["cache_dirs"] = (f"{tmp_path}/c1", f"{tmp_path}/c2")
    elif where == "memory":
        options["cache_dirs"] = ("memory",)
    inner = MemBucket()
    store, _ = make(inner, **options)
    put(store, *range(1, 9))
    for slice_id in range(1, 9):
        check(store, slice_id)
    assert store.flush()
    if where == "two directories":  # where an older release put them
        for slice_id in range(1, 9):
            block = Block(slice_id, 0, SIZE)
            path = Path(store.cache._legacy(block).file_of(block))  # type: ignore[attr-defined]
            path.parent.mkdir(parents=True, exist_ok=True)
            blockfile.write(str(path), memoryview(DATA), 0o600, True)
    if where not in ("same mount", "memory"):
        store.close(10)
        store, _ = make(inner, **options)
        if where == "next mount":
            scanned(store)
    other = DATA[::-1]
    with monkeypatch.context() as patch:
        if how == "queue full":
            patch.setattr(Pending, "fits", lambda self, size: False)
        elif how == "disk full":
            patch.setattr(os, "writev", _refuse)
        put(store, *range(1, 9), data=other)
    for slice_id in range(1, 9):
        assert store.read(slice_id, SIZE, 100, 50) == other[100:150]
        assert store.read(slice_id, SIZE, 0, SIZE) == other
    if where != "memory":  # nor by whoever looks into the directory next
        store.close(10)
        store, _ = make(inner, **options)
        for slice_id in range(1, 9):
            assert store.read(slice_id, SIZE, 0, SIZE) == other


def _refuse(fd: int, parts: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_without_a_scan_the_disk_is_asked(make: Make) -> None:
    inner = MemBucket()
    store, _ = make(inner)
    put(store, 1)
    store.close(10)
    again, bucket = make(inner, cache_scan_interval_s=-1)
    check(again, 1)
    assert bucket.count("get") == 0
    assert again.check_cache(1, SIZE).missing_bytes == 0
    again.remove(1, SIZE)
    assert again.check_cache(1, SIZE).missing_bytes == SIZE


def test_full_cache_disk_hurts_nobody_and_is_told_once(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, bucket = make()
    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", _refuse)
        put(store, 1)
        check(store, 1)
        put(store, 2)
        assert store.flush()
    (line,) = caplog.messages
    assert line.startswith(f"cache directory {store.config.cache_dirs[0]} takes no block: No space left on device; ")
    assert store.cache.usage() == (0, 0) and bucket.count("get") >= 1
    assert store.metrics.blockcache_drops >= 1
    assert not [name for _, _, names in os.walk(store.config.cache_dirs[0]) for name in names if name.endswith(".tmp")]


def test_cache_directory_deleted_while_running(make: Make, tmp_path: Path) -> None:
    store, _ = make()
    put(store, 1)
    check(store, 1)
    shutil.rmtree(tmp_path / "cache")
    check(store, 1)
    put(store, 2)
    check(store, 2)
    store.remove(1, SIZE)
    assert file_of(tmp_path, 2).exists()


def test_unusable_directory_falls_back_to_memory(make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_bytes(b"")
    store, _ = make(cache_dirs=(f"{tmp_path}/file/uuid",))
    assert isinstance(store.cache, MemoryCache)
    assert "file/uuid cannot be used" in caplog.text
    put(store, 1)
    check(store, 1)


def test_one_of_two_directories_unusable(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store, _ = make(cache_dirs=(f"{tmp_path}/file/uuid", f"{tmp_path}/cache"))
    put(store, 1)
    assert file_of(tmp_path, 1).exists()


def test_sick_disk_is_left(make: Make, tmp_path: Path) -> None:
    store, bucket = make(cache_dirs=(f"{tmp_path}/c1", f"{tmp_path}/c2"))
    put(store, *range(1, 21))
    first, second = store.cache._all  # type: ignore[attr-defined]
    assert first.usage()[0] and second.usage()[0]
    first.health.state = State.DOWN
    for slice_id in range(1, 21):
        check(store, slice_id)
    assert store.flush()
    assert bucket.count("get") > 0
    assert second.usage()[0] == 20
    second.health.state = State.DOWN
    check(store, 1)
    put(store, 30)
    check(store, 30)
    assert store.check_cache(30, SIZE).locations == {"memory": SIZE}


def test_blocks_of_an_older_release_are_found(make: Make, tmp_path: Path) -> None:
    store, bucket = make(cache_dirs=(f"{tmp_path}/c1", f"{tmp_path}/c2"), cache_scan_interval_s=-1)
    cache = store.cache
    assert isinstance(cache, DiskCache)
    for slice_id in range(1, 30):
        block = Block(slice_id, 0, SIZE)
        old = cache._all[fnv1(block.key().encode()) % 2]
        if cache._of(block) is not old:
            break
    path = Path(old.file_of(block))
    path.parent.mkdir(parents=True)
    blockfile.write(str(path), memoryview(DATA), 0o600, True)
    check(store, slice_id)
    assert bucket.count("get") == 0


@pytest.mark.parametrize("policy", ["2-random", "lru"])
@pytest.mark.parametrize("bound", ["bytes", "items"])
def test_eviction_keeps_within_bounds(policy: str, bound: str, make: Make, tmp_path: Path) -> None:
    limits = {"cache_size": 20 * (SIZE + 4096)} if bound == "bytes" else {"cache_items": 20}
    store, _ = make(cache_eviction=policy, **limits)
    scanned(store)
    for slice_id in range(1, 61):
        put(store, slice_id)
        blocks, size = store.cache.usage()
        assert blocks <= 20 and size <= 20 * (SIZE + 4096)
    deadline = time.monotonic() + 5
    files = -1
    while files != blocks and time.monotonic() < deadline:
        blocks = store.cache.usage()[0]
        files = sum(len(names) for _, _, names in os.walk(tmp_path / "cache/raw"))
    assert 15 <= blocks <= 20 and files == blocks
    assert store.metrics.blockcache_evicts == 60 - blocks
    if policy == "lru" and bound == "items":
        assert store.check_cache(60, SIZE).missing_bytes == 0


def test_policy_none_never_evicts(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Room, "look", lambda self, check_lock=False: setattr(self, "raw_full", True))
    store, _ = make(cache_eviction="none")
    put(store, 1)
    assert store.cache.usage() == (0, 0) and store.metrics.blockcache_drops == 1


def test_staged_blocks_of_another_client_stay(make: Make, tmp_path: Path) -> None:
    inner = MemBucket()
    store, _ = make(inner)
    put(store, 1, 2)
    store.close(10)
    staged = tmp_path / "cache/rawstaging/chunks/0/0/1_0_65536"
    staged.parent.mkdir(parents=True)
    staged.hardlink_to(file_of(tmp_path, 1))
    again, _ = make(inner, cache_size=1, drain_staged=False)
    scanned(again)
    deadline = time.monotonic() + 10
    while file_of(tmp_path, 2).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not file_of(tmp_path, 2).exists()
    again.evict_cache(1, SIZE)
    assert file_of(tmp_path, 1).exists() and staged.exists()
    check(again, 1)


def test_expiry(make: Make, tmp_path: Path) -> None:
    store, _ = make(cache_expire_s=3600.0)
    put(store, 1, 2)
    directory = store.cache._all[0]  # type: ignore[attr-defined]
    with directory.lock:
        directory.index._atimes[0] = 1000
    directory.keeper.expire()
    assert not file_of(tmp_path, 1).exists() and file_of(tmp_path, 2).exists()


def test_queue_is_bounded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    gate = threading.Event()
    real = blockfile.write
    monkeypatch.setattr(blockfile, "write", lambda *args: (gate.wait(10), real(*args)))
    store, _ = make(buffer_size=32 << 20, block_size=1 << 20)
    data = bytes(1 << 20)
    for slice_id in range(1, 21):
        writer = store.new_writer()
        writer.set_id(slice_id)
        writer.write_at(0, data)
        writer.finish(len(data))
    assert store.buffers.used + store.cache.memory() <= 8 << 20  # a fifth of the buffers, and the one being written
    assert store.metrics.blockcache_drops >= 12
    gate.set()


def test_memory_cache_bounds(make: Make) -> None:
    store, _ = make(cache_dirs=("memory",), cache_size=10 * SIZE)
    put(store, *range(1, 31))
    assert store.cache.usage() == (10, 10 * SIZE) and store.buffers.used + store.cache.memory() == 10 * SIZE
    for slice_id in range(1, 31):
        check(store, slice_id)
    assert store.cache.usage() == (10, 10 * SIZE)


def test_no_cache_when_its_size_is_zero(make: Make) -> None:
    store, bucket = make(cache_size=0)
    put(store, 1)
    check(store, 1)
    assert not store.cache.enabled and bucket.count("get") == 3


def test_partial_only_does_not_keep_whole_blocks(make: Make) -> None:
    store, _ = make(cache_full_block=False, cache_large_write=False)
    put(store, 1)
    put(store, 2, data=DATA[:1000])
    store.read(1, SIZE, 0, SIZE)
    store.flush()
    assert store.check_cache(1, SIZE).missing_bytes == SIZE
    assert store.check_cache(2, 1000).missing_bytes == 0
