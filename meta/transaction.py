"""What an engine offers to the rules: typed records, read and written inside a transaction.

The rules (`meta.rules`) know nothing below this page, the engines (`meta.sql`, `meta.tkv`, ...) nothing above it. An
engine maps each record to its store in the exact format of JuiceFS 1.4.1; values here are in one neutral convention:

* names, symlink targets, xattr names and values are bytes; times are Unix seconds unless said otherwise;
* slice references are *true* counts (1 = referenced once), whatever the store keeps;
* counters `nextInode` and `nextChunk` are seen only through `Engine.allocate`, as ranges.

A rule names what it will read with `prefetch`, reads, decides, and only then writes. A read after a write of the same
record in the same transaction sees the written value. Nothing is visible to others before the commit; a body that
raises changes nothing. A body may run several times (a conflict is retried), so it has no side effects of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, Protocol, TypeVar

from meta.acl import Rule
from meta.attr import Attr
from meta.types import Dirent

T = TypeVar("T")

Read = tuple[str, *tuple[int | bytes | str, ...]]
"""A read to come: a `Reader` method and its arguments, e.g. ("attr", 1). ("ancestry", 5): a directory and all above."""

QuotaKind = Literal["dir", "user", "group"]
Owner = tuple[int, int]
"""Owner of a lock: session id and the owner number within it."""


class DirStat(NamedTuple):
    """Totals of a directory's direct children: file bytes, accounted space, number of entries."""

    length: int
    space: int
    inodes: int


class Quota(NamedTuple):
    """A limit and its use. A limit of -1 or 0 is no limit."""

    max_space: int
    max_inodes: int
    used_space: int
    used_inodes: int


class DirItem(NamedTuple):
    """One entry of a listing; `attr` only when asked for, and None if the inode record is missing."""

    name: bytes
    ino: int
    type: int
    attr: Attr | None


Cursor = bytes | int | None
"""Where a page of a listing begins, in the engine's own terms; None is the beginning."""


class DirPage(NamedTuple):
    """Entries of a directory, and where the next ones begin; None if these are the last."""

    items: list[DirItem]
    next: Cursor


class SessionRecord(NamedTuple):
    """A client process: when its record expires (Unix seconds) and its description (JSON)."""

    sid: int
    expire: int
    info: bytes


class DeletedFile(NamedTuple):
    """A file without links whose chunks are still to be removed."""

    ino: int
    length: int
    deleted: int  # Unix seconds of the deletion


class Delayed(NamedTuple):
    """Slices that a compaction replaced, kept for the days of the trash. Owns one reference of each item."""

    id: int  # the slice that replaced them
    created: int  # Unix seconds
    slices: tuple[tuple[int, int], ...]  # (slice id, size), duplicates kept


class Appended:
    """Result of `append_slices`: how many records the chunk holds, known once the transaction has committed."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Reader(Protocol):
    """Reads of records. Inside a transaction all of them see one state; outside, each call by itself."""

    def attr(self, ino: int) -> Attr | None:
        """The inode record, as an object of the caller's own."""
        ...

    def opening(self, ino: int) -> tuple[Attr | None, bytes | None]:
        """The inode record, and with it the slice records of the first chunk, which are never older than it.

        The latter only where they cost no round trip of their own and can be read: else None.
        """
        ...

    def lately(self, ino: int, age_s: float) -> tuple[Attr, float] | None:
        """A directory as this client's own change left it at most `age_s` ago, and how long ago; None if not known."""
        ...

    def attrs(self, inos: Iterable[int]) -> dict[int, Attr]:
        """Many inode records at once; missing ones are absent."""
        ...

    def entry(self, parent: int, name: bytes) -> Dirent | None: ...

    def target(self, parent: int, name: bytes) -> tuple[Dirent, Attr | None] | None:
        """An entry and the inode record it leads to (None if that is missing), in one round trip where possible."""
        ...

    def targets(self, start: int, names: Sequence[bytes]) -> list[tuple[Dirent, Attr | None]]:
        """Follow names from the directory `start` on, as far as there are entries; in one round trip where possible."""
        ...

    def has_entries(self, ino: int) -> bool:
        """Whether the directory holds anything."""
        ...

    def list_entries(self, ino: int, *, plus: bool = False, cursor: Cursor = None, limit: int = -1) -> DirPage:
        """Entries of a directory in the engine's own order, from `cursor` (the `next` of the page before) on.

        `plus` adds attributes. What is there from the first page to the last is listed, what comes or goes meanwhile
        may be. A page has about `limit` entries (all without a limit), maybe more; a name may come again in a later
        page where the cursor is no name.
        """
        ...

    def parents(self, ino: int) -> dict[int, int]:
        """Directories that hold a hard-linked inode (Attr.parent == 0), and how many of its names (all > 0)."""
        ...

    def symlink(self, ino: int) -> bytes | None: ...

    def xattr(self, ino: int, name: bytes) -> bytes | None: ...

    def xattrs(self, ino: int) -> dict[bytes, bytes]: ...

    def chunk(self, ino: int, indx: int) -> bytes:
        """The slice records of a chunk, oldest first, 24 bytes each (`meta.slices`); empty if there are none."""
        ...

    def chunks(self, ino: int, length: int = 0) -> dict[int, bytes]:
        """All chunks of a file that have records.

        `length` is the file's: an engine that cannot list the chunks of a file looks for those that it may have.
        """
        ...

    def flocks(self, ino: int) -> dict[Owner, bytes]:
        """BSD locks: b"R" or b"W" by owner."""
        ...

    def plocks(self, ino: int) -> dict[Owner, bytes]:
        """POSIX record locks: the encoded list (`meta.plock`) by owner."""
        ...

    def acl(self, acl_id: int) -> Rule | None: ...

    def dir_stat(self, ino: int) -> DirStat | None: ...

    def quota(self, kind: QuotaKind, key: int) -> Quota | None: ...

    def quotas(self, kind: QuotaKind) -> dict[int, Quota]: ...

    def counter(self, name: str) -> int:
        """A counter as stored: usedSpace, totalInodes, nextTrash, ... (0 if absent)."""
        ...

    def slice_refs(self, slice_id: int, size: int) -> int:
        """True number of references of a slice (at least 1 for a slice that was never counted)."""
        ...

    def setting(self) -> bytes | None:
        """The volume's setting document."""
        ...

    def session(self, sid: int) -> SessionRecord | None: ...

    def sustained(self, sid: int) -> list[int]:
        """Inodes without links that the session holds open."""
        ...

    def delayed(self, slice_id: int, created: int) -> Delayed | None: ...


class Transaction(Reader, Protocol):
    """Reads and writes that take effect together or not at all."""

    def prefetch(self, *reads: Read) -> None:
        """Name reads to come, so that an engine across a network can make them one round trip. Only a hint."""
        ...

    def put_attr(self, ino: int, attr: Attr) -> None: ...
    def delete_attr(self, ino: int) -> None: ...

    def put_entry(self, parent: int, name: bytes, entry: Dirent) -> None: ...
    def delete_entry(self, parent: int, name: bytes) -> None: ...

    def add_parent(self, ino: int, parent: int, delta: int) -> None:
        """Change the count of a hard-linked inode's names in a directory. No-op where entries tell it."""
        ...

    def delete_parents(self, ino: int) -> None: ...

    def put_symlink(self, ino: int, target: bytes) -> None: ...
    def delete_symlink(self, ino: int) -> None: ...

    def put_xattr(self, ino: int, name: bytes, value: bytes) -> None: ...
    def delete_xattr(self, ino: int, name: bytes) -> None: ...
    def delete_xattrs(self, ino: int) -> None: ...

    def append_slices(self, ino: int, indx: int, records: bytes) -> Appended:
        """Add records behind those of the chunk. The rule must also put the inode (other clients rely on it)."""
        ...

    def put_chunk(self, ino: int, indx: int, records: bytes) -> None:
        """Replace all records of a chunk (compaction)."""
        ...

    def delete_chunk(self, ino: int, indx: int) -> None: ...

    def new_slice(self, slice_id: int, size: int) -> None:
        """A slice gets its first reference (a store that keeps true counts adds 1, others nothing)."""
        ...

    def add_slice_refs(self, slice_id: int, size: int, delta: int) -> None:
        """Change the number of references. At 0 or less the slice is dead: see `Engine.dead_slices`."""
        ...

    def delete_slice(self, slice_id: int, size: int) -> None:
        """Forget a dead slice whose objects are deleted."""
        ...

    def put_delayed(self, entry: Delayed) -> None: ...
    def delete_delayed(self, slice_id: int, created: int) -> None: ...

    def put_deleted_file(self, entry: DeletedFile) -> None: ...
    def delete_deleted_file(self, ino: int, length: int) -> None: ...

    def put_flock(self, ino: int, owner: Owner, kind: bytes | None) -> None:
        """Set (b"R", b"W") or remove (None) a BSD lock, and whatever the store needs to clean a session."""
        ...

    def put_plock(self, ino: int, owner: Owner, records: bytes | None) -> None: ...

    def put_session(self, record: SessionRecord) -> None: ...
    def delete_session(self, sid: int) -> None: ...
    def put_sustained(self, sid: int, ino: int) -> None: ...
    def delete_sustained(self, sid: int, ino: int) -> None: ...

    def put_detached(self, ino: int, created: int) -> None:
        """Register a directory that has no entry yet (a clone under construction)."""
        ...

    def delete_detached(self, ino: int) -> None: ...

    def put_dir_stat(self, ino: int, stat: DirStat) -> None: ...
    def add_dir_stat(self, ino: int, delta: DirStat) -> None:
        """Add to a directory's totals if they are kept; a missing record stays missing (recomputed when needed)."""
        ...

    def delete_dir_stat(self, ino: int) -> None: ...

    def put_quota(self, kind: QuotaKind, key: int, quota: Quota) -> None: ...
    def add_quota(self, kind: QuotaKind, key: int, space: int, inodes: int) -> None:
        """Add to a quota's use. A missing user or group record is created without limits, a dir record is not."""
        ...

    def delete_quota(self, kind: QuotaKind, key: int) -> None: ...

    def add_usage(self, space: int, inodes: int) -> None:
        """Add to the volume's usedSpace and totalInodes."""
        ...

    def put_counter(self, name: str, value: int) -> None: ...
    def put_setting(self, document: bytes) -> None: ...

    def append_changelog(self, line: str) -> None:
        """Add a line to the change log (only volumes with ChangeLog)."""
        ...
