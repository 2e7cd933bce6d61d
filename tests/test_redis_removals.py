"""What follows from removals, many at a time."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from clients import Client, new_engine

from meta.slices import Slice, encode_slices
from meta.transaction import DeletedFile, Transaction
from meta.types import CHUNK_SIZE


def test_a_client_that_closes_leaves_the_files_that_wait_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finishes those at hand. All are recorded until they are done."""
    client = Client(new_engine("redis", tmp_path))
    files = [DeletedFile(1000 + n, 0, n + 1) for n in range(1000)]
    client.engine.transact(lambda tx: [tx.put_deleted_file(file) for file in files])
    looked_at: list[DeletedFile] = []

    def slowly(files: Sequence[DeletedFile]) -> list[tuple[int, int]]:
        looked_at.extend(files)
        time.sleep(0.3)
        return []

    monkeypatch.setattr(client.engine, "remaining_chunks", slowly)
    for file in files:
        client.deleter.delete_file(file)
    client.deleter.close(0.1)
    assert 0 < len(looked_at) < 300
    assert client.engine.deleted_files(10_000, -1) == files[len(looked_at) :]
    assert client.deleter.drain(0)
    client.shutdown()


class Objects:
    """Deletes the objects of slices, slowly."""

    def __init__(self) -> None:
        self.deleted: list[int] = []

    def delete_slice(self, slice_id: int, size: int) -> None:
        time.sleep(0.002)
        self.deleted.append(slice_id)


def removed_files(client: Client, number: int) -> list[DeletedFile]:
    """Files of one chunk with one slice each."""
    files = [DeletedFile(1000 + n, 4096, 1) for n in range(number)]

    def put(tx: Transaction) -> None:
        for file in files:
            tx.put_chunk(file.ino, 0, encode_slices([Slice(0, file.ino, 4096, 0, 4096)]))
            tx.put_deleted_file(file)

    client.engine.transact(put)
    return files


def test_many_removed_files_take_few_transactions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(new_engine("redis", tmp_path))
    client.deleter.store = objects = Objects()  # type: ignore[assignment]
    files = removed_files(client, 300)
    count, transact = [0], client.vol.transact

    def counted(work: Any) -> Any:
        count[0] += 1
        time.sleep(0.005)  # for slices to gather, however quick the machine is
        return transact(work)

    monkeypatch.setattr(client.vol, "transact", counted)
    for file in files:
        client.deleter.delete_file(file)
    assert client.deleter.drain(20)
    assert sorted(objects.deleted) == [file.ino for file in files]
    assert client.engine.deleted_files(10_000, -1) == [] and client.engine.remaining_chunks(files) == []
    assert count[0] < 150, "10 for the chunks, 3 for the files, and as many for records as came while one was at it"
    client.shutdown()


def test_a_damaged_chunk_keeps_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    client = Client(new_engine("redis", tmp_path))
    client.deleter.store = objects = Objects()  # type: ignore[assignment]
    files = removed_files(client, 40)
    client.engine.transact(lambda tx: tx.put_chunk(files[7].ino, 0, b"damaged"))
    for file in files:
        client.deleter.delete_file(file)
    assert client.deleter.drain(20)
    assert client.engine.deleted_files(10_000, -1) == [files[7]]
    assert sorted(objects.deleted) == [file.ino for file in files if file != files[7]]
    assert "cannot delete chunk 0 of removed file 1007" in caplog.text
    client.shutdown()


def found_by_definition(present: set[int], length: int) -> list[int]:
    """The chunks below the end, and those behind it that follow within 16 of the one before."""
    found, stop = [], max(-(-length // CHUNK_SIZE), 1) + 16
    indx = 0
    while indx < stop:
        if indx in present:
            found.append(indx)
            stop = max(stop, indx + 17)
        indx += 1
    return found


def test_chunks_of_removed_files_are_found_wherever_they_lie(tmp_path: Path) -> None:
    client = Client(new_engine("redis", tmp_path))
    rng = random.Random(3)
    ends = [0, 0, 1, 1, 2, 3, 20, 483, 484, 485, 520, 1100]
    files = [(1000 + n, rng.choice(ends) * CHUNK_SIZE - rng.choice((0, 0, 7))) for n in range(250)]
    files = [(ino, max(length, 0)) for ino, length in files]
    expected = []

    def put(tx: Transaction, ino: int, present: set[int]) -> None:
        for indx in present:
            tx.put_chunk(ino, indx, encode_slices([Slice(0, ino, 4096, 0, 4096)]))

    for ino, length in files:
        end = -(-length // CHUNK_SIZE)
        share = rng.choice((0.0, 0.3, 1.0, 1.0))
        present = {indx for indx in range(end) if rng.random() < share}
        if rng.random() < 0.4:  # left behind by truncations
            present |= {end + rng.randrange(40) for _ in range(rng.randrange(3))}
        client.engine.transact(lambda tx, ino=ino, present=present: put(tx, ino, present))  # type: ignore[misc]
        expected += [(ino, indx) for indx in found_by_definition(present, length)]
    removed = [DeletedFile(ino, length, 1) for ino, length in files]
    assert client.engine.remaining_chunks(removed) == expected
    assert client.engine.remaining_chunks([]) == []
    client.shutdown()


def test_whole_files_and_empty_ones_are_looked_at_in_one_round_trip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(new_engine("redis", tmp_path))
    files = removed_files(client, 60) + [DeletedFile(5000 + n, n << 26, 1) for n in range(40)]
    link, asked = client.engine._link, []  # type: ignore[attr-defined]
    exchange = link.exchange
    monkeypatch.setattr(link, "exchange", lambda commands: (asked.append(len(commands)), exchange(commands))[1])
    assert client.engine.remaining_chunks(files) == [(file.ino, 0) for file in files[:60]]
    assert asked == [200]
    client.shutdown()
