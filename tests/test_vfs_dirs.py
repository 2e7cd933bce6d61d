"""Listings: offsets, pages, and directories that change while they are listed."""

from __future__ import annotations

import errno
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from vfs_harness import CALLER, ROOT, Client, Sink, errno_from, world

from meta.config import MetaConfig
from meta.transaction import Cursor, DirPage
from meta.types import Caller as MetaCaller

INTERNAL = [b".accesslog", b".stats", b".config", b".trash", b".", b".."]


@pytest.fixture(params=["mem", "sqlite"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Client]:
    with world(request.param, tmp_path) as made:
        yield made.client()


def test_root_lists_internal_files_first_and_never_control(client: Client) -> None:
    client.create(b"a").close()
    assert client.names() == [*INTERNAL, b"a"]
    assert client.names(plus=True) == [*INTERNAL, b"a"]
    assert client.lookup(b".control").stat.mode == stat.S_IFREG | 0o666
    assert client.lookup(b".trash").stat.mode == stat.S_IFDIR | 0o555
    folder = client.mkdir(b"d")
    assert client.lookup(b".control", folder).stat.ino == client.lookup(b".control").stat.ino
    assert errno_from(lambda: client.lookup(b".stats", folder))


def test_a_mounted_subdirectory_shows_nothing_of_the_trash(tmp_path: Path) -> None:
    """It holds what was removed anywhere in the volume; `.trash` is a name like any other there."""
    with world("mem", tmp_path, trash_days=1) as made:
        whole = made.client()
        whole.create(b"secret").close()
        whole.unlink(b"secret")
        assert whole.names(whole.ino(b".trash"))[2:]
        below = made.client(meta=MetaConfig(no_bgjob=True, subdir="/sub"))
        assert errno_from(lambda: below.lookup(b".trash")) == errno.ENOENT
        folder = below.mkdir(b".trash")
        assert below.ino(b".trash") == folder
        assert b".trash" in below.names()
        below.vfs.rmdir(CALLER, ROOT, b".trash")


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("room", [1, 7, 300])
def test_every_entry_once_whatever_the_size_of_replies(client: Client, plus: bool, room: int) -> None:
    folder = client.mkdir(b"d")
    names = [b"%04d" % k for k in range(700)]
    for name in names:
        client.vfs.mknod(CALLER, folder, name, stat.S_IFREG | 0o600, 0, 0)
    found = client.names(folder, plus=plus, room=room)
    assert found[:2] == [b".", b".."]
    assert sorted(found[2:]) == names


@pytest.mark.parametrize("plus", [False, True])
def test_removing_while_listing_misses_nothing(client: Client, plus: bool) -> None:
    """As rm -r and rsync --delete do: each reply's entries are removed before the next reply is asked for."""
    folder = client.mkdir(b"d")
    names = {b"%04d" % k for k in range(900)}
    for name in names:
        client.vfs.mknod(CALLER, folder, name, stat.S_IFREG | 0o600, 0, 0)
    fh = client.vfs.opendir(CALLER, folder, 0).fh
    seen: list[bytes] = []
    offset = 0
    while True:
        sink = Sink(50)
        (client.vfs.readdirplus if plus else client.vfs.readdir)(CALLER, folder, fh, offset, sink)
        if not sink.rows:
            break
        for name, _, offset in sink.rows:  # noqa: B007 (the last one resumes)
            if name not in (b".", b".."):
                seen.append(name)
                client.unlink(name, folder)
    client.vfs.releasedir(CALLER, folder, fh)
    assert len(seen) == len(set(seen)) and set(seen) == names
    client.vfs.rmdir(CALLER, ROOT, b"d")


def test_a_removed_name_is_not_listed_again(client: Client) -> None:
    folder = client.mkdir(b"d")
    for k in range(20):
        client.create(b"%02d" % k, folder).close()
    fh = client.vfs.opendir(CALLER, folder, 0).fh
    first = Sink(5)
    client.vfs.readdirplus(CALLER, folder, fh, 0, first)
    client.unlink(b"15", folder)
    client.vfs.rename(CALLER, folder, b"16", folder, b"99", 0)
    rest = Sink(100)
    client.vfs.readdirplus(CALLER, folder, fh, first.rows[-1][2], rest)
    names = [row[0] for row in rest.rows]
    assert b"15" not in names and b"16" not in names and b"17" in names
    client.vfs.releasedir(CALLER, folder, fh)


def test_attributes_changed_after_the_page_was_read_are_not_given_out(client: Client) -> None:
    folder = client.mkdir(b"d")
    for k in range(10):
        client.create(b"%d" % k, folder).close()
    fh = client.vfs.opendir(CALLER, folder, 0).fh
    first = Sink(4)
    client.vfs.readdirplus(CALLER, folder, fh, 0, first)
    file = client.open(client.ino(b"d", b"7"))
    file.write(0, b"12345")
    pending = Sink(100)
    client.vfs.readdirplus(CALLER, folder, fh, first.rows[-1][2], pending)
    assert pending.entries[b"7"].stat.size == 5 if b"7" in pending.entries else True
    file.close()
    committed = Sink(100)
    client.vfs.readdirplus(CALLER, folder, fh, first.rows[-1][2], committed)
    assert b"7" not in committed.entries and b"7" in [row[0] for row in committed.rows]
    client.vfs.releasedir(CALLER, folder, fh)


def test_seek_back_and_rewind(client: Client) -> None:
    folder = client.mkdir(b"d")
    for k in range(600):
        client.vfs.mknod(CALLER, folder, b"%04d" % k, stat.S_IFREG | 0o600, 0, 0)
    fh = client.vfs.opendir(CALLER, folder, 0).fh
    whole = Sink(10_000)
    client.vfs.readdir(CALLER, folder, fh, 0, whole)
    for row in (599, 300, 255, 258, 3, 0):
        part = Sink(10)
        client.vfs.readdir(CALLER, folder, fh, row, part)
        assert part.rows == whole.rows[row : row + 10]
    client.create(b"new", folder).close()
    again = Sink(10_000)
    client.vfs.readdir(CALLER, folder, fh, 0, again)
    assert b"new" in [row[0] for row in again.rows]
    client.vfs.releasedir(CALLER, folder, fh)


@pytest.mark.parametrize("sort_dir", [False, True])
@pytest.mark.parametrize("paged", [False, True])
def test_sort_dir_is_for_engines_that_do_not_list_by_name(
    tmp_path: Path, sort_dir: bool, paged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world("mem", tmp_path) as made:
        client = made.client(meta=MetaConfig(no_bgjob=True, sort_dir=sort_dir))
        folder = client.mkdir(b"d")
        names = [b"c", b"a", b"d", b"b"]
        for name in names:
            client.create(name, folder).close()
        real = client.vfs.meta.list_dir

        def by_hash(who: MetaCaller, ino: int, plus: bool, cursor: Cursor = None, limit: int = -1) -> DirPage:
            found = {item.name: item for item in real(who, ino, plus).items}
            items = [found[name] for name in names]
            if not paged or limit < 0:
                return DirPage(items, None)
            at = cursor if isinstance(cursor, int) else 0
            return DirPage(items[at : at + 2], at + 2 if at + 2 < len(items) else None)

        monkeypatch.setattr(client.vfs.meta, "list_dir", by_hash)
        assert client.names(folder, room=1)[2:] == (sorted(names) if sort_dir else names)


def test_ten_thousand_entries_are_quick(tmp_path: Path) -> None:
    with world("sqlite", tmp_path) as made:
        client = made.client()
        folder = client.mkdir(b"d")
        for k in range(10_000):
            client.vfs.mknod(CALLER, folder, b"name-%06d" % k, stat.S_IFREG | 0o600, 0, 0)
        began = time.perf_counter()
        assert len(client.names(folder, plus=True, room=30)) == 10_002
        assert time.perf_counter() - began < 5.0  # about 0.3 s on an idle machine
