"""Content of files, call by call: what is refused, what is recorded, what limits allow, what threads do to it."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from clients import ENGINES, SHORT, Client, check_sound, new_engine

from meta.client import Changes
from meta.errors import Refused
from meta.slices import decode_slices
from meta.transaction import Quota
from meta.types import (
    CHUNK_SIZE,
    DIRECTORY,
    FIFO,
    FLAG_APPEND,
    FLAG_IMMUTABLE,
    ROOT,
    SET_FLAG,
    SUPERUSER,
)

C = CHUNK_SIZE
KEEP, PUNCH, ZERO = 1, 2, 0x10


@pytest.fixture(params=ENGINES)
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Client]:
    client = Client(new_engine(request.param, tmp_path))
    yield client
    client.shutdown()


def refused(number: int) -> AbstractContextManager[object]:
    return pytest.raises(Refused, check=lambda e: e.errno == number)


def records(client: Client, ino: int, indx: int) -> list[tuple[int, ...]]:
    return [tuple(record) for record in decode_slices(client.reader.chunk(ino, indx))]


def test_a_slice_of_a_removed_file_is_refused(client: Client) -> None:
    """ENOENT tells the writer to delete the objects; nothing is recorded."""
    ino = client.file(b"f")
    slice_id = client.new_slice_id()
    client.unlink(SUPERUSER, ROOT, b"f")
    with refused(errno.ENOENT):
        client.write_slice(ino, 0, 0, slice_id, 10, (1, 1))
    check_sound(client.engine, client.store.deleted)


def test_a_file_removed_while_open_lives_until_the_last_close(client: Client) -> None:
    """It can be read and written, and counts as used; then its inode, its chunks and its objects go."""
    ino, _ = client.create(SUPERUSER, ROOT, b"f", 0o644, 0, os.O_RDWR)
    client.open(SUPERUSER, ino, os.O_RDONLY)
    assert client.unlink(SUPERUSER, ROOT, b"f") == ino
    first = client.write(ino, 0, 100_000)
    assert client.getattr(ino).nlink == 0 and client.getattr(ino).length == 100_000
    assert client.reader.sustained(client.sid) == [ino]
    check_sound(client.engine)
    client.close(ino)
    assert client.byte(ino, 9) == client.store.byte(first, 9)
    client.close(ino)
    assert client.reader.attr(ino) is None and client.reader.sustained(client.sid) == []
    assert client.deleter.drain(5)
    assert client.store.deleted == {first: 1} and not client.engine.deleted_files(1 << 40, 10)
    check_sound(client.engine)


def test_every_change_of_content_has_its_own_mtime(client: Client) -> None:
    """Even if the clock stands still: other clients keep what they know of a file while its mtime stays the same."""
    client.vol.now = lambda: (1000, 999_999_998)  # type: ignore[method-assign]
    ino, seen = client.file(b"f"), []
    for change in (
        lambda: client.write(ino, 0, 5, (1000, 999_999_998)),
        lambda: client.write(ino, 0, 5, (1000, 999_999_998)),
        lambda: client.truncate(SUPERUSER, ino, 50),
        lambda: client.fallocate(SUPERUSER, ino, ZERO, 0, 10),
        lambda: client.copy_file_range(SUPERUSER, ino, 0, ino, 20, 5),
    ):
        change()
        attr = client.getattr(ino)
        seen.append((attr.mtime, attr.mtimensec))
        assert attr.mtimensec < 10**9
    assert all(a != b for a, b in pairwise(seen)), seen


def test_truncate_covers_what_must_read_as_zero(client: Client) -> None:
    """A record at each end, whole chunks between only where there is something to cover; the same both ways."""
    ino = client.file(b"f")
    client.write(ino, C + 5, 10)
    client.write(ino, 3 * C, 100)
    client.truncate(SUPERUSER, ino, 7)
    assert records(client, ino, 0) == [(7, 0, 0, 0, C - 7)]
    assert records(client, ino, 1)[1:] == [(0, 0, 0, 0, C)]
    assert records(client, ino, 2) == []
    assert records(client, ino, 3)[1:] == [(0, 0, 0, 0, 100)]
    client.truncate(SUPERUSER, ino, 1 << 50)  # 16 million chunks, of which none is made
    assert records(client, ino, 2) == [] and records(client, ino, (1 << 50 >> 26) - 1) == []
    assert client.getattr(ino).length == 1 << 50
    check_sound(client.engine)


def test_truncate_to_the_same_length_still_counts_as_a_change(client: Client) -> None:
    """POSIX: a successful ftruncate updates mtime and ctime, whether the length differs or not."""
    ino = client.file(b"f")
    before = client.getattr(ino)
    client.truncate(SUPERUSER, ino, 0)
    after = client.getattr(ino)
    assert (after.mtime, after.mtimensec) > (before.mtime, before.mtimensec)
    assert (after.ctime, after.ctimensec) > (before.ctime, before.ctimensec)


def test_who_may_truncate(client: Client) -> None:
    ino = client.file(b"f")
    directory, _ = client.mknod(SUPERUSER, ROOT, b"d", DIRECTORY, 0o755, 0)
    with refused(errno.EACCES):
        client.truncate(SHORT, ino, 1)
    client.truncate(SHORT, ino, 1, handle=True)
    for flags in (FLAG_IMMUTABLE, FLAG_APPEND):
        client.setattr(SUPERUSER, ino, Changes(SET_FLAG, flags=flags))
        with refused(errno.EPERM):
            client.truncate(SUPERUSER, ino, 0)
        client.setattr(SUPERUSER, ino, Changes(SET_FLAG))
    with refused(errno.EPERM):
        client.truncate(SUPERUSER, directory, 0)
    with refused(errno.EFBIG):
        client.truncate(SUPERUSER, ino, (C << 31) + 1)
    with refused(errno.ENOENT):
        client.truncate(SUPERUSER, 12345, 0)


@pytest.mark.parametrize(
    ("mode", "off", "size", "number"),
    [
        (PUNCH, 0, 1, errno.EINVAL), (PUNCH | KEEP | ZERO, 0, 1, errno.EINVAL), (8, 0, 1, errno.EOPNOTSUPP),
        (0x20, 0, 1, errno.EOPNOTSUPP), (8 | KEEP, 0, 1, errno.EINVAL), (0, 0, 0, errno.EINVAL),
        (0, -1, 5, errno.EINVAL), (0, C << 31, 5, errno.EFBIG),
    ],
)  # fmt: skip
def test_fallocate_refuses(client: Client, mode: int, off: int, size: int, number: int) -> None:
    ino = client.file(b"f")
    with refused(number):
        client.fallocate(SUPERUSER, ino, mode, off, size)


def test_fallocate_of_what_is_no_file(client: Client) -> None:
    pipe, _ = client.mknod(SUPERUSER, ROOT, b"p", FIFO, 0o644, 0)
    directory, _ = client.mknod(SUPERUSER, ROOT, b"d", DIRECTORY, 0o755, 0)
    with refused(errno.EPIPE):
        client.fallocate(SUPERUSER, pipe, 0, 0, 1)
    with refused(errno.EPERM):
        client.fallocate(SUPERUSER, directory, 0, 0, 1)


def test_copy_refuses(client: Client) -> None:
    ino, other = client.file(b"f"), client.file(b"g")
    directory, _ = client.mknod(SUPERUSER, ROOT, b"d", DIRECTORY, 0o755, 0)
    client.write(ino, 0, 100)
    with refused(errno.EINVAL):
        client.copy_file_range(SUPERUSER, ino, 0, ino, 50, 60)
    with refused(errno.EINVAL):
        client.copy_file_range(SUPERUSER, directory, 0, ino, 50, 60)
    with refused(errno.EINVAL):
        client.copy_file_range(SUPERUSER, ino, 0, directory, 50, 60)
    client.setattr(SUPERUSER, other, Changes(SET_FLAG, flags=FLAG_APPEND))
    with refused(errno.EPERM):
        client.copy_file_range(SUPERUSER, ino, 0, other, 0, 60)
    assert client.copy_file_range(SUPERUSER, ino, 100, ino, 500, 60)[0] == 0
    assert client.copy_file_range(SUPERUSER, ino, 0, ino, 500, 0)[0] == 0


def test_growth_stops_at_the_capacity(client: Client) -> None:
    """ENOSPC for what grows, never for what shrinks; a refused write leaves nothing behind."""
    ino = client.file(b"f")
    client.vol.setting = replace(client.vol.setting, capacity=50_000, inodes=3)
    client.write(ino, 0, 45_000)
    for grow in (
        lambda: client.write(ino, 45_000, 10_000),
        lambda: client.truncate(SUPERUSER, ino, 60_000),
        lambda: client.fallocate(SUPERUSER, ino, 0, 0, 60_000),
    ):
        with refused(errno.ENOSPC):
            grow()
    assert client.getattr(ino).length == 45_000
    client.vol.setting = replace(client.vol.setting, capacity=1)
    client.truncate(SUPERUSER, ino, 40_000)
    check_sound(client.engine, client.store.deleted)


def test_fast_statfs_answers_as_of_the_last_heartbeat(client: Client) -> None:
    fast = Client(client.engine, fast_statfs=True)
    client.write(client.file(b"f"), 0, 100_000)
    assert client.statfs(SUPERUSER, ROOT).used_inodes == 1 and fast.statfs(SUPERUSER, ROOT).used_inodes == 0
    fast.refresh_session()
    assert fast.statfs(SUPERUSER, ROOT) == client.statfs(SUPERUSER, ROOT)
    fast.close_session()


def test_growth_stops_at_quotas_of_directory_user_and_group(client: Client) -> None:
    top, _ = client.mknod(SUPERUSER, ROOT, b"d", DIRECTORY, 0o777, 0)
    below, _ = client.mknod(SUPERUSER, top, b"e", DIRECTORY, 0o777, 0)
    client.vol.transact(lambda tx: tx.put_quota("dir", top, Quota(20_480, 3, 4096, 1)))
    client.load_quotas()
    ino = client.file(b"f", below)
    client.write(ino, 0, 12_288)
    with refused(errno.EDQUOT):
        client.write(ino, 12_288, 4097)
    client.write(client.file(b"g", ROOT), 0, 100_000)
    assert client.reader.quota("dir", top) == Quota(20_480, 3, 4096 + 12_288, 2)
    statistics = client.statfs(SUPERUSER, below)
    assert statistics.total_space == 20_480 and statistics.avail_space == 4096
    assert (statistics.used_inodes, statistics.avail_inodes) == (2, 1)
    client.vol.setting = replace(client.vol.setting, user_group_quota=True)
    for kind, key in (("user", 1000), ("group", 1000)):
        client.vol.transact(lambda tx, k=kind, n=key: tx.put_quota(k, n, Quota(9000, 0, 0, 0)))
        client.load_quotas()
        mine = client.file(b"of " + kind.encode(), ROOT, SHORT._replace(uid=key if kind == "user" else 5, gid=1000))
        with refused(errno.EDQUOT):
            client.write(mine, 0, 16_000)
        client.vol.transact(lambda tx, k=kind, n=key: tx.put_quota(k, n, Quota(-1, -1, 0, 0)))
        client.load_quotas()
        client.write(mine, 0, 16_000)


@pytest.mark.parametrize("kind", ENGINES)
def test_many_threads_on_one_file(kind: str, tmp_path: Path) -> None:
    """Two clients write, cut and compact one file at once: no record is lost, and every count is exact afterwards."""
    engine = new_engine(kind, tmp_path)
    clients = [Client(engine), Client(engine)]
    ino = clients[0].file(b"f")
    written: list[tuple[int, int]] = []
    troubles: list[BaseException] = []

    def hammer(number: int) -> None:
        client, rng = clients[number % 2], random.Random(number)
        try:
            for n in range(40):
                off = rng.randrange(0, 100_000)
                written.append((off, client.write(ino, off, 10)))
                if n % 10 == 5:
                    client.truncate(SUPERUSER, ino, rng.randrange(0, 100_000))
                if n % 10 == 9:
                    client.compact_chunk(ino, 0)
        except BaseException as e:
            troubles.append(e)

    threads = [threading.Thread(target=hammer, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not troubles
    last = clients[0].write(ino, 50_000, 10)
    assert clients[1].byte(ino, 50_003) == clients[1].store.byte(last, 3)
    for client in clients:
        client.close_session()
    assert len({slice_id for _, slice_id in written}) == 160
    check_sound(engine, clients[0].store.deleted + clients[1].store.deleted)
    engine.close()
