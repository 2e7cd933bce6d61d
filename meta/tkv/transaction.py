"""Writes of records to an ordered key/value store inside a transaction. Not how it begins and ends (engine)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from meta.attr import Attr
from meta.slices import RECORD_SIZE, encode_delayed
from meta.tkv import keys, values
from meta.tkv.deferred import Totals, plus
from meta.tkv.kv import KvTransaction
from meta.tkv.reader import TkvReader
from meta.transaction import Appended, Delayed, DeletedFile, DirStat, Owner, Quota, QuotaKind, Read, SessionRecord
from meta.types import DIRECTORY, Dirent

_KEY_OF: Final[dict[str, Callable[..., bytes]]] = {
    "attr": keys.attr_key,
    "entry": keys.entry_key,
    "target": keys.entry_key,
    "symlink": keys.symlink_key,
    "xattr": keys.xattr_key,
    "chunk": keys.chunk_key,
    "flocks": keys.flock_key,
    "plocks": keys.plock_key,
    "acl": keys.acl_key,
    "dir_stat": keys.dir_stat_key,
    "quota": keys.quota_key,
    "counter": keys.counter_key,
    "slice_refs": keys.slice_key,
}
"""The key that a read of one value needs (first), by its name; reads of ranges are not in it."""

_NAMES: Final = ("entry", "target")


class TkvTransaction(TkvReader):
    """`Transaction` over a `KvTransaction`. With `defer`, `totals` collects what the engine shall add later.

    `shards` of the change log; 0: it is in one piece.
    """

    __slots__ = ("_changed_dirs", "_changelog", "_defer", "_moves", "_seen", "_shards", "_tx", "totals")

    def __init__(self, tx: KvTransaction, defer: bool, shards: int = 0) -> None:
        super().__init__(tx)
        self._shards = shards
        self._tx = tx
        self._defer = defer
        self._changelog = 0
        self.totals = Totals()
        self._seen: set[int] = set()  # inodes whose attributes were read
        self._changed_dirs: set[int] = set()
        self._moves = [False, False]  # a name went, a directory got one

    def prefetch(self, *reads: Read) -> None:
        """One round trip for all reads of single values; the store's transaction remembers them.

        With a name comes the statistic of its directory: who reads a name here will mostly change it.
        """
        wanted = {_key(name, arguments): None for name, *arguments in reads if name in _KEY_OF}
        if not self._defer:
            wanted.update((_key("dir_stat", arguments[:1]), None) for name, *arguments in reads if name in _NAMES)
        if len(wanted) > 1:
            self._tx.batch_get(wanted)

    def put_attr(self, ino: int, attr: Attr) -> None:
        self._tx.set(keys.attr_key(ino), attr.encode())

    def delete_attr(self, ino: int) -> None:
        self._tx.delete(keys.attr_key(ino))

    def attr(self, ino: int) -> Attr | None:
        self._seen.add(ino)
        return super().attr(ino)

    def guard(self) -> None:
        """Before the commit: hold what stores that only compare writes with writes would overlook.

        A name is made in a directory that is being removed: both see it empty, and only one of them writes it. Two
        directories are moved, each below the other: each sees the other's ancestors as they were.
        """
        inos = self._seen if all(self._moves) else self._changed_dirs
        for ino in inos:
            self._tx.hold(keys.attr_key(ino))

    def put_entry(self, parent: int, name: bytes, entry: Dirent) -> None:
        self._moves[0] |= bool(self._changed_dirs)  # of two that are exchanged none goes
        self._moves[1] |= entry.type == DIRECTORY
        self._changed_dirs.add(parent)
        self._tx.set(keys.entry_key(parent, name), values.encode_entry(entry))

    def delete_entry(self, parent: int, name: bytes) -> None:
        self._moves[0] = True
        self._changed_dirs.add(parent)
        self._tx.delete(keys.entry_key(parent, name))

    def add_parent(self, ino: int, parent: int, delta: int) -> None:
        """A count that falls to 0 is removed."""
        key = keys.parent_key(ino, parent)
        data = self._tx.get(key)
        count = delta + (0 if data is None else values.decode_count(data))
        if count > 0:
            self._tx.set(key, values.encode_count(count))
        else:
            self._tx.delete(key)

    def delete_parents(self, ino: int) -> None:
        self.clear(keys.parents_key(ino))

    def put_symlink(self, ino: int, target: bytes) -> None:
        self._tx.set(keys.symlink_key(ino), target)

    def delete_symlink(self, ino: int) -> None:
        self._tx.delete(keys.symlink_key(ino))

    def put_xattr(self, ino: int, name: bytes, value: bytes) -> None:
        self._tx.set(keys.xattr_key(ino, name), value)

    def delete_xattr(self, ino: int, name: bytes) -> None:
        self._tx.delete(keys.xattr_key(ino, name))

    def delete_xattrs(self, ino: int) -> None:
        self.clear(keys.xattr_key(ino))

    def append_slices(self, ino: int, indx: int, records: bytes) -> Appended:
        appended = Appended()
        data = self.chunk(ino, indx) + records
        self._tx.set(keys.chunk_key(ino, indx), data)
        appended.count = len(data) // RECORD_SIZE
        return appended

    def put_chunk(self, ino: int, indx: int, records: bytes) -> None:
        self._set_or_delete(keys.chunk_key(ino, indx), records)

    def delete_chunk(self, ino: int, indx: int) -> None:
        self._tx.delete(keys.chunk_key(ino, indx))

    def new_slice(self, slice_id: int, size: int) -> None:
        """One reference is what a missing count means."""

    def add_slice_refs(self, slice_id: int, size: int, delta: int) -> None:
        """What is stored is one less than the count."""
        count = self.slice_refs(slice_id, size) - 1 + delta
        self._tx.set(keys.slice_key(slice_id, size), values.encode_count(count))

    def delete_slice(self, slice_id: int, size: int) -> None:
        self._tx.delete(keys.slice_key(slice_id, size))

    def put_delayed(self, entry: Delayed) -> None:
        self._tx.set(keys.delayed_key(entry.created, entry.id), encode_delayed(entry.slices))

    def delete_delayed(self, slice_id: int, created: int) -> None:
        self._tx.delete(keys.delayed_key(created, slice_id))

    def put_deleted_file(self, entry: DeletedFile) -> None:
        self._tx.set(keys.deleted_file_key(entry.ino, entry.length), values.encode_time(entry.deleted))

    def delete_deleted_file(self, ino: int, length: int) -> None:
        self._tx.delete(keys.deleted_file_key(ino, length))

    def put_flock(self, ino: int, owner: Owner, kind: bytes | None) -> None:
        locks = self.flocks(ino)
        _set_or_drop(locks, owner, kind)
        self._set_or_delete(keys.flock_key(ino), values.encode_flocks(locks))

    def put_plock(self, ino: int, owner: Owner, records: bytes | None) -> None:
        locks = self.plocks(ino)
        _set_or_drop(locks, owner, records)
        self._set_or_delete(keys.plock_key(ino), values.encode_plocks(locks))

    def put_session(self, record: SessionRecord) -> None:
        self._tx.set(keys.session_key(b"SE", record.sid), values.encode_time(record.expire))
        self._tx.set(keys.session_key(b"SI", record.sid), record.info)

    def delete_session(self, sid: int) -> None:
        for kind in (b"SE", b"SI", b"SH"):
            self._tx.delete(keys.session_key(kind, sid))

    def put_sustained(self, sid: int, ino: int) -> None:
        self._tx.set(keys.sustained_key(sid, ino), b"\1")

    def delete_sustained(self, sid: int, ino: int) -> None:
        self._tx.delete(keys.sustained_key(sid, ino))

    def put_detached(self, ino: int, created: int) -> None:
        self._tx.set(keys.detached_key(ino), values.encode_time(created))

    def delete_detached(self, ino: int) -> None:
        self._tx.delete(keys.detached_key(ino))

    def put_dir_stat(self, ino: int, stat: DirStat) -> None:
        self._tx.set(keys.dir_stat_key(ino), values.encode_dir_stat(stat))

    def add_dir_stat(self, ino: int, delta: DirStat) -> None:
        if self._defer:
            self.totals.add_dir(ino, delta)
        else:
            self.add_dir_stat_now(ino, delta)

    def add_dir_stat_now(self, ino: int, delta: DirStat) -> None:
        """In this transaction, if the directory has a statistic."""
        stat = self.dir_stat(ino)
        if stat is not None:
            self.put_dir_stat(ino, plus(stat, delta))

    def delete_dir_stat(self, ino: int) -> None:
        self._tx.delete(keys.dir_stat_key(ino))

    def put_quota(self, kind: QuotaKind, key: int, quota: Quota) -> None:
        self._tx.set(keys.quota_key(kind, key), values.encode_quota(quota))

    def add_quota(self, kind: QuotaKind, key: int, space: int, inodes: int) -> None:
        quota = self.quota(kind, key)
        if quota is None and kind != "dir":
            quota = Quota(-1, -1, 0, 0)
        if quota is not None:
            used = quota._replace(used_space=quota.used_space + space, used_inodes=quota.used_inodes + inodes)
            self.put_quota(kind, key, used)

    def delete_quota(self, kind: QuotaKind, key: int) -> None:
        self._tx.delete(keys.quota_key(kind, key))

    def add_usage(self, space: int, inodes: int) -> None:
        if self._defer:
            self.totals.space += space
            self.totals.inodes += inodes
            return
        self.add_counter("usedSpace", space)
        self.add_counter("totalInodes", inodes)

    def add_counter(self, name: str, delta: int, first: int = 0) -> int:
        """Add to a counter, which is `first` if it is missing; the new value."""
        data = self._tx.get(keys.counter_key(name))
        value = delta + (first if data is None else values.decode_counter(name, data))
        self.put_counter(name, value)
        return value

    def new_counter(self, name: str, value: int) -> None:
        """Set a counter unless it is there."""
        if self._tx.get(keys.counter_key(name)) is None:
            self.put_counter(name, value)

    def put_counter(self, name: str, value: int) -> None:
        self._tx.set(keys.counter_key(name), values.encode_counter(name, value))

    def put_setting(self, document: bytes) -> None:
        self._tx.set(keys.SETTING, document)

    def put_acl(self, acl_id: int, record: bytes) -> None:
        self._tx.set(keys.acl_key(acl_id), record)

    def append_changelog(self, line: str) -> None:
        """Numbered by the transaction, so that lines of several clients never collide."""
        first = self._tx.start if self._shards else self._tx.start * 100
        self._tx.set(keys.changelog_key(first + self._changelog, self._shards), line.encode())
        self._changelog += 1

    def clear(self, prefix: bytes, length: int | None = None) -> None:
        """Delete keys that begin with `prefix` (and have `length` bytes)."""
        for key, _ in list(self._tx.scan(prefix, keys.prefix_end(prefix))):
            if length is None or len(key) == length:
                self._tx.delete(key)

    def delete_key(self, key: bytes) -> None:
        """Delete any key."""
        self._tx.delete(key)

    def _set_or_delete(self, key: bytes, value: bytes) -> None:
        if value:
            self._tx.set(key, value)
        else:
            self._tx.delete(key)


def _key(name: str, arguments: list[Any]) -> bytes:
    return _KEY_OF[name](*arguments)


def _set_or_drop(locks: dict[Owner, bytes], owner: Owner, value: bytes | None) -> None:
    if value:
        locks[owner] = value
    else:
        locks.pop(owner, None)
