"""Content of files: random writes, truncations, copies, holes and compactions against a dumb model, on every engine."""

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
from clients import ENGINES, SHORT, Client, FakeStore, check_sound, new_engine

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
PROBES = [o for base in (0, C, 2 * C, 3 * C) for o in range(max(base - 24, 0), base + 24, 3)] + [5000, C + 70_000]
KEEP, PUNCH, ZERO = 1, 2, 0x10


class Model:
    """What a file should show at the probes."""

    def __init__(self) -> None:
        self.length = 0
        self.bytes = dict.fromkeys(PROBES, 0)

    def fill(self, start: int, end: int, value: int) -> None:
        for probe in PROBES:
            if start <= probe < end:
                self.bytes[probe] = value

    def truncate(self, length: int) -> None:
        self.fill(min(length, self.length), max(length, self.length), 0)
        self.length = length


class Machine:
    """Applies the same operation to two files of a client and to their models."""

    def __init__(self, client: Client, rng: random.Random) -> None:
        self.client = client
        self.rng = rng
        self.files = {client.file(b"a"): Model(), client.file(b"b"): Model()}
        for ino in self.files:
            client.open(SUPERUSER, ino, 2)

    def point(self) -> int:
        return self.rng.choice((0, C, 2 * C, 3 * C - 30)) + self.rng.choice((0, 3, 17, 4096, -5, -20))

    def range(self) -> tuple[int, int]:
        start, end = sorted((max(self.point(), 0), max(self.point(), 0)))
        return start, max(end, start + self.rng.randrange(1, 30))

    def step(self) -> None:
        ino = self.rng.choice(list(self.files))
        operation = self.rng.choice(
            (
                self.write,
                self.write,
                self.write,
                self.truncate,
                self.punch,
                self.zero,
                self.reserve,
                self.copy,
                self.compact,
            )
        )
        operation(ino, self.files[ino])
        self.check(ino)

    def write(self, ino: int, model: Model) -> None:
        start, end = self.range()
        if self.rng.random() < 0.7:
            end = start + self.rng.randrange(1, 40)
        off = start
        while off < end:
            part = min(end, (off // C + 1) * C) - off
            slice_id = self.client.write(ino, off, part)
            for probe in PROBES:
                if off <= probe < off + part:
                    model.bytes[probe] = self.client.store.byte(slice_id, probe - off)
            off += part
        model.length = max(model.length, end)

    def truncate(self, ino: int, model: Model) -> None:
        length = self.range()[0]
        self.client.truncate(SUPERUSER, ino, length)
        model.truncate(length)

    def punch(self, ino: int, model: Model) -> None:
        start, end = self.range()
        self.client.fallocate(SUPERUSER, ino, PUNCH | KEEP, start, end - start)
        model.fill(start, min(end, model.length), 0)

    def zero(self, ino: int, model: Model) -> None:
        start, end = self.range()
        self.client.fallocate(SUPERUSER, ino, ZERO, start, end - start)
        model.fill(start, end, 0)
        model.length = max(model.length, end)

    def reserve(self, ino: int, model: Model) -> None:
        start, end = self.range()
        self.client.fallocate(SUPERUSER, ino, 0, start, end - start)
        model.length = max(model.length, end)

    def copy(self, ino: int, model: Model) -> None:
        other = self.rng.choice(list(self.files))
        source = self.files[other]
        start, end = self.range()
        to = start + self.rng.choice((C, -C, 2 * C, 0, 3))
        if to < 0 or (ino == other and abs(to - start) < end - start):
            return
        copied, _ = self.client.copy_file_range(SUPERUSER, other, start, ino, to, end - start)
        assert copied == max(min(end, source.length) - start, 0)
        seen = {probe: self.see(other, probe - to + start) for probe in PROBES if to <= probe < to + copied}
        if ino != other:  # where source and target offsets are both probes the model knows the answer itself
            for probe, value in seen.items():
                assert source.bytes.get(probe - to + start, value) == value
        model.bytes.update(seen)
        model.length = max(model.length, to + copied) if copied else model.length

    def compact(self, ino: int, model: Model) -> None:
        for indx in range(4):
            self.client.compact_chunk(ino, indx)

    def see(self, ino: int, off: int) -> int:
        return self.client.byte(ino, off)

    def check(self, ino: int) -> None:
        model = self.files[ino]
        assert self.client.getattr(ino).length == model.length
        shown = {probe: self.see(ino, probe) for probe in PROBES if probe < model.length}
        assert shown == {probe: value for probe, value in model.bytes.items() if probe < model.length}


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("trash_days", [0, 1])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_content_is_what_was_written(kind: str, trash_days: int, seed: int, tmp_path: Path) -> None:
    """Whatever is done to two files, both read as a dumb model says; references and totals are exact all the time."""
    print("seed", seed)
    engine = new_engine(kind, tmp_path, trash_days=trash_days, user_group_quota=True)
    client = Client(engine)
    machine = Machine(client, random.Random(seed))
    for _ in range(80):
        machine.step()
    client.compactor.close()
    assert client.deleter.drain(10)
    check_sound(engine, client.store.deleted)
    for ino, name in zip(machine.files, (b"a", b"b"), strict=True):
        client.close(ino)
        client.unlink(SUPERUSER, ROOT, name, skip_trash=True)
    client.close_session()
    check_sound(engine, client.store.deleted)
    left = {slice_id for slice_id, _, _ in engine.list_slice_refs()}
    assert bool(left) == bool(trash_days and engine.delayed_slices(1 << 40))
    client.shutdown()


@pytest.mark.parametrize("kind", ENGINES)
def test_compaction_changes_no_byte(kind: str, tmp_path: Path) -> None:
    """A compaction leaves the content, the inode and everything but the list as it was."""
    engine = new_engine(kind, tmp_path)
    client = Client(engine)
    ino = client.file(b"f")
    client.compactor.request = lambda ino, indx: None  # type: ignore[method-assign]  # only when told
    rng = random.Random(7)
    for _ in range(40):
        off = rng.randrange(0, 10_000)
        client.write(ino, off, rng.randrange(1, 3000))
    client.truncate(SUPERUSER, ino, 9000)
    client.truncate(SUPERUSER, ino, 14_000)
    before = [client.byte(ino, off) for off in range(0, 14_000, 7)]
    attr = client.getattr(ino)
    assert client.compact_chunk(ino, 0)
    assert len(engine.reader.chunk(ino, 0)) == 24
    assert [client.byte(ino, off) for off in range(0, 14_000, 7)] == before
    assert client.getattr(ino) == attr
    assert not client.compact_chunk(ino, 0)
    client.close_session()
    check_sound(engine, client.store.deleted)
    assert len(client.store.deleted) == 40
    client.shutdown()


@pytest.mark.parametrize("kind", ENGINES)
def test_compaction_of_a_chunk_that_has_changed_is_given_up(kind: str, tmp_path: Path) -> None:
    """Records appended while data is merged survive; a list replaced meanwhile makes the merged slice garbage."""
    engine = new_engine(kind, tmp_path)

    class Meddling(FakeStore):
        def compact_slice(self, *args: object) -> None:
            super().compact_slice(*args)  # type: ignore[arg-type]
            meddle()

    client = Client(engine, Meddling())
    other = Client(engine)
    ino = client.file(b"f")
    for n in range(4):
        client.write(ino, n * 10, 10)

    def meddle() -> None:
        client.write(ino, 5, 10)

    assert client.compact_chunk(ino, 0)
    assert len(engine.reader.chunk(ino, 0)) == 2 * 24

    def meddle() -> None:  # noqa: F811
        assert other.compact_chunk(ino, 0)

    assert not client.compact_chunk(ino, 0)
    client.write(ino, 40, 10)

    def meddle() -> None:  # noqa: F811
        assert other.compact_chunk(ino, 0)
        client.write(ino, 3, 10)  # as long as before, but not the same

    assert not client.compact_chunk(ino, 0)
    client.close_session()
    other.close_session()
    check_sound(engine, client.store.deleted + other.store.deleted)
    assert len(client.store.merged) == 3 and len(engine.reader.chunk(ino, 0)) == 2 * 24
    client.shutdown()


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
