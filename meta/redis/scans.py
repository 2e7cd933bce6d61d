"""What walks through a whole volume in Redis: jobs, checks and dumps read it in small pages, each a moment of its own.

Not records one by one (reader). A key or field that is there during the whole scan is seen; while the server rearranges
a table that grows or shrinks, some may be seen twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Final

from meta.acl import Rule
from meta.attr import Attr
from meta.errors import Corrupt
from meta.redis import keys as k
from meta.redis.reader import BATCH, RedisReader, joined, pairs
from meta.slices import decode_delayed
from meta.tkv.values import decode_entry
from meta.transaction import Delayed, DeletedFile, DirStat, SessionRecord
from meta.types import Dirent

_LEGACY_GRACE_S: Final = 300
_LEGACY_SESSIONS: Final = b"sessions"

OURS: Final = re.compile(
    rb"(i|d|p|s|x|lockf|lockp|locked|session)\d+|c\d+_\d+|k\d+_\d+"
    rb"|setting|allSessions|sessionInfos|sessions|delfiles|detachedNodes|delSlices|sliceRef|acl|krbToken|txnLog|txnLastLog"
    rb"|dirDataLength|dirUsedSpace|dirUsedInodes|(dir|user|group)Quota(UsedSpace|UsedInodes)?"
    rb"|usedSpace|totalInodes|next(inode|chunk|session|Trash|CleanupSlices)|aclMaxId|krbTokenMaxId"
    rb"|lastCleanup(Sessions|Files|Trash|Changelog)|request[0-9a-f]{16}"
)
"""Every key that a volume may have, without the prefix. Of those, tickets of requests mean nothing on their own."""


class Scans:
    """Walks over the keys of a volume."""

    def __init__(self, reader: RedisReader) -> None:
        self._reader = reader
        self._link = reader.link
        self._keys = reader.keys

    def nodes(self) -> Iterator[tuple[int, Attr]]:
        numbers = (int(key[1:]) for key in self._reader.scan_keys(b"i[0-9]*"))
        while batch := list(islice(numbers, BATCH)):
            yield from self._reader.attrs(batch).items()

    def edges(self) -> Iterator[tuple[int, bytes, Dirent]]:
        for key in self._reader.scan_keys(b"d[0-9]*"):
            for name, data in self._reader.scan_hash(self._keys.prefix + key):
                yield int(key[1:]), name, decode_entry(data)

    def slices(self) -> Iterator[tuple[int, int, bytes]]:
        keys = (key for key in self._reader.scan_keys(b"c*_*") if key[1:].replace(b"_", b"", 1).isdigit())
        while batch := list(islice(keys, BATCH)):
            commands = [(b"LRANGE", self._keys.prefix + key, 0, -1) for key in batch]
            for key, items in zip(batch, self._link.ask(*commands), strict=True):
                if items:
                    ino, _, indx = key[1:].partition(b"_")
                    yield int(ino), int(indx), _records(int(ino), int(indx), items)

    def symlinks(self) -> Iterator[tuple[int, bytes]]:
        numbers = (int(key[1:]) for key in self._reader.scan_keys(b"s[0-9]*"))
        while batch := list(islice(numbers, BATCH)):
            targets = self._link.ask(*[(b"GET", self._keys.symlink(ino)) for ino in batch])
            yield from ((ino, target) for ino, target in zip(batch, targets, strict=True) if target is not None)

    def xattrs(self) -> Iterator[tuple[int, bytes, bytes]]:
        for key in self._reader.scan_keys(b"x[0-9]*"):
            for name, value in self._reader.hash(self._keys.prefix + key).items():
                yield int(key[1:]), name, value

    def acls(self) -> Iterator[tuple[int, Rule]]:
        for acl_id, data in self._reader.scan_hash(self._keys.acls):
            yield int(acl_id), Rule.decode(data)

    def dir_stats(self) -> Iterator[tuple[int, DirStat]]:
        fields = (field for field, _ in self._reader.scan_hash(self._keys.dir_length))
        while batch := list(islice(fields, BATCH)):
            keys = self._keys.dir_length, self._keys.dir_space, self._keys.dir_inodes
            columns = self._link.ask(*[(b"HMGET", key, *batch) for key in keys])
            for field, *values in zip(batch, *columns, strict=True):
                if None not in values:
                    yield int(field), DirStat(*map(int, values))

    def slice_refs(self) -> Iterator[tuple[int, int, int]]:
        for field, count in self._reader.scan_hash(self._keys.slice_refs):
            yield *k.read_slice_field(field), int(count) + 1

    def delayed(self, before: int, limit: int) -> list[Delayed]:
        return list(islice((e for e in self.list_delayed() if e.created < before), limit if limit >= 0 else None))

    def list_delayed(self) -> Iterator[Delayed]:
        for field, data in self._reader.scan_hash(self._keys.delayed):
            slice_id, _, created = field.partition(b"_")
            yield Delayed(int(slice_id), int(created), decode_delayed(data))

    def deleted_files(self, before: int, limit: int) -> list[DeletedFile]:
        """Oldest first."""
        window = (b"LIMIT", 0, limit) if limit >= 0 else ()
        found = self._link.ask(
            (b"ZRANGEBYSCORE", self._keys.deleted_files, b"-inf", b"(%d" % before, b"WITHSCORES", *window)
        )[0]
        return [
            DeletedFile(*k.read_deleted_member(member), int(float(score)))
            for member, score in zip(found[::2], found[1::2], strict=True)
        ]

    def list_deleted_files(self) -> Iterator[DeletedFile]:
        for member, score in self._reader.scan_hash(self._keys.deleted_files, b"ZSCAN"):
            yield DeletedFile(*k.read_deleted_member(member), int(float(score)))

    def detached(self, before: int) -> list[int]:
        found = self._link.ask((b"ZRANGEBYSCORE", self._keys.detached, b"-inf", b"(%d" % before))[0]
        return [int(member) for member in found]

    def sessions(self) -> list[SessionRecord]:
        scores, infos, legacy = self._link.ask(
            (b"ZRANGE", self._keys.sessions, 0, -1, b"WITHSCORES"),
            (b"HGETALL", self._keys.session_infos),
            *([(b"ZRANGE", _LEGACY_SESSIONS, 0, -1, b"WITHSCORES")] if not self._keys.prefix else [(b"ECHO", b"")]),
        )
        info_of = pairs(infos)
        expiry = {sid: int(float(score)) for sid, score in pairs(scores).items()}
        for sid, score in pairs(legacy or []).items():
            expiry.setdefault(sid, int(float(score)) + _LEGACY_GRACE_S)
        return [SessionRecord(int(sid), expire, info_of.get(sid, b"")) for sid, expire in expiry.items()]

    def stale_sessions(self, now: int, limit: int) -> list[int]:
        return [record.sid for record in self.sessions() if record.expire < now][:limit]

    def all_keys(self) -> Iterator[bytes]:
        """Every key of the volume, prefix included; nothing of what else the database may hold."""
        prefix = self._keys.prefix
        return (prefix + key for key in self._reader.scan_keys(b"*") if OURS.fullmatch(key))


def _records(ino: int, indx: int, items: list[bytes]) -> bytes:
    """The records of a chunk; `Corrupt`, which names it."""
    try:
        return joined(items)
    except Corrupt as problem:
        raise Corrupt(f"chunk {indx} of inode {ino}: {problem}") from None
