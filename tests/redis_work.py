"""Threads that work on a volume in Redis while something happens to the server, and know what must be there afterwards.

Not what happens to it (test_redis_faults, test_redis_topologies).
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from typing import Any

from clients import Client

from meta.engines import open_engine
from meta.errors import EngineError, Refused
from meta.redis.engine import RedisEngine
from meta.rules.check import check
from meta.rules.format import init_volume
from meta.setting import Setting
from meta.types import DIRECTORY, ROOT, SUPERUSER

_opened: list[Client] = []


def end_clients() -> None:
    """Let no thread of a client wait for a server that its test has ended. For the end of every test."""
    for client in _opened:
        client.engine._endpoint.deadline_s = 0  # type: ignore[attr-defined]
        client.engine.close()
    _opened.clear()


def client_at(url: str, deadline_s: float = 60, config: dict[str, Any] | None = None, **setting: Any) -> Client:
    """A client of the volume at `url`, which is made if a setting is given."""
    engine = open_engine(url)
    assert isinstance(engine, RedisEngine)
    engine._endpoint.deadline_s = deadline_s
    if setting:
        engine.prepare()
        init_volume(engine, Setting(**{"name": "test", "uuid": "5a1ade", "trash_days": 0, **setting}))
    client = Client(engine, **(config or {}))
    _opened.append(client)
    return client


class Worker(threading.Thread):
    """Creates, writes, renames, links and removes names of its own in a shared directory, and remembers."""

    def __init__(self, client: Client, name: str, seed: int = 4711) -> None:
        super().__init__(name=name, daemon=True)
        self.client = client
        self.random = random.Random(f"{name}{seed}")
        self.files: dict[bytes, int] = {}  # length by name
        self.directories: set[bytes] = set()
        self.done = 0
        self.failed: BaseException | None = None
        self.stopped = threading.Event()
        self.slowest_s = 0.0
        self._numbers = itertools.count()

    def run(self) -> None:
        actions = (self.create, self.create, self.write, self.write, self.rename, self.unlink, self.directory)
        try:
            while not self.stopped.is_set():
                started = time.monotonic()
                self.random.choice(actions)()
                self.slowest_s = max(self.slowest_s, time.monotonic() - started)
                self.done += 1
        except BaseException as e:
            self.failed = e

    def name_of(self) -> bytes:
        return f"{self.name}-{next(self._numbers)}".encode()

    def any(self) -> bytes:
        if not self.files:
            self.create()
        return self.random.choice(list(self.files))

    def create(self) -> None:
        name = self.name_of()
        self.client.file(name)
        self.files[name] = 0

    def write(self) -> None:
        name = self.any()
        ino, attr = self.client.lookup(SUPERUSER, ROOT, name)
        assert attr.length == self.files[name], (name, attr.length, self.files[name])
        self.client.write(ino, attr.length, 100)
        self.files[name] += 100

    def rename(self) -> None:
        old, new = self.any(), self.random.choice([self.any(), self.name_of()])
        self.client.rename(SUPERUSER, ROOT, old, ROOT, new)
        self.files[new] = self.files.pop(old)

    def unlink(self) -> None:
        name = self.any()
        self.client.unlink(SUPERUSER, ROOT, name)
        del self.files[name]

    def directory(self) -> None:
        if self.directories and self.random.random() < 0.5:
            self.client.rmdir(SUPERUSER, ROOT, self.directories.pop())
        else:
            name = self.name_of()
            self.client.mknod(SUPERUSER, ROOT, name, DIRECTORY, 0o755, 0)
            self.directories.add(name)


class Work:
    """Some workers, and the comparison of what they remember with what there is."""

    def __init__(self, *clients: Client, threads: int = 4, names: str = "w") -> None:
        self.clients = clients
        self.workers = [Worker(clients[number % len(clients)], f"{names}{number}") for number in range(threads)]

    def __enter__(self) -> Work:
        for worker in self.workers:
            worker.start()
        self.progress()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        for worker in self.workers:
            worker.stopped.set()
        for worker in self.workers:
            worker.join(120)
            assert not worker.is_alive(), f"{worker.name} hangs"

    def progress(self, operations: int = 20) -> None:
        """Wait until every worker has done so much more."""
        goals = [worker.done + operations for worker in self.workers]
        end = time.monotonic() + 120
        while any(worker.done < goal for worker, goal in zip(self.workers, goals, strict=True)):
            assert time.monotonic() < end, "nothing goes on"
            self.check_alive()
            time.sleep(0.01)

    def check_alive(self) -> None:
        for worker in self.workers:
            if worker.failed is not None:
                raise AssertionError(f"{worker.name} failed after {worker.done} operations") from worker.failed

    def verify(self, witness: Client | None = None) -> None:
        """Nobody has failed, all that was done is there, once, and the volume is whole."""
        self.check_alive()
        witness = witness or self.clients[0]
        ours = tuple(worker.name.encode() + b"-" for worker in self.workers)
        found = {item.name: item.attr for item in witness.list_dir(SUPERUSER, ROOT, plus=True).items}
        wanted: dict[bytes, int] = {}
        for worker in self.workers:
            wanted |= worker.files
            wanted |= dict.fromkeys(worker.directories, 4096)
        lengths = {name: attr.length for name, attr in found.items() if attr is not None and name.startswith(ours)}
        assert lengths == wanted, f"there is {lengths.items() - wanted.items()}, not {wanted.items() - lengths.items()}"
        for client in self.clients:
            assert client.deleter.drain(60)
        problems = check(witness.engine)
        assert not problems, problems


def eventually(action: Any, timeout_s: float = 30) -> Any:
    """What `action` gives once it does not fail any more."""
    end = time.monotonic() + timeout_s
    while True:
        try:
            return action()
        except (EngineError, Refused):
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
