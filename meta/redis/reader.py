"""Reads of records from Redis. Not writes (transaction), and not scans of the whole volume (scans)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from operator import itemgetter
from typing import Any, Final, TypeVar

from meta.acl import Rule
from meta.attr import Attr
from meta.errors import Corrupt, Unavailable
from meta.redis import keys as k
from meta.redis.keys import Keys
from meta.redis.known import UNKNOWN, Known
from meta.redis.link import Command, Link
from meta.redis.request import is_directory
from meta.redis.scripts import LOOKUP, PAGE, RESOLVE, call
from meta.slices import RECORD_SIZE, decode_delayed
from meta.tkv.values import decode_entries, decode_entry
from meta.transaction import (
    Cursor,
    Delayed,
    DirItem,
    DirPage,
    DirStat,
    Owner,
    Quota,
    QuotaKind,
    SessionRecord,
)
from meta.types import CHUNK_SIZE, Dirent

T = TypeVar("T")

BATCH: Final = 500  # keys of one command
PAGE_AT_MOST: Final = 2000  # entries asked for in one page, so that none takes the server more than a few milliseconds
_FIRST_PAGE: Final = 256  # the same for a script that reads attributes too
_PROBED: Final = 10_000  # chunks of a file that are looked for one by one; beyond that the key space is scanned
_MORE: Final = 16  # chunks looked for behind the end, which a truncation may have left there
_NEW: Final[Any] = tuple.__new__
_FIRST, _SECOND = itemgetter(0), itemgetter(1)
TOLD_APART: Final = b"?"  # a script's answer for an inode number beyond its arithmetic


class RedisReader:
    """`Reader` over a `Link`: each call sees the latest state."""

    def __init__(self, link: Link, keys: Keys, known: Known) -> None:
        self.link = link
        self.keys = keys
        self.known = known

    # What everything else is made of

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self.link.ask((b"GET", key))[0]
        return value

    def record(self, ino: int) -> bytes | None:
        """An inode's record as stored."""
        began = time.monotonic()
        data = self.get(self.keys.attr(ino))
        if data is not None and is_directory(data):
            self.known.seen(ino, data, began)
        else:
            self.known.read(ino, data)
        return data

    def field(self, key: bytes, field: bytes) -> bytes | None:
        value: bytes | None = self.link.ask((b"HGET", key, field))[0]
        return value

    def hash(self, key: bytes) -> dict[bytes, bytes]:
        return pairs(self.link.ask((b"HGETALL", key))[0])

    def exists(self, key: bytes) -> bool:
        return bool(self.link.ask((b"EXISTS", key))[0])

    def items(self, key: bytes) -> bytes:
        """The items of a list of slice records, joined."""
        return joined(self.link.ask((b"LRANGE", key, 0, -1))[0])

    # Inodes and names

    def attr(self, ino: int) -> Attr | None:
        data = self.record(ino)
        return None if data is None else Attr.decode(data)

    def opening(self, ino: int) -> tuple[Attr | None, bytes | None]:
        """The record is read before the list: a change in between is in the list, and its mtime is found later."""
        believed = self.known.get(ino)
        if believed and believed is not UNKNOWN and not Attr.decode(believed).length:
            return self.attr(ino), None
        try:
            data, items = self.link.ask((b"GET", self.keys.attr(ino)), (b"LRANGE", self.keys.chunk(ino, 0), 0, -1))
            records = joined(items)
        except Corrupt:
            return self.attr(ino), None  # whoever reads the list will say so
        self.known.read(ino, data)
        return (None if data is None else Attr.decode(data)), records

    def lately(self, ino: int, age_s: float) -> tuple[Attr, float] | None:
        found = self.known.lately(ino, age_s)
        return None if found is None else (Attr.decode(found[0]), found[1])

    def attrs(self, inos: Iterable[int]) -> dict[int, Attr]:
        found: dict[int, Attr] = {}
        for batch in batches(list(dict.fromkeys(inos))):
            for ino, data in zip(batch, self.link.ask((b"MGET", *map(self.keys.attr, batch)))[0], strict=True):
                self.known.read(ino, data)
                if data is not None:
                    found[ino] = Attr.decode(data)
        return found

    def entry(self, parent: int, name: bytes) -> Dirent | None:
        data = self.field(self.keys.entries(parent), name)
        return None if data is None else decode_entry(data)

    def target(self, parent: int, name: bytes) -> tuple[Dirent, Attr | None] | None:
        entries = self.keys.entries(parent)
        answer = self.link.ask(call(LOOKUP, entries, self.keys.prefix, name))[0]
        if not answer:
            self.known.read((entries, name), None)
            return None
        data, record = answer[0], answer[1]
        entry = decode_entry(data)
        self.known.read((entries, name), data)
        if record == TOLD_APART:
            return entry, self.attr(entry.ino)
        self.known.read(entry.ino, record)
        return entry, None if record is None else Attr.decode(record)

    def targets(self, start: int, names: Sequence[bytes]) -> list[tuple[Dirent, Attr | None]]:
        answer = self.link.ask(call(RESOLVE, self.keys.entries(start), self.keys.prefix, *names))[0]
        return [
            (decode_entry(entry), None if record is None else Attr.decode(record))
            for entry, record in zip(answer[::2], answer[1::2], strict=True)
        ]

    def has_entries(self, ino: int) -> bool:
        return self.exists(self.keys.entries(ino))

    def list_entries(self, ino: int, *, plus: bool = False, cursor: Cursor = None, limit: int = -1) -> DirPage:
        """In the order of the hash. Without a limit everything; with one about as many, or all of a small directory.

        While the server rearranges a hash that shrinks, a name may come twice; those within a page come once.
        """
        items: dict[bytes, DirItem] = {}
        at = cursor if isinstance(cursor, int) else 0
        while True:
            count = PAGE_AT_MOST if limit < 0 else min(limit, PAGE_AT_MOST)
            at = self._page(ino, at, count, plus, items)
            if not at or 0 <= limit <= len(items):
                return DirPage(list(items.values()), at or None)

    def _page(self, ino: int, at: int, count: int, plus: bool, items: dict[bytes, DirItem]) -> int:
        """Add a page to `items`; where the next one begins, 0 behind the last.

        With attributes the first page is one round trip. The others are two: for many entries a script takes the server
        far longer than the commands that it makes.
        """
        entries = self.keys.entries(ino)
        if plus and not at:
            count = min(count, _FIRST_PAGE)
            after, flat, records = self.link.ask(call(PAGE, entries, self.keys.prefix, at, count))[0]
            found = decode_entries(flat[1::2])
        else:
            after, flat = self.link.ask((b"HSCAN", entries, at, b"COUNT", count))[0]
            found = decode_entries(flat[1::2])
            keys = [self.keys.attr(number) for _, number in found] if plus else []
            answers = self.link.ask(*[(b"MGET", *batch) for batch in batches(keys)]) if keys else []
            records = [record for answer in answers for record in answer]
        names, numbers, kinds = flat[::2], map(_SECOND, found), map(_FIRST, found)
        attrs: Iterable[Attr | None] = self._decoded(found, records) if plus else repeat(None)
        rows = map(_NEW, repeat(DirItem), zip(names, numbers, kinds, attrs, strict=False))  # no statement for each
        items.update(zip(names, rows, strict=True))
        return int(after)

    def _decoded(self, found: list[tuple[int, int]], records: list[bytes | None]) -> list[Attr | None]:
        """The inodes of entries."""
        if TOLD_APART in records:
            records = [
                self.record(number) if record == TOLD_APART else record
                for (_, number), record in zip(found, records, strict=True)
            ]
        return [None if record is None else Attr.decode(record) for record in records]

    def parents(self, ino: int) -> dict[int, int]:
        counts = {int(parent): int(count) for parent, count in self.hash(self.keys.parents(ino)).items()}
        return {parent: count for parent, count in counts.items() if count > 0}

    # What belongs to an inode

    def symlink(self, ino: int) -> bytes | None:
        return self.get(self.keys.symlink(ino))

    def xattr(self, ino: int, name: bytes) -> bytes | None:
        return self.field(self.keys.xattrs(ino), name)

    def xattrs(self, ino: int) -> dict[bytes, bytes]:
        return self.hash(self.keys.xattrs(ino))

    def chunk(self, ino: int, indx: int) -> bytes:
        return self.items(self.keys.chunk(ino, indx))

    def chunks(self, ino: int, length: int = 0) -> dict[int, bytes]:
        """Those below `length`, and what follows closely behind. All, if there may be too many to look for each."""
        found: dict[int, bytes] = {}
        for _, indx in self.remaining_chunks([(ino, length)]):
            data = self.chunk(ino, indx)
            if data:
                found[indx] = data
        return found

    def remaining_chunks(self, files: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """(inode, index) of the chunks of files of these (inode, length), as `chunks` finds them.

        Two counts tell of nearly every file: all chunks below its end are there and none behind it, or none at all.
        """
        few = {file: end for file in files if (end := _end(file[1])) + _MORE <= BATCH}
        parts = [(ino, part) for (ino, _), end in few.items() for part in (range(end), range(end, end + _MORE))]
        counts = self.ask_many([(b"EXISTS", *[self.keys.chunk(ino, indx) for indx in part]) for ino, part in parts])
        plain = {
            file: range(below)
            for (file, end), below, behind in zip(few.items(), counts[::2], counts[1::2], strict=True)
            if below in (0, end) and not behind
        }
        return [
            (file[0], indx) for file in files for indx in (plain[file] if file in plain else self._find_chunks(*file))
        ]

    def _find_chunks(self, ino: int, length: int) -> list[int]:
        end = _end(length)
        if end > _PROBED:
            return sorted(set(self._scan_chunks(ino)))
        present: list[int] = []
        start, stop = 0, end + _MORE
        while start < stop:
            indexes = range(start, min(start + BATCH, stop))
            answers = self.link.ask(*[(b"EXISTS", self.keys.chunk(ino, indx)) for indx in indexes])
            present += [indx for indx, there in zip(indexes, answers, strict=True) if there]
            start = indexes.stop
            stop = max(stop, present[-1] + 1 + _MORE) if present else stop
        return present

    def _scan_chunks(self, ino: int) -> Iterator[int]:
        for key in self.scan_keys(b"c%d_*" % ino):
            yield int(key.rpartition(b"_")[2])

    def flocks(self, ino: int) -> dict[Owner, bytes]:
        return {k.read_owner(field): kind for field, kind in self.hash(self.keys.flocks(ino)).items()}

    def plocks(self, ino: int) -> dict[Owner, bytes]:
        return {k.read_owner(field): records for field, records in self.hash(self.keys.plocks(ino)).items()}

    def acl(self, acl_id: int) -> Rule | None:
        data = self.field(self.keys.acls, b"%d" % acl_id)
        return None if data is None else Rule.decode(data)

    # Totals

    def dir_stat(self, ino: int) -> DirStat | None:
        keys, field = self.keys, b"%d" % ino
        found = self.link.ask(*[(b"HGET", key, field) for key in (keys.dir_length, keys.dir_space, keys.dir_inodes)])
        return None if None in found else DirStat(*map(int, found))

    def quota(self, kind: QuotaKind, key: int) -> Quota | None:
        limits, space, inodes = self.link.ask(*[(b"HGET", hash, b"%d" % key) for hash in self.keys.quota(kind)])
        return None if limits is None else Quota(*k.decode_limits(limits), int(space or 0), int(inodes or 0))

    def quotas(self, kind: QuotaKind) -> dict[int, Quota]:
        limits, space, inodes = map(pairs, self.link.ask(*[(b"HGETALL", hash) for hash in self.keys.quota(kind)]))
        return {
            int(key): Quota(*k.decode_limits(data), int(space.get(key, 0)), int(inodes.get(key, 0)))
            for key, data in limits.items()
        }

    def counter(self, name: str) -> int:
        return int(self.get(self.keys.counter(name)) or 0)

    def slice_refs(self, slice_id: int, size: int) -> int:
        """The store keeps one less, and nothing for a slice that was never counted."""
        return int(self.field(self.keys.slice_refs, k.slice_field(slice_id, size)) or 0) + 1

    # The volume and its clients

    def setting(self) -> bytes | None:
        return self.get(self.keys.setting)

    def session(self, sid: int) -> SessionRecord | None:
        member = b"%d" % sid
        expire, info = self.link.ask(
            (b"ZSCORE", self.keys.sessions, member), (b"HGET", self.keys.session_infos, member)
        )
        return None if expire is None else SessionRecord(sid, int(float(expire)), info or b"")

    def sustained(self, sid: int) -> list[int]:
        return sorted(int(member) for member in self.link.ask((b"SMEMBERS", self.keys.sustained(sid)))[0])

    def delayed(self, slice_id: int, created: int) -> Delayed | None:
        data = self.field(self.keys.delayed, k.delayed_field(slice_id, created))
        return None if data is None else Delayed(slice_id, created, decode_delayed(data))

    def scan_keys(self, pattern: bytes) -> Iterator[bytes]:
        """Keys of the volume that match a glob pattern (without the prefix, which is taken off); some maybe twice."""
        prefix = self.keys.prefix
        for page in self._pages(lambda at: (b"SCAN", at, b"MATCH", prefix + pattern, b"COUNT", 10_000)):
            yield from (key[len(prefix) :] for key in page)

    def scan_hash(self, key: bytes, command: bytes = b"HSCAN") -> Iterator[tuple[bytes, bytes]]:
        """Fields and values of a hash (or members and scores: ZSCAN) in small pages; some maybe twice."""
        for page in self._pages(lambda at: (command, key, at, b"COUNT", 1000)):
            yield from pairs(page).items()

    def _pages(self, command: Callable[[int], Command]) -> Iterator[list[bytes]]:
        """The pages of a scan; `Unavailable` behind the last one if they were not all of one run of one server.

        A cursor is a place in the tables of the server that gave it: at another one, it would pass keys over.
        """
        server, at = self.link.run_id(), 0
        while True:
            answer = self.link.ask(command(at))[0]
            at = int(answer[0])
            yield answer[1]
            if not at:
                break
        if self.link.run_id() != server:
            raise Unavailable(f"{self.link.endpoint} was restarted or replaced while it was listed; try again")

    def ask_many(self, commands: Sequence[Command]) -> list[Any]:
        """Answers of many reads, `BATCH` of them in a round trip."""
        return [answer for batch in batches(commands) for answer in self.link.ask(*batch)]


def _end(length: int) -> int:
    """Behind the last chunk of a file; an empty one may have kept its first."""
    return max(-(-length // CHUNK_SIZE), 1)


def pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """A hash from the list of its fields and values in turn."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def joined(items: Sequence[bytes]) -> bytes:
    """A chunk's records from the items of its list; `Corrupt` if one is no record."""
    data = b"".join(items)
    if len(data) != len(items) * RECORD_SIZE:
        raise Corrupt(f"slice records: {len(items)} items have {len(data)} bytes")
    return data


def batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[at : at + BATCH] for at in range(0, len(items), BATCH))
