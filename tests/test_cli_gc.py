"""`juicefs gc`: what is garbage in every format, what is too young to be, and what it cleans and compacts."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import go_client
import pytest
import s3_server
from buckets import KEY
from clients import ENGINES
from mounts import Volume
from tended import BLOCK, COLUMNS, FORMATS, Maker, Tended, fill, gc_counts, making, read_all, store_slice

from chunkstore.naming import Block
from juicefs_py.cli import app
from juicefs_py.maintenance.cleanup import remove_orphans
from meta.rules.check import check
from meta.rules.compact import discard_slice
from meta.rules.format import init_volume
from meta.slices import Slice
from meta.types import DIRECTORY, ROOT, SUPERUSER, TRASH, Dirent


@pytest.fixture
def make(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Maker]:
    monkeypatch.delenv("JFS_GC_SKIPPEDTIME", raising=False)
    with making(tmp_path, capsys) as make:
        yield make


# what is garbage


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("form", FORMATS)
def test_of_a_sound_volume_nothing_is_leaked(make: Maker, kind: str, form: str) -> None:
    volume = make(kind, **FORMATS[form])
    with volume.client() as client:
        contents = fill(client)
    volume.age()
    before = volume.keys()
    for words in ((), ("--delete",)):
        said = volume.run("gc", *words)
        assert gc_counts(said) == {**dict.fromkeys(COLUMNS, 0), "objects": len(before), "valid": len(before)}
        assert volume.keys() == before
        assert not said.complaints()
    with volume.client() as client:
        read_all(client, contents)
    assert check(volume.engine) == []
    assert volume.engine.sessions() == []


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("form", FORMATS)
def test_leaked_objects_are_told_and_deleted_only_when_asked(make: Maker, kind: str, form: str) -> None:
    volume = make(kind, **FORMATS[form])
    with volume.client() as client:
        contents = fill(client)
    kept = volume.keys()
    leaked = volume.leak()
    volume.age()
    said = volume.run("gc")
    assert gc_counts(said)["leaked"] == len(leaked) == 2
    assert said.last() == "Please add `--delete` to clean leaked objects"
    assert volume.keys() == sorted(kept + leaked)
    said = volume.run("gc", "--delete")
    assert gc_counts(said)["leaked"] == 2
    assert "Please add" not in said.last()
    assert volume.keys() == kept
    assert gc_counts(volume.run("gc"))["leaked"] == 0
    with volume.client() as client:
        read_all(client, contents)


def test_leaked_objects_of_an_encrypted_volume(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JFS_RSA_PASSPHRASE", "golden")
    volume = make("sqlite3", encrypt_key=KEY)
    with volume.client() as client:
        contents = fill(client)
    kept = volume.keys()
    volume.leak()
    volume.age()
    assert gc_counts(volume.run("gc", "--delete"))["leaked"] == 2
    assert volume.keys() == kept
    with volume.client() as client:
        read_all(client, contents)


def test_objects_in_a_remote_storage(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JFS_GC_SKIPPEDTIME", "0")
    server = s3_server.shared_server()
    keys = {"access_key": s3_server.ACCESS_KEY, "secret_key": s3_server.SECRET_KEY}
    volume = make("sqlite3", storage="s3", bucket=server.address(server.new_bucket()), **keys)
    with volume.client() as client:
        contents = fill(client)
    kept = volume.keys()
    leaked = volume.leak()
    assert gc_counts(volume.run("gc"))["leaked"] == 2
    assert volume.keys() == sorted(kept + leaked)
    assert gc_counts(volume.run("gc", "--delete", "--compact"))["leaked"] == 2
    assert gc_counts(volume.run("gc"))["valid"] == len(volume.keys()) < len(kept)
    assert volume.run("fsck").code == volume.run("fsck", "--path", "/", "-r").code == 0
    with volume.client() as client:
        read_all(client, contents)


def test_the_last_line_is_the_one_that_scripts_read(make: Maker) -> None:
    volume = make("sqlite3")
    with volume.client() as client:
        file = client.create(b"f")
        file.write(0, b"x" * 5000)
        file.close()
    volume.leak(7)
    volume.age()
    volume.leak(9)
    said = volume.run("gc")
    assert said.texts("INFO")[-3:] == [
        "using 1 slices (5000 bytes)",
        "scanned 3 objects, 1 valid, 0 pending delete (0 bytes), 0 compacted (0 bytes), 1 leaked (7 bytes),"
        " 0 delslices (0 bytes), 0 delfiles (0 bytes), 1 skipped (9 bytes)",
        "Please add `--delete` to clean leaked objects",
    ]


@pytest.mark.parametrize(("given", "age_s", "leaked"), [
    (None, 3500, 0), (None, 3700, 2), ("10", 5, 0), ("10", 15, 2), ("0", 0.1, 2), ("soon", 3500, 0), ("soon", 3700, 2),
    ("-5", 3500, 0),
])  # fmt: skip
def test_young_objects_are_left_alone(
    make: Maker, monkeypatch: pytest.MonkeyPatch, given: str | None, age_s: float, leaked: int
) -> None:
    volume = make("sqlite3")
    keys = volume.leak()
    volume.age(age_s)
    if given is not None:
        monkeypatch.setenv("JFS_GC_SKIPPEDTIME", given)
    said = volume.run("gc", "--delete")
    found = gc_counts(said)
    assert (found["leaked"], found["skipped"]) == (leaked, 2 - leaked)
    assert volume.keys() == ([] if leaked else sorted(keys))
    wrong = given in ("soon", "-5")
    assert said.complaints() == (
        [f"parse JFS_GC_SKIPPEDTIME={given}: not a number of seconds; 3600 is used"] if wrong else []
    )


def test_blocks_that_contradict_their_slice_and_names_that_are_none_are_leaked(make: Maker) -> None:
    volume = make("sqlite3")
    with volume.client() as client:
        file = client.create(b"f")
        file.write(0, b"x" * (BLOCK + 100))
        file.close()
    kept = volume.keys()
    assert kept == [f"chunks/0/0/1_0_{BLOCK}", "chunks/0/0/1_1_100"]
    directory = volume.path(kept[0]).parent
    strange = [
        "1_0_100", f"1_1_{BLOCK}", "1_1_99", "1_2_100", f"1_2_{BLOCK}", f".jfs.1_0_{BLOCK}.tmp.0123456789abcdef",
        "README", "1_0", f"{10**30}_0_5", f"1_{10**30}_5", "1_0_0",
    ]  # fmt: skip
    for name in strange:
        (directory / name).write_bytes(b"1")
    assert gc_counts(volume.run("gc", "--delete"))["leaked"] == 0  # too young
    volume.age()
    assert gc_counts(volume.run("gc"))["leaked"] == len(strange)
    assert len(volume.keys()) == len(strange) + 2
    assert gc_counts(volume.run("gc", "--delete"))["leaked"] == len(strange)
    assert volume.keys() == kept


def test_other_objects_of_the_volume_are_none_of_its_business(make: Maker) -> None:
    volume = make("sqlite3")
    volume.leak()
    others = [volume.bucket_directory / "vol" / name for name in ("juicefs_uuid", "meta/dump.json.gz", "testing/abc")]
    for path in others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1")
    volume.age()
    assert gc_counts(volume.run("gc", "--delete"))["objects"] == 2
    assert all(path.exists() for path in others)


# what it cleans


@pytest.mark.parametrize("kind", ENGINES)
def test_everything_is_counted_in_its_column_and_cleaned_when_asked(make: Maker, kind: str) -> None:
    volume = make(kind, trash_days=1)
    with volume.client() as client:
        fill(client)
        client.unlink(b"f0", client.ino(b"dir"))  # its slice is in the trash, and valid
        meta = client.vfs.meta
        assert meta.compact_all() > 0  # what was replaced is kept for the days of the trash
        replaced = sum(len(entry.slices) for entry in volume.engine.list_delayed())
    with volume.opened() as opened:
        opened.meta.deleter.store = None  # deletes nothing itself
        slice_id = opened.meta.new_slice_id()
        store_slice(opened, slice_id, BLOCK * 2)
        opened.meta.vol.transact(lambda tx: discard_slice(tx, slice_id, BLOCK * 2))
        ino, _ = opened.meta.create(SUPERUSER, ROOT, b"removed", 0o644, 0, 0)
        opened.meta.close(ino)
        gone = opened.meta.new_slice_id()
        store_slice(opened, gone, BLOCK)
        opened.meta.write_slice(ino, 0, 0, gone, BLOCK, opened.meta.vol.now())
        opened.meta.remove_tree(SUPERUSER, ROOT, b"removed", skip_trash=True)
    assert list(volume.engine.list_deleted_files())
    volume.leak(5)
    volume.age()
    first = gc_counts(volume.run("gc"))
    assert (first["pending delete"], first["compacted"], first["leaked"]) == (2, replaced, 1)
    assert first["valid"] == first["objects"] - 3 - replaced
    assert first["delslices"] == first["delfiles"] == 0
    assert len(volume.keys()) == first["objects"]

    second = volume.run("gc", "--delete")
    found = gc_counts(second)
    assert (found["delfiles"], found["delslices"], found["pending delete"]) == (1, 0, 0)
    assert (found["compacted"], found["leaked"]) == (replaced, 1)  # the trash is kept for its day
    assert "Deleted 2 pending slices" in second.texts("INFO")
    assert len(volume.keys()) == first["objects"] - 4
    assert not list(volume.engine.list_deleted_files()) and not list(volume.engine.dead_slices())

    age_trash(volume)
    third = gc_counts(volume.run("gc", "--delete"))
    assert (third["delslices"], third["compacted"]) == (replaced, 0)
    assert volume.engine.reader.list_entries(TRASH).items == []
    assert third["objects"] == third["valid"] == len(volume.keys())
    assert check(volume.engine) == []


def age_trash(volume: Tended) -> None:
    """Make everything in the trash two days old."""
    engine, then = volume.engine, int(time.time()) - 2 * 86400

    def body(tx: Any) -> None:
        for hour in engine.reader.list_entries(TRASH).items:
            tx.delete_entry(TRASH, hour.name)
            name = time.strftime("%Y-%m-%d-%H", time.gmtime(then)).encode()
            tx.put_entry(TRASH, name, Dirent(DIRECTORY, hour.ino))
        for entry in engine.list_delayed():
            tx.delete_delayed(entry.id, entry.created)
            tx.put_delayed(entry._replace(created=then))

    engine.transact(body)


def test_without_days_the_trash_is_emptied_at_once(make: Maker) -> None:
    """Whoever sets --trash-days to 0 expects that `gc --delete` makes room."""
    volume = make("sqlite3", trash_days=1)
    with volume.client() as client:
        fill(client)
        client.vfs.meta.compact_all()
        client.vfs.meta.remove_tree(SUPERUSER, ROOT, b"dir")
    time.sleep(1.1)  # what was replaced must be older than this second
    init_volume(volume.engine, replace(volume.setting, trash_days=0))
    volume.age()
    assert gc_counts(volume.run("gc", "--delete"))["objects"] == 0
    assert volume.keys() == []
    assert check(volume.engine) == []


def test_unfinished_clones_go_after_a_day(make: Maker) -> None:
    volume = make("sqlite3")
    with volume.client() as client:
        fill(client)
        meta = client.vfs.meta
        for age_s in (80_000, 90_000):
            ino, _ = meta.clone(SUPERUSER, client.ino(b"dir"), ROOT, b"copy%d" % age_s, 0, 0)

            def detach(tx: Any, ino: int = ino, age_s: int = age_s) -> None:
                tx.delete_entry(ROOT, b"copy%d" % age_s)
                root = tx.attr(ROOT)
                root.nlink -= 1
                tx.put_attr(ROOT, root)
                tx.put_detached(ino, int(time.time()) - age_s)

            volume.engine.transact(detach)
    volume.run("gc")
    assert len(volume.engine.detached(1 << 40)) == 2
    volume.run("gc", "--delete")
    assert len(volume.engine.detached(1 << 40)) == 1


@pytest.mark.parametrize("trash_days", [0, 1])
@pytest.mark.parametrize("kind", ENGINES)
def test_compaction_shortens_chunks_and_keeps_what_is_in_them(make: Maker, kind: str, trash_days: int) -> None:
    volume = make(kind, trash_days=trash_days)
    with volume.client() as client:
        contents = fill(client)
    longest = max(len(records) for _, _, records in volume.engine.list_slices())
    assert longest >= 12 * 24
    said = volume.run("gc", "--compact", "--threads", "3")
    gc_counts(said)
    told = [text for text in said.texts("INFO") if text.startswith("Compacted")]
    assert len(told) == 1 and told[0].startswith("Compacted 1 chunks (") and told[0].endswith(" bytes).")
    assert max(len(records) for _, _, records in volume.engine.list_slices()) <= 2 * 24
    volume.age()
    found = gc_counts(volume.run("gc"))
    assert found["leaked"] == found["pending delete"] == 0
    assert bool(found["compacted"]) == bool(trash_days)
    with volume.client() as client:
        read_all(client, contents)
    assert check(volume.engine) == []
    assert not said.complaints()


def test_a_chunk_that_cannot_be_compacted_keeps_no_other(make: Maker) -> None:
    volume = make("sqlite3")
    with volume.client() as client:
        fill(client)
        for name in (b"a", b"b"):
            file = client.create(name)
            for number in range(3):
                file.write(number * 100, b"x" * 100)
                file.flush()
            file.close()
        ino = client.ino(b"a")
        first = volume.engine.reader.chunk(ino, 0)
        lost = int.from_bytes(first[4:12], "big")
    volume.path(f"chunks/0/0/{lost}_0_100").unlink()
    said = volume.run("gc", "--compact")
    assert said.code == 0
    assert [text for text in said.complaints() if f"compact chunk 0 of inode {ino}: " in text]
    assert any(text.startswith("Compacted 2 chunks") for text in said.texts("INFO"))
    assert volume.engine.reader.chunk(ino, 0) == first


@pytest.mark.parametrize("kind", ENGINES)
def test_chunks_of_files_that_do_not_exist_are_removed(make: Maker, kind: str) -> None:
    """Redis may be left with some. What a name still leads to has lost its record, and may be mended."""
    volume = make(kind)
    with volume.client() as client:
        fill(client)
        lost = client.ino(b"dir", b"f2")
    with volume.opened() as opened:
        slice_id = opened.meta.new_slice_id()
        store_slice(opened, slice_id, 100)

        def damage(tx: Any) -> None:
            tx.append_slices(999_999, 7, Slice(0, slice_id, 100, 0, 100).encode())
            tx.new_slice(slice_id, 100)
            tx.delete_attr(lost)

        volume.engine.transact(damage)
    volume.age()
    before = volume.keys()
    assert gc_counts(volume.run("gc"))["leaked"] == 0
    assert volume.keys() == before
    said = volume.run("gc", "--delete")
    gc_counts(said)
    assert "Deleted 1 chunks of files that do not exist" in said.texts("INFO")
    assert volume.engine.reader.chunk(999_999, 7) == b""
    assert volume.engine.reader.chunk(lost, 0) != b""
    assert set(before) - set(volume.keys()) == {volume.key(Block(slice_id, 0, 100))}
    assert "Deleted 1 pending slices" in said.texts("INFO")


def test_without_orphans_the_names_of_the_volume_are_not_read(make: Maker) -> None:
    volume = make("memkv")
    with volume.client() as client:
        fill(client)
        meta = client.vfs.meta
        meta.engine.list_edges = lambda: pytest.fail("read all names")  # type: ignore[method-assign]
        assert remove_orphans(meta) == 0


# mistakes


@pytest.mark.parametrize("words", [("--delete", "--threads", "0"), ("--compact", "-p", "-1")])
def test_threads_are_needed_to_change_anything(make: Maker, words: tuple[str, ...]) -> None:
    volume = make("memkv")
    said = volume.run("gc", *words)
    assert said.code == 1
    assert said.last() == "threads should be greater than 0 to delete or compact objects"
    assert volume.run("gc", "--threads", "0").code == 0


def test_a_volume_with_a_change_log_is_only_looked_at(make: Maker) -> None:
    volume = make("sqlite3", change_log=True)
    assert volume.run("gc").code == 0
    said = volume.run("gc", "--delete")
    assert said.code == 1
    assert "change log" in said.last()


def test_a_database_without_a_volume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["juicefs", "gc", f"sqlite3://{tmp_path}/none.db"]) == 1
    assert "database is not formatted" in capsys.readouterr().err
    assert not (tmp_path / "none.db").exists()


# what others think of it


NOTHING_LEAKED = re.compile(r"no leaked|, 0 leaked")
"""As the official clients 0.14 and 1.4 say it."""


def test_an_official_client_finds_nothing_to_add(tmp_path: Path, make: Maker) -> None:
    """After ours has cleaned, theirs finds no garbage and no loss; and what theirs calls leaked, ours does."""
    volume = make("redis")
    with volume.client() as client:
        contents = fill(client)
        client.vfs.meta.compact_all()
        client.unlink(b"f0", client.ino(b"dir"))
        del contents[b"f0"]
    volume.leak()
    volume.age()
    status, said = go_client.run("gc", volume.url)
    assert status == 0 and " 2 leaked" in said, said
    found = gc_counts(volume.run("gc", "--delete", "--compact"))
    assert found["leaked"] == 2
    status, said = go_client.run("gc", volume.url)
    assert status == 0 and NOTHING_LEAKED.search(said), said
    go_client.go_fsck(Volume(tmp_path, "redis", url=volume.url))
    with volume.client() as client:
        read_all(client, contents)
