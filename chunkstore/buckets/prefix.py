"""A part of a bucket, as a bucket: every key gets the volume's prefix. Keeps no state of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from chunkstore.bucket import LIST_PAGE, Bucket, Data, Listing, ObjectInfo


class PrefixBucket(Bucket):
    """`bucket`, seen from behind `prefix`."""

    def __init__(self, bucket: Bucket, prefix: str) -> None:
        self.inner = bucket
        self.prefix = prefix

    def describe(self) -> str:
        return self.inner.describe() + self.prefix

    def put(self, key: str, data: Data, tier: int = 0) -> None:
        self.inner.put(self.prefix + key, data, tier)

    def get_into(self, key: str, offset: int, view: memoryview) -> int:
        return self.inner.get_into(self.prefix + key, offset, view)

    def get(self, key: str, offset: int = 0, length: int = -1) -> bytes:
        return self.inner.get(self.prefix + key, offset, length)

    def delete(self, key: str) -> None:
        self.inner.delete(self.prefix + key)

    def delete_many(self, keys: Iterable[str]) -> dict[str, Exception]:
        failed = self.inner.delete_many([self.prefix + key for key in keys])
        return {key[len(self.prefix) :]: error for key, error in failed.items()}

    def head(self, key: str) -> ObjectInfo:
        return self._strip(self.inner.head(self.prefix + key))

    def list(self, prefix: str = "", after: str = "", limit: int = LIST_PAGE, delimiter: str = "") -> Listing:
        after = self.prefix + after if after else ""
        objects, more = self.inner.list(self.prefix + prefix, after, limit, delimiter)
        return Listing([self._strip(each) for each in objects], more)

    def list_all(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        return map(self._strip, self.inner.list_all(self.prefix + prefix, self.prefix + after if after else ""))

    def copy(self, target: str, source: str, tier: int = 0) -> None:
        self.inner.copy(self.prefix + target, self.prefix + source, tier)

    @property
    def has_classes(self) -> bool:
        return self.inner.has_classes

    def thaw(self, key: str, days: int) -> bool:
        return self.inner.thaw(self.prefix + key, days)

    def create(self) -> None:
        self.inner.create()

    def sync(self) -> None:
        self.inner.sync()

    def close(self) -> None:
        self.inner.close()

    def _strip(self, info: ObjectInfo) -> ObjectInfo:
        return info._replace(key=info.key[len(self.prefix) :])
