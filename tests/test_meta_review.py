"""Faults that a review of the metadata room has found, each kept as a test by its name."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from clients import ENGINES, Client, new_engine

from meta.acl import Rule
from meta.transaction import Engine


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    engine = new_engine(request.param, tmp_path, trash_days=1, enable_acl=True)
    yield engine
    engine.close()


@pytest.fixture
def client(engine: Engine) -> Iterator[Client]:
    client = Client(engine)
    yield client
    client.close_session()


def test_absent_acl_entries_are_65535_for_official_clients(tmp_path: Path) -> None:
    """They read NULL as 0, that is, as a mask that forbids everything."""
    engine = new_engine("sqlite3", tmp_path)
    engine.intern_acl(Rule(owner=6, group=4, other=0))
    with closing(sqlite3.connect(tmp_path / "meta.db")) as database:
        assert database.execute("SELECT owner, `group`, mask, other FROM jfs_acl").fetchall() == [(6, 4, 65535, 0)]
    engine.close()
