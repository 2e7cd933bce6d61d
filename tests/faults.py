"""Wrappers that make a bucket fail in chosen ways. They decide by rules and a seed, never by chance of the machine."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from chunkstore.bucket import Bucket, Data, ObjectInfo
from chunkstore.buckets.prefix import PrefixBucket
from chunkstore.errors import Unavailable


class FaultyBucket(PrefixBucket):
    """`inner`, with faults: `fail(method, key)` may raise; gets may be cut, changed or held up."""

    def __init__(self, inner: Bucket, seed: int = 0) -> None:
        super().__init__(inner, "")
        self.calls: list[tuple[str, str]] = []
        self.fail: Callable[[str, str], None] = lambda method, key: None
        self.cut = 0  # bytes missing at the end of every get
        self.flip = False  # change one byte of every get
        self.gate: threading.Event | None = None  # gets wait here
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def _enter(self, method: str, key: str) -> None:
        with self._lock:
            self.calls.append((method, key))
        self.fail(method, key)

    def count(self, method: str) -> int:
        return sum(1 for name, _ in self.calls if name == method)

    def put(self, key: str, data: Data, tier: int = 0) -> None:
        self._enter("put", key)
        super().put(key, data, tier)

    def get_into(self, key: str, offset: int, view: memoryview) -> int:
        self._enter("get", key)
        if self.gate is not None:
            assert self.gate.wait(20)
        got = super().get_into(key, offset, view)
        if self.flip and got:
            view[self._random.randrange(got)] ^= 0xFF
        return max(0, got - self.cut)

    def get(self, key: str, offset: int = 0, length: int = -1) -> bytes:
        self._enter("get", key)
        if self.gate is not None:
            assert self.gate.wait(20)
        data = bytearray(super().get(key, offset, length))
        if self.flip and data:
            data[self._random.randrange(len(data))] ^= 0xFF
        return bytes(data[: max(0, len(data) - self.cut)])

    def delete(self, key: str) -> None:
        self._enter("delete", key)
        super().delete(key)

    def delete_many(self, keys: object) -> dict[str, Exception]:
        return Bucket.delete_many(self, keys)  # type: ignore[arg-type]  # one by one, so that each can fail

    def head(self, key: str) -> ObjectInfo:
        self._enter("head", key)
        return super().head(key)


def failing_first(times: int, method: str = "put", error: Exception | None = None) -> Callable[[str, str], None]:
    """A rule: the first `times` calls of `method` fail."""
    left = [times]
    lock = threading.Lock()

    def rule(name: str, key: str) -> None:
        if name == method:
            with lock:
                left[0] -= 1
                if left[0] >= 0:
                    raise error or Unavailable(f"fault in {name} {key}")

    return rule
