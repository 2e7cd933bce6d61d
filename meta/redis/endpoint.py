"""Which server to talk to - one, the master that sentinels name, or a cluster's node - and a connection to it.

Not exchanges (link). Discovery, TLS and authentication are redis-py's. What is discovered is remembered until
`refresh`, which the link calls when a server says that it is not the right one, or cannot be reached.
"""

from __future__ import annotations

import re
import threading
from typing import Any, Final

from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import RedisClusterException, RedisError, ResponseError
from redis.retry import Retry
from redis.sentinel import Sentinel

from meta.errors import Unavailable
from meta.redis.url import Options

_CONNECT_TIMEOUT_S: Final = 5.0  # for each step until a connection is ready
_DEADLINE_S: Final = 30.0  # how long an operation waits for a server that cannot be reached or does not work

MAY_BLOCK: Final = hasattr(AbstractConnection, "update_current_socket_timeout")
"""Whether sockets can be made to block once they are connected. Else (redis-py before 7) every call costs a poll(2)."""


class Endpoint:
    """The server of a volume. Thread-safe."""

    def __init__(self, options: Options, read_only: bool = False) -> None:
        self.options = options
        self.deadline_s = _DEADLINE_S
        self.clustered = options.mode == "cluster"
        self._replicas = read_only and bool(options.route_read)
        self._lock = threading.Lock()  # held over discovery on purpose: others wait for its result
        self._found: tuple[str, int] | None = None

    def __str__(self) -> str:
        return f"Redis at {self.options.shown}"

    @property
    def prefix(self) -> bytes:
        """What all keys begin with."""
        return b"{%d}" % self.options.db if self.clustered else b""

    def connection(self, *, probing: bool = False) -> AbstractConnection:
        """A new connection, not yet connected. `probing`: to whatever is there, without choosing a database."""
        options = self.options
        common: dict[str, Any] = {
            "db": 0 if self.clustered or probing else options.db,
            "socket_timeout": _CONNECT_TIMEOUT_S if MAY_BLOCK else options.read_timeout_s,
            "socket_connect_timeout": _CONNECT_TIMEOUT_S,
            "protocol": 2,
            "client_name": "juicefs_py",
            **self._credentials(),
        }
        if options.mode == "socket":
            socket: type[Any] = UnixDomainSocketConnection
            return socket(path=options.path, **common)  # type: ignore[no-any-return]
        host, port = self._address()
        connection: AbstractConnection = self._class()(host=host, port=port, **self._tls(), **common)
        if self.clustered and self._replicas:
            connection.register_connect_callback(self._want_reads_only)
        return connection

    def explain(self, trouble: Exception) -> str:
        """What to do about a failed first connection, in words behind the error's own; nothing if those say it."""
        text = str(trouble)
        if "CERTIFICATE_VERIFY_FAILED" in text:
            return (
                "; the server's certificate is not trusted here: name the authority that has signed it with"
                " ?tls-ca-cert-file=FILE, and the server as the certificate does"
            )
        if self.options.tls and re.search("WRONG_VERSION|record layer failure|(?i:time(d )?out)", text):
            return "; does the server speak TLS? If not, write redis:// instead of rediss://"
        if self.options.tls and re.search("(?i)certificate required|handshake failure|EOF occurred", text):
            return "; does the server want a certificate of the client? ?tls-cert-file=FILE&tls-key-file=FILE"
        if not self.options.tls and ("reset by peer" in text or "closed by server" in text):
            return "; if the server speaks TLS, write rediss:// instead of redis://"
        return ""

    def detect_cluster(self, connection: AbstractConnection) -> None:
        """Learn whether a single address is a node of a cluster; the address is then one of several to ask."""
        connection.send_command("INFO", "cluster")
        try:
            self.clustered = b"cluster_enabled:1" in connection.read_response(disable_decoding=True)
        except ResponseError:  # not allowed to ask: what is not a cluster answers SELECT, which has succeeded
            return
        self._found = None

    def refresh(self) -> None:
        """Discover the server anew for the next connection."""
        with self._lock:
            self._found = None

    def _class(self) -> type[Connection]:
        return SSLConnection if self.options.tls else Connection

    def _credentials(self) -> dict[str, Any]:
        options = self.options
        return {"username": options.user or None, "password": options.password or None}

    def _tls(self) -> dict[str, Any]:
        options = self.options
        if not options.tls:
            return {}
        return {
            "ssl_cert_reqs": "required" if options.verify else "none",
            "ssl_check_hostname": options.verify,
            "ssl_ca_certs": options.ca or None,
            "ssl_certfile": options.cert or None,
            "ssl_keyfile": options.key or None,
        }

    def _address(self) -> tuple[str, int]:
        with self._lock:
            if self._found is None:
                self._found = self._discover()
            return self._found

    def _discover(self) -> tuple[str, int]:
        if self.options.mode == "sentinel":
            return self._ask_sentinels()
        if self.clustered:
            return self._ask_cluster()
        return self.options.addresses[0]

    def _ask_sentinels(self) -> tuple[str, int]:
        options = self.options
        extra = {"ssl": True, **self._tls()} if options.tls else {}
        sentinel = Sentinel(
            options.addresses,
            sentinel_kwargs={
                "password": options.sentinel_password or None,
                "socket_timeout": _CONNECT_TIMEOUT_S,
                "protocol": 2,
                "retry": _once(),  # else a sentinel that is down costs seconds before the next one is asked
                **extra,
            },
        )
        if self._replicas:
            found = sentinel.discover_slaves(options.master)
            if found:
                return _pair(found[0])
        return _pair(sentinel.discover_master(options.master))

    def _ask_cluster(self) -> tuple[str, int]:
        nodes = [ClusterNode(host, port) for host, port in self.options.addresses]
        extra = {"ssl": True, **self._tls()} if self.options.tls else {}
        try:
            cluster = RedisCluster(
                startup_nodes=nodes,
                socket_timeout=_CONNECT_TIMEOUT_S,
                protocol=2,
                retry=_once(),
                **self._credentials(),
                **extra,
            )
        except RedisClusterException as e:
            raise RedisError(str(e)) from e
        try:
            key = self.prefix.decode() + "setting"
            node = cluster.get_node_from_key(key, replica=self._replicas)
            if node is None and self._replicas:  # none is known, or none yet
                node = cluster.get_node_from_key(key)
            if node is None:
                raise Unavailable(f"{self}: no node of the cluster serves the slot of {key}")
            return _pair((node.host, node.port))
        finally:
            cluster.close()

    def _want_reads_only(self, connection: AbstractConnection) -> None:
        """A cluster's replica answers reads only to those who say that they want nothing else."""
        connection.send_command("READONLY")
        connection.read_response()


def _once() -> Retry:
    """No second attempt: the link tries again, with all that is known by then."""
    return Retry(NoBackoff(), 0)


def _pair(found: Any) -> tuple[str, int]:
    host, port = found
    return (host.decode() if isinstance(host, bytes) else str(host)), int(port)
