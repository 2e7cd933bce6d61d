"""What an ordered key/value store offers to the engine over it. Keys and values are bytes; not what they mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol


def overlaid(
    pairs: Iterable[tuple[bytes, bytes]], writes: Mapping[bytes, bytes | None], begin: bytes, end: bytes, limit: int
) -> Iterator[tuple[bytes, bytes]]:
    """What a transaction sees of a range: `pairs` of the store with its own writes (None: deleted) laid over.

    With a limit, `pairs` must be so many more as there are writes in the range.
    """
    found = dict(pairs)
    for key in (key for key in writes if begin <= key < end):
        value = writes[key]
        if value is None:
            found.pop(key, None)
        else:
            found[key] = value
    ordered = sorted(found.items())
    return iter(ordered if limit < 0 else ordered[:limit])


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

    @property
    def start(self) -> int:
        """A number that grows from one transaction to the next."""
        ...

    def set(self, key: bytes, value: bytes) -> None: ...
    def delete(self, key: bytes) -> None: ...

    def hold(self, key: bytes) -> None:
        """The commit is a `Conflict` if this key, which need not be written, has changed since `start`."""
        ...

    def commit(self) -> None:
        """Apply the writes; `Conflict`, and nothing applied, if a key written or held has changed since `start`.

        Keys that were only read may have changed: stores need not notice.
        """
        ...

    def close(self) -> None:
        """Forget the transaction; after `commit` too."""
        ...


class KvStore(Protocol):
    """A store. Thread-safe."""

    name: str
    latest: KvReader

    def begin(self) -> KvTransaction: ...

    def tend(self) -> None:
        """What the store itself needs done once in a while, by one client."""
        ...

    def close(self) -> None: ...
