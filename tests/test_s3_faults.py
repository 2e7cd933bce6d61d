"""An S3 server behind a line that fails in every way: what was acknowledged is right, and nothing read is wrong."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import s3_server
from http_faults import Faults, FaultyHTTP

from chunkstore.bucket import Bucket
from chunkstore.buckets import open_bucket, with_prefix
from chunkstore.config import StoreConfig
from chunkstore.errors import ChecksumMismatch, StoreError, Throttled, Timeout, Unavailable
from chunkstore.store import ChunkStore, opened
from chunkstore.sums import unit_for

BLOCK = 256 << 10
SLICE = 3 * BLOCK + 1234


@pytest.fixture
def line() -> Iterator[FaultyHTTP]:
    proxy = FaultyHTTP(s3_server.shared_server().port)
    yield proxy
    proxy.close()


@pytest.fixture
def bucket(line: FaultyHTTP) -> Iterator[Bucket]:
    name = s3_server.shared_server().new_bucket()
    access = s3_server.access(sum_unit=unit_for(BLOCK), timeout_s=1.0, connect_timeout_s=1.0)
    made = with_prefix(open_bucket("s3", f"{line.url}/{name}", access), "vol/")
    made.create()
    yield made
    made.close()


def config(**changes: object) -> StoreConfig:
    settings = {"block_size": BLOCK, "cache_size": 0, "get_timeout_s": 2.0, "put_timeout_s": 2.0, **changes}
    return StoreConfig(**settings)  # type: ignore[arg-type]


def write(store: ChunkStore, slice_id: int, data: bytes) -> None:
    writer = store.new_writer()
    writer.set_id(slice_id)
    writer.write_at(0, data)
    writer.finish(len(data))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between attempts a hundredth of what they are, so that the test does not wait for minutes."""
    from chunkstore.transfer import Transfer

    monkeypatch.setattr("chunkstore.transfer._GET_PAUSE_S", 0.001)
    monkeypatch.setattr("chunkstore.gate._LONGEST_PAUSE_S", 0.3)
    plain = Transfer._pause
    monkeypatch.setattr(Transfer, "_pause", lambda self, seconds, given_up: plain(self, seconds / 100, given_up))


LINES = {
    "errors": Faults(error=0.05),
    "many errors": Faults(error=0.3),
    "resets": Faults(reset=0.1),
    "lost answers": Faults(lost_answer=0.1),
    "slow down": Faults(slow_down=0.4),
    "timeouts": Faults(stall=0.05, stall_s=1.5),
    "everything": Faults(error=0.05, reset=0.05, lost_answer=0.05, slow_down=0.05, cut=0.05, flip=0.05, flip_up=0.05),
}


@pytest.mark.parametrize("faults", LINES.values(), ids=list(LINES))
def test_what_was_written_under_faults_is_right_afterwards(line: FaultyHTTP, bucket: Bucket, faults: Faults) -> None:
    contents = {number: os.urandom(SLICE) for number in range(1, 13)}
    line.faults = faults
    with opened(bucket, config()) as store:
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda item: write(store, *item), contents.items()))
        print(line.counts)
        assert line.counts.faults, "the line was better than it should have been"
        line.faults = Faults()
        for number, data in contents.items():
            assert store.read(number, SLICE, 0, SLICE) == data


@pytest.mark.parametrize("kind", ["cut", "flip", "error", "reset", "slow_down"])
@pytest.mark.parametrize("cached", [False, True])
def test_reads_under_faults_are_right_or_fail(
    line: FaultyHTTP, bucket: Bucket, kind: str, cached: bool, tmp_path: Path
) -> None:
    data = os.urandom(SLICE)
    caching: dict[str, object] = {"cache_dirs": (str(tmp_path),), "cache_size": 1 << 30} if cached else {}
    with opened(bucket, config()) as store:
        write(store, 1, data)
    right = failed = 0
    line.faults = Faults(**{kind: 0.3})
    with opened(bucket, config(**caching)) as store:
        for turn in range(40):
            start = (turn * 7919 * 13) % (SLICE - 9000)
            try:
                assert store.read(1, SLICE, start, 9000) == data[start : start + 9000]
                right += 1
            except StoreError as error:
                failed += 1
                assert isinstance(error, Unavailable | ChecksumMismatch | Timeout), error
            store.evict_cache(1, SLICE)
    print(right, "right", failed, "failed", line.counts)
    assert right > 10 and line.counts.faults


def test_a_changed_byte_is_found_in_parts_as_well(line: FaultyHTTP, bucket: Bucket) -> None:
    data = os.urandom(BLOCK)
    bucket.put("k", data)
    part = memoryview(bytearray(1000))
    for start in (0, 99_500, 131_000, BLOCK - 1000):
        line.faults = Faults(flip=1)
        with pytest.raises(ChecksumMismatch, match="is damaged: its content does not match its checksum"):
            bucket.get_into("k", start, part)
        line.faults = Faults()
        assert bucket.get_into("k", start, part) == 1000 and part == data[start : start + 1000]


def test_slow_down_makes_us_slower_and_nothing_fails(line: FaultyHTTP, bucket: Bucket) -> None:
    line.faults = Faults(slow_down=1.0)
    with opened(bucket, config(max_uploads=16)) as store:
        with ThreadPoolExecutor(8) as pool:
            writes = [pool.submit(write, store, number, os.urandom(BLOCK)) for number in range(1, 9)]
            time.sleep(1.0)
            assert store._transfer.uploads.allowed < 16
            line.faults = Faults()
            for each in writes:
                each.result(30)
        for number in range(20, 60):
            write(store, number, b"x")
        assert store._transfer.uploads.allowed == 16, "it recovers"


def test_an_outage_is_waited_for(line: FaultyHTTP, bucket: Bucket) -> None:
    line.faults = Faults(outage=True)
    data = os.urandom(SLICE)
    with opened(bucket, config()) as store:
        threading.Timer(1.0, lambda: setattr(line, "faults", Faults())).start()
        write(store, 1, data)
        assert store.read(1, SLICE, 0, SLICE) == data


def test_a_slow_line_is_shared_by_few(line: FaultyHTTP, bucket: Bucket) -> None:
    """At 4 MB/s a block takes 0.07 s alone, and 1.4 s beside 20 others, when every request has a second."""
    line.faults = Faults(bytes_per_s=4e6)
    contents = {number: os.urandom(SLICE) for number in range(1, 9)}
    with opened(bucket, config(max_uploads=40)) as store:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda item: write(store, *item), contents.items()))
        line.faults = Faults()
        for number, data in contents.items():
            assert store.read(number, SLICE, 0, SLICE) == data


@pytest.mark.parametrize(
    ("faults", "kind", "words"),
    [
        (Faults(error=1), Unavailable, "We encountered an internal error"),
        (Faults(slow_down=1), Throttled, "Please reduce your request rate"),
        (Faults(outage=True), Unavailable, "onnection"),
        (Faults(stall=1, stall_s=3), Timeout, "did not answer in time"),
        (Faults(cut=1), Unavailable, "read object s3://"),
        (Faults(flip=1), ChecksumMismatch, "does not match its checksum"),
        (Faults(flip_up=1), StoreError, "write object s3://"),
    ],
)
def test_every_fault_has_its_error(
    line: FaultyHTTP, bucket: Bucket, faults: Faults, kind: type[StoreError], words: str
) -> None:
    data = os.urandom(5000)
    bucket.put("k", data)
    line.faults = faults
    act: Callable[[], object] = (lambda: bucket.put("k", data)) if faults.flip_up else (lambda: bucket.get("k"))
    with pytest.raises(kind) as caught:
        act()
    text = str(caught.value)
    assert words in text and "\n" not in text and s3_server.SECRET_KEY not in text
