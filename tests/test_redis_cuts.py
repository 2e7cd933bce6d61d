"""The connection to Redis cut at every byte of a request and of its answer: the change is made once, or not at all.

The server itself is well (its troubles: test_redis_faults). A client works through a proxy, a witness beside it.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fcntl import F_UNLCK, F_WRLCK
from typing import Any

import pytest
import redis_server
from clients import Client
from proxy import Proxy, Way

from meta.engines import open_engine
from meta.errors import OutcomeUnknown, Refused, Unavailable
from meta.redis import link
from meta.redis.engine import RedisEngine
from meta.rules.check import check
from meta.rules.format import init_volume
from meta.rules.setattr import Changes
from meta.setting import Setting
from meta.slices import Slice
from meta.types import DIRECTORY, ROOT, SET_MODE, SET_UID, SUPERUSER

pytestmark = pytest.mark.timeout(1800)  # for --long, which cuts at every byte

STRIDE = 23  # of the positions without --long
SOUND_EVERY = 20  # positions between full checks


@dataclass
class Lab:
    """A volume, a client of it behind a proxy, and a witness who speaks to the server directly."""

    proxy: Proxy
    client: Client
    witness: Client
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(100_000))

    @property
    def engine(self) -> RedisEngine:
        assert isinstance(self.client.engine, RedisEngine)
        return self.client.engine

    def name(self) -> bytes:
        """A fresh name, always of the same length, of which the client believes to know that there is no such."""
        name = b"%d" % next(self.numbers)
        for directory in (ROOT, 1):
            assert self.client.reader.target(directory, name) is None
        self.client.reader.attr(ROOT)
        return name

    def sound(self) -> None:
        """Everything fits together, once the witness has deleted what is left of removed files."""
        for file in self.witness.engine.deleted_files(1 << 40, -1):
            self.witness.deleter.delete_files_now([file])
        assert self.witness.deleter.drain(20)
        assert check(self.witness.engine) == []


def client_at(url: str, **setting: Any) -> Client:
    engine = open_engine(url)
    assert isinstance(engine, RedisEngine)
    engine._endpoint.deadline_s = 10
    if setting:
        engine.prepare()
        init_volume(engine, Setting(uuid="5a1ade", user_group_quota=True, **setting))
    return Client(engine)


@pytest.fixture(scope="module", autouse=True)
def impatient() -> Iterator[None]:
    """No pauses worth the name, and no lines about each of ten thousand cuts."""
    patch = pytest.MonkeyPatch()
    patch.setattr(link, "_FIRST_PAUSE_S", 0.001)
    logging.getLogger("meta.redis").setLevel(logging.ERROR)
    yield
    logging.getLogger("meta.redis").setLevel(logging.NOTSET)
    patch.undo()


@pytest.fixture(scope="module")
def server() -> Iterator[redis_server.RedisServer]:
    server = redis_server.RedisServer().start()
    yield server
    server.close()


@pytest.fixture(scope="module", params=[0, 1], ids=["no-trash", "trash"])
def lab(request: pytest.FixtureRequest, server: redis_server.RedisServer) -> Iterator[Lab]:
    yield from a_lab(server, request.param)


def a_lab(server: redis_server.RedisServer, trash_days: int) -> Iterator[Lab]:
    proxy = Proxy(server.port)
    url = server.url()
    witness = client_at(url, name="test", trash_days=trash_days)
    client = client_at(url.replace(str(server.port), str(proxy.port)))
    client.deleter.store = None  # the witness deletes
    client.file(b"the first one of all")
    yield Lab(proxy, client, witness)
    client.shutdown()
    witness.shutdown()
    proxy.close()


@dataclass(frozen=True)
class Sample:
    """An operation. `prepare` makes what it needs, `act` does it, `times` tells how often it was done, and asserts
    that everything about it is as it should be; `undo` cleans up.
    """

    prepare: Callable[[Lab], Any]
    act: Callable[[Lab, Any], Any]
    times: Callable[[Lab, Any, Any], int]
    undo: Callable[[Lab, Any], object] = lambda lab, it: None


def a_file(lab: Lab) -> tuple[bytes, int]:
    """A name and the inode of a file with one slice in it."""
    name = lab.name()
    ino = lab.client.file(name)
    lab.client.write(ino, 0, 10)
    return name, ino


def remove(lab: Lab, name: bytes) -> None:
    lab.witness.unlink(SUPERUSER, ROOT, name, skip_trash=True)


def entries(lab: Lab, *names: bytes) -> list[int]:
    """What the names lead to, 0 for nothing."""
    found = [lab.witness.reader.target(ROOT, name) for name in names]
    assert all(attr is not None for _, attr in filter(None, found))
    return [target[0].ino if target else 0 for target in found]


def times_created(lab: Lab, name: bytes, made: int | None) -> int:
    ino = entries(lab, name)[0]
    assert made in (None, ino)
    return int(ino > 0)


def times_unlinked(lab: Lab, it: tuple[bytes, int], _: Any) -> int:
    name, ino = it
    gone = entries(lab, name) == [0]
    attr = lab.witness.reader.attr(ino)
    deleted = [file for file in lab.witness.engine.deleted_files(1 << 40, -1) if file.ino == ino]
    if not gone:
        assert attr is not None and attr.nlink == 1 and not deleted
    elif lab.witness.setting.trash_days:
        assert attr is not None and attr.nlink == 1 and attr.parent > ROOT and not deleted
    else:
        assert attr is None and len(deleted) == 1
    return int(gone)


def times_renamed(lab: Lab, it: tuple[bytes, int, bytes, int], _: Any) -> int:
    name, ino, over, replaced = it
    found = entries(lab, name, over)
    assert found in ([0, ino], [ino, replaced])
    return int(found == [0, ino])


def times_linked(lab: Lab, it: tuple[bytes, int, bytes], _: Any) -> int:
    name, ino, second = it
    attr, found = lab.witness.reader.attr(ino), entries(lab, name, second)
    assert found[0] == ino and found[1] in (0, ino)
    assert attr is not None and attr.nlink == 1 + (found[1] > 0)
    assert not found[1] or lab.witness.reader.parents(ino) == {ROOT: 2}
    return int(found[1] > 0)


def times_written(lab: Lab, it: tuple[bytes, int, int], _: Any) -> int:
    _, ino, slice_id = it
    records = lab.witness.reader.chunk(ino, 0)
    ours = Slice(20, slice_id, 7, 0, 7).encode()
    attr = lab.witness.reader.attr(ino)
    assert attr is not None and attr.length == (27 if ours in records else 10)
    return records.count(ours)


def times_truncated(lab: Lab, it: tuple[bytes, int], _: Any) -> int:
    records, attr = lab.witness.reader.chunk(it[1], 0), lab.witness.reader.attr(it[1])
    assert attr is not None and attr.length == (100_000 if len(records) > 24 else 10)
    return len(records) // 24 - 1


def times_copied(lab: Lab, it: tuple[bytes, int], _: Any) -> int:
    records = lab.witness.reader.chunk(it[1], 0)
    refs = lab.witness.reader.slice_refs(int.from_bytes(records[4:12], "big"), 10)
    assert len(records) == 24 * refs
    return refs - 1


def number_taken(lab: Lab, it: list[int], taken: Any) -> int:
    """Numbers may be lost, never given twice."""
    value = taken.start if isinstance(taken, range) else taken
    assert value is None or value > it[-1]
    it.append(value or it[-1])
    return 1


def times_added(lab: Lab, before: int, _: Any) -> int:
    return (lab.witness.reader.counter("probe") - before) // 7


SAMPLES = {
    "create": Sample(Lab.name, lambda lab, name: lab.client.file(name), times_created, remove),
    "mkdir": Sample(
        Lab.name,
        lambda lab, name: lab.client.mknod(SUPERUSER, ROOT, name, DIRECTORY, 0o755, 0)[0],
        times_created,
        lambda lab, name: lab.witness.rmdir(SUPERUSER, ROOT, name, skip_trash=True),
    ),
    "unlink": Sample(a_file, lambda lab, it: lab.client.unlink(SUPERUSER, ROOT, it[0]), times_unlinked),
    "rename": Sample(
        lambda lab: (*a_file(lab), *a_file(lab)),
        lambda lab, it: lab.client.rename(SUPERUSER, ROOT, it[0], ROOT, it[2]),
        times_renamed,
        lambda lab, it: remove(lab, it[2]),
    ),
    "link": Sample(
        lambda lab: (*a_file(lab), lab.name()),
        lambda lab, it: lab.client.link(SUPERUSER, it[1], ROOT, it[2]),
        times_linked,
        lambda lab, it: (remove(lab, it[0]), remove(lab, it[2])),
    ),
    "setattr": Sample(
        a_file,
        lambda lab, it: lab.client.setattr(SUPERUSER, it[1], Changes(SET_MODE | SET_UID, mode=0o600, uid=1000)),
        lambda lab, it, _: int(lab.witness.getattr(it[1]).mode == 0o600),
        lambda lab, it: remove(lab, it[0]),
    ),
    "write": Sample(
        lambda lab: (*a_file(lab), lab.client.new_slice_id()),
        lambda lab, it: lab.client.write_slice(it[1], 0, 20, it[2], 7, lab.client.vol.now()),
        times_written,
        lambda lab, it: remove(lab, it[0]),
    ),
    "truncate": Sample(
        a_file,
        lambda lab, it: lab.client.truncate(SUPERUSER, it[1], 100_000),
        times_truncated,
        lambda lab, it: remove(lab, it[0]),
    ),
    "copy": Sample(
        a_file,
        lambda lab, it: lab.client.copy_file_range(SUPERUSER, it[1], 0, it[1], 10, 10),
        times_copied,
        lambda lab, it: remove(lab, it[0]),
    ),
    "setxattr": Sample(
        a_file,
        lambda lab, it: lab.client.setxattr(SUPERUSER, it[1], b"user.x", b"value", 1),
        lambda lab, it, _: int(lab.witness.reader.xattrs(it[1]) == {b"user.x": b"value"}),
        lambda lab, it: remove(lab, it[0]),
    ),
    "flock": Sample(
        a_file,
        lambda lab, it: lab.client.flock(SUPERUSER, it[1], 77, F_WRLCK),
        lambda lab, it, _: int(lab.witness.reader.flocks(it[1]) == {(lab.client.sid, 77): b"W"}),
        lambda lab, it: (lab.client.flock(SUPERUSER, it[1], 77, F_UNLCK), remove(lab, it[0])),
    ),
    "session": Sample(
        lambda lab: [lab.witness.reader.counter("nextSession")],
        lambda lab, it: lab.engine.increment("nextSession"),
        number_taken,
    ),
    "allocate": Sample(
        lambda lab: [lab.witness.reader.counter("nextChunk")],
        lambda lab, it: lab.engine.allocate("nextChunk", 4096),
        number_taken,
    ),
    "add": Sample(
        lambda lab: lab.witness.reader.counter("probe"),
        lambda lab, it: lab.engine.increment("probe", 7),
        times_added,
    ),
}  # fmt: skip
TRASHING = ("unlink", "rename")


def sweep(lab: Lab, sample: Sample, way: Way, stride: int, first: int = 0, before: Callable[[], object] = bool) -> int:
    """Cut at position `first`, and then at every `stride`-th, until the operation is over before that. How many."""
    for number, position in enumerate(itertools.count(first, stride), 1):
        it = sample.prepare(lab)
        before()
        lab.proxy.arm(way, position)
        result = sample.act(lab, it)
        done = not lab.proxy.arm() and position > 0
        assert sample.times(lab, it, result) == 1, (way, position)
        sample.undo(lab, it)
        if done or number % SOUND_EVERY == 0:
            lab.sound()
        if done:
            return number
    raise AssertionError


def test_cut_at_every_byte(lab: Lab, long_run: bool, subtests: pytest.Subtests) -> None:
    """Nobody notices: the operation succeeds, is done once, and the volume is whole."""
    for number, (name, sample) in enumerate(SAMPLES.items()):
        if lab.witness.setting.trash_days and name not in TRASHING:
            continue
        with subtests.test(name):
            stride = 1 if long_run else STRIDE
            sweep(lab, sample, "up", stride, first=number % stride)
            sweep(lab, sample, "down", 1 if long_run else 3, first=number % 3)


def test_cut_where_nothing_is_known_yet(lab: Lab, long_run: bool) -> None:
    """The reads of a transaction are cut as well as its request, which then is the second round trip."""
    for name in TRASHING:
        for way in ("up", "down"):
            stride = 1 if long_run else STRIDE if way == "up" else 7
            sweep(lab, SAMPLES[name], way, stride, before=lambda: forget_all(lab))  # type: ignore[arg-type]


def forget_all(lab: Lab) -> None:
    for generation in (lab.engine._known._young, lab.engine._known._old):
        generation.clear()


def test_cut_while_the_script_is_loaded(lab: Lab, long_run: bool) -> None:
    flush = lab.witness.engine._link.ask  # type: ignore[attr-defined]
    for way in ("up", "down"):
        stride = (7 if way == "up" else 1) if long_run else 151 if way == "up" else 11
        sweep(lab, SAMPLES["rename"], way, stride, before=lambda: flush((b"SCRIPT", b"FLUSH")))  # type: ignore[arg-type]


def test_cut_for_longer_than_anybody_waits(server: redis_server.RedisServer, long_run: bool) -> None:
    """The operation fails: `Unavailable` if it was not done, `OutcomeUnknown` if that cannot be known."""
    labs = a_lab(server, 0)
    lab = next(labs)
    lab.engine._endpoint.deadline_s = 0.05
    places = [(way, at) for way in ("up", "down") for at in range(0, 700, 10 if long_run else 130)]
    outcomes = set()
    for name, (way, position) in itertools.product(("create", "unlink", "rename", "write", "copy", "add"), places):
        sample = SAMPLES[name]
        lab.client.reader.counter("probe")  # connected
        it = sample.prepare(lab)
        lab.proxy.refuse = True
        lab.proxy.arm(way, position)  # type: ignore[arg-type]
        outcome: type[Exception] | None = None
        try:
            sample.act(lab, it)
        except (Unavailable, OutcomeUnknown) as e:
            outcome = type(e)
        lab.proxy.refuse = False
        lab.proxy.arm()
        times = sample.times(lab, it, None)
        assert times in {None: (1,), Unavailable: (0,), OutcomeUnknown: (0, 1)}[outcome], (name, way, position)
        outcomes.add((outcome, times))
        if times:
            sample.undo(lab, it)
        lab.sound()
    assert {(Unavailable, 0), (OutcomeUnknown, 0), (OutcomeUnknown, 1)} <= outcomes
    next(labs, None)


def test_what_others_have_undone_is_not_done_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer of a create is lost, and before anybody can ask, somebody else has removed the new name again."""
    name = lab.name()
    exchange = lab.engine._link.exchange

    def late(commands: Any) -> Any:
        try:
            return exchange(commands)
        except link.Lost:
            remove(lab, name)
            raise

    monkeypatch.setattr(lab.engine._link, "exchange", late)
    lab.proxy.arm("down", 0)
    ino = lab.client.file(name)
    assert lab.proxy.arm() == 1
    assert entries(lab, name) == [0]
    assert lab.witness.reader.attr(ino) is None
    lab.sound()


def test_a_directory_renamed_back_by_others_stays_there(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a directory's record shows that it was somewhere else for a moment."""
    here, there = lab.name(), lab.name()
    ino = lab.client.mknod(SUPERUSER, ROOT, here, DIRECTORY, 0o755, 0)[0]
    exchange = lab.engine._link.exchange

    def late(commands: Any) -> Any:
        try:
            return exchange(commands)
        except link.Lost:
            lab.witness.rename(SUPERUSER, ROOT, there, ROOT, here)
            raise

    monkeypatch.setattr(lab.engine._link, "exchange", late)
    lab.proxy.arm("down", 0)
    lab.client.rename(SUPERUSER, ROOT, here, ROOT, there)
    assert lab.proxy.arm() == 1
    assert entries(lab, here, there) == [ino, 0]
    lab.sound()


def test_a_request_that_arrives_late_is_refused(lab: Lab) -> None:
    """A network that comes back delivers what was given up long ago, when the store looks again as it did then."""
    name = lab.name()
    lab.proxy.hold()
    made: list[int] = []
    thread = threading.Thread(target=lambda: made.append(lab.client.file(name)))
    thread.start()
    redis_server.wait_until(lambda: lab.proxy.held > 300, "the request to be on its way")
    lab.proxy.call(lambda: [pair.client.abort() for pair in lab.proxy.pairs if pair.held])
    thread.join(20)
    assert entries(lab, name) == made
    lab.client.unlink(SUPERUSER, ROOT, name, skip_trash=True)
    lab.proxy.release()
    redis_server.wait_until(lambda: not lab.proxy.held, "its arrival")
    assert lab.client.reader.counter("totalInodes") >= 0  # behind it on the same server
    assert entries(lab, name) == [0]
    with pytest.raises(Refused, check=lambda e: e.errno == errno.ENOENT):
        lab.client.open(SUPERUSER, made[0], os.O_RDONLY)
    lab.sound()
