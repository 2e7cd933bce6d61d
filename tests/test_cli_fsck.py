"""`juicefs fsck`: lost blocks and the files that need them, in every format; directories and their repair."""

from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from buckets import KEY
from clients import ENGINES
from faults import FaultyBucket
from tended import BLOCK, FORMATS, Background, Maker, Tended, fill, making, store_slice
from vfs_harness import Client

from chunkstore.bucket import Bucket, ObjectInfo
from chunkstore.buckets.mem import MemBucket
from chunkstore.buckets.prefix import PrefixBucket
from chunkstore.errors import Unavailable
from chunkstore.naming import blocks_of
from juicefs_py.cli.progress import Progress
from juicefs_py.maintenance import objects
from juicefs_py.maintenance.fsck_blocks import BlockCheck
from juicefs_py.storage import volume_bucket
from meta.client import MetaClient
from meta.rules import repair
from meta.rules.check import check
from meta.slices import Slice
from meta.transaction import DirStat
from meta.types import DIRECTORY, ROOT, SUPERUSER, Dirent

WAYS: list[tuple[str, ...]] = [(), ("--path", "/", "--recursive"), ("--path", "/", "-r", "--sync-dir-stat")]
"""The whole volume by a listing, and by walking."""


@pytest.fixture
def make(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Maker]:
    monkeypatch.setattr(objects, "_PAUSES_S", (0.0, 0.0, 0.0))
    with making(tmp_path, capsys) as make:
        yield make


def small(client: Client, name: bytes, size: int, parent: int = ROOT) -> int:
    """A file of one slice, which is numbered from 1 in a fresh volume; its inode."""
    file = client.create(name, parent)
    file.write(0, os.urandom(size))
    file.close()
    return file.ino


# blocks


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("form", FORMATS)
def test_a_sound_volume_is_sound(make: Maker, kind: str, form: str) -> None:
    volume = make(kind, **FORMATS[form])
    with volume.client() as client:
        fill(client)
    sizes = [info.size for info in objects.list_blocks(volume_bucket(volume.setting))]
    for way in WAYS:
        said = volume.run("fsck", *way)
        assert said.code == 0
        assert not said.complaints()
        assert said.texts("INFO")[-2] == f"Found {len(sizes)} blocks ({sum(sizes)} bytes)"
        assert said.last() == "Used by 15 slices (248760 bytes)"
    assert "Checked 10 nodes" in said.texts("INFO")
    assert volume.engine.sessions() == []


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("form", FORMATS)
def test_lost_blocks_are_told_with_their_files(make: Maker, kind: str, form: str) -> None:
    volume = make(kind, **FORMATS[form])
    with volume.client() as client:
        top = client.mkdir(b"d")
        ino = small(client, b"f", BLOCK * 2 + 5, top)
        small(client, b"whole", BLOCK + 5, top)
        blocks = list(blocks_of(1, BLOCK * 2 + 5, BLOCK))
    for block in blocks[1:]:
        volume.path(volume.key(block)).unlink()
    for way in WAYS:
        said = volume.run("fsck", *way)
        assert said.code == 1
        errors = said.texts("ERROR")
        assert [error.partition(": ")[0] for error in errors] == [
            f"can't find block {volume.key(block).removeprefix('chunks/')} for file /d/f" for block in blocks[1:]
        ]
        assert said.lines[-1][0] == "FATAL"
        assert said.last().splitlines() == [
            f"2 objects are lost ({BLOCK + 5} bytes), 1 broken files:",
            "        INODE: PATH",
            f"{ino:>13}: /d/f",
        ]


def test_every_file_that_needs_a_lost_block_is_broken(make: Maker) -> None:
    volume = make("redis")
    with volume.client() as client:
        first = small(client, b"a", 100)
        client.vfs.meta.clone(SUPERUSER, first, ROOT, b"b", 0, 0)
        second = client.ino(b"b")
    volume.path("chunks/0/0/1_0_100").unlink()
    said = volume.run("fsck")
    assert len(said.texts("ERROR")) == 2
    assert said.last().splitlines()[0] == "1 objects are lost (100 bytes), 2 broken files:"
    assert said.last().splitlines()[2:] == [f"{first:13}: /a", f"{second:13}: /b"]
    assert volume.run("fsck", "--path", "/b").last().splitlines()[2:] == [f"{second:13}: /b"]
    with volume.client() as client:
        for name in (b"a", b"b"):
            client.unlink(name)
    assert volume.run("fsck").code == 0


@pytest.mark.parametrize("damage", ["renamed", "elsewhere", "short", "empty"])
@pytest.mark.parametrize("way", WAYS[:2])
def test_an_object_that_cannot_be_the_block_is_a_lost_one(make: Maker, way: tuple[str, ...], damage: str) -> None:
    volume = make("sqlite3")
    with volume.client() as client:
        small(client, b"f", BLOCK + 100)
    path = volume.path("chunks/0/0/1_1_100")
    if damage == "renamed":
        path.rename(path.with_name("1_1_99"))
    elif damage == "elsewhere":
        (path.parent.parent / "1").mkdir()
        path.rename(path.parent.parent / "1" / path.name)
    else:
        os.truncate(path, 99 if damage == "short" else 0)
    said = volume.run("fsck", *way)
    assert said.code == 1
    assert said.last().startswith("1 objects are lost (100 bytes), 1 broken files:")
    (error,) = said.texts("ERROR")
    assert error.startswith("can't find block 0/0/1_1_100 for file /f: ")
    if damage in ("short", "empty"):
        assert error.endswith(f"the object has {99 if damage == 'short' else 0} bytes, and not 100")


def test_an_encrypted_volume(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JFS_RSA_PASSPHRASE", "golden")
    volume = make("sqlite3", encrypt_key=KEY)
    with volume.client() as client:
        fill(client)
    assert all(volume.run("fsck", *way).code == 0 for way in WAYS)
    volume.path(volume.keys()[0]).unlink()
    assert [volume.run("fsck", *way).code for way in WAYS] == [1, 1, 1]


def test_garbage_and_what_waits_for_deletion_do_not_matter(make: Maker) -> None:
    volume = make("sqlite3", trash_days=1)
    with volume.client() as client:
        fill(client)
        meta = client.vfs.meta
        meta.compact_all()
        ino = small(client, b"removed", 100)
        (record,) = meta.read_chunk(ino, 0)
        meta.deleter.store = None
        meta.remove_tree(SUPERUSER, ROOT, b"removed", skip_trash=True)
    (entry,) = volume.engine.list_delayed()
    gone = [(record.id, record.size), *entry.slices]
    for slice_id, size in set(gone):
        for block in blocks_of(slice_id, size, BLOCK):
            volume.path(volume.key(block)).unlink()
    volume.leak()
    said = volume.run("fsck")
    assert said.code == 0 and not said.complaints()


@pytest.mark.parametrize("way", WAYS[:2])
def test_a_healthy_volume_is_listed_and_not_asked_object_by_object(make: Maker, way: tuple[str, ...]) -> None:
    volume = make("memkv")
    with volume.client() as client:
        fill(client)
        bucket = FaultyBucket(client.vfs.store.bucket)
        with checking(client.vfs.meta, bucket) as blocks:
            blocks.need_all()
            if not way:
                blocks.find()
            blocks.check()
            assert blocks.verdict() == ""
            assert bucket.count("head") == (0 if not way else len(volume.keys()))


def checking(meta: MetaClient, bucket: Bucket) -> Any:
    return closing(BlockCheck(meta, bucket, BLOCK, Progress(quiet=True)))


def test_requests_that_fail_once_are_repeated_and_those_that_go_on_end_it(make: Maker) -> None:
    """A storage that is away has lost nothing."""
    volume = make("memkv")
    with volume.client() as client:
        small(client, b"f", BLOCK * 3)
        bucket = FaultyBucket(client.vfs.store.bucket)
        failures = dict.fromkeys(volume.keys(), 2)

        def fail(method: str, key: str) -> None:
            if method == "head" and failures[key]:
                failures[key] -= 1
                raise Unavailable("it is away")

        bucket.fail = fail
        with checking(client.vfs.meta, bucket) as blocks:
            blocks.need_all()
            blocks.check()
            assert blocks.verdict() == "" and not any(failures.values())
        failures = dict.fromkeys(failures, 1000)
        with checking(client.vfs.meta, bucket) as blocks:
            blocks.need_all()
            with pytest.raises(Unavailable):
                blocks.check()


def test_a_listing_that_fails_is_no_loss(make: Maker) -> None:
    volume = make("sqlite3")
    with volume.client() as client:
        fill(client)
    loop = volume.bucket_directory / "vol" / "chunks" / "0" / "1"
    loop.symlink_to(loop)
    said = volume.run("fsck")
    assert said.code == 1
    assert said.last().startswith("list all blocks: list objects in ")
    assert not said.texts("ERROR")


@pytest.mark.parametrize("kind", ENGINES)
def test_records_that_cannot_be_read_are_told(make: Maker, kind: str) -> None:
    volume = make(kind)
    with volume.client() as client:
        ino = small(client, b"f", 100)
    volume.engine.transact(lambda tx: tx.append_slices(ino, 0, Slice(0, 1 << 63, 9, 0, 9).encode()))
    for way in WAYS:
        said = volume.run("fsck", *way)
        assert said.code == 1
        assert said.last().endswith(f": chunk 0 of inode {ino}: impossible slice number {1 << 63}")


# while others work


class Meanwhile(PrefixBucket):
    """A bucket before whose listings, and before whose first answer about an object, somebody does something."""

    def __init__(self, inner: Bucket, work: Callable[[], None]) -> None:
        super().__init__(inner, "")
        self._work = work

    def list_all(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        self._once()
        return super().list_all(prefix, after)

    def head(self, key: str) -> ObjectInfo:
        self._once()
        return super().head(key)

    def _once(self) -> None:
        work, self._work = self._work, lambda: None
        work()


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("kind", ENGINES)
def test_what_is_removed_or_compacted_meanwhile_is_not_lost(make: Maker, kind: str, listed: bool) -> None:
    volume = make(kind)
    with volume.client() as client:
        small(client, b"removed", BLOCK + 5)
        fill(client)
        meta = client.vfs.meta

        def work() -> None:
            client.unlink(b"removed")
            meta.compact_all()
            assert meta.deleter.drain(20)

        with checking(meta, Meanwhile(client.vfs.store.bucket, work)) as blocks:
            blocks.need_all()
            before = len(volume.keys())
            if listed:
                blocks.find()
            blocks.check()
            assert len(volume.keys()) < before
            assert blocks.verdict() == ""


@pytest.mark.parametrize("way", WAYS[:2])
@pytest.mark.parametrize("kind", ENGINES)
def test_nothing_is_called_lost_under_writers(make: Maker, kind: str, way: tuple[str, ...]) -> None:
    volume = make(kind)
    with volume.client() as client:

        def work(turn: int) -> None:
            top = client.mkdir(b"d%d" % turn)
            for number in range(4):
                small(client, b"%d" % number, 30_000 * number + 1, top)
            file = client.create(b"scattered", top)
            for number in range(6):
                file.write(number * 100, b"x" * 200)
                file.flush()
            file.close()
            client.vfs.meta.compact_chunk(file.ino, 0)
            if turn:
                client.vfs.meta.remove_tree(SUPERUSER, ROOT, b"d%d" % (turn - 1))

        with Background(work) as writer:
            end = time.monotonic() + 1
            while time.monotonic() < end:
                said = volume.run("fsck", *way)
                assert said.code == 0 and not said.complaints(), said
        assert writer.rounds > 2


# directories


@pytest.fixture(params=ENGINES)
def volume(make: Maker, request: pytest.FixtureRequest) -> Tended:
    """A volume with a small tree: /d/sub and /d/f."""
    volume = make(request.param, trash_days=1)
    with volume.client() as client:
        top = client.mkdir(b"d")
        client.mkdir(b"sub", top)
        small(client, b"f", 5000, top)
    return volume


def ino_of(volume: Tended, *names: bytes) -> int:
    ino = ROOT
    for name in names:
        entry = volume.engine.reader.entry(ino, name)
        assert entry is not None
        ino = entry.ino
    return ino


def change(volume: Tended, ino: int, **fields: int) -> None:
    attr = volume.engine.reader.attr(ino)
    for name, value in fields.items():
        setattr(attr, name, value)
    volume.engine.transact(lambda tx: tx.put_attr(ino, attr))


BROKEN = "check: some errors occurred, please check the log of fsck"


def test_a_wrong_link_count(volume: Tended) -> None:
    ino = ino_of(volume, b"d")
    change(volume, ino, nlink=100)
    assert volume.run("fsck").code == 0
    assert volume.run("fsck", "--path", "/").code == 0  # only the root itself
    for words in (("--path", "/", "-r"), ("--path", "//d/"), ("--path", "/d", "--recursive")):
        said = volume.run("fsck", *words)
        assert said.code == 1
        assert said.texts("WARNING") == [
            "nlink of /d should be 3, but got 100",
            f"Path /d (inode {ino}) can be repaired, please re-run with '--path /d --repair' to fix it",
        ]
        assert said.last() == BROKEN
    said = volume.run("fsck", "--path", "/d", "--repair")
    assert said.code == 0
    assert said.complaints() == ["nlink of /d should be 3, but got 100"]
    said = volume.run("fsck", "--path", "/", "-r")
    assert said.code == 0 and not said.complaints()
    assert check(volume.engine) == []


def test_what_another_client_makes_between_count_and_repair_counts(
    volume: Tended, monkeypatch: pytest.MonkeyPatch
) -> None:
    ino = ino_of(volume, b"d")
    change(volume, ino, nlink=9)
    with volume.client() as other, volume.opened() as ours:
        real, names = repair.inspect_links, iter((b"new",))

        def inspect(*arguments: Any) -> Any:
            found = real(*arguments)
            for name in names:
                other.mkdir(name, ino)
            return found

        monkeypatch.setattr(repair, "inspect_links", inspect)
        repair.repair_links(ours.meta.vol, ino, ROOT, 0o755)
    attr = volume.engine.reader.attr(ino)
    assert attr is not None and attr.nlink == 4
    assert check(volume.engine) == []


def test_a_directory_without_a_record(volume: Tended) -> None:
    ino = ino_of(volume, b"d")
    volume.engine.transact(lambda tx: tx.delete_attr(ino))
    said = volume.run("fsck", "--path", "/", "-r")
    assert said.code == 1
    assert said.texts("WARNING")[0] == "attribute of /d is missing"
    said = volume.run("fsck", "--path", "/d/sub")
    assert said.texts("WARNING") == [
        f"Attribute of /d (inode {ino}) is missing, please re-run with '--path /d --repair' to fix it"
    ]
    assert volume.run("fsck", "--path", "/", "-r", "--repair", "--repair-dir-mode", "0710").code == 0
    attr = volume.engine.reader.attr(ino)
    assert attr is not None
    assert (attr.mode, attr.uid, attr.gid, attr.nlink, attr.parent) == (0o710, 0, 0, 3, ROOT)
    assert volume.run("fsck", "--path", "/", "-r").code == 0
    assert check(volume.engine) == []


def test_a_file_without_a_record_is_told_but_not_invented(volume: Tended) -> None:
    ino = ino_of(volume, b"d", b"f")
    volume.engine.transact(lambda tx: tx.delete_attr(ino))
    for words in ((), ("--repair",)):
        said = volume.run("fsck", "--path", "/d", "-r", *words)
        assert said.code == 1
        assert said.texts("WARNING") == [
            f"Attribute of /d/f (inode {ino} type 1) is missing and cannot be auto-repaired, please repair it manually"
            " or remove it"
        ]
    assert volume.engine.reader.attr(ino) is None


def test_statistics_that_are_missing_or_impossible(volume: Tended) -> None:
    ino = ino_of(volume, b"d")
    right = volume.engine.reader.dir_stat(ino)
    for stat in (None, DirStat(0, -4096, 1)):
        volume.engine.transact(
            lambda tx, stat=stat: tx.delete_dir_stat(ino) if stat is None else tx.put_dir_stat(ino, stat)  # type: ignore[misc]
        )
        said = volume.run("fsck", "--path", "/", "-r")
        assert said.code == 1
        assert said.texts("WARNING") == [
            "usage stat of /d is missing or broken",
            f"Stat of path /d (inode {ino}) should be synced, please re-run with '--path /d --repair --sync-dir-stat'"
            " to fix it",
        ]
        assert volume.run("fsck", "--path", "/d", "--repair").code == 0
        assert volume.engine.reader.dir_stat(ino) == right


def test_statistics_that_are_wrong_are_counted_only_when_asked(volume: Tended) -> None:
    ino = ino_of(volume, b"d")
    right = volume.engine.reader.dir_stat(ino)
    volume.engine.transact(lambda tx: tx.put_dir_stat(ino, DirStat(1, 8192, 1)))
    assert volume.run("fsck", "--path", "/", "-r").code == 0
    said = volume.run("fsck", "--path", "/", "-r", "--sync-dir-stat")
    assert said.code == 1
    assert said.texts("WARNING")[0] == (
        "usage stat of /d should be 5000 bytes in 2 inodes using 12288, but got 1 bytes in 1 inodes using 8192"
    )
    assert volume.run("fsck", "--path", "/", "-r", "--repair").code == 0
    assert volume.engine.reader.dir_stat(ino) != right
    assert volume.run("fsck", "--path", "/d", "--repair", "--sync-dir-stat").code == 0
    assert volume.engine.reader.dir_stat(ino) == right
    assert check(volume.engine) == []


def test_the_totals_of_the_volume(volume: Tended) -> None:
    volume.engine.flush()
    with volume.client() as client:
        client.unlink(b"f", client.ino(b"d"))  # what is in the trash counts
    right = [volume.engine.reader.counter(name) for name in ("usedSpace", "totalInodes")]
    volume.engine.transact(lambda tx: tx.add_usage(12_345, -3))
    for words in (("--path", "/", "--repair", "--sync-dir-stat"), ("--path", "/", "-r", "--sync-dir-stat")):
        assert volume.run("fsck", *words).code == 0
        assert volume.engine.reader.counter("usedSpace") == right[0] + 12_345
    said = volume.run("fsck", "--path", "/", "-r", "--repair", "--sync-dir-stat")
    assert said.code == 0
    assert f"the volume uses {right[0]} bytes and {right[1]} inodes" in said.texts("INFO")
    assert [volume.engine.reader.counter(name) for name in ("usedSpace", "totalInodes")] == right
    assert check(volume.engine) == []


def test_a_volume_without_statistics(make: Maker) -> None:
    volume = make("sqlite3", dir_stats=False)
    with volume.client() as client:
        fill(client)
    said = volume.run("fsck", "--path", "/", "-r", "--sync-dir-stat")
    assert said.code == 0
    assert said.complaints() == ["dir stats is disabled, flag '--sync-dir-stat' will be ignored"]


def test_the_trash_can_be_looked_at(make: Maker) -> None:
    """Neither link counts nor statistics of its directories are kept."""
    volume = make("sqlite3", trash_days=1)
    with volume.client() as client:
        fill(client)
        client.vfs.meta.remove_tree(SUPERUSER, ROOT, b"dir")
    said = volume.run("fsck", "--path", "/.trash", "-r", "--sync-dir-stat")
    assert said.code == 0 and not said.complaints()
    assert "Used by 15 slices (248760 bytes)" in said.texts("INFO")


def test_a_directory_that_contains_itself_does_not_last_for_ever(make: Maker) -> None:
    volume = make("memkv")
    with volume.client() as client:
        top = client.mkdir(b"d")
        below = client.mkdir(b"below", top)
    volume.engine.transact(lambda tx: tx.put_entry(below, b"again", Dirent(DIRECTORY, top)))
    said = volume.run("fsck", "--path", "/", "-r")
    assert said.code == 1
    assert f"/d/below/again (inode {top}) contains itself" in said.texts("WARNING")


def test_names_that_are_no_text_are_told(make: Maker) -> None:
    volume = make("sqlite3")
    with volume.client() as client:
        small(client, b"\xff\n", 100)
    volume.path("chunks/0/0/1_0_100").unlink()
    assert volume.run("fsck").last().endswith(": /\\xff\\x0a")


# mistakes


@pytest.mark.parametrize(("words", "text"), [
    (("--repair",), "Please provide the path to repair with `--path` option"),
    (("--path", "d"), 'file path "d" should be the absolute path within JuiceFS'),
    (("--path", "/", "--repair", "--repair-dir-mode", "9"), 'invalid repair-dir-mode "9": not an octal number'),
    (("--path", "/no/where"), "check: /no: no such file or directory"),
    (("--path", "/d/f/x"), "check: /d/f/x: no such file or directory"),
])  # fmt: skip
def test_wrong_use(volume: Tended, words: tuple[str, ...], text: str) -> None:
    said = volume.run("fsck", *words)
    assert said.code == 1
    assert said.last().startswith(text)


def test_only_a_repair_writes(make: Maker) -> None:
    volume = make("sqlite3", change_log=True)
    assert volume.run("fsck", "--path", "/", "-r").code == 0
    assert "change log" in volume.run("fsck", "--path", "/", "--repair").last()


# memory


class Listed(MemBucket):
    """Objects of slices that are made up while they are listed; those of the last one are missing."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count

    def list_all(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        for number in range(1, self._count):
            for block in blocks_of(number, BLOCK + 1, BLOCK):
                yield ObjectInfo(block.key(), block.size, 1.0)


def peak_of_check(volume: Tended, count: int) -> int:
    """Bytes that Python held at most while so many slices were checked."""
    with volume.client() as client:
        ino = small(client, b"%d" % count, 1)
        meta = client.vfs.meta
        chunk = Slice(0, count, BLOCK + 1, 0, BLOCK + 1).encode()
        meta.engine.transact(lambda tx: tx.put_chunk(ino, 0, chunk))
        made_up = ((10**6 + n, 0, Slice(0, n, BLOCK + 1, 0, BLOCK + 1).encode()) for n in range(1, count))
        tracemalloc.start()
        try:
            with checking(meta, Listed(count)) as blocks:
                blocks.need(made_up)
                blocks.need([(ino, 0, chunk)])
                blocks.find()
                blocks.check()
                assert blocks.lost.objects.count == 2
                assert blocks.used() == (count, count * (BLOCK + 1))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


def test_memory_does_not_grow_with_the_volume(make: Maker) -> None:
    volume = make("memkv")
    small_one, large_one = peak_of_check(volume, 3_000), peak_of_check(volume, 12_000)
    assert large_one - small_one < 256 << 10, f"{small_one >> 10} KiB, {large_one >> 10} KiB"


def test_a_slice_stored_but_never_committed_is_no_file(make: Maker) -> None:
    volume = make("memkv")
    with volume.opened() as opened:
        store_slice(opened, opened.meta.new_slice_id(), 10)
    assert volume.run("fsck").texts("INFO")[-1] == "Used by 0 slices (0 bytes)"
