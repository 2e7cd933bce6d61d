"""Warm-up from the inside of a mount: what fails is told and nothing else stops, many threads share one large file,
and it ends when nobody wants it any more. The command over real mounts is in `test_cli_warmup`.
"""

from __future__ import annotations

import errno
import json
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from faults import FaultyBucket
from vfs_harness import BLOCK, CALLER, ROOT, File, World, joined, world

from chunkstore.bucket import Bucket
from chunkstore.buckets.mem import MemBucket
from chunkstore.errors import NotFound, Unavailable
from fuse.operations import Caller
from juicefs_py.control.crew import Crew
from juicefs_py.vfs_config import VFSConfig
from meta.client import Changes
from meta.config import MetaConfig
from meta.errors import Unavailable as EngineUnavailable
from meta.types import SET_MODE, SUPERUSER

WARM, EVICT, CHECK = range(3)
NOBODY = Caller(65534, 65534, 0)
FILL_CACHE = 1004


class Warmable:
    """A volume with one client whose bucket can fail, and whose cache is in memory."""

    def __init__(self, made: World, meta: MetaConfig | None = None, **store: object) -> None:
        self.bucket = FaultyBucket(MemBucket())
        options = {"cache_dirs": ("memory",), "cache_size": 100 << 20, **store}
        self.client = made.client(self._wrap, meta=meta or MetaConfig(), vfs=VFSConfig(mount_point="/jfs"), **options)
        self.vfs = self.client.vfs

    def _wrap(self, inner: Bucket) -> Bucket:
        self.bucket.inner = inner
        return self.bucket

    def file(self, name: bytes, size: int, parent: int = ROOT) -> int:
        file = self.client.create(name, parent)
        file.write(0, os.urandom(size))
        file.close()
        return file.ino

    def send(self, action: int, *paths: bytes, threads: int = 4, background: int = 0, caller: Caller = CALLER) -> File:
        """Begin; the control file that the answer comes from."""
        joined_paths = b"\n".join(paths)
        payload = struct.pack(">I", len(joined_paths)) + joined_paths + struct.pack(">HBB", threads, background, action)
        ino = self.client.ino(b".control")
        file = File(self.client, ino, self.vfs.open(caller, ino, os.O_RDWR).fh)
        file.write(0, struct.pack(">II", FILL_CACHE, len(payload)) + payload)
        file.written = 8 + len(payload)  # type: ignore[attr-defined]
        return file

    def ask(self, action: int, *paths: bytes, **how: Any) -> dict[str, Any]:
        """The whole answer; `errno` if it was one."""
        file = self.send(action, *paths, **how)
        end, deadline = b"", time.monotonic() + 20
        while not end:
            assert time.monotonic() < deadline
            time.sleep(0.005)
            end = joined(self.vfs.read(CALLER, file.ino, file.fh, file.written, 100_000))  # type: ignore[attr-defined]
            while end[:1] == b"\xfe":  # progress
                end = end[17:]
        file.close()
        return json.loads(end[5:]) if end[:1] == b"\xff" else {"errno": end[0]}  # type: ignore[no-any-return]

    def gets(self) -> int:
        return self.bucket.count("get")


def failing(error: Exception, *names: str) -> Callable[[str, str], None]:
    """A rule: gets of keys that hold one of the names fail."""

    def rule(method: str, key: str) -> None:
        if method == "get" and any(name in key for name in names):
            raise error

    return rule


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[World]:
    with world("sqlite", tmp_path) as made:
        yield made


def test_all_blocks_come_into_the_cache_and_go_again(volume: World) -> None:
    here = Warmable(volume)
    folder = here.client.mkdir(b"d")
    here.file(b"a", 3 * BLOCK, folder)
    here.file(b"b", 10, folder)
    total = 3 * BLOCK + 10
    here.ask(EVICT, b"/d")
    cold = here.ask(CHECK, b"/d")
    assert (cold["FileCount"], cold["TotalBytes"], cold["MissBytes"], cold["Locations"]) == (2, total, total, {})
    warm = here.ask(WARM, b"/d")
    assert (warm["FileCount"], warm["SliceCount"], warm["TotalBytes"], warm["MissBytes"]) == (2, 2, total, 0)
    assert warm["Errors"] == 0 and warm["Failures"] == [] and here.gets() == 4
    held = here.ask(CHECK, b"/d")
    assert held["MissBytes"] == 0 and held["Locations"] == {"memory": total}
    here.ask(WARM, b"/d", b"/d/a")
    assert here.gets() == 4, "what is cached is not fetched again"


@pytest.mark.parametrize("root", [b"", b"/"])
def test_the_root_is_a_path_as_well(volume: World, root: bytes) -> None:
    here = Warmable(volume)
    here.file(b"a", 10)
    here.file(b"b", 10, here.client.mkdir(b"d"))
    assert here.ask(CHECK, root)["FileCount"] == 2
    assert here.ask(CHECK, b"inode:1")["FileCount"] == 2


def test_missing_objects_and_missing_paths_do_not_stop_the_rest(volume: World) -> None:
    here = Warmable(volume)
    folder = here.client.mkdir(b"d")
    for number in range(20):
        here.file(b"%d" % number, BLOCK, folder)
    here.ask(EVICT, b"/d")
    here.bucket.fail = failing(NotFound("there is no such object"), "/3_0_", "/7_0_")
    answer = here.ask(WARM, b"/gone", b"/d", b"inode:987654")
    assert (answer["FileCount"], answer["TotalBytes"], answer["MissBytes"]) == (20, 20 * BLOCK, 2 * BLOCK)
    assert answer["Errors"] == 4
    assert sorted(answer["Failures"]) == [
        "/d/2: there is no such object", "/d/6: there is no such object", "/gone: No such file or directory",
        "inode:987654: No such file or directory",
    ]  # fmt: skip
    here.bucket.fail = lambda method, key: None
    assert here.ask(CHECK, b"/d")["MissBytes"] == 2 * BLOCK


def test_only_the_first_failures_are_put_into_words(volume: World) -> None:
    here = Warmable(volume)
    here.file(b"f", 10)
    answer = here.ask(WARM, *(b"/gone%d" % number for number in range(50)), b"/")
    assert answer["Errors"] == 50 and len(answer["Failures"]) == 10


def test_a_request_that_reaches_nothing_fails_with_the_reason(volume: World) -> None:
    here = Warmable(volume)
    here.file(b"f", 10)
    assert here.ask(WARM, b"/gone") == {"errno": errno.ENOENT}
    assert here.ask(WARM, b"/f/below") == {"errno": errno.ENOTDIR}
    assert here.ask(9, b"/f") == {"errno": errno.EINVAL}


def test_what_may_not_be_read_is_told_and_the_rest_is_done(volume: World) -> None:
    here = Warmable(volume)
    meta = here.vfs.meta
    for name in (b"open", b"closed"):
        here.file(b"f", BLOCK, here.client.mkdir(name))
    meta.setattr(SUPERUSER, here.client.ino(b"closed"), Changes(valid=SET_MODE, mode=0o700))
    secret = here.file(b"secret", BLOCK, here.client.ino(b"open"))
    meta.setattr(SUPERUSER, secret, Changes(valid=SET_MODE, mode=0o600))
    here.ask(EVICT, b"/")
    answer = here.ask(WARM, b"/", caller=NOBODY)
    assert answer["FileCount"] == 1 and here.gets() == 1
    assert sorted(answer["Failures"]) == ["/closed: Permission denied", "/open/secret: Permission denied"]


def test_symlinks_are_followed_inside_of_the_mount(volume: World) -> None:
    here = Warmable(volume)
    folder = here.client.mkdir(b"d")
    here.file(b"f", 10, folder)
    links = {b"up": b"../d/f", b"twice": b"up", b"back": b"/jfs/d/./f", b"root": b"/jfs", b"out": b"/etc/passwd",
             b"other": b"/jfs2/d/f", b"loop": b"loop"}  # fmt: skip
    for name, target in links.items():
        here.vfs.symlink(CALLER, folder, name, target)
    for name in (b"/d/up", b"/d/twice", b"/d/back", b"/d/root/d/up", b"/d/root/d", b"/d/../../d/./f"):
        assert here.ask(CHECK, name)["FileCount"] == 1, name
    for name, number in ((b"/d/out", errno.ENOTSUP), (b"/d/other", errno.ENOTSUP), (b"/d/loop", errno.ELOOP)):
        assert here.ask(CHECK, name) == {"errno": number}, name


@pytest.mark.parametrize("threads", [1, 8, 65535])
def test_the_blocks_of_one_file_are_fetched_side_by_side(volume: World, threads: int) -> None:
    here = Warmable(volume, max_downloads=5)
    here.file(b"f", 40 * BLOCK)
    here.ask(EVICT, b"/f")
    inside, most, lock = 0, 0, threading.Lock()
    real = here.bucket.get_into

    def counted(key: str, offset: int, view: memoryview) -> int:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.01)
        with lock:
            inside -= 1
        return real(key, offset, view)

    here.bucket.get_into = counted  # type: ignore[method-assign]
    assert here.ask(WARM, b"/f", threads=threads)["MissBytes"] == 0
    assert most == (1 if threads == 1 else 5)


def test_closing_the_control_file_ends_the_work(volume: World) -> None:
    here = Warmable(volume)
    here.file(b"f", 50 * BLOCK)
    here.ask(EVICT, b"/f")
    here.bucket.gate = threading.Event()
    file = here.send(WARM, b"/f", threads=4)
    while here.gets() < 4:
        time.sleep(0.005)
    file.close()
    here.bucket.gate.set()
    assert here.vfs.jobs.close(10)
    assert here.gets() <= 8 and here.ask(CHECK, b"/f")["errno"] == errno.EINTR


def test_a_sparse_file_of_any_size_can_be_given_up(volume: World) -> None:
    here = Warmable(volume)
    file = here.client.create(b"f")
    file.truncate(1 << 56)
    file.close()
    asking = here.send(WARM, b"/f", threads=2)
    time.sleep(0.1)
    asking.close()
    assert here.vfs.jobs.close(5)


def test_a_mount_of_a_part_of_the_volume_has_its_own_root(volume: World) -> None:
    whole = Warmable(volume)
    whole.file(b"outside", 10)
    folder = whole.client.mkdir(b"d")
    whole.file(b"inside", 10, whole.client.mkdir(b"e", folder))
    part = Warmable(volume, meta=MetaConfig(subdir="/d"))
    for path in (b"", b"/", b"/e", b"/e/inside", b"inode:1"):
        assert part.ask(CHECK, path)["FileCount"] == 1, path
    assert part.ask(CHECK, b"/../outside") == {"errno": errno.ENOENT}


def test_with_an_open_cache_files_are_known_afterwards(volume: World, monkeypatch: pytest.MonkeyPatch) -> None:
    here, other = Warmable(volume, meta=MetaConfig(open_cache_s=60.0)), Warmable(volume)
    ino = other.file(b"f", BLOCK)
    here.ask(WARM, b"/f")
    reader = type(here.vfs.meta.reader)
    for question in ("attr", "chunk"):
        monkeypatch.setattr(reader, question, lambda *_: pytest.fail("the engine is asked"))
    file = here.client.open(ino, os.O_RDONLY)
    assert len(file.read(0, BLOCK)) == BLOCK
    file.close()


def test_the_end_of_the_mount_ends_what_runs_in_the_background(volume: World) -> None:
    here = Warmable(volume)
    here.file(b"f", 50 * BLOCK)
    here.ask(EVICT, b"/f")
    here.bucket.gate = threading.Event()
    here.send(WARM, b"/f", threads=2, background=1).close()
    while here.gets() < 2:
        time.sleep(0.005)
    threading.Timer(0.2, here.bucket.gate.set).start()
    here.vfs.close()
    assert here.gets() <= 4, "the rest was not wanted any more"


def test_batches_for_the_background_are_done_one_after_the_other(volume: World) -> None:
    here = Warmable(volume)
    here.file(b"a", 10 * BLOCK)
    here.file(b"b", 10 * BLOCK)
    here.ask(EVICT, b"/")
    first = here.send(WARM, b"/a", threads=3, background=1)
    payload = struct.pack(">I", 2) + b"/b" + struct.pack(">HBB", 3, 1, WARM)
    first.write(0, struct.pack(">II", FILL_CACHE, len(payload)) + payload)
    first.close()
    while here.ask(CHECK, b"/")["MissBytes"]:
        time.sleep(0.01)
    slices = [key.rpartition("/")[2].partition("_")[0] for method, key in here.bucket.calls if method == "get"]
    assert len(slices) == 20 and len(list(groupby(slices))) == 2, "they were mixed"


def test_an_engine_that_fails_ends_the_whole(volume: World, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Warmable(volume)
    folder = here.client.mkdir(b"d")
    for number in range(30):
        here.file(b"%d" % number, BLOCK, folder)
    asked = []

    def broken(ino: int, indx: int) -> None:
        asked.append(ino)
        raise EngineUnavailable("the database is away")

    monkeypatch.setattr(here.vfs.meta, "read_chunk", broken)
    assert here.ask(WARM, b"/d", threads=2) == {"errno": errno.EIO}
    assert len(asked) <= 2, "30 files would wait for the engine 30 times"


def test_a_chunk_that_another_client_compacted_is_read_again(volume: World) -> None:
    here = Warmable(volume)
    ino = here.file(b"f", 2 * BLOCK)
    held = here.client.open(ino, os.O_RDONLY)
    assert len(held.all()) == 2 * BLOCK  # its list of slices is kept from here on
    here.ask(EVICT, b"/f")
    other = volume.client()
    file = other.open(ino)
    file.write(0, os.urandom(2 * BLOCK))  # whole, so that the old slice goes
    file.close()
    other.vfs.meta.compact_chunk(ino, 0)
    assert other.vfs.meta.deleter.drain(10) and other.vfs.meta.compactor.drain(10)
    answer = here.ask(WARM, b"/f")
    assert (answer["FileCount"], answer["MissBytes"], answer["Errors"]) == (1, 0, 0), answer
    held.close()


def test_a_mount_that_keeps_nothing_says_so(volume: World) -> None:
    here = Warmable(volume, cache_size=0, cache_dirs=())
    here.file(b"f", BLOCK)
    answer = here.ask(WARM, b"/f")
    assert here.gets() == 0 and "--cache-size 0" in answer["Failures"][0] and answer["Errors"] == 0


def test_a_cache_that_is_too_small_is_told(volume: World) -> None:
    here = Warmable(volume, cache_size=4 * BLOCK)
    here.file(b"f", 10 * BLOCK)
    answer = here.ask(WARM, b"/f")
    assert answer["Errors"] == 0 and "too small" in answer["Failures"][0]


def test_a_bucket_that_is_away_fails_each_block_once(volume: World) -> None:
    here = Warmable(volume, max_retries=0)
    here.file(b"f", 5 * BLOCK)
    here.ask(EVICT, b"/f")
    here.bucket.fail = failing(Unavailable("the storage is away"), "chunks")
    answer = here.ask(WARM, b"/f")
    assert (answer["FileCount"], answer["Errors"], answer["MissBytes"]) == (1, 5, 5 * BLOCK)
    assert here.gets() == 5


def test_a_crew_does_everything_once_and_waits_for_all() -> None:
    done: list[tuple[int, int]] = []
    lock = threading.Lock()
    with Crew("test", 3) as crew:

        def outer(number: int) -> None:
            before = len([1 for first, _ in done if first == number])
            crew.share_out(lambda inner: leaf(number, inner), range(50))
            assert before == 0 and len([1 for first, _ in done if first == number]) == 50

        def leaf(number: int, inner: int) -> None:
            time.sleep(0.0005)
            with lock:
                done.append((number, inner))

        crew.share_out(outer, range(20))
        assert sorted(done) == [(number, inner) for number in range(20) for inner in range(50)]
        with pytest.raises(ZeroDivisionError):
            crew.share_out(lambda inner: leaf(20, inner), (1 // (5 - number) for number in range(10)))
        assert len(done) == 1000 + 4, "what was handed over before the failure is done"
