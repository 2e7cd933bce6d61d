"""Faults that a review of the metadata room has found, each kept as a test."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from clients import ENGINES, Client, new_engine

from meta import jobs
from meta.acl import Rule
from meta.client import Changes, MetaClient, SessionInfo
from meta.config import MetaConfig
from meta.engine import Engine
from meta.errors import OutcomeUnknown, Refused, SettingError
from meta.jobs import clean_delayed, clean_files, clean_sessions, clean_trash
from meta.open_files import OpenFiles
from meta.rules import tree
from meta.rules.check import check
from meta.rules.format import _create
from meta.setting import Setting
from meta.slices import Piece
from meta.transaction import Delayed, DeletedFile, DirItem, Quota, Transaction
from meta.types import DIRECTORY, FLAG_IMMUTABLE, ROOT, SET_FLAG, SUPERUSER, TRASH, Dirent


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


def test_two_formats_at_once_make_one_volume(engine: Engine) -> None:
    """The slower one must not begin numbering again, nor replace the setting of the volume in use."""
    stored = engine.reader.setting()
    taken = engine.allocate("nextInode", 1024)
    assert _create(engine, Setting(name="late", uuid="1a7e")) == stored == engine.reader.setting()
    assert engine.allocate("nextInode", 1).start == taken.stop


def test_a_lost_inode_of_the_hour_does_not_stop_removals(engine: Engine, client: Client) -> None:
    """The entry of the hourly directory without its inode: unlink looked for it without end."""
    ino = client.file(b"a")
    client.unlink(SUPERUSER, ROOT, b"a")
    hour = client.vol.trash_hour[1]
    engine.transact(lambda tx: tx.delete_attr(hour))
    client.engine.transact(lambda tx: tx.add_usage(-4096, -1))
    client.file(b"b")
    client.unlink(SUPERUSER, ROOT, b"b")
    attr = client.getattr(hour)
    assert attr.is_dir and attr.parent == TRASH and client.getattr(ino).parent == hour
    assert check(engine) == []


def age_trash(client: Client, engine: Engine, hours: int) -> None:
    """Make the current hour of the trash look as if it were older."""
    name, ino = client.vol.trash_hour
    old = time.strftime("%Y-%m-%d-%H", time.gmtime(time.time() - hours * 3600)).encode()

    def body(tx: Transaction) -> None:
        tx.delete_entry(TRASH, name)
        tx.put_entry(TRASH, old, Dirent(DIRECTORY, ino))

    engine.transact(body)
    client.vol.trash_hour = (b"", 0)


def test_an_immutable_file_does_not_keep_the_trash_from_expiring(engine: Engine, client: Client) -> None:
    """A file may become immutable through a name that it has outside of the trash."""
    for hours, name in ((100, b"1"), (50, b"2")):
        ino = client.file(name)
        client.link(SUPERUSER, ino, ROOT, b"other" + name)
        client.unlink(SUPERUSER, ROOT, name)
        client.setattr(SUPERUSER, ino, Changes(valid=SET_FLAG, flags=FLAG_IMMUTABLE))
        age_trash(client, engine, hours)
    clean_trash(client.vol, client.deleter, lambda: False)
    assert engine.reader.list_entries(TRASH).items == []
    assert client.lookup(SUPERUSER, ROOT, b"other1")[1].nlink == 1
    assert check(engine) == []


def test_emptying_the_trash_stops_when_told(engine: Engine, client: Client) -> None:
    """A client that ends does not wait until a million files are gone."""
    for k in range(600):
        client.file(b"%d" % k)
        client.unlink(SUPERUSER, ROOT, b"%d" % k)
    hour = client.vol.trash_hour[1]
    age_trash(client, engine, 100)
    clean_trash(client.vol, client.deleter, lambda: True)
    left = len(engine.reader.list_entries(hour).items)
    assert 0 < left < 600
    assert check(engine) == []


def test_jobs_hold_few_records_at_once(engine: Engine, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every removed file and every replaced slice of the volume."""
    monkeypatch.setattr(jobs, "_FILES_PAGE", 3)
    monkeypatch.setattr(jobs, "_DELAYED_PAGE", 2)
    pages: list[int] = []
    for call in ("deleted_files", "delayed_slices"):
        real = getattr(engine, call)

        def counted(before: int, limit: int = -1, real: Any = real) -> Any:
            pages.append(len(found := real(before, limit)))
            return found

        monkeypatch.setattr(engine, call, counted)
    long_ago = int(time.time()) - 40 * 86400

    def body(tx: Transaction) -> None:
        for k in range(10):
            tx.put_deleted_file(DeletedFile(1000 + k, 0, long_ago))
            tx.new_slice(5000 + k, 10)
            tx.put_delayed(Delayed(6000 + k, long_ago, ((5000 + k, 10),)))

    engine.transact(body)
    clean_files(client.vol, client.deleter, lambda: False)
    clean_delayed(client.vol, client.deleter, lambda: False)
    assert client.deleter.drain(10)
    assert pages == [3, 3, 3, 1, 2, 2, 2, 2, 2, 0]
    assert check(engine) == []
    assert sorted(client.store.deleted) == list(range(5000, 5010))


def test_a_session_that_came_back_is_not_cleaned(
    engine: Engine, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cleaning many dead sessions takes time; one that refreshes its record meanwhile keeps its locks."""
    other = Client(engine)
    ino = client.file(b"f")
    other.flock(SUPERUSER, ino, 1, fcntl.F_WRLCK)
    monkeypatch.setattr(engine, "stale_sessions", lambda now, limit: [other.sid])
    clean_sessions(client.vol, client.deleter, lambda: False)
    with pytest.raises(Refused):
        client.flock(SUPERUSER, ino, 2, fcntl.F_WRLCK)
    assert engine.reader.session(other.sid) is not None
    other.close_session()


def test_xattrs_of_a_file_without_names_end_with_it(engine: Engine, client: Client) -> None:
    """Those set through a descriptor after the unlink were left behind."""
    ino, _ = client.create(SUPERUSER, ROOT, b"f", 0o644, 0, os.O_RDWR)
    client.unlink(SUPERUSER, ROOT, b"f", skip_trash=True)
    client.setxattr(SUPERUSER, ino, b"user.late", b"1")
    client.close(ino)
    assert engine.reader.attr(ino) is None and engine.reader.xattrs(ino) == {}


def test_a_repeated_commit_of_a_slice_counts_it_again(tmp_path: Path) -> None:
    """After a lost answer: the record stands twice in the chunk, and what others added to the count stays."""
    engine = new_engine("sqlite3", tmp_path)
    client = Client(engine)
    a, b = client.file(b"a"), client.file(b"b")
    slice_id = client.write(a, 0, 100)
    client.copy_file_range(SUPERUSER, a, 0, b, 0, 100)
    client.write_slice(a, 0, 0, slice_id, 100, client.vol.now())
    assert check(engine) == []
    client.close_session()
    engine.close()


def test_quota_set_since_the_last_heartbeat_goes_with_its_directory(engine: Engine, client: Client) -> None:
    ino, _ = client.mknod(SUPERUSER, ROOT, b"d", DIRECTORY, 0o755, 0)
    engine.transact(lambda tx: tx.put_quota("dir", ino, Quota(-1, 10, 0, 0)))
    client.rmdir(SUPERUSER, ROOT, b"d")
    assert engine.reader.quota("dir", ino) is None and check(engine) == []


def test_paths_of_a_very_deep_directory(client: Client) -> None:
    """Deeper than Python's stack."""
    parent, names = ROOT, []
    for k in range(1200):
        names.append(b"%d" % k)
        parent, _ = client.mknod(SUPERUSER, parent, names[-1], DIRECTORY, 0o755, 0)
    ino = client.file(b"f", parent)
    client.link(SUPERUSER, ino, ROOT, b"g")
    deep = b"/" + b"/".join(names)
    assert client.paths(parent) == [deep]
    assert sorted(client.paths(ino)) == sorted([deep + b"/f", b"/g"])


def test_kept_chunk_lists_of_an_open_file_are_bounded() -> None:
    """A file of many terabytes that is read from end to end."""
    files = OpenFiles()
    files.hold(2)
    for indx in range(5000):
        files.keep_chunk(2, indx, [Piece(1, 1, 0, 1)], files.version(2))
    kept = [indx for indx in range(5000) if files.chunk(2, indx) is not None]
    assert kept == list(range(5000 - len(kept), 5000)) and len(kept) == 1024


def test_open_cache_sees_links_come_and_go(engine: Engine) -> None:
    """Attributes that are believed for a while, but not against what this client itself does."""
    client = Client(engine, open_cache_s=60.0)
    ino, _ = client.create(SUPERUSER, ROOT, b"f", 0o644, 0, os.O_RDWR)
    assert client.getattr(ino).nlink == 1
    assert client.link(SUPERUSER, ino, ROOT, b"g").nlink == 2 == client.getattr(ino).nlink
    client.unlink(SUPERUSER, ROOT, b"g", skip_trash=True)
    assert client.getattr(ino).nlink == 1
    client.set_acl(SUPERUSER, ino, "access", Rule(7, 0, 5, 0, users=((5, 7),)))
    assert client.getattr(ino).mode == 0o750
    client.close(ino)
    client.close_session()


def test_a_session_that_cannot_begin_leaves_no_record(engine: Engine, client: Client) -> None:
    """`--subdir` that is a file: the record was left for others to clean."""
    client.file(b"f")
    before = len(engine.sessions())
    broken = MetaClient(engine, MetaConfig(subdir="f"))
    with pytest.raises(SettingError):
        broken.new_session(SessionInfo("/x"))
    assert len(engine.sessions()) == before


def test_two_removals_of_one_tree(engine: Engine, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that somebody else removes while its names are read is no failure."""
    top, _ = client.mknod(SUPERUSER, ROOT, b"top", DIRECTORY, 0o755, 0)
    below, _ = client.mknod(SUPERUSER, top, b"below", DIRECTORY, 0o755, 0)
    client.file(b"f", below)
    client.file(b"g", top)
    real = engine.reader.list_entries

    def meanwhile(ino: int) -> list[DirItem]:
        items = real(ino).items
        if ino == below and items:
            client.unlink(SUPERUSER, below, b"f")
            client.rmdir(SUPERUSER, top, b"below")
        return items

    monkeypatch.setattr(tree, "entries", lambda reader, ino: iter([meanwhile(ino)]))
    client.remove_tree(SUPERUSER, ROOT, b"top")
    assert client.list_dir(SUPERUSER, ROOT, False).items == [] and check(engine) == []


def test_a_clone_whose_end_is_unknown_is_not_removed(
    engine: Engine, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer of the last commit is lost: the tree may have its name, and people may work in it."""
    source, _ = client.mknod(SUPERUSER, ROOT, b"source", DIRECTORY, 0o755, 0)
    client.write(client.file(b"f", source), 0, 100)
    real = engine.transact

    def lossy(body: Callable[[Transaction], Any]) -> Any:
        done = real(body)
        if engine.reader.entry(ROOT, b"copy") is not None:
            raise OutcomeUnknown("the connection broke")
        return done

    monkeypatch.setattr(engine, "transact", lossy)
    with pytest.raises(OutcomeUnknown):
        client.clone(SUPERUSER, source, ROOT, b"copy", 0, 0o22)
    monkeypatch.undo()
    copy, _ = client.lookup(SUPERUSER, ROOT, b"copy")
    assert [item.name for item in client.list_dir(SUPERUSER, copy, False).items] == [b"f"]
    assert check(engine) == []
