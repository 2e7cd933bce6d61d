"""The Redis engine: transactions with retries, counters, locks of sessions. Not records (reader, transaction).

A transaction takes one round trip if what the rule reads is believed already (`known`), else two: what it reads in one
batch, and the request that checks and writes. Nothing is held in between, so a client that dies leaves nothing behind.

When the connection breaks while a request is out, nobody knows whether it was applied. The server is then asked, and
makes sure that what it has not applied until now it never will (`once`). Only if it cannot be asked within the deadline
does the outcome stay unknown, and the caller hears of it.
"""

from __future__ import annotations

import errno
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar

from meta.acl import Rule
from meta.attr import Attr
from meta.errors import EngineError, MetaError, Refused, Unavailable
from meta.redis import keys as k
from meta.redis.endpoint import Endpoint
from meta.redis.keys import Keys
from meta.redis.known import Known
from meta.redis.link import Link, Lost
from meta.redis.once import Once
from meta.redis.reader import BATCH, RedisReader, batches, pairs
from meta.redis.request import Request
from meta.redis.scans import Scans
from meta.redis.scripts import APPLY, CHANGES, GATE, call
from meta.redis.server import examine, refuse_strangers
from meta.redis.transaction import RedisTransaction
from meta.redis.url import Options
from meta.redis.view import Totals
from meta.transaction import Delayed, DeletedFile, DirStat, QuotaKind, Reader, SessionRecord, Transaction
from meta.types import Dirent

T = TypeVar("T")

_ATTEMPTS: Final = 50
_FIRST: Final = {"nextInode": 2, "nextChunk": 1}


class _Changed(Exception):
    """What a transaction was built on is not so any more."""


class RedisEngine:
    """`Engine` over Redis."""

    name = "redis"
    counts_every_slice = False
    defers_totals = False

    def __init__(self, options: Options, read_only: bool = False) -> None:
        self._read_only = read_only
        self._busy = threading.local()
        self._totals: Totals = {}
        self._handed_out: dict[str, int] = {}
        self._known = Known()
        self._endpoint = Endpoint(options, read_only)
        self._link = Link(self._endpoint)
        self._link.reach()
        self._keys = Keys(self._endpoint.prefix)
        self._once = Once(self._link, self._keys)
        self._reader = RedisReader(self._link, self._keys, self._known)
        self._scans = Scans(self._reader)
        self.reader: Reader = self._reader

    def __repr__(self) -> str:
        return f"RedisEngine({self._endpoint})"

    # Transactions

    def transact(self, body: Callable[[Transaction], T]) -> T:
        return self._write(body)

    def _write(self, body: Callable[[RedisTransaction], T]) -> T:
        if self._read_only:
            raise Refused(errno.EROFS)
        return self._attempts(body, speculate=True)

    def view(self, body: Callable[[Reader], T]) -> T:
        return self._attempts(body, speculate=False)

    def _attempts(self, body: Callable[[RedisTransaction], T], speculate: bool) -> T:
        if getattr(self._busy, "now", False):
            raise RuntimeError("a transaction inside a transaction")
        self._busy.now = True
        try:
            for attempt in range(_ATTEMPTS):
                tx = RedisTransaction(self._link, self._keys, self._known, self._totals, speculate)
                try:
                    return self._attempt(tx, body)
                except _Changed:
                    if not speculate:
                        time.sleep(random.random() * (attempt + 1) ** 2 / 1000)
                    speculate = False
            raise Unavailable(f"{self._endpoint}: others changed the same records, {_ATTEMPTS} times in a row")
        finally:
            self._busy.now = False

    def _attempt(self, tx: RedisTransaction, body: Callable[[RedisTransaction], T]) -> T:
        """Run the rule and apply what it writes. A refusal counts only if it is based on what really is so."""
        try:
            result = body(tx)
        except EngineError:  # the store's trouble is no answer to doubt
            raise
        except MetaError:
            self._confirm(tx)
            raise
        except Exception:
            if tx.speculated:
                raise _Changed from None
            raise
        writes = tx.request().words
        if not writes:
            self._confirm(tx)
            return result
        conditions, began = tx.conditions(), time.monotonic()
        answer: list[Any] | int | None = None
        try:
            answer = self._once.run((conditions.count, *conditions.words, *writes))
        finally:
            if not isinstance(answer, int):
                tx.committed(answer, began)
        if isinstance(answer, int):
            raise _Changed
        return result

    def _confirm(self, tx: RedisTransaction) -> None:
        """All that was read was so at one moment: read in one round trip, or still so now. Otherwise `_Changed`."""
        if tx.speculated:
            raise _Changed
        if tx.fetches > 1:
            conditions = tx.conditions()
            words = (0, conditions.count, *conditions.words)
            if isinstance(self._link.ask((b"EVAL", APPLY.source, 1, self._keys.setting, *words))[0], int):
                raise _Changed

    # Counters and ids

    def allocate(self, counter: Literal["nextInode", "nextChunk"], count: int) -> range:
        """Redis keeps the last number handed out. If an answer is lost, so are its numbers.

        A failover may take a counter back. What this client had before is never handed out by it again.
        """
        self._about_to_write()
        key, highest = self._keys.counter(counter), self._handed_out.get(counter, 0)
        last: int = self._link.ask((b"INCRBY", key, count))[0]
        if last - count < highest:
            last = self._link.ask((b"INCRBY", key, highest - last + count))[0]
        self._handed_out[counter] = last
        return range(last + 1 - count, last + 1)

    def next_number(self, counter: Literal["nextInode", "nextChunk"]) -> int:
        return max(self.reader.counter(counter) + 1, _FIRST[counter])  # the last one is stored

    def increment(self, counter: str, delta: int = 1) -> int:
        self._about_to_write()
        request = Request(self._keys)
        request.admit()  # sessions and the trash, with which room can be made
        request.command((b"INCRBY", self._keys.counter(counter), delta), answer=True)
        answer = self._once.run((0, *request.words))
        if isinstance(answer, list):
            return int(answer[0])
        if counter.startswith("next") or counter.endswith("MaxId"):  # a number lost is no loss
            return self.increment(counter, delta)
        return self._reader.counter(counter)

    def gate(self, name: str, now: int, period: int) -> bool:
        self._about_to_write()
        try:
            return bool(self._link.run_script(GATE, (self._keys.counter(name),), (now, now - period)))
        except Lost:  # if it was set nobody runs the job this time
            return False

    def intern_acl(self, rule: Rule) -> int:
        """A failover may take the counter back behind ids that are in use: those are passed over."""
        self._about_to_write()
        for acl_id, data in self._reader.hash(self._keys.acls).items():
            if Rule.decode(data) == rule:
                return int(acl_id)
        while True:
            number, data = self.increment("aclMaxId"), rule.encode()
            _, stored = self._link.ask((b"HSETNX", self._keys.acls, number, data), (b"HGET", self._keys.acls, number))
            if stored == data:
                return number

    def init_counters(self, values: Mapping[str, int]) -> None:
        """A counter that is not there is 0, and the first numbers follow from that: nothing to store for those."""

        def body(tx: RedisTransaction) -> None:
            for name, value in values.items():
                if name in _FIRST:
                    value = value - 1 if value > _FIRST[name] else 0
                key = self._keys.counter(name)
                if value and tx.get(key) is None:
                    tx.put_counter(name, value)

        self._write(body)

    # Sessions and locks

    def sessions(self) -> list[SessionRecord]:
        return self._scans.sessions()

    def stale_sessions(self, now: int, limit: int) -> list[int]:
        return self._scans.stale_sessions(now, limit)

    def session_locks(self, sid: int) -> tuple[dict[int, dict[int, bytes]], dict[int, dict[int, bytes]]]:
        flocks: dict[int, dict[int, bytes]] = {}
        plocks: dict[int, dict[int, bytes]] = {}
        for key, fields in self._locks_of(sid):
            name = key[len(self._keys.prefix) :]
            locks = flocks if name.startswith(b"lockf") else plocks
            if fields:
                locks[int(name[5:])] = {k.read_owner(field)[1]: value for field, value in fields.items()}
        return flocks, plocks

    def _locks_of(self, sid: int) -> Iterator[tuple[bytes, dict[bytes, bytes]]]:
        """The keys in which a session is registered, and what it holds there."""
        registered = self._link.ask((b"SMEMBERS", self._keys.locked(sid)))[0]
        for batch in batches(registered):
            for key, flat in zip(batch, self._link.ask(*[(b"HGETALL", key) for key in batch]), strict=True):
                yield key, {field: value for field, value in pairs(flat).items() if field.startswith(b"%d_" % sid)}

    def drop_locks(self, sid: int) -> None:
        self._about_to_write()
        held = [(b"HDEL", key, *fields) for key, fields in self._locks_of(sid) if fields]
        for batch in batches(held):
            self._link.ask(*batch)
        self._link.ask((b"DEL", self._keys.locked(sid)))

    # Scans

    def deleted_files(self, before: int, limit: int) -> list[DeletedFile]:
        return self._scans.deleted_files(before, limit)

    def remaining_chunks(self, files: Sequence[DeletedFile]) -> list[tuple[int, int]]:
        return self._reader.remaining_chunks([(file.ino, file.length) for file in files])

    def delayed_slices(self, before: int, limit: int = -1) -> list[Delayed]:
        return self._scans.delayed(before, limit)

    def list_delayed(self) -> Iterator[Delayed]:
        return self._scans.list_delayed()

    def list_deleted_files(self) -> Iterator[DeletedFile]:
        return self._scans.list_deleted_files()

    def detached(self, before: int) -> list[int]:
        return self._scans.detached(before)

    def dead_slices(self) -> Iterator[tuple[int, int]]:
        return ((slice_id, size) for slice_id, size, refs in self._scans.slice_refs() if refs <= 0)

    def list_slices(self) -> Iterator[tuple[int, int, bytes]]:
        return self._scans.slices()

    def list_nodes(self) -> Iterator[tuple[int, Attr]]:
        return self._scans.nodes()

    def list_edges(self) -> Iterator[tuple[int, bytes, Dirent]]:
        return self._scans.edges()

    def list_symlinks(self) -> Iterator[tuple[int, bytes]]:
        return self._scans.symlinks()

    def list_xattrs(self) -> Iterator[tuple[int, bytes, bytes]]:
        return self._scans.xattrs()

    def list_acls(self) -> Iterator[tuple[int, Rule]]:
        return self._scans.acls()

    def list_dir_stats(self) -> Iterator[tuple[int, DirStat]]:
        return self._scans.dir_stats()

    def list_slice_refs(self) -> Iterator[tuple[int, int, int]]:
        return self._scans.slice_refs()

    def last_change(self) -> int:
        return int(self._link.ask((b"GET", self._keys.changelog_count))[0] or 0)

    def changes(self, after: int, limit: int) -> list[tuple[int, str]]:
        asked = call(CHANGES, self._keys.changelog, self._keys.changelog_count, after, limit)
        _, first, lines = self._link.ask(asked)[0]
        return [(first + at, line.decode(errors="replace")) for at, line in enumerate(lines)]

    def clear_dir_stats(self) -> None:
        keys = self._keys
        self._delete((keys.dir_length, keys.dir_space, keys.dir_inodes))

    def clear_quotas(self, kinds: Iterable[QuotaKind]) -> None:
        self._delete([key for kind in kinds for key in self._keys.quota(kind)])

    def _delete(self, keys: Sequence[bytes]) -> None:
        self._about_to_write()
        for batch in batches(keys):
            self._link.ask(*[(b"UNLINK", key) for key in batch])

    def _about_to_write(self) -> None:
        """For changes outside of transactions."""
        if self._read_only:
            raise Refused(errno.EROFS)
        if getattr(self._busy, "now", False):
            raise RuntimeError("a transaction inside a transaction")

    # The store as a whole

    def prepare(self) -> None:
        """Redis has no schema. Warns of a server that may lose data; `SettingError` if it holds something else."""
        if not self._read_only:
            examine(self._link)
            refuse_strangers(self._reader, self._endpoint)

    def is_empty(self) -> bool:
        tickets = self._keys.ticket(b"")
        return all(key.startswith(tickets) for key in self._scans.all_keys())

    def reset(self) -> None:
        """Remove the volume's keys. What else the database holds stays."""
        pending: list[bytes] = []
        for key in self._scans.all_keys():
            pending.append(key)
            if len(pending) == BATCH:
                self._delete(pending)
                pending.clear()
        self._delete(pending)

    def tend(self) -> None:
        """It looks after itself."""

    def sync(self) -> None:
        """How durable a commit is, the server's configuration says (`appendfsync`): nothing is left to ask for."""

    def flush(self) -> None:
        """Nothing is deferred."""

    def close(self) -> None:
        self._link.close()


def open_url(url: str, read_only: bool) -> RedisEngine:
    """The engine of a `redis://`, `rediss://` or `unix://` URL."""
    return RedisEngine(Options.parse(url), read_only)
