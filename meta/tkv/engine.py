"""The key/value engine over any `KvStore`: retries, sessions, scans and counters.

Not the records (reader, transaction), and not the store (kv, memory).
"""

from __future__ import annotations

import errno
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal, TypeVar

from meta.acl import Rule
from meta.attr import Attr
from meta.errors import Conflict, Refused, Unavailable
from meta.slices import decode_delayed
from meta.tkv import keys, values
from meta.tkv.deferred import Deferred, parts
from meta.tkv.kv import KvStore
from meta.tkv.memory import MemoryStore
from meta.tkv.reader import LatestReader, TkvReader
from meta.tkv.transaction import TkvTransaction
from meta.transaction import Delayed, DeletedFile, DirStat, QuotaKind, Reader, SessionRecord, Transaction
from meta.types import Dirent

T = TypeVar("T")

_ATTEMPTS: Final = 50
_FIRST: Final = {"nextInode": 2, "nextChunk": 1}
_LEGACY_GRACE_S: Final = 300
_RESET_PAGE: Final = 1000
_DIRS_AT_ONCE: Final = 100


class TkvEngine:
    """`Engine` over a `KvStore`.

    With `defer_totals` they are added once per `flush` instead of in every transaction, as official clients do: for
    stores where one record that everybody writes would make all transactions conflict.
    """

    counts_every_slice = False

    def __init__(
        self, store: KvStore, read_only: bool = False, defer_totals: bool = False, changelog_shards: int = 0
    ) -> None:
        self._shards = changelog_shards
        self.name = store.name
        self._store = store
        self._read_only = read_only
        self.defers_totals = defer_totals
        self._deferred = Deferred()
        self._busy = threading.local()
        self._latest = LatestReader(store)
        self.reader: Reader = self._latest

    def __repr__(self) -> str:
        return f"TkvEngine({self._store!r})"

    # Transactions

    def transact(self, body: Callable[[Transaction], T]) -> T:
        return self._write(body)

    def _write(self, body: Callable[[TkvTransaction], T]) -> T:
        if self._read_only:
            raise Refused(errno.EROFS)
        if getattr(self._busy, "now", False):
            raise RuntimeError("a transaction inside a transaction")
        self._busy.now = True
        try:
            for attempt in range(_ATTEMPTS):
                try:
                    return self._write_once(body)
                except Conflict as e:
                    conflict = e
                time.sleep(random.random() * (attempt + 1) ** 2 / 1000)
            raise Unavailable(f"{conflict}, {_ATTEMPTS} times in a row") from conflict
        finally:
            self._busy.now = False

    def _write_once(self, body: Callable[[TkvTransaction], T]) -> T:
        kv = self._store.begin()
        try:
            tx = TkvTransaction(kv, self.defers_totals, self._shards)
            result = body(tx)
            tx.guard()
            kv.commit()
        finally:
            kv.close()
        self._deferred.collect(tx.totals)
        return result

    def view(self, body: Callable[[Reader], T]) -> T:
        kv = self._store.begin()
        try:
            return body(TkvReader(kv))
        finally:
            kv.close()

    def flush(self) -> None:
        """Add what was collected."""
        left = self._deferred.take()
        try:
            if left.space:
                self.increment("usedSpace", left.space)
                left.space = 0
            if left.inodes:
                self.increment("totalInodes", left.inodes)
                left.inodes = 0
            for part in parts(left.dirs, _DIRS_AT_ONCE):
                self._write(lambda tx: _add_dir_stats(tx, part))  # noqa: B023 - run at once
                for ino in part:
                    del left.dirs[ino]
        except BaseException:
            self._deferred.collect(left)
            raise

    # Counters and ids

    def allocate(self, counter: Literal["nextInode", "nextChunk"], count: int) -> range:
        end = self._write(lambda tx: tx.add_counter(counter, count, _FIRST[counter]))
        return range(end - count, end)

    def next_number(self, counter: Literal["nextInode", "nextChunk"]) -> int:
        return max(self.reader.counter(counter), _FIRST[counter])

    def increment(self, counter: str, delta: int = 1) -> int:
        return self._write(lambda tx: tx.add_counter(counter, delta))

    def gate(self, name: str, now: int, period: int) -> bool:
        def body(tx: TkvTransaction) -> bool:
            if tx.counter(name) > now - period:
                return False
            tx.put_counter(name, now)
            return True

        return self._write(body)

    def intern_acl(self, rule: Rule) -> int:
        def body(tx: TkvTransaction) -> int:
            for key, data in tx.kv.scan(b"R", b"S"):
                if Rule.decode(data) == rule:
                    return keys.read_u32(key, 1)
            acl_id = tx.add_counter("aclMaxId", 1)
            tx.put_acl(acl_id, rule.encode())
            return acl_id

        return self._write(body)

    def init_counters(self, values: Mapping[str, int]) -> None:
        def body(tx: TkvTransaction) -> None:
            for name, value in {**_FIRST, **values}.items():
                tx.new_counter(name, value)

        self._write(body)

    # Sessions and locks

    def sessions(self) -> list[SessionRecord]:
        infos = {keys.read_u64(key, 2): data for key, data in self._scan(b"SI", 10)}
        return [SessionRecord(sid, expire, infos.get(sid, b"")) for sid, expire in self._expiries()]

    def stale_sessions(self, now: int, limit: int) -> list[int]:
        return [sid for sid, expire in self._expiries() if expire < now][:limit]

    def _expiries(self) -> list[tuple[int, int]]:
        found = [(keys.read_u64(key, 2), values.decode_time(data)) for key, data in self._scan(b"SE", 10)]
        for key, data in self._scan(b"SH", 10):
            found.append((keys.read_u64(key, 2), values.decode_time(data) + _LEGACY_GRACE_S))
        return found

    def session_locks(self, sid: int) -> tuple[dict[int, dict[int, bytes]], dict[int, dict[int, bytes]]]:
        flocks = {keys.read_ino(key, 1): _of(values.decode_flocks(data), sid) for key, data in self._scan(b"F", 9)}
        plocks = {keys.read_ino(key, 1): _of(values.decode_plocks(data), sid) for key, data in self._scan(b"P", 9)}
        return {ino: own for ino, own in flocks.items() if own}, {ino: own for ino, own in plocks.items() if own}

    def drop_locks(self, sid: int) -> None:
        flocks, plocks = self.session_locks(sid)

        def body(tx: TkvTransaction) -> None:
            for ino, owners in flocks.items():
                for owner in owners:
                    tx.put_flock(ino, (sid, owner), None)
            for ino, owners in plocks.items():
                for owner in owners:
                    tx.put_plock(ino, (sid, owner), None)

        self._write(body)

    # Scans

    def deleted_files(self, before: int, limit: int) -> list[DeletedFile]:
        due = sorted((file for file in self.list_deleted_files() if file.deleted < before), key=lambda f: f.deleted)
        return due if limit < 0 else due[:limit]

    def remaining_chunks(self, files: Sequence[DeletedFile]) -> list[tuple[int, int]]:
        return [(file.ino, indx) for file in files for indx in sorted(self.reader.chunks(file.ino))]

    def delayed_slices(self, before: int, limit: int = -1) -> list[Delayed]:
        found: list[Delayed] = []
        for entry in self.list_delayed():  # oldest first
            if entry.created >= before or len(found) == limit:
                break
            found.append(entry)
        return found

    def list_delayed(self) -> Iterator[Delayed]:
        for key, data in self._scan(b"L", 17):
            yield Delayed(keys.read_u64(key, 9), keys.read_u64(key, 1), decode_delayed(data))

    def list_deleted_files(self) -> Iterator[DeletedFile]:
        for key, data in self._scan(b"D", 17):
            yield DeletedFile(keys.read_ino(key, 1), keys.read_u64(key, 9), values.decode_time(data))

    def detached(self, before: int) -> list[int]:
        found = (key for key, data in self._scan(b"N", 9) if values.decode_time(data) < before)
        return sorted(keys.read_ino(key, 1) for key in found)

    def dead_slices(self) -> Iterator[tuple[int, int]]:
        return ((slice_id, size) for slice_id, size, refs in self.list_slice_refs() if refs <= 0)

    def list_symlinks(self) -> Iterator[tuple[int, bytes]]:
        return ((keys.read_ino(key, 1), data) for key, data in self._of_inodes("S") if len(key) == 10)

    def list_xattrs(self) -> Iterator[tuple[int, bytes, bytes]]:
        return ((keys.read_ino(key, 1), key[10:], data) for key, data in self._of_inodes("X"))

    def _of_inodes(self, kind: str) -> Iterator[tuple[bytes, bytes]]:
        """Records of inodes of one kind, whose letter stands behind the inode's number."""
        for key, data in self._store.latest.scan(b"A", b"B"):
            if len(key) > 9 and key[9] == ord(kind):
                yield key, data

    def list_acls(self) -> Iterator[tuple[int, Rule]]:
        return ((keys.read_u32(key, 1), Rule.decode(data)) for key, data in self._scan(b"R", 5))

    def list_dir_stats(self) -> Iterator[tuple[int, DirStat]]:
        return ((keys.read_ino(key, 1), values.decode_dir_stat(data)) for key, data in self._scan(b"U", 9))

    def list_slice_refs(self) -> Iterator[tuple[int, int, int]]:
        for key, data in self._scan(b"K", 13):
            yield keys.read_u64(key, 1), keys.read_u32(key, 9), values.decode_count(data) + 1

    def list_slices(self) -> Iterator[tuple[int, int, bytes]]:
        for key, data in self._scan(b"A", 14):
            if key[9] == ord("C") and data:
                yield keys.read_ino(key, 1), keys.read_u32(key, 10), data

    def list_nodes(self) -> Iterator[tuple[int, Attr]]:
        for key, data in self._scan(b"A", 10):
            if key[9] == ord("I"):
                yield keys.read_ino(key, 1), Attr.decode(data)

    def list_edges(self) -> Iterator[tuple[int, bytes, Dirent]]:
        for key, data in self._store.latest.scan(b"A", b"B"):
            if key[9] == ord("D"):
                yield keys.read_ino(key, 1), key[10:], values.decode_entry(data)

    def _scan(self, prefix: bytes, length: int) -> Iterator[tuple[bytes, bytes]]:
        """Keys of the latest state that begin with `prefix` and are `length` bytes long."""
        for key, data in self._store.latest.scan(prefix, keys.prefix_end(prefix)):
            if len(key) == length:
                yield key, data

    def last_change(self) -> int:
        length = 13 if self._shards else 12
        return max((keys.read_u64(key, length - 8) for key, _ in self._scan(b"XLOG", length)), default=0)

    def changes(self, after: int, limit: int) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        for shard in range(self._shards) if self._shards else (None,):
            prefix = b"XLOG" if shard is None else b"XLOG" + bytes((shard,))
            begin = prefix + keys.changelog_key(after + 1)[4:]
            for key, data in self._store.latest.scan(begin, keys.prefix_end(prefix), limit):
                found.append((keys.read_u64(key, len(prefix)), data.decode(errors="replace")))
        return sorted(found)[:limit] if limit >= 0 else sorted(found)

    def clear_dir_stats(self) -> None:
        self._write(lambda tx: tx.clear(b"U", 9))

    def clear_quotas(self, kinds: Iterable[QuotaKind]) -> None:
        def body(tx: TkvTransaction) -> None:
            for kind in kinds:
                tx.clear(keys.QUOTA_PREFIX[kind], 10)

        self._write(body)

    # The store as a whole

    def prepare(self) -> None:
        """A key/value store has no schema."""

    def is_empty(self) -> bool:
        return next(iter(self._store.latest.scan(b"", b"\xff", 1)), None) is None

    def reset(self) -> None:
        """Page by page, the setting last: what is left after an interruption is still a volume, to be reset again."""
        begin = b""
        while page := [key for key, _ in self._store.latest.scan(begin, b"\xff", _RESET_PAGE)]:
            self._delete([key for key in page if key != keys.SETTING])
            begin = page[-1] + b"\0"
        self._delete([keys.SETTING])

    def _delete(self, doomed: Sequence[bytes]) -> None:
        def body(tx: TkvTransaction) -> None:
            for key in doomed:
                tx.delete_key(key)

        self._write(body)

    def tend(self) -> None:
        self._store.tend()

    def sync(self) -> None:
        """What is committed is as durable as this store makes it."""

    def close(self) -> None:
        if not self._read_only:
            self.flush()
        self._store.close()


def _add_dir_stats(tx: TkvTransaction, deltas: Mapping[int, DirStat]) -> None:
    tx.prefetch(*(("dir_stat", ino) for ino in deltas))
    for ino, delta in deltas.items():
        tx.add_dir_stat_now(ino, delta)


def _of(locks: Mapping[tuple[int, int], bytes], sid: int) -> dict[int, bytes]:
    """One session's locks by owner."""
    return {owner: value for (session, owner), value in locks.items() if session == sid}


def open_url(url: str, read_only: bool) -> TkvEngine:
    """The engine of `memkv://name[?usage=deferred]`: one store per name in this process, a new one without a name."""
    name, _, query = url.partition("://")[2].partition("?")
    return TkvEngine(MemoryStore.named(name), read_only, "usage=deferred" in query.split("&"))
