"""The store in memory: snapshots, conflicts, what a name shares, deferred usage, and that old versions go."""

from __future__ import annotations

import random
from itertools import count

import pytest

from meta.engines import open_engine
from meta.errors import Conflict, Unavailable
from meta.tkv import engine as tkv_engine
from meta.tkv.memory import MemoryStore

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


@pytest.mark.parametrize("write_only", [True, False])
def test_whoever_commits_second_conflicts(write_only: bool) -> None:
    store = MemoryStore()
    first, second, elsewhere = store.begin(), store.begin(), store.begin()
    for tx in (first, second):
        if not write_only:
            assert tx.get(b"k") is None
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
