"""The tests that every volume depends on: put, get, head, delete, list."""

from __future__ import annotations

import contextlib
import os
import time

from chunkstore.errors import StoreError, Unsupported
from juicefs_py.objbench.cases import DATA, KEY, MISSING_KEY, Cases, Doubt, Wrong, ensure, not_found, right, same

_LISTED = 100
_PAGE = 30
_CLOCK_S = 30.0
_PARTS = ((0, 4096), (65_536, 65_536), (99_999, 100_001), (299_999, 1))  # of 300,000 bytes


class BasicTests(Cases):
    """Each method is a test."""

    def create(self) -> None:
        try:
            ensure(self.bucket)
        except StoreError as error:
            raise Wrong(f"can't create bucket: {error}") from None
        try:
            self.bucket.create()
        except StoreError as error:
            raise Wrong(f"creating a bucket that is there fails: {error}") from None

    def put_object(self) -> None:
        with self.put():
            same(self.bucket.head(KEY).size, len(DATA), "size of what was put")

    def get(self) -> None:
        with self.put():
            same(self.bucket.get(KEY), DATA, "the whole object")
            same(self.bucket.get(KEY, 0, len(DATA)), DATA, "the object by its length")
            buffer = bytearray(len(DATA))
            same(self.bucket.get_into(KEY, 0, memoryview(buffer)), len(DATA), "bytes that were read")
            same(bytes(buffer), DATA, "the object read into a buffer")

    def get_missing(self) -> None:
        not_found(lambda: self.bucket.get(MISSING_KEY), "get of an object that is not there")

    def get_parts(self) -> None:
        with self.put():
            for offset, length, wanted in ((0, 1, b"h"), (4, 1, b"o"), (2, 3, b"llo"), (2, 2, b"ll"), (1, -1, b"ello")):
                same(self.bucket.get(KEY, offset, length), wanted, f"{length} bytes from {offset} on")
            self._get_beyond(4, b"o")
            self._get_beyond(6, b"")
        data = os.urandom(300_000)
        with self.put("parts_test_file", data):
            for offset, length in _PARTS:
                part = self.bucket.get("parts_test_file", offset, length)
                right(part == data[offset : offset + length], f"{length} bytes from {offset} on are")

    def _get_beyond(self, offset: int, wanted: bytes) -> None:
        """Two bytes at the end of five, where there are not so many."""
        try:
            got = self.bucket.get(KEY, offset, 2)
        except StoreError as error:
            raise Doubt(f"get beyond the end: {error}") from None
        if got != wanted:
            raise Doubt(f"get beyond the end, from {offset} on: {got!r} instead of {wanted!r}")

    def head(self) -> None:
        with self.put():
            info = self.bucket.head(KEY)
            same((info.key, info.size), (KEY, len(DATA)), "key and size")
        not_found(lambda: self.bucket.head(MISSING_KEY), "head of an object that is not there")

    def delete(self) -> None:
        with self.put():
            self.bucket.delete(KEY)
            not_found(lambda: self.bucket.head(KEY), "head of a deleted object")

    def delete_missing(self) -> None:
        self.bucket.delete(MISSING_KEY)
        for key, error in self.bucket.delete_many([f"{MISSING_KEY}{number}" for number in range(3)]).items():
            raise Wrong(f"deleting {key} among others: {error}")

    def list_objects(self) -> None:
        with self.put():
            drift = self._list_one()
        keys = sorted(f"hashKey{number}" for number in range(_LISTED))
        folded = ["fold/plain", "fold/sub/a", "fold/sub/b"]
        try:
            for key in (*keys, *folded):
                self.bucket.put(key, DATA)
            self._list_many(keys)
            with contextlib.suppress(Unsupported):  # shards have no pages
                self._list_pages(keys)
        finally:
            self.bucket.delete_many([*keys, *folded])
        if abs(drift) > _CLOCK_S:
            raise Doubt(f"mtime of a new object is {abs(drift):.0f} s {'behind' if drift < 0 else 'ahead'}")

    def _list_one(self) -> float:
        """How far the storage's clock is ahead."""
        found = list(self.bucket.list_all(KEY))
        same([(each.key, each.size) for each in found], [(KEY, len(DATA))], "keys and sizes in the list")
        same([each.key for each in self.bucket.list_all(KEY, f"{KEY}2")], [], "keys behind the last one")
        return found[0].mtime - time.time()

    def _list_many(self, keys: list[str]) -> None:
        right([each.key for each in self.bucket.list_all("hashKey")] == keys, "the keys of a list are")
        behind = [each.key for each in self.bucket.list_all("hashKey", keys[50])]
        right(behind == keys[51:], "the keys of a list from its middle on are")

    def _list_pages(self, keys: list[str]) -> None:
        found: list[str] = []
        more = True
        while more:
            objects, more = self.bucket.list("hashKey", found[-1] if found else "", limit=_PAGE)
            right(bool(objects) or not more, "an empty page that is not the last one is")
            found += [each.key for each in objects]
        right(found == keys, "the keys of all pages together are")
        shown = [each.key for each in self.bucket.list("fold/", delimiter="/").objects]
        same(shown, ["fold/plain", "fold/sub/"], "a list with a delimiter")
