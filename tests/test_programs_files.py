"""Programs and processes that share one file, on a mount: SQLite, appends, mappings, locks, fio.

Not here: programs that handle trees (test_programs_trees.py). Each test checks its own result.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import random
import sqlite3
import struct
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from beside import run
from needs import need

pytestmark = pytest.mark.battery

F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW = 36, 37, 38
FLOCK = struct.Struct("hhqqi4x")  # struct flock on 64-bit Linux: type, whence, start, length, pid

SQLITE_WRITER = """
import sqlite3, sys, time
path, journal, writer, rows = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
database = sqlite3.connect(path, timeout=120, isolation_level=None)
assert database.execute(f"PRAGMA journal_mode={journal}").fetchone()[0] == journal.lower()
for row in range(rows):
    database.execute("BEGIN IMMEDIATE")
    database.execute("INSERT INTO items VALUES (?, ?, ?)", (writer, row, f"{writer}/{row}" * 20))
    database.execute("UPDATE total SET n = n + 1")
    database.execute("COMMIT")
database.close()
"""
APPENDER = """
import os, sys
path, writer, lines = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
fd = os.open(path, os.O_WRONLY | os.O_APPEND)
for line in range(lines):
    text = f"{writer} {line} {'x' * (line * 7 % 180)}\\n".encode()
    assert os.write(fd, text) == len(text)
os.close(fd)
"""
COUNTER = """
import fcntl, os, sys
path, kind, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
fd = os.open(path, os.O_RDWR)
take, give = {
    "flock": (lambda: fcntl.flock(fd, fcntl.LOCK_EX), lambda: fcntl.flock(fd, fcntl.LOCK_UN)),
    "fcntl": (lambda: fcntl.lockf(fd, fcntl.LOCK_EX, 8, 0), lambda: fcntl.lockf(fd, fcntl.LOCK_UN, 8, 0)),
}[kind]
for _ in range(rounds):
    take()
    number = int(os.pread(fd, 8, 0) or b"0")
    os.pwrite(fd, b"%08d" % (number + 1), 0)
    give()
"""
HOLDER = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
if sys.argv[2] == "flock":
    fcntl.flock(fd, fcntl.LOCK_EX)
else:
    fcntl.lockf(fd, fcntl.LOCK_EX, 10, 100)
print("held", flush=True)
sys.stdin.read()
"""


def python(program: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a Python process with a program text."""
    words = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(processes: list[subprocess.Popen[str]], timeout_s: float = 240) -> None:
    """All must end well."""
    for process in processes:
        output, _ = process.communicate(timeout=timeout_s)
        assert process.returncode == 0, output


@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
def test_sqlite_with_four_writing_processes(journal: str, place: Path) -> None:
    path, rows = place / "data.db", 60
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(f"PRAGMA journal_mode={journal}")
        database.execute("CREATE TABLE items (writer, row, text, PRIMARY KEY (writer, row))")
        database.execute("CREATE TABLE total (n)")
        database.execute("INSERT INTO total VALUES (0)")
    finish([python(SQLITE_WRITER, path, journal, writer, rows) for writer in range(4)])
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("SELECT n FROM total").fetchone() == (4 * rows,)
        assert database.execute("SELECT count(*), count(DISTINCT writer) FROM items").fetchone() == (4 * rows, 4)


def test_eight_processes_append_without_losing_a_line(place: Path) -> None:
    path, lines = place / "log", 500
    path.touch()
    finish([python(APPENDER, path, writer, lines) for writer in range(8)])
    found = path.read_text().splitlines()
    assert len(found) == 8 * lines
    for writer in range(8):
        mine = [line for line in found if line.startswith(f"{writer} ")]
        assert mine == [f"{writer} {line} {'x' * (line * 7 % 180)}" for line in range(lines)]


def test_shared_mappings_of_two_processes(place: Path) -> None:
    """What one process writes through its mapping, another sees in its own, and read(2) sees too."""
    path = place / "mapped"
    path.write_bytes(bytes(1 << 20))
    program = (
        "import mmap, os, sys\nfd = os.open(sys.argv[1], os.O_RDWR)\nview = mmap.mmap(fd, 1 << 20)\n"
        "for page in range(1, 256, 2): view[page * 4096 : page * 4096 + 4] = b'kid!'\n"
        "view.flush()\nprint('done', flush=True)\nsys.stdin.read()\n"
    )
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 1 << 20) as view:
        for page in range(0, 256, 2):
            view[page * 4096 : page * 4096 + 4] = b"dad!"
        child = python(program, path)
        assert child.stdout is not None
        assert child.stdout.readline() == "done\n"
        assert all(view[page * 4096 : page * 4096 + 4] == (b"kid!" if page % 2 else b"dad!") for page in range(256))
        view.flush()
        finish([child])
    content = path.read_bytes()
    assert all(content[page * 4096 : page * 4096 + 4] == (b"kid!" if page % 2 else b"dad!") for page in range(256))


def test_private_mapping_leaves_the_file_alone(place: Path) -> None:
    path = place / "private"
    path.write_bytes(b"a" * 10_000)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE) as view:
        view[5000:5004] = b"mine"
        assert path.read_bytes() == b"a" * 10_000


@pytest.mark.parametrize("kind", ["flock", "fcntl"])
def test_locks_protect_a_counter(kind: str, place: Path) -> None:
    path, rounds = place / "counter", 100
    path.write_bytes(b"00000000")
    finish([python(COUNTER, path, kind, rounds) for _ in range(4)])
    assert int(path.read_bytes()) == 4 * rounds


@pytest.mark.parametrize("kind", ["flock", "fcntl"])
def test_a_lock_excludes_others_and_ends_with_its_process(kind: str, place: Path) -> None:
    path = place / "locked"
    path.write_bytes(b"x")
    holder = python(HOLDER, path, kind)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with path.open("r+b") as file:
        with pytest.raises(BlockingIOError):
            if kind == "flock":
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 105)
        if kind == "fcntl":
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 90)  # the range just before is free
            asked = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            found = FLOCK.unpack(fcntl.fcntl(file, fcntl.F_GETLK, asked))
            assert (found[0], found[2], found[3], found[4]) == (fcntl.F_WRLCK, 100, 10, holder.pid)
        holder.kill()
        holder.communicate()
        deadline = time.monotonic() + 10
        while True:  # the kernel tells the file system when it tears the process down, a moment later
            try:
                if kind == "flock":
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                else:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 105)
                break
            except BlockingIOError:
                assert time.monotonic() < deadline, "the lock outlives its process"
                time.sleep(0.05)


def test_waiting_for_a_lock_does_not_stop_others(place: Path) -> None:
    path = place / "locked"
    path.write_bytes(b"x")
    holder = python(HOLDER, path, "flock")
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    waiters = [python(HOLDER, path, "flock") for _ in range(12)]
    time.sleep(0.5)
    started = time.monotonic()
    for number in range(50):
        (place / f"file{number}").write_bytes(b"not waiting")
    assert time.monotonic() - started < 5
    for waiter in waiters[6:]:
        waiter.kill()  # a killed waiter must not be granted the lock later
        waiter.communicate()
    for process in (holder, *waiters[:6]):
        assert process.stdin is not None
        process.stdin.close()  # whoever gets the lock gives it back at once
    for process in (holder, *waiters[:6]):
        assert process.wait(60) == 0
        assert process.stdout is not None
        process.stdout.close()


def test_open_file_description_locks(place: Path) -> None:
    """OFD locks belong to the open file, not to the process: two opens of one process exclude each other."""
    path = place / "ofd"
    path.write_bytes(b"x" * 100)
    lock = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 50, 0)
    with path.open("r+b") as one, path.open("r+b") as two:
        fcntl.fcntl(one, F_OFD_SETLK, lock)
        with pytest.raises(OSError):
            fcntl.fcntl(two, F_OFD_SETLK, lock)
        fcntl.fcntl(two, F_OFD_SETLK, FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 50, 10, 0))
        found = FLOCK.unpack(fcntl.fcntl(two, F_OFD_GETLK, lock))
        assert (found[0], found[2], found[3]) == (fcntl.F_WRLCK, 0, 50)
        duplicate = os.dup(one.fileno())
        os.close(duplicate)  # closing a duplicate gives a POSIX lock away, not this one
        with pytest.raises(OSError):
            fcntl.fcntl(two, F_OFD_SETLK, lock)
    with path.open("r+b") as three:
        fcntl.fcntl(three, F_OFD_SETLKW, lock)


def test_unnamed_temporary_files(place: Path) -> None:
    """O_TMPFILE: no name until linkat gives one; O_EXCL means never."""
    fd = os.open(place, os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(fd, b"first without a name")
    assert os.listdir(place) == []
    assert os.fstat(fd).st_nlink == 0
    give_name(fd, place / "named")
    os.close(fd)
    assert (place / "named").read_bytes() == b"first without a name"
    assert (place / "named").stat().st_mode & 0o777 == 0o640
    assert (place / "named").stat().st_nlink == 1
    fd = os.open(place, os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o600)
    with pytest.raises(FileNotFoundError):
        give_name(fd, place / "never")
    os.close(fd)
    assert os.listdir(place) == ["named"]


def give_name(fd: int, path: Path) -> None:
    """linkat(2) of an open file. Python follows the link in /proc only if one of the directory descriptors is given."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(folder)


def test_unlinked_file_lives_as_long_as_it_is_open(place: Path) -> None:
    data = random.Random(3).randbytes(6 << 20)
    with (place / "gone").open("w+b") as file:
        file.write(data)
        file.flush()
        os.unlink(place / "gone")
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        assert file.read() == data
        file.write(b"more")
        file.flush()
        assert os.fstat(file.fileno()).st_size == len(data) + 4
        assert os.fstat(file.fileno()).st_nlink == 0


@pytest.mark.timeout(600)
def test_fio_random_writes_with_checksums(place: Path, long_run: bool) -> None:
    """Random 4-256 KiB writes by two jobs, then every block read back and its CRC compared."""
    need("fio")
    size = "2G" if long_run else "512M"
    output = run(
        "fio", "--name=verify", f"--directory={place}", f"--size={size}", "--numjobs=2", "--rw=randwrite",
        "--bsrange=4k-256k", "--ioengine=psync", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1",
        "--end_fsync=1", "--randseed=7", "--verify_state_save=0", "--group_reporting", "--output-format=json",
        timeout_s=580,
    )  # fmt: skip
    report = json.loads(output[output.index("{") :])
    assert all(job["error"] == 0 for job in report["jobs"])
    written = sum(job["write"]["io_bytes"] for job in report["jobs"])
    speed = sum(job["write"]["bw_bytes"] for job in report["jobs"])
    print(f"fio: {written >> 20} MiB written at random, {speed / (1 << 20):.0f} MiB/s, all checksums right")
    assert written >= 2 * (512 << 20)
