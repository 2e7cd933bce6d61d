"""A bucket whose objects are encrypted on the way in and decrypted on the way out (`chunkstore.crypt` says how).

The outermost layer: `juicefs_uuid` and tests of access are encrypted like blocks. No part of an object can be decrypted
alone, so every read fetches the whole. Listings and heads tell the sizes of what is inside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from chunkstore.bucket import LIST_PAGE, Bucket, Data, Listing, ObjectInfo
from chunkstore.crypt import DataCipher
from chunkstore.errors import Damaged

_GZIP = b"\x1f\x8b"
_BACKUPS = "meta/"


class EncryptedBucket(Bucket):
    """`inner`, behind a cipher. Not `Multipart`: what went up in parts would not be encrypted."""

    def __init__(self, inner: Bucket, cipher: DataCipher) -> None:
        self.inner = inner
        self._cipher = cipher

    def describe(self) -> str:
        return self.inner.describe()

    def put(self, key: str, data: Data, tier: int = 0) -> None:
        self.inner.put(key, self._cipher.seal(data), tier)

    def get(self, key: str, offset: int = 0, length: int = -1) -> bytes:
        plain = self._read(key)
        if offset == 0 and (length < 0 or length >= len(plain)):
            return plain
        return plain[offset:] if length < 0 else plain[offset : offset + length]

    def get_into(self, key: str, offset: int, view: memoryview) -> int:
        part = memoryview(self._read(key))[offset : offset + len(view)]
        view[: len(part)] = part
        return len(part)

    def _read(self, key: str) -> bytes:
        stored = self.inner.get(key)
        # Official clients upload large backups of metadata in parts, past their encryption.
        if key.startswith(_BACKUPS) and stored.startswith(_GZIP):
            return stored
        try:
            return self._cipher.open(stored)
        except Damaged as error:
            raise Damaged(f"object {self.describe()}{key} cannot be decrypted: {error}") from None

    def delete(self, key: str) -> None:
        self.inner.delete(key)

    def delete_many(self, keys: Iterable[str]) -> dict[str, Exception]:
        return self.inner.delete_many(keys)

    def head(self, key: str) -> ObjectInfo:
        return self._inside(self.inner.head(key))

    def list(self, prefix: str = "", after: str = "", limit: int = LIST_PAGE, delimiter: str = "") -> Listing:
        objects, more = self.inner.list(prefix, after, limit, delimiter)
        return Listing([self._inside(each) for each in objects], more)

    def list_all(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        return map(self._inside, self.inner.list_all(prefix, after))

    def copy(self, target: str, source: str, tier: int = 0) -> None:
        self.inner.copy(target, source, tier)

    @property
    def has_classes(self) -> bool:
        return self.inner.has_classes

    def thaw(self, key: str, days: int) -> bool:
        return self.inner.thaw(key, days)

    def create(self) -> None:
        self.inner.create()

    def sync(self) -> None:
        self.inner.sync()

    def close(self) -> None:
        self.inner.close()

    def _inside(self, info: ObjectInfo) -> ObjectInfo:
        return info if info.is_dir else info._replace(size=max(0, info.size - self._cipher.overhead))
