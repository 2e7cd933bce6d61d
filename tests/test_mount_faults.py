"""A mount whose disks are full, whose blocks or database are damaged, whose database is locked: what a program sees,
and what the log says to whoever looks for the reason. Nothing that was whole is lost.

Not here: the same at the level of the rooms (`test_chunkstore_*`, `test_meta_sqlite`), and kills (`test_durability`).
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import mounts
import pytest
from mounts import Mount, Volume
from needs import need_fuse, need_root

MIB = 1 << 20


@pytest.fixture
def small_disk(scratch: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    need_root()
    need_fuse()
    path = scratch / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def errno_of(call: Callable[[], object]) -> int:
    try:
        call()
    except OSError as error:
        return error.errno or 0
    return 0


def write_through(path: Path, data: bytes) -> None:
    with path.open("wb", buffering=0) as file:
        file.write(data)
        os.fsync(file.fileno())


def fill(path: Path) -> None:
    """Take all the space that is left."""
    with pytest.raises(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def drop_cached(path: Path) -> None:
    """Make the kernel forget the pages of a file."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes((byte ^ 0x10,)))


@pytest.mark.parametrize("what", ["objects", "whole volume"])
def test_a_full_disk(what: str, small_disk: Path, scratch: Path) -> None:
    """Of the bucket, or of bucket, cache and database together."""
    directory = scratch / "vol" if what == "objects" else small_disk / "vol"
    directory.mkdir()
    if what == "objects":
        (directory / "objects").symlink_to(small_disk)
    mount = Mount(Volume(directory).format(), scratch / "mnt", expected=["No space left", "disk is full"])
    mount.log = scratch / "log"
    try:
        _fill_and_go_on(mount, small_disk / "filler")
    finally:
        if mount in mounts.live:
            mount.kill()


def _fill_and_go_on(mount: Mount, filler: Path) -> None:
    mount.start()
    kept = os.urandom(MIB)
    write_through(mount.path / "kept", kept)
    fill(filler)
    assert errno_of(lambda: write_through(mount.path / "large", os.urandom(2 * MIB))) == errno.ENOSPC
    assert (mount.path / "kept").read_bytes() == kept
    assert "No space left" in mount.read_log() or "disk is full" in mount.read_log()
    filler.unlink()
    write_through(mount.path / "after", kept)
    mount.stop()
    mount.start()
    assert (mount.path / "kept").read_bytes() == (mount.path / "after").read_bytes() == kept
    mount.stop()


def test_a_cached_block_that_is_damaged_is_fetched_again(new_mount: Callable[..., Mount]) -> None:
    mount = new_mount()
    data = os.urandom(MIB)
    write_through(mount.path / "f", data)
    drop_cached(mount.path / "f")
    assert (mount.path / "f").read_bytes() == data
    mount.stop()  # so that no descriptor and no buffer stands before the file
    (cached,) = (path for path in mount.volume.cache.rglob("*") if path.is_file() and path.name.endswith(f"_{MIB}"))
    flip(cached, 100_000)
    mount.start()
    mount.expected.append("is fetched again")
    assert (mount.path / "f").read_bytes() == data
    assert f"cached block {cached} is fetched again" in mount.read_log()


def test_an_object_that_is_cut_off_is_an_error_and_hurts_no_other(new_mount: Callable[..., Mount]) -> None:
    mount = new_mount(options=("--cache-size", "0", "--io-retries", "1"))
    mount.expected.append("cannot be read|cache-size is 0")
    write_through(mount.path / "cut", os.urandom(MIB))
    write_through(mount.path / "whole", b"whole")
    drop_cached(mount.path / "cut")
    (block,) = (path for path in mount.volume.bucket.rglob(f"*_{MIB}") if path.is_file())
    os.truncate(block, 1000)
    assert errno_of((mount.path / "cut").read_bytes) == errno.EIO
    log = mount.read_log()  # by its checksum, if the file system keeps one with it
    assert f"{block} is damaged: " in log or f"{block} is too short: 1000 of " in log
    assert (mount.path / "whole").read_bytes() == b"whole"


def test_an_object_that_changed_is_an_error(new_mount: Callable[..., Mount]) -> None:
    mount = new_mount(options=("--io-retries", "1"))
    mount.expected.append("cannot be read")
    data = os.urandom(MIB)
    write_through(mount.path / "f", data)
    mount.stop()
    shutil.rmtree(mount.volume.cache)
    mount.start()
    (block,) = (path for path in mount.volume.bucket.rglob(f"*_{MIB}") if path.is_file())
    if not os.listxattr(block):
        pytest.skip("this file system keeps no extended attributes, and so no checksums of objects")
    flip(block, 100_000)
    assert errno_of((mount.path / "f").read_bytes) == errno.EIO
    assert f"object {block} is damaged" in mount.read_log()
    flip(block, 100_000)
    assert (mount.path / "f").read_bytes() == data


def test_a_damaged_database_is_an_error_with_a_reason(new_mount: Callable[..., Mount]) -> None:
    mount = new_mount()
    (mount.path / "d").mkdir()
    for number in range(3000):
        (mount.path / "d" / f"{number:0100}").touch()
    mount.stop()
    path = mount.volume.directory / "meta.db"
    with sqlite3.connect(path) as database:
        (root,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name='UQE_jfs_edge_edge'").fetchone()
        (size,) = database.execute("PRAGMA page_size").fetchone()
    database.close()
    with path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * size)
    mount.start()
    mount.expected.append("malformed")
    assert errno_of(lambda: os.listdir(mount.path / "d")) == errno.EIO
    assert f"{path}: database disk image is malformed; restore it from a backup" in mount.read_log()


def test_a_locked_database_is_waited_for(new_mount: Callable[..., Mount]) -> None:
    mount = new_mount()
    database = sqlite3.connect(mount.volume.directory / "meta.db", isolation_level=None, check_same_thread=False)
    database.execute("BEGIN IMMEDIATE")
    threading.Timer(1.0, lambda: database.execute("COMMIT")).start()
    write_through(mount.path / "f", b"patience")
    assert not database.in_transaction
    assert (mount.path / "f").read_bytes() == b"patience"
    database.close()
