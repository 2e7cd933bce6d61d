"""Mounts with `--passthrough`: the kernel reads copies without us, and nobody ever sees other bytes than the file's.

Not here: the store of copies (`test_chunkstore_assembled`).
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from clients import Client, new_engine
from conftest import end_all
from mounts import Mount, Volume, juicefs
from needs import need_fuse

from chunkstore.buckets.mem import MemBucket
from chunkstore.config import StoreConfig
from chunkstore.store import opened
from fuse import abi, nodes, reply
from fuse.config import SessionConfig
from fuse.handshake import Negotiated
from fuse.operations import Entry, Stat
from juicefs_py.mount import backing
from juicefs_py.vfs import VFS

MIB = 1 << 20
SIZE = 9 * MIB + 12345
HANDOVER = [r"will restart", r"data that was not flushed was lost", r"is lost", r"flush"]
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE = 1, 2, 16


def need_passthrough() -> None:
    need_fuse()
    major, minor = map(int, os.uname().release.split(".")[:2])
    if os.getuid() != 0 or (major, minor) < (6, 9):
        pytest.skip("passthrough needs root and Linux 6.9")


def new_mount(directory: Path, *options: str, name: str = "mnt", volume: Volume | None = None) -> Mount:
    need_passthrough()
    volume = volume or Volume(directory / "vol", format_options=("--trash-days", "0")).format()
    return Mount(volume, directory / name, ("--passthrough", *options)).start()


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    made = new_mount(tmp_path_factory.mktemp("passthrough"))
    yield made
    end_all([made])


@pytest.fixture
def file(mount: Mount, request: pytest.FixtureRequest) -> Path:
    """An assembled file."""
    path = mount.path / re.sub(r"\W", "_", request.node.name)
    path.write_bytes(content_of(path.name))
    assemble(path)
    return path


def content_of(name: str) -> bytes:
    return random.Random(name).randbytes(SIZE)


def assemble(*paths: Path) -> None:
    done = juicefs("warmup", "--assemble", *map(str, paths))
    assert "ERROR" not in done.stderr, done.stderr


def copies(mount: Mount) -> list[str]:
    return sorted(path.name for path in mount.volume.cache.glob("*/assembled/*"))


def bytes_through_us(mount: Path) -> int:
    (line,) = (line for line in (mount / ".stats").read_text().splitlines() if "fuse_read_size_bytes_sum" in line)
    return int(float(line.split()[1]))


def passes_us(path: Path, mount: Mount) -> bool:
    """Whether a new handle reads without us."""
    before = bytes_through_us(mount.path)
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.pread(fd, 1, os.fstat(fd).st_size // 2)
    os.close(fd)
    return bytes_through_us(mount.path) == before


def read_all(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size + 1, 0)


def until(condition: Callable[[], object], what: str, limit_s: float = 15) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} took too long"
        time.sleep(0.05)


def test_all_ways_to_read_give_the_same_without_us(mount: Mount, file: Path, tmp_path: Path) -> None:
    data, before = content_of(file.name), bytes_through_us(mount.path)
    with file.open("rb") as opened:
        fd = opened.fileno()
        assert opened.read() == data and os.fstat(fd).st_size == SIZE
        assert os.pread(fd, 5000, 4 * MIB - 77) == data[4 * MIB - 77 :][:5000] and os.pread(fd, 1, SIZE) == b""
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapped:
            assert mapped[:] == data
        with (tmp_path / "sent").open("wb") as target:
            sent = 0
            while sent < SIZE:
                sent += os.sendfile(target.fileno(), fd, sent, SIZE - sent)
        assert (tmp_path / "sent").read_bytes() == data
        assert os.lseek(fd, -1, os.SEEK_END) == SIZE - 1
    assert bytes_through_us(mount.path) == before
    assert subprocess.run(["cmp", file, tmp_path / "sent"]).returncode == 0
    assert bytes_through_us(mount.path) == before


def test_a_full_read_makes_the_next_open_pass_us(mount: Mount) -> None:
    path = mount.path / "read-twice"
    path.write_bytes(content_of("read-twice"))
    juicefs("warmup", str(path))
    assert not passes_us(path, mount)
    with path.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert opened.read() == content_of("read-twice")
    until(lambda: passes_us(path, mount), "assembling")
    assert path.read_bytes() == content_of("read-twice")


def test_small_files_are_read_through_us(mount: Mount) -> None:
    path = mount.path / "small"
    path.write_bytes(bytes(MIB - 1))
    done = juicefs("warmup", "--assemble", str(path))
    assert "not assembled: it is small" in done.stderr
    path.read_bytes()
    assert not passes_us(path, mount)


def test_readers_see_what_is_written_beside_them(mount: Mount, file: Path) -> None:
    data = bytearray(content_of(file.name))
    reader = os.open(file, os.O_RDONLY)
    mapped = mmap.mmap(reader, 0, prot=mmap.PROT_READ)
    writer = os.open(file, os.O_RDWR)
    assert os.fstat(writer)[:4] == os.fstat(reader)[:4], "one file for everybody"
    for offset in (0, 4 * MIB - 3, SIZE - 5):
        os.pwrite(writer, b"changed", offset)
        data[offset : offset + 7] = b"changed"
        assert os.pread(reader, 7, offset) == b"changed" == os.pread(writer, 7, offset)
        assert mapped[offset : offset + 5] == b"chang"
    assert os.fstat(reader).st_size == SIZE + 2
    assert read_all(reader) == bytes(data) == read_all(writer) == file.read_bytes()
    with mmap.mmap(writer, 0) as written:
        written[5000:5004] = b"mmap"
        written.flush()
    assert os.pread(reader, 4, 5000) == b"mmap" == mapped[5000:5004]
    for fd in (reader, writer):
        os.close(fd)
    data[5000:5004] = b"mmap"
    assert file.read_bytes() == bytes(data)
    mapped.close()


def test_what_is_mapped_follows_after_the_last_close(mount: Mount, file: Path) -> None:
    with file.open("rb") as reader:
        mapped = mmap.mmap(reader.fileno(), 0, prot=mmap.PROT_READ)
    time.sleep(0.5)
    with file.open("r+b") as writer:
        writer.write(b"later")
    assert mapped[:5] == b"later"
    mine = str(file.stat().st_ino)
    assert any(name.startswith(f"{mine}.altered.") for name in copies(mount))
    mapped.close()
    until(lambda: not any(name.startswith(f"{mine}.") for name in copies(mount)), "letting the copy go")


@pytest.mark.parametrize("length", [0, 12345, 5 * MIB, SIZE + 3 * MIB])
@pytest.mark.parametrize("by_path", [False, True])
def test_truncation(mount: Mount, file: Path, length: int, by_path: bool) -> None:
    expected = content_of(file.name)[:length].ljust(length, b"\0")
    with file.open("rb") as reader:
        if by_path:
            os.truncate(file, length)
        else:
            with file.open("r+b") as writer:
                writer.truncate(length)
        assert os.fstat(reader.fileno()).st_size == length and read_all(reader.fileno()) == expected
    assert file.read_bytes() == expected


def test_overwritten_by_o_trunc(mount: Mount, file: Path) -> None:
    with file.open("rb") as reader:
        file.write_bytes(b"new")
        assert read_all(reader.fileno()) == b"new" == file.read_bytes()


def test_append_and_create_of_what_is_there(mount: Mount, file: Path) -> None:
    with file.open("rb") as reader:
        fd = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(fd, b"tail")
        os.close(fd)
        assert read_all(reader.fileno()) == content_of(file.name) + b"tail"


def test_ranges_by_fallocate_and_copy(mount: Mount, file: Path) -> None:
    data = bytearray(content_of(file.name))
    other = content_of("other")
    (mount.path / "source").write_bytes(other)
    with file.open("rb") as reader, file.open("r+b") as writer, (mount.path / "source").open("rb") as source:
        fallocate(writer.fileno(), FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, 3 * MIB - 5, 2 * MIB)
        data[3 * MIB - 5 : 5 * MIB - 5] = bytes(2 * MIB)
        assert read_all(reader.fileno()) == bytes(data)
        fallocate(writer.fileno(), FALLOC_ZERO_RANGE, SIZE - 100, 300)
        data[SIZE - 100 :] = bytes(300)
        assert read_all(reader.fileno()) == bytes(data)
        copied = os.copy_file_range(source.fileno(), writer.fileno(), MIB, 7, MIB + 1)
        data[MIB + 1 : MIB + 8] = other[7:14] if copied == 7 else data[MIB + 1 : MIB + 8]
        copied = os.copy_file_range(source.fileno(), writer.fileno(), 6 * MIB, 100, MIB)
        data[MIB : MIB + copied] = other[100 : 100 + copied]
        now = file.read_bytes()
        assert read_all(reader.fileno()) == now and now[MIB : MIB + copied] == other[100 : 100 + copied]


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)):
        raise OSError(ctypes.get_errno(), "fallocate")


def test_unlinked_and_renamed_over_while_open(mount: Mount, file: Path) -> None:
    data = content_of(file.name)
    with file.open("rb") as reader:
        other = file.with_suffix(".new")
        other.write_bytes(b"another file")
        os.rename(other, file)
        assert file.read_bytes() == b"another file" and read_all(reader.fileno()) == data
        os.unlink(file)
        assert read_all(reader.fileno()) == data and os.fstat(reader.fileno()).st_nlink == 0


def test_a_writer_that_stays_open_keeps_readers_with_us(mount: Mount, file: Path) -> None:
    with file.open("r+b") as writer:
        assert not passes_us(file, mount)
        writer.write(b"once")
        writer.flush()
        assert file.read_bytes()[:4] == b"once"


def test_a_second_name_leads_to_the_same_bytes(mount: Mount, file: Path) -> None:
    link = file.with_suffix(".link")
    os.link(file, link)
    assemble(file)
    with file.open("rb") as reader, link.open("rb") as linked:
        with link.open("r+b") as writer:
            writer.write(b"by the other name")
        for fd in (reader.fileno(), linked.fileno()):
            assert os.pread(fd, 17, 0) == b"by the other name"
        assert link.read_bytes() == file.read_bytes()


def test_what_no_path_leads_to_again_is_refused_not_wrong(mount: Mount, file: Path) -> None:
    """The kernel cannot ask for another node id of a descriptor that is opened again."""
    with file.open("rb") as reader:
        with pytest.raises(OSError) as refused:
            os.open(f"/proc/self/fd/{reader.fileno()}", os.O_RDWR)
        assert refused.value.errno == errno.ESTALE
        again = os.open(f"/proc/self/fd/{reader.fileno()}", os.O_RDONLY)
        os.close(again)


def test_many_opens_and_changes_at_once(mount: Mount, file: Path) -> None:
    """Every byte of a window is the same at any time; no open fails, whatever the others do."""
    stop, failures = threading.Event(), list[str]()
    marks = [0]

    def write() -> None:
        while not stop.is_set():
            with file.open("r+b", buffering=0) as writer:
                marks[0] += 1
                writer.write(bytes([marks[0] % 256]) * 4096)
            time.sleep(0.01)
            if marks[0] % 7 == 0:
                juicefs("warmup", "--assemble", str(file), check=False)

    def read() -> None:
        while not stop.is_set():
            try:
                low = marks[0]
                with file.open("rb", buffering=0) as reader:
                    first = reader.read(4096)
                    high = marks[0]
                    seen = first[0]
                    if not any(seen == mark % 256 for mark in range(max(low - 1, 0), high + 1)) and low > 1:
                        failures.append(f"{seen} where {low} to {high} was written")
            except OSError as problem:
                failures.append(repr(problem))

    threads = [threading.Thread(target=run) for run in (write, read, read, read)]
    for thread in threads:
        thread.start()
    time.sleep(6)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures, failures[:5]
    assert marks[0] > 20


def test_changes_by_another_client(mount: Mount, file: Path, tmp_path: Path) -> None:
    data = bytearray(content_of(file.name))
    other = new_mount(tmp_path, "--cache-dir", str(tmp_path / "cache"), name="other", volume=mount.volume)
    try:
        with file.open("rb") as reader:
            assert passes_us(file, mount)
            with (other.path / file.name).open("r+b") as writer:
                writer.write(b"from elsewhere")
            data[:14] = b"from elsewhere"
            with file.open("rb") as newer:
                assert newer.read() == bytes(data)
                with mmap.mmap(newer.fileno(), 0, prot=mmap.PROT_READ) as mapped:
                    assert mapped[:] == bytes(data)
            until(lambda: file.stat() and read_all(reader.fileno()) == bytes(data), "bringing the change in")
            assemble(file)
        until(lambda: passes_us(file, mount), "the node id becoming ripe")
        assert file.read_bytes() == bytes(data)
        with file.open("rb") as reader:
            os.truncate(other.path / file.name, 100)
            assert file.read_bytes() == bytes(data[:100])
            until(lambda: os.stat(file) and read_all(reader.fileno()) == bytes(data[:100]), "the truncation")
    finally:
        end_all([other])


def test_a_change_that_hides_its_time_is_seen(mount: Mount, file: Path) -> None:
    before = file.stat()
    with file.open("r+b") as writer:
        writer.write(b"hidden")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns and file.stat().st_size == SIZE
    assert file.read_bytes()[:6] == b"hidden"


def test_a_damaged_block_is_not_assembled(tmp_path: Path) -> None:
    made = new_mount(tmp_path)
    made.expected.append("is fetched again")
    try:
        path = made.path / "file"
        path.write_bytes(content_of("file"))
        juicefs("warmup", str(path))
        until(lambda: len(list(made.volume.cache.glob("*/raw/**/*_1_*"))) == 1, "caching")
        (block,) = made.volume.cache.glob("*/raw/**/*_1_*")
        with block.open("r+b") as damaged:
            damaged.seek(2 * MIB)
            damaged.write(b"damage")
        fd = os.open(path, os.O_RDONLY)  # as much as all of it is read, but not the damage
        for _ in range(12):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.pread(fd, MIB, 8 * MIB)
        os.close(fd)
        until(lambda: "is fetched again" in made.read_log(), "assembling")
        time.sleep(0.5)
        assert copies(made) == [] and path.read_bytes() == content_of("file")
        assemble(path)
        assert len(copies(made)) == 1 and path.read_bytes() == content_of("file")
    finally:
        end_all([made])


def test_eviction_gives_the_space_back_and_open_handles_go_on(tmp_path: Path) -> None:
    made = new_mount(tmp_path, "--cache-size", "64M", "--free-space-ratio", "0.001")
    try:
        first, second, third = (made.path / name for name in ("first", "second", "third"))
        for path in (first, second, third):
            path.write_bytes(random.Random(path.name).randbytes(24 * MIB))
        assemble(first)
        with first.open("rb") as reader:
            assert passes_us(first, made)
            assemble(second)
            assemble(third)
            assert read_all(reader.fileno()) == random.Random("first").randbytes(24 * MIB)
            names = copies(made)
            assert len(names) < 3 and any(name.startswith(f"{first.stat().st_ino}.") for name in names)
        used = sum(path.stat().st_size for path in made.volume.cache.rglob("*") if path.is_file())
        assert used < 70 * MIB
        assert second.read_bytes() == random.Random("second").randbytes(24 * MIB)
        assert third.read_bytes() == random.Random("third").randbytes(24 * MIB)
    finally:
        end_all([made])


def test_copies_survive_an_unmount(tmp_path: Path) -> None:
    made = new_mount(tmp_path)
    path = made.path / "file"
    path.write_bytes(content_of("file"))
    assemble(path)
    with path.open("rb") as reader:
        reader.read(1)
    made.stop()
    again = new_mount(tmp_path, volume=made.volume)
    try:
        until(lambda: passes_us(path, again), "finding the copy")
        assert path.read_bytes() == content_of("file")
    finally:
        end_all([again])


@pytest.mark.parametrize("options", [("--storage", "file", "--compress", "lz4"), ("encrypted",)])
def test_volumes_that_code_their_objects(tmp_path: Path, options: tuple[str, ...]) -> None:
    need_passthrough()
    if options == ("encrypted",):
        key = tmp_path / "key.pem"
        subprocess.run(["openssl", "genrsa", "-traditional", "-out", key, "2048"], check=True, capture_output=True)
        options = ("--encrypt-rsa-key", str(key))
    volume = Volume(tmp_path / "vol", format_options=("--trash-days", "0", *options)).format()
    made = new_mount(tmp_path, "--writeback", volume=volume)
    try:
        path = made.path / "file"
        path.write_bytes(content_of("file"))
        assemble(path)
        assert passes_us(path, made) and path.read_bytes() == content_of("file")
    finally:
        end_all([made])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_another_process_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    made = new_mount(tmp_path)
    made.expected += HANDOVER
    try:
        path = made.path / "file"
        path.write_bytes(content_of("file"))
        assemble(path)
        data = bytearray(content_of("file"))
        with path.open("rb") as reader:
            assert passes_us(path, made)
            replace(made, number)
            assert read_all(reader.fileno()) == bytes(data)
            assert passes_us(path, made), "as the handle that is open"
            with path.open("r+b") as writer:
                writer.write(b"by the successor")
                writer.flush()
                data[:16] = b"by the successor"
                assert read_all(reader.fileno()) == bytes(data) == path.read_bytes()
                os.fsync(writer.fileno())
                replace(made, number)
                assert read_all(reader.fileno()) == bytes(data) == path.read_bytes()
                os.pwrite(writer.fileno(), b"again", 100)
                data[100:105] = b"again"
                assert read_all(reader.fileno()) == bytes(data) == path.read_bytes()
        assert path.read_bytes() == bytes(data)
        until(lambda: not any("." in name.partition(".")[2] for name in copies(made)), "letting the copy go")
    finally:
        end_all([made])


def test_data_that_was_lost_leaves_the_copy_too(tmp_path: Path) -> None:
    made = new_mount(tmp_path)
    made.expected += HANDOVER
    try:
        path = made.path / "file"
        path.write_bytes(content_of("file"))
        assemble(path)
        with path.open("rb") as reader, path.open("r+b", buffering=0) as writer:
            writer.write(b"never flushed")
            assert os.pread(reader.fileno(), 13, 0) == b"never flushed"
            replace(made, signal.SIGKILL)
            until(lambda: read_all(reader.fileno()) == content_of("file"), "bringing the copy back")
            with pytest.raises(OSError):
                os.fsync(writer.fileno())
    finally:
        end_all([made])


def test_what_is_mapped_is_followed_by_a_successor(tmp_path: Path) -> None:
    made = new_mount(tmp_path)
    made.expected += HANDOVER
    try:
        path = made.path / "file"
        path.write_bytes(content_of("file"))
        assemble(path)
        with path.open("rb") as reader:
            mapped = mmap.mmap(reader.fileno(), 0, prot=mmap.PROT_READ)
        replace(made, signal.SIGKILL)
        with path.open("r+b") as writer:
            writer.write(b"later")
        assert mapped[:5] == b"later"
        mapped.close()
        until(lambda: copies(made) == [], "letting the copy go")
    finally:
        end_all([made])


def replace(made: Mount, number: signal.Signals) -> None:
    pid = json.loads((made.path / ".config").read_text())["Pid"]
    os.kill(pid, number)
    until(lambda: json.loads((made.path / ".config").read_text())["Pid"] != pid, "the successor")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-o", "writeback_cache"), "the kernel does not combine it with -o writeback_cache"),
        (("--cache-size", "0"), "there is no cache directory on a disk"),
    ],
)
def test_where_it_cannot_be_one_line_says_so(tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    made = new_mount(tmp_path, *options)
    made.expected += ["--passthrough is not used", "cache-size is 0"]
    try:
        assert made.read_log().count(f"--passthrough is not used: {words}") == 1
        path = made.path / "file"
        path.write_bytes(content_of("file"))
        assert path.read_bytes() == content_of("file")
        done = juicefs("warmup", "--assemble", str(path), check=False)
        assert done.returncode and "mount with --passthrough" in done.stderr
        assert not passes_us(path, made) or options[0] == "-o"
    finally:
        end_all([made])


def test_a_stacked_cache_directory_is_told(tmp_path: Path) -> None:
    need_passthrough()
    lower, upper, work, merged = (tmp_path / name for name in ("lower", "upper", "work", "merged"))
    for path in (lower, upper, work, merged):
        path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "overlay", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", merged],
        capture_output=True, text=True,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"no overlay here: {mounted.stderr}")
    made = None
    try:
        made = new_mount(tmp_path, "--cache-dir", str(merged))
        made.expected.append("--passthrough is not used")
        assert "lies on a stacked file system" in made.read_log()
        (made.path / "file").write_bytes(content_of("file"))
        assert (made.path / "file").read_bytes() == content_of("file")
    finally:
        if made is not None:
            end_all([made])
        subprocess.run(["umount", merged], check=True)


@pytest.mark.parametrize(
    ("refusal", "heir", "words"),
    [
        (None, False, "the kernel does not offer it"),
        (None, True, "this mount was made without it; unmount it first"),
        (errno.EPERM, False, "this process lacks CAP_SYS_ADMIN"),
        (errno.ENODEV, False, "cannot be read so: No such device"),
    ],
)
def test_a_kernel_that_does_not_offer_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: int | None, heir: bool, words: str
) -> None:
    class Device:
        def open_backing(self, fd: int) -> int:
            raise OSError(refusal or 0, "no")

        def close_backing(self, number: int) -> None:
            raise AssertionError("there is none")

    flags = abi.FUSE_PASSTHROUGH if refusal else 0
    session: Any = SimpleNamespace(
        negotiated=Negotiated(b"", 45, flags, 0, 0), config=SessionConfig(), device=Device(), notifier=None
    )
    said: list[str] = []
    monkeypatch.setattr(backing.log.LOG, "warning", lambda text, *values: said.append(text % values))
    with opened(MemBucket(), StoreConfig(cache_dirs=(str(tmp_path),))) as store:
        vfs: Any = VFS(Client(new_engine("sqlite", tmp_path)), store)
        try:
            backing.enable(vfs, session, False, 7)
            assert said == []
            vfs.passthrough = None
            backing.enable(vfs, session, True, 7, heir)
            assert len(said) == 1 and said[0].startswith("--passthrough is not used: ") and words in said[0]
            assert vfs.passthrough is None or vfs.passthrough.assembler is None
            assert (vfs.passthrough is not None) == bool(refusal), "a predecessor's handles may be in that mode"
        finally:
            vfs.close()


def test_an_entry_names_the_alias_as_node_and_the_inode_as_number() -> None:
    stat = Stat(5, *range(14))
    node = nodes.alias(5, 3)
    plain, aliased = (abi.fuse_entry_out.unpack(reply.entry(Entry(stat, 1.0, 1.0, node=node))) for node in (0, node))
    assert (plain[0], aliased[0]) == (5, node) and plain[1:] == aliased[1:] and plain[6] == 5


def test_an_alias_is_another_name_of_an_inode() -> None:
    for ino in (1, 2, 12345678, (1 << 40) - 1):
        assert nodes.can_alias(ino) and nodes.inode_of(ino) == ino
        seen = {nodes.alias(ino, number) for number in (0, 1, nodes.NUMBERS - 1)}
        assert len(seen) == 3 and all(nodes.inode_of(node) == ino and node < 1 << 64 for node in seen)
    special = 0x7FFFFFFF00000001
    assert nodes.inode_of(special) == special and not nodes.can_alias(special)
