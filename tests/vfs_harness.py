"""A VFS without a mount: volumes over memory or over SQLite and files, and calls as the kernel would make them.

Not tests. `Client` keeps what a kernel would keep (open handles), nothing more: no page cache, no attributes.
"""

from __future__ import annotations

import errno
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from chunkstore.bucket import Bucket
from chunkstore.buckets import open_bucket, with_prefix
from chunkstore.config import StoreConfig
from chunkstore.store import ChunkStore
from fuse import abi
from fuse.operations import Buffer, Caller, DirSink, Entry, SetAttr, Stat
from juicefs_py.data.slice_store import StoredSlices
from juicefs_py.errors import errno_of
from juicefs_py.ledger import Ledger
from juicefs_py.vfs import VFS
from juicefs_py.vfs_config import VFSConfig
from meta.client import MetaClient, SessionInfo
from meta.config import MetaConfig
from meta.engines import open_engine
from meta.rules.format import init_volume
from meta.setting import Setting

ROOT = 1
BLOCK = 64 << 10  # the smallest block, so that small tests cross blocks
CALLER = Caller(0, 0, os.getpid())


class World:
    """One formatted volume and the clients opened on it."""

    def __init__(self, kind: str, directory: Path | None = None, **setting: object) -> None:
        name = uuid.uuid4().hex
        if kind == "mem":
            self.url, storage, self._address = f"memkv://{name}", "mem", name
        else:
            assert directory is not None
            self.url, storage, self._address = f"sqlite3://{directory}/{name}.db", "file", f"{directory}/{name}/"
        self.kind = kind
        self.storage = storage
        self._engine = open_engine(self.url)  # kept: a memory store lives as long as somebody holds it
        self._engine.prepare()
        fields = {"trash_days": 0, "block_size": BLOCK >> 10, **setting}
        init_volume(
            self._engine,
            Setting(name="vol", uuid=str(uuid.uuid4()), storage=storage, bucket=self._address, **fields),  # type: ignore[arg-type]
        )
        self.clients: list[Client] = []

    def client(
        self, wrap: Callable[[Bucket], Bucket] = lambda bucket: bucket, *, meta: MetaConfig | None = None,
        vfs: VFSConfig | None = None, ledger: Ledger | None = None, sid: int = 0, **store: object,
    ) -> Client:  # fmt: skip
        """One more client; `wrap` may put a faulty bucket before the real one. `sid`: of whom it succeeds."""
        client = MetaClient(open_engine(self.url), meta or MetaConfig(no_bgjob=True, skip_dir_mtime_s=0.0))
        client.load()
        bucket = wrap(with_prefix(open_bucket(self.storage, self._address), "vol/"))
        options: dict[str, object] = {
            "block_size": client.setting.block_size << 10, "compress": client.setting.compression, "cache_size": 0,
        }  # fmt: skip
        config = StoreConfig(**(options | store))  # type: ignore[arg-type]
        opened = ChunkStore(bucket, config)
        client.set_slice_store(StoredSlices(opened))
        client.new_session(SessionInfo(mount_point="/test"), sid)
        files = vfs or VFSConfig(enable_xattr=True, enable_ioctl=True, attr_timeout_s=0)
        made = Client(VFS(client, opened, files, ledger))
        self.clients.append(made)
        return made

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self._engine.close()


@contextmanager
def world(kind: str, directory: Path | None = None, **setting: object) -> Iterator[World]:
    """A volume for the length of a `with`; afterwards no thread of ours may be left."""
    before = set(threading.enumerate())
    made = World(kind, directory, **setting)
    try:
        yield made
    finally:
        made.close()
    left = [
        thread.name for thread in threading.enumerate()
        if thread not in before and thread.is_alive() and not thread.name.startswith("Trio")  # kept for a while
    ]  # fmt: skip
    assert not left, f"threads left behind: {left}"


class File:
    """An open file of a client."""

    def __init__(self, client: Client, ino: int, fh: int) -> None:
        self.client = client
        self.vfs = client.vfs
        self.ino = ino
        self.fh = fh
        self.closed = False

    def write(self, off: int, data: bytes) -> int:
        return self.vfs.write(CALLER, self.ino, self.fh, off, memoryview(data), 0)

    def read(self, off: int, size: int) -> bytes:
        return joined(self.vfs.read(CALLER, self.ino, self.fh, off, size))

    def all(self) -> bytes:
        return self.read(0, self.stat().size)

    def stat(self) -> Stat:
        return self.vfs.getattr(CALLER, self.ino, self.fh)[0]

    def flush(self) -> None:
        self.vfs.flush(CALLER, self.ino, self.fh, 0)

    def fsync(self) -> None:
        self.vfs.fsync(CALLER, self.ino, self.fh, False)

    def truncate(self, size: int) -> None:
        self.vfs.setattr(CALLER, self.ino, changes(size=size, fh=self.fh))

    def fallocate(self, mode: int, off: int, size: int) -> None:
        self.vfs.fallocate(CALLER, self.ino, self.fh, off, size, mode)

    def release(self) -> None:
        """The end without close(2)'s flush."""
        if not self.closed:
            self.closed = True
            self.vfs.release(CALLER, self.ino, self.fh, 0, False)

    def close(self) -> None:
        try:
            self.flush()
        finally:
            self.release()


class Client:
    """A VFS and path-like calls on it."""

    def __init__(self, vfs: VFS) -> None:
        self.vfs = vfs

    def open(self, ino: int, flags: int = os.O_RDWR) -> File:
        return File(self, ino, self.vfs.open(CALLER, ino, flags).fh)

    def create(self, name: bytes, parent: int = ROOT, flags: int = os.O_RDWR) -> File:
        entry, opened = self.vfs.create(CALLER, parent, name, 0o644, 0, flags)
        return File(self, entry.stat.ino, opened.fh)

    def lookup(self, name: bytes, parent: int = ROOT) -> Entry:
        return self.vfs.lookup(CALLER, parent, name)

    def ino(self, *names: bytes) -> int:
        ino = ROOT
        for name in names:
            ino = self.lookup(name, ino).stat.ino
        return ino

    def mkdir(self, name: bytes, parent: int = ROOT) -> int:
        return self.vfs.mkdir(CALLER, parent, name, 0o755, 0).stat.ino

    def unlink(self, name: bytes, parent: int = ROOT) -> None:
        self.vfs.unlink(CALLER, parent, name)

    def names(self, ino: int = ROOT, *, plus: bool = False, room: int = 1000) -> list[bytes]:
        """A whole listing, `room` entries at a time."""
        fh = self.vfs.opendir(CALLER, ino, 0).fh
        found: list[bytes] = []
        offset = 0
        while True:
            sink = Sink(room)
            (self.vfs.readdirplus if plus else self.vfs.readdir)(CALLER, ino, fh, offset, sink)
            if not sink.rows:
                break
            found += [row[0] for row in sink.rows]
            offset = sink.rows[-1][2]
        self.vfs.releasedir(CALLER, ino, fh)
        return found

    def close(self) -> None:
        self.vfs.close()
        self.vfs.meta.shutdown()
        self.vfs.store.close()


class Sink(DirSink):
    """A reply to READDIR with room for so many entries."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.rows: list[tuple[bytes, int, int]] = []
        self.entries: dict[bytes, Entry] = {}

    def add(self, name: bytes, ino: int, file_type: int, next_offset: int) -> bool:
        if len(self.rows) >= self.room:
            return False
        self.rows.append((name, ino, next_offset))
        return True

    @property
    def at_most(self) -> int:
        return self.room - len(self.rows)

    def add_plus(self, name: bytes, entry: Entry, next_offset: int) -> bool:
        if not self.add(name, entry.stat.ino, entry.stat.mode & 0o170000, next_offset):
            return False
        self.entries[name] = entry
        return True


def joined(data: Buffer | object) -> bytes:
    """What READ answered, as one."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    return b"".join(data)  # type: ignore[arg-type]


def changes(
    *, size: int | None = None, mode: int | None = None, mtime_ns: int | None = None, now: bool = False,
    fh: int | None = None,
) -> SetAttr:  # fmt: skip
    """A SETATTR of the given values."""
    valid = 0
    nothing = SetAttr(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, fh, None)
    if fh is not None:
        valid |= abi.FATTR_FH
    if size is not None:
        valid |= abi.FATTR_SIZE
        nothing = nothing._replace(size=size)
    if mode is not None:
        valid |= abi.FATTR_MODE
        nothing = nothing._replace(mode=mode)
    if mtime_ns is not None or now:
        valid |= abi.FATTR_MTIME | (abi.FATTR_MTIME_NOW if now else 0)
        seconds, nanos = divmod(mtime_ns or 0, 1_000_000_000)
        nothing = nothing._replace(mtime=seconds, mtimensec=nanos)
    return nothing._replace(valid=valid)


def errno_from(call: Callable[[], object]) -> int:
    """The errno that a call fails with; 0 if it does not."""
    try:
        call()
    except Exception as problem:  # whatever it is, errno_of must know it
        return errno_of(problem) or errno.ECANCELED
    return 0


def quick(config: VFSConfig | None = None) -> VFSConfig:
    """Give up early: for tests of failures."""
    return replace(config or VFSConfig(enable_xattr=True, attr_timeout_s=0), io_retries=1)
