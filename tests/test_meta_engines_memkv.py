"""The store in memory: snapshots, conflicts, what a name shares, deferred usage, and that old versions go."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import count

import pytest

from meta.attr import Attr
from meta.engines import open_engine
from meta.errors import Conflict, Unavailable
from meta.tkv import engine as tkv_engine
from meta.tkv.memory import MemoryStore
from meta.tkv.reader import TkvReader
from meta.tkv.transaction import TkvTransaction
from meta.transaction import DirStat
from meta.types import FILE, Dirent

_names = count()


def fresh_name() -> str:
    return f"memkv://test{next(_names)}-{id(_names)}"


def test_clients_of_one_name_share_a_store() -> None:
    url = fresh_name()
    one, two, other = open_engine(url), open_engine(url), open_engine("memkv://")
    one.transact(lambda tx: tx.put_symlink(5, b"x"))
    one.close()
    assert two.reader.symlink(5) == b"x"
    assert other.reader.symlink(5) is None and other.is_empty()


def test_deferred_usage_is_added_by_flush() -> None:
    url = fresh_name() + "?usage=deferred"
    engine = open_engine(url)
    engine.transact(lambda tx: tx.add_usage(4096, 1))
    engine.transact(lambda tx: tx.add_usage(4096, -3))
    with pytest.raises(ValueError, match="no"):
        engine.transact(lambda tx: (tx.add_usage(1, 1), int("no")))
    assert engine.reader.counter("usedSpace") == 0
    engine.flush()
    engine.flush()
    assert (engine.reader.counter("usedSpace"), engine.reader.counter("totalInodes")) == (8192, -2)


def test_deferred_statistics_of_directories_are_added_by_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several directories to a transaction; what cannot be added now is kept; who has no statistic gets none."""
    monkeypatch.setattr(tkv_engine, "_DIRS_AT_ONCE", 2)
    engine = open_engine(fresh_name() + "?usage=deferred")
    for ino in (1, 2, 3):
        engine.transact(lambda tx, ino=ino: tx.put_dir_stat(ino, DirStat(0, 0, 0)))  # type: ignore[misc]
    for ino in (1, 2, 3, 4, 1):
        engine.transact(lambda tx, ino=ino: tx.add_dir_stat(ino, DirStat(10, 4096, 1)))  # type: ignore[misc]
    assert engine.reader.dir_stat(1) == DirStat(0, 0, 0)
    writes = tkv_engine.TkvEngine._write
    done: list[int] = []

    def away(self: tkv_engine.TkvEngine, body: Callable[[TkvTransaction], object]) -> object:
        if done:
            raise Unavailable("away")
        done.append(1)
        return writes(self, body)

    with monkeypatch.context() as patch:
        patch.setattr(tkv_engine.TkvEngine, "_write", away)
        with pytest.raises(Unavailable):
            engine.flush()
    engine.flush()
    engine.flush()
    found = [engine.reader.dir_stat(ino) for ino in (1, 2, 3, 4)]
    assert found == [DirStat(20, 8192, 2), DirStat(10, 4096, 1), DirStat(10, 4096, 1), None]


@pytest.mark.parametrize("write_only", [True, False])
def test_whoever_commits_second_conflicts(write_only: bool) -> None:
    store = MemoryStore()
    first, second, elsewhere = store.begin(), store.begin(), store.begin()
    for tx in (first, second):
        if not write_only:
            tx.hold(b"k")
        tx.set(b"k" if write_only else b"other%d" % id(tx), b"v")
    if not write_only:
        first.set(b"k", b"1")
    elsewhere.set(b"far", b"v")
    first.commit()
    with pytest.raises(Conflict):
        second.commit()
    elsewhere.commit()
    assert store.latest.get(b"far") == b"v"


def test_a_reader_that_writes_nothing_never_conflicts() -> None:
    store = MemoryStore()
    reading, writing = store.begin(), store.begin()
    assert reading.get(b"k") is None
    writing.set(b"k", b"v")
    writing.commit()
    assert reading.get(b"k") is None
    reading.commit()
    assert store.begin().get(b"k") == b"v"


def test_conflicts_without_end_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tkv_engine, "_ATTEMPTS", 3)
    url = fresh_name()
    engine, rival = open_engine(url), open_engine(url)
    runs = []

    def body(tx: object) -> None:
        runs.append(tx.counter("x"))
        rival.increment("x")
        tx.put_counter("x", 0)

    with pytest.raises(Unavailable, match="3 times"):
        engine.transact(body)
    assert runs == [0, 1, 2]


@pytest.mark.parametrize("seed", range(5))
def test_every_snapshot_is_what_a_copy_would_be(seed: int) -> None:
    """Each open transaction goes on seeing the dictionary of its beginning, overlaid by its own writes."""
    rng = random.Random(seed)
    store = MemoryStore()
    state: dict[bytes, bytes] = {}
    held: list[tuple[object, dict[bytes, bytes]]] = []
    for step in range(400):
        key = b"%c" % rng.choice(b"abcdef")
        action = rng.random()
        if action < 0.3:
            held.append((store.begin(), dict(state)))
        elif action < 0.5 and held:
            held.pop(rng.randrange(len(held)))[0].close()
        elif action < 0.7 and held:
            tx, seen = rng.choice(held)
            if rng.random() < 0.5:
                tx.set(key, b"own%d" % step)
                seen[key] = b"own%d" % step
            else:
                tx.delete(key)
                seen.pop(key, None)
        else:
            tx = store.begin()
            if rng.random() < 0.3:
                tx.delete(key)
                state.pop(key, None)
            else:
                tx.set(key, b"%d" % step)
                state[key] = b"%d" % step
            tx.commit()
            tx.close()
        for tx, seen in held:
            assert list(tx.scan(b"b", b"e")) == sorted((k, v) for k, v in seen.items() if b"b" <= k < b"e")
            assert tx.get(key) == seen.get(key)
        assert list(store.latest.scan(b"", b"\xff", 3)) == sorted(state.items())[:3]
    for tx, _ in held:
        tx.close()
    assert sorted(store._history) == sorted(state) == store._keys
    assert all(len(history) == 1 for history in store._history.values())


def test_a_name_and_its_inode_are_read_again_if_the_inode_went_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the two reads of a lookup the file was removed, and another one got its name."""
    engine = open_engine(fresh_name())

    def make(ino: int) -> None:
        engine.transact(lambda tx: (tx.put_entry(1, b"name", Dirent(FILE, ino)), tx.put_attr(ino, Attr(length=ino))))

    make(5)
    first = TkvReader.attr

    def late(reader: TkvReader, ino: int) -> Attr | None:
        monkeypatch.setattr(TkvReader, "attr", first)
        engine.transact(lambda tx: tx.delete_attr(5))
        make(6)
        return reader.attr(ino)

    monkeypatch.setattr(TkvReader, "attr", late)
    found = engine.reader.target(1, b"name")
    assert found is not None and found[1] is not None
    assert (found[0].ino, found[1].length) == (6, 6)


def test_a_reset_that_is_interrupted_leaves_a_volume_that_can_be_reset_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tkv_engine, "_RESET_PAGE", 10)
    engine = open_engine(fresh_name())
    engine.transact(lambda tx: tx.put_setting(b"{}"))
    for ino in range(35):
        engine.transact(lambda tx, ino=ino: tx.put_symlink(ino, b"x"))  # type: ignore[misc]
    deleted = tkv_engine.TkvEngine._delete
    pages: list[int] = []

    def interrupted(self: tkv_engine.TkvEngine, doomed: Sequence[bytes]) -> None:
        if len(pages) == 2:
            raise Unavailable("away")
        pages.append(len(doomed))
        deleted(self, doomed)

    with monkeypatch.context() as patch:
        patch.setattr(tkv_engine.TkvEngine, "_delete", interrupted)
        with pytest.raises(Unavailable):
            engine.reset()
    assert engine.reader.setting() == b"{}"
    assert [ino for ino in range(35) if engine.reader.symlink(ino)] == list(range(20, 35))
    engine.reset()
    assert engine.is_empty()
