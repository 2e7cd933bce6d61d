"""What runs transactions: the store of a volume's metadata as a whole. Not records (`meta.transaction`).

One object per process and volume, made from a URL by `meta.engines`. Besides transactions it gives out numbers, elects
who runs a job, and walks through what belongs to no single inode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, Protocol, TypeVar

from meta.acl import Rule
from meta.attr import Attr
from meta.transaction import Delayed, DeletedFile, DirStat, QuotaKind, Reader, SessionRecord, Transaction
from meta.types import Dirent

T = TypeVar("T")


class Engine(Protocol):
    """A store of metadata. Thread-safe; one object per process and volume."""

    name: str
    """The driver's name as users know it: sqlite3, memkv, redis, tikv, ..."""
    counts_every_slice: bool  # False: slices that are referred to once may have no stored count
    defers_totals: bool  # True: totals are collected, and somebody must call `flush` about once a second
    reader: Reader
    """Reads outside any transaction: each call sees the latest committed state."""

    def transact(self, body: Callable[[Transaction], T]) -> T:
        """Run `body` in a write transaction, retrying conflicts (up to 50 times, with jittered backoff).

        Raises what `body` raises (nothing applied), `Unavailable`, or `OutcomeUnknown`.
        """
        ...

    def view(self, body: Callable[[Reader], T]) -> T:
        """Run `body` over one consistent state, without writing."""
        ...

    def allocate(self, counter: Literal["nextInode", "nextChunk"], count: int) -> range:
        """Reserve `count` fresh numbers."""
        ...

    def next_number(self, counter: Literal["nextInode", "nextChunk"]) -> int:
        """The first number that is not reserved yet."""
        ...

    def increment(self, counter: str, delta: int = 1) -> int:
        """Add to a counter (nextSession, nextTrash, ...) in a transaction of its own; the new value."""
        ...

    def intern_acl(self, rule: Rule) -> int:
        """The id of an equal stored rule, or of a new one. Ids are never reused."""
        ...

    def gate(self, name: str, now: int, period: int) -> bool:
        """Elect one client per period: set the cron gate `name` to `now` if it is at most `now - period`."""
        ...

    def sessions(self) -> list[SessionRecord]: ...

    def stale_sessions(self, now: int, limit: int) -> list[int]:
        """Ids of sessions that have expired, legacy ones included."""
        ...

    def session_locks(self, sid: int) -> tuple[dict[int, dict[int, bytes]], dict[int, dict[int, bytes]]]:
        """BSD and POSIX locks of a session: {inode: {owner: value}} of each kind."""
        ...

    def drop_locks(self, sid: int) -> None:
        """Remove every lock of a session."""
        ...

    def deleted_files(self, before: int, limit: int) -> list[DeletedFile]:
        """Files deleted before `before`, oldest first where the store can tell; all of them if `limit` is negative."""
        ...

    def remaining_chunks(self, files: Sequence[DeletedFile]) -> list[tuple[int, int]]:
        """Inode and index of every chunk that removed files still have, in as few round trips as possible."""
        ...

    def dead_slices(self) -> Iterator[tuple[int, int]]:
        """Slices without references that are still to be deleted: (id, size)."""
        ...

    def delayed_slices(self, before: int, limit: int = -1) -> list[Delayed]: ...

    def list_delayed(self) -> Iterator[Delayed]:
        """Every entry of replaced slices."""
        ...

    def list_deleted_files(self) -> Iterator[DeletedFile]:
        """Every file whose chunks are still to be removed."""
        ...

    def detached(self, before: int) -> list[int]:
        """Directories of unfinished clones older than `before`."""
        ...

    def list_slices(self) -> Iterator[tuple[int, int, bytes]]:
        """Every chunk of the volume: (inode, index, records)."""
        ...

    def list_nodes(self) -> Iterator[tuple[int, Attr]]:
        """Every inode record of the volume."""
        ...

    def list_edges(self) -> Iterator[tuple[int, bytes, Dirent]]:
        """Every directory entry of the volume: (parent, name, what it points to)."""
        ...

    def list_symlinks(self) -> Iterator[tuple[int, bytes]]:
        """Every symlink of the volume: (inode, target)."""
        ...

    def list_xattrs(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Every extended attribute of the volume: (inode, name, value)."""
        ...

    def list_acls(self) -> Iterator[tuple[int, Rule]]:
        """Every stored rule and its id."""
        ...

    def list_dir_stats(self) -> Iterator[tuple[int, DirStat]]:
        """Every directory's totals: (inode, totals)."""
        ...

    def list_slice_refs(self) -> Iterator[tuple[int, int, int]]:
        """Every stored reference count: (id, size, true references)."""
        ...

    def last_change(self) -> int:
        """The number of the newest line in the change log; 0 if there never was one."""
        ...

    def changes(self, after: int, limit: int) -> list[tuple[int, str]]:
        """Lines of the change log with numbers above `after`, oldest first; what was trimmed is left out."""
        ...

    def clear_dir_stats(self) -> None: ...
    def clear_quotas(self, kinds: Iterable[QuotaKind]) -> None: ...

    def init_counters(self, values: Mapping[str, int]) -> None:
        """First-time counters of a volume that `format` creates, in this page's convention; existing ones stay."""
        ...

    def prepare(self) -> None:
        """Create or complete the store's schema (tables, columns); before the first write of a session."""
        ...

    def is_empty(self) -> bool:
        """Whether the store holds nothing of any volume."""
        ...

    def reset(self) -> None:
        """Remove everything of the volume."""
        ...

    def tend(self) -> None:
        """What the store itself needs done once an hour, by one client of a volume."""
        ...

    def sync(self) -> None:
        """Return when everything committed so far would survive a loss of power, as far as the store can promise."""
        ...

    def flush(self) -> None:
        """Write deferred totals (usage, directory statistics, quotas) that the engine collects in memory, if any."""
        ...

    def close(self) -> None: ...
