"""Directories read ahead of lookups: when it is done, what it costs, and that nothing old is told.

In one mount nothing may ever be older than the mount's own changes: a random walk compares every lookup with the store.
What others change may be missing for as long as the kernel keeps names.
"""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from vfs_harness import CALLER, ROOT, Client, File, World, changes, errno_from, world

from fuse.operations import Caller, Entry
from juicefs_py import look_ahead
from juicefs_py.look_ahead import LookAhead
from juicefs_py.vfs_config import VFSConfig
from meta.attr import Attr
from meta.config import MetaConfig
from meta.errors import Refused, Unavailable
from meta.transaction import Cursor, DirItem, DirPage
from meta.types import FILE, SUPERUSER

PARENT = 7
SLOW_S = 0.001  # a lookup far from the store
KEPT = VFSConfig(enable_xattr=True)  # attributes and names for a second


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1_700_000_000 + self.now


class Directory:
    """A directory of so many entries whose reading takes time; counts what was read."""

    def __init__(self, clock: Clock, entries: int) -> None:
        self.clock = clock
        self.names = [b"%06d" % number for number in range(entries)]
        self.read = 0
        self.spent_s = 0.0
        self.during = lambda: None
        self.ctime = 0

    def page(self, ino: int, cursor: Cursor, limit: int) -> DirPage:
        start = cursor if isinstance(cursor, int) else 0
        names = self.names[start : start + limit]
        took_s = SLOW_S + len(names) * 5e-6
        self.clock.now += took_s
        self.spent_s += took_s
        self.read += len(names)
        self.during()
        items = [DirItem(name, 100 + start + at, FILE, Attr(FILE, ctime=self.ctime)) for at, name in enumerate(names)]
        return DirPage(items, start + limit if start + limit < len(self.names) else None)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(look_ahead, "time", clock)
    return clock


def ask(ahead: LookAhead, clock: Clock, name: bytes, took_s: float = SLOW_S) -> bool:
    """A lookup as the VFS makes it; whether it came from memory."""
    if ahead.find(PARENT, name) is not None:
        return True
    clock.now += took_s
    ahead.pay(PARENT, took_s)
    return False


def test_a_scan_asks_for_few_names_one_by_one(clock: Clock) -> None:
    directory = Directory(clock, 2000)
    ahead = LookAhead(directory.page)
    asked = sum(not ask(ahead, clock, name) for name in directory.names)
    assert asked < 40
    assert directory.read == 2000


def test_a_few_names_are_looked_up_as_ever(clock: Clock) -> None:
    directory = Directory(clock, 2000)
    ahead = LookAhead(directory.page)
    assert not any(ask(ahead, clock, name) for name in directory.names[:3])
    assert directory.read == 0


def test_names_here_and_there_in_a_huge_directory_cost_no_more_than_twice(clock: Clock) -> None:
    directory = Directory(clock, 1_000_000)
    ahead = LookAhead(directory.page)
    rng = random.Random(1)
    count = 2000
    hits = sum(ask(ahead, clock, rng.choice(directory.names)) for _ in range(count))
    assert directory.spent_s < 0.25 * (count - hits) * SLOW_S


def test_next_door_reading_ahead_never_costs_more_than_the_lookups(clock: Clock) -> None:
    directory = Directory(clock, 300)
    ahead = LookAhead(directory.page)
    spent_s, took_s = 0.0, 50e-6
    for name in directory.names:
        if not ask(ahead, clock, name, took_s):
            spent_s += took_s
        assert directory.spent_s <= spent_s + SLOW_S + 32 * 5e-6


def test_what_is_old_is_asked_for_again(clock: Clock) -> None:
    directory = Directory(clock, 100)
    ahead = LookAhead(directory.page)
    for name in directory.names:
        ask(ahead, clock, name)
    clock.now += look_ahead.VALID_S
    assert not ask(ahead, clock, directory.names[50])
    assert ask(ahead, clock, directory.names[51])  # the scan before has paid for reading it again
    clock.now += look_ahead.VALID_S
    assert not ask(ahead, clock, directory.names[52])
    clock.now += 2 * look_ahead.VALID_S
    assert not ahead.expire(clock.now)
    assert ahead.find(PARENT, directory.names[53]) is None


def test_who_asks_twice_is_answered_by_the_store(clock: Clock) -> None:
    directory = Directory(clock, 20)
    ahead = LookAhead(directory.page)
    for name in directory.names[:5]:
        ask(ahead, clock, name)
    assert ask(ahead, clock, directory.names[9])
    assert not ask(ahead, clock, directory.names[9])


def test_new_names_are_left_out(clock: Clock) -> None:
    directory = Directory(clock, 20)
    directory.ctime = int(clock.time()) - 1
    ahead = LookAhead(directory.page)
    assert not any(ask(ahead, clock, name) for name in directory.names)


def test_a_name_changed_while_its_page_is_on_the_way_is_left_out(clock: Clock) -> None:
    directory = Directory(clock, 20)
    ahead = LookAhead(directory.page)
    directory.during = lambda: ahead.changed(PARENT, directory.names[3])  # type: ignore[assignment]
    for name in directory.names[10:15]:
        ask(ahead, clock, name)
    assert ahead.find(PARENT, directory.names[3]) is None
    assert ahead.find(PARENT, directory.names[4]) is not None
    ahead.changed(PARENT, directory.names[5])
    assert ahead.find(PARENT, directory.names[5]) is None


def test_memory_is_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look_ahead, "MOST_ENTRIES", 500)
    monkeypatch.setattr(look_ahead, "MOST_DIRECTORIES", 10)
    directory = Directory(clock, 200)
    ahead = LookAhead(directory.page)
    for parent in range(100):
        for _ in range(10):
            ahead.pay(parent, 0.1)
        assert len(ahead._directories) <= 10
        assert ahead._entries == sum(len(one.items) for one in ahead._directories.values()) <= 500
    ahead.expire(clock.now + 10)
    assert ahead._entries == 0


def test_trouble_of_the_store_is_no_trouble_of_the_lookup(clock: Clock) -> None:
    def broken(ino: int, cursor: Cursor, limit: int) -> DirPage:
        raise Unavailable("gone")

    ahead = LookAhead(broken)
    for _ in range(20):
        ahead.pay(PARENT, 0.1)
    assert ahead.find(PARENT, b"a") is None


# In a VFS


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names count as old at once."""
    monkeypatch.setattr(look_ahead, "SETTLED_S", -60)


@pytest.fixture(params=["mem", "sqlite"])
def place(request: pytest.FixtureRequest, tmp_path: Path, settled: None) -> Iterator[World]:
    with world(request.param, tmp_path) as made:
        yield made


def eager(client: Client) -> Client:
    """Every lookup that the store answers pays for a page."""
    pay = client.vfs.look_ahead.pay
    client.vfs.look_ahead.pay = lambda parent, took_s: [pay(parent, 1.0) for _ in range(8)]  # type: ignore[method-assign, assignment]
    return client


def filled(client: Client, count: int = 50) -> int:
    """A directory of files that was read ahead."""
    folder = client.mkdir(b"d")
    for number in range(count):
        client.create(b"f%d" % number, folder).close()
    client.lookup(b"f0", folder)
    return folder


def asks(client: Client, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Names that the store is asked for from now on."""
    asked: list[bytes] = []
    lookup = client.vfs.meta.lookup

    def noted(caller: Caller, parent: int, name: bytes) -> tuple[int, Attr]:
        asked.append(name)
        return lookup(caller, parent, name)

    monkeypatch.setattr(client.vfs.meta, "lookup", noted)
    return asked


def test_the_rest_of_a_directory_comes_from_memory(place: World, monkeypatch: pytest.MonkeyPatch) -> None:
    client = eager(place.client(vfs=KEPT))
    folder = filled(client)
    asked = asks(client, monkeypatch)
    entries = [client.lookup(b"f%d" % number, folder) for number in range(50)]
    assert asked == []
    assert all(0 < entry.attr_valid_s < 1 and 0 < entry.entry_valid_s < 1 for entry in entries)
    assert [entry.stat.ino for entry in entries] == [place.clients[0].ino(b"d", b"f%d" % n) for n in range(50)]
    assert errno_from(lambda: client.lookup(b"none", folder)) == errno.ENOENT
    assert asked[-1] == b"none"


@pytest.mark.parametrize("off", [VFSConfig(attr_timeout_s=0), VFSConfig(entry_timeout_s=0),
                                 VFSConfig(non_default_permission=True)])  # fmt: skip
def test_nothing_is_read_ahead_where_nothing_may_be_kept(
    place: World, monkeypatch: pytest.MonkeyPatch, off: VFSConfig
) -> None:
    """Without the kernel's check of permissions each lookup is a question of rights."""
    client = eager(place.client(vfs=off))
    folder = filled(client)
    asked = asks(client, monkeypatch)
    for number in range(20):
        client.lookup(b"f%d" % number, folder)
    assert len(asked) == 20


def test_an_open_file_is_shown_as_it_is_now(place: World) -> None:
    client = eager(place.client(vfs=KEPT))
    folder = filled(client)
    file = client.open(client.lookup(b"f1", folder).stat.ino)
    file.write(0, b"12345")
    assert client.lookup(b"f1", folder).stat.size == 5
    file.close()
    assert client.lookup(b"f1", folder).stat.size == 5


def test_others_changes_are_seen_after_a_second_and_at_once_by_who_asks_again(place: World) -> None:
    """A file that another client has replaced can be opened: the kernel hears ESTALE, and asks again where it went."""
    here, there = eager(place.client(vfs=KEPT)), place.client()
    folder = filled(here)
    new = there.create(b"new", folder)
    new.write(0, b"new")
    new.close()
    there.vfs.rename(CALLER, folder, b"new", folder, b"f1", 0)
    there.vfs.setattr(CALLER, there.ino(b"d", b"f2"), changes(mode=0o600))
    old = here.lookup(b"f1", folder).stat.ino
    assert old != new.ino
    assert errno_from(lambda: here.open(old)) == errno.ENOENT
    assert here.lookup(b"f1", folder).stat.ino == new.ino
    assert here.open(new.ino).all() == b"new"
    for directory in here.vfs.look_ahead._directories.values():
        directory.items = {name: (item, at - 1) for name, (item, at) in directory.items.items()}
    assert here.lookup(b"f2", folder).stat.mode == stat.S_IFREG | 0o600


class Walk:
    """Random changes through one mount, each followed by lookups that are compared with the store."""

    def __init__(self, client: Client, seed: int) -> None:
        self.client = client
        self.vfs = client.vfs
        self.rng = random.Random(seed)
        self.folders = [ROOT, client.mkdir(b"x"), client.mkdir(b"y")]
        self.seen = 0

    def name(self) -> tuple[int, bytes]:
        return self.rng.choice(self.folders), b"n%d" % self.rng.randrange(12)

    def step(self) -> None:
        action = self.rng.choice([self.make, self.make, self.make, self.link, self.rename, self.unlink, self.write,
                                  self.chmod, self.truncate, self.punch, self.folder, self.xattr])  # fmt: skip
        errno_from(action)
        for _ in range(6):
            self.compare(*self.name())

    def compare(self, parent: int, name: bytes) -> None:
        """The same as the store says; and what is there will come from memory the next time."""
        directory = self.vfs.look_ahead._directories.get(parent)
        memory = directory is not None and name in directory.items
        told: list[Entry] = []
        failed = errno_from(lambda: told.append(self.vfs.lookup(CALLER, parent, name)))
        try:
            ino, attr = self.vfs.meta.lookup(SUPERUSER, parent, name)
        except Refused as problem:
            assert failed == problem.errno == errno.ENOENT, (parent, name, failed)
            return
        assert not failed, (parent, name, failed)
        assert told[0].stat == self.vfs.entry(ino, attr).stat, (parent, name)
        self.seen += memory

    def inode(self) -> int:
        return self.vfs.meta.lookup(SUPERUSER, *self.name())[0]

    def file(self) -> File:
        ino, attr = self.vfs.meta.lookup(SUPERUSER, *self.name())
        if not attr.is_file:
            raise Refused(errno.EISDIR)
        return self.client.open(ino, os.O_RDWR)

    def make(self) -> None:
        parent, name = self.name()
        self.client.create(name, parent).close()

    def folder(self) -> None:
        parent, name = self.name()
        if self.rng.random() < 0.5:
            self.vfs.rmdir(CALLER, parent, name)
        else:
            self.vfs.mkdir(CALLER, parent, name, 0o755, 0)

    def link(self) -> None:
        self.vfs.link(CALLER, self.inode(), *self.name())

    def rename(self) -> None:
        self.vfs.rename(CALLER, *self.name(), *self.name(), self.rng.choice((0, 0, 1, 2)))

    def unlink(self) -> None:
        self.vfs.unlink(CALLER, *self.name())

    def write(self) -> None:
        file = self.file()
        file.write(self.rng.randrange(100), b"x" * self.rng.randrange(1, 100))
        file.close()

    def chmod(self) -> None:
        self.vfs.setattr(CALLER, self.inode(), changes(mode=0o600 | self.rng.randrange(0o777)))

    def truncate(self) -> None:
        self.vfs.setattr(CALLER, self.inode(), changes(size=self.rng.randrange(200)))

    def punch(self) -> None:
        file = self.file()
        file.fallocate(self.rng.choice((0, 3)), 0, 300)
        file.close()

    def xattr(self) -> None:
        self.vfs.setxattr(CALLER, self.inode(), b"user.a", b"1", 0)


@pytest.mark.parametrize("kind", ["mem", "sqlite"])
@pytest.mark.parametrize("seed", range(4))
def test_a_mount_never_sees_its_own_past(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settled: None, kind: str, seed: int
) -> None:
    monkeypatch.setattr(look_ahead, "VALID_S", 0.03)  # directories are read again and again
    with world(kind, tmp_path) as made:
        client = eager(made.client(vfs=KEPT, meta=MetaConfig(no_bgjob=True, skip_dir_mtime_s=0.0)))
        walk = Walk(client, seed)
        for _ in range(600):
            walk.step()
        for _ in range(30_000):  # how many are answered from memory is a matter of the machine's speed
            if walk.seen > 100:
                break
            walk.step()
        assert walk.seen > 100, f"only {walk.seen} lookups from memory"
