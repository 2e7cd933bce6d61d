"""What a Redis server may do to its clients - stop, restart, run full, turn replica - and that work goes on afterwards.

Not broken connections byte by byte (test_redis_cuts), not mounts (test_redis_mount_faults). The servers are real.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from fcntl import F_UNLCK, F_WRLCK

import pytest
from clients import Client, check_sound
from proxy import Proxy
from redis_server import RedisServer, replica_of, wait_until
from redis_work import Work, client_at, end_clients

from meta.acl import Rule
from meta.errors import EngineError, OutcomeUnknown, OutOfSpace, Refused, Unavailable
from meta.redis.link import Link
from meta.rules.check import check
from meta.types import DIRECTORY, ROOT, SUPERUSER


@pytest.fixture(autouse=True)
def nobody_stays() -> Iterator[None]:
    yield
    end_clients()


@pytest.fixture
def server() -> Iterator[RedisServer]:
    server = RedisServer(appendfsync="always", enable_debug_command="yes").start()
    yield server
    server.close()


@pytest.fixture
def client(server: RedisServer) -> Iterator[Client]:
    client = client_at(server.url(), name="test")
    yield client
    if server.process is not None:
        client.shutdown()


def other(server: RedisServer, client: Client) -> Client:
    """Another client of the same volume, as another process would be."""
    return client_at(server.url(client.engine._endpoint.options.db))  # type: ignore[attr-defined]


# The server goes and comes back


def test_a_server_that_crashes_and_comes_back(server: RedisServer, client: Client) -> None:
    with Work(client, other(server, client)) as work:
        for _ in range(3):
            server.kill()
            time.sleep(0.3)
            server.start()
            work.progress()
    work.verify()


def test_a_server_that_is_restarted_in_order(server: RedisServer, client: Client) -> None:
    with Work(client) as work:
        server.stop()
        server.start()
        work.progress()
    work.verify()


def test_a_server_that_stands_still(server: RedisServer, client: Client, long_run: bool) -> None:
    """Nobody gives up: who waits gets the answer, late."""
    pause_s = 20 if long_run else 3
    with Work(client, other(server, client)) as work:
        server.send(signal.SIGSTOP)
        time.sleep(pause_s)
        server.send(signal.SIGCONT)
        work.progress()
    assert max(worker.slowest_s for worker in work.workers) >= pause_s - 1
    work.verify()


def test_a_server_that_stands_still_for_longer_than_an_answer_may_take(server: RedisServer) -> None:
    """Requests are given up while they lie in front of the server, and sent again: they are done once."""
    url = server.url()
    client = client_at(url + "?read-timeout=300ms", name="test")
    with Work(client) as work:
        for _ in range(2):
            server.send(signal.SIGSTOP)
            time.sleep(1.5)
            server.send(signal.SIGCONT)
            work.progress()
    work.verify()
    client.shutdown()


def test_a_server_that_is_loading(server: RedisServer, client: Client) -> None:
    with server.client() as direct:
        for batch in range(50):
            direct.mset({f"other{batch * 100 + n}": "x" * 100 for n in range(100)})
        direct.bgrewriteaof()  # into a snapshot, whose keys can be loaded slowly
        wait_until(lambda: not direct.info("persistence")["aof_rewrite_in_progress"], "the snapshot")
    with Work(client, threads=2) as work:
        server.kill()
        server.options |= {"key-load-delay": "300", "loading-process-events-interval-bytes": "1024"}
        server.start(wait=False)
        wait_until(lambda: b"LOADING" in server.say(b"PING\r\n"), "loading")
        late = client_at(server.url(client.engine._endpoint.options.db))  # type: ignore[attr-defined]
        work.progress()
    work.verify(late)


def test_a_server_without_scripts_and_connections(server: RedisServer, client: Client) -> None:
    """SCRIPT FLUSH and CLIENT KILL again and again."""
    with Work(client, other(server, client)) as work, server.client() as direct:
        for _ in range(40):
            direct.script_flush()
            direct.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            time.sleep(0.03)
        work.progress()
    work.verify()


def test_a_server_with_too_many_clients(server: RedisServer, client: Client) -> None:
    crowd = [server.connect(5) for _ in range(20)]
    server.ask("CONFIG", "SET", "maxclients", 20)
    client.engine._link.forget()  # type: ignore[attr-defined]
    with pytest.raises(Unavailable, match="max number of clients"):
        client_at(server.url(1))
    made: list[int] = []
    thread = threading.Thread(target=lambda: made.append(client.file(b"f")))
    thread.start()
    thread.join(0.5)
    assert not made
    for connection in crowd:
        connection.close()
    thread.join(20)
    assert made == [client.lookup(SUPERUSER, ROOT, b"f")[0]]
    check_sound(client.engine)


@pytest.mark.parametrize("stale", ["yes", "no"])
def test_a_server_that_is_a_replica_for_a_while(server: RedisServer, client: Client, stale: str) -> None:
    """Of a master that is not there, so that the data stays; with `stale` it answers reads."""
    client.file(b"before")
    server.ask("CONFIG", "SET", "replica-serve-stale-data", stale)
    with Work(client, threads=2) as work:
        server.ask("REPLICAOF", "127.0.0.1", 1)
        done = [worker.done for worker in work.workers]
        time.sleep(1)
        assert all(worker.done <= before + 5 for worker, before in zip(work.workers, done, strict=True))
        server.ask("REPLICAOF", "NO", "ONE")
        work.progress()
    assert client.lookup(SUPERUSER, ROOT, b"before")
    client.unlink(SUPERUSER, ROOT, b"before")
    work.verify()


def test_a_replica_that_stays_one(server: RedisServer, client: Client) -> None:
    client.file(b"f")
    server.ask("REPLICAOF", "127.0.0.1", 1)
    client.engine._endpoint.deadline_s = 0.2  # type: ignore[attr-defined]
    with pytest.raises(Unavailable, match="read only replica"):
        client.file(b"g")
    with pytest.raises(Unavailable, match="read only replica"):
        client.engine.allocate("nextInode", 10)
    assert client.lookup(SUPERUSER, ROOT, b"f")
    server.ask("REPLICAOF", "NO", "ONE")
    client.engine._endpoint.deadline_s = 60  # type: ignore[attr-defined]
    client.file(b"g")
    check_sound(client.engine)


# Memory


def fill(server: RedisServer) -> None:
    server.ask("CONFIG", "SET", "maxmemory", 1)


def test_a_server_without_memory(server: RedisServer) -> None:
    """What needs memory is ENOSPC, what frees some works, and so do heartbeats and the ends of locks and sessions."""
    client = client_at(server.url(), name="test", trash_days=1)
    inos = [client.file(b"f%d" % n) for n in range(6)]
    client.mknod(SUPERUSER, ROOT, b"d", DIRECTORY, 0o755, 0)
    client.write(inos[1], 0, 10)
    client.flock(SUPERUSER, inos[5], 7, F_WRLCK)
    client.open(SUPERUSER, inos[4], os.O_RDWR)
    slice_id = client.new_slice_id()
    fill(server)
    changes: list[Callable[[], object]] = [
        lambda: client.file(b"new"),
        lambda: client.mknod(SUPERUSER, ROOT, b"newdir", DIRECTORY, 0o755, 0),
        lambda: client.write_slice(inos[0], 0, 0, slice_id, 10, client.vol.now()),
        lambda: client.link(SUPERUSER, inos[0], ROOT, b"link"),
        lambda: client.setxattr(SUPERUSER, inos[0], b"user.x", b"y"),
        lambda: client.truncate(SUPERUSER, inos[0], 1000),
        lambda: client.engine.allocate("nextInode", 10),
    ]
    for number, change in enumerate(changes):
        with pytest.raises(OutOfSpace) as caught:
            change()
        assert caught.value.errno == errno.ENOSPC, number
    assert check(client.engine) == []
    client.unlink(SUPERUSER, ROOT, b"f0")  # into the trash
    client.unlink(SUPERUSER, ROOT, b"f1", skip_trash=True)
    client.unlink(SUPERUSER, ROOT, b"f4", skip_trash=True)
    client.rmdir(SUPERUSER, ROOT, b"d", skip_trash=True)
    client.rename(SUPERUSER, ROOT, b"f2", ROOT, b"f3")
    client.close(inos[4])
    client.flock(SUPERUSER, inos[5], 7, F_UNLCK)
    client.refresh_session()
    other(server, client).shutdown()
    assert client.deleter.drain(20) and client.store.deleted
    assert check(client.engine) == []
    server.ask("CONFIG", "SET", "maxmemory", 0)
    for change in changes[1:2]:
        change()
    client.write(client.file(b"new"), 0, 10)
    assert check(client.engine) == []
    fill(server)
    client.shutdown()


def test_work_around_a_full_server(server: RedisServer, client: Client) -> None:
    """Changes that run out of memory have changed nothing, whatever others do at the same time."""

    class Full(Work):
        def check_alive(self) -> None:
            for worker in self.workers:
                if worker.failed is not None and not isinstance(worker.failed, OutOfSpace):
                    raise AssertionError(worker.name) from worker.failed

    with Full(client) as work:
        fill(server)
        for worker in work.workers:
            worker.join(20)
    server.ask("CONFIG", "SET", "maxmemory", 0)
    assert all(isinstance(worker.failed, OutOfSpace) for worker in work.workers)
    assert check(client.engine) == []
    with Work(client, names="again") as again:
        again.progress()
    assert check(client.engine) == []


# Networks


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def distant(server: RedisServer, proxy: Proxy) -> Iterator[Client]:
    """A client behind the proxy that waits half a second for an answer."""
    client = client_at(server.url(port=proxy.port) + "?read-timeout=500ms", name="test")
    yield client
    client.shutdown()


def test_a_network_that_swallows_everything(proxy: Proxy, distant: Client) -> None:
    """An exchange is given up after the read timeout, and tried again for as long as the deadline."""
    with Work(distant) as work:
        for _ in range(2):
            proxy.black_hole = True
            time.sleep(1.5)
            proxy.black_hole = False
            proxy.cut()  # its connections have holes now
            work.progress()
    work.verify()


def test_a_connection_that_was_forgotten_on_the_way(proxy: Proxy, distant: Client) -> None:
    """What a firewall does to idle connections. The deadline does not end while the first attempt is given up."""
    distant.engine._endpoint.deadline_s = 0.2  # type: ignore[attr-defined]
    distant.reader.attr(ROOT)
    proxy.hold()
    ino = distant.file(b"f")
    assert distant.lookup(SUPERUSER, ROOT, b"f")[0] == ino
    proxy.hold()
    assert distant.lookup(SUPERUSER, ROOT, b"f")[0] == ino
    check_sound(distant.engine)


def test_connections_cut_at_random(proxy: Proxy, distant: Client, server: RedisServer) -> None:
    with Work(distant, other(server, distant)) as work:
        for number in range(60):
            proxy.reset = number % 2 == 1
            proxy.cut()
            time.sleep(0.02)
        work.progress()
    work.verify()


def test_a_failure_says_what_and_where(server: RedisServer, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    client.engine._endpoint.deadline_s = 0.3  # type: ignore[attr-defined]
    server.kill()
    with caplog.at_level(logging.WARNING), pytest.raises(EngineError) as caught:
        client.file(b"f")
    assert isinstance(caught.value, (Unavailable, OutcomeUnknown)) and caught.value.errno == errno.EIO
    assert f"Redis at 127.0.0.1:{server.port}" in str(caught.value)
    with pytest.raises(Unavailable, match=f"cannot connect to Redis at 127.0.0.1:{server.port}.*refused"):
        client.reader.attr(ROOT)
    assert "trying again" in caplog.text
    server.start()


# Links


def test_a_forked_child_has_connections_and_requests_of_its_own(server: RedisServer, client: Client) -> None:
    client.file(b"f")
    with server.client() as direct:
        before = {entry["id"] for entry in direct.client_list()}
        child = os.fork()
        if child == 0:
            try:
                client.file(b"from the child")
                os._exit(0)
            finally:
                os._exit(1)
        client.file(b"from the parent")
        assert os.waitpid(child, 0)[1] == 0
        assert before <= {entry["id"] for entry in direct.client_list()}, "the child has closed its parent's"
    names = [item.name for item in client.list_dir(SUPERUSER, ROOT, False).items]
    assert sorted(names) == [b"f", b"from the child", b"from the parent"]
    tickets = server.ask("KEYS", "request*", database=client.engine._endpoint.options.db)  # type: ignore[attr-defined]
    assert len(tickets) == 2


def test_an_exchange_that_is_interrupted_leaves_no_answer_behind(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one would take it for its own."""
    link: Link = client.engine._link  # type: ignore[attr-defined]
    connection = link._idle[-1]

    def interrupted(**_: object) -> object:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(connection, "read_response", interrupted)
        with pytest.raises(KeyboardInterrupt):
            link.ask((b"ECHO", b"old"))
    assert link.ask((b"ECHO", b"new")) == [b"new"]


def test_a_closed_link_is_not_used_again(server: RedisServer) -> None:
    client = client_at(server.url(), name="test")
    client.shutdown()
    with pytest.raises(Unavailable, match="closed"):
        client.reader.attr(ROOT)


def test_a_lost_gate_lets_nobody_through(proxy: Proxy, distant: Client) -> None:
    assert distant.engine.gate("lastCleanupFiles", 1_700_000_000, 60) is True
    proxy.arm("down", 0)
    assert distant.engine.gate("lastCleanupTrash", 1_700_000_000, 60) is False
    assert distant.engine.gate("lastCleanupTrash", 1_700_000_000, 60) is False
    assert distant.engine.gate("lastCleanupTrash", 1_700_000_060, 60) is True


def test_a_rule_that_meets_a_dead_server_waits_for_it_once(server: RedisServer) -> None:
    client = client_at(server.url(), deadline_s=1, name="test")
    ino = client.file(b"f")
    client.link(SUPERUSER, ino, ROOT, b"g")
    server.kill()
    begun = time.monotonic()
    with pytest.raises(Unavailable):
        client.truncate(SUPERUSER, ino, 10)  # believes what the inode is, and asks where its names are
    assert time.monotonic() - begun < 1.9


# What others change


def test_links_of_a_directory_that_two_clients_change(server: RedisServer, client: Client) -> None:
    """Each adds and takes away what it has done itself, whatever it believes that there was."""
    second = other(server, client)
    second.reader.attr(ROOT)
    for n in range(5):
        client.mknod(SUPERUSER, ROOT, b"d%d" % n, DIRECTORY, 0o755, 0)
    for n in range(5):
        second.rmdir(SUPERUSER, ROOT, b"d%d" % n)
        assert client.reader.attr(ROOT).nlink == 6 - n  # type: ignore[union-attr]
    assert check(client.engine) == []
    second.shutdown()


def test_a_failover_that_loses_changes(server: RedisServer, proxy: Proxy) -> None:
    """The server that takes over was behind: what it never had is gone, the rest is whole, no number comes again."""
    client = client_at(server.url(1, port=proxy.port), name="test")
    kept = client.file(b"kept")
    behind = replica_of(server)
    behind.ask("REPLICAOF", "NO", "ONE")
    lost = [client.file(b"lost%d" % n) for n in range(5)]
    lost_directory, _ = client.mknod(SUPERUSER, ROOT, b"lost", DIRECTORY, 0o755, 0)
    client.write(kept, 0, 10)
    numbers = [client.engine.allocate(counter, 5000) for counter in ("nextInode", "nextChunk")]
    proxy.target = behind.port
    proxy.cut()
    assert [item.name for item in client.list_dir(SUPERUSER, ROOT, False).items] == [b"kept"]
    assert client.reader.chunk(kept, 0) == b""
    for gone in (
        lambda: client.unlink(SUPERUSER, ROOT, b"lost0"),
        lambda: client.file(b"f", lost_directory),
        lambda: client.write(lost[1], 0, 10),
    ):
        with pytest.raises(Refused, check=lambda e: e.errno == errno.ENOENT):
            gone()
    for counter, had in zip(("nextInode", "nextChunk"), numbers, strict=True):
        assert client.engine.allocate(counter, 10).start >= had.stop  # type: ignore[arg-type]
    assert client.file(b"lost0") not in lost
    assert check(client.engine) == []
    client.refresh_session()
    client.shutdown()
    behind.close()


def test_numbers_are_not_given_twice_after_a_loss(server: RedisServer, client: Client) -> None:
    """A failover to a replica that was behind takes counters back; what this client got before stays its own."""
    taken = [client.engine.allocate("nextChunk", 10), client.engine.allocate("nextChunk", 10)]
    server.ask("SET", "nextchunk", taken[0].start - 1, database=client.engine._endpoint.options.db)  # type: ignore[attr-defined]
    assert client.engine.allocate("nextChunk", 10).start >= taken[1].stop


def test_ids_of_access_control_lists_in_use_are_passed_over(server: RedisServer, client: Client) -> None:
    """After a failover the counter may be behind them: no list is taken for another."""
    rules = [Rule(7, 5, 7, 0, ((1000 + n, 6),)) for n in range(4)]
    ids = [client.engine.intern_acl(rule) for rule in rules[:3]]
    server.ask("SET", "aclMaxId", 1, database=client.engine._endpoint.options.db)  # type: ignore[attr-defined]
    ids.append(client.engine.intern_acl(rules[3]))
    assert [client.reader.acl(number) for number in ids] == rules
