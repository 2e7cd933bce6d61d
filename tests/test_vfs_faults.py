"""When the bucket fails: errors reach those who wrote, once each; what failed is over; no read ever gives wrong bytes.

Not here: what the store does to retry (its own tests). The bucket is wrapped; see `Faulty`.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from vfs_harness import BLOCK, Client, World, errno_from, quick, world

from chunkstore.bucket import Bucket, Data, Listing, ObjectInfo
from chunkstore.buffers import Page
from chunkstore.errors import StoreError, Timeout
from fuse.operations import Caller
from juicefs_py.errors import Troubles
from meta.errors import Corrupt


class Faulty(Bucket):
    """A bucket whose puts or gets fail while it is told so."""

    def __init__(self, inner: Bucket) -> None:
        self.inner = inner
        self.fail_put = self.fail_get = False
        self.hold = threading.Event()
        self.hold.set()
        self.puts = 0

    def describe(self) -> str:
        return self.inner.describe()

    def put(self, key: str, data: Data, tier: int = 0) -> None:
        self.hold.wait(30)
        self.puts += 1
        if self.fail_put:
            raise StoreError("put refused by the test")
        self.inner.put(key, data, tier)

    def get_into(self, key: str, offset: int, view: memoryview) -> int:
        if self.fail_get:
            raise StoreError("get refused by the test")
        return self.inner.get_into(key, offset, view)

    def get(self, key: str, offset: int = 0, length: int = -1) -> bytes:
        if self.fail_get:
            raise StoreError("get refused by the test")
        return self.inner.get(key, offset, length)

    def delete(self, key: str) -> None:
        self.inner.delete(key)

    def head(self, key: str) -> ObjectInfo:
        return self.inner.head(key)

    def list(self, prefix: str = "", after: str = "", limit: int = 1000, delimiter: str = "") -> Listing:
        return self.inner.list(prefix, after, limit, delimiter)

    def sync(self) -> None:
        self.inner.sync()

    def close(self) -> None:
        self.inner.close()


class Bench:
    """A client on a faulty bucket, and one on the same bucket without faults."""

    def __init__(self, made: World) -> None:
        self.buckets: list[Faulty] = []

        def wrap(bucket: Bucket) -> Bucket:
            self.buckets.append(Faulty(bucket))
            return self.buckets[-1]

        self.world = made
        self.client: Client = made.client(wrap, vfs=quick(), max_retries=0)
        self.bucket = self.buckets[0]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with world("mem", tmp_path) as made:
        yield Bench(made)


@pytest.mark.parametrize("ask", ["flush", "fsync"])
def test_write_error_is_reported_once_and_then_it_works_again(bench: Bench, ask: str) -> None:
    file = bench.client.create(b"a")
    bench.bucket.fail_put = True
    file.write(0, b"x" * 100)
    assert errno_from(getattr(file, ask)) == errno.EIO
    assert errno_from(getattr(file, ask)) == 0
    bench.bucket.fail_put = False
    file.write(0, b"y" * 100)
    getattr(file, ask)()
    assert file.read(0, 200) == b"y" * 100
    file.close()


def test_every_handle_that_wrote_hears_of_it(bench: Bench) -> None:
    one = bench.client.create(b"a")
    two, silent = bench.client.open(one.ino), bench.client.open(one.ino)
    bench.bucket.fail_put = True
    one.write(0, b"1")
    two.write(BLOCK * 5, b"2")
    assert errno_from(one.flush) == errno.EIO
    assert errno_from(two.flush) == errno.EIO
    assert errno_from(silent.flush) == 0  # it wrote nothing, and everything was over when it asked
    assert errno_from(silent.fsync) == errno.EIO  # but it was open, and asks about the file
    assert errno_from(silent.fsync) == 0
    assert errno_from(bench.client.open(one.ino).fsync) == 0  # opened later
    for file in (one, two, silent):
        file.release()


def test_unreported_error_fails_further_writes(bench: Bench) -> None:
    file = bench.client.create(b"a")
    bench.bucket.fail_put = True
    file.write(0, b"1")
    bench.client.vfs.writers.commit_all()  # as the background does
    bench.bucket.fail_put = False
    assert errno_from(lambda: file.write(0, b"2")) == errno.EIO
    assert errno_from(file.fsync) == errno.EIO
    assert file.write(0, b"2") == 1
    file.close()


def test_an_unreported_error_fails_one_write_and_is_told_by_fsync_as_well(bench: Bench) -> None:
    """Who only tries the write again, as a program that survives a restart of its mount, gets on."""
    file = bench.client.create(b"a")
    bench.bucket.fail_put = True
    file.write(0, b"1")
    bench.client.vfs.writers.commit_all()
    bench.bucket.fail_put = False
    assert errno_from(lambda: file.write(0, b"2")) == errno.EIO
    assert [file.write(0, b"3"), file.write(1, b"4")] == [1, 1]
    assert [errno_from(file.fsync), errno_from(file.fsync)] == [errno.EIO, 0]
    assert file.read(0, 10) == b"34"
    file.close()


def test_failed_write_leaves_what_was_there(bench: Bench) -> None:
    file = bench.client.create(b"a")
    file.write(0, b"old" * 1000)
    file.flush()
    bench.bucket.fail_put = True
    file.write(0, b"new" * 1000)
    assert errno_from(file.flush) == errno.EIO
    bench.bucket.fail_put = False
    assert file.read(0, 3000) == b"old" * 1000
    assert file.stat().size == 3000
    file.close()


def test_reads_fail_with_eio_and_recover(bench: Bench) -> None:
    file = bench.client.create(b"a")
    data = os.urandom(3 * BLOCK)
    file.write(0, data)
    file.flush()
    bench.bucket.fail_get = True
    assert errno_from(lambda: file.read(0, 100)) == errno.EIO
    bench.bucket.fail_get = False
    assert file.read(0, len(data)) == data
    file.close()


def test_lost_block_is_eio_and_the_rest_is_right(bench: Bench) -> None:
    file = bench.client.create(b"a")
    data = os.urandom(3 * BLOCK)
    file.write(0, data)
    file.flush()
    keys = [info.key for info in bench.bucket.list("chunks/").objects]
    (lost,) = [key for key in keys if key.endswith(f"_1_{BLOCK}")]
    bench.bucket.delete(lost)
    assert file.read(0, BLOCK) == data[:BLOCK]
    assert errno_from(lambda: file.read(BLOCK + 5, 10)) == errno.EIO
    assert errno_from(lambda: file.read(0, 3 * BLOCK)) == errno.EIO
    assert file.read(2 * BLOCK, BLOCK) == data[2 * BLOCK :]
    file.close()


def test_objects_of_a_write_to_a_removed_file_are_dropped(bench: Bench) -> None:
    """Another client removed the file and deleted its data: the commit fails, and nothing may be left in the bucket."""
    file = bench.client.create(b"a")
    file.write(0, b"x" * (2 * BLOCK + 5))
    other = bench.world.client()
    other.unlink(b"a")
    assert errno_from(file.flush) == errno.ENOENT
    file.release()
    bench.client.close()
    assert not bench.bucket.inner.list("chunks/").objects


def test_a_flush_waits_only_for_what_was_written_before_it(bench: Bench) -> None:
    file = bench.client.create(b"a")
    bench.bucket.hold.clear()
    file.write(0, b"1" * 10)
    done = threading.Event()
    waiting = threading.Thread(target=lambda: (file.flush(), done.set()))
    waiting.start()
    file.write(2 * BLOCK, b"2")  # goes on while the flush is under way
    assert not done.wait(0.1)
    assert file.stat().size == 2 * BLOCK + 1
    bench.bucket.hold.set()
    assert done.wait(10)
    waiting.join()
    file.close()
    assert bench.client.vfs.flush_all()


def test_a_write_that_finds_no_memory_fails_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes before it in the same request may be kept; every flush afterwards works, and nothing is left behind."""
    file = bench.client.create(b"a")
    edge = 1 << 26  # the request ends in the next chunk, which needs a slice of its own
    buffers, turns = bench.client.vfs.store.buffers, [0]
    take = buffers.take

    def scarce(size: int, **options: Any) -> Page:
        turns[0] += 1
        if turns[0] > 1:
            raise Timeout("no memory")
        return take(size, **options)

    monkeypatch.setattr(buffers, "take", scarce)
    assert errno_from(lambda: file.write(edge - 10, b"x" * 20)) == errno.EIO
    assert errno_from(lambda: file.write(edge + 100, b"x")) == errno.EIO
    monkeypatch.undo()
    file.flush()
    assert not bench.client.vfs.writers.commit_all() and buffers.used == 0
    file.write(edge, b"y" * 10)
    file.close()
    again = bench.client.open(file.ino, os.O_RDONLY)
    assert again.read(edge - 10, 30) == b"x" * 10 + b"y" * 10
    again.close()


def test_an_unforeseen_failure_of_a_commit_is_told_and_over(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    file = bench.client.create(b"a")
    file.write(0, b"x")
    with monkeypatch.context() as patch:
        patch.setattr(bench.client.vfs.meta, "write_slice", lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            file.flush()
    file.flush()
    file.write(0, b"y")
    file.flush()
    assert file.all() == b"y"
    file.close()


@pytest.mark.parametrize("end", ["deadline", "interrupt"])
def test_a_flush_does_not_wait_for_all_retries(tmp_path: Path, end: str) -> None:
    """The thread that flushes commits itself, but leaves it to others when its time is up."""
    with world("mem", tmp_path) as made:
        buckets: list[Faulty] = []

        def wrap(bucket: Bucket) -> Bucket:
            buckets.append(Faulty(bucket))
            return buckets[-1]

        client = made.client(wrap, max_retries=10)
        file = client.create(b"a")
        buckets[0].fail_put = True
        file.write(0, b"x" * 10)
        caller, writers = Caller(0, 0, 0), client.vfs.writers
        if end == "deadline":
            writers.flush_deadline_s = 0.1
        else:
            writers.interrupt_after_s = 0.1
            caller.interrupt()
        started = time.monotonic()
        expected = errno.EIO if end == "deadline" else errno.EINTR
        assert errno_from(lambda: client.vfs.flush(caller, file.ino, file.fh, 0)) == expected
        assert time.monotonic() - started < 5
        buckets[0].fail_put = False
        writers.flush_deadline_s, writers.interrupt_after_s = 30, 30
        file.close()  # the retries went on
        assert client.open(file.ino).all() == b"x" * 10


def test_writes_wait_for_buffers_and_go_on(tmp_path: Path) -> None:
    """A slow bucket: memory stays within the budget, and nothing is lost."""
    with world("mem", tmp_path, block_size=1024) as made:
        buckets: list[Faulty] = []

        def wrap(bucket: Bucket) -> Bucket:
            buckets.append(Faulty(bucket))
            return buckets[-1]

        client = made.client(wrap, vfs=quick(), buffer_size=32 << 20)
        file = client.create(b"a")
        buckets[0].hold.clear()
        most = 0

        def watch() -> None:
            nonlocal most
            for k in range(80):
                file.write(k << 20, bytes([k]) * (1 << 20))
                most = max(most, client.vfs.store.buffers.used)

        writer = threading.Thread(target=watch)
        writer.start()
        writer.join(0.5)
        assert writer.is_alive()  # held back, not failed
        buckets[0].hold.set()
        writer.join(60)
        assert not writer.is_alive()
        assert most <= 33 << 20
        file.close()
        again = client.open(file.ino, os.O_RDONLY)
        for k in range(80):
            assert again.read(k << 20, 1 << 20) == bytes([k]) * (1 << 20)
        again.close()


def test_trouble_of_the_engine_is_told_in_the_log_but_not_thousands_of_times(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert errno_from(lambda: bench.client.lookup(b"missing")) == errno.ENOENT
    assert caplog.messages == [], "an answer like any other"

    def broken(*_: object) -> None:
        raise Corrupt("meta.db: database disk image is malformed; restore it from a backup")

    monkeypatch.setattr(bench.client.vfs.meta, "lookup", broken)
    for _ in range(3):
        assert errno_from(lambda: bench.client.lookup(b"a")) == errno.EIO
    assert caplog.messages == ["lookup failed: meta.db: database disk image is malformed; restore it from a backup"]


def test_the_same_trouble_is_told_again_later(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    troubles = Troubles(lambda: now[0])
    for _ in range(4):
        troubles.tell("read", StoreError("the bucket is away"))
        now[0] += 6
    for number in range(1000):
        troubles.tell("read", StoreError(f"object {number}"))
    assert caplog.messages.count("read failed: the bucket is away") == 2
    assert len(caplog.messages) == 1002
