"""`juicefs tier` on an S3 server that knows classes (moto), and on storages that do not."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from clients import ENGINES
from tended import Maker, Said, Tended, fill, making, read_all
from test_s3_errors import moto as _moto
from vfs_harness import Client

from chunkstore.buckets.mem import MemBucket
from chunkstore.buckets.sharded import ShardedBucket
from chunkstore.errors import StoreError, Unsupported
from juicefs_py.maintenance import tiers
from juicefs_py.storage import volume_bucket
from meta.setting import Tier

moto = _moto
TIERS = {0: Tier(0), 1: Tier(1, "STANDARD_IA", "team=data"), 2: Tier(2, "GLACIER")}


@pytest.fixture
def make(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Maker]:
    with making(tmp_path, capsys) as maker:
        yield maker


@pytest.fixture
def on_s3(
    make: Maker, moto: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> tuple[Tended, dict[bytes, bytes]]:
    """A volume on a server that runs in this process: its own log is kept apart, and it copies one object at a time."""
    monkeypatch.setattr(logging.getLogger("werkzeug"), "disabled", True)
    monkeypatch.setattr(tiers, "THREADS", 1)
    name = request.node.name.replace("_", "-").replace("[", "-").rstrip("]")[:50].rstrip("-").lower()
    volume = make("sqlite3", storage="s3", bucket=f"{moto}/{name}", access_key="key", secret_key="secret", tiers=TIERS)
    with volume.client() as client:
        contents = fill(client)
    return volume, contents


def tier(volume: Tended, action: str, *words: str) -> Said:
    said, out = volume.call("tier", action, volume.url, *words)
    assert out == ""
    return said


def classes(volume: Tended) -> set[str]:
    with closing(volume_bucket(volume.setting)) as bucket:
        return {bucket.head(info.key).storage_class for info in bucket.list_all("chunks/")}


def tier_of(client: Client, *path: bytes) -> int:
    return int(client.vfs.meta.getattr(client.ino(*path)).tier)


def test_a_tree_goes_there_and_back(on_s3: tuple[Tended, dict[bytes, bytes]]) -> None:
    volume, contents = on_s3
    assert classes(volume) == {"STANDARD"}
    said = tier(volume, "set", "/dir", "--tier", "1", "-r")
    assert said.code == 0 and said.complaints() == []
    assert said.last() == (
        'set storage tier of "/dir" from 0(storage-class: ;tag: ) to 1(storage-class: STANDARD_IA;tag: team=data)'
    )
    assert classes(volume) == {"STANDARD_IA"}
    with volume.client() as client:
        read_all(client, contents)
        for path in ((b"dir",), (b"dir", b"below"), (b"dir", b"f1")):
            assert tier_of(client, *path) == 1
        new = client.create(b"new", client.ino(b"dir", b"below"))
        new.write(0, b"x")
        new.close()
        assert tier_of(client, b"dir", b"below", b"new") == 1
    assert classes(volume) == {"STANDARD_IA"}
    assert tier(volume, "set", "--tier=0", "/dir", "-r").code == 0
    assert classes(volume) == {"STANDARD"}
    with volume.client() as client:
        read_all(client, contents)
        assert tier_of(client, b"dir", b"f1") == 0


def test_one_file_and_a_directory_alone(on_s3: tuple[Tended, dict[bytes, bytes]]) -> None:
    volume, _ = on_s3
    assert tier(volume, "set", "/dir/f0", "--tier", "1").code == 0
    assert classes(volume) == {"STANDARD", "STANDARD_IA"}
    assert tier(volume, "set", "/dir", "--tier", "2").code == 0
    assert classes(volume) == {"STANDARD", "STANDARD_IA"}
    with volume.client() as client:
        found = [tier_of(client, *path) for path in ((b"dir",), (b"dir", b"f0"), (b"dir", b"f1"), (b"dir", b"below"))]
    assert found == [2, 1, 0, 0]


def test_what_is_archived_can_be_asked_for(on_s3: tuple[Tended, dict[bytes, bytes]]) -> None:
    volume, _ = on_s3
    tier(volume, "set", "/dir/f1", "--tier", "2")
    with closing(volume_bucket(volume.setting)) as bucket:
        keys = [info.key for info in bucket.list_all("chunks/")]
        (cold, *_) = [key for key in keys if bucket.head(key).storage_class == "GLACIER"]
        with pytest.raises(StoreError, match="has to be restored first"):
            bucket.get(cold)
        for _ in range(2):  # the second time it is under way, or done
            assert tier(volume, "restore", "/dir", "-r", "--days", "2").complaints() == []
        assert len(bucket.get(cold)) > 0


def test_the_same_tier_changes_nothing_unless_forced(
    on_s3: tuple[Tended, dict[bytes, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from chunkstore.buckets.s3 import S3Bucket

    volume, _ = on_s3
    copied: list[str] = []
    copy = S3Bucket.copy

    def counting(self: Any, target: str, source: str, tier: int = 0) -> None:
        copied.append(source)
        copy(self, target, source, tier)

    monkeypatch.setattr(S3Bucket, "copy", counting)
    tier(volume, "set", "/dir/f2", "--tier", "1")
    assert len(copied) == 3
    tier(volume, "set", "/dir/f2", "--tier", "1")
    assert len(copied) == 3
    tier(volume, "set", "/dir/f2", "--tier", "1", "--force")
    assert len(copied) == 6


def test_an_object_that_is_missing(on_s3: tuple[Tended, dict[bytes, bytes]]) -> None:
    volume, _ = on_s3
    with volume.client() as client:
        slice_id = client.vfs.meta.read_chunk(client.ino(b"dir", b"f0"), 0)[0].id
    with closing(volume_bucket(volume.setting)) as bucket:
        bucket.delete(f"chunks/0/0/{slice_id}_0_1000")
    said = tier(volume, "set", "/dir", "--tier", "1", "-r")
    assert said.code == 1 and "apply object action failed in inode:" in said.last()
    with volume.client() as client:
        assert tier_of(client, b"dir", b"f0") == 0


def objects(volume: Tended) -> dict[str, int]:
    """The files that objects lie in, which are others when they are written anew."""
    paths = volume.bucket_directory.rglob("*_*_*")
    return {path.name: os.stat(path).st_ino for path in paths}


@pytest.mark.parametrize("kind", ENGINES)
def test_a_storage_without_classes(make: Maker, kind: str) -> None:
    volume = make(kind, tiers=TIERS)
    with volume.client() as client:
        fill(client)
    before = objects(volume)
    said = tier(volume, "set", "/dir", "--tier", "1", "-r")
    assert said.code == 0 and said.complaints()[0].endswith("only the tier in the metadata is set")
    with volume.client() as client:
        assert tier_of(client, b"dir", b"scattered") == 1
    assert objects(volume) == before
    said = tier(volume, "restore", "/dir", "-r")
    assert said.code == 1 and "cannot restore archived objects" in said.last()


def test_list(make: Maker) -> None:
    volume = make("memkv", tiers=TIERS)
    said, out = volume.call("tier", "list", volume.url)
    assert said.code == 0
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line[0] == "|"]
    classes = [["0", "", ""], ["1", "STANDARD_IA", "team=data"], ["2", "GLACIER", ""]]
    assert rows == [["tier", "storageClass", "tag"], *classes]


@pytest.mark.parametrize(("words", "text"), [
    (("set", "/d"), "missing required flag: --tier"),
    (("set", "/d", "--tier", "9"), "--tier should be between 0 and 3"),
    (("set", "/d", "--tier", "3"), "unknown tier 3"),
    (("set", "/none", "--tier", "1"), "/none: no such file or directory"),
    (("set", "/s", "--tier", "1"), "only file and directory are supported"),
    (("set", "/s/x", "--tier", "1"), "/s/x: not a directory"),
    (("restore", "/d", "--days", "0"), "--days should be at least 1"),
])  # fmt: skip
def test_mistakes(make: Maker, words: tuple[str, ...], text: str) -> None:
    volume = make("memkv", tiers=TIERS)
    with volume.client() as client:
        client.mkdir(b"d")
        from vfs_harness import CALLER

        client.vfs.symlink(CALLER, 1, b"s", b"d")
    said = tier(volume, *words)
    assert said.code == 1 and text in said.last()


def test_shards_copy_what_stays_where_it_is() -> None:
    shards = [MemBucket("mem://a"), MemBucket("mem://b")]
    bucket = ShardedBucket(shards)
    bucket.put("k", b"x")
    bucket.copy("k", "k")
    assert bucket.get("k") == b"x" and not bucket.has_classes
    with pytest.raises(Unsupported, match="cannot copy objects from one shard to another"):
        bucket.copy(next(f"o{n}" for n in range(99) if bucket._of(f"o{n}") is not bucket._of("k")), "k")
