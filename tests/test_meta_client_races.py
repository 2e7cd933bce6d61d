"""MetaClient: background work, and the races between opening, creating and removing."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import ALL_ENGINES, Client, check_sound, new_engine

from meta.engine import Engine
from meta.errors import Refused
from meta.types import (
    DIRECTORY,
    ROOT,
    SUPERUSER,
)


@pytest.fixture(params=ALL_ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    engine = new_engine(request.param, tmp_path)
    yield engine
    engine.close()


@pytest.fixture
def client(engine: Engine) -> Iterator[Client]:
    client = Client(engine)
    yield client
    client.close_session()


@pytest.fixture
def other(engine: Engine) -> Iterator[Client]:
    client = Client(engine)
    yield client
    client.close_session()


def refused(number: int) -> object:
    return pytest.raises(Refused, check=lambda e: e.errno == number)


def test_long_chunks_are_compacted_in_the_background(client: Client) -> None:
    ino = client.file(b"f")
    for n in range(6):
        client.write(ino, n * 5, 10)
    client.read_chunk(ino, 0)
    deadline = time.monotonic() + 5
    while len(client.reader.chunk(ino, 0)) > 24 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(client.reader.chunk(ino, 0)) == 24
    client.compactor.close()
    assert client.deleter.drain(5) and len(client.store.deleted) == 6


def test_a_client_does_not_wait_for_ever_for_a_compaction(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    ino = client.file(b"f")
    for n in range(6):
        client.write(ino, n * 5, 10)
    begun, gate = threading.Event(), threading.Event()
    monkeypatch.setattr(client.store, "compact_slice", lambda *_: (begun.set(), gate.wait(20)))
    client.compactor.request(ino, 0)
    assert begun.wait(5)
    started = time.monotonic()
    client.compactor.close(timeout_s=0.1)
    assert time.monotonic() - started < 5
    gate.set()
    client.compactor.close()


def test_when_a_write_asks_for_a_compaction(client: Client) -> None:
    asked: list[str] = []
    client.compactor.request = lambda ino, indx: asked.append("soon")  # type: ignore[method-assign]
    client.compactor.compact = lambda ino, indx: bool(asked.append("now"))  # type: ignore[method-assign, func-returns-value]
    for count, answer in ((98, []), (99, ["soon"]), (350, []), (351, ["soon"]), (2499, ["soon"]), (2500, ["now"])):
        asked.clear()
        client.compactor.written(1, 0, count)
        assert asked == answer, count
    ino = client.file(b"f")
    asked.clear()
    for n in range(99):
        client.write(ino, n, 1)
    assert asked == ["soon"]


def test_a_failing_store_leaves_a_chunk_as_it_was(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise OSError("the bucket is away")

    client.store.compact_slice = fail  # type: ignore[method-assign]
    ino = client.file(b"f")
    for n in range(6):
        client.write(ino, n * 5, 10)
    before = client.reader.chunk(ino, 0)
    client.read_chunk(ino, 0)
    deadline = time.monotonic() + 5
    while "the bucket is away" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "the bucket is away" in caplog.text and client.reader.chunk(ino, 0) == before
    check_sound(client.engine, client.store.deleted)


def test_renaming_over_an_open_file(client: Client) -> None:
    """The replaced file lives on for its handle."""
    ino, _ = client.create(SUPERUSER, ROOT, b"old", 0o644, 0, os.O_RDWR)
    slice_id = client.write(ino, 0, 10)
    client.file(b"new")
    client.rename(SUPERUSER, ROOT, b"new", ROOT, b"old")
    assert client.getattr(ino).nlink == 0 and client.byte(ino, 3) == client.store.byte(slice_id, 3)
    client.close(ino)
    with refused(errno.ENOENT):
        client.getattr(ino)
    assert client.deleter.drain(5) and client.store.deleted == {slice_id: 1}
    check_sound(client.engine)


def test_open_files_survive_the_removal_of_their_tree(client: Client) -> None:
    directory, _ = client.mknod(SUPERUSER, ROOT, b"d", DIRECTORY, 0o755, 0)
    files = [client.file(b"%d" % n, directory) for n in range(20)]
    for ino in files[:10]:
        client.open(SUPERUSER, ino, os.O_RDWR)
    client.remove_tree(SUPERUSER, ROOT, b"d", threads=4)
    for ino in files[:10]:
        assert client.getattr(ino).nlink == 0
        client.close(ino)
    for ino in files:
        with refused(errno.ENOENT):
            client.open(SUPERUSER, ino, os.O_RDWR)
    assert not client.files._removing
    check_sound(client.engine)


def test_a_hard_link_keeps_a_file_that_was_open(client: Client) -> None:
    ino, _ = client.create(SUPERUSER, ROOT, b"a", 0o644, 0, os.O_RDWR)
    client.link(SUPERUSER, ino, ROOT, b"b")
    client.unlink(SUPERUSER, ROOT, b"a")
    client.close(ino)
    assert client.getattr(ino).nlink == 1


def test_opening_and_removing_at_once(client: Client) -> None:
    """Either the open finds the file gone, or the file stays whole for as long as it is open; never in between."""
    rounds, troubles, seen = 60, [], {"gone": 0, "held": 0}
    start = threading.Barrier(2)

    def opener() -> None:
        try:
            for n in range(rounds):
                ino = files[n]
                start.wait()
                try:
                    client.open(SUPERUSER, ino, os.O_RDWR)
                except Refused as e:
                    assert e.errno == errno.ENOENT
                    seen["gone"] += 1
                else:
                    seen["held"] += 1
                    for _ in range(3):
                        assert client.getattr(ino).length == 10
                        client.read_chunk(ino, 0)
                    client.close(ino)
        except BaseException as e:
            troubles.append(e)
            start.abort()

    files = [client.file(b"%d" % n) for n in range(rounds)]
    for ino in files:
        client.write(ino, 0, 10)
    thread = threading.Thread(target=opener)
    thread.start()
    try:
        for n in range(rounds):
            start.wait()
            if n % 3:
                time.sleep(n % 7 * 2e-4)
            client.unlink(SUPERUSER, ROOT, b"%d" % n)
    except threading.BrokenBarrierError:
        pass
    thread.join()
    print(seen)
    assert not troubles
    assert client.deleter.drain(10) and sum(client.store.deleted.values()) == rounds
    assert client.reader.sustained(client.sid) == [] and not client.files._removing
    check_sound(client.engine)


def test_creating_and_removing_at_once(client: Client) -> None:
    """What was created is held before anybody else can see it, let alone remove it."""
    stop = threading.Event()
    removed = [0]

    def remover() -> None:
        while not stop.is_set():
            try:
                client.unlink(SUPERUSER, ROOT, b"f")
                removed[0] += 1
            except Refused as e:
                assert e.errno == errno.ENOENT

    thread = threading.Thread(target=remover)
    thread.start()
    try:
        deadline = time.monotonic() + 20
        created = 0
        while created < 100 or (not removed[0] and time.monotonic() < deadline):  # on a busy machine it may win late
            created += 1
            ino, _ = client.create(SUPERUSER, ROOT, b"f", 0o644, 0, os.O_RDWR)
            client.write(ino, 0, 10)
            assert client.getattr(ino).length == 10
            client.close(ino)
    finally:
        stop.set()
        thread.join()
    assert removed[0]
    assert client.deleter.drain(10)
    check_sound(client.engine)


def test_an_open_does_not_find_a_removed_file_that_is_being_given_up(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has looked the name up just before must not get a handle on what is gone a moment later."""
    ino, _ = client.create(SUPERUSER, ROOT, b"f", 0o644, 0, os.O_RDWR)
    client.unlink(SUPERUSER, ROOT, b"f")
    closing, gate, transact, answers = threading.Event(), threading.Event(), client.vol.transact, []

    def held_up(body: object) -> object:
        closing.set()
        gate.wait(20)
        return transact(body)  # type: ignore[arg-type]

    def late() -> None:
        with refused(errno.ENOENT):
            client.open(SUPERUSER, ino, os.O_RDWR)
        answers.append("gone")

    monkeypatch.setattr(client.vol, "transact", held_up)
    threads = [threading.Thread(target=lambda: client.close(ino)), threading.Thread(target=late)]
    threads[0].start()
    assert closing.wait(20)
    threads[1].start()
    threads[1].join(0.2)
    assert not answers
    gate.set()
    for thread in threads:
        thread.join(20)
    assert answers == ["gone"]
    check_sound(client.engine)


def test_the_log_is_on_disk_before_objects_go(client: Client) -> None:
    """A loss of power must not bring back a record of a slice whose objects are deleted."""
    events: list[str] = []
    engine, delete = client.engine, client.store.delete_slice
    engine.sync = lambda: events.append("sync")  # type: ignore[method-assign]
    client.store.delete_slice = lambda *a: (events.append("delete"), delete(*a))[1]  # type: ignore[method-assign, func-returns-value]
    ino = client.file(b"f")
    for n in range(5):
        client.write(ino, n << 26, 10)
    client.unlink(SUPERUSER, ROOT, b"f")
    assert client.deleter.drain(5)
    assert events.count("delete") == 5 and events[0] == "sync"


def test_compacting_a_whole_volume(client: Client) -> None:
    files = [client.file(b"%d" % n) for n in range(4)]
    for ino in files[:3]:
        for n in range(4):
            client.write(ino, n * 5, 10)
            client.write(ino, (1 << 26) + n * 5, 10)
    assert client.compact_all(files[0]) == 2
    assert client.compact_all(stop=lambda: True) == 0
    assert client.compact_all() == 4
    assert client.compact_all() == 0
    assert all(len(records) == 24 for _, _, records in client.engine.list_slices())


def test_deletions_that_do_not_fit_into_the_end_of_a_session(engine: Engine) -> None:
    """A client that closes does not hang on a slow store, and leaves to others what it could not do."""
    client = Client(engine, max_deletes=2)
    client.deleter.drain = lambda timeout_s: False  # type: ignore[method-assign]
    slow, delete = threading.Event(), client.store.delete_slice
    client.store.delete_slice = lambda *a: (slow.wait(0.05), delete(*a))[1]  # type: ignore[method-assign, func-returns-value]
    for n in range(8):
        ino = client.file(b"%d" % n)
        for indx in range(8):
            client.write(ino, indx << 26, 10)
        client.unlink(SUPERUSER, ROOT, b"%d" % n)
    started = time.monotonic()
    client.close_session()
    assert time.monotonic() - started < 3
    done = len(client.store.deleted)
    assert done < 64
    other = Client(engine, client.store)
    for file in engine.deleted_files(1 << 40, 100):
        other.deleter.delete_files_now([file])
    other.deleter.delete_slices(list(engine.dead_slices()))
    other.close_session()
    assert set(client.store.deleted) and not list(engine.list_slice_refs()) and not list(engine.list_slices())
    assert len(client.store.deleted) == 64
