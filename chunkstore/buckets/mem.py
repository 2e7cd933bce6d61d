"""A bucket in the memory of this process, for tests and benchmarks. Buckets of one name share their objects."""

from __future__ import annotations

import threading
import time

from chunkstore.bucket import LIST_PAGE, Bucket, Data, Listing, ObjectInfo
from chunkstore.buckets.listing import fold
from chunkstore.errors import NotFound

_guard = threading.Lock()
_named: dict[str, dict[str, tuple[bytes, float]]] = {}


class MemBucket(Bucket):
    """Objects in a dict. An empty name makes a bucket of its own."""

    def __init__(self, name: str = "") -> None:
        self._name = name
        self._lock = threading.Lock()
        if name:
            with _guard:
                self._objects = _named.setdefault(name, {})
        else:
            self._objects = {}

    def describe(self) -> str:
        return f"mem://{self._name}/"

    def put(self, key: str, data: Data, tier: int = 0) -> None:
        stored = (bytes(data), time.time())
        with self._lock:
            self._objects[key] = stored

    def get_into(self, key: str, offset: int, view: memoryview) -> int:
        part = memoryview(self._find(key)[0])[offset : offset + len(view)]
        view[: len(part)] = part
        return len(part)

    def get(self, key: str, offset: int = 0, length: int = -1) -> bytes:
        data = self._find(key)[0]
        return data[offset:] if length < 0 else data[offset : offset + length]

    def delete(self, key: str) -> None:
        with self._lock:
            self._objects.pop(key, None)

    def head(self, key: str) -> ObjectInfo:
        data, mtime = self._find(key)
        return ObjectInfo(key, len(data), mtime, key.endswith("/"))

    def list(self, prefix: str = "", after: str = "", limit: int = LIST_PAGE, delimiter: str = "") -> Listing:
        with self._lock:
            found = [
                ObjectInfo(key, len(data), mtime, key.endswith("/"))
                for key, (data, mtime) in self._objects.items()
                if key.startswith(prefix) and (delimiter or key > after)
            ]
        found.sort()
        return fold(found, prefix, after, limit, delimiter)

    def copy(self, target: str, source: str, tier: int = 0) -> None:
        self.put(target, self._find(source)[0], tier)

    def _find(self, key: str) -> tuple[bytes, float]:
        with self._lock:
            found = self._objects.get(key)
        if found is None:
            raise NotFound(f"{self.describe()}{key}: not found")
        return found
