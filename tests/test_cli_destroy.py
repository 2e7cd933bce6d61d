"""`juicefs destroy` on every engine: nothing is left, and nothing goes by mistake."""

from __future__ import annotations

import io
import os
import sys
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clients import ENGINES
from tended import FORMATS, Maker, Said, Tended, fill, making

from chunkstore.bucket import Listing, ObjectInfo
from chunkstore.errors import BadBucket, Denied, Unavailable
from juicefs_py.cli.progress import Progress
from juicefs_py.maintenance import destroy as destroying
from meta.types import SUPERUSER


@pytest.fixture
def make(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Maker]:
    with making(tmp_path, capsys) as maker:
        yield maker


def destroy(volume: Tended, *words: str, uuid: str = "") -> tuple[Said, str]:
    return volume.call("destroy", volume.url, uuid or volume.setting.uuid, *words)


def filled(make: Maker, kind: str, **setting: Any) -> Tended:
    volume = make(kind, **setting)
    with volume.client() as client:
        fill(client)
        client.vfs.meta.remove_tree(SUPERUSER, client.ino(b"dir"), b"below")
    volume.leak()
    assert volume.keys()
    return volume


def gone(volume: Tended) -> None:
    assert volume.engine.reader.setting() is None and volume.engine.is_empty()
    left = [path for path in volume.bucket_directory.rglob("*") if not volume.setting.shards or path.is_file()]
    assert left == []


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("form", FORMATS)
def test_nothing_is_left(make: Maker, kind: str, form: str) -> None:
    volume = filled(make, kind, trash_days=1, **FORMATS[form])
    count = len([path for path in volume.bucket_directory.rglob("*") if path.is_file()])
    said, out = destroy(volume, "--yes")
    assert said.code == 0 and said.complaints() == []
    assert said.texts("INFO")[-2:] == [
        f"Deleted {count} objects",
        "The volume has been destroyed! You may need to delete cache directory manually.",
    ]
    assert " volume name: vol\n volume UUID: " in out and "  used bytes: " in out and " used inodes: " in out
    assert out.count("\x1b[1;33mWARNING\x1b[0m: ") == 3 and "Proceed" not in out
    gone(volume)
    said, _ = destroy(volume, "--yes")
    assert said.code == 1 and "database is not formatted" in said.last()


@pytest.mark.parametrize(("answer", "goes"), [
    ("y\n", True), ("YES\n", True), ("n\n", False), ("\n", False), ("", False), ("what\nyes\n", True),
])  # fmt: skip
def test_it_asks(make: Maker, answer: str, goes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = filled(make, "sqlite3")
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    keys = volume.keys()
    said, out = destroy(volume)
    assert "Proceed anyway? [y/N]: " in out
    if goes:
        assert said.code == 0
        gone(volume)
    else:
        assert (said.code, said.last()) == (1, "Aborted.")
        assert volume.keys() == keys and volume.engine.reader.setting()


@pytest.mark.parametrize("kind", ENGINES)
def test_not_while_somebody_is_connected(make: Maker, kind: str) -> None:
    volume = filled(make, kind)
    with volume.opened():
        said, out = destroy(volume, "--yes")
        assert said.code == 1 and out == ""
        lines = said.last().splitlines()
        assert lines[0] == "1 sessions are active, please disconnect them first:"
        assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == ["SID", "HostName", "MountPoint"]
    assert volume.keys() and destroy(volume, "--yes")[0].code == 0
    gone(volume)


@pytest.mark.parametrize("kind", ENGINES)
def test_sessions_of_the_dead_do_not_count(make: Maker, kind: str) -> None:
    volume = filled(make, kind)
    from meta.transaction import SessionRecord

    volume.engine.transact(lambda tx: tx.put_session(SessionRecord(77, 1000, b'{"HostName":"h"}')))
    assert destroy(volume, "--yes")[0].code == 0
    gone(volume)


def test_force_asks_nothing_whoever_is_connected(make: Maker) -> None:
    volume = filled(make, "memkv")
    from meta.transaction import SessionRecord

    volume.engine.transact(lambda tx: tx.put_session(SessionRecord(77, 1 << 40, b'{"HostName":"h"}')))
    said, out = destroy(volume, "--force")
    assert said.code == 0 and out == ""
    gone(volume)


def test_another_uuid(make: Maker) -> None:
    volume = filled(make, "sqlite3")
    said, out = destroy(volume, "--force", uuid="e94d66a8")
    assert (said.code, out) == (1, "")
    assert said.last() == f'UUID "e94d66a8" != expected "{volume.setting.uuid}"'
    assert volume.keys() and volume.engine.reader.setting()


def test_what_belongs_to_others_stays(make: Maker) -> None:
    volume = filled(make, "redis")
    for name in ("vol2/chunks/0/0/1_0_1", "other"):
        path = volume.bucket_directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    assert destroy(volume, "--yes")[0].code == 0
    left = sorted(str(path.relative_to(volume.bucket_directory)) for path in volume.bucket_directory.rglob("*"))
    assert left == ["other", "vol2", "vol2/chunks", "vol2/chunks/0", "vol2/chunks/0/0", "vol2/chunks/0/0/1_0_1"]


class Fake:
    """A bucket of so many objects that a listing makes up."""

    def __init__(self, count: int, error: Exception | None = None) -> None:
        self.count, self.error, self.seen = count, error, 0

    def describe(self) -> str:
        return "fake://"

    def list_all(self) -> Iterator[ObjectInfo]:
        for number in range(self.count):
            yield ObjectInfo(f"chunks/0/0/{number:012}_0_4194304", 4096, 0.0)
        if self.error is not None:
            raise self.error

    def delete_many(self, keys: Iterable[str]) -> dict[str, Exception]:
        wanted = list(keys)
        self.seen += len(wanted)
        return {key: Denied("no") for key in wanted if key.endswith("7_0_4194304")}

    def list(self, prefix: str, after: str, delimiter: str) -> Listing:
        return Listing([], False)

    def close(self) -> None:
        pass


def test_memory_does_not_grow_with_the_volume(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("ERROR")

    def peak(count: int) -> int:
        deletion = destroying.Deletion(Fake(count), Progress())  # type: ignore[arg-type]
        tracemalloc.start()
        try:
            deletion.run()
            assert deletion.failed == count // 10 and deletion.deleted == count - count // 10
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1000)
    assert peak(60_000) < peak(6_000) * 1.5 + 100_000


def test_what_cannot_be_deleted_is_told_and_the_volume_goes(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = filled(make, "sqlite3")
    monkeypatch.setattr(destroying, "bucket_to_delete", lambda setting: Fake(20))
    said, _ = destroy(volume, "--yes")
    assert said.code == 0
    assert said.texts("WARNING")[0] == "delete chunks/0/0/000000000007_0_4194304: no"
    assert said.texts("ERROR") == ["2 objects are failed to delete, please do it manually."]
    assert volume.engine.reader.setting() is None


def test_a_listing_that_breaks_off_keeps_the_metadata(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = filled(make, "sqlite3")
    monkeypatch.setattr(destroying, "bucket_to_delete", lambda setting: Fake(20, Unavailable("away")))
    said, _ = destroy(volume, "--force")
    assert said.code == 1 and said.last() == "list all objects: away; the metadata is kept, run the command again"
    assert volume.engine.reader.setting()


def test_a_bucket_that_does_not_exist(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = filled(make, "sqlite3")
    monkeypatch.setattr(destroying, "bucket_to_delete", lambda setting: Fake(0, BadBucket("no such bucket")))
    said, _ = destroy(volume, "--yes")
    assert said.code == 1 and 'retry with "--force" to skip object deletion' in said.last()
    assert volume.engine.reader.setting()
    said, _ = destroy(volume, "--force")
    assert said.code == 0 and said.texts("WARNING")[0].endswith("will skip object deletion")
    assert volume.engine.reader.setting() is None


def test_an_encrypted_volume_whose_passphrase_is_lost(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    from buckets import KEY

    monkeypatch.setenv("JFS_RSA_PASSPHRASE", "golden")
    volume = make("sqlite3", encrypt_key=KEY)
    monkeypatch.delenv("JFS_RSA_PASSPHRASE")
    path = volume.bucket_directory / "vol" / "chunks" / "0" / "0" / "1_0_10"
    path.parent.mkdir(parents=True)
    path.write_bytes(os.urandom(10))
    assert destroy(volume, "--yes")[0].code == 0
    gone(volume)
