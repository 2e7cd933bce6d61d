"""Ways to reach a Redis: sentinels, clusters, replicas, TLS, sockets, users and passwords. Each with a real server.

Not the forms of URLs as such (test_redis_url), not mistakes in them (test_redis_bad_input).
"""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clients import Client
from redis_server import Cluster, RedisServer, Sentinel, TlsServer, replica_of, wait_until
from redis_work import Work, client_at, end_clients, eventually

from meta.engines import open_engine
from meta.errors import Refused, Unavailable
from meta.redis import endpoint
from meta.rules.check import check
from meta.types import DIRECTORY, ROOT, SUPERUSER


@pytest.fixture(autouse=True)
def nobody_stays() -> Iterator[None]:
    yield
    end_clients()


def smoke(url: str, **setting: Any) -> Client:
    """A volume is made, used and checked."""
    client = client_at(url, name="test", **setting)
    ino = client.file(b"f")
    client.write(ino, 0, 10)
    client.mknod(SUPERUSER, ROOT, b"d", DIRECTORY, 0o755, 0)
    client.rename(SUPERUSER, ROOT, b"f", ROOT, b"g")
    client.link(SUPERUSER, ino, ROOT, b"h")
    client.setxattr(SUPERUSER, ino, b"user.x", b"y")
    client.truncate(SUPERUSER, ino, 5)
    client.unlink(SUPERUSER, ROOT, b"g")
    client.rmdir(SUPERUSER, ROOT, b"d")
    assert client.resolve(SUPERUSER, b"h")[0] == ino
    assert [item.name for item in client.list_dir(SUPERUSER, ROOT, True).items] == [b"h"]
    assert client.deleter.drain(20)
    assert check(client.engine) == []
    return client


def stand_still(master: RedisServer, replica: RedisServer) -> None:
    """Let no write through any more, and wait until the replica has all there were: else some may be lost."""
    master.ask("CLIENT", "PAUSE", 20_000, "WRITE")
    wait_until(lambda: offset_of(master) == offset_of(replica), "the replica")


def offset_of(server: RedisServer) -> int:
    with server.client() as client:
        return int(client.info("replication")["master_repl_offset"])


# Sentinels


@pytest.fixture
def watched() -> Iterator[tuple[RedisServer, RedisServer, Sentinel]]:
    """A master, its replica, and who watches them."""
    master = RedisServer().start()
    replica = replica_of(master)
    sentinel = Sentinel(master).start()
    wait_until(lambda: sentinel.knows_replica(), "the sentinel")
    yield master, replica, sentinel
    for server in (sentinel, replica, master):
        server.close()


def test_a_failover_by_sentinel(watched: tuple[RedisServer, RedisServer, Sentinel]) -> None:
    """The master dies, its replica takes over, work goes on there; what was replicated is there, once."""
    master, replica, sentinel = watched
    client = smoke(sentinel.url(3))
    with Work(client, client_at(sentinel.url(3)), threads=2) as work:
        stand_still(master, replica)
        master.kill()
        wait_until(lambda: b"role:master" in replica.say(b"INFO replication\r\n"), "failover")
        work.progress()
    work.verify()
    assert str(client.engine) == f"RedisEngine(Redis at mymaster (127.0.0.1:{sentinel.port}))"
    assert replica.ask("EXISTS", "setting", database=3) == 1


def test_a_master_that_comes_back_as_replica(watched: tuple[RedisServer, RedisServer, Sentinel]) -> None:
    """It stands still, is given up, and is told that it is none when it wakes up: nobody goes on reading there."""
    master, replica, sentinel = watched
    client = smoke(sentinel.url(0) + "?read-timeout=1s")
    wait_until(lambda: offset_of(master) == offset_of(replica), "the replica")
    master.send(signal.SIGSTOP)
    ino = client.file(b"in the meantime")
    master.send(signal.SIGCONT)
    with master.client() as direct:  # what a sentinel does ten seconds later
        direct.execute_command("REPLICAOF", "127.0.0.1", replica.port)
        direct.execute_command("CLIENT", "KILL", "TYPE", "normal")
    client.unlink(SUPERUSER, ROOT, b"in the meantime")
    with pytest.raises(Refused):
        client.getattr(ino)
    assert client.lookup(SUPERUSER, ROOT, b"h")
    assert check(client.engine) == []


def test_a_sentinel_with_a_password(
    watched: tuple[RedisServer, RedisServer, Sentinel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not the server's, and comes from the environment. A sentinel that is down is passed over."""
    sentinel = Sentinel(watched[0], password="seCret9").start()
    url = sentinel.url(0).replace(",", ",127.0.0.1:1,")
    with pytest.raises(Unavailable, match="cannot connect to Redis at mymaster") as caught:
        open_engine(url)
    assert "seCret9" not in str(caught.value)
    monkeypatch.setenv("SENTINEL_PASSWORD", "seCret9")
    smoke(url)
    with pytest.raises(Unavailable, match="other"):
        open_engine(url.replace("mymaster", "other"))
    sentinel.close()


def test_reads_from_a_replica(watched: tuple[RedisServer, RedisServer, Sentinel]) -> None:
    """Only who cannot write may: what a replica tells may be old."""
    master, replica, sentinel = watched
    smoke(sentinel.url(0))
    wait_until(lambda: replica.ask("EXISTS", "setting"), "replication")
    before = replica.ask("INFO", "commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"]
    engine = open_engine(sentinel.url(0) + "?route-read=replica", read_only=True)
    assert engine.reader.target(ROOT, b"h")
    assert engine.view(lambda reader: reader.attr(ROOT))
    with pytest.raises(Refused, match="Read-only"):
        engine.transact(lambda tx: tx.delete_attr(ROOT))
    assert replica.ask("INFO", "commandstats")["cmdstat_evalsha"]["calls"] > before
    engine.close()
    writer = open_engine(sentinel.url(0) + "?route-read=replica")
    writer.transact(lambda tx: tx.put_counter("probe", 1))
    assert master.ask("GET", "probe") == b"1"
    writer.close()


# Clusters


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster(3, replicas=True)
    yield cluster
    cluster.close()


def keys_of(cluster: Cluster) -> set[bytes]:
    return {key for node in cluster.masters for key in node.ask("KEYS", "*")}


def test_a_cluster(cluster: Cluster) -> None:
    """The database number is no database there, but the part of every key that decides about the node."""
    client = smoke(cluster.url(3))
    keys = keys_of(cluster)
    assert b"{3}setting" in keys and b"{3}i1" in keys
    assert all(key.startswith(b"{3}") for key in keys)
    assert cluster.owner("{3}setting").ask("EXISTS", "{3}i1") == 1
    assert client_at(cluster.url(3, nodes=1)).lookup(SUPERUSER, ROOT, b"h")
    smoke(cluster.url(4, nodes=1), trash_days=1)
    client.engine.reset()
    assert {key[:3] for key in keys_of(cluster)} == {b"{4}"}
    assert client.engine.is_empty()


def test_a_slot_moves_while_it_is_in_use(cluster: Cluster) -> None:
    """Key by key, as `redis-cli --cluster reshard` does it."""
    client = smoke(cluster.url(7))
    old = cluster.owner("{7}setting")
    new = next(node for node in cluster.masters if node is not old)
    slot = int(old.ask("CLUSTER", "KEYSLOT", "{7}setting"))
    with Work(client, client_at(cluster.url(7)), threads=2) as work:
        new.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.id(old))
        old.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.id(new))
        while keys := old.ask("CLUSTER", "GETKEYSINSLOT", slot, 20):
            old.ask("MIGRATE", "127.0.0.1", new.port, "", 0, 5000, "KEYS", *keys)
            time.sleep(0.02)
        for node in (new, old, *cluster.masters):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", cluster.id(new))
        work.progress()
    work.verify()
    assert old.ask("CLUSTER", "COUNTKEYSINSLOT", slot) == 0
    assert cluster.owner("{7}setting") is new


def test_reads_from_a_clusters_replica(cluster: Cluster) -> None:
    smoke(cluster.url(5))
    owner = cluster.owner("{5}setting")
    replica = cluster.nodes[len(cluster.masters) + cluster.masters.index(owner)]

    def reads_there() -> bool:
        """Until a replica is known to the node that is asked, the owner is read."""
        engine = open_engine(cluster.url(5) + "?route-read=replica", read_only=True)
        try:
            assert eventually(lambda: engine.reader.target(ROOT, b"h"))
            assert engine.reader.attr(ROOT)
            return b"cmdstat_readonly" in replica.say(b"INFO commandstats\r\n")
        finally:
            engine.close()

    wait_until(reads_there, "a replica that is read")


def test_a_failover_in_a_cluster(cluster: Cluster) -> None:
    client = smoke(cluster.url(9))
    owner = cluster.owner("{9}setting")
    with Work(client, client_at(cluster.url(9)), threads=2) as work:
        stand_still(owner, cluster.nodes[len(cluster.masters) + cluster.masters.index(owner)])
        owner.kill()
        alive = next(node for node in cluster.masters if node is not owner)
        wait_until(lambda: cluster_sees_new_owner(cluster, alive, owner), "failover")
        work.progress()
    work.verify()
    owner.start()


def cluster_sees_new_owner(cluster: Cluster, alive: RedisServer, dead: RedisServer) -> bool:
    slot = int(alive.ask("CLUSTER", "KEYSLOT", "{9}setting"))
    for first, last, master, *_ in alive.ask("CLUSTER", "SLOTS"):
        if first <= slot <= last:
            return bool(master[1] != dead.port)
    return False


# TLS, sockets, users


@pytest.fixture
def tls() -> Iterator[TlsServer]:
    server = TlsServer().start()
    yield server
    server.close()


def test_tls(tls: TlsServer) -> None:
    url = tls.url(1)
    smoke(f"{url}?tls-ca-cert-file={tls.ca}")
    assert client_at(f"{url}?insecure-skip-verify=true").lookup(SUPERUSER, ROOT, b"h")
    named = url.replace("127.0.0.1", "localhost")
    assert client_at(f"{named}?tls-ca-cert-file={tls.ca}").lookup(SUPERUSER, ROOT, b"h")


def test_tls_that_is_not_trusted(tls: TlsServer) -> None:
    for url in (tls.url(1), f"{tls.url(1)}?insecure-skip-verify=false"):
        with pytest.raises(Unavailable, match=r"certificate is not trusted here.*tls-ca-cert-file"):
            open_engine(url)
    with pytest.raises(Unavailable, match="if the server speaks TLS, write rediss://"):
        open_engine(tls.url(1).replace("rediss", "redis"))


def test_tls_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_CONNECT_TIMEOUT_S", 1)
    server = RedisServer().start()
    with pytest.raises(Unavailable, match=r"does the server speak TLS\? If not, write redis://"):
        open_engine(server.url(1).replace("redis://", "rediss://"))
    server.close()


def test_tls_with_a_certificate_of_the_client() -> None:
    server = TlsServer(client_certificates=True).start()
    url = f"{server.url(1)}?tls-ca-cert-file={server.ca}"
    with pytest.raises(Unavailable, match="want a certificate of the client"):
        open_engine(url)
    smoke(f"{url}&tls-cert-file={server.certificate}&tls-key-file={server.key}")
    server.close()


@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
def test_tls_through_a_restart_and_a_silent_network(tls: TlsServer) -> None:
    """A connection that the overseer ends behaves like any other that is lost, encrypted or not.

    Python leaves a TLS socket to the garbage collector if it is reset just before its handshake.
    """
    client = smoke(f"{tls.url(1)}?tls-ca-cert-file={tls.ca}&read-timeout=500ms")
    with Work(client, threads=2) as work:
        tls.send(signal.SIGSTOP)
        time.sleep(1.5)
        tls.send(signal.SIGCONT)
        work.progress()
        tls.kill()
        tls.options["appendfsync"] = "always"
        tls.start()
    work.check_alive()
    assert check(client.engine) == []
    gc.collect()


def test_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    server = RedisServer(unixsocket=str(path)).start()
    smoke(f"unix://{path}?db=5")
    assert server.ask("EXISTS", "setting", database=5) == 1
    assert b"setting" not in server.say(b"KEYS setting\r\n")
    server.ask("CONFIG", "SET", "requirepass", "seCret9")
    with pytest.raises(Unavailable, match="Authentication required"):
        open_engine(f"unix://{path}?db=5")
    engine = open_engine(f"unix://:seCret9@{path}?db=5")
    assert engine.reader.setting() and "seCret9" not in repr(engine)
    engine.close()
    with pytest.raises(Unavailable, match="No such file"):
        open_engine(f"unix://{tmp_path}/nothing.sock")
    server.close()


@pytest.fixture
def guarded() -> Iterator[RedisServer]:
    """A server with a password for all, and a user who may do what a volume needs."""
    server = RedisServer(requirepass="seCret9").start()
    with server.client(password="seCret9") as direct:
        direct.execute_command(
            "ACL", "SETUSER", "jfs", "on", ">pa:ss@w/ord", "~*", "+@all", "-@dangerous", "+info", "+keys"
        )
        direct.execute_command("ACL", "SETUSER", "blind", "on", ">pw", "~*", "+@all", "-eval", "-evalsha")
    yield server
    server.close()


def at(server: RedisServer, credentials: str, database: int = 1) -> str:
    return f"redis://{credentials}127.0.0.1:{server.port}/{database}"


def test_passwords(guarded: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the URL, else of the environment."""
    smoke(at(guarded, ":seCret9@"))
    for name in ("REDIS_PASSWORD", "META_PASSWORD"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "seCret9")
            assert client_at(at(guarded, "")).lookup(SUPERUSER, ROOT, b"h")
            assert client_at(at(guarded, "default@")).lookup(SUPERUSER, ROOT, b"h")
    (tmp_path / "password").write_text("seCret9\n")
    monkeypatch.setenv("META_PASSWORD_FILE", str(tmp_path / "password"))
    assert client_at(at(guarded, "")).lookup(SUPERUSER, ROOT, b"h")
    with pytest.raises(Unavailable, match="refuses the user or the password") as caught:
        client_at(at(guarded, ":wr0ng@"))
    assert "wr0ng" not in str(caught.value)


def test_a_user_with_few_rights(guarded: RedisServer) -> None:
    """Special characters of a password are written with % in a URL."""
    client = smoke(at(guarded, "jfs:pa%3Ass%40w%2Ford@", 2))
    client.engine._link.forget()  # type: ignore[attr-defined]
    client.file(b"again")
    with pytest.raises(Unavailable, match=r"lacks permissions.*evalsha"):
        client_at(at(guarded, "blind:pw@", 2)).file(b"f")


def test_a_password_that_is_changed(guarded: RedisServer) -> None:
    """Connections stay; new ones are refused in words, and work goes on when the old password is back."""
    client = smoke(at(guarded, ":seCret9@"))
    with guarded.client(password="seCret9") as direct:
        direct.config_set("requirepass", "other")
        client.engine._link.forget()  # type: ignore[attr-defined]
        with pytest.raises(Unavailable, match="refuses the user or the password"):
            client.file(b"f")
        direct.config_set("requirepass", "seCret9")
    client.file(b"f")
    assert check(client.engine) == []


def test_many_threads_find_a_server_at_once(watched: tuple[RedisServer, RedisServer, Sentinel]) -> None:
    """Discovery happens once, whoever needs it."""
    client = client_at(watched[2].url(0), name="test")
    client.engine._link.forget()  # type: ignore[attr-defined]
    client.engine._endpoint.refresh()  # type: ignore[attr-defined]
    before = len(os.listdir("/proc/self/fd"))
    threads = [threading.Thread(target=lambda: client.reader.attr(ROOT)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(os.listdir("/proc/self/fd")) <= before + 20
