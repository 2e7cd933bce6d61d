"""Mounts whose Redis stops, restarts, runs full or cannot be reached: they live, and keep what fsync acknowledged.

Not the engine alone (test_redis_faults). Programs either wait and succeed, or get the right errno at once.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mounts import Mount, Volume
from proxy import Proxy
from redis_server import KeptServer, RedisServer, wait_until
from test_durability import Acknowledged, Writer, verify

from meta.engines import open_engine
from meta.rules.check import check

pytestmark = [pytest.mark.battery, pytest.mark.timeout(400)]

WRITERS = 3
TROUBLE = r"<(WARNING|ERROR)>: .*Redis at"


class Insistent(Writer):
    """A writer for whom an error is an error."""

    failed: OSError | None = None

    def run(self) -> None:
        actions = (self.append, self.append, self.rewrite, self.replace, self.remove)
        try:
            while not self.stopped.is_set():
                self.random.choice(actions)(f"{self.name}-{self.random.randrange(6)}")
                self.kept.calls += 1
        except OSError as e:
            self.failed = e


@pytest.fixture
def server() -> Iterator[RedisServer]:
    server = KeptServer(appendfsync="always").start()
    yield server
    server.close()


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def mount(server: RedisServer, proxy: Proxy, scratch: Path, new_mount: Callable[..., Mount]) -> Mount:
    """A mount that reaches its server through the proxy."""
    made: Mount = new_mount(volume=Volume(scratch / "vol", "redis", url=server.url(1, port=proxy.port)).format())
    made.expected.append(TROUBLE)
    return made


@contextmanager
def writing(mount: Mount) -> Iterator[Callable[[], None]]:
    """Writers at work; gives a function that waits until all have got on. In the end: no errors, all is there."""
    kept = [Acknowledged() for _ in range(WRITERS)]
    writers = [Insistent(mount.path, f"w{number}", number, state) for number, state in enumerate(kept)]
    for writer in writers:
        writer.start()

    def get_on() -> None:
        goals = [state.calls + 5 for state in kept]

        def done() -> bool:
            for writer in writers:
                if writer.failed is not None:
                    raise AssertionError(f"{writer.name} failed: {writer.failed}\n{mount.read_log()}")
            return all(state.calls >= goal for state, goal in zip(kept, goals, strict=True))

        wait_until(done, "the writers", 120)

    try:
        get_on()
        yield get_on
    finally:
        for writer in writers:
            writer.stopped.set()
        for writer in writers:
            writer.join(120)
    assert not any(writer.is_alive() for writer in writers)
    wrong = [line for state in kept for line in verify(mount.path, state)]
    assert not wrong, wrong


def whole(mount: Mount, server: RedisServer) -> None:
    """End the mount, and look at the volume without it."""
    mount.stop()
    engine = open_engine(server.url(1))
    assert check(engine) == []
    assert engine.sessions() == []
    engine.close()


def test_restarts(mount: Mount, server: RedisServer) -> None:
    with writing(mount) as get_on:
        for _ in range(3):
            server.kill()
            time.sleep(0.5)
            server.start()
            get_on()
    whole(mount, server)


def test_a_pause(mount: Mount, server: RedisServer, long_run: bool) -> None:
    with writing(mount) as get_on:
        server.send(signal.SIGSTOP)
        time.sleep(20 if long_run else 3)
        server.send(signal.SIGCONT)
        get_on()
    whole(mount, server)


def test_connections_that_break(mount: Mount, server: RedisServer, proxy: Proxy) -> None:
    """Killed by the server, cut by the network with and without a reset, scripts forgotten in between."""
    with writing(mount) as get_on, server.client() as direct:
        for number in range(30):
            if number % 3:
                proxy.reset = number % 2 == 0
                proxy.cut()
            else:
                direct.script_flush()
                direct.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            time.sleep(0.05)
        get_on()
        for position in range(0, 600, 40):
            proxy.arm("up", position)
            time.sleep(0.05)
        for position in range(0, 60, 5):
            proxy.arm("down", position)
            time.sleep(0.05)
        proxy.arm()
        get_on()
    whole(mount, server)


def test_a_server_that_is_full(mount: Mount, server: RedisServer) -> None:
    """ENOSPC for what needs memory; removing works, and then everything again."""
    root = mount.path / "directory"
    root.mkdir()
    for n in range(4):
        (root / f"f{n}").write_bytes(b"x" * 5000)
    server.ask("CONFIG", "SET", "maxmemory", 1)
    for change in (
        lambda: (root / "new").touch(),
        lambda: (root / "dir").mkdir(),
        lambda: os.link(root / "f0", root / "link"),
        lambda: (root / "f0").write_bytes(b"y" * 5000),
    ):
        with pytest.raises(OSError) as caught:
            change()
        assert caught.value.errno == errno.ENOSPC
    assert (root / "f1").read_bytes() == b"x" * 5000
    (root / "f1").unlink()
    (root / "f2").rename(root / "f3")
    assert sorted(path.name for path in root.iterdir()) == ["f0", "f3"]
    server.ask("CONFIG", "SET", "maxmemory", 0)
    (root / "f0").write_bytes(b"z" * 5000)
    (root / "new").write_bytes(b"x")
    assert (root / "f0").read_bytes() == b"z" * 5000
    mount.expected.append("(?i)out of memory|no space")
    whole(mount, server)


def test_a_server_that_refuses(mount: Mount, server: RedisServer, proxy: Proxy) -> None:
    """EIO at once where waiting would not help, in the log the reason, and work goes on when it is gone."""
    root = mount.path / "directory"
    root.mkdir()
    (root / "f").write_bytes(b"x" * 5000)
    server.ask("CONFIG", "SET", "requirepass", "seCret9")
    proxy.cut()
    for call in (lambda: (root / "new").touch(), lambda: (root / "g").stat(), lambda: os.listdir(root)):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EIO
    assert "refuses the user or the password" in mount.read_log()
    with server.client(password="seCret9") as direct:
        direct.config_set("requirepass", "")
    (root / "new").touch()
    assert sorted(path.name for path in root.iterdir()) == ["f", "new"]
    assert (root / "f").read_bytes() == b"x" * 5000
    whole(mount, server)


@pytest.mark.long
def test_an_outage_that_outlasts_all_patience(mount: Mount, server: RedisServer) -> None:
    """Half a minute, then EIO; what was written meanwhile is told to be lost, what was synced before is there."""
    root = mount.path / "directory"
    root.mkdir()
    (root / "synced").write_bytes(b"x" * 5000)
    os.sync()
    server.kill()
    started = time.monotonic()
    with pytest.raises(OSError) as caught:
        (root / "new").write_bytes(b"y")
    assert caught.value.errno == errno.EIO and time.monotonic() - started > 25
    server.start()
    wait_until(lambda: (root / "again").write_bytes(b"z"), "the mount")
    assert (root / "synced").read_bytes() == b"x" * 5000
    assert sorted(path.name for path in root.iterdir() if path.name != "new") == ["again", "synced"]
    whole(mount, server)
