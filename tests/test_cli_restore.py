"""`juicefs restore` on every engine: back to where it was, or trees rebuilt in the trash; again and again."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import ENGINES
from tended import Maker, Said, Tended, making
from vfs_harness import Client

from juicefs_py.maintenance import restore as restoring
from meta.rules.check import check
from meta.rules.trash import entry_name
from meta.types import MAX_NAME, SUPERUSER, TRASH

CONTENT = b"x" * 5000


@pytest.fixture
def make(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Maker]:
    with making(tmp_path, capsys) as maker:
        yield maker


@pytest.fixture(params=ENGINES)
def volume(request: pytest.FixtureRequest, make: Maker) -> Iterator[Tended]:
    """/keep/f, and /top with top/f, top/below/g, top/below/deep: all but /keep was removed, piece by piece."""
    made = make(request.param, trash_days=1, user_group_quota=True)
    with made.client() as client:
        top, keep = client.mkdir(b"top"), client.mkdir(b"keep")
        below = client.mkdir(b"below", top)
        client.mkdir(b"deep", below)
        for name, parent in ((b"f", top), (b"g", below), (b"f", keep)):
            file = client.create(name, parent)
            file.write(0, CONTENT)
            file.close()
        client.vfs.meta.unlink(SUPERUSER, keep, b"f")
        client.vfs.meta.remove_tree(SUPERUSER, 1, b"top")
    yield made
    assert check(made.engine) == []


def hour(volume: Tended) -> str:
    (item,) = volume.engine.reader.list_entries(TRASH).items
    return item.name.decode()


def trashed(volume: Tended) -> dict[bytes, int]:
    """What lies in the hour's directory, by the names that it had."""
    (item,) = volume.engine.reader.list_entries(TRASH).items
    return {each.name.split(b"-", 2)[2]: each.ino for each in volume.engine.reader.list_entries(item.ino).items}


def restore(volume: Tended, *words: str) -> Said:
    said = volume.run("restore", *words)
    assert said.code == 0
    return said


def all_back(volume: Tended) -> None:
    with volume.client() as client:
        for path in ((b"keep", b"f"), (b"top", b"f"), (b"top", b"below", b"g")):
            assert read(client, *path) == CONTENT
        assert client.names(client.ino(b"top", b"below", b"deep")) == [b".", b".."]
    assert trashed(volume) == {}


def read(client: Client, *path: bytes) -> bytes:
    file = client.open(client.ino(*path), os.O_RDONLY)
    try:
        return file.all()
    finally:
        file.close()


def test_everything_is_put_back(volume: Tended) -> None:
    said = restore(volume, hour(volume), "--put-back", "--threads", "3")
    assert said.texts("INFO")[-2:] == [
        f'restore files in "{hour(volume)}" ...',
        f"{hour(volume)}: 6 restored, 0 need --put-back, 0 conflicts, 0 failed",
    ]
    assert said.complaints() == []
    all_back(volume)


def test_trees_are_rebuilt_in_the_trash_first(volume: Tended) -> None:
    assert restore(volume, hour(volume)).last().endswith(": 4 rebuilt, 2 need --put-back, 0 conflicts, 0 failed")
    assert set(trashed(volume)) == {b"top", b"f"}
    again = restore(volume, hour(volume))
    assert again.last().endswith(": 0 rebuilt, 2 need --put-back, 0 conflicts, 0 failed")
    restore(volume, hour(volume), "--put-back")
    all_back(volume)


def test_interrupted_and_run_again(volume: Tended, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever one run has done, the next one does the rest, also where a parent was moved already."""
    original = restoring.Restoring._restore
    done: list[bytes] = []

    def stumbling(self: restoring.Restoring, name: bytes) -> int:
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(name)
        return original(self, name)

    for words in ((), ("--put-back",)):
        done.clear()
        monkeypatch.setattr(restoring.Restoring, "_restore", stumbling)
        with pytest.raises(KeyboardInterrupt):
            run_interrupted(volume, *words)
        monkeypatch.setattr(restoring.Restoring, "_restore", original)
        restore(volume, hour(volume), *words)
    all_back(volume)


def run_interrupted(volume: Tended, *words: str) -> None:
    from juicefs_py.cli.args import Values
    from juicefs_py.commands.restore import COMMAND

    values = Values(COMMAND.options)
    values.positionals = [volume.url, hour(volume)]
    values.given = {word.lstrip("-"): True for word in words} | {"threads": 1}
    assert COMMAND.run is not None
    COMMAND.run(values)


def test_what_took_its_place_is_not_replaced(volume: Tended) -> None:
    with volume.client() as client:
        file = client.create(b"f", client.ino(b"keep"))
        file.write(0, b"new")
        file.close()
    said = restore(volume, hour(volume), "--put-back")
    assert said.last().endswith(": 5 restored, 0 need --put-back, 1 conflicts, 0 failed")
    (complaint,) = said.complaints()
    assert complaint.startswith("restore ") and complaint.endswith("-f: target already exists")
    assert set(trashed(volume)) == {b"f"}
    with volume.client() as client:
        assert read(client, b"keep", b"f") == b"new"


def test_a_quota_that_has_no_room_is_told(volume: Tended) -> None:
    with volume.client() as client:
        keep = client.ino(b"keep")
    volume.call("quota", "set", volume.url, "--path", "/keep", "--capacity", "4K")
    said = restore(volume, hour(volume), "--put-back")
    assert said.complaints()[0].endswith("-f: disk quota exceeded") and len(said.complaints()) == 1
    assert said.last().endswith("5 restored, 0 need --put-back, 0 conflicts, 1 failed")
    volume.call("quota", "delete", volume.url, "--path", "/keep")
    restore(volume, hour(volume), "--put-back")
    all_back(volume)
    assert volume.engine.reader.quota("dir", keep) is None


def test_a_quota_counts_what_comes_back(volume: Tended) -> None:
    volume.call("quota", "set", volume.url, "--path", "/", "--capacity", "1")
    restore(volume, hour(volume), "--put-back")
    quota = volume.engine.reader.quota("dir", 1)
    assert quota is not None and (quota.used_space, quota.used_inodes) == (3 * 8192 + 4 * 4096, 7)


def test_names_that_say_nothing_and_directories_that_are_gone(volume: Tended) -> None:
    name = hour(volume)
    directory = volume.engine.reader.entry(TRASH, name.encode())
    assert directory is not None
    inos = trashed(volume)
    entries = [item.name for item in volume.engine.reader.list_entries(directory.ino).items]
    (deep,) = [entry for entry in entries if entry.endswith(b"-deep")]
    lost = entry_name(9999, inos[b"deep"], b"deep")

    def rename(old: bytes, new: bytes) -> None:
        def body(tx: object) -> None:
            entry = tx.entry(directory.ino, old)  # type: ignore[attr-defined]
            tx.delete_entry(directory.ino, old)  # type: ignore[attr-defined]
            tx.put_entry(directory.ino, new, entry)  # type: ignore[attr-defined]

        volume.engine.transact(body)

    for new, reason in ((b"no-name", "invalid trash entry"), (lost, "no such file or directory")):
        rename(deep, new)
        assert f"restore {new.decode()}: {reason}" in restore(volume, name, "--put-back").complaints()
        deep = new
    rename(deep, entry_name(1, inos[b"deep"], b"deep"))


def test_long_names_come_back_as_the_trash_has_kept_them(make: Maker) -> None:
    volume = make("sqlite3", trash_days=1)
    name = b"n" * MAX_NAME
    with volume.client() as client:
        client.create(name).close()
        client.vfs.meta.unlink(SUPERUSER, 1, name)
    restore(volume, hour(volume), "--put-back")
    with volume.client() as client:
        (back,) = [entry for entry in client.names(1) if entry.startswith(b"nn")]
    assert name.startswith(back) and len(back) > 240


def test_two_at_once_restore_everything_once(volume: Tended) -> None:
    from juicefs_py.cli.progress import Progress
    from meta.client import MetaClient

    clients = [MetaClient(volume.engine) for _ in range(2)]
    for client in clients:
        client.load()
    directory = volume.engine.reader.entry(TRASH, hour(volume).encode())
    assert directory is not None
    runs = [restoring.Restoring(client, directory.ino, True) for client in clients]
    threads = [threading.Thread(target=run.run, args=(Progress(), 4)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert all(run.counts[restoring.FAILED] == run.counts[restoring.CONFLICT] == 0 for run in runs)
    all_back(volume)


def test_an_unknown_hour_does_not_keep_the_others(volume: Tended) -> None:
    said = restore(volume, "2001-01-01-01", "x/y", hour(volume), "--put-back")
    assert said.texts("ERROR") == [
        'lookup "2001-01-01-01": no such file or directory', 'lookup "x/y": no such file or directory'
    ]  # fmt: skip
    all_back(volume)


def test_only_root(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    said = make("memkv").run("restore", "2001-01-01-01")
    assert (said.code, said.last()) == (1, "only root can restore files from trash")
