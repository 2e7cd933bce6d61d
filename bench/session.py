"""How much time the FUSE session itself takes: a file system in memory, beside one in C from libfuse's examples.

Not JuiceFS: no metadata engine, no objects. Callers are processes of their own. The CPU time of the serving process
per request says more than the wall clock on a shared machine. The example (`hello.c`) is compiled where the
distribution has brought its source, a compiler and the library; it holds one small file, so it is measured with what
concerns that.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from bench.machine import MIB, wait_for
from bench.measure import OURS, Measure, Row, alternate
from bench.memfs import MemFS
from bench.peers import quietly, unmount
from bench.setting import Bench
from fuse.config import SessionConfig
from fuse.mount import MountOptions, mount, set_read_ahead
from fuse.session import Session

_SECTION = "FUSE session alone"
_EXAMPLE = Path("/usr/share/doc/libfuse3-dev/examples/hello.c")
_PEER = "hello.c"
_FILE = "hello"  # as in the example
_FILE_MIB = 64


def getattr_(root: str, count: int) -> None:
    """One request each."""
    fd = os.open(f"{root}/{_FILE}", os.O_RDONLY)
    for _ in range(count):
        os.fstat(fd)
    os.close(fd)


def open_close(root: str, count: int) -> None:
    """Three or four requests each."""
    for _ in range(count):
        os.close(os.open(f"{root}/{_FILE}", os.O_RDONLY))


def open_read(root: str, count: int) -> None:
    """Four or five requests each. The example is asked for the bytes only once."""
    for _ in range(count):
        fd = os.open(f"{root}/{_FILE}", os.O_RDONLY)
        os.pread(fd, 4096, 0)
        os.close(fd)


def create(root: str, count: int) -> None:
    """Three or four requests each."""
    for number in range(count):
        os.close(os.open(f"{root}/{os.getpid()}.{number}", os.O_CREAT | os.O_WRONLY))


def sequential_read(root: str, count: int) -> None:
    """Requests of a MiB."""
    buffer = bytearray(MIB)
    with open(f"{root}/big", "rb", buffering=0) as file:
        for _ in range(count):
            file.readinto(buffer)


def sequential_write(root: str, count: int) -> None:
    """Over the first megabytes again and again: the file's growth is not the session's time."""
    data, path = bytes(MIB), f"{root}/written.{os.getpid()}"
    with open(path, "wb", buffering=0) as file:
        for number in range(count):
            os.pwrite(file.fileno(), data, number % 4 * MIB)
    os.unlink(path)


class Case(NamedTuple):
    """Work of one caller in one round; `unit` us of an operation, or MiB/s of operations of one MiB."""

    name: str
    work: Callable[[str, int], None]
    operations: int
    unit: str = "us"
    has_peer: bool = False


CASES = (
    Case("getattr", getattr_, 10_000, has_peer=True),
    Case("open + close", open_close, 2500, has_peer=True),
    Case("open, read, close", open_read, 2500),
    Case("create + close", create, 2000),
    Case("sequential read", sequential_read, _FILE_MIB, "MiB/s"),
    Case("sequential write", sequential_write, _FILE_MIB, "MiB/s"),
)


def alone(bench: Bench) -> Iterator[Row]:
    """Every case with one caller and with four."""
    with contextlib.ExitStack() as stack:
        roots = {OURS: stack.enter_context(_in_memory(bench.folder("session")))}
        example = stack.enter_context(_example(bench.folder("hello")))
        if example is not None:
            roots[_PEER] = example
        for case in CASES:
            for callers in (1, 4) if len(bench.scale.callers) > 1 else (1,):
                yield _row(bench, case, callers, roots)
        cost = Row(_SECTION, "CPU of the server per getattr", "us", limit=15)
        yield alternate(cost, {OURS: lambda _: _measure(CASES[0], roots[OURS], 1)[1] * 1e6}, bench.scale.rounds)


def _row(bench: Bench, case: Case, callers: int, roots: dict[str, str]) -> Row:
    higher = case.unit != "us"

    def of(root: str) -> Measure:
        def measure(round_number: int) -> float:
            wall, _ = _measure(case, root, callers)
            return 1 / wall if higher else wall * 1e6

        return measure

    measures = {who: of(root) for who, root in roots.items() if who == OURS or case.has_peer}
    name = f"{case.name}, {callers} caller{'s' * (callers > 1)}"
    return alternate(Row(_SECTION, name, case.unit, higher, {_PEER: 1 / 1.5}), measures, bench.scale.rounds)


def _measure(case: Case, root: str, callers: int) -> tuple[float, float]:
    """Wall and server CPU seconds per operation, of one round with so many callers."""
    command = [sys.executable, "-m", "bench.session", str(CASES.index(case)), root]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(callers)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()  # it has started
    before = time.process_time()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    wall = max(float(process.communicate()[0]) for process in processes)
    operations = callers * case.operations
    return wall / operations, (time.process_time() - before) / operations


@contextlib.contextmanager
def _in_memory(root: Path) -> Iterator[str]:
    """Our session over a file system in memory, served by this process."""
    fd = mount(str(root), MountOptions("bench", "memfs", allow_other=True, max_read=MIB))
    fs = MemFS(valid_s=0)
    session = Session(fs, fd, SessionConfig(max_write=MIB))
    thread = threading.Thread(target=session.run)
    thread.start()
    try:
        session.ready.wait(10)
        set_read_ahead(str(root), MIB)
        (root / _FILE).write_text("Hello World!\n")
        (root / "big").touch()
        fs._nodes[1].entries[b"big"].data = bytearray(_FILE_MIB * MIB)
        yield str(root)
    finally:
        unmount(root)
        thread.join()
        os.close(fd)


@contextlib.contextmanager
def _example(base: Path) -> Iterator[str | None]:
    """The mounted example; None if it cannot be made here."""
    if not (_EXAMPLE.exists() and shutil.which("gcc") and shutil.which("pkg-config")):
        yield None
        return
    flags = subprocess.run(["pkg-config", "fuse3", "--cflags", "--libs"], capture_output=True, text=True, check=True)
    subprocess.run(["gcc", "-O2", "-o", str(base / "hello"), str(_EXAMPLE), *flags.stdout.split()], check=True)
    (base / "mnt").mkdir()
    options = "attr_timeout=0,entry_timeout=0"
    with quietly([str(base / "hello"), "-f", "-o", options, str(base / "mnt")]) as process:
        wait_for(lambda: os.path.ismount(base / "mnt"), "the example of libfuse does not mount")
        try:
            yield str(base / "mnt")
        finally:
            unmount(base / "mnt")
            process.wait()


def caller() -> None:
    """The life of a calling process: wait for the start, work, tell the seconds that it took."""
    case, root = CASES[int(sys.argv[1])], sys.argv[2]
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.perf_counter()
    case.work(root, case.operations)
    print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    caller()
