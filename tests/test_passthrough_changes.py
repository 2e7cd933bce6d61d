"""Copies that the kernel reads past us, and what happens to the file meanwhile: always the file's bytes in the end.

The kernel is played by reading a copy through its descriptor; what a real one makes of it is in `test_passthrough`.
"""

from __future__ import annotations

import mmap
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from vfs_harness import CALLER, Client, File, World, changes, world

from chunkstore.cache import assembled
from juicefs_py import passthrough as module
from juicefs_py.assembling import Assembler
from juicefs_py.inode_modes import Live
from juicefs_py.ledger import Ledger, OpenFile
from juicefs_py.passthrough import Passthrough
from juicefs_py.vfs_recovery import recover

MIB = 1 << 20
SIZE = 12 * MIB
OLD = b"a"


class Kernel:
    """Takes every backing file."""

    def __init__(self) -> None:
        self.given = 0

    def open_backing(self, fd: int) -> int:
        self.given += 1
        return self.given

    def close_backing(self, number: int) -> None:
        pass


class Reading:
    """A mount with passthrough, a file with a copy, a reader of that, and another client."""

    def __init__(self, made: World, cache: Path) -> None:
        self.made, self.cache = made, cache
        self.mine, self.other = self.client("7"), made.client()
        file = self.mine.create(b"f")
        file.write(0, OLD * SIZE)
        file.close()
        self.ino = file.ino

    def client(self, tag: str, **more: Any) -> Client:
        client = self.made.client(cache_dirs=(str(self.cache),), cache_size=1 << 30, **more)
        vfs = client.vfs
        vfs.passthrough = passthrough = Passthrough(Kernel(), vfs.store.assembled, tag, lambda node: None)
        passthrough.assembler = assembler = Assembler(vfs)
        passthrough.rebuild = assembler.rebuild
        passthrough.wake = vfs.housekeeper.wake
        vfs.housekeeper.add(passthrough.round)
        passthrough.resume(vfs.handles.files())
        return client

    def open(self) -> File:
        """A handle that reads without us."""
        assembler = of(self.mine).assembler
        assert assembler is not None
        assert assembler.assemble(self.ino, fetch=True) == ""
        file = self.mine.open(self.ino, os.O_RDONLY)
        handle = self.mine.vfs.handles.file(file.fh, self.ino)
        assert handle is not None and handle.backing
        return file

    def live(self, client: Client | None = None) -> Live:
        (live,) = (live for live in of(client or self.mine)._modes[self.ino].lives.values() if live.copy)
        return live

    def change(self, offset: int, data: bytes) -> None:
        """By the other client."""
        file = self.other.open(self.ino, os.O_WRONLY)
        file.write(offset, data)
        file.close()


def of(client: Client) -> Passthrough:
    assert client.vfs.passthrough is not None
    return client.vfs.passthrough


def seen(live: Live, offset: int, size: int) -> bytes:
    """What the kernel has of the copy."""
    assert live.copy is not None
    return os.pread(live.copy.fd, size, offset)


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.fixture
def reading(tmp_path: Path) -> Iterator[Reading]:
    with world("mem") as made:
        yield Reading(made, tmp_path / "cache")


def test_a_disk_that_runs_full_takes_a_part_first(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    """No error tells of it, and space may be there again for the rest."""
    write, calls = os.pwrite, [0]

    def short(fd: int, data: memoryview, offset: int) -> int:
        calls[0] += 1
        return write(fd, data[:1000] if calls[0] == 2 else data, offset)

    monkeypatch.setattr(os, "pwrite", short)
    reading.open()
    assert calls[0] == SIZE // (4 * MIB) + 1
    assert seen(reading.live(), 0, SIZE) == OLD * SIZE


def test_drafts_of_two_containers_are_two_files(reading: Reading) -> None:
    """They share a cache directory, and may have the same process number."""
    second = reading.client("8")
    places = [client.vfs.store.assembled for client in (reading.mine, second)]
    drafts = [place.of("1") for place in places if place is not None]
    assert None not in drafts
    with drafts[0].draft("1", "v", 10) as one, drafts[1].draft("1", "v", 10) as two:  # type: ignore[union-attr]
        assert one is not None and two is not None
        assembled.write_all(one.fd, b"0123456789", 0)
        assert os.fstat(one.fd).st_ino != os.fstat(two.fd).st_ino
        one.right = True
    copy = drafts[0].take("1", "v", "7-1")  # type: ignore[union-attr]
    assert copy is not None and os.pread(copy.fd, 20, 0) == b"0123456789"
    drafts[0].give_back(copy)  # type: ignore[union-attr]


def test_a_second_change_while_the_first_is_brought_in(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    file, live = reading.open(), reading.live()
    content, begun, go = reading.mine.vfs.content, threading.Event(), threading.Event()

    def slow(ino: int, offset: int, size: int) -> Any:
        if offset == 8 * MIB and not begun.is_set():
            begun.set()
            assert go.wait(20)
        return content(ino, offset, size)

    monkeypatch.setattr(reading.mine.vfs, "content", slow)
    reading.change(10 * MIB, b"FIRST")
    file.stat()
    assert begun.wait(20)
    reading.change(MIB, b"SECOND")
    file.stat()
    go.set()
    until(lambda: seen(live, MIB, 6) == b"SECOND" and seen(live, 10 * MIB, 5) == b"FIRST", "both are seen")
    until(lambda: not live.outdated, "it is up to date")


@pytest.mark.parametrize("how", ["truncate", "fallocate", "copy"])
def test_a_change_of_ours_meets_anothers_first(reading: Reading, how: str) -> None:
    """Nobody has looked at the attributes in between."""
    file, live = reading.open(), reading.live()
    vfs, ino = reading.mine.vfs, reading.ino
    if how != "truncate":  # which comes with the node id that the writer is then known by
        writer = vfs.create(CALLER, 1, b"f", 0o644, 0, os.O_RDWR)[1]
    file.stat()
    reading.change(5 * MIB, b"FOREIGN")
    if how == "truncate":
        vfs.setattr(CALLER, ino, changes(size=SIZE + 1))
    elif how == "fallocate":
        vfs.fallocate(CALLER, ino, writer.fh, SIZE, 1, 0)
    else:
        vfs.copy_file_range(CALLER, ino, writer.fh, 0, ino, writer.fh, SIZE, 10, 0)
    until(lambda: seen(live, 5 * MIB, 7) == b"FOREIGN", "the other change is seen")


def test_a_change_that_the_predecessor_did_not_notice(reading: Reading) -> None:
    """Such reads make no requests: it may be long ago that anybody asked for attributes."""
    file = reading.open()
    handle = reading.mine.vfs.handles.file(file.fh, reading.ino)
    assert handle is not None
    reading.change(5 * MIB, b"FOREIGN")
    client = reading.made.client(
        cache_dirs=(str(reading.cache),), cache_size=1 << 30, sid=reading.mine.vfs.meta.sid
    )  # fmt: skip
    recover(client.vfs, [OpenFile(handle.fh, handle.ino, handle.flags, handle.node, handle.backing)], Ledger())
    passthrough = Passthrough(Kernel(), client.vfs.store.assembled, "7", lambda node: None)
    client.vfs.passthrough = passthrough
    passthrough.assembler = assembler = Assembler(client.vfs)  # the store's end ends it
    passthrough.rebuild = assembler.rebuild
    passthrough.resume(client.vfs.handles.files())
    live = reading.live(client)
    File(client, reading.ino, file.fh).stat()
    until(lambda: seen(live, 5 * MIB, 7) == b"FOREIGN", "the change is seen")
    reading.mine.vfs.meta.vol.sid = 0  # its session ends with its successor's


def test_what_is_only_mapped_follows_at_the_next_open(reading: Reading) -> None:
    file, live = reading.open(), reading.live()
    assert live.copy is not None
    fd = os.open(f"/proc/self/fd/{live.copy.fd}", os.O_RDONLY)
    mapping = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
    os.close(fd)
    file.close()
    reading.change(5 * MIB, b"FOREIGN")
    reading.mine.open(reading.ino, os.O_RDONLY).close()
    until(lambda: mapping[5 * MIB : 5 * MIB + 7] == b"FOREIGN", "the change is seen")
    mapping.close()


def test_a_cache_directory_that_is_emptied(reading: Reading) -> None:
    """The copy has no name any more, and readers all the same."""
    reading.open()
    live = reading.live()
    assert live.place is not None
    shutil.rmtree(live.place.path)
    vfs = reading.mine.vfs
    writer = vfs.create(CALLER, 1, b"f", 0o644, 0, os.O_RDWR)[1]
    vfs.write(CALLER, reading.ino, writer.fh, 5 * MIB, memoryview(b"WRITTEN"), 0)
    assert seen(live, 5 * MIB, 7) == b"WRITTEN"


def test_a_rebuild_that_fails_is_tried_again(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AGAIN_S", 0.1)
    file, live = reading.open(), reading.live()
    content, calls = reading.mine.vfs.content, [0]

    def away(ino: int, offset: int, size: int) -> Any:
        calls[0] += 1
        if calls[0] < 3:
            raise OSError(5, "the bucket is away")
        return content(ino, offset, size)

    monkeypatch.setattr(reading.mine.vfs, "content", away)
    reading.change(5 * MIB, b"FOREIGN")
    file.stat()
    until(lambda: seen(live, 5 * MIB, 7) == b"FOREIGN", "the change is seen")


def test_a_range_that_cannot_be_brought_in_is_made_good_later(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change is made, and cannot be read back: its caller hears of it, and readers see it in the end."""
    reading.open()
    live, vfs = reading.live(), reading.mine.vfs
    writer = vfs.create(CALLER, 1, b"f", 0o644, 0, os.O_RDWR)[1]
    content, calls = vfs.content, [0]

    def away(ino: int, offset: int, size: int) -> Any:
        calls[0] += 1
        if calls[0] == 1:
            raise OSError(5, "the bucket is away")
        return content(ino, offset, size)

    monkeypatch.setattr(vfs, "content", away)
    with pytest.raises(OSError, match="away"):
        vfs.fallocate(CALLER, reading.ino, writer.fh, MIB, MIB, 3)  # a hole
    until(lambda: seen(live, MIB, 5) == bytes(5), "the hole is seen")
