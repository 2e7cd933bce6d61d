"""BSD and POSIX locks: against a dumb model byte by byte, and the waiting for them - on every engine."""

from __future__ import annotations

import errno
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from clients import ENGINES, SHORT, Client, new_engine

from meta import lock_waits
from meta.errors import Refused
from meta.plock import END_OF_FILE, READ, UNLOCK, WRITE, Plock

BYTES = 24  # the files of the model are so long
TYPES = (READ, WRITE, UNLOCK)


@pytest.fixture(params=ENGINES)
def two(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Client, Client]]:
    engine = new_engine(request.param, tmp_path)
    clients = Client(engine), Client(engine)
    yield clients
    for client in clients:
        client.close_session()
    engine.close()


def refused(number: int) -> AbstractContextManager[object]:
    return pytest.raises(Refused, check=lambda e: e.errno == number)


def granted(attempt: Callable[[], None]) -> bool:
    try:
        attempt()
    except Refused as e:
        assert e.errno == errno.EAGAIN
        return False
    return True


class ByteLocks:
    """The dumb model of POSIX locks: for each byte, who holds it and how."""

    def __init__(self) -> None:
        self.held: dict[tuple[int, int], list[int]] = {}  # by owner: a type for each byte

    def blocked_by(self, owner: tuple[int, int], lock: Plock) -> set[tuple[int, int]]:
        return {
            other
            for other, held in self.held.items()
            for byte in range(lock.start, lock.end + 1)
            if other != owner and held[byte] != UNLOCK and WRITE in (held[byte], lock.type) and lock.type != UNLOCK
        }

    def set(self, owner: tuple[int, int], lock: Plock) -> bool:
        if self.blocked_by(owner, lock):
            return False
        held = self.held.setdefault(owner, [UNLOCK] * BYTES)
        held[lock.start : lock.end + 1] = [lock.type] * (lock.end + 1 - lock.start)
        return True


@pytest.mark.parametrize("seed", range(4))
def test_record_locks_are_what_a_byte_by_byte_model_says(two: tuple[Client, Client], seed: int) -> None:
    print("seed", seed)
    rng, model = random.Random(seed), ByteLocks()
    ino = two[0].file(b"f")
    for _ in range(120):
        which, owner = rng.randrange(2), rng.randrange(2)
        client = two[which]
        start, end = sorted((rng.randrange(BYTES), rng.randrange(BYTES)))
        lock = Plock(rng.choice(TYPES), 100 + owner, start, end)
        blockers = model.blocked_by((which, owner), lock)
        found = client.getlk(SHORT, ino, owner, lock)
        assert (found.type == UNLOCK) == (not blockers)
        if blockers:
            assert found.pid in {100 + o if w == which else 0 for w, o in blockers}
        assert granted(lambda c=client, o=owner, k=lock: c.setlk(SHORT, ino, o, k)) == model.set((which, owner), lock)
    for which, client in enumerate(two):
        for owner in (0, 1):
            client.release_plocks(ino, owner)
            model.set((which, owner), Plock(UNLOCK, 0, 0, BYTES - 1))
    assert not two[0].reader.plocks(ino)


@pytest.mark.parametrize("seed", range(3))
def test_whole_file_locks_are_what_a_model_says(two: tuple[Client, Client], seed: int) -> None:
    """Any readers or one writer; the same owner changes its lock in place."""
    print("seed", seed)
    rng, held = random.Random(seed), {}
    ino = two[0].file(b"f")
    for _ in range(120):
        me = rng.randrange(2), rng.randrange(3)
        kind = rng.choice(TYPES)
        others = [how for who, how in held.items() if who != me]
        free = kind == UNLOCK or not others or (kind == READ and WRITE not in others)
        assert granted(lambda m=me, k=kind: two[m[0]].flock(SHORT, ino, m[1], k)) == free
        if free and kind == UNLOCK:
            held.pop(me, None)
        elif free:
            held[me] = kind
        assert len(two[0].reader.flocks(ino)) == len(held)


def test_locks_of_what_is_gone(two: tuple[Client, Client]) -> None:
    """ENOENT; but a release is always fine."""
    client = two[0]
    with refused(errno.ENOENT):
        client.flock(SHORT, 4711, 1, WRITE)
    with refused(errno.ENOENT):
        client.setlk(SHORT, 4711, 1, Plock(WRITE, 1, 0, 5))
    client.flock(SHORT, 4711, 1, UNLOCK)
    client.release_plocks(4711, 1)
    with refused(errno.EINVAL):
        client.flock(SHORT, 4711, 1, 9)
    with refused(errno.EINVAL):
        client.setlk(SHORT, 4711, 1, Plock(WRITE, 1, 9, 5))


def test_a_deadlock_free_upgrade(two: tuple[Client, Client]) -> None:
    """A reader that wants to write waits for the other readers, keeping its own lock."""
    client, ino = two[0], two[0].file(b"f")
    client.setlk(SHORT, ino, 1, Plock(READ, 1, 0, END_OF_FILE))
    client.setlk(SHORT, ino, 2, Plock(READ, 2, 10, 20))
    with refused(errno.EAGAIN):
        client.setlk(SHORT, ino, 1, Plock(WRITE, 1, 0, END_OF_FILE))
    client.setlk(SHORT, ino, 1, Plock(WRITE, 1, 0, 9))
    assert client.getlk(SHORT, ino, 2, Plock(WRITE, 2, 5, 30)) == Plock(WRITE, 1, 0, 9)


class Waiter(threading.Thread):
    """A caller that waits for a write lock; `interrupt` ends its waiting."""

    def __init__(self, client: Client, ino: int, owner: int, posix: bool) -> None:
        super().__init__(daemon=True)
        self.client, self.ino, self.owner, self.posix = client, ino, owner, posix
        self.interrupted = threading.Event()
        self.got_it_at = 0.0
        self.error = 0
        self.start()

    def run(self) -> None:
        wait = self.interrupted.wait
        try:
            if self.posix:
                self.client.setlk(SHORT, self.ino, self.owner, Plock(WRITE, 1, 0, 9), True, wait)
            else:
                self.client.flock(SHORT, self.ino, self.owner, WRITE, True, wait)
            self.got_it_at = time.monotonic()
        except Refused as e:
            self.error = e.errno


@pytest.mark.parametrize("posix", [False, True])
@pytest.mark.parametrize("other", [False, True], ids=["same client", "other client"])
def test_waiting_for_a_lock(two: tuple[Client, Client], posix: bool, other: bool) -> None:
    """The waiter has it as soon as the holder lets go: at once within one client, within a poll between two."""
    ino = two[0].file(b"f")
    two[0].flock(SHORT, ino, 1, WRITE)
    two[0].setlk(SHORT, ino, 1, Plock(READ, 1, 0, 100))
    waiter = Waiter(two[other], ino, 2, posix)
    time.sleep(0.15)
    assert waiter.is_alive()
    freed = time.monotonic()
    two[0].flock(SHORT, ino, 1, UNLOCK)
    two[0].release_plocks(ino, 1)
    waiter.join(5)
    assert waiter.got_it_at and waiter.got_it_at - freed < 1
    two[other].flock(SHORT, ino, 2, UNLOCK)
    two[other].release_plocks(ino, 2)


def test_a_release_wakes_the_waiters_of_its_own_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the pause between two attempts is, and even if the release comes during an attempt."""
    monkeypatch.setattr(lock_waits, "_FIRST_S", 20)
    monkeypatch.setattr(lock_waits, "_LONGEST_S", 20)
    waits, attempts, waiting = lock_waits.LockWaits(), [0], threading.Event()

    def attempt() -> bool:
        attempts[0] += 1
        if attempts[0] == 1:
            waits.released(7)  # just behind the look at the records
        else:
            waiting.set()
        return attempts[0] == 3

    thread = threading.Thread(target=waits.wait, args=(7, attempt, lambda timeout: False))
    thread.start()
    assert waiting.wait(5)
    deadline = time.monotonic() + 5
    while thread.is_alive() and time.monotonic() < deadline:
        waits.released(8)
        waits.released(7)
        thread.join(0.01)
    assert not thread.is_alive() and attempts == [3]


def test_an_interrupted_waiter(two: tuple[Client, Client]) -> None:
    """EINTR, soon, and nothing is held afterwards."""
    client, ino = two[0], two[0].file(b"f")
    client.flock(SHORT, ino, 1, WRITE)
    waiter = Waiter(client, ino, 2, posix=False)
    time.sleep(0.05)
    waiter.interrupted.set()
    waiter.join(2)
    assert not waiter.is_alive() and waiter.error == errno.EINTR
    assert list(client.reader.flocks(ino)) == [(client.sid, 1)]
    assert not client._lock_waits._waiters


def test_many_waiters_each_get_their_turn(two: tuple[Client, Client]) -> None:
    """A lock that twelve threads of two clients fight for is never held twice."""
    ino, inside, most = two[0].file(b"f"), [0], [0]
    mutex = threading.Lock()

    def work(client: Client, owner: int) -> None:
        for _ in range(4):
            client.flock(SHORT, ino, owner, WRITE, True, lambda timeout: False)
            with mutex:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            time.sleep(0.001)
            with mutex:
                inside[0] -= 1
            client.flock(SHORT, ino, owner, UNLOCK)

    threads = [threading.Thread(target=work, args=(two[n % 2], n)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == [1] and inside == [0]
