"""Objects as the values of keys in Redis: in a server, behind sentinels, or in a cluster (`redis_address`).

Not the metadata engine, which may use the same server: give it another database. A value is the object, byte for byte.
It has no time, so each object is as young as the question. Durability is the server's (`appendonly`, `appendfsync`);
with an eviction policy it throws objects away when its memory is full. There is no index of keys: a listing, even of
one page, scans all of them.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from redis import exceptions as redis_errors

from chunkstore.bucket import LIST_PAGE, Access, Bucket, Data, Listing, ObjectInfo
from chunkstore.buckets.listing import fold
from chunkstore.buckets.redis_address import connect, parse_address
from chunkstore.buckets.within import within
from chunkstore.errors import Denied, NoSpace, NotFound, StoreError, Timeout, Unavailable

_BATCH = 1000  # keys per round trip, and per step of a scan
_SPECIAL = re.compile(r"([*?\[\]\\])")  # in the patterns of a scan

_KINDS: tuple[tuple[type[Exception], type[StoreError]], ...] = (
    (redis_errors.AuthenticationError, Denied),
    (redis_errors.NoPermissionError, Denied),
    (redis_errors.TimeoutError, Timeout),
    (redis_errors.OutOfMemoryError, NoSpace),
    (redis_errors.ReadOnlyError, Unavailable),
    (redis_errors.ClusterDownError, Unavailable),
    (redis_errors.TryAgainError, Unavailable),
    (redis_errors.MasterDownError, Unavailable),
    (redis_errors.ResponseError, StoreError),  # it has understood, and will say so again
)


class RedisBucket(Bucket):
    """The keys of one database, or cluster. Connected when first used."""

    def __init__(self, url: str, access: Access) -> None:
        self._address, user, password = parse_address(url)
        self._user, self._password = access.access_key or user, access.secret_key or password
        self._access = access
        self._lock = threading.Lock()
        self._client: Any = None

    def describe(self) -> str:
        return f"{self._address}/"

    # one object

    def put(self, key: str, data: Data, tier: int = 0) -> None:
        with self._asking(f"write object {self.describe()}{key}") as redis:
            redis.set(_bytes(key), bytes(data))

    def get_into(self, key: str, offset: int, view: memoryview) -> int:
        data = self._read(key, offset, len(view))
        view[: len(data)] = data
        return len(data)

    def get(self, key: str, offset: int = 0, length: int = -1) -> bytes:
        return self._read(key, offset, length)

    def _read(self, key: str, offset: int, length: int) -> bytes:
        with self._asking(f"read object {self.describe()}{key}") as redis:
            if not offset and length < 0:
                data = redis.get(_bytes(key))
            else:
                data = redis.getrange(_bytes(key), offset, -1 if length < 0 else offset + length - 1) if length else b""
                if not data and not redis.exists(_bytes(key)):
                    data = None
        if data is None:
            raise NotFound(f"read object {self.describe()}{key}: not found")
        return bytes(data)

    def delete(self, key: str) -> None:
        with self._asking(f"delete object {self.describe()}{key}") as redis:
            redis.delete(_bytes(key))

    def head(self, key: str) -> ObjectInfo:
        for found in self._look([_bytes(key)], f"look at object {self.describe()}{key}"):
            return found
        raise NotFound(f"look at object {self.describe()}{key}: not found")

    def copy(self, target: str, source: str, tier: int = 0) -> None:
        """By way of this machine: keys of a cluster may lie in different servers."""
        self.put(target, self.get(source), tier)

    # many

    def delete_many(self, keys: Iterable[str]) -> dict[str, Exception]:
        failed: dict[str, Exception] = {}
        rest = iter(keys)
        while batch := list(islice(rest, _BATCH)):
            what = f"delete {len(batch)} objects of {self.describe()}"
            try:
                with self._asking(what) as redis:
                    answers = _together(redis, "delete", [_bytes(key) for key in batch])
            except StoreError as error:
                answers = [error] * len(batch)
            for key, answer in zip(batch, answers, strict=True):
                if isinstance(answer, Exception):
                    failed[key] = _trouble(answer, f"delete object {self.describe()}{key}")
        return failed

    def list(self, prefix: str = "", after: str = "", limit: int = LIST_PAGE, delimiter: str = "") -> Listing:
        return fold(self.list_all(prefix, after), prefix, after, limit, delimiter)

    def list_all(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        what = f"list objects of {self.describe()}{prefix}"
        pattern = _bytes(_SPECIAL.sub(r"\\\1", prefix) + "*")
        with self._asking(what) as redis:
            keys = set(redis.scan_iter(match=pattern, count=_BATCH))  # some may come twice
        found = sorted(key for key in keys if key > _bytes(after))
        for start in range(0, len(found), _BATCH):
            yield from self._look(found[start : start + _BATCH], what)

    def _look(self, keys: Sequence[bytes], what: str) -> Iterator[ObjectInfo]:
        """Those of `keys` that are there and are objects: in a shared database, others may be lists or hashes."""
        with self._asking(what) as redis:
            sizes = _together(redis, "strlen", keys)
            for size in sizes:
                if isinstance(size, Exception) and not str(size).startswith("WRONGTYPE"):
                    raise size
            empty = [key for key, size in zip(keys, sizes, strict=True) if size == 0]
            there = {key for key, answer in zip(empty, _together(redis, "exists", empty), strict=True) if answer}
        now = time.time()
        for key, size in zip(keys, sizes, strict=True):
            if isinstance(size, int) and (size or key in there):
                name = key.decode(errors="surrogateescape")
                yield ObjectInfo(name, size, now, name.endswith("/"))

    # the client

    @contextmanager
    def _asking(self, what: str) -> Iterator[Any]:
        """The client. Errors of redis-py come out as StoreError that begin with `what`."""
        try:
            if self._client is None:
                with within(self._access.timeout_s, self._lock, f"{what}: others were connecting"):
                    self._client = self._client or connect(self._address, self._user, self._password, self._access)
            yield self._client
        except (redis_errors.RedisError, redis_errors.RedisClusterException, OSError) as error:
            raise _trouble(error, what) from error

    def close(self) -> None:
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()


def _bytes(key: str) -> bytes:
    return key.encode(errors="surrogateescape")


def _together(redis: Any, command: str, keys: Sequence[bytes]) -> list[Any]:
    """One answer, or error, for each key, in one round trip to each server."""
    pipeline = redis.pipeline(transaction=False)
    for key in keys:
        getattr(pipeline, command)(key)
    return list(pipeline.execute(raise_on_error=False))


def _trouble(error: Exception, what: str) -> StoreError:
    if isinstance(error, StoreError):
        return error
    if isinstance(error, redis_errors.RedisClusterException) and isinstance(error.__cause__, redis_errors.RedisError):
        error = error.__cause__
    kind = next((ours for theirs, ours in _KINDS if isinstance(error, theirs)), Unavailable)
    found = kind(f"{what}: {' '.join(str(error).split())}")
    found.final = kind.final or kind is StoreError
    return found
