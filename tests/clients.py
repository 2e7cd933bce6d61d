"""Metadata clients over each engine for tests, and a slice store whose data is a formula instead of bytes.

Not mounts (`mounts`). A byte of a slice is a function of slice number and offset, so a test may write 64 MiB for
nothing.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis_server
import tikv_server

from meta.client import MetaClient, SessionInfo
from meta.config import MetaConfig
from meta.engine import Engine
from meta.engines import open_engine
from meta.rules.check import check
from meta.rules.format import init_volume
from meta.setting import Setting
from meta.slices import Piece, decode_slices
from meta.types import CHUNK_SHIFT, CHUNK_SIZE, ROOT, SUPERUSER, Identity

_living: weakref.WeakSet[Client] = weakref.WeakSet()
ENGINES = ("memkv", "sqlite3", "redis")
ALL_ENGINES = (*ENGINES, "tikv")
"""For what engines promise. Commands and programs are tried over `ENGINES`: TiKV's records are those of memkv."""
SHORT = Identity(uid=1000, gid=1000, groups=(1000,))


def fresh_url(kind: str, tmp_path: Path) -> str:
    """The address of a store that holds nothing."""
    if kind == "redis":
        return redis_server.shared().url()
    if kind == "tikv":
        return tikv_server.fresh_url()
    return f"sqlite3://{tmp_path}/meta.db" if kind == "sqlite3" else f"memkv://{tmp_path.name}"


def new_engine(kind: str, tmp_path: Path, **setting: Any) -> Engine:
    """A fresh volume on a fresh engine."""
    engine = open_engine(fresh_url(kind, tmp_path))
    engine.prepare()
    init_volume(engine, Setting(**{"name": "test", "uuid": "5a1ade", "trash_days": 0, **setting}))
    return engine


class FakeStore:
    """A slice store without data. Remembers what was deleted and what was merged from what."""

    def __init__(self) -> None:
        self.deleted: Counter[int] = Counter()
        self.merged: dict[int, list[Piece]] = {}
        self.fail = False
        self._lock = threading.Lock()

    def delete_slice(self, slice_id: int, size: int) -> None:
        if self.fail:
            raise OSError("the bucket is away")
        with self._lock:
            self.deleted[slice_id] += 1

    def compact_slice(self, pieces: Sequence[Piece], slice_id: int, size: int, tier: int) -> None:
        assert sum(piece.len for piece in pieces) == size
        with self._lock:
            self.merged[slice_id] = list(pieces)

    def byte(self, slice_id: int, off: int) -> int:
        """What a slice holds at an offset: never zero, so that holes are told from data."""
        pieces = self.merged.get(slice_id)
        if pieces is None:
            return 1 + (slice_id * 131 + off * 7) % 255
        for piece in pieces:
            if off < piece.len:
                return self.byte(piece.id, piece.off + off) if piece.id else 0
            off -= piece.len
        raise AssertionError(f"read behind the end of slice {slice_id}")


class Client(MetaClient):
    """A client with a session and a fake store."""

    def __init__(self, engine: Engine, store: FakeStore | None = None, **config: Any) -> None:
        super().__init__(engine, MetaConfig(**config))
        _living.add(self)
        self.store = store or FakeStore()
        self.set_slice_store(self.store)
        self.load()
        self.new_session(SessionInfo("/test"))

    def write(self, ino: int, off: int, size: int, mtime: tuple[int, int] | None = None) -> int:
        """Write as a writer does: one slice per chunk. Returns the first slice's number."""
        first = 0
        while size > 0:
            pos = off & (CHUNK_SIZE - 1)
            part = min(size, CHUNK_SIZE - pos)
            slice_id = self.new_slice_id()
            self.write_slice(ino, off >> CHUNK_SHIFT, pos, slice_id, part, mtime or self.vol.now())
            first = first or slice_id
            off, size = off + part, size - part
        return first

    def byte(self, ino: int, off: int) -> int:
        """What a reader sees at an offset (below the file's length)."""
        rest = off & (CHUNK_SIZE - 1)
        for piece in self.read_chunk(ino, off >> CHUNK_SHIFT):
            if rest < piece.len:
                return self.store.byte(piece.id, piece.off + rest) if piece.id else 0
            rest -= piece.len
        return 0

    def file(self, name: bytes, parent: int = ROOT, caller: Any = SUPERUSER) -> int:
        """A new file that is not open."""
        ino, _ = self.create(caller, parent, name, 0o644, 0, 0)
        self.close(ino)
        return ino


def check_sound(engine: Engine, deleted: Counter[int] | None = None) -> None:
    """Every invariant of the volume holds; no slice was `deleted` twice, or while something referred to it."""
    for client in _living:
        if client.engine is engine:
            assert client.compactor.drain(20) and client.deleter.drain(20), "its background work does not end"
    assert check(engine) == []
    if deleted is not None:
        assert all(times == 1 for times in deleted.values()), deleted
        living = {record.id for _, _, records in engine.list_slices() for record in decode_slices(records)}
        living |= {slice_id for entry in engine.delayed_slices(1 << 40) for slice_id, _ in entry.slices}
        assert not living & set(deleted)
