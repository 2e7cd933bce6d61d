"""`juicefs config` on every engine: what it switches on, what it asks, and what it refuses."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import ENGINES
from tended import Maker, Tended, making

from juicefs_py import storage_check
from meta.rules.check import check
from meta.setting import Setting
from meta.transaction import Quota
from meta.types import SUPERUSER


@pytest.fixture
def make(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Maker]:
    with making(tmp_path, capsys) as maker:
        yield maker


def config(volume: Tended, *words: str) -> str:
    """Run it; what it prints."""
    said, out = volume.call("config", volume.url, *words)
    assert said.code == 0 and said.complaints() == [], said
    return out


def stored(volume: Tended) -> Setting:
    document = volume.engine.reader.setting()
    assert document is not None
    return Setting.parse(document)


@pytest.mark.parametrize("kind", ENGINES)
def test_owners_are_counted_when_their_quotas_are_switched_on(make: Maker, kind: str) -> None:
    volume = make(kind, trash_days=1)
    with volume.client() as client:
        top = client.mkdir(b"d")
        client.create(b"f", top).close()
        client.vfs.meta.unlink(SUPERUSER, top, b"f")
        volume.engine.transact(lambda tx: tx.add_quota("user", 77, 4096, 1))  # of a time when they were kept before
        assert config(volume, "--user-group-quota") == "user-group-quota: false -> true\n"
        assert volume.engine.reader.quota("user", 0) == Quota(-1, -1, 3 * 4096, 3)
        assert config(volume, "--user-group-quota") == "Nothing changed.\n"
        client.vfs.meta.reload()
        client.create(b"g", top).close()
    assert check(volume.engine) == []
    assert config(volume, "--user-group-quota=false") == "user-group-quota: true -> false\n"


def test_statistics_stay_as_long_as_quotas_need_them(make: Maker) -> None:
    volume = make("sqlite3")
    for path in ("/a", "/b/c"):
        volume.call("quota", "set", volume.url, "--path", path, "--inodes", "5", "--create")
    said, out = volume.call("config", volume.url, "--dir-stats=false")
    assert (said.code, out) == (1, "")
    assert said.last().startswith("cannot disable dir stats when there are still 2 dir quotas: [/a /b/c]")
    for path in ("/a", "/b/c"):
        volume.call("quota", "delete", volume.url, "--path", path)
    assert config(volume, "--dir-stats=false") == " dir-stats: true -> false\n"


def test_tiers(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    real = storage_check.check_storage
    monkeypatch.setattr(storage_check, "check_storage", lambda bucket, tier=0: (tried.append(tier), real(bucket, tier)))
    volume = make("sqlite3")
    said, out = volume.call("config", volume.url, "--tier", "1", "--storage-class", "IA", "--tag", "a=b")
    assert said.code == 0 and out == "set tier 1 storage-class: IA\nset tier 1 tag: a=b\n"
    assert stored(volume).min_client_version == "1.4.0-A" and stored(volume).tiers[1][1:] == ("IA", "a=b")
    assert config(volume, "--tier", "1", "--storage-class", "IA") == "Nothing changed.\n"
    assert config(volume, "--storage-class", "STANDARD") == "storage-class:  -> STANDARD\n"
    assert tried == [1, 0]
    assert not list(volume.bucket_directory.rglob("testing/*"))
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    said, out = volume.call("config", volume.url, "--tier", "1", "--storage-class", "COLD")
    assert (said.code, said.last()) == (1, "Aborted.")
    assert out.startswith("existing tier will be overwritten: \ntier: 1\nstorage class: IA => COLD\n")
    assert stored(volume).tiers[1].storage_class == "IA"
    assert "set tier 1 storage-class: COLD" in config(volume, "--tier", "1", "--storage-class", "COLD", "--yes")


@pytest.mark.parametrize(("words", "text"), [
    (("--changelog-max-lines", "-1"), "negative value for changelog-max-lines: -1"),
    (("--changelog",), "--changelog is not supported yet"),
    (("--changelog-max-age", "2d"), 'invalid value "2d" for flag -changelog-max-age: parse error'),
    (("--tier", "1", "--tag", "x"), "invalid tag"),
    (("--tier", "1", "--storage-class", "IA", "--bucket", "x"), "cannot be combined"),
])  # fmt: skip
def test_mistakes(make: Maker, words: tuple[str, ...], text: str) -> None:
    volume = make("memkv")
    before = stored(volume)
    said, _ = volume.call("config", volume.url, *words)
    assert said.code == 1 and text in said.last()
    assert stored(volume) == before
