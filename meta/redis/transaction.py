"""A transaction on Redis: what it reads becomes conditions, what it writes one request (`scripts.APPLY`).

Not how it is sent and tried again (engine). Nothing is locked or watched while the rule runs.

What a rule only adds to (usage, statistics, references) is no condition: it commutes with what others add. Of a
directory's record only what the rules decide by is one - not its times and links, which every change of an entry
changes: so clients that work on different names of one directory never meet.
"""

from __future__ import annotations

import time
from typing import Any

from meta.attr import Attr
from meta.redis import keys as k
from meta.redis.ahead import ReadAhead
from meta.redis.keys import Keys
from meta.redis.known import Cell, Known
from meta.redis.link import Command, Link
from meta.redis.request import NO_RECORD, Request, is_directory
from meta.redis.view import TOTALS, Totals
from meta.slices import encode_delayed
from meta.tkv.values import encode_entry
from meta.transaction import Appended, Delayed, DeletedFile, DirStat, Owner, Quota, QuotaKind, SessionRecord
from meta.types import TRASH, Dirent


class RedisTransaction(ReadAhead):
    """`Transaction` over a `Link`."""

    def __init__(self, link: Link, keys: Keys, known: Known, totals: Totals, speculate: bool) -> None:
        super().__init__(link, keys, known, totals, speculate)
        self._appended: dict[bytes, list[Appended]] = {}
        self._commands: list[Command] = []
        self._merged: list[int] = []
        self._needed = False  # even by a server without memory: heartbeats, and what removals wait for

    def _write(self, cell: Cell, value: bytes | None) -> None:
        self._cells[cell] = value
        self._written[cell] = None

    def put_attr(self, ino: int, attr: Attr) -> None:
        self._write(ino, attr.encode())

    def delete_attr(self, ino: int) -> None:
        self._write(ino, None)

    def put_entry(self, parent: int, name: bytes, entry: Dirent) -> None:
        self._write((self.keys.entries(parent), name), encode_entry(entry))

    def delete_entry(self, parent: int, name: bytes) -> None:
        self._write((self.keys.entries(parent), name), None)

    def _count(self, key: bytes, field: bytes, delta: int) -> None:
        self._counts[key, field] = self._counts.get((key, field), 0) + delta

    def add_parent(self, ino: int, parent: int, delta: int) -> None:
        self._count(self.keys.parents(ino), b"%d" % parent, delta)

    def delete_parents(self, ino: int) -> None:
        self._drop_key(self.keys.parents(ino))

    def _drop_key(self, key: bytes) -> None:
        """Delete a whole hash, and what this transaction would have written to it."""
        self._dropped.add(key)
        for cell in [cell for cell in self._cells if isinstance(cell, tuple) and cell[0] == key]:
            self._cells[cell] = None
            self._written.pop(cell, None)
        for cell in [cell for cell in self._counts if cell[0] == key]:
            del self._counts[cell]
        self._commands.append((b"DEL", key))

    def put_symlink(self, ino: int, target: bytes) -> None:
        self._write(self.keys.symlink(ino), target)

    def delete_symlink(self, ino: int) -> None:
        self._write(self.keys.symlink(ino), None)

    def put_xattr(self, ino: int, name: bytes, value: bytes) -> None:
        self._write((self.keys.xattrs(ino), name), value)

    def delete_xattr(self, ino: int, name: bytes) -> None:
        self._write((self.keys.xattrs(ino), name), None)

    def delete_xattrs(self, ino: int) -> None:
        self._drop_key(self.keys.xattrs(ino))

    def append_slices(self, ino: int, indx: int, records: bytes) -> Appended:
        key = self.keys.chunk(ino, indx)
        replaced, data = self._list_writes.get(key, (False, b""))
        self._list_writes[key] = (replaced, data + records)
        appended = Appended()
        self._appended.setdefault(key, []).append(appended)
        return appended

    def put_chunk(self, ino: int, indx: int, records: bytes) -> None:
        self._list_writes[self.keys.chunk(ino, indx)] = (True, records)

    def delete_chunk(self, ino: int, indx: int) -> None:
        self._list_writes[self.keys.chunk(ino, indx)] = (True, b"")

    def new_slice(self, slice_id: int, size: int) -> None:
        """One reference is what a missing count means."""

    def add_slice_refs(self, slice_id: int, size: int, delta: int) -> None:
        """A delta of 0 stores the count too: a compaction finds by it whether its commit arrived."""
        self._count(self.keys.slice_refs, k.slice_field(slice_id, size), delta)

    def delete_slice(self, slice_id: int, size: int) -> None:
        cell = (self.keys.slice_refs, k.slice_field(slice_id, size))
        self._counts.pop(cell, None)
        self._write(cell, None)

    def put_delayed(self, entry: Delayed) -> None:
        self._write((self.keys.delayed, k.delayed_field(entry.id, entry.created)), encode_delayed(entry.slices))

    def delete_delayed(self, slice_id: int, created: int) -> None:
        self._write((self.keys.delayed, k.delayed_field(slice_id, created)), None)

    def put_deleted_file(self, entry: DeletedFile) -> None:
        member = k.deleted_member(entry.ino, entry.length)
        self._commands.append((b"ZADD", self.keys.deleted_files, entry.deleted, member))

    def delete_deleted_file(self, ino: int, length: int) -> None:
        self._commands.append((b"ZREM", self.keys.deleted_files, k.deleted_member(ino, length)))

    def put_flock(self, ino: int, owner: Owner, kind: bytes | None) -> None:
        self._put_lock(self.keys.flocks(ino), owner, kind)

    def put_plock(self, ino: int, owner: Owner, records: bytes | None) -> None:
        self._put_lock(self.keys.plocks(ino), owner, records)

    def _put_lock(self, key: bytes, owner: Owner, value: bytes | None) -> None:
        """Locks of both kinds are registered with the session, so that they end with it (upstream forgets shared ones).

        The registration goes with the session's last lock on the inode.
        """
        self._write((key, k.owner_field(owner)), value)
        held = self.hash(key)
        sid = owner[0]
        if value is not None:
            self._commands.append((b"SADD", self.keys.locked(sid), key))
        elif not any(k.read_owner(field)[0] == sid for field in held):
            self._commands.append((b"SREM", self.keys.locked(sid), key))

    def put_session(self, record: SessionRecord) -> None:
        self._needed = True
        self._sessions[record.sid] = record
        self._commands.append((b"ZADD", self.keys.sessions, record.expire, b"%d" % record.sid))
        self._commands.append((b"HSET", self.keys.session_infos, b"%d" % record.sid, record.info))

    def delete_session(self, sid: int) -> None:
        self._sessions[sid] = None
        member = b"%d" % sid
        self._commands.append((b"ZREM", self.keys.sessions, member))
        self._commands.append((b"HDEL", self.keys.session_infos, member))
        if not self.keys.prefix:  # in a cluster, another node's; old clients could not use those anyway
            self._commands.append((b"ZREM", b"sessions", member))  # where old clients have theirs

    def put_sustained(self, sid: int, ino: int) -> None:
        self._sustained[sid, ino] = True
        self._commands.append((b"SADD", self.keys.sustained(sid), ino))

    def delete_sustained(self, sid: int, ino: int) -> None:
        self._sustained[sid, ino] = False
        self._commands.append((b"SREM", self.keys.sustained(sid), ino))

    def put_detached(self, ino: int, created: int) -> None:
        self._commands.append((b"ZADD", self.keys.detached, created, ino))

    def delete_detached(self, ino: int) -> None:
        self._commands.append((b"ZREM", self.keys.detached, ino))

    def put_dir_stat(self, ino: int, stat: DirStat) -> None:
        self._put_stat(ino, [b"%d" % value for value in stat])

    def delete_dir_stat(self, ino: int) -> None:
        self._put_stat(ino, [None, None, None])

    def _put_stat(self, ino: int, values: list[bytes] | list[None]) -> None:
        self._stats.pop(ino, None)
        for key, value in zip((self.keys.dir_length, self.keys.dir_space, self.keys.dir_inodes), values, strict=True):
            self._write((key, b"%d" % ino), value)

    def add_dir_stat(self, ino: int, delta: DirStat) -> None:
        had = self._stats.get(ino, DirStat(0, 0, 0))
        self._stats[ino] = DirStat(*[a + b for a, b in zip(had, delta, strict=True)])

    def put_quota(self, kind: QuotaKind, key: int, quota: Quota) -> None:
        limits = k.encode_limits(quota.max_space, quota.max_inodes)
        self._put_quota(kind, key, [limits, b"%d" % quota.used_space, b"%d" % quota.used_inodes])

    def delete_quota(self, kind: QuotaKind, key: int) -> None:
        self._put_quota(kind, key, [None, None, None])

    def _put_quota(self, kind: QuotaKind, key: int, values: list[bytes] | list[None]) -> None:
        self._uses.pop((kind, key), None)
        for hash_key, value in zip(self.keys.quota(kind), values, strict=True):
            self._write((hash_key, b"%d" % key), value)

    def add_quota(self, kind: QuotaKind, key: int, space: int, inodes: int) -> None:
        had = self._uses.get((kind, key), (0, 0))
        self._uses[kind, key] = (had[0] + space, had[1] + inodes)

    def add_usage(self, space: int, inodes: int) -> None:
        self._usage = (self._usage[0] + space, self._usage[1] + inodes)

    def put_counter(self, name: str, value: int) -> None:
        self._write(self.keys.counter(name), b"%d" % value)

    def put_setting(self, document: bytes) -> None:
        self._write(self.keys.setting, document)

    def append_changelog(self, line: str) -> None:
        self._commands.append((b"RPUSH", self.keys.changelog, line))
        self._commands.append((b"INCR", self.keys.changelog_count))

    # Committing

    def request(self) -> Request:
        """The writes, deletions first: a server without memory refuses a script at its first command that needs some,
        and one that has deleted something is let through, whole.
        """
        request = Request(self.keys)
        if self._needed or any(isinstance(cell, int) and cell >= TRASH for cell in self._written):
            request.admit()
        for cell in self._written:
            if self._cells[cell] is None:
                request.delete(cell)
        for command in self._commands:
            request.command(command)
        for cell in self._written:
            value = self._cells[cell]
            if value is not None:
                request.put(cell, value, self._found.get(cell))
        for key, (replaced, records) in self._list_writes.items():
            request.records(key, records, replaced)
        for (key, field), delta in self._counts.items():
            request.command((b"HINCRBY", key, field, delta))
        for ino, stat in self._stats.items():
            request.add_stat(ino, stat)
        for (kind, key_number), (space, inodes) in self._uses.items():
            request.add_use(kind, key_number, space, inodes)
        if self._usage != (0, 0):
            request.add_usage(*self._usage)
        self._merged = request.merged
        return request

    def committed(self, answers: list[Any] | None, began: float) -> None:
        """The request that `began` then is over: its answers; None if they, or even whether it was done, are lost.

        Only of directories that it has written is known what they are like: of others it has compared a part.
        """
        for key, field in self._counts:
            self.known.drop((key, field))
        if answers is None:
            for cell in self._written:
                self.known.drop(cell)
            for ino in self._directories():
                self.known.left(ino, None, began)
            return
        counts = iter(answers)
        for ino in self._merged:  # as they really are now
            self._cells[ino] = next(counts)
        for cell in self._written:
            self.known.wrote(cell, self._cells[cell])
        for ino in self._directories():
            self.known.left(ino, self._cells[ino], began)
        for key, (_, records) in self._list_writes.items():
            if records:
                count = next(counts, 0)
                for appended in self._appended.get(key, ()):
                    appended.count = count
        if self._usage != (0, 0):
            for name in TOTALS:
                value = next(counts, None)
                if value is not None:
                    self._totals[name] = (value, time.monotonic())

    def _directories(self) -> list[int]:
        """Those that were changed, made or removed."""
        return [
            cell
            for cell in self._written
            if isinstance(cell, int) and is_directory(self._cells[cell] or self._found.get(cell) or NO_RECORD)
        ]
