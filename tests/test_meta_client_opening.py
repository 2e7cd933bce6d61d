"""The list of a file's first chunk that comes along with an open: never older than a read after the open would find.

Not what else is kept of open files (test_meta_client), nor how many round trips there are (test_redis_roundtrips).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clients import ALL_ENGINES, Client, new_engine

from meta.attr import Attr
from meta.engine import Engine
from meta.errors import Corrupt
from meta.rules.content import KEEP_SIZE, PUNCH_HOLE
from meta.slices import resolve
from meta.types import ROOT, SUPERUSER

ME = SUPERUSER


@pytest.fixture(params=ALL_ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    engine = new_engine(request.param, tmp_path)
    yield engine
    engine.close()


@pytest.fixture
def client(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """One for whom the list is always free, whatever the engine."""
    client = Client(engine)
    real = engine.reader.opening

    def opening(ino: int) -> tuple[Attr | None, bytes | None]:
        attr, records = real(ino)
        return attr, records if attr is None or records is not None else engine.reader.chunk(ino, 0)

    monkeypatch.setattr(type(engine.reader), "opening", lambda reader, ino: opening(ino))
    yield client
    client.close_session()


@pytest.fixture
def other(engine: Engine) -> Iterator[Client]:
    client = Client(engine)
    yield client
    client.close_session()


def a_file(other: Client, size: int = 100) -> int:
    ino = other.file(b"f")
    if size:
        other.write(ino, 0, size)
    return ino


def brought(client: Client, ino: int, flags: int) -> bool:
    """Whether an open has left the first chunk's list."""
    client.open(ME, ino, flags)
    found = client.files.chunk(ino, 0) is not None
    client.close(ino)
    client.files.drop(ino)
    return found


def test_engines_answer_the_record_and_the_list_or_none(engine: Engine) -> None:
    client = Client(engine)
    ino = a_file(client)
    attr, records = engine.reader.opening(ino)
    assert attr == engine.reader.attr(ino)
    assert records in (None, engine.reader.chunk(ino, 0))
    assert (records is not None) == (engine.name == "redis")
    assert engine.reader.opening(ino + 1000)[0] is None
    found = engine.transact(lambda tx: (tx.opening(ino), tx.attr(ino)))
    assert found[0] == (found[1], None)
    client.close_session()


def test_it_comes_with_an_open_that_may_read(client: Client, other: Client) -> None:
    ino = a_file(other)
    assert brought(client, ino, os.O_RDONLY) and brought(client, ino, os.O_RDWR)
    assert not brought(client, ino, os.O_WRONLY) and not brought(client, ino, os.O_RDWR | os.O_TRUNC)
    client.open(ME, ino, os.O_RDONLY)
    first = client.read_chunk(ino, 0)
    assert first == resolve(other.reader.chunk(ino, 0)) and client.read_chunk(ino, 0) is first
    client.open(ME, ino, os.O_RDONLY)
    assert client.read_chunk(ino, 0) is first
    client.close(ino)
    client.close(ino)


def test_nobody_asks_for_what_is_kept_or_believed_to_be_empty(other: Client, engine: Engine) -> None:
    client = Client(engine)
    full, empty = a_file(other), other.file(b"empty")
    client.lookup(ME, ROOT, b"empty")
    assert not brought(client, empty, os.O_RDONLY)
    other.write(empty, 0, 10)  # the belief was wrong
    client.open(ME, empty, os.O_RDONLY)
    assert client.read_chunk(empty, 0) == resolve(other.reader.chunk(empty, 0))
    client.open(ME, full, os.O_RDONLY)
    kept = client.read_chunk(full, 0)
    client.open(ME, full, os.O_RDONLY)
    assert client.read_chunk(full, 0) is kept
    client.close_session()


def copy_over(client: Client, ino: int) -> None:
    source = client.file(b"source")
    client.write(source, 0, 30)
    client.copy_file_range(ME, source, 0, ino, 10, 20)


def compact(client: Client, ino: int) -> None:
    client.compact_chunk(ino, 0)


CHANGES: dict[str, Callable[[Client, int], object]] = {
    "write": lambda c, ino: c.write(ino, 10, 5),
    "truncate": lambda c, ino: c.truncate(ME, ino, 3),
    "punch": lambda c, ino: c.fallocate(ME, ino, PUNCH_HOLE | KEEP_SIZE, 5, 50),
    "copy": copy_over,
    "compaction": compact,
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_of_this_client_drop_it(client: Client, other: Client, change: str) -> None:
    ino = a_file(other)
    other.write(ino, 10, 10)
    client.open(ME, ino, os.O_RDWR)
    before = client.files.chunk(ino, 0)
    assert before is not None
    CHANGES[change](client, ino)
    now = client.read_chunk(ino, 0)
    assert now != before and now == resolve(other.reader.chunk(ino, 0))
    client.close(ino)


def test_changes_of_others_drop_it_when_they_are_noticed(client: Client, other: Client) -> None:
    ino = a_file(other)
    client.open(ME, ino, os.O_RDONLY)
    other.write(ino, 10, 5)
    client.getattr(ino)
    assert client.read_chunk(ino, 0) == resolve(other.reader.chunk(ino, 0))
    other.write(ino, 20, 5)
    client.invalidate_chunk(ino, 0)
    assert client.read_chunk(ino, 0) == resolve(other.reader.chunk(ino, 0))
    client.close(ino)


def test_what_one_client_has_closed_another_one_finds_at_its_open(client: Client, other: Client) -> None:
    ino = a_file(other)
    for n in range(30):
        other.open(ME, ino, os.O_WRONLY)
        written = other.write(ino, n % 3, 50)
        other.close(ino)
        client.open(ME, ino, os.O_RDONLY)
        assert client.byte(ino, n % 3) == client.store.byte(written, 0)
        client.close(ino)


def test_a_change_while_the_answer_is_on_its_way(
    client: Client, other: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    ino = a_file(other)
    answer = client.reader.opening

    def late(reader: object, ino: int) -> tuple[Attr | None, bytes | None]:
        found = answer(ino)
        client.write(ino, 10, 5)
        return found

    monkeypatch.setattr(type(client.reader), "opening", late)
    client.open(ME, ino, os.O_RDWR)
    assert client.read_chunk(ino, 0) == resolve(other.reader.chunk(ino, 0))
    client.close(ino)


def test_of_two_opens_the_one_that_was_answered_later_gets_the_later_list(
    client: Client, other: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table believes the one that came back first; the other has seen a newer mtime."""
    ino = a_file(other)
    answer = client.reader.opening
    nested: list[int] = []

    def overtaken(reader: object, ino: int) -> tuple[Attr | None, bytes | None]:
        if not nested:
            nested.append(ino)
            client.open(ME, ino, os.O_RDONLY)
            other.write(ino, 10, 5)
        return answer(ino)

    monkeypatch.setattr(type(client.reader), "opening", overtaken)
    client.open(ME, ino, os.O_RDONLY)
    assert client.read_chunk(ino, 0) == resolve(other.reader.chunk(ino, 0))
    client.close(ino)
    client.close(ino)


def test_a_list_that_is_due_for_compaction_is_left_to_the_read(client: Client, other: Client) -> None:
    ino = a_file(other)
    for n in range(5):
        other.write(ino, n * 5, 10)
    asked: list[int] = []
    client.compactor.request = lambda ino, indx: asked.append(ino)  # type: ignore[method-assign]
    client.open(ME, ino, os.O_RDONLY)
    assert not asked
    client.read_chunk(ino, 0)
    assert asked == [ino]
    client.close(ino)


def test_a_damaged_list_is_the_trouble_of_the_read(tmp_path: Path) -> None:
    engine = new_engine("redis", tmp_path)
    client = Client(engine)
    for spoil in ((b"RPUSH", b"junk"), (b"SET", b"junk")):
        ino = client.file(spoil[0])
        client.truncate(ME, ino, 100)
        key = engine.reader.keys.chunk(ino, 0)  # type: ignore[attr-defined]
        engine.reader.link.ask((b"DEL", key), (spoil[0], key, spoil[1]))  # type: ignore[attr-defined]
        assert client.open(ME, ino, os.O_RDONLY).attr.length == 100
        with pytest.raises(Corrupt):
            client.read_chunk(ino, 0)
        client.close(ino)
    client.close_session()
    engine.close()
