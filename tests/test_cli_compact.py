"""`juicefs compact`: what it asks of a mount, and what a mount does then; from the command to the shorter chunks."""

from __future__ import annotations

import errno
import logging
import os
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clients import ENGINES
from control_server import PROGRESS, Server
from mounts import Mount, juicefs
from tended import Maker, Tended, making
from vfs_harness import Client

from chunkstore.errors import NotFound
from fuse.operations import Caller
from juicefs_py.cli import app
from juicefs_py.cli.control_client import COMPACT
from juicefs_py.commands import compact
from juicefs_py.control.channel import Job
from juicefs_py.control.commands import ControlCommands
from meta.client import Changes
from meta.errors import Refused, Unavailable
from meta.rules.check import check
from meta.slices import RECORD_SIZE
from meta.types import CHUNK_SIZE, ROOT, SET_MODE, SUPERUSER, Identity

# what it asks


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def serve(*answers: bytes) -> Server:
        servers.append(Server(list(answers)))
        monkeypatch.setattr(compact, "open_control", servers[-1].open)
        return servers[-1]

    yield serve
    for server in servers:
        server.close()


def run(*words: str) -> int:
    return app.run(["juicefs", "compact", *words])


def test_it_sends_inode_and_threads_of_each_path(
    served: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = served(PROGRESS + b"\0", b"\0")
    file = tmp_path / "f"
    file.touch()
    assert run(str(tmp_path), str(file), "-p", "7") == 0
    inodes = tmp_path.stat().st_ino, file.stat().st_ino
    assert server.asked == [(COMPACT, struct.pack(">QH", ino, 7)) for ino in inodes]
    said = capsys.readouterr()
    assert said.out == ""
    for ino, path in zip(inodes, (tmp_path, file), strict=True):
        assert f'<INFO>: compact [{ino}:"{path}"] success.' in said.err


@pytest.mark.parametrize(("given", "sent", "warned"), [
    ("0", 1, "threads should be > 0"), ("65535", 65535, ""), ("65536", 65535, "should not be larger than 65535"),
])  # fmt: skip
def test_threads_fit_into_the_request(
    served: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    given: str, sent: int, warned: str,
) -> None:  # fmt: skip
    server = served(b"\0")
    assert run("--threads", given, str(tmp_path)) == 0
    assert server.asked == [(COMPACT, struct.pack(">QH", tmp_path.stat().st_ino, sent))]
    err = capsys.readouterr().err
    assert ("<WARNING>" in err) == bool(warned) and warned in err


def test_a_path_that_fails_does_not_keep_the_next(
    served: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = served(bytes((errno.EACCES,)), b"\0")
    missing = tmp_path / "missing"
    assert run(str(missing), str(tmp_path), str(tmp_path)) == 0
    assert len(server.asked) == 2
    err = capsys.readouterr().err
    assert f'<ERROR>: lookup inode for "{missing}": no such file or directory' in err
    assert f"<ERROR>: compact [{tmp_path.stat().st_ino}:{tmp_path}] error: permission denied" in err
    assert "success." in err


def test_an_old_mount_does_not_know_the_command(
    served: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served(bytes((errno.EINVAL,)))
    assert run(str(tmp_path)) == 1
    assert "<FATAL>: compact is not supported, please upgrade and mount again" in capsys.readouterr().err


def test_outside_of_a_mount(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(tmp_path)) == 0
    ino = tmp_path.stat().st_ino
    assert f"<ERROR>: open control file for [{ino}:{tmp_path}]: not inside a JuiceFS mount" in capsys.readouterr().err


# what a mount does


@pytest.fixture
def make(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Maker]:
    with making(tmp_path, capsys) as make:
        yield make


def scattered(client: Client, name: bytes, parent: int = ROOT, chunks: int = 1) -> bytes:
    """A file whose chunks have several records each; its content, but for the holes."""
    file = client.create(name, parent)
    data = b""
    for indx in range(chunks):
        for number in range(5):
            part = os.urandom(100)
            file.write(indx * CHUNK_SIZE + number * 100, part)
            file.flush()
            data += part
    file.close()
    return data


def content(client: Client, ino: int, chunks: int = 1) -> bytes:
    file = client.open(ino, os.O_RDONLY)
    data = b"".join(file.read(indx * CHUNK_SIZE, 500) for indx in range(chunks))
    file.close()
    return data


def records(volume: Tended) -> list[int]:
    """How many records each chunk has."""
    return sorted(len(data) // RECORD_SIZE for _, _, data in volume.engine.list_slices())


def ask(client: Client, ino: int, threads: int = 4, caller: Any = SUPERUSER, job: Job | None = None) -> Job:
    """Run the command of the control file to its end; the job that shows its progress."""
    job = job or Job()
    assert ControlCommands(client.vfs, caller).run(COMPACT, struct.pack(">QH", ino, threads), job) == b"\0"
    return job


@pytest.mark.parametrize("kind", ENGINES)
def test_all_chunks_of_a_tree_become_short_and_nothing_else_changes(make: Maker, kind: str) -> None:
    volume = make(kind)
    with volume.client() as client:
        top = client.mkdir(b"d")
        below = client.mkdir(b"below", top)
        files = {(b"d", b"below", b"%d" % number): scattered(client, b"%d" % number, below) for number in range(6)}
        files[b"d", b"large"] = scattered(client, b"large", top, chunks=3)
        client.create(b"empty", top).close()
        client.vfs.symlink(Caller(0, 0, 0), top, b"symlink", b"large")
        scattered(client, b"outside")
        assert records(volume) == [5] * 10
        job = ask(client, top)
        assert (job.done, job.total) == (9, 9)  # all, and how many of them are done
        assert records(volume) == [1] * 9 + [5]
        for path, data in files.items():
            assert content(client, client.ino(*path), len(data) // 500) == data
        assert (job := ask(client, top)).total == job.done == 9
        assert ask(client, ROOT).done == 10
        assert records(volume) == [1] * 10
    assert check(volume.engine) == []
    assert len(volume.keys()) == 10


def test_what_is_written_and_not_committed_yet_takes_part(make: Maker) -> None:
    volume = make("memkv")
    with volume.client() as client:
        scattered(client, b"f")
        file = client.open(client.ino(b"f"))
        file.write(500, b"new")
        ask(client, file.ino)
        assert records(volume) == [1]
        assert file.read(498, 5)[2:] == b"new"
        file.close()


def test_an_overlong_chunk_is_compacted_to_the_end(make: Maker) -> None:
    """One compaction takes a thousand records."""
    volume = make("memkv")
    with volume.client() as client:
        data = scattered(client, b"f")
        ino = client.ino(b"f")
        stored = volume.engine.reader.chunk(ino, 0)

        def lengthen(tx: Any) -> None:
            tx.append_slices(ino, 0, stored * 500)
            for slice_id in range(1, 6):
                tx.add_slice_refs(slice_id, 100, 500)

        volume.engine.transact(lengthen)
        ask(client, ino)
        assert records(volume) == [1]
        assert content(client, ino) == data
    assert check(volume.engine) == []


def test_chunks_are_compacted_at_the_same_time_within_bounds(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = make("memkv")
    with volume.client() as client:
        for number in range(12):
            scattered(client, b"%d" % number)
        lock, four, running, most = threading.Lock(), threading.Event(), 0, 0

        def compact_fully(ino: int, indx: int) -> bool:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
                if running == 4:
                    four.set()
            assert four.wait(10)
            with lock:
                running -= 1
            return True

        monkeypatch.setattr(client.vfs.meta, "compact_fully", compact_fully)
        assert ask(client, ROOT, threads=4).total == 12
        assert most == 4


def test_what_the_asker_may_not_write_is_passed_over(make: Maker) -> None:
    volume = make("memkv")
    nobody = Identity(1000, 1000, 0, (1000,))
    with volume.client() as client:
        top = client.mkdir(b"d")
        scattered(client, b"mine", top)
        client.vfs.meta.setattr(SUPERUSER, client.ino(b"d", b"mine"), Changes(valid=SET_MODE, mode=0o666))
        scattered(client, b"theirs", top)
        ask(client, top, caller=nobody)
        assert records(volume) == [1, 5]
        with pytest.raises(Refused, check=lambda e: e.errno == errno.EACCES):
            ask(client, client.ino(b"d", b"theirs"), caller=nobody)
        with pytest.raises(Refused, check=lambda e: e.errno == errno.ENOENT):
            ask(client, 12345)
        assert records(volume) == [1, 5]


def test_a_chunk_that_fails_is_told_and_keeps_no_other(make: Maker, caplog: pytest.LogCaptureFixture) -> None:
    volume = make("memkv")
    with volume.client() as client:
        for name in (b"a", b"b", b"c"):
            scattered(client, name)
        volume.path("chunks/0/0/1_0_100").unlink()
        with caplog.at_level(logging.ERROR), pytest.raises(NotFound):
            ask(client, ROOT)
        assert records(volume) == [1, 1, 5]
        assert [
            each.getMessage() for each in caplog.records if "compaction of chunk 0 of inode 2: " in each.getMessage()
        ]


def test_it_ends_when_the_client_goes_or_the_engine_fails(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = make("memkv")
    with volume.client() as client:
        for number in range(30):
            scattered(client, b"%d" % number)
        job, real, done = Job(), client.vfs.meta.compact_fully, []

        def compact_fully(ino: int, indx: int) -> bool:
            done.append(ino)
            if len(done) == 3:
                job.cancel()
            return real(ino, indx)

        monkeypatch.setattr(client.vfs.meta, "compact_fully", compact_fully)
        with pytest.raises(OSError, check=lambda e: e.errno == errno.EINTR):
            ask(client, ROOT, threads=2, job=job)
        assert len(done) < 10

        def fail(ino: int, indx: int) -> bool:
            done.append(ino)
            raise Unavailable("the engine is away")

        done.clear()
        monkeypatch.setattr(client.vfs.meta, "compact_fully", fail)
        with pytest.raises(Unavailable):
            ask(client, ROOT, threads=2)
        assert len(done) < 5


# from one end to the other


@pytest.mark.battery
@pytest.mark.parametrize("engine", ["sqlite", "redis"])
def test_a_real_mount(new_mount: Callable[..., Mount], engine: str) -> None:
    mount = new_mount(engine)
    (mount.path / "d").mkdir()
    contents = {}
    for number in range(3):
        path = mount.path / "d" / str(number)
        with path.open("wb", buffering=0) as file:
            for at in range(8):
                file.seek(at * 5000)
                file.write(os.urandom(5000))
                os.fsync(file.fileno())
        contents[path] = path.read_bytes()
    said = juicefs("compact", str(mount.path / "d"), str(mount.path / "d" / "0"))
    assert said.stderr.count("success.") == 2
    for path, data in contents.items():
        info = juicefs("info", "--raw", str(path)).stdout
        assert len([line for line in info.splitlines() if line.startswith("|")]) == 2  # the heading, and one slice
        assert path.read_bytes() == data
    assert "scanned 3 objects, " in juicefs("gc", mount.volume.url).stderr
    juicefs("fsck", mount.volume.url)
