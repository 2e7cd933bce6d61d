"""Assembled files of a cache directory: taken by one, counted with the blocks, evicted like them, never half made."""

from __future__ import annotations

import mmap
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chunkstore.buckets.mem import MemBucket
from chunkstore.cache import assembled
from chunkstore.cache.assembled import AssembledDir, Copy, only_mine
from chunkstore.config import StoreConfig
from chunkstore.store import ChunkStore

KIB, MIB = 1 << 10, 1 << 20
BLOCK = 64 * KIB

Make = Callable[..., ChunkStore]


@pytest.fixture(autouse=True)
def no_sigio() -> Iterator[None]:
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGIO, before)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    stores: list[ChunkStore] = []

    def new(**options: object) -> ChunkStore:
        options = {"block_size": BLOCK, "cache_dirs": (f"{tmp_path}/cache",), "free_space_ratio": 0.0001, **options}
        stores.append(ChunkStore(MemBucket(), StoreConfig(**options)))  # type: ignore[arg-type]
        return stores[-1]

    yield new
    for store in stores:
        assert store.close(10)


def place_of(store: ChunkStore, owner: str = "7") -> AssembledDir:
    assert store.assembled is not None
    place = store.assembled.of(owner)
    assert place is not None
    return place


def put(store: ChunkStore, owner: str, version: str, data: bytes) -> bool:
    with place_of(store, owner).draft(owner, version, len(data)) as draft:
        if draft is None:
            return False
        os.pwrite(draft.fd, data, 0)
        draft.right = True
    return True


def take(store: ChunkStore, owner: str, version: str, tag: str = "t") -> Copy:
    copy = place_of(store, owner).take(owner, version, tag)
    assert copy is not None
    return copy


def names(tmp_path: Path) -> list[str]:
    return sorted(os.listdir(tmp_path / "cache" / "assembled"))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_copy_is_taken_by_one_and_given_back(make: Make, tmp_path: Path) -> None:
    store = make()
    place = place_of(store)
    assert not place.has("7", "v1") and put(store, "7", "v1", b"one")
    assert place.has("7", "v1") and not place.has("7", "v2")
    copy = take(store, "7", "v1")
    assert os.pread(copy.fd, 9, 0) == b"one" and names(tmp_path) == ["7.v1.t"]
    assert not place.has("7", "v1") and place.take("7", "v1", "u") is None
    place.give_back(copy)
    assert place.has("7", "v1") and names(tmp_path) == ["7.v1"]


def test_another_mount_gets_it_or_not_but_never_half(make: Make, tmp_path: Path) -> None:
    first = make()
    put(first, "7", "v1", b"one")
    second = make()
    until(lambda: place_of(second).has("7", "v1"))
    copy = take(first, "7", "v1")
    assert place_of(second).take("7", "v1", "u") is None
    place_of(first).give_back(copy)


def test_what_was_changed_is_nobodys_version(make: Make, tmp_path: Path) -> None:
    store = make()
    put(store, "7", "v1", b"one")
    copy = take(store, "7", "v1", "t-1")
    place_of(store).alter(copy)
    assert copy.altered and names(tmp_path) == ["7.altered.t-1"] and place_of(store).adopt("t-2") == []
    (adopted,) = place_of(store).adopt("t-")
    assert adopted.altered and os.pread(adopted.fd, 9, 0) == b"one"
    os.close(adopted.fd)
    place_of(store).give_back(copy)
    assert names(tmp_path) == [] and not place_of(store).has("7", "v1")
    assert store.cache.usage() == (0, 0)


def test_a_draft_that_is_not_right_leaves_nothing(make: Make, tmp_path: Path) -> None:
    store = make()
    with place_of(store).draft("7", "v1", 5 * MIB) as draft:
        assert draft is not None and store.cache.usage()[1] >= 5 * MIB
        with place_of(store).draft("7", "v1", 5 * MIB) as again:
            assert again is None, "it is being made"
    assert names(tmp_path) == [] and store.cache.usage() == (0, 0)
    with pytest.raises(OSError, match="no luck"), place_of(store).draft("7", "v1", 5 * MIB):
        raise OSError("no luck")
    assert names(tmp_path) == [] and store.cache.usage() == (0, 0)


def test_a_newer_version_takes_the_place_of_the_older(make: Make, tmp_path: Path) -> None:
    store = make()
    put(store, "7", "v1", b"one")
    put(store, "7", "v2", b"two")
    put(store, "8", "v1", b"other")
    assert names(tmp_path) == ["7.v2", "8.v1"]


def test_copies_count_and_the_oldest_goes_first(make: Make, tmp_path: Path) -> None:
    store = make(cache_size=10 * MIB)
    assert not put(store, "7", "v1", bytes(6 * MIB)), "half of the room is for blocks"
    assert put(store, "7", "v1", bytes(4 * MIB)) and put(store, "8", "v1", bytes(4 * MIB))
    assert store.cache.usage()[1] >= 8 * MIB
    place_of(store).give_back(take(store, "7", "v1"))  # used later than the other one
    assert put(store, "9", "v1", bytes(4 * MIB))
    assert names(tmp_path) == ["7.v1", "9.v1"]
    assert not place_of(store, "8").has("8", "v1") and store.cache.usage()[1] < 10 * MIB


def test_a_taken_copy_is_not_evicted(make: Make, tmp_path: Path) -> None:
    store = make(cache_size=10 * MIB)
    put(store, "7", "v1", bytes(4 * MIB))
    copy = take(store, "7", "v1")
    put(store, "8", "v1", bytes(4 * MIB))
    put(store, "9", "v1", bytes(4 * MIB))
    assert names(tmp_path) == ["7.v1.t", "9.v1"]
    place_of(store).give_back(copy)


def test_blocks_and_copies_compete_by_age(make: Make, tmp_path: Path) -> None:
    store = make(cache_size=4 * MIB)
    put(store, "7", "v1", bytes(2 * MIB))
    time.sleep(1.1)  # blocks know their last use to the second
    for slice_id in range(1, 4 * MIB // BLOCK):
        writer = store.new_writer()
        writer.set_id(slice_id)
        writer.write_at(0, bytes(BLOCK // 2))
        writer.finish(BLOCK // 2)
    assert store.flush()
    until(lambda: names(tmp_path) == [])
    assert store.cache.usage()[0] > 32, "blocks were used later"


def test_nothing_is_made_where_nothing_may_be_evicted(make: Make) -> None:
    store = make(cache_size=10 * MIB, cache_eviction="none")
    assert put(store, "7", "v1", bytes(5 * MIB)) and put(store, "8", "v1", bytes(4 * MIB))
    assert not put(store, "9", "v1", bytes(4 * MIB))


def test_unused_copies_expire(make: Make, tmp_path: Path) -> None:
    store = make(cache_expire_s=1.0)
    put(store, "7", "v1", b"one")
    until(lambda: names(tmp_path) == [])


def test_the_next_mount_finds_copies_and_removes_what_is_left(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembled, "_SETTLED_S", 0.0)
    monkeypatch.setattr(assembled, "_STALE_S", 0.0)
    first = make()
    for owner in ("7", "8", "9"):
        put(first, owner, "v1", b"data of " + owner.encode())
    os.close(take(first, "8", "v1").fd)  # as if the process and its mount were gone
    used = take(first, "9", "v1")
    (tmp_path / "cache" / "assembled" / "5.v1.1.tmp").write_bytes(b"half")
    second = make()
    until(lambda: names(tmp_path) == ["7.v1", "9.v1.t"])
    assert place_of(second).has("7", "v1") and not place_of(second, "8").has("8", "v1")
    assert place_of(second).take("9", "v1", "u") is None
    place_of(first).give_back(used)


def test_who_has_a_file_open_or_mapped_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(8192))
    fd = os.open(path, os.O_RDWR)
    assert only_mine(fd)
    other = os.open(path, os.O_RDONLY)
    assert not only_mine(fd)
    mapped = mmap.mmap(other, 0, prot=mmap.PROT_READ)
    os.close(other)
    assert not only_mine(fd)
    mapped.close()
    assert only_mine(fd)
    os.close(fd)


def test_only_intact_blocks_are_read_from_the_cache_alone(make: Make, tmp_path: Path) -> None:
    store = make(cache_large_write=True)
    data = os.urandom(3 * BLOCK + 100)
    writer = store.new_writer()
    writer.set_id(1)
    writer.write_at(0, data)
    writer.finish(len(data))
    assert store.flush()
    view = memoryview(bytearray(2 * BLOCK))
    assert store.read_cached(1, len(data), BLOCK // 2, view) and view == data[BLOCK // 2 :][: 2 * BLOCK]
    (block,) = (tmp_path / "cache").glob("raw/**/1_1_*")
    with block.open("r+b") as file:
        file.write(b"damage")
    other = make()  # one that does not have it open
    assert other.read_cached(1, len(data), 0, memoryview(bytearray(BLOCK)))
    assert not other.read_cached(1, len(data), 0, view)
