"""Open files: handles, times, lengths, locks, flags, extended attributes; what the kernel relies on."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from vfs_harness import BLOCK, CALLER, ROOT, Client, File, World, changes, errno_from, joined, world

from fuse.abi import FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE
from fuse.operations import Caller, FileLock
from juicefs_py.vfs_config import VFSConfig
from meta.attr import Attr
from meta.errors import Refused


@pytest.fixture(params=["mem", "sqlite"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with world(request.param, tmp_path) as volume:
        yield volume


@pytest.fixture
def client(made: World) -> Client:
    return made.client()


def test_even_handles_write_and_unknown_odd_ones_come_back(client: Client) -> None:
    file = client.create(b"a")
    reader = client.open(file.ino, os.O_RDONLY)
    assert file.fh % 2 == 0 and reader.fh % 2 == 1
    assert client.vfs.opendir(CALLER, ROOT, 0).fh % 2 == 1
    file.write(0, b"abc")
    file.flush()
    found = File(client, file.ino, 9999)
    assert found.read(0, 10) == b"abc"
    found.close()
    assert errno_from(lambda: client.vfs.write(CALLER, file.ino, 10_000, 0, memoryview(b"x"), 0)) == errno.EBADF
    assert errno_from(lambda: reader.write(0, b"x")) == errno.EBADF
    only = client.open(file.ino, os.O_WRONLY)
    assert errno_from(lambda: only.read(0, 1)) == errno.EBADF
    for handle in (file, reader, only):
        handle.close()


def test_the_kernel_with_writeback_cache_reads_through_write_only_handles(made: World) -> None:
    client = made.client(vfs=VFSConfig(writeback_cache=True))
    file = client.create(b"a", flags=os.O_WRONLY)
    file.write(0, b"abc")
    assert file.read(0, 10) == b"abc"
    file.close()


def test_length_and_mtime_of_unwritten_data_show_at_once_and_stay(client: Client) -> None:
    file = client.create(b"a")
    before = time.time_ns()
    file.write(BLOCK * 3, b"x")
    after = time.time_ns()
    shown = file.stat()
    assert shown.size == 3 * BLOCK + 1
    assert before <= shown.mtime * 10**9 + shown.mtimensec <= after
    assert client.lookup(b"a").stat == shown
    file.flush()
    kept = file.stat()
    assert (kept.size, kept.mtime, kept.mtimensec) == (shown.size, shown.mtime, shown.mtimensec)
    file.close()


@pytest.mark.parametrize("pieces", [1, 3])
def test_utimes_after_a_write_wins(client: Client, pieces: int) -> None:
    file = client.create(b"a")
    for k in range(pieces):
        file.write(k * 5 * BLOCK, b"x")
    client.vfs.setattr(CALLER, file.ino, changes(mtime_ns=1_000_000_000_123_456_789))
    for _ in range(2):
        shown = file.stat()
        assert (shown.mtime, shown.mtimensec) == (1_000_000_000, 123_456_789)
        file.flush()
    file.write(0, b"y")
    assert file.stat().mtime > 1_000_000_000
    client.vfs.setattr(CALLER, file.ino, changes(now=True))
    now = file.stat()
    file.close()
    assert client.lookup(b"a").stat.mtime == now.mtime


def test_truncate_needs_a_writable_handle_and_keeps_pending_data(client: Client) -> None:
    file = client.create(b"a")
    file.write(0, b"x" * 100)
    reader = client.open(file.ino, os.O_RDONLY)
    assert errno_from(lambda: reader.truncate(5)) == errno.EACCES
    file.truncate(50)
    file.truncate(80)
    assert file.read(0, 100) == b"x" * 50 + bytes(30)
    assert errno_from(lambda: file.truncate(1 << 57)) == errno.EFBIG
    assert errno_from(lambda: file.write(1 << 57, b"x")) == errno.EFBIG
    file.close()
    reader.close()


def test_a_file_lives_until_its_last_handle_goes(client: Client) -> None:
    file = client.create(b"a")
    file.write(0, b"still here")
    client.unlink(b"a")
    assert file.stat().nlink == 0
    file.fsync()
    assert file.read(0, 100) == b"still here"
    file.close()
    assert errno_from(lambda: client.open(file.ino)) == errno.ENOENT


def test_tmpfile_has_no_name_until_linked(client: Client) -> None:
    entry, opened = client.vfs.tmpfile(CALLER, ROOT, b"ignored", 0o600, 0, os.O_RDWR)
    file = File(client, entry.stat.ino, opened.fh)
    assert entry.stat.nlink == 0 and len(client.names()) == 6
    file.write(0, b"abc")
    assert file.read(0, 9) == b"abc"
    file.close()


def test_another_client_sees_what_was_closed(made: World) -> None:
    one, two = made.client(), made.client()
    file = one.create(b"a")
    file.write(0, b"1" * 10)
    file.flush()
    reader = two.open(two.ino(b"a"), os.O_RDONLY)
    assert reader.read(0, 100) == b"1" * 10
    file.write(5, b"2" * 10)
    file.close()
    again = two.open(two.ino(b"a"), os.O_RDONLY)
    assert again.read(0, 100) == b"1" * 5 + b"2" * 10
    again.close()
    reader.close()


def test_keep_cache_only_if_nobody_else_changed_the_file(made: World) -> None:
    one, two = made.client(), made.client()
    file = one.create(b"a")
    file.close()
    one.open(file.ino, os.O_RDONLY).close()
    assert one.vfs.open(CALLER, file.ino, os.O_RDONLY).flags == FOPEN_KEEP_CACHE
    other = two.open(file.ino)
    other.write(0, b"x")
    other.close()
    assert one.vfs.open(CALLER, file.ino, os.O_RDONLY).flags == 0
    assert one.vfs.open(CALLER, one.ino(b".stats"), os.O_RDONLY).flags == FOPEN_DIRECT_IO


def test_old_writes_are_committed_without_being_asked(made: World) -> None:
    one, two = made.client(), made.client()
    file = one.create(b"a")
    file.write(0, b"idle")
    deadline = time.monotonic() + 10
    while two.lookup(b"a").stat.size != 4:
        assert time.monotonic() < deadline, "no background commit"
        time.sleep(0.05)
    file.close()


def test_names_too_long_and_internal_names(client: Client) -> None:
    assert errno_from(lambda: client.lookup(b"x" * 256)) == errno.ENAMETOOLONG
    assert errno_from(lambda: client.create(b"x" * 256)) == errno.ENAMETOOLONG
    assert errno_from(lambda: client.create(b".stats")) == errno.EEXIST
    assert errno_from(lambda: client.unlink(b".config")) == errno.EPERM
    client.create(b"a").close()
    assert errno_from(lambda: client.vfs.rename(CALLER, ROOT, b"a", ROOT, b".trash", 0)) == errno.EPERM
    assert errno_from(lambda: client.vfs.symlink(CALLER, ROOT, b"l", b"x" * 4096)) == errno.ENAMETOOLONG
    assert errno_from(lambda: client.open(client.ino(b".stats"), os.O_WRONLY)) == errno.EACCES


def test_extended_attributes(client: Client) -> None:
    ino = client.create(b"a").ino
    vfs = client.vfs
    vfs.setxattr(CALLER, ino, b"user.x", b"1", 0)
    assert vfs.getxattr(CALLER, ino, b"user.x", 0) == b"1"
    assert vfs.listxattr(CALLER, ino, 0) == b"user.x\0"
    assert errno_from(lambda: vfs.setxattr(CALLER, ino, b"user.x", b"2", 1)) == errno.EEXIST
    assert errno_from(lambda: vfs.setxattr(CALLER, ino, b"user.y", b"2", 2)) == errno.ENODATA
    assert errno_from(lambda: vfs.setxattr(CALLER, ino, b"u" * 256, b"", 0)) == errno.ERANGE
    assert errno_from(lambda: vfs.setxattr(CALLER, ino, b"user.x", bytes(65537), 0)) == errno.ERANGE
    vfs.removexattr(CALLER, ino, b"user.x")
    assert errno_from(lambda: vfs.getxattr(CALLER, ino, b"user.x", 0)) == errno.ENODATA
    acl = b"system.posix_acl_access"
    assert errno_from(lambda: vfs.getxattr(CALLER, ino, acl, 0)) == errno.ENODATA
    assert errno_from(lambda: vfs.setxattr(CALLER, ino, acl, b"", 0)) == errno.ENOTSUP


def test_posix_acls_are_attributes_where_the_volume_has_them(tmp_path: Path) -> None:
    with world("sqlite", tmp_path, enable_acl=True) as made:
        client = made.client()
        ino = client.create(b"a").ino
        nobody = 0xFFFFFFFF
        rows = [(1, 6, nobody), (2, 7, 1000), (4, 4, nobody), (16, 7, nobody), (32, 0, nobody)]
        value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *row) for row in rows)
        client.vfs.setxattr(CALLER, ino, b"system.posix_acl_access", value, 0)
        assert client.vfs.getxattr(CALLER, ino, b"system.posix_acl_access", 0) == value
        assert b"system.posix_acl_access" in client.vfs.listxattr(CALLER, ino, 0)
        assert client.vfs.getattr(CALLER, ino, None)[0].mode == stat.S_IFREG | 0o670
        client.vfs.removexattr(CALLER, ino, b"system.posix_acl_access")
        assert errno_from(lambda: client.vfs.getxattr(CALLER, ino, b"system.posix_acl_access", 0)) == errno.ENODATA


def test_inode_flags_by_ioctl(client: Client) -> None:
    file = client.create(b"a")

    def ioctl(cmd: int, data: bytes = b"") -> bytes:
        return client.vfs.ioctl(CALLER, file.ino, file.fh, cmd, 0, data, 8, 0)[1]

    assert ioctl(0x80086601) == bytes(8)
    ioctl(0x40086602, struct.pack("=Q", 0x10))
    assert ioctl(0x80086601) == struct.pack("=Q", 0x10)
    assert errno_from(lambda: client.open(file.ino)) == errno.EPERM
    assert len(ioctl(0x801C581F)) == 28
    assert errno_from(lambda: ioctl(0x40086602, struct.pack("=Q", 0x4))) == errno.ENOTSUP
    assert errno_from(lambda: ioctl(0x1234)) == errno.ENOTTY


def test_locks_conflict_wait_and_go_with_their_users(made: World) -> None:
    one, two = made.client(), made.client()
    mine, theirs = one.create(b"a"), two.open(one.ino(b"a"))
    write, read = FileLock(0, 99, fcntl.F_WRLCK, 1), FileLock(50, 60, fcntl.F_RDLCK, 2)
    one.vfs.setlk(CALLER, mine.ino, mine.fh, 7, write, False)
    assert errno_from(lambda: two.vfs.setlk(CALLER, theirs.ino, theirs.fh, 7, read, False)) == errno.EAGAIN
    assert two.vfs.getlk(CALLER, theirs.ino, theirs.fh, 7, read).type == fcntl.F_WRLCK
    one.vfs.flush(CALLER, mine.ino, mine.fh, 7)
    two.vfs.setlk(CALLER, theirs.ino, theirs.fh, 7, read, False)
    theirs.release()
    assert one.vfs.getlk(CALLER, mine.ino, mine.fh, 7, write).type == fcntl.F_UNLCK

    again = two.open(mine.ino)
    one.vfs.flock(CALLER, mine.ino, mine.fh, 9, fcntl.F_WRLCK, False)
    assert errno_from(lambda: two.vfs.flock(CALLER, mine.ino, again.fh, 9, fcntl.F_RDLCK, False)) == errno.EAGAIN
    caller = Caller(0, 0, 1)
    outcome: list[int] = []
    waiting = threading.Thread(
        target=lambda: outcome.append(
            errno_from(lambda: two.vfs.flock(caller, mine.ino, again.fh, 9, fcntl.F_RDLCK, True))
        )
    )
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    mine.release()
    waiting.join(10)
    assert outcome == [0]
    last = one.open(again.ino)
    interrupted = Caller(0, 0, 1)
    threading.Timer(0.1, interrupted.interrupt).start()
    assert errno_from(lambda: one.vfs.flock(interrupted, last.ino, last.fh, 1, fcntl.F_WRLCK, True)) == errno.EINTR
    again.release()
    last.release()


def test_statfs_counts_blocks_of_4_kib(client: Client) -> None:
    before = client.vfs.statfs(CALLER, ROOT)
    file = client.create(b"a")
    file.write(0, bytes(100_000))
    file.close()
    after = client.vfs.statfs(CALLER, ROOT)
    assert before.bsize == after.frsize == 4096 and after.namelen == 255
    assert (before.bfree - before.blocks) - (after.bfree - after.blocks) == 25
    assert (after.files - after.ffree) - (before.files - before.ffree) == 1


def test_sequential_reads_are_read_ahead_and_right(made: World) -> None:
    client = made.client(buffer_size=32 << 20)
    file = client.create(b"a")
    data = os.urandom(40 * BLOCK + 123)
    file.write(0, data)
    file.close()
    reader = client.open(file.ino, os.O_RDONLY)
    got = b"".join(reader.read(off, 10_000) for off in range(0, len(data), 10_000))
    assert got == data
    assert client.vfs.readers.used > 0  # it did read ahead
    reader.close()
    assert client.vfs.readers.used == 0


def test_a_write_is_seen_by_a_reader_that_has_read_ahead(client: Client) -> None:
    file = client.create(b"a")
    file.write(0, b"1" * (20 * BLOCK))
    file.flush()
    for off in range(0, 4 * BLOCK, 4096):
        assert file.read(off, 4096) == b"1" * 4096
    file.write(6 * BLOCK, b"2" * 100)
    assert file.read(6 * BLOCK, 200) == b"2" * 100 + b"1" * 100
    file.truncate(8 * BLOCK)
    file.truncate(9 * BLOCK)
    assert file.read(7 * BLOCK, 3 * BLOCK) == b"1" * BLOCK + bytes(BLOCK)
    file.close()


def test_the_access_log_shows_operations_while_somebody_reads(client: Client) -> None:
    vfs = client.vfs
    ino = client.ino(b".accesslog")
    assert not vfs.accesslog.active
    log = client.open(ino, os.O_RDONLY)
    assert vfs.accesslog.active
    file = client.create(b"a")
    file.write(0, b"12345")
    file.close()
    assert errno_from(lambda: client.lookup(b"missing")) == errno.ENOENT
    lines = joined(vfs.read(CALLER, ino, log.fh, 0, 1 << 16)).decode().splitlines()
    assert any(f"write ({file.ino},5,0,{file.fh}) - OK <0." in line for line in lines)
    assert any("lookup (1,missing): - no such file or directory <0." in line for line in lines)
    assert lines[0].split("] ")[0].endswith(f"[uid:0,gid:0,pid:{os.getpid()}")
    log.release()
    assert not vfs.accesslog.active


def test_reading_the_access_log_is_not_logged(client: Client) -> None:
    """A line about each read would end the next read at once, without end."""
    ino = client.ino(b".accesslog")
    log = client.open(ino, os.O_RDONLY)
    began = time.monotonic()
    for _ in range(2):
        assert joined(client.vfs.read(CALLER, ino, log.fh, 0, 1 << 16)) == b"#\n"
        client.vfs.getattr(CALLER, ino, None)
    assert 1.9 < time.monotonic() - began < 5
    other = client.open(ino, os.O_RDONLY)
    other.close()
    client.lookup(b".stats")
    (line,) = joined(client.vfs.read(CALLER, ino, log.fh, 0, 1 << 16)).splitlines()
    assert b"lookup (1,.stats)" in line
    log.release()


@pytest.mark.parametrize("how", ["open", "create", "tmpfile"])
def test_what_fails_while_a_file_is_opened_leaves_no_holder(
    client: Client, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that seemed open would keep its inode and its data for ever."""
    client.create(b"a").close()
    vfs, calls = client.vfs, []
    ino = client.ino(b"a")
    with monkeypatch.context() as patch:
        patch.setattr(vfs.handles, "open", lambda *_, **__: calls.append(1) or 1 // 0)
        with pytest.raises(ZeroDivisionError):
            if how == "open":
                vfs.open(CALLER, ino, os.O_RDWR)
            elif how == "create":
                vfs.create(CALLER, ROOT, b"b", 0o644, 0, os.O_RDWR)
            else:
                vfs.tmpfile(CALLER, ROOT, b"", 0o644, 0, os.O_RDWR)
    assert len(vfs.handles) == 0
    for name in client.names()[6:]:
        client.unlink(name)
    assert calls and vfs.meta.reader.counter("totalInodes") == 0


def test_an_open_file_that_goes_while_its_directory_is_listed(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    file = client.create(b"a")
    gone = client.vfs.meta.getattr

    def getattr_(ino: int) -> Attr:
        if ino == file.ino:
            raise Refused(errno.ENOENT)
        return gone(ino)

    monkeypatch.setattr(client.vfs.meta, "getattr", getattr_)
    assert b"a" in client.names(plus=True)
    monkeypatch.undo()
    file.close()
