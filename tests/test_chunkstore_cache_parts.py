"""The parts of the disk cache, one by one: ring, file format, index, health, room."""

from __future__ import annotations

import errno
import os
import random
import struct
import threading
from collections import Counter
from pathlib import Path

import pytest

from chunkstore.cache import blockfile
from chunkstore.cache.blockfile import UNIT, BlockFile
from chunkstore.cache.disks import expand
from chunkstore.cache.eviction import Room
from chunkstore.cache.health import Complaints, Health, State
from chunkstore.cache.index import ENTRY_COST, Index, pack, unpack
from chunkstore.cache.ring import Ring, fnv1, murmur3
from chunkstore.cache.scan import walk
from chunkstore.config import StoreConfig
from chunkstore.errors import ChecksumMismatch, Damaged
from chunkstore.naming import Block

A, B = "c3f1a0de-0000-4000-8000-000000000001", "9b7d11aa-1234-4abc-9def-0123456789ab"


def test_ring_is_that_of_the_go_client() -> None:
    ring = Ring([A, B])
    owners = "".join(str((A, B).index(ring.owner(f"chunks/0/{k // 1000}/{k}_0_4194304"))) for k in range(0, 6000, 100))
    assert owners == "111011110000000011010010010111000000000111001100000111110010"


def test_murmur3_reference_values() -> None:
    assert [murmur3(data) for data in (b"", b"a", b"hello", b"hello, world")] == [
        0, 0x3C2569B2, 0x248BFA47, 0x149BBB7F,
    ]  # fmt: skip
    assert fnv1(b"a") == 0x050C5D7E


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_ring_spreads_evenly(count: int) -> None:
    ring = Ring([f"{n:08x}-0000-4000-8000-000000000000" for n in range(count)])
    owned = Counter(ring.owner(f"chunks/0/0/{k}_0_1") for k in range(4000))
    assert len(owned) == count and min(owned.values()) > 4000 / count * 0.7


# the file of a block


def _slow_crc32c(data: bytes) -> int:
    """The definition, bit by bit: reflected polynomial 0x82F63B78."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def test_file_format(tmp_path: Path) -> None:
    """Data, then one CRC32C per 32 KiB, big endian; the last covers what is left."""
    path = str(tmp_path / "1_0_32777")
    data = b"\0" * 32768 + b"123456789"
    blockfile.write(path, memoryview(data), 0o600, with_checksums=True)
    raw = Path(path).read_bytes()
    assert raw[: len(data)] == data
    assert raw[len(data) : len(data) + 4] == _slow_crc32c(data[:32768]).to_bytes(4, "big")
    assert raw[len(data) + 4 :] == bytes.fromhex("e3069283")  # the check value of this CRC
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["1_0_32777"]


FOOTER = bytes.fromhex("46530010 82 a474696572 cc02 a3706164 c402 0000")  # tier 2, padded to 20 bytes
FOOTER_WITHOUT_SUMS = bytes.fromhex(
    "4653000e 82 a474696572 cc02 a3706164 c400"
)  # 18 bytes: tells that there are no sums


@pytest.mark.parametrize("tail", ["none", "sums", "sums and footer", "footer"])
def test_files_of_every_kind_are_read(tail: str, tmp_path: Path) -> None:
    data = random.Random(1).randbytes(100_000)
    sums = blockfile.checksums(memoryview(data))
    assert len(sums) == 16
    tails = {"none": b"", "sums": sums, "sums and footer": sums + FOOTER, "footer": FOOTER_WITHOUT_SUMS}
    path = tmp_path / "block"
    path.write_bytes(data + tails[tail])
    out = bytearray(5000)
    BlockFile(str(path), len(data)).read_into(40_000, memoryview(out), "extend")
    assert out == data[40_000:45_000]
    path.write_bytes(data[:40_100] + b"!" + data[40_101:] + tails[tail])
    if tail.startswith("sums"):
        with pytest.raises(ChecksumMismatch):
            BlockFile(str(path), len(data)).read_into(40_000, memoryview(out), "extend")
    else:
        BlockFile(str(path), len(data)).read_into(40_000, memoryview(out), "extend")


@pytest.mark.parametrize("extra", [-1, -99_999, 4, 8, 12])
def test_impossible_lengths_are_refused(extra: int, tmp_path: Path) -> None:
    path = tmp_path / "block"
    path.write_bytes(bytes(100_000 + extra))
    with pytest.raises(Damaged):
        BlockFile(str(path), 100_000)


@pytest.mark.parametrize("level", ["none", "full", "shrink", "extend"])
def test_levels(level: str, tmp_path: Path) -> None:
    """Which damage a read notices: none; only reading all; units wholly inside; every unit touched."""
    size = 5 * UNIT + 100
    chance = random.Random(2)
    data = chance.randbytes(size)
    path = tmp_path / "block"
    blockfile.write(str(path), memoryview(data), 0o600, with_checksums=True)
    spans = [(0, size), (size - 1, 1), (UNIT - 1, 2), (UNIT, UNIT), (0, 1), (UNIT + 5, 3 * UNIT), (5 * UNIT, 100)]
    spans += [(start, chance.randrange(1, size - start + 1)) for start in (chance.randrange(size) for _ in range(60))]
    for damage in (None, 0, UNIT + 7, 3 * UNIT, size - 1):
        raw = bytearray(data + blockfile.checksums(memoryview(data)))
        if damage is not None:
            raw[damage] ^= 1
        path.write_bytes(raw)
        file = BlockFile(str(path), size)
        for offset, length in spans:
            out = bytearray(length)
            end = offset + length
            unit = -1 if damage is None else damage // UNIT
            low, high = unit * UNIT, min(size, (unit + 1) * UNIT)
            noticed = (
                damage is not None
                and {
                    "none": False,
                    "full": length == size,
                    "shrink": offset <= low and high <= end,
                    "extend": offset < high and low < end,
                }[level]
            )
            if noticed:
                with pytest.raises(ChecksumMismatch):
                    file.read_into(offset, memoryview(out), level)
            else:
                file.read_into(offset, memoryview(out), level)
                assert out == raw[offset:end]


def test_a_file_that_shrinks_while_open(tmp_path: Path) -> None:
    path = tmp_path / "block"
    blockfile.write(str(path), memoryview(bytes(100_000)), 0o600, with_checksums=True)
    file = BlockFile(str(path), 100_000)
    os.truncate(path, 50_000)
    for level in ("none", "extend"):
        for length in (10, 80_000):
            with pytest.raises(Damaged):
                file.read_into(20_000 if length > 10 else 90_000, memoryview(bytearray(length)), level)


# the index


def test_index_against_a_dict() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    index, model = Index(seed), dict[int, int]()
    for _ in range(5000):
        key = pack(chance.randrange(1, 300), chance.randrange(4))
        if chance.random() < 0.6:
            size = chance.choice([1, 4096, 1 << 22, -4096])
            index.add(key, size, chance.randrange(1000))
            model[key] = size
        else:
            assert index.discard(key) == (model.pop(key, None) is not None)
        assert len(index) == len(model)
    assert {key: index.size(key) for key in model} == model
    assert index.used == sum(size + ENTRY_COST for size in model.values() if size >= 0)
    assert index.staged == sum(1 for size in model.values() if size < 0)
    assert unpack(pack(1 << 63, 1023)) == (1 << 63, 1023)


def test_older_of_two_prefers_the_old_and_spares_the_staged() -> None:
    index = Index(seed=7)
    for number in range(1000):
        index.add(pack(number, 0), -1 if number % 10 == 0 else 1, number)
    picked = [key for key in (index.older_of_two() for _ in range(2000)) if key is not None]
    ages = [unpack(key)[0] for key in picked]
    assert all(age % 10 for age in ages)
    assert sum(ages) / len(ages) < 400  # of two at random the older: a third on average, not the half


def test_lru_order() -> None:
    index = Index()
    for slice_id, size, atime in ((1, 5, 30), (2, 5, 10), (3, 9, 10), (4, -5, 1), (5, 5, 10)):
        index.add(pack(slice_id, 0), size, atime)
    assert [unpack(key)[0] for key in index.by_age()] == [3, 2, 5, 1]


def test_scan_forgets_what_it_did_not_see() -> None:
    index = Index()
    for number in range(6):
        index.add(number, 1, 1)
    index.begin_scan()
    index.add(2, 1, 5)
    index.add(9, 1, 5)
    assert index.end_scan() == 5
    assert sorted(key for key in range(10) if key in index) == [2, 9]
    index.begin_scan()
    assert index.end_scan() == 2


def test_index_is_small() -> None:
    import tracemalloc

    tracemalloc.start()
    try:
        index = Index()
        for number in range(200_000):
            index.add(pack(10_000_000 + number, number & 15), 4 << 20, 1_700_000_000)
        assert tracemalloc.get_traced_memory()[0] / len(index) < 200
    finally:
        tracemalloc.stop()


# health


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def _operate(health: Health, times: int, error: OSError | None = None) -> None:
    for _ in range(times):
        assert health.begin()
        health.end(error)


EIO = OSError(errno.EIO, "Input/output error")


def test_health_goes_down_and_recovers() -> None:
    clock = Clock()
    health = Health(clock)
    _operate(health, 2, EIO)
    clock.now += 61
    health.tick()  # a new window
    _operate(health, 2, EIO)
    assert health.state is State.NORMAL
    _operate(health, 1, EIO)
    assert health.state is State.UNSTABLE
    _operate(health, 60)
    clock.now += 61
    health.tick()
    assert health.state is State.NORMAL  # proven
    _operate(health, 3, EIO)
    minutes = 0
    while health.state is State.UNSTABLE:
        _operate(health, 59 if minutes % 2 else 60, None if minutes % 2 else EIO)  # too few, or with errors
        clock.now += 60
        health.tick()
        minutes += 1
    assert (health.state, minutes) == (State.DOWN, 30)
    assert not health.begin()


def test_complaints_are_few(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    complaints = Complaints("/cache", clock)
    for _ in range(3):
        complaints.damaged("/cache/raw/1", ValueError("/cache/raw/1: cut off"))
        complaints.refused(EIO)
        for state in (State.NORMAL, State.UNSTABLE):
            complaints.state(state)
        clock.now += 25
    damaged, refused, *states = caplog.messages
    assert damaged == "cached block /cache/raw/1 is fetched again: cut off; check its disk if it happens often"
    assert refused.startswith("cache directory /cache takes no block: ")
    assert states == [f"cache directory /cache: its disk is {word} now" for word in ("unstable", "normal") * 3][:5]


def test_full_disks_are_not_sick() -> None:
    health = Health(Clock())
    _operate(health, 10, OSError(errno.ENOSPC, "No space left on device"))
    assert health.state is State.NORMAL


def test_hanging_operations_count_once_and_unstable_disks_get_few() -> None:
    clock = Clock()
    health = Health(clock)
    release, started = threading.Event(), threading.Barrier(10)

    def hang() -> None:
        health.begin()
        started.wait()
        release.wait()
        health.end()

    threads = [threading.Thread(target=hang) for _ in range(9)]
    for thread in threads:
        thread.start()
    started.wait()
    clock.now += 31
    health.tick()
    assert health.state is State.UNSTABLE
    assert not health.begin()  # it would be the tenth
    release.set()
    for thread in threads:
        thread.join()
    assert health.begin()
    health.end()


# room and scanning


def test_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk(free: int, inodes_free: int) -> None:
        state = os.statvfs_result((4096, 4096, 1000, free, free, 1000, inodes_free, inodes_free, 0, 255))
        monkeypatch.setattr(os, "statvfs", lambda path: state)

    disk(500, 500)
    room = Room(str(tmp_path), StoreConfig(free_space_ratio=0.1), 1 << 40, 0)
    assert (room.raw_full, room.stage_full) == (False, False)
    index = Index()
    index.add(1, 3_600_000, 1)  # 90 % of the disk is 3,686,400 bytes
    assert not room.exceeded(index)
    index.add(2, 200_000, 1)
    assert room.exceeded(index)
    goal = room.goal()
    assert not goal.reached(index)
    index.discard(1)
    goal.freed(3_600_000)
    assert goal.reached(index)
    for free, inodes, expected in ((99, 500, (True, False)), (500, 99, (True, False)), (49, 500, (True, True))):
        disk(free, inodes)
        room.look()
        assert (room.raw_full, room.stage_full) == expected
    disk(500, 500)
    room.look()
    assert not room.raw_full
    room.note_full(OSError(errno.ENOSPC, ""))
    room.look()
    assert room.raw_full


def test_walk_finds_blocks_and_tidies(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    (raw / "chunks/0/0").mkdir(parents=True)
    (raw / "chunks/0/9").mkdir()
    (raw / "chunks/0/8").mkdir()
    (raw / "chunks/0/0/1_0_3").write_bytes(b"abc")
    (raw / "chunks/0/0/2_0_3").write_bytes(b"abc")
    (tmp_path / "staged").hardlink_to(raw / "chunks/0/0/2_0_3")
    (raw / "chunks/0/0/5000_0_3").write_bytes(b"in the wrong place")
    (raw / "chunks/0/0/3_0_3.tmp").write_bytes(b"old")
    (raw / "chunks/0/0/4_0_3.tmp").write_bytes(b"new")
    os.utime(raw / "chunks/0/0/1_0_3", (1234, 1))
    os.utime(raw / "chunks/0/0/3_0_3.tmp", (1, 1))
    os.utime(raw / "chunks/0/9", (1, 1))
    found = {block: (size, atime) for block, size, atime in walk(str(raw), False, threading.Event())}
    assert found[Block(1, 0, 3)] == (3, 1234)
    assert found[Block(2, 0, 3)][0] == -3
    assert len(found) == 2
    assert sorted(os.listdir(raw / "chunks/0/0")) == ["1_0_3", "2_0_3", "4_0_3.tmp", "5000_0_3"]
    assert sorted(os.listdir(raw / "chunks/0")) == ["0", "8"]


def test_expand(tmp_path: Path) -> None:
    for name in ("b", "a", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "disk1").mkdir()
    (tmp_path / "disk2").mkdir()
    assert expand((f"{tmp_path}/b/uuid", f"{tmp_path}/a/uuid")) == [f"{tmp_path}/a/uuid", f"{tmp_path}/b/uuid"]
    assert expand((f"{tmp_path}/disk*/jfs/uuid",)) == [f"{tmp_path}/disk1/jfs/uuid", f"{tmp_path}/disk2/jfs/uuid"]
    assert expand((f"{tmp_path}/nothing*/uuid",)) == []


def test_checksum_packing() -> None:
    assert struct.unpack(">I", blockfile.checksums(memoryview(b"123456789"))) == (0xE3069283,)
