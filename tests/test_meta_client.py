"""MetaClient: opening, and what it keeps of open files."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import ALL_ENGINES, SHORT, Client, new_engine

from meta.client import Changes, Exists
from meta.engine import Engine
from meta.errors import NotFormatted, OutOfSpace, Refused
from meta.open_files import OpenFiles
from meta.slices import Piece
from meta.types import (
    DIRECTORY,
    FLAG_APPEND,
    FLAG_IMMUTABLE,
    ROOT,
    SET_FLAG,
    SET_MTIME,
    SUPERUSER,
    SYMLINK,
)


@pytest.fixture(params=ALL_ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    engine = new_engine(request.param, tmp_path)
    yield engine
    engine.close()


@pytest.fixture
def client(engine: Engine) -> Iterator[Client]:
    client = Client(engine)
    yield client
    client.close_session()


@pytest.fixture
def other(engine: Engine) -> Iterator[Client]:
    client = Client(engine)
    yield client
    client.close_session()


def refused(number: int) -> object:
    return pytest.raises(Refused, check=lambda e: e.errno == number)


def test_nothing_works_without_a_volume(engine: Engine) -> None:
    engine.reset()
    with pytest.raises(NotFormatted, match="juicefs format"):
        Client(engine)


def test_create_opens_what_is_there(client: Client) -> None:
    """As open(O_CREAT): with O_EXCL EEXIST tells what is there, without it a regular file is opened, nothing else."""
    ino, _ = client.create(SUPERUSER, ROOT, b"f", 0o600, 0, os.O_RDWR)
    again, attr = client.create(SUPERUSER, ROOT, b"f", 0o777, 0, os.O_RDWR)
    assert again == ino and attr.mode == 0o600
    with pytest.raises(Exists) as found:
        client.create(SUPERUSER, ROOT, b"f", 0o600, 0, os.O_EXCL)
    assert found.value.errno == errno.EEXIST and found.value.existing[0] == ino
    with refused(errno.EACCES):
        client.create(SHORT, ROOT, b"f", 0o600, 0, os.O_RDWR)
    client.mknod(SUPERUSER, ROOT, b"d", DIRECTORY, 0o755, 0)
    with refused(errno.EEXIST):
        client.create(SUPERUSER, ROOT, b"d", 0o600, 0, 0)
    client.close(ino)
    assert client.files.is_open(ino)
    client.close(ino)
    assert not client.files.is_open(ino)


@pytest.mark.parametrize(
    ("flag", "flags", "number"),
    [
        (FLAG_IMMUTABLE, os.O_RDONLY, 0),
        (FLAG_IMMUTABLE, os.O_WRONLY, errno.EPERM),
        (FLAG_IMMUTABLE, os.O_RDONLY | os.O_TRUNC, errno.EPERM),
        (FLAG_APPEND, os.O_RDONLY, 0),
        (FLAG_APPEND, os.O_RDWR, errno.EPERM),
        (FLAG_APPEND, os.O_RDWR | os.O_APPEND, 0),
        (FLAG_APPEND, os.O_RDWR | os.O_APPEND | os.O_TRUNC, errno.EPERM),
    ],
)
def test_open_obeys_the_flags_of_the_inode(client: Client, flag: int, flags: int, number: int) -> None:
    ino = client.file(b"f")
    client.setattr(SUPERUSER, ino, Changes(SET_FLAG, flags=flag))
    if number:
        with refused(number):
            client.open(SUPERUSER, ino, flags)
    else:
        client.open(SUPERUSER, ino, flags)
        client.close(ino)
    assert not client.files.is_open(ino)


def test_open_asks_for_permission(client: Client) -> None:
    ino = client.file(b"f")  # 0644, root's
    client.open(SHORT, ino, os.O_RDONLY)
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, 0x20):
        with refused(errno.EACCES):
            client.open(SHORT, ino, flags)
    client.open(SHORT._replace(checked=True), ino, os.O_RDWR)
    with refused(errno.ENOENT):
        client.open(SUPERUSER, 4711, os.O_RDONLY)
    assert not client.files.is_open(4711)


def test_the_kernel_keeps_its_pages_while_nobody_else_changes_the_file(client: Client, other: Client) -> None:
    ino = client.file(b"f")

    def kept() -> bool:
        opened = client.open(SUPERUSER, ino, os.O_RDONLY)
        client.close(ino)
        return opened.keep_cache

    kept()
    assert kept()
    client.open(SUPERUSER, ino, os.O_RDWR)
    client.write(ino, 0, 100)
    client.setattr(SUPERUSER, ino, Changes(SET_MTIME, mtime=5))
    client.close(ino)
    assert kept()  # our own writes went through the same kernel
    other.write(ino, 0, 100)
    assert not kept() and kept()
    client.open(SUPERUSER, ino, os.O_RDONLY)
    other.write(ino, 0, 100)
    client.write(ino, 200, 100)  # ours on top of somebody else's
    client.close(ino)
    assert not kept() and kept()
    other.setattr(SUPERUSER, ino, Changes(SET_MTIME, mtime=5))
    client.getattr(ino)
    assert not kept()


def test_chunk_lists_are_kept_while_the_file_is_open(client: Client, other: Client) -> None:
    """The very same list, until this client changes the chunk, sees another mtime, or is told to forget it."""
    ino = client.file(b"f")
    client.write(ino, 0, 100)
    assert client.read_chunk(ino, 0) is not client.read_chunk(ino, 0)
    client.open(SUPERUSER, ino, os.O_RDWR)
    first = client.read_chunk(ino, 0)
    assert client.read_chunk(ino, 0) is first
    client.write(ino, 50, 100)
    second = client.read_chunk(ino, 0)
    assert len(second) == 2 and client.read_chunk(ino, 0) is second
    client.write(ino, 1 << 26, 5)
    assert client.read_chunk(ino, 0) is second  # another chunk
    other.write(ino, 0, 10)
    assert client.read_chunk(ino, 0) is second  # not seen yet
    client.getattr(ino)
    third = client.read_chunk(ino, 0)
    assert len(third) == 3
    client.invalidate_chunk(ino, 0)
    assert client.read_chunk(ino, 0) == third and client.read_chunk(ino, 0) is not third
    client.truncate(SUPERUSER, ino, 5)
    assert client.read_chunk(ino, 0)[-1].id == 0
    client.close(ino)


def test_a_list_read_before_a_change_is_not_kept_after_it() -> None:
    """The reader and the writer race: what the reader found out may be old by the time it is to be kept."""
    files = OpenFiles()
    files.hold(7)
    version = files.version(7)
    files.drop(7, 0)
    files.keep_chunk(7, 0, [Piece(1, 1, 0, 1)], version)
    assert files.chunk(7, 0) is None
    files.keep_chunk(7, 0, [Piece(1, 1, 0, 1)], files.version(7))
    assert files.chunk(7, 0) == [Piece(1, 1, 0, 1)]


def test_an_open_waits_for_a_removal_that_is_under_way() -> None:
    """The removal has seen that nobody holds the file: who comes now must hear what became of it."""
    files = OpenFiles()
    assert not files.claim(7) and not files.claim(7)
    opener = threading.Thread(target=files.hold, args=(7,))
    opener.start()
    opener.join(0.1)
    assert opener.is_alive()
    files.hold(8)
    assert files.claim(8)
    assert files.settle() == []
    opener.join(5)
    assert not opener.is_alive() and not files._removing
    assert files.close(8)  # it was removed while it was held
    assert not files.close(7)
    files.hold(9)
    assert files.claim(9) and not files.close(9)
    assert files.settle() == [9]  # closed before the removal was over: the remover must finish it


def test_closed_files_are_forgotten_beyond_a_limit() -> None:
    files = OpenFiles(limit=10)
    for ino in range(100):
        files.hold(ino)
    for ino in range(100):
        files.close(ino)
    assert len(files._closed) == 10 and not files._open and not files.inodes()


def test_attributes_of_open_files_may_be_believed_for_a_while(engine: Engine, other: Client) -> None:
    client = Client(engine, open_cache_s=0.4)
    ino = client.file(b"f")
    client.open(SUPERUSER, ino, os.O_RDWR)
    other.write(ino, 0, 100)
    assert client.getattr(ino).length == 0
    client.write(ino, 0, 50)
    assert client.getattr(ino).length == 100  # our own changes are seen at once
    other.write(ino, 0, 200)
    deadline = time.monotonic() + 5
    while client.getattr(ino).length == 100 and time.monotonic() < deadline:
        client.open(SUPERUSER, ino, os.O_RDONLY)  # does not make it believed for longer
        client.close(ino)
        time.sleep(0.02)
    assert client.getattr(ino).length == 200
    client.getattr(ino).length = 5  # the caller's own
    assert client.getattr(ino).length == 200
    client.close(ino)
    client.close_session()


@pytest.mark.parametrize(("mode", "updates"), [("noatime", 0), ("relatime", 1), ("strictatime", 1)])
def test_atime(engine: Engine, mode: str, updates: int) -> None:
    client = Client(engine, atime_mode=mode)
    ino = client.file(b"f")
    before = client.setattr(SUPERUSER, ino, Changes(0x10, atime=5))
    client.open(SUPERUSER, ino, os.O_RDONLY)
    after = client.getattr(ino)
    assert (after.atime > 5) == bool(updates) and after.ctimensec == before.ctimensec
    client.close(ino)
    again = client.open(SUPERUSER, ino, os.O_RDONLY).attr
    assert (again.atime, again.atimensec) == (after.atime, after.atimensec)  # fresh enough for every mode
    client.close(ino)
    client.close_session()


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(("mode", "updates"), [("noatime", 0), ("relatime", 1), ("strictatime", 1)])
def test_atime_of_directories_and_symlinks(engine: Engine, mode: str, updates: int, read_only: bool) -> None:
    writer = Client(engine)
    link, _ = writer.mknod(SUPERUSER, ROOT, b"l", SYMLINK, 0o777, 0, target=b"there")
    directory, _ = writer.mknod(SUPERUSER, ROOT, b"d", DIRECTORY, 0o755, 0)
    client = Client(engine, atime_mode=mode, read_only=read_only)
    for ino, read in (
        (link, lambda: client.readlink(link)),
        (directory, lambda: client.list_dir(SUPERUSER, directory, True)),
        (ROOT, lambda: client.list_dir(SUPERUSER, ROOT, False)),
    ):
        before = writer.setattr(SUPERUSER, ino, Changes(0x10, atime=5))
        read()
        after = client.getattr(ino)
        assert (after.atime > 5) == bool(updates and not read_only) and after.ctimensec == before.ctimensec
        read()
        again = client.getattr(ino)
        assert (again.atime, again.atimensec) == (after.atime, after.atimensec)


def test_an_access_time_that_cannot_be_noted_does_not_fail_the_reading(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(engine, atime_mode="strictatime")
    ino = client.file(b"f")
    client.setattr(SUPERUSER, ino, Changes(0x10, atime=5))
    monkeypatch.setattr(client.vol, "transact", lambda body: raise_(OutOfSpace("full")))
    client.open(SUPERUSER, ino, os.O_RDONLY)
    assert [item.name for item in client.list_dir(SUPERUSER, ROOT, False).items] == [b"f"]


def raise_(problem: Exception) -> None:
    raise problem
