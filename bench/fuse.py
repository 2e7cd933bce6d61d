"""How much time the FUSE session itself takes: `python -m bench.fuse`, on a file system in memory.

Not JuiceFS: no metadata engine, no objects. Each figure is the median of several rounds, with the lowest and highest;
"server" is the CPU time of the serving process per operation, which says more than the wall clock on a shared machine.
Callers are processes of their own. `--pin` keeps callers and server on one CPU, where waking each other is cheapest.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bench.memfs import MemFS
from fuse.config import SessionConfig
from fuse.mount import MountOptions, mount, set_read_ahead, unmount
from fuse.session import Session

MIB = 1 << 20
FILE_MIB = 64


def getattr_(root: str, count: int) -> None:
    fd = os.open(f"{root}/file", os.O_RDONLY)
    for _ in range(count):
        os.fstat(fd)
    os.close(fd)


def create(root: str, count: int) -> None:
    for number in range(count):
        os.close(os.open(f"{root}/{os.getpid()}.{number}", os.O_CREAT | os.O_WRONLY))


def open_read(root: str, count: int) -> None:
    for _ in range(count):
        fd = os.open(f"{root}/file", os.O_RDONLY)
        os.pread(fd, 4096, 0)
        os.close(fd)


def sequential_read(root: str, count: int) -> None:
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
    """`unit` of the figures: µs per operation, or MiB/s (an operation is then one MiB)."""

    name: str
    work: Callable[[str, int], None]
    operations: int  # of one caller in one round
    unit: str = "µs"


CASES = (
    Case("getattr", getattr_, 10000),
    Case("create+close (3-4 requests)", create, 2000),
    Case("open+read 4 KiB+close (4-5 requests)", open_read, 2500),
    Case("sequential read, 1 MiB requests", sequential_read, FILE_MIB, "MiB/s"),
    Case("sequential write, 1 MiB requests", sequential_write, FILE_MIB, "MiB/s"),
)


def caller(case: Case, root: str) -> None:
    """The life of a calling process: wait for the start, work, tell the seconds that it took."""
    sys.stdin.readline()
    began = time.perf_counter()
    case.work(root, case.operations)
    print(time.perf_counter() - began, flush=True)


def measure(case: Case, root: str, callers: int) -> tuple[float, float]:
    """Wall and server CPU seconds per operation, of one round with so many callers."""
    command = [sys.executable, "-m", "bench.fuse", "--caller", str(CASES.index(case)), root]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(callers)
    ]
    time.sleep(0.3)  # until they have all started
    before = time.process_time()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    wall = max(float(process.communicate()[0]) for process in processes)
    operations = callers * case.operations
    return wall / operations, (time.process_time() - before) / operations


def fill(fs: MemFS, root: str) -> None:
    Path(root, "file").write_bytes(bytes(4096))
    Path(root, "big").touch()
    fs._nodes[1].entries[b"big"].data = bytearray(FILE_MIB * MIB)


def run(rounds: int, most_callers: int) -> None:
    with tempfile.TemporaryDirectory() as root:
        fd = mount(root, MountOptions("bench", "memfs", allow_other=True, max_read=MIB))
        fs = MemFS(valid_s=0)
        session = Session(fs, fd, SessionConfig(max_write=MIB))
        thread = threading.Thread(target=session.run)
        thread.start()
        try:
            session.ready.wait(10)
            set_read_ahead(root, MIB)
            fill(fs, root)
            print(f"{'':38} {'callers':>7} {'median':>8} {'low':>7} {'high':>7}  unit  {'server':>8} µs")
            for case in CASES:
                for callers in (1, most_callers):
                    results = [measure(case, root, callers) for _ in range(rounds)]
                    print_row(case, callers, results)
        finally:
            unmount(root, lazy=True)
            thread.join()
            os.close(fd)


def print_row(case: Case, callers: int, results: list[tuple[float, float]]) -> None:
    scale: Callable[[float], float] = (lambda wall: wall * 1e6) if case.unit == "µs" else (lambda wall: 1 / wall)
    figures = sorted(scale(wall) for wall, _ in results)
    server = statistics.median(cpu for _, cpu in results) * 1e6
    median = statistics.median(figures)
    print(f"{case.name:38} {callers:7} {median:8.1f} {figures[0]:7.1f} {figures[-1]:7.1f}  {case.unit:5} {server:8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--callers", type=int, default=4, help="the second column of callers, beside 1")
    parser.add_argument("--pin", action="store_true", help="callers and server on one CPU")
    parser.add_argument("--caller", nargs=2, metavar=("CASE", "ROOT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.caller:
        caller(CASES[int(arguments.caller[0])], arguments.caller[1])
        return
    if arguments.pin:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    run(arguments.rounds, arguments.callers)


if __name__ == "__main__":
    main()
