"""The in-memory file system on a real /dev/fuse, used through real system calls.

Not here: bytes (test_fuse_wire), JuiceFS. The callers are threads of this process: only calls that release the GIL.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import logging
import mmap
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from needs import need_fuse

from bench.memfs import MemFS
from fuse import abi
from fuse.config import SessionConfig
from fuse.mount import MountError, MountOptions, abort, mount, set_read_ahead, unmount
from fuse.mountinfo import find_mount, is_mounted
from fuse.operations import Caller
from fuse.session import Session


@pytest.fixture(autouse=True)
def _needs() -> None:
    need_fuse()


# With vfork the interpreter stands still until the child runs its program. If before that the child closes a file of a
# mount that this process serves, both wait for ever.
subprocess._USE_VFORK = False  # type: ignore[attr-defined]

SEEK_DATA, SEEK_HOLE = 3, 4
CALLER = Caller(0, 0, os.getpid())


class Mounted:
    """A served mount in a thread, and the way to end it."""

    def __init__(self, path: Path, fs: MemFS, config: SessionConfig) -> None:
        path.mkdir(exist_ok=True)
        self.path, self.fs = path, fs
        options = MountOptions("memfs:test", "memfs", ["noatime"], allow_other=True, max_read=config.max_write)
        self.fd = mount(str(path), options)
        self.serve(config)

    def serve(self, config: SessionConfig, predecessor: Session | None = None) -> None:
        self.session = Session(self.fs, self.fd, config, negotiated=predecessor and predecessor.negotiated)
        self.thread = threading.Thread(target=self.session.run, daemon=True)
        self.thread.start()
        assert self.session.ready.wait(10)

    def end(self) -> None:
        """Unmount and wait for the session; once is enough."""
        if self.fd < 0:
            return
        if is_mounted(str(self.path)):
            unmount(str(self.path), lazy=True)
        self.thread.join(10)
        assert not self.thread.is_alive()
        os.close(self.fd)
        self.fd = -1


Factory = Callable[[MemFS, SessionConfig], Mounted]


@pytest.fixture(params=[{}, {"writeback_cache": True, "max_write": 1 << 20}], ids=["plain", "writeback"])
def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mounted]:
    mounted = Mounted(tmp_path / "m", MemFS(), SessionConfig(**request.param))
    yield mounted
    mounted.end()


@pytest.fixture
def uncached(tmp_path: Path) -> Iterator[Mounted]:
    mounted = Mounted(tmp_path / "m", MemFS(valid_s=0), SessionConfig())
    yield mounted
    mounted.end()


@pytest.fixture
def mount_with(tmp_path: Path) -> Iterator[Factory]:
    """For tests that choose: `mount_with(fs, config)`."""
    made: list[Mounted] = []

    def make(fs: MemFS, config: SessionConfig) -> Mounted:
        made.append(Mounted(tmp_path / f"m{len(made)}", fs, config))
        return made[-1]

    yield make
    for mounted in made:
        mounted.end()


def test_names_and_attributes(mounted: Mounted) -> None:
    root = mounted.path
    (root / "d").mkdir(0o750)
    (root / "d/f").write_bytes(b"hello")
    os.symlink("d/f", root / "s")
    assert (root / "s").read_bytes() == b"hello" and os.readlink(root / "s") == "d/f"
    os.link(root / "d/f", root / "l")
    assert (root / "l").stat().st_nlink == 2
    os.mkfifo(root / "p")
    assert stat.S_ISFIFO((root / "p").stat().st_mode)
    os.chmod(root / "l", 0o640)
    os.utime(root / "l", ns=(1_000_000_001, -5_000_000_002))
    found = (root / "d/f").stat()
    assert (found.st_mode, found.st_atime_ns, found.st_mtime_ns) == (0o100640, 1_000_000_001, -5_000_000_002)
    os.truncate(root / "l", 3)
    assert (root / "d/f").read_bytes() == b"hel"
    (root / "s").unlink()
    (root / "l").rename(root / "d/l")
    assert sorted(os.listdir(root / "d")) == ["f", "l"]
    with pytest.raises(OSError, match="not empty"):
        (root / "d").rmdir()
    with pytest.raises(FileNotFoundError):
        (root / "nothing").stat()
    assert (root / "d/../d/f").exists()
    with open(root / "d/f", "w") as truncating:
        truncating.write("x")
    assert (root / "d/f").read_text() == "x"


def test_renameat2(mounted: Mounted) -> None:
    libc = ctypes.CDLL(None, use_errno=True)

    def renameat2(old: Path, new: Path, flags: int) -> int:
        done = libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags)
        return ctypes.get_errno() if done else 0

    a, b = mounted.path / "a", mounted.path / "b"
    a.write_bytes(b"a")
    b.write_bytes(b"b")
    assert renameat2(a, b, 1) == errno.EEXIST
    assert renameat2(a, b, 2) == 0
    assert (a.read_bytes(), b.read_bytes()) == (b"b", b"a")
    assert renameat2(a, mounted.path / "c", 1) == 0


def map_in_child(path: Path) -> None:
    """Write through a shared mapping. Not in this process: a page fault keeps the GIL that the server needs."""
    program = (
        f"import mmap\nwith open({str(path)!r}, 'r+b') as file, mmap.mmap(file.fileno(), 0) as area:\n"
        "    assert area[:8] == file.read(8)\n    area[0:4] = b'mmap'\n    area.flush()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)


def test_contents(mounted: Mounted) -> None:
    path = mounted.path / "f"
    data = os.urandom(3 << 20)
    path.write_bytes(data)
    assert path.read_bytes() == data
    with open(path, "r+b", buffering=0) as file:
        map_in_child(path)
        os.fsync(file.fileno())
        os.fdatasync(file.fileno())
        assert os.pread(file.fileno(), 8, 0) == b"mmap" + data[4:8]
        assert os.pread(file.fileno(), 10, 3 << 20) == b""
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    with mmap.mmap(-1, 8192) as aligned:
        assert os.preadv(fd, [aligned], 4096) == 8192
        assert aligned[:] == data[4096:12288]
    os.close(fd)


def test_holes_and_copies(mounted: Mounted) -> None:
    with open(mounted.path / "f", "w+b", buffering=0) as file, open(mounted.path / "g", "w+b", buffering=0) as copy:
        fd = file.fileno()
        os.posix_fallocate(fd, 0, 4096)
        assert os.fstat(fd).st_size == 4096
        os.pwrite(fd, b"x" * 4096, 1 << 16)
        os.fsync(fd)
        assert os.lseek(fd, 0, SEEK_DATA) == 1 << 16
        assert os.lseek(fd, 1 << 16, SEEK_HOLE) == (1 << 16) + 4096
        with pytest.raises(OSError, match="No such device or address"):
            os.lseek(fd, 1 << 20, SEEK_DATA)
        assert os.copy_file_range(fd, copy.fileno(), 4096, 1 << 16, 10) == 4096
        assert os.pread(copy.fileno(), 5000, 0) == bytes(10) + b"x" * 4096
        assert ctypes.CDLL(None).fallocate(fd, 3, ctypes.c_long(1 << 16), ctypes.c_long(100)) == 0
        assert os.pread(fd, 200, 1 << 16) == bytes(100) + b"x" * 100


def test_tmpfile_and_unlinked_file(mounted: Mounted) -> None:
    fd = os.open(mounted.path, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(fd, b"data")
    here = os.open("/", os.O_PATH)  # with a directory descriptor Python really follows the link
    os.link(f"/proc/self/fd/{fd}", mounted.path / "named", src_dir_fd=here, follow_symlinks=True)
    os.close(here)
    (mounted.path / "named").unlink()
    assert os.pread(fd, 10, 0) == b"data" and os.fstat(fd).st_nlink == 0
    os.close(fd)
    assert os.listdir(mounted.path) == []


def test_xattrs(mounted: Mounted) -> None:
    path = mounted.path / "f"
    path.touch()
    os.setxattr(path, "user.a", b"1" * 60000)
    os.setxattr(path, "user.b", b"")
    assert os.getxattr(path, "user.a") == b"1" * 60000 and os.getxattr(path, "user.b") == b""
    assert sorted(os.listxattr(path)) == ["user.a", "user.b"]
    with pytest.raises(FileExistsError):
        os.setxattr(path, "user.a", b"", os.XATTR_CREATE)
    os.removexattr(path, "user.a")
    with pytest.raises(OSError, match="No data"):
        os.getxattr(path, "user.a")


def test_large_directory(mounted: Mounted) -> None:
    names = {f"file-{number:05}" for number in range(10_000)}
    for name in names:
        mounted.fs.mknod(CALLER, 1, name.encode(), stat.S_IFREG | 0o644, 0, 0)
    assert set(os.listdir(mounted.path)) == names
    with os.scandir(mounted.path) as entries:
        assert sum(entry.stat().st_size == 0 for entry in entries) == 10_000


def test_statfs_ioctl_and_read_ahead(mounted: Mounted) -> None:
    assert os.statvfs(mounted.path).f_blocks == 1 << 20
    (mounted.path / "f").touch()
    with open(mounted.path / "f") as file:
        command = (3 << 30) | (4 << 16) | 0x6601  # _IOWR('f', 1, 4 bytes)
        assert fcntl.ioctl(file, command, b"abcd") == b"dcba"
    assert set_read_ahead(str(mounted.path), 1 << 20)


def test_kernel_forgets(uncached: Mounted) -> None:
    for number in range(300):
        (uncached.path / str(number)).touch()
        (uncached.path / str(number)).unlink()
    deadline = time.monotonic() + 10
    while len(uncached.fs) > 1 and time.monotonic() < deadline:
        Path("/proc/sys/vm/drop_caches").write_text("2")
        time.sleep(0.02)
    assert len(uncached.fs) == 1


def lock_in_child(path: Path, code: str) -> subprocess.Popen[bytes]:
    """A process that takes an exclusive lock, says so, and waits; SIGUSR1 interrupts it harmlessly."""
    program = (
        "import fcntl, os, signal, sys\n"
        "signal.signal(signal.SIGUSR1, lambda *_: (_ for _ in ()).throw(InterruptedError()))\n"
        f"f = open({str(path)!r}, 'r+b')\n"
        "print('ready', flush=True)\n"
        "try:\n"
        f"    {code}\n"
        "except InterruptedError:\n"
        "    print('interrupted', flush=True)\n"
        "else:\n"
        "    print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    return subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def finish(process: subprocess.Popen[bytes]) -> None:
    process.communicate(timeout=10)


@pytest.mark.parametrize("code", ["fcntl.flock(f, fcntl.LOCK_EX)", "fcntl.lockf(f, fcntl.LOCK_EX, 10, 5)"])
def test_locks_between_processes(uncached: Mounted, code: str) -> None:
    path = uncached.path / "f"
    path.write_bytes(b"x" * 100)
    holder = lock_in_child(path, code)
    assert [line(holder), line(holder)] == ["ready", "locked"]
    with open(path, "r+b") as file:
        with pytest.raises(BlockingIOError):
            if "flock" in code:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 0)
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 50)
    waiter = lock_in_child(path, code)
    assert line(waiter) == "ready"
    time.sleep(0.1)
    os.stat(path)  # others are served meanwhile
    waiter.send_signal(signal.SIGUSR1)
    assert line(waiter) == "interrupted"
    heir = lock_in_child(path, code)
    assert line(heir) == "ready"
    finish(holder)
    assert line(heir) == "locked"
    finish(heir)
    finish(waiter)


def test_many_waiting_locks_stop_nobody(mount_with: Factory) -> None:
    """More lock waits than threads are allowed: they do not count. One more than they may be is refused."""
    mounted = mount_with(MemFS(), SessionConfig(max_threads=2, max_lock_waits=20))
    path = mounted.path / "f"
    path.touch()
    results: list[int] = []

    def wait_for_lock() -> None:
        with open(path, "r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                results.append(error.errno or -1)
            else:
                results.append(0)

    with open(path, "r+b") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        waiters = [threading.Thread(target=wait_for_lock) for _ in range(21)]
        for waiter in waiters:
            waiter.start()
        deadline = time.monotonic() + 5
        while not results and time.monotonic() < deadline:
            time.sleep(0.02)
        assert results == [errno.ENOLCK]
        assert os.stat(path).st_size == 0
        (mounted.path / "g").touch()
    for waiter in waiters:
        waiter.join(10)
    assert results == [errno.ENOLCK] + [0] * 20


def test_slow_request_does_not_stop_others(uncached: Mounted) -> None:
    for name in "abc":
        (uncached.path / name).write_bytes(name.encode() * 10)
    uncached.fs.delays = {"read": 1.0}
    with ThreadPoolExecutor(3) as pool:
        started = time.monotonic()
        reads = [pool.submit((uncached.path / name).read_bytes) for name in "abc"]
        time.sleep(0.05)
        asked = time.monotonic()
        os.stat(uncached.path / "a")
        assert time.monotonic() - asked < 0.9
        assert [read.result() for read in reads] == [name.encode() * 10 for name in "abc"]
        assert time.monotonic() - started < 2.5, "slow reads ran one after another"


def test_no_more_threads_than_allowed(mount_with: Factory) -> None:
    mounted = mount_with(MemFS(valid_s=0), SessionConfig(max_threads=3, idle_thread_s=0.2))
    mounted.fs.delays = {"getattr": 0.05, "lookup": 0.05}
    (mounted.path / "f").touch()
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda _: os.stat(mounted.path / "f"), range(36)))
    assert mounted.session._pool is not None and mounted.session._pool.threads <= 3
    mounted.fs.delays = {}
    time.sleep(0.6)
    assert mounted.session._pool.threads <= 2, "idle threads did not leave"
    os.stat(mounted.path)


def test_hammering_from_many_threads(uncached: Mounted) -> None:
    """Fast and slow requests mixed: the leader changes all the time, nothing is lost, nothing stalls."""
    uncached.fs.delays = {"open": 0.0005}
    for number in range(8):
        (uncached.path / str(number)).write_bytes(bytes([number]) * 1000)

    def work(number: int) -> float:
        path, longest = uncached.path / str(number), 0.0
        for _ in range(150):
            began = time.monotonic()
            os.stat(path)
            assert path.read_bytes() == bytes([number]) * 1000
            longest = max(longest, time.monotonic() - began)
        return longest

    with ThreadPoolExecutor(8) as pool:
        assert max(pool.map(work, range(8))) < 3


def test_stop_and_take_over(mounted: Mounted) -> None:
    """A second session serves the same connection with what the first one agreed, without INIT."""
    file = open(mounted.path / "f", "w+b", buffering=0)  # noqa: SIM115 - closed below
    file.write(b"before")
    os.fsync(file.fileno())
    first = mounted.session
    began = time.monotonic()
    first.stop()
    mounted.thread.join(5)
    assert not mounted.thread.is_alive() and not first.unmounted and time.monotonic() - began < 4
    assert not mounted.fs.destroyed.is_set()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(os.statvfs, mounted.path)
        time.sleep(0.1)
        assert not waiting.done()
        mounted.serve(first.config, predecessor=first)
        assert waiting.result(5).f_blocks == 1 << 20
    assert os.pread(file.fileno(), 10, 0) == b"before"
    file.close()


def test_unmount_while_busy(uncached: Mounted) -> None:
    file = open(uncached.path / "f", "w+b", buffering=0)  # noqa: SIM115 - closed below
    with pytest.raises(MountError, match="busy"):
        unmount(str(uncached.path))
    unmount(str(uncached.path), lazy=True)
    assert not is_mounted(str(uncached.path))
    file.write(b"still served")
    assert os.pread(file.fileno(), 20, 0) == b"still served"
    assert uncached.thread.is_alive()
    file.close()
    assert uncached.fs.destroyed.wait(5)
    assert uncached.session.unmounted
    uncached.session.stop()  # too late, and harmless


def test_abort_frees_waiters(uncached: Mounted) -> None:
    (uncached.path / "f").write_bytes(b"x")
    uncached.fs.delays = {"read": 1.0}
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit((uncached.path / "f").read_bytes)
        time.sleep(0.1)
        abort(str(uncached.path))
        assert isinstance(read.exception(0.7), OSError)
    uncached.thread.join(5)
    assert uncached.session.unmounted


def test_notifications(mount_with: Factory) -> None:
    mounted = mount_with(MemFS(valid_s=1000), SessionConfig())
    path, notifier = mounted.path / "f", mounted.session.notifier
    path.write_bytes(b"old")
    ino = path.stat().st_ino
    node = mounted.fs._node(ino)
    node.data[:] = b"newer"
    assert path.stat().st_size == 3
    assert notifier.inval_inode(ino)
    assert path.read_bytes() == b"newer"
    with open(path, "rb") as file:
        assert notifier.store(ino, 0, b"STORE")
        assert file.read() == b"STORE"
    del mounted.fs._nodes[1].entries[b"f"]
    assert path.exists()
    assert notifier.inval_entry(1, b"f")
    assert not path.exists()
    assert not notifier.inval_entry(1, b"never seen")
    (mounted.path / "g").touch()
    gone = mounted.fs._nodes[1].entries.pop(b"g")
    assert notifier.delete(1, gone.ino, b"g")
    assert not (mounted.path / "g").exists()
    assert not notifier.inval_inode(4711)


def test_mount_is_listed_and_errors_are_told(uncached: Mounted, tmp_path: Path) -> None:
    found = find_mount(str(uncached.path))
    assert found is not None and (found.fstype, found.source) == ("fuse.memfs", "memfs:test")
    assert {"nosuid", "nodev", "noatime"} <= set(found.options.split(","))
    assert {"allow_other", "default_permissions"} <= set(found.super_options.split(","))
    with pytest.raises(MountError, match="nowhere"):
        mount(str(tmp_path / "nowhere"), MountOptions())
    with pytest.raises(MountError, match=r"Invalid argument.*no_such_option"):
        mount(str(tmp_path), MountOptions(options=["no_such_option"]))
    with pytest.raises(MountError, match="cannot unmount"):
        unmount(str(tmp_path))
    with pytest.raises(MountError, match="not a FUSE mount"):
        abort(str(tmp_path))


def test_debug_lines(mount_with: Factory, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    mounted = mount_with(MemFS(), SessionConfig(debug=True))
    (mounted.path / "f").write_bytes(b"x" * 100)
    assert not (mounted.path / "g").exists()
    mounted.end()
    text = [record.getMessage() for record in caplog.records]
    assert any(" WRITE node=2 " in words and "<100 bytes>" in words for words in text)
    assert any(words.startswith("tx ") and "LOOKUP ENOENT" in words for words in text)


def test_kernel_offers_what_we_wish(uncached: Mounted) -> None:
    negotiated = uncached.session.negotiated
    assert negotiated is not None and negotiated.has(abi.FUSE_INIT_EXT) and negotiated.minor >= 31
    assert len(negotiated.request) == 104
