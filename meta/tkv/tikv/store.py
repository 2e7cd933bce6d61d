"""A TiKV cluster as the ordered store of a volume. Not the records in it (`meta.tkv`).

`tikv://PD1[:2379],PD2,.../PREFIX?ca=FILE&cert=FILE&key=FILE&verify-cn=NAME,...&gc-interval=3h`

A key of the volume is the URL's path, the byte 0xFD, and then the key itself, as official clients have it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple
from urllib.parse import parse_qs, unquote

from meta.errors import BadURL, Refused
from meta.tkv.kv import KvReader, KvTransaction, overlaid
from meta.tkv.tikv.channels import Tls
from meta.tkv.tikv.cluster import Cluster
from meta.tkv.tikv.commit import Commit
from meta.tkv.tikv.gc import collect, interval
from meta.tkv.tikv.locks import Locks
from meta.tkv.tikv.snapshot import LATEST, Snapshot

_PORT: Final = 2379
_SEPARATOR: Final = b"\xfd"
_PAGE: Final = 1024
_KNOWN: Final = frozenset({
    "ca", "cert", "key", "verify-cn", "gc-interval", "open-tso-follower-proxy", "max-tso-batch-wait-interval",
})  # fmt: skip


class Address(NamedTuple):
    """A metadata URL taken apart."""

    endpoints: list[str]
    prefix: bytes
    tls: Tls
    gc_interval_s: float  # 0: old versions are left to others


def parse(url: str) -> Address:
    """Take a URL apart. `BadURL` if it cannot be one."""
    address, _, options = url.partition("://")[2].partition("?")  # urlsplit knows one host only
    netloc, _, path = address.partition("/")
    hosts = [host.strip() for host in netloc.split(",") if host.strip()]
    if not hosts:
        raise BadURL("tikv:// needs the addresses of PD: tikv://HOST:2379[,HOST...]/PREFIX")
    query = {name: values[-1] for name, values in parse_qs(options, keep_blank_values=True).items()}
    unknown = sorted(query.keys() - _KNOWN)
    if unknown:
        raise BadURL(f"tikv:// has no option {', '.join(unknown)}")
    endpoints = [host if _has_port(host) else f"{host}:{_PORT}" for host in hosts]
    names = tuple(name.strip() for name in query.get("verify-cn", "").split(",") if name.strip())
    tls = Tls(query.get("ca", ""), query.get("cert", ""), query.get("key", ""), names)
    prefix = unquote(path).lstrip("/").encode() + _SEPARATOR
    return Address(endpoints, prefix, tls, interval(query.get("gc-interval", "3h")))


def _has_port(host: str) -> bool:
    return host.rpartition("]")[2].count(":") == 1


class TikvStore:
    """`KvStore` over a cluster."""

    name = "tikv"

    def __init__(self, address: Address) -> None:
        self.cluster = Cluster(address.endpoints, address.tls)
        self.locks = Locks(self.cluster)
        self.prefix = address.prefix
        self._gc_interval_s = address.gc_interval_s
        self.latest: KvReader = _Latest(self)
        self._described = ",".join(address.endpoints)

    def __repr__(self) -> str:
        return f"TikvStore({self._described}, {self.prefix!r})"

    def begin(self) -> KvTransaction:
        return TikvTransaction(self)

    def snapshot(self, version: int) -> Snapshot:
        """The state at a timestamp."""
        return Snapshot(self.cluster, self.locks, version)

    def tend(self) -> None:
        if self._gc_interval_s:
            collect(self.cluster, self.locks, self._gc_interval_s)

    def close(self) -> None:
        self.cluster.close()


class _Latest:
    """`KvReader` of whatever is committed at each call."""

    def __init__(self, store: TikvStore) -> None:
        self._store = store

    def get(self, key: bytes) -> bytes | None:
        return self._store.snapshot(LATEST).get(self._store.prefix + key)

    def batch_get(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        prefix = self._store.prefix
        found = self._now().batch_get(prefix + key for key in keys)
        return {key[len(prefix) :]: value for key, value in found.items()}

    def scan(self, begin: bytes, end: bytes, limit: int = -1) -> Iterator[tuple[bytes, bytes]]:
        """Each page is of its own moment, so that the scan may take longer than old versions are kept."""
        prefix = self._store.prefix
        begin, end = prefix + begin, prefix + end
        while limit:
            count = min(_PAGE, limit) if limit > 0 else _PAGE
            pairs, begin = self._now().page(begin, end, count)
            for key, value in pairs:
                yield key[len(prefix) :], value
            limit -= len(pairs)
            if not begin:
                return

    def _now(self) -> Snapshot:
        return self._store.snapshot(self._store.cluster.pd.timestamp())


class TikvTransaction:
    """`KvTransaction` over a `TikvStore`. It begins, for everybody else, with its first read."""

    def __init__(self, store: TikvStore) -> None:
        self._store = store
        self._prefix = store.prefix
        self._snapshot: Snapshot | None = None
        self._read: dict[bytes, bytes | None] = {}
        self._writes: dict[bytes, bytes | None] = {}
        self._unchanged: set[bytes] = set()

    @property
    def start(self) -> int:
        return self._state().version

    def _state(self) -> Snapshot:
        if self._snapshot is None:
            self._snapshot = self._store.snapshot(self._store.cluster.pd.timestamp())
        return self._snapshot

    def get(self, key: bytes) -> bytes | None:
        if key in self._writes:
            return self._writes[key]
        if key not in self._read:
            self._read[key] = self._state().get(self._prefix + key)
        return self._read[key]

    def batch_get(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        wanted = list(keys)
        unknown = [key for key in wanted if key not in self._writes and key not in self._read]
        if unknown:
            found = self._state().batch_get(self._prefix + key for key in unknown)
            self._read.update((key, found.get(self._prefix + key)) for key in unknown)
        known = ((key, self._writes[key] if key in self._writes else self._read[key]) for key in wanted)
        return {key: value for key, value in known if value is not None}

    def scan(self, begin: bytes, end: bytes, limit: int = -1) -> Iterator[tuple[bytes, bytes]]:
        ours = sum(begin <= key < end for key in self._writes)
        count = limit if limit < 0 else limit + ours
        cut = len(self._prefix)
        pairs = {key[cut:]: value for key, value in self._state().scan(self._prefix + begin, self._prefix + end, count)}
        self._read.update(pairs)
        return overlaid(pairs.items(), self._writes, begin, end, limit)

    def set(self, key: bytes, value: bytes) -> None:
        """No client of TiKV stores empty values: they look like missing ones."""
        if not value:
            raise Refused(errno.EINVAL)
        self._writes[key] = value

    def delete(self, key: bytes) -> None:
        self._writes[key] = None

    def hold(self, key: bytes) -> None:
        self._unchanged.add(key)

    def commit(self) -> None:
        if not self._writes:
            return
        writes = {self._prefix + key: value for key, value in self._writes.items()}
        held = {self._prefix + key for key in self._unchanged} - writes.keys()
        Commit(self._store.cluster, self._store.locks, self.start, writes, held).run()

    def close(self) -> None:
        """Nothing is held for a transaction that was not committed."""
