"""What follows from removals, many at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from clients import Client, new_engine

from meta.transaction import DeletedFile


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
