"""Listings of directories in Redis, which follow the slots of a hash table and not the names."""

from __future__ import annotations

from pathlib import Path

import pytest
from clients import Client, check_sound, new_engine

from meta.rules.repair import count_entries
from meta.rules.summary import summarize
from meta.transaction import Cursor, DirPage
from meta.types import DIRECTORY, ROOT, SUPERUSER


def test_a_name_that_a_listing_shows_twice_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis may list a name again, a page later, while the table of a directory shrinks."""
    client = Client(new_engine("redis", tmp_path))
    folder, _ = client.mknod(SUPERUSER, ROOT, b"folder", DIRECTORY, 0o755, 0)
    below, _ = client.mknod(SUPERUSER, folder, b"below", DIRECTORY, 0o755, 0)
    for parent, name in ((folder, b"a"), (folder, b"b"), (below, b"c")):
        client.write(client.file(name, parent), 0, 10)
    whole = client.reader.list_entries

    def twice(ino: int, *, plus: bool = False, cursor: Cursor = None, limit: int = -1) -> DirPage:
        items = whole(ino, plus=plus).items
        at = cursor if isinstance(cursor, int) else 0
        return DirPage(items[max(at - 1, 0) : at + 1], at + 1 if at + 1 < len(items) else None)

    monkeypatch.setattr(client.reader, "list_entries", twice)
    client.clone(SUPERUSER, folder, ROOT, b"copy", 0, 0)
    assert count_entries(client.reader, folder).stat == client.reader.dir_stat(folder)
    assert summarize(client.reader, client.vol, folder, strict=True).files == 3
    monkeypatch.undo()
    check_sound(client.engine)
    client.shutdown()
