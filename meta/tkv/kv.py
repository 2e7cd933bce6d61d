"""What an ordered key/value store offers to the engine over it. Keys and values are bytes; not what they mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol


class KvReader(Protocol):
    """Reads of one state, or, from `KvStore.latest`, of the latest state at each call."""

    def get(self, key: bytes) -> bytes | None: ...

    def batch_get(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Many values in one round trip; missing keys are absent."""
        ...

    def scan(self, begin: bytes, end: bytes, limit: int = -1) -> Iterator[tuple[bytes, bytes]]:
        """Keys from `begin` up to, not including, `end`, with their values, in order. A negative limit is none."""
        ...


class KvTransaction(KvReader, Protocol):
    """Reads of one state and writes on top of it: its own reads see its writes, and nobody else does before `commit`.

    A store across a network keeps what was read, so that reading again costs nothing.
    """

    start: int
    """A number that grows from one transaction to the next."""

    def set(self, key: bytes, value: bytes) -> None: ...
    def delete(self, key: bytes) -> None: ...

    def commit(self) -> None:
        """Apply the writes; `Conflict`, and nothing applied, if a key read or written has changed since `start`."""
        ...

    def close(self) -> None:
        """Forget the transaction; after `commit` too."""
        ...


class KvStore(Protocol):
    """A store. Thread-safe."""

    name: str
    latest: KvReader

    def begin(self) -> KvTransaction: ...

    def close(self) -> None: ...
