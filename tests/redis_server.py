"""Redis servers for tests: each on a free loopback port, ended by its own pid. One is shared, a database per test.

Alone, as a replica, under a sentinel, as a cluster, with TLS. Not what is stored there.
"""

from __future__ import annotations

import atexit
import datetime
import ipaddress
import itertools
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import redis
from needs import need

_DATABASES = 4096
_READY_S = 10.0


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """A server process with a directory of its own; `options` are those of redis-server, without dashes."""

    def __init__(self, port: int | None = None, program: str = "redis-server", **options: str) -> None:
        need("redis-server")
        self.port = port or free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="redis-"))
        self.options = {
            "appendonly": "yes", "save": "", "databases": str(_DATABASES), "repl-diskless-sync-delay": "0", **options,
        }  # fmt: skip
        self.program = program
        self.process: subprocess.Popen[bytes] | None = None
        self._databases = itertools.count(1)
        atexit.register(self.close)

    def start(self, wait: bool = True) -> RedisServer:
        """Start it, or start it again with the data that it had."""
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(self.arguments(), stdout=log, stderr=log, start_new_session=True)
        if wait:
            self.wait()
        return self

    def arguments(self) -> list[str]:
        """The command line."""
        arguments = [self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory)]
        for name, value in self.options.items():
            arguments += [f"--{name.replace('_', '-')}", *(value.split(" ") if value else [""])]
        return arguments

    def wait(self) -> None:
        """Return when it answers."""
        end = time.monotonic() + _READY_S
        while time.monotonic() < end:
            try:
                answer = self.say(b"PING\r\n")
                if b"PONG" in answer or b"NOAUTH" in answer:
                    return
            except OSError:
                pass
            time.sleep(0.02)
        raise AssertionError(f"redis-server does not answer:\n{(self.directory / 'log').read_text()[-2000:]}")

    def say(self, line: bytes, timeout_s: float = 2.0) -> bytes:
        """What it first answers to an inline command."""
        with self.connect(timeout_s) as connection:
            connection.sendall(line)
            return connection.recv(65536)

    def connect(self, timeout_s: float) -> socket.socket:
        """A connection of one's own."""
        return socket.create_connection(("127.0.0.1", self.port), timeout_s)

    @contextmanager
    def client(self, database: int = 0, **options: Any) -> Iterator[redis.Redis]:
        """A client that is none of ours, to look and to turn knobs."""
        with redis.Redis(port=self.port, db=database, protocol=2, socket_timeout=20, **options) as client:
            yield client

    def ask(self, *command: str | bytes | int, database: int = 0) -> Any:
        """What it answers to one command."""
        with self.client(database) as client:
            return client.execute_command(*command)

    def send(self, number: int) -> None:
        """Send a signal to the process."""
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """End it as a crash would."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """End it in order."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait(20)
            self.process = None

    def close(self) -> None:
        """End it and remove its directory."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def url(self, database: int | None = None, port: int | None = None) -> str:
        """The URL of a database, by default one that no test has used; `port` of something in between."""
        number = next(self._databases) if database is None else database
        return f"redis://127.0.0.1:{port or self.port}/{number}"


@cache
def shared() -> RedisServer:
    """The server that tests share which do nothing to the server itself."""
    return RedisServer().start()


def wait_until(true: Callable[[], object], what: str, timeout_s: float = 30.0) -> None:
    """Ask again and again; errors of a server that is not ready yet are no answer."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        try:
            if true():
                return
        except (OSError, redis.RedisError):
            pass
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {timeout_s:.0f} s")


def replica_of(master: RedisServer, **options: str) -> RedisServer:
    """A server that copies another one, when it has caught up."""
    replica = RedisServer(replicaof=f"127.0.0.1 {master.port}", **options).start()
    wait_until(lambda: b"master_link_status:up" in replica.say(b"INFO replication\r\n"), "replication")
    return replica


class KeptServer(RedisServer):
    """A server that a shell starts, for tests with open files on a mount.

    A process that is made while the server is down would wait for it: leaving for another program closes those files,
    and that is a request to the mount.
    """

    _LOOP = 'while read _; do "$@" >>log 2>&1 & echo $!; wait; done'

    def __init__(self, **options: str) -> None:
        super().__init__(**options)
        command = ["sh", "-c", self._LOOP, "sh", *self.arguments()]
        pipe = subprocess.PIPE
        self._shell = subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=self.directory, start_new_session=True)
        self._pid = 0

    def start(self, wait: bool = True) -> RedisServer:
        assert self._shell.stdin is not None and self._shell.stdout is not None
        self._shell.stdin.write(b"\n")
        self._shell.stdin.flush()
        self._pid = int(self._shell.stdout.readline())
        if wait:
            self.wait()
        return self

    def send(self, number: int) -> None:
        os.kill(self._pid, number)

    def kill(self) -> None:
        if self._pid:
            self.send(signal.SIGKILL)
            self._pid = 0

    def close(self) -> None:
        if self._shell.poll() is None:
            self.kill()
            assert self._shell.stdin is not None and self._shell.stdout is not None
            self._shell.stdin.close()
            self._shell.wait()
            self._shell.stdout.close()
        super().close()


class Sentinel(RedisServer):
    """A sentinel that alone decides about a master of the name `mymaster`, quickly."""

    def __init__(self, master: RedisServer, password: str = "") -> None:
        super().__init__()
        self.password = password
        self.config = self.directory / "sentinel.conf"
        self.config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.directory}\n"
            f"sentinel monitor mymaster 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds mymaster 500\nsentinel failover-timeout mymaster 3000\n"
            + (f"requirepass {password}\n" if password else "")
        )

    def arguments(self) -> list[str]:
        return [self.program, str(self.config), "--sentinel"]

    def knows_replica(self) -> bool:
        """Whether it could fail over now."""
        replicas = self.say(b"SENTINEL REPLICAS mymaster\r\n")
        return b"master-link-status\r\n$2\r\nok" in replicas and b"_down" not in replicas

    def url(self, database: int | None = None, port: int | None = None) -> str:
        return f"redis://mymaster,127.0.0.1:{self.port}/{database or 0}"


class Cluster:
    """Masters that share the slots among them, and a replica of each if asked for."""

    def __init__(self, masters: int = 3, replicas: bool = False) -> None:
        options = {"cluster_enabled": "yes", "cluster_node_timeout": "1000", "databases": "1"}
        self.nodes = [
            RedisServer(_cluster_port(), **options).start() for _ in range(masters * 2 if replicas else masters)
        ]
        self.masters = self.nodes[:masters]
        for number, master in enumerate(self.masters):
            first, last = (16384 * number // masters, 16384 * (number + 1) // masters - 1)
            master.ask("CLUSTER", "ADDSLOTSRANGE", first, last)
            master.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            self.nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", node.port)
        for node in self.nodes:
            wait_until(lambda node=node: len(node.ask("CLUSTER", "NODES")) >= len(self.nodes), "cluster")
        for master, replica in zip(self.masters, self.nodes[masters:], strict=False):
            wait_until(lambda m=master, r=replica: r.ask("CLUSTER", "REPLICATE", self.id(m)), "replica")
            wait_until(lambda r=replica: b"master_link_status:up" in r.say(b"INFO replication\r\n"), "replication")
        for node in self.nodes:
            wait_until(lambda node=node: b"cluster_state:ok" in node.say(b"CLUSTER INFO\r\n"), "cluster")

    @staticmethod
    def id(node: RedisServer) -> str:
        """The node's name in the cluster."""
        return bytes(node.ask("CLUSTER", "MYID")).decode()

    def owner(self, key: str) -> RedisServer:
        """The master that serves a key."""
        slot = int(self.nodes[0].ask("CLUSTER", "KEYSLOT", key))
        for first, last, master, *_ in self.nodes[0].ask("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == master[1])
        raise AssertionError(f"nobody serves slot {slot}")

    def url(self, database: int, nodes: int = 3) -> str:
        """Of several nodes, or of one, which looks like a server of its own."""
        return "redis://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:nodes]) + f"/{database}"

    def close(self) -> None:
        for node in self.nodes:
            node.close()


def _cluster_port() -> int:
    """Nodes talk to one another on a port 10,000 higher."""
    for _ in range(1000):
        port = free_port()
        if port < 55_000:
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port + 10_000))
                except OSError:
                    continue
            return port
    raise AssertionError("no two free ports with 10,000 between them")


class TlsServer(RedisServer):
    """A server that speaks TLS only; `client_certificates`: and only with those who show a certificate of the CA."""

    def __init__(self, client_certificates: bool = False, **options: str) -> None:
        super().__init__(**options)
        make_certificates(self.directory)
        self.ca, self.certificate, self.key = (self.directory / name for name in ("ca.crt", "server.crt", "server.key"))
        self.options["tls-auth-clients"] = "yes" if client_certificates else "no"

    def arguments(self) -> list[str]:
        return [
            *super().arguments(), "--port", "0", "--tls-port", str(self.port), "--tls-ca-cert-file", str(self.ca),
            "--tls-cert-file", str(self.certificate), "--tls-key-file", str(self.key),
        ]  # fmt: skip

    def connect(self, timeout_s: float) -> socket.socket:
        context = ssl.create_default_context(cafile=str(self.ca))
        context.load_cert_chain(self.certificate, self.key)
        return context.wrap_socket(super().connect(timeout_s), server_hostname="127.0.0.1")

    def url(self, database: int | None = None, port: int | None = None) -> str:
        return super().url(database, port).replace("redis://", "rediss://")


def make_certificates(directory: Path) -> None:
    """ca.crt, and server.crt with server.key, signed by it, for 127.0.0.1 and localhost."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now = datetime.datetime.now(datetime.UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    for subject, own, is_ca, path in (("test CA", ca_key, True, "ca.crt"), ("test server", key, False, "server.crt")):
        names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("test CA"))
            .public_key(own.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
            .add_extension(_usage(is_ca), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        (directory / path).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    encoded = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    (directory / "server.key").write_bytes(encoded)


def _usage(is_ca: bool) -> Any:
    """What a key may be used for, without which a strict client (Python 3.13) trusts no authority."""
    from cryptography import x509

    others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only")
    return x509.KeyUsage(
        digital_signature=True, key_cert_sign=is_ca, crl_sign=is_ca, decipher_only=False, **dict.fromkeys(others, False)
    )
