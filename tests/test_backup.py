"""Automatic backups of the metadata: when, which of them stay, and that they can be loaded."""

from __future__ import annotations

import datetime
import gzip
import json
import logging
import os
import time
from itertools import pairwise
from pathlib import Path

import pytest
from clients import Client, fresh_url
from mounts import Mount, Volume, juicefs
from needs import need_fuse

from chunkstore.buckets import open_bucket
from juicefs_py.maintenance.backup import Backups, Plan, outdated
from meta.engines import open_engine
from meta.rules.format import init_volume
from meta.setting import Setting
from meta.types import ROOT

NOW = datetime.datetime(2026, 11, 26, 12, 0, 0, tzinfo=datetime.UTC)
HOUR = datetime.timedelta(hours=1)


def name(at: datetime.datetime) -> str:
    return at.strftime("dump-%Y-%m-%d-%H%M%S.json.gz")


def never() -> bool:
    return False


def kept(hours: range) -> list[int]:
    """Which of the backups that are so many hours old stay, by their age in days."""
    names = {name(NOW - hour * HOUR): hour for hour in hours}
    gone = set(outdated(names, NOW))
    return [hour // 24 for key, hour in names.items() if key not in gone]


def test_two_days_are_kept_whole() -> None:
    assert len(kept(range(49))) == 49


def test_then_one_a_day_for_two_weeks() -> None:
    assert kept(range(49, 14 * 24)) == list(range(3, 14)) or len(kept(range(49, 14 * 24))) == 12


def test_then_fewer_and_fewer() -> None:
    days = sorted(set(kept(range(0, 800 * 24, 6))))
    assert [day for day in days if day > 3][:9] == list(range(4, 13))
    weeks = [day for day in days if 14 < day <= 61]
    months = [day for day in days if day > 61]
    assert all(later - earlier == 7 for earlier, later in pairwise(weeks)), weeks
    assert all(later - earlier == 30 for earlier, later in pairwise(months[:-1])), months
    assert max(days) <= 731 and len(months) >= 20


def test_of_a_period_the_earliest_stays() -> None:
    day = [NOW - datetime.timedelta(days=5) + number * HOUR for number in range(1, 12)]
    assert outdated(map(name, day), NOW) == [name(at) for at in day[1:]]


def test_what_is_removed_day_by_day_is_what_is_removed_at_once() -> None:
    """Backups come every six hours for three months, and each time the outdated ones go."""
    names: list[str] = []
    for hour in range(0, 90 * 24, 6):
        now = NOW + hour * HOUR
        names = [each for each in (*names, name(now)) if each not in outdated((*names, name(now)), now)]
    ages = [(now - datetime.datetime.strptime(each[5:22], "%Y-%m-%d-%H%M%S").replace(tzinfo=datetime.UTC)).days
            for each in names]  # fmt: skip
    assert ages[0] >= 60 and len(names) >= 9 + 12 + 5, ages
    gaps = [earlier - later for earlier, later in pairwise(ages)]
    assert max(gaps) <= 31 and all(gap <= 8 for gap, age in zip(gaps, ages, strict=False) if age <= 60), ages


def test_strangers_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert outdated(["notes.txt", name(NOW.replace(year=2020))], NOW) == [name(NOW.replace(year=2020))]
    assert "meta/notes.txt is no backup of metadata" in caplog.text


@pytest.mark.parametrize("kind", ["memkv", "sqlite3", "redis"])
def test_one_client_makes_it(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    url = fresh_url(kind, tmp_path)
    engine = open_engine(url)
    init_volume(engine, Setting(name="vol", uuid="5a1ade"))
    client = Client(engine, no_bgjob=True)
    client.file(b"f")
    bucket = open_bucket("file", f"{tmp_path}/objects/vol/")
    old = f"meta/{name(NOW.replace(year=2020))}"
    bucket.put(old, b"old")
    mine, other = (Backups(client, Plan(url, 3600, False), lambda: bucket) for _ in range(2))
    with caplog.at_level(logging.INFO):
        assert mine.run_due(never)
    assert not other.run_due(never) and not mine.run_due(never)
    assert "backup metadata succeed" in caplog.text and mine.last_success > time.time() - 60
    (found,) = bucket.list_all("meta/")
    assert found.key.startswith("meta/dump-20") and found.key != old
    data = bytearray(found.size)
    bucket.get_into(found.key, 0, memoryview(data))
    assert "f" in json.loads(gzip.decompress(data))["FSTree"]["entries"]
    stored = client.reader.xattr(ROOT, b"lastBackup")
    assert stored is not None and datetime.datetime.fromisoformat(stored.decode()).tzinfo is not None
    later = datetime.datetime.now().astimezone() - datetime.timedelta(hours=2)
    client.engine.transact(lambda tx: tx.put_xattr(ROOT, b"lastBackup", later.isoformat(timespec="seconds").encode()))
    time.sleep(1.1)  # another name
    assert other.run_due(never) and len(list(bucket.list_all("meta/"))) == 2
    client.shutdown()
    bucket.close()


def test_a_failure_is_told_and_the_mount_lives_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    url = fresh_url("sqlite3", tmp_path)
    engine = open_engine(url)
    init_volume(engine, Setting(name="vol", uuid="5a1ade"))
    client = Client(engine, no_bgjob=True)
    gone = open_bucket("file", f"{tmp_path}/objects/vol/")
    backups = Backups(client, Plan("sqlite3:///nowhere/meta.db", 3600, False), lambda: gone)
    with caplog.at_level(logging.WARNING):
        assert not backups.run_due(never)
    assert "backup metadata failed: " in caplog.text and "database is not formatted" in caplog.text
    assert list(gone.list_all("meta/")) == []
    client.shutdown()
    gone.close()


@pytest.mark.battery
def test_a_mount_backs_up_and_the_backup_is_loaded(scratch: Path) -> None:
    need_fuse()
    volume = Volume(scratch / "vol", format_options=("--trash-days", "1")).format()
    mount = Mount(volume, scratch / "mnt", ("--backup-meta", "20"))
    mount.more_environment = {"SKIP_BACKUP_META_CHECK": "true"}
    mount.start()
    folder = volume.bucket / volume.name / "meta"
    try:
        (mount.path / "gone").write_text("x")
        (mount.path / "gone").unlink()
        (mount.path / "kept").write_text("x")
        assert json.loads((mount.path / ".config").read_text())["BackupMeta"] == 20_000_000_000
        deadline = time.monotonic() + 30
        while not folder.exists() or not any(each.name.endswith(".gz") for each in folder.iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        mount.stop()
    (backup,) = (each for each in folder.iterdir() if each.name.endswith(".gz"))
    new = f"sqlite3://{scratch}/new.db"
    juicefs("load", new, str(backup))
    engine = open_engine(new)
    assert engine.reader.entry(ROOT, b"kept") is not None and engine.reader.entry(ROOT, b"gone") is None
    assert os.path.getsize(backup) > 0 and json.loads(gzip.decompress(backup.read_bytes()))["Trash"]["entries"]
    engine.close()
