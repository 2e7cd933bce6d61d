"""`juicefs gc` never guesses: incomplete listings, unreadable metadata, others who work meanwhile; and its memory."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis
import redis_server
from clients import ENGINES, fresh_url
from faults import FaultyBucket, failing_first
from tended import BLOCK, Background, Maker, Tended, fill, gc_counts, making, read_all, store_slice

from chunkstore.bucket import Bucket, ObjectInfo
from chunkstore.buckets.mem import MemBucket
from chunkstore.buckets.prefix import PrefixBucket
from chunkstore.errors import Unavailable
from chunkstore.naming import blocks_of
from juicefs_py.cli.progress import Progress
from juicefs_py.maintenance import objects
from juicefs_py.maintenance.gc import ObjectScan, delete_leaked
from meta.client import MetaClient
from meta.config import MetaConfig
from meta.engines import open_engine
from meta.errors import Corrupt, EngineError, VolumeGone
from meta.rules.check import check
from meta.rules.format import init_volume
from meta.setting import Setting
from meta.slices import Slice
from meta.types import ROOT, SUPERUSER


@pytest.fixture
def make(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Maker]:
    monkeypatch.delenv("JFS_GC_SKIPPEDTIME", raising=False)
    monkeypatch.setattr(objects, "_PAUSES_S", (0.0, 0.0, 0.0))
    with making(tmp_path, capsys) as make:
        yield make


def test_a_listing_of_objects_that_fails_deletes_nothing(make: Maker) -> None:
    volume = make("sqlite3")
    with volume.client() as client:
        fill(client)
    volume.leak()
    volume.age()
    before = volume.keys()
    loop = volume.bucket_directory / "vol" / "chunks" / "0" / "1"
    loop.symlink_to(loop)  # a directory that cannot be read, after all that can
    said = volume.run("gc", "--delete")
    assert said.code == 1
    assert said.last().startswith(f"list all blocks: list objects in {volume.bucket_directory}/vol/chunks/: ")
    assert said.last().endswith("; no leaked object was deleted")
    loop.unlink()
    assert volume.keys() == before


class Watched(PrefixBucket):
    """A bucket whose listings tell how many objects they have given so far: somebody works meanwhile, or they break."""

    def __init__(self, inner: Bucket, tell: Callable[[int], None]) -> None:
        super().__init__(inner, "")
        self._tell = tell
        self._given = 0

    def list_all(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        for info in super().list_all(prefix, after):
            self._tell(self._given)
            self._given += 1
            yield info


def scanned(meta: MetaClient, bucket: Bucket, youngest: float | None = None) -> ObjectScan:
    """A scan that has been run; nothing is too young."""
    limit = time.time() + 10 if youngest is None else youngest
    with Progress(quiet=True) as progress:
        scan = ObjectScan(meta, bucket, BLOCK, limit, progress)
        try:
            scan.learn()
            scan.run()
        except BaseException:
            scan.close()
            raise
        return scan


@pytest.mark.parametrize("times", [1, 3, 100])
def test_a_listing_goes_on_after_passing_failures(make: Maker, times: int) -> None:
    volume = make("memkv")
    with volume.opened() as opened:
        bucket = MemBucket()
        for number in range(10):
            bucket.put(f"chunks/0/0/{number}_0_1", b"1")
        fail = failing_first(times, "list")
        broken = Watched(bucket, lambda given: fail("list", "") if given == 5 else None)
        if times == 100:
            with pytest.raises(Unavailable):
                scanned(opened.meta, broken)
            return
        with closing(scanned(opened.meta, broken)) as scan:
            assert scan.scanned.count == scan.leaked.objects.count == 10
            assert sorted(key for keys in scan.leaked_keys() for key in keys) == sorted(
                f"chunks/0/0/{number}_0_1" for number in range(10)
            )


@pytest.mark.parametrize("kind", ENGINES)
def test_records_that_cannot_be_read_end_it(make: Maker, kind: str) -> None:
    """Nobody knows which slices they name."""
    volume = make(kind)
    with volume.client() as client:
        fill(client)
        ino = client.ino(b"dir", b"f0")
    damage_chunk(volume, ino)
    volume.leak()
    volume.age()
    before = volume.keys()
    for words in ((), ("--delete",)):
        said = volume.run("gc", *words)
        assert said.code == 1
        assert f": chunk 0 of inode {ino}: slice records" in said.last()
        assert "no leaked object was deleted" in said.last()
        assert volume.keys() == before


def damage_chunk(volume: Tended, ino: int) -> None:
    """Cut the last record of a chunk short."""
    records = volume.engine.reader.chunk(ino, 0)
    if volume.kind == "redis":
        with closing(redis.Redis.from_url(volume.url)) as server:
            server.rpush(f"c{ino}_0", b"short")
    else:
        volume.engine.transact(lambda tx: tx.put_chunk(ino, 0, records + b"short"))


def test_an_impossible_slice_number_ends_it(make: Maker) -> None:
    volume = make("memkv")
    volume.engine.transact(lambda tx: tx.append_slices(5, 0, Slice(0, 1 << 63, 9, 0, 9).encode()))
    with volume.opened() as opened, pytest.raises(Corrupt, match="chunk 0 of inode 5: impossible slice number"):
        scanned(opened.meta, MemBucket())


def test_a_database_that_is_taken_away_is_no_empty_one(make: Maker) -> None:
    volume = make("sqlite3")
    with volume.client() as client:
        fill(client)
    with volume.opened() as opened:
        meta = MetaClient(open_engine(volume.url), MetaConfig(read_only=True))
        meta.load()
        os.rename(volume.url.removeprefix("sqlite3://"), f"{volume.directory}/elsewhere.db")
        try:
            with pytest.raises(VolumeGone):
                scanned(meta, opened.store.bucket)
        finally:
            os.rename(f"{volume.directory}/elsewhere.db", volume.url.removeprefix("sqlite3://"))
            meta.engine.close()


def test_a_redis_that_was_restarted_while_it_was_listed_is_noticed() -> None:
    """Its cursors mean other places then, so that keys would be passed over."""
    with closing(redis_server.RedisServer().start()) as server:
        url = server.url(1)
        engine = open_engine(url)
        engine.prepare()
        init_volume(engine, Setting(name="vol", uuid="5a1ade", trash_days=0))
        record = Slice(0, 1, 9, 0, 9).encode()
        with server.client(1) as client, client.pipeline() as pipe:
            for number in range(25_000):
                pipe.rpush(f"c{number}_0", record)
            pipe.execute()
        walk = engine.list_slices()
        next(walk)
        server.kill()
        server.start()
        with pytest.raises(EngineError, match="was restarted or replaced while it was listed"):
            list(walk)
        assert len(list(engine.list_slices())) >= 25_000
        engine.close()


def test_deletions_that_fail_are_told_and_found_again(make: Maker) -> None:
    volume = make("sqlite3")
    keys = volume.leak()
    with volume.opened() as opened:
        bucket = FaultyBucket(opened.store.bucket)

        def fail(method: str, key: str) -> None:
            if method == "delete" and key == keys[0]:
                raise Unavailable("it is away")

        bucket.fail = fail
        with closing(scanned(opened.meta, bucket)) as scan:
            delete_leaked(bucket, scan, 2)
        assert volume.keys() == [keys[0]]
        with closing(scanned(opened.meta, opened.store.bucket)) as scan:
            delete_leaked(opened.store.bucket, scan, 2)
        assert volume.keys() == []


# while others work


@pytest.mark.parametrize("kind", ENGINES)
def test_a_slice_that_is_committed_during_the_listing_is_kept(make: Maker, kind: str) -> None:
    """Its object was listed without a slice; whatever its age."""
    volume = make(kind)
    with volume.opened() as opened:
        meta = opened.meta
        ino, _ = meta.create(SUPERUSER, ROOT, b"f", 0o644, 0, 0)
        ids = [meta.new_slice_id() for _ in range(3)]
        for slice_id in ids:
            store_slice(opened, slice_id, 100)

        def commit(given: int) -> None:
            if given == 2:
                meta.write_slice(ino, 0, 0, ids[0], 100, meta.vol.now())

        bucket = Watched(opened.store.bucket, commit)
        with closing(scanned(meta, bucket)) as scan:
            delete_leaked(bucket, scan, 2)
            assert (scan.valid.objects.count, scan.leaked.objects.count) == (1, 2)
        assert volume.keys() == [f"chunks/0/0/{ids[0]}_0_100"]
        meta.close(ino)


@pytest.mark.parametrize("kind", ENGINES)
def test_a_slice_that_changes_places_behind_the_scan_is_kept(make: Maker, kind: str) -> None:
    """A clone may bring it where the scan has been before its first place is removed; then its count tells."""
    volume = make(kind)
    with volume.client() as client:
        meta, engine = client.vfs.meta, client.vfs.meta.engine
        file = client.create(b"a")
        file.write(0, b"x" * 100)
        file.close()
        meta.clone(SUPERUSER, client.ino(b"a"), ROOT, b"b", 0, 0)
        client.unlink(b"a")
        assert meta.deleter.drain(20)
        hidden = client.ino(b"b")
        walk = engine.list_slices
        engine.list_slices = lambda: (each for each in walk() if each[0] != hidden)  # type: ignore[method-assign]
        with closing(scanned(meta, client.vfs.store.bucket)) as scan:
            assert (scan.valid.objects.count, scan.leaked.objects.count) == (1, 0)


@pytest.mark.parametrize("kind", ENGINES)
def test_nothing_is_lost_under_writers(make: Maker, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits follow uploads within much less than a second, so a second does here what the hour does elsewhere."""
    monkeypatch.setenv("JFS_GC_SKIPPEDTIME", "1")
    volume = make(kind)
    contents: dict[bytes, bytes] = {}
    with volume.client() as client:
        top = client.mkdir(b"dir")

        def work(turn: int) -> None:
            name, data = b"%d" % turn, os.urandom(500 + turn % 7 * 20_000)
            file = client.create(name, top)
            for at in range(0, len(data), 20_000):
                file.write(at, data[at : at + 20_000])
                file.flush()
            file.close()
            contents[name] = data
            if turn % 3 == 2:  # away and back by a clone, so that its slices change places
                client.vfs.meta.clone(SUPERUSER, client.ino(b"dir", name), top, b"c" + name, 0, 0)
                client.unlink(name, top)
                contents[b"c" + name] = contents.pop(name)
            if turn % 5 == 4:
                client.vfs.meta.compact_chunk(client.ino(b"dir", b"%d" % turn if turn % 3 != 2 else b"c%d" % turn), 0)
            if turn > 20:
                client.unlink(old := next(iter(contents)), top)
                del contents[old]

        with Background(work) as writer:
            end = time.monotonic() + 2
            while time.monotonic() < end:
                said = volume.run("gc", "--delete", "--compact", "--threads", "2")
                assert said.code == 0
                assert gc_counts(said)["leaked"] == 0
        assert writer.rounds > 5
        read_all(client, contents)
        assert client.vfs.meta.deleter.drain(20)
    assert volume.run("fsck").code == 0
    assert check(volume.engine) == []


# memory


MANY = 100_000


class Listed(MemBucket):
    """Two objects for each of so many slices, made up while they are listed."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count

    def list_all(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        for number in range(1, self._count + 1):
            for block in blocks_of(number, BLOCK + 1, BLOCK):
                yield ObjectInfo(block.key(), block.size, 1.0)


def many_slices(tmp_path: Path, count: int) -> str:
    """The address of a volume with so many slices and nothing else, written past the rules."""
    url = fresh_url("sqlite3", tmp_path)
    with closing(open_engine(url)) as engine:
        engine.prepare()
        init_volume(engine, Setting(name="vol", uuid="5a1ade", trash_days=0))
    records = ((10 + n, 0, Slice(0, n, BLOCK + 1, 0, BLOCK + 1).encode()) for n in range(1, count + 1))
    with closing(sqlite3.connect(url.removeprefix("sqlite3://"))) as database:
        database.executemany("INSERT INTO jfs_chunk(inode, indx, slices) VALUES(?, ?, ?)", records)
        database.commit()
    return url


def peak_of_scan(tmp_path: Path, count: int) -> int:
    """Bytes that Python held at most while twice as many objects as there should be were compared with slices."""
    directory = tmp_path / str(count)
    directory.mkdir()
    meta = MetaClient(open_engine(many_slices(directory, count)), MetaConfig(no_bgjob=True))
    meta.load()
    tracemalloc.start()
    try:
        with closing(scanned(meta, Listed(2 * count))) as scan:
            assert scan.valid.objects.count == scan.leaked.objects.count == 2 * count
            assert sum(len(keys) for keys in scan.leaked_keys()) == 2 * count
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        meta.engine.close()


def test_memory_does_not_grow_with_the_volume(tmp_path: Path) -> None:
    small, large = peak_of_scan(tmp_path, 3_000), peak_of_scan(tmp_path, 12_000)
    assert large - small < 256 << 10, f"{small >> 10} KiB, {large >> 10} KiB"


def test_resident_memory_stays_small(tmp_path: Path) -> None:
    """With what the temporary databases hold, which tracemalloc does not see."""
    url = many_slices(tmp_path, MANY)
    program = (
        "import resource, sys; from test_cli_gc_safety import scanned, Listed, MANY;"
        "from meta.client import MetaClient; from meta.engines import open_engine;"
        "meta = MetaClient(open_engine(sys.argv[1])); meta.load();"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "scan = scanned(meta, Listed(MANY)); assert scan.valid.objects.count == 2 * MANY;"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    here = Path(__file__).resolve().parent
    done = subprocess.run(
        [sys.executable, "-c", program, url], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": f"{here}:{here.parent}"}, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 60 << 10, f"{done.stdout} KiB"
