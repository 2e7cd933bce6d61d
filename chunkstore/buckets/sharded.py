"""Several buckets as one: each object lives in the shard that the hash of its key names.

The hash is FNV-1a (32 bits) over the whole key, the volume's prefix included, modulo the number of shards. So this
layer stands between the prefix layer and the drivers.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence

from chunkstore.bucket import LIST_PAGE, Bucket, Data, Listing, ObjectInfo
from chunkstore.errors import BadBucket, Unsupported


def fnv1a(data: bytes) -> int:
    """FNV-1a, 32 bits."""
    value = 0x811C9DC5
    for byte in data:
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value


def shard_addresses(template: str, shards: int) -> list[str]:
    """The address of each shard from one with a single `%d`."""
    if template.replace("%%", "").count("%") != 1 or "%d" not in template:
        raise BadBucket(f"a bucket of {shards} shards needs one %d in its address: {template}")
    return [template % number for number in range(shards)]


class ShardedBucket(Bucket):
    """Objects spread over `shards`; no copy between them and no paged listing, as upstream."""

    def __init__(self, shards: Sequence[Bucket]) -> None:
        self._shards = shards

    def _of(self, key: str) -> Bucket:
        return self._shards[fnv1a(key.encode()) % len(self._shards)]

    def describe(self) -> str:
        return f"shard{len(self._shards)}:{self._shards[0].describe()}"

    def put(self, key: str, data: Data, tier: int = 0) -> None:
        self._of(key).put(key, data, tier)

    def get_into(self, key: str, offset: int, view: memoryview) -> int:
        return self._of(key).get_into(key, offset, view)

    def get(self, key: str, offset: int = 0, length: int = -1) -> bytes:
        return self._of(key).get(key, offset, length)

    def delete(self, key: str) -> None:
        self._of(key).delete(key)

    def delete_many(self, keys: Iterable[str]) -> dict[str, Exception]:
        parts: dict[int, list[str]] = {}
        for key in keys:
            parts.setdefault(fnv1a(key.encode()) % len(self._shards), []).append(key)
        failed: dict[str, Exception] = {}
        for number, part in parts.items():
            failed.update(self._shards[number].delete_many(part))
        return failed

    def head(self, key: str) -> ObjectInfo:
        return self._of(key).head(key)

    def list(self, prefix: str = "", after: str = "", limit: int = LIST_PAGE, delimiter: str = "") -> Listing:
        raise Unsupported(f"{self.describe()} cannot list page by page")

    def list_all(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        return heapq.merge(*(shard.list_all(prefix, after) for shard in self._shards))

    @property
    def has_classes(self) -> bool:
        return self._shards[0].has_classes

    def thaw(self, key: str, days: int) -> bool:
        return self._of(key).thaw(key, days)

    def copy(self, target: str, source: str, tier: int = 0) -> None:
        if self._of(target) is not self._of(source):
            raise Unsupported(f"{self.describe()} cannot copy objects from one shard to another")
        self._of(source).copy(target, source, tier)

    def create(self) -> None:
        for shard in self._shards:
            shard.create()

    def sync(self) -> None:
        for shard in self._shards:
            shard.sync()

    def close(self) -> None:
        for shard in self._shards:
            shard.close()
