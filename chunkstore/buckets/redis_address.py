"""The URL of a Redis that keeps objects, and the client for what is there: a server, sentinels' master, or a cluster.

Not the metadata engine's URLs, which know more options; of those here, only `db` and `skip_verify` have a meaning. The
number of a database has none in a cluster.
"""

from __future__ import annotations

import os
import re
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from redis import Redis, RedisCluster, Sentinel
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.exceptions import NoPermissionError
from redis.retry import Retry

from chunkstore.bucket import Access
from chunkstore.errors import BadBucket

_HOST = re.compile(r"(\[[^\]]+\]|[^:\[\]/@]+)(?::(\d{1,5}))?")
_EXAMPLE = "write for example redis://HOST:6379/1 (special characters of a password with %: / is %2F)"


class RedisAddress(NamedTuple):
    """What a URL says, without secrets. One host may be a server or any node of a cluster; several are nodes, or
    sentinels if there is a `master`."""

    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""  # of a socket, instead of hosts
    db: int = 0
    master: str = ""
    tls: bool = False
    verify: bool = True

    def __str__(self) -> str:
        if self.path:
            return f"unix://{self.path}?db={self.db}"
        places = [f"{host}:{port}" for host, port in self.hosts]
        return f"redis{'s' * self.tls}://{','.join([self.master, *places] if self.master else places)}/{self.db}"


def parse_address(url: str) -> tuple[RedisAddress, str, str]:
    """The address in a URL of the scheme redis, rediss or unix, the user, and the password."""
    uri = urlsplit(url)
    if uri.scheme not in ("redis", "rediss", "unix"):
        raise BadBucket(f"the bucket of a redis storage is a URL; {_EXAMPLE}")
    login, _, places = uri.netloc.rpartition("@")
    user, _, password = (unquote(part) for part in login.partition(":"))
    query = {name: values[-1] for name, values in parse_qs(uri.query).items()}
    db = query.get("db") or ("" if uri.scheme == "unix" else uri.path.strip("/")) or "0"
    if not db.isdigit():
        raise BadBucket(f"the URL of the redis storage has no number as its database; {_EXAMPLE}")
    found = RedisAddress(
        db=int(db), tls=uri.scheme == "rediss", verify=query.get("skip_verify", "").lower() not in ("1", "true")
    )
    if uri.scheme == "unix":
        return found._replace(path=uri.path), user, password
    comma, colon = places.find(","), places.find(":")
    master, names, port = "", places.split(","), 6379
    if 0 <= comma < colon:
        master, *names = names
        port = _host(names[-1], 26379)[1]
    return found._replace(master=master, hosts=tuple(_host(each, port) for each in names)), user, password


def _host(text: str, port: int) -> tuple[str, int]:
    found = _HOST.fullmatch(text)
    if not found:
        raise BadBucket(f"the URL of the redis storage does not name its hosts; {_EXAMPLE}")
    return found[1].strip("[]"), int(found[2] or port)


def connect(address: RedisAddress, user: str, password: str, access: Access) -> Any:
    """A client, shared by all threads. Raises what redis-py raises."""
    common: dict[str, Any] = {
        "username": user or None,
        "password": password or None,
        "socket_timeout": access.timeout_s,
        "socket_connect_timeout": access.connect_timeout_s,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),  # whoever asks tries again
        "protocol": 2,
    }
    if address.tls:
        reqs = "required" if address.verify else "none"
        common |= {"ssl": True, "ssl_cert_reqs": reqs, "ssl_check_hostname": address.verify}
    if address.path:
        return Redis(unix_socket_path=address.path, db=address.db, **common)
    if address.master:
        login = {"username": None, "password": os.environ.get("SENTINEL_PASSWORD_FOR_OBJ")}
        sentinel = Sentinel(address.hosts, sentinel_kwargs={**common, **login}, **common)
        return sentinel.master_for(address.master, db=address.db)
    if len(address.hosts) == 1:
        host, port = address.hosts[0]
        client = Redis(host, port, address.db, **common)
        if not _is_node(client):
            return client
        client.close()
    return RedisCluster(startup_nodes=[ClusterNode(host, port) for host, port in address.hosts], **common)


def _is_node(client: Redis) -> bool:
    """Whether the server belongs to a cluster."""
    try:
        return bool(client.info("cluster").get("cluster_enabled"))
    except NoPermissionError:  # may not be asked: then it is not assumed
        return False
