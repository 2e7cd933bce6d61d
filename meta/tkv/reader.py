"""Reads of records from an ordered key/value store. Not writes (transaction)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from meta.acl import Rule
from meta.attr import Attr
from meta.slices import decode_delayed
from meta.tkv import keys, values
from meta.tkv.kv import KvReader, KvStore
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
from meta.types import Dirent
from meta.walk import follow


class TkvReader:
    """`Reader` over a `KvReader`."""

    __slots__ = ("kv",)

    def __init__(self, kv: KvReader) -> None:
        self.kv = kv

    def attr(self, ino: int) -> Attr | None:
        data = self.kv.get(keys.attr_key(ino))
        return None if data is None else Attr.decode(data)

    def opening(self, ino: int) -> tuple[Attr | None, bytes | None]:
        """Two keys of one state would need a timestamp, which is a round trip too."""
        return self.attr(ino), None

    def lately(self, ino: int, age_s: float) -> tuple[Attr, float] | None:
        """A read costs next to nothing, so nothing is remembered."""
        return None

    def attrs(self, inos: Iterable[int]) -> dict[int, Attr]:
        wanted = {keys.attr_key(ino): ino for ino in inos}
        return {wanted[key]: Attr.decode(data) for key, data in self.kv.batch_get(wanted).items()}

    def entry(self, parent: int, name: bytes) -> Dirent | None:
        data = self.kv.get(keys.entry_key(parent, name))
        return None if data is None else values.decode_entry(data)

    def target(self, parent: int, name: bytes) -> tuple[Dirent, Attr | None] | None:
        entry = self.entry(parent, name)
        return None if entry is None else (entry, self.attr(entry.ino))

    def has_entries(self, ino: int) -> bool:
        prefix = keys.entry_key(ino)
        return next(iter(self.kv.scan(prefix, keys.prefix_end(prefix), 1)), None) is not None

    def targets(self, start: int, names: Sequence[bytes]) -> list[tuple[Dirent, Attr | None]]:
        return follow(self, start, names)

    def list_entries(self, ino: int, *, plus: bool = False, cursor: Cursor = None, limit: int = -1) -> DirPage:
        """By name, which is the cursor. A negative limit is none."""
        prefix = keys.entry_key(ino)
        begin = prefix + cursor + b"\0" if isinstance(cursor, bytes) else prefix
        entries = [
            (key[len(prefix) :], values.decode_entry(data))
            for key, data in self.kv.scan(begin, keys.prefix_end(prefix), limit)
        ]
        attrs = self.attrs(entry.ino for _, entry in entries) if plus else {}
        items = [DirItem(name, entry.ino, entry.type, attrs.get(entry.ino)) for name, entry in entries]
        return DirPage(items, items[-1].name if len(items) == limit else None)

    def parents(self, ino: int) -> dict[int, int]:
        counts = {
            keys.read_ino(suffix): values.decode_count(data) for suffix, data in self._under(keys.parents_key(ino))
        }
        return {parent: count for parent, count in counts.items() if count > 0}

    def symlink(self, ino: int) -> bytes | None:
        return self.kv.get(keys.symlink_key(ino))

    def xattr(self, ino: int, name: bytes) -> bytes | None:
        return self.kv.get(keys.xattr_key(ino, name))

    def xattrs(self, ino: int) -> dict[bytes, bytes]:
        return dict(self._under(keys.xattr_key(ino)))

    def chunk(self, ino: int, indx: int) -> bytes:
        return self.kv.get(keys.chunk_key(ino, indx)) or b""

    def chunks(self, ino: int, length: int = 0) -> dict[int, bytes]:
        return {keys.read_u32(suffix): data for suffix, data in self._under(keys.chunks_key(ino)) if data}

    def flocks(self, ino: int) -> dict[Owner, bytes]:
        return values.decode_flocks(self.kv.get(keys.flock_key(ino)) or b"")

    def plocks(self, ino: int) -> dict[Owner, bytes]:
        return values.decode_plocks(self.kv.get(keys.plock_key(ino)) or b"")

    def acl(self, acl_id: int) -> Rule | None:
        data = self.kv.get(keys.acl_key(acl_id))
        return None if data is None else Rule.decode(data)

    def dir_stat(self, ino: int) -> DirStat | None:
        data = self.kv.get(keys.dir_stat_key(ino))
        return None if data is None else values.decode_dir_stat(data)

    def quota(self, kind: QuotaKind, key: int) -> Quota | None:
        data = self.kv.get(keys.quota_key(kind, key))
        return None if data is None else values.decode_quota(data)

    def quotas(self, kind: QuotaKind) -> dict[int, Quota]:
        read_key = keys.read_ino if kind == "dir" else keys.read_u64
        under = self._under(keys.QUOTA_PREFIX[kind])
        return {read_key(suffix): values.decode_quota(data) for suffix, data in under if len(suffix) == 8}

    def counter(self, name: str) -> int:
        data = self.kv.get(keys.counter_key(name))
        return 0 if data is None else values.decode_counter(name, data)

    def slice_refs(self, slice_id: int, size: int) -> int:
        """The store keeps one less, and nothing for a slice that was never counted."""
        data = self.kv.get(keys.slice_key(slice_id, size))
        return 1 if data is None else values.decode_count(data) + 1

    def setting(self) -> bytes | None:
        return self.kv.get(keys.SETTING)

    def session(self, sid: int) -> SessionRecord | None:
        found = self.kv.batch_get((keys.session_key(b"SE", sid), keys.session_key(b"SI", sid)))
        expire = found.get(keys.session_key(b"SE", sid))
        if expire is None:
            return None
        return SessionRecord(sid, values.decode_time(expire), found.get(keys.session_key(b"SI", sid), b""))

    def sustained(self, sid: int) -> list[int]:
        return sorted(keys.read_ino(suffix) for suffix, _ in self._under(keys.session_key(b"SS", sid)))

    def delayed(self, slice_id: int, created: int) -> Delayed | None:
        data = self.kv.get(keys.delayed_key(created, slice_id))
        return None if data is None else Delayed(slice_id, created, decode_delayed(data))

    def _under(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """What keys that begin with `prefix` go on with, and their values."""
        return [(key[len(prefix) :], data) for key, data in self.kv.scan(prefix, keys.prefix_end(prefix))]


class LatestReader(TkvReader):
    """Reads outside transactions. Listings are of one state."""

    __slots__ = ("_store",)

    def __init__(self, store: KvStore) -> None:
        super().__init__(store.latest)
        self._store = store

    def target(self, parent: int, name: bytes) -> tuple[Dirent, Attr | None] | None:
        """The attributes may be newer than the name, but not those of an inode that is gone: then both are read again.

        So it takes two reads and no timestamp; a name that is missing takes one.
        """
        found = super().target(parent, name)
        if found is None or found[1] is not None:
            return found
        kv = self._store.begin()
        try:
            return TkvReader(kv).target(parent, name)
        finally:
            kv.close()

    def list_entries(self, ino: int, *, plus: bool = False, cursor: Cursor = None, limit: int = -1) -> DirPage:
        kv = self._store.begin()
        try:
            return TkvReader(kv).list_entries(ino, plus=plus, cursor=cursor, limit=limit)
        finally:
            kv.close()
