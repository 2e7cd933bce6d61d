"""Sessions and the jobs that clean up behind them: what a crash leaves is undone once, by anybody, on every engine."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from clients import ENGINES, SHORT, Client, FakeStore, check_sound, new_engine

from meta import jobs
from meta.config import MetaConfig
from meta.engine import Engine
from meta.errors import NotFormatted, Refused, SettingError
from meta.plock import READ, WRITE, Plock
from meta.rules import clone as cloning
from meta.rules.sessions import rfc3339
from meta.setting import Setting
from meta.transaction import SessionRecord
from meta.types import DIRECTORY, ROOT, SUPERUSER, TRASH

DAY = 86400


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    engine = new_engine(request.param, tmp_path)
    yield engine
    engine.close()


def never() -> bool:
    return False


def later(client: Client, seconds: int) -> None:
    """Let this client's clock run ahead."""
    start = client.vol.now()
    client.vol.now = lambda: (start[0] + seconds, start[1])  # type: ignore[method-assign]


def test_a_session_describes_itself(engine: Engine) -> None:
    client = Client(engine)
    record = engine.reader.session(client.sid)
    assert record is not None and client.vol.now()[0] < record.expire <= client.vol.now()[0] + 61
    info = json.loads(record.info)
    assert list(info) == ["Version", "HostName", "MountPoint", "MountTime", "ProcessID"]
    assert info["Version"].startswith("1.4.1") and info["MountPoint"] == "/test" and info["ProcessID"] == os.getpid()
    other = Client(engine)
    assert other.sid != client.sid and len(engine.sessions()) == 2
    client.close_session()
    other.close_session()
    assert engine.sessions() == []


def test_the_heartbeat_brings_back_a_session_taken_for_dead(engine: Engine) -> None:
    client, other = Client(engine), Client(engine)
    sid = client.sid
    later(other, 1000)
    jobs.clean_sessions(other.vol, other.deleter, never)
    assert engine.reader.session(sid) is None and engine.reader.session(other.sid) is not None
    client.refresh_session()
    assert engine.reader.session(sid) is not None
    client.close_session()
    other.close_session()


def test_a_dead_session_loses_its_locks_and_its_open_files(engine: Engine) -> None:
    """Files without links that it held open go, with their data, exactly once; other sessions keep theirs."""
    store = FakeStore()
    dead, client = Client(engine, store), Client(engine, store)
    ino, _ = dead.create(SUPERUSER, ROOT, b"f", 0o644, 0, os.O_RDWR)
    slice_id = dead.write(ino, 0, 5000)
    dead.unlink(SUPERUSER, ROOT, b"f")
    kept = dead.file(b"kept")
    dead.flock(SHORT, kept, 1, READ)
    client.flock(SHORT, kept, 1, READ)
    dead.setlk(SHORT, kept, 1, Plock(WRITE, 1, 0, 9))
    assert engine.stale_sessions(client.vol.now()[0], 10) == []
    later(client, 1000)
    assert dead.sid in engine.stale_sessions(client.vol.now()[0], 10)
    jobs.clean_sessions(client.vol, client.deleter, never)
    assert list(engine.reader.flocks(kept)) == [(client.sid, 1)] and not engine.reader.plocks(kept)
    assert engine.reader.attr(ino) is None and engine.reader.sustained(dead.sid) == []
    assert client.deleter.drain(5) and store.deleted == {slice_id: 1}
    check_sound(engine)
    client.close_session()
    dead.close(ino)  # it was not dead after all: nothing more to do
    dead.close_session()
    assert store.deleted == {slice_id: 1}
    check_sound(engine)


def test_the_end_of_a_session_ends_its_open_files(engine: Engine) -> None:
    client = Client(engine)
    ino, _ = client.create(SUPERUSER, ROOT, b"f", 0o644, 0, os.O_RDWR)
    slice_id = client.write(ino, 0, 5000)
    client.unlink(SUPERUSER, ROOT, b"f")
    client.flock(SHORT, ino, 1, WRITE)
    client.close_session()
    assert engine.reader.attr(ino) is None and client.store.deleted == {slice_id: 1}
    assert engine.sessions() == [] and not engine.reader.flocks(ino)
    check_sound(engine)


def test_a_read_only_client_has_no_session_and_writes_nothing(engine: Engine) -> None:
    writer = Client(engine)
    ino = writer.file(b"f")
    client = Client(engine, read_only=True, atime_mode="strictatime")
    assert client.sid == 0 and len(engine.sessions()) == 1
    for attempt in (
        lambda: client.unlink(SUPERUSER, ROOT, b"f"),
        lambda: client.truncate(SUPERUSER, ino, 5),
        lambda: client.open(SUPERUSER, ino, os.O_RDWR),
        lambda: client.flock(SHORT, ino, 1, WRITE),
        lambda: client.new_slice_id(),
        lambda: client.remove_tree(SUPERUSER, ROOT, b"f"),
        lambda: client.compact_chunk(ino, 0),
    ):
        with pytest.raises(Refused, check=lambda e: e.errno == errno.EROFS):
            attempt()
    assert client.open(SUPERUSER, ino, os.O_RDONLY).attr.length == 0
    client.refresh_session()
    client.run_jobs(never)
    client.close(ino)
    client.close_session()
    writer.close_session()


def test_a_changed_setting_arrives_with_the_heartbeat(engine: Engine) -> None:
    client = Client(engine)
    told: list[Setting] = []
    client.on_setting.append(told.append)
    client.refresh_session()
    assert told == []
    stored = Setting.parse(engine.reader.setting() or b"")
    engine.transact(lambda tx: tx.put_setting(replace(stored, trash_days=9).to_json().encode()))
    client.refresh_session()
    assert client.setting.trash_days == 9 and told == [client.setting]
    engine.transact(lambda tx: tx.put_setting(replace(stored, uuid="another").to_json().encode()))
    with pytest.raises(SettingError, match="UUID changed"):
        client.refresh_session()
    engine.transact(lambda tx: tx.put_setting(replace(stored, meta_version=2).to_json().encode()))
    with pytest.raises(SettingError, match="metadata version"):
        client.refresh_session()
    engine.reset()
    with pytest.raises(NotFormatted):
        client.refresh_session()


def test_a_volume_with_a_change_log_is_not_written(engine: Engine) -> None:
    stored = Setting.parse(engine.reader.setting() or b"")
    engine.transact(lambda tx: tx.put_setting(replace(stored, change_log=True).to_json().encode()))
    with pytest.raises(SettingError, match="read-only"):
        Client(engine)
    assert Client(engine, read_only=True).sid == 0


def test_a_client_may_call_a_directory_its_root(engine: Engine) -> None:
    """Missing components are made; names and ".." are seen from there, the trash is not."""
    client = Client(engine, subdir="/a/b")
    whole = Client(engine)
    ino = client.file(b"f")
    assert whole.resolve(SUPERUSER, b"/a/b/f")[0] == ino
    top, attr = client.lookup(SUPERUSER, ROOT, b"..")
    assert top == ROOT and attr.mode == 0o777 and attr.uid == 0
    assert client.lookup(SUPERUSER, ROOT, b".")[0] == ROOT
    below, _ = client.mknod(SUPERUSER, ROOT, b"d", DIRECTORY, 0o755, 0)
    assert client.lookup(SUPERUSER, below, b"..")[0] == ROOT
    assert client.getattr(ROOT) == whole.getattr(client.root)
    assert client.paths(ino) == [b"/f"] and whole.paths(ino) == [b"/a/b/f"]
    with pytest.raises(Refused, check=lambda e: e.errno == errno.ENOENT):
        client.lookup(SUPERUSER, ROOT, b".trash")
    again = Client(engine, subdir="./a//b/.")
    with pytest.raises(SettingError, match=r"must not contain \.\."):
        Client(engine, subdir="a/../b")
    assert again.root == client.root
    with pytest.raises(SettingError, match="not a directory"):
        Client(engine, subdir="a/b/f")
    assert Client(engine, subdir="/a/b", read_only=True).root == client.root
    with pytest.raises(SettingError, match="subdir: /a/c does not exist; create it with a mount that may write"):
        Client(engine, subdir="/a/c", read_only=True)


def test_files_that_nobody_finished_deleting(engine: Engine) -> None:
    """A client that died between unlink and deletion leaves a record; after an hour any client does the rest."""
    store = FakeStore()
    gone = Client(engine, store)
    gone.deleter.store = None  # it dies before it comes to that
    ino = gone.file(b"f")
    slices = {gone.write(ino, n << 26, 100) for n in range(3)}
    gone.unlink(SUPERUSER, ROOT, b"f")
    client = Client(engine, store)
    jobs.clean_files(client.vol, client.deleter, never)
    assert client.deleter.drain(5) and not store.deleted
    later(client, 3700)
    jobs.clean_files(client.vol, client.deleter, never)
    assert client.deleter.drain(5) and set(store.deleted) == slices
    assert engine.deleted_files(1 << 40, 10) == [] and not list(engine.list_slices())
    assert not list(engine.list_slice_refs())
    client.close_session()


def test_slices_whose_objects_could_not_be_deleted(engine: Engine) -> None:
    """The record stays until the objects are really gone."""
    client = Client(engine)
    client.store.fail = True
    ino = client.file(b"f")
    slice_id = client.write(ino, 0, 100)
    client.unlink(SUPERUSER, ROOT, b"f")
    assert client.deleter.drain(5)
    assert list(engine.dead_slices()) == [(slice_id, 100)]
    client.store.fail = False
    jobs.clean_slices(client.vol, client.deleter, never)
    assert client.deleter.drain(5) and client.store.deleted == {slice_id: 1}
    assert list(engine.dead_slices()) == []
    client.close_session()


def test_clones_that_nobody_finished_are_removed_after_a_day(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that dies while it clones a tree leaves one without a name."""
    client = Client(engine)
    directory, _ = client.mknod(SUPERUSER, ROOT, b"d", DIRECTORY, 0o755, 0)
    ino = client.file(b"f", directory)
    slice_id = client.write(ino, 0, 100)
    with monkeypatch.context() as patch:
        patch.setattr(cloning, "_attach", lambda *_: 1 // 0)
        patch.setattr(cloning, "remove_detached", lambda *_: None)
        with pytest.raises(ZeroDivisionError):
            client.clone(SUPERUSER, directory, ROOT, b"copy", 0, 0)
    jobs.clean_files(client.vol, client.deleter, never)
    assert len(engine.detached(1 << 40)) == 1
    store, client.deleter.store = client.deleter.store, None
    gone = client.file(b"gone")
    client.write(gone, 0, 100)
    client.unlink(SUPERUSER, ROOT, b"gone")  # a removed file that is left: it keeps nothing from being cleaned
    client.deleter.store = store
    later(client, DAY + 60)
    jobs.clean_files(client.vol, client.deleter, never)
    assert client.deleter.drain(5) and not engine.detached(1 << 40)
    assert engine.reader.counter("totalInodes") == 2 and engine.reader.slice_refs(slice_id, 100) == 1
    check_sound(engine, client.store.deleted)
    client.close_session()


@pytest.mark.parametrize("max_deletes", [0, -1])
def test_a_client_with_max_deletes_0_deletes_no_objects(engine: Engine, max_deletes: int) -> None:
    client = Client(engine, max_deletes=max_deletes)
    ino = client.file(b"f")
    slice_id = client.write(ino, 0, 100)
    client.unlink(SUPERUSER, ROOT, b"f")
    client.close_session()
    assert list(engine.dead_slices()) == [(slice_id, 100)] and not client.store.deleted


def test_the_trash_is_emptied_by_age(engine: Engine) -> None:
    """Hours that are due go with all that is below them, and slices that compactions replaced go at the same age."""
    client = Client(engine)
    client.vol.setting = replace(client.vol.setting, trash_days=2)
    directory, _ = client.mknod(SUPERUSER, ROOT, b"d", DIRECTORY, 0o755, 0)
    ino = client.file(b"f", directory)
    slices = {client.write(ino, n * 10, 10) for n in range(3)}
    assert client.compact_chunk(ino, 0)
    (merged,) = client.store.merged
    client.remove_tree(SUPERUSER, ROOT, b"d")
    hour = client.list_dir(SUPERUSER, TRASH, False).items
    assert len(hour) == 1
    jobs.clean_trash(client.vol, client.deleter, never)
    later(client, DAY * 2 + 3600)
    jobs.clean_trash(client.vol, client.deleter, never)
    assert client.deleter.drain(5) and client.list_dir(SUPERUSER, TRASH, False).items == hour
    assert set(client.store.deleted) == slices  # these two hours less than those
    later(client, 3600 * 3)
    jobs.clean_trash(client.vol, client.deleter, never)
    assert client.deleter.drain(5) and client.list_dir(SUPERUSER, TRASH, False).items == []
    assert set(client.store.deleted) == slices | {merged}
    check_sound(engine, client.store.deleted)
    client.close_session()


def test_one_client_per_period_runs_a_job(engine: Engine) -> None:
    clients = [Client(engine), Client(engine)]
    ran: list[int] = []
    job = jobs.Job("lastCleanupFiles", 3600, lambda vol, deleter, stop: ran.append(vol.sid))
    tables = [jobs.Jobs(client.vol, client.deleter, (job,)) for client in clients]
    assert [table.run(job, never) for table in tables] == [True, False]
    later(clients[1], 3400)
    assert [table.run(job, never) for table in tables] == [False, True]
    assert ran == [client.sid for client in clients]
    for client in clients:
        client.close_session()


def test_jobs_wait_for_their_time_and_survive_their_errors(engine: Engine) -> None:
    client = Client(engine, heartbeat_s=0.05)
    ran: list[str] = []

    def fail(*_: object) -> None:
        ran.append("heartbeat")
        raise Refused(errno.EIO)

    rows = (
        jobs.Job("lastCleanupSessions", 0, fail),
        jobs.Job("lastCleanupFiles", 3600, lambda *_: ran.append("hourly")),
    )
    table = jobs.Jobs(client.vol, client.deleter, rows)
    table.run_due(never)
    assert ran == []
    later(client, 60)
    calls = iter(range(1000))
    while not ran and next(calls) < 999:
        table.run_due(never)
        time.sleep(0.001)
    assert ran == ["heartbeat"]
    client.close_session()


def test_a_session_record_is_what_was_put(engine: Engine) -> None:
    record = SessionRecord(77, 12345, b'{"Version":"1.4.1"}')
    engine.transact(lambda tx: tx.put_session(record))
    assert engine.reader.session(77) == record and MetaConfig().heartbeat_s == 12


@pytest.mark.parametrize(("text", "written"), [
    ("2026-11-26T16:59:46.682390+00:00", "2026-11-26T16:59:46.68239Z"),
    ("2026-11-26T16:59:46+08:00", "2026-11-26T16:59:46+08:00"),
    ("2026-11-26T16:59:46.100000-03:30", "2026-11-26T16:59:46.1-03:30"),
    ("2026-11-26T16:59:50+00:00", "2026-11-26T16:59:50Z"),
])  # fmt: skip
def test_times_are_written_as_go_does(text: str, written: str) -> None:
    assert rfc3339(datetime.fromisoformat(text)) == written
