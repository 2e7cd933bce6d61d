"""The VFS against a dumb model: bytearrays and a dict, every operation on both, everything compared.

Not a mount: requests go straight into the VFS of two clients. Names and offsets come from tiny alphabets so that they
collide.
"""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule
from vfs_harness import BLOCK, CALLER, ROOT, Client, File, World, errno_from

NAMES = st.sampled_from([b"a", b"b", b"c"])
CHUNK = 64 << 20
OFFSETS = st.one_of(
    st.sampled_from([0, 1, 4096, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, CHUNK - 10, CHUNK, CHUNK + BLOCK]),
    st.integers(0, 4 * BLOCK),
)
SIZES = st.one_of(st.sampled_from([1, 4096, BLOCK, BLOCK + 7, 3 * BLOCK]), st.integers(1, 2 * BLOCK))
KEEP, PUNCH, ZERO = 1, 2, 16
LONGEST = CHUNK + 8 * BLOCK


class Node:
    """A file of the model."""

    def __init__(self) -> None:
        self.parts: dict[int, bytes] = {}  # sparse: pages of content
        self.length = 0
        self.nlink = 1

    def write(self, off: int, data: bytes) -> None:
        for at in range(0, len(data), 1 << 16):
            self._put(off + at, data[at : at + (1 << 16)])
        self.length = max(self.length, off + len(data))

    def _put(self, off: int, data: bytes) -> None:
        while data:
            page, start = divmod(off, 1 << 16)
            old = bytearray(self.parts.get(page, bytes(1 << 16)))
            n = min(len(data), (1 << 16) - start)
            old[start : start + n] = data[:n]
            self.parts[page] = bytes(old)
            off, data = off + n, data[n:]

    def zero(self, off: int, size: int) -> None:
        if size > 0:
            for at in range(off, off + size, 1 << 16):
                self._put(at, bytes(min(1 << 16, off + size - at)))

    def truncate(self, length: int) -> None:
        if length < self.length:
            for page in [page for page in self.parts if page << 16 >= length]:
                del self.parts[page]
            if length >> 16 in self.parts:
                self.zero(length, ((length >> 16) + 1 << 16) - length)
        self.length = length

    def read(self, off: int, size: int) -> bytes:
        size = max(min(size, self.length - off), 0)
        out = bytearray()
        while len(out) < size:
            page, start = divmod(off + len(out), 1 << 16)
            out += self.parts.get(page, bytes(1 << 16))[start : start + size - len(out)]
        return bytes(out)


class Against(RuleBasedStateMachine):
    """One directory of files, two clients (the second only reads what is flushed)."""

    kind = "mem"
    handles = Bundle("handles")

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.world = World(self.kind, Path(self.directory.name))
        self.one: Client = self.world.client()
        self.two: Client = self.world.client()
        self.tree: dict[bytes, Node] = {}
        self.open: list[tuple[File, Node]] = []
        self.seed = 0

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.close()
            self.directory.cleanup()

    def data(self, size: int) -> bytes:
        self.seed += 1
        return (self.seed.to_bytes(4, "big") + os.path.basename(__file__).encode()[:13])[:size] * (size // 17 + 1)

    @rule(target=handles, name=NAMES)
    def create(self, name: bytes) -> tuple[File, Node]:
        file = self.one.create(name)
        node = self.tree.setdefault(name, Node())
        self.open.append((file, node))
        return file, node

    @rule(handle=handles, off=OFFSETS, size=SIZES)
    def write(self, handle: tuple[File, Node], off: int, size: int) -> None:
        file, node = handle
        data = self.data(size)[:size]
        assert file.write(off, data) == size
        node.write(off, data)

    @rule(handle=handles, off=OFFSETS, size=SIZES)
    def read(self, handle: tuple[File, Node], off: int, size: int) -> None:
        file, node = handle
        assert file.read(off, size) == node.read(off, size)

    @rule(handle=handles, length=OFFSETS)
    def truncate(self, handle: tuple[File, Node], length: int) -> None:
        file, node = handle
        file.truncate(length)
        node.truncate(length)

    @rule(handle=handles, off=OFFSETS, size=SIZES, mode=st.sampled_from([0, KEEP, PUNCH | KEEP, ZERO, ZERO | KEEP]))
    def fallocate(self, handle: tuple[File, Node], off: int, size: int, mode: int) -> None:
        file, node = handle
        file.fallocate(mode, off, size)
        if mode & (PUNCH | ZERO):
            node.zero(off, min(size, node.length - off))
        if not mode & KEEP:
            node.length = max(node.length, off + size)

    @rule(source=handles, dest=handles, off=OFFSETS, to=OFFSETS, size=SIZES)
    def copy(self, source: tuple[File, Node], dest: tuple[File, Node], off: int, to: int, size: int) -> None:
        (src, from_node), (dst, to_node) = source, dest
        vfs = self.one.vfs

        def call() -> int:
            return vfs.copy_file_range(CALLER, src.ino, src.fh, off, dst.ino, dst.fh, to, size, 0)

        if from_node is to_node and off < to + size and to < off + size:
            assert errno_from(call) == errno.EINVAL
            return
        data = from_node.read(off, size)
        assert call() == len(data)
        if data:
            to_node.write(to, data)

    @rule(handle=handles)
    def flush(self, handle: tuple[File, Node]) -> None:
        handle[0].flush()

    @rule(handle=handles, off=OFFSETS, size=SIZES)
    def fsync_and_read_elsewhere(self, handle: tuple[File, Node], off: int, size: int) -> None:
        file, node = handle
        file.fsync()
        if node.nlink:
            other = self.two.open(file.ino, os.O_RDONLY)
            assert other.stat().size == node.length
            assert other.read(off, size) == node.read(off, size)
            other.close()

    @rule(handle=handles, off=OFFSETS, data=st.booleans())
    def seek(self, handle: tuple[File, Node], off: int, data: bool) -> None:
        file, node = handle
        found = 0

        def call() -> None:
            nonlocal found
            found = self.one.vfs.lseek(CALLER, file.ino, file.fh, off, os.SEEK_DATA if data else os.SEEK_HOLE)

        failed = errno_from(call)
        if off >= node.length:
            assert failed == errno.ENXIO
        elif failed:
            assert data and failed == errno.ENXIO
            assert not any(node.read(off, node.length - off))
        else:
            assert off <= found <= node.length
            if data:
                assert not any(node.read(off, found - off))
            elif found < node.length:
                assert not any(node.read(found, 1))

    @rule(name=NAMES, new=NAMES)
    def rename(self, name: bytes, new: bytes) -> None:
        failed = errno_from(lambda: self.one.vfs.rename(CALLER, ROOT, name, ROOT, new, 0))
        if name not in self.tree:
            assert failed == errno.ENOENT
            return
        assert failed == 0
        moved = self.tree[name]
        if name != new and self.tree.get(new) is not moved:
            if new in self.tree:
                self.tree[new].nlink -= 1
            self.tree[new] = self.tree.pop(name)

    @rule(name=NAMES, new=NAMES)
    def link(self, name: bytes, new: bytes) -> None:
        if name not in self.tree:
            return
        failed = errno_from(lambda: self.one.vfs.link(CALLER, self.one.ino(name), ROOT, new))
        if new in self.tree:
            assert failed == errno.EEXIST
            return
        assert failed == 0
        self.tree[new] = self.tree[name]
        self.tree[name].nlink += 1

    @rule(name=NAMES)
    def unlink(self, name: bytes) -> None:
        failed = errno_from(lambda: self.one.unlink(name))
        if name not in self.tree:
            assert failed == errno.ENOENT
            return
        assert failed == 0
        self.tree.pop(name).nlink -= 1

    @rule(handle=consumes(handles))
    def close(self, handle: tuple[File, Node]) -> None:
        handle[0].close()
        self.open = [other for other in self.open if other[0] is not handle[0]]

    @rule(target=handles, name=NAMES)
    def reopen(self, name: bytes) -> tuple[File, Node]:
        if name not in self.tree:
            return self.create(name)
        handle = self.one.open(self.one.ino(name)), self.tree[name]
        self.open.append(handle)
        return handle

    @invariant()
    def same_names_and_lengths(self) -> None:
        if not hasattr(self, "tree"):
            return
        hidden = {b".", b"..", b".accesslog", b".stats", b".config", b".trash"}
        assert set(self.one.names()) - hidden == set(self.tree)
        for file, node in self.open:
            stat = file.stat()
            assert (stat.size, stat.nlink) == (node.length, node.nlink)


class AgainstSqlite(Against):
    kind = "sqlite"


_SETTINGS = settings(
    max_examples=40, stateful_step_count=40, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck)
)
TestMem = pytest.mark.timeout(600)(Against.TestCase)
TestMem.settings = _SETTINGS
TestSqlite = pytest.mark.timeout(600)(AgainstSqlite.TestCase)
TestSqlite.settings = settings(_SETTINGS, max_examples=10)
