"""Listings: offsets, pages, and directories that change while they are listed."""

from __future__ import annotations

import errno
import random
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from vfs_harness import CALLER, ROOT, Client, Sink, changes, errno_from, world

from fuse import abi
from fuse.reply import Listing
from juicefs_py import vfs_dirs
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


@pytest.mark.parametrize("size", [400, 4096, 1 << 20])
def test_many_entries_of_a_page_at_once_are_those_one_by_one(
    client: Client, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte for byte, from any offset: what is taken from columns, and what each entry has to say for itself."""
    rng = random.Random(size)
    folder = client.mkdir(b"d")
    for k in range(300):
        name, kind = rng.randbytes(rng.randrange(4, 100)).hex().encode(), rng.choice((stat.S_IFREG, stat.S_IFIFO))
        if k % 10 == 0:
            client.mkdir(name, folder)
        else:
            client.vfs.mknod(CALLER, folder, name, kind | rng.randrange(0o1000), 0, 0)
    vfs = client.vfs
    vfs.config = replace(vfs.config, entry_timeout_s=1.5, dir_entry_timeout_s=0.25, attr_timeout_s=3)
    monkeypatch.setattr(vfs_dirs, "BELIEVED_S", 3600.0)
    vfs._changed.clear()
    fh = vfs.opendir(CALLER, folder, 0).fh

    def replies(offset: int) -> list[bytes]:
        """The same reply in both ways."""
        found = []
        for knows_better in (lambda inos, read_at: False, lambda inos, read_at: True):
            monkeypatch.setattr(vfs, "_knows_better", knows_better)
            sink = Listing(size, plus=True)
            vfs.readdirplus(CALLER, folder, fh, offset, sink)
            found.append(bytes(sink.payload))
        return found

    offset, seen = 0, 0
    while True:
        together, one_by_one = replies(offset)
        assert together == one_by_one
        if not together:
            break
        at = 0
        while at < len(together):
            head = abi.fuse_direntplus.unpack_from(together, at)
            assert head[-3] == offset + 1  # and each offset is where the listing may go on
            offset, seen = head[-3], seen + 1
            at += abi.fuse_direntplus.size + (head[-2] + 7 & ~7)
    assert seen == 302
    for at in rng.sample(range(303), 20):
        together, one_by_one = replies(at)
        assert together == one_by_one and bool(together) == (at < 302)
    vfs.releasedir(CALLER, folder, fh)


def test_what_the_mount_knows_better_is_not_taken_from_a_page(client: Client) -> None:
    """A file that is open, one that was changed: the others of the same reply have their attributes all the same."""
    folder = client.mkdir(b"d")
    for k in range(30):
        client.create(b"%02d" % k, folder).close()
    client.vfs._changed.clear()
    fh = client.vfs.opendir(CALLER, folder, 0).fh
    client.vfs.readdirplus(CALLER, folder, fh, 0, Sink(3))  # the page is read
    file = client.open(client.ino(b"d", b"07"))
    file.write(0, b"12345")
    client.vfs.setattr(CALLER, client.ino(b"d", b"08"), changes(mode=0o600))
    sink = Sink(100)
    client.vfs.readdirplus(CALLER, folder, fh, 3, sink)
    assert len(sink.rows) == 29
    assert sink.entries[b"07"].stat.size == 5 and b"08" not in sink.entries
    assert {b"06", b"09"} < sink.entries.keys()
    file.close()
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
