"""`python -m bench.data`: bytes through the kernel, on a local directory and on an S3 server, beside others.

On a local directory beside an official client; on S3 beside that one, `s3fs`, `rclone mount` and the bare SDK, as far
as they are installed. All are mounted at once and work in turn. "Cold" means that neither the kernel nor a cache
directory has the bytes; what the S3 server itself keeps in the page cache is dropped as well. Above 1 is a win.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from bench.local import drop_caches, resident_mib, serving_pid
from bench.measure import Row, alternate, table
from bench.peers import OURS, Client, official, redis_server
from bench.s3_peers import BareSdk, rclone_mount, s3_server, s3fs_mount

MIB = 1 << 20
READERS = 16


class Subject(Protocol):
    """What is measured: the methods that rows name. Each returns a figure of its row."""

    def write_large(self, round_number: int) -> float: ...


def main() -> None:
    """Parse the options, run every row on both storages, print the tables and the memory of our mounts."""
    parser = argparse.ArgumentParser(prog="python -m bench.data", description=__doc__.splitlines()[0])
    parser.add_argument("--vs", metavar="PROGRAM", help="the official client; without, one that is found")
    parser.add_argument(
        "--on", nargs="*", default=["file", "s3"], choices=["file", "s3"], help="storages (default both)"
    )
    parser.add_argument("--size", type=int, default=2048, help="MiB of the large file (default 2048)")
    parser.add_argument("--files", type=int, default=5000, help="small files (default 5000)")
    parser.add_argument("--reads", type=int, default=400, help="random reads of a row and round (default 400)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds per row (default 3)")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything, for a first look")
    options = parser.parse_args()
    if options.quick:
        options.size, options.files, options.reads, options.rounds = 256, 400, 100, 2
    base = Path(tempfile.mkdtemp(prefix="bench-data-"))
    try:
        with redis_server(base / "redis") as port:
            for number, storage in enumerate(options.on):
                measure(base / storage, storage, port, 1 + 8 * number, options)
    finally:
        shutil.rmtree(base, ignore_errors=True)


def measure(base: Path, storage: str, port: int, database: int, options: argparse.Namespace) -> None:
    """All rows on one storage."""
    peer = official(options.vs)
    clients = [Client("juicefs_py", OURS), *([peer] if peer else [])]
    with contextlib.ExitStack() as stack:
        subjects: dict[str, Subject] = {}
        server = stack.enter_context(s3_server(base / "server")) if storage == "s3" else None
        for number, client in enumerate(clients):
            home = base / client.name.replace(" ", "-")
            url = f"redis://127.0.0.1:{port}/{database + number}"
            client.format(url, f"bench-{number}", home / "objects", server.options(f"bench-{number}") if server else ())
            root = stack.enter_context(client.mounted(url, home))
            subjects[client.name] = Work(root, options, home / "cache")
        if server is not None:
            for name, mounted in (("s3fs", s3fs_mount), ("rclone", rclone_mount)):
                root_or_none = stack.enter_context(mounted(server, base / name))
                if root_or_none is not None:
                    subjects[name] = Work(root_or_none, options, None)
            subjects["bare SDK"] = BareSdk(server, options)
        memory = Memory(serving_pid(base / "juicefs_py" / "mnt"))
        rows = run(subjects, options)
        shown = table(rows, "juicefs_py", [name for name in subjects if name != "juicefs_py"])
        print(f"\non {storage}\n{shown}\nresident memory of our mount: {memory.end()}", flush=True)


def run(subjects: dict[str, Subject], options: argparse.Namespace) -> list[Row]:
    """All rows; a subject that cannot do one is left out of it."""

    def row(name: str, unit: str, method: str, higher: bool = False, budget: float | None = None) -> Row:
        able: dict[str, Callable[[int], float]] = {
            who: told(who, name, getattr(subject, method))
            for who, subject in subjects.items()
            if hasattr(subject, method)
        }
        return alternate(Row(name, unit, higher, budget), able, options.rounds)

    size, small = f"{options.size} MiB", f"{options.files} files of 4 KiB"
    return [
        row(f"write {size} + fsync", "MiB/s", "write_large", True, 1.0),
        row(f"read {size}, cold", "MiB/s", "read_large", True, 1.0),
        row(f"{READERS} readers at once, {size}, cold", "MiB/s", "read_many", True),
        row("random 4 KiB read, cold", "us", "read_4k_cold"),
        row("random 128 KiB read, cold", "us", "read_128k_cold"),
        row("random 4 KiB read, cached blocks", "us", "read_4k", budget=2.0),
        row("random 128 KiB read, cached blocks", "us", "read_128k", budget=2.0),
        row(f"write {small}", "files/s", "write_small", True),
        row(f"read {small}, cold", "files/s", "read_small", True),
    ]


def told(who: str, row: str, measure: Callable[[int], float]) -> Callable[[int], float]:
    """`measure`, whose failure says whose it is and counts as no speed at all (NaN in every ratio)."""

    def run(round_number: int) -> float:
        try:
            return measure(round_number)
        except OSError as error:
            print(f"{who} fails in the row `{row}`: {error}")
            return float("nan")

    return run


class Work:
    """The work of every row below one mountpoint. Methods run in the order of the rows, on earlier files."""

    def __init__(self, root: Path, options: argparse.Namespace, cache: Path | None) -> None:
        self.root = root
        self.options = options
        self.cache = cache
        self.random = random.Random(7)
        self.block = self.random.randbytes(MIB)

    def chill(self) -> None:
        """Forget the bytes: blocks of the cache directory, pages of the kernel."""
        if self.cache is not None:
            for path in self.cache.glob("*/raw/chunks"):
                shutil.rmtree(path, ignore_errors=True)
        drop_caches()

    def write_large(self, round_number: int) -> float:
        start = time.perf_counter()
        self._write("large", self.options.size)
        elapsed = time.perf_counter() - start
        for number in range(READERS if round_number == 0 else 0):
            self._write(f"part-{number}", self.options.size // READERS)
        return float(self.options.size) / elapsed

    def _write(self, name: str, size: int) -> None:
        fd = os.open(self.root / name, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)
        for _ in range(size):
            os.write(fd, self.block)
        os.fsync(fd)
        os.close(fd)

    def read_large(self, round_number: int) -> float:
        self.chill()
        start = time.perf_counter()
        done = self._read("large")
        return done / MIB / (time.perf_counter() - start)

    def _read(self, name: str) -> int:
        buffer = bytearray(MIB)
        done = 0
        fd = os.open(self.root / name, os.O_RDONLY)
        while count := os.readv(fd, [buffer]):
            done += count
        os.close(fd)
        return done

    def read_many(self, round_number: int) -> float:
        self.chill()
        start = time.perf_counter()
        with ThreadPoolExecutor(READERS) as pool:
            done = sum(pool.map(self._read, [f"part-{number}" for number in range(READERS)]))
        return done / MIB / (time.perf_counter() - start)

    def read_4k_cold(self, round_number: int) -> float:
        self.chill()
        return self._random(4 << 10, self.options.reads // 4)

    def read_128k_cold(self, round_number: int) -> float:
        self.chill()
        return self._random(128 << 10, self.options.reads // 4)

    def read_4k(self, round_number: int) -> float:
        self._read("large")  # into the block cache
        drop_caches()
        return self._random(4 << 10, self.options.reads)

    def read_128k(self, round_number: int) -> float:
        drop_caches()
        return self._random(128 << 10, self.options.reads)

    def _random(self, size: int, count: int) -> float:
        """Average microseconds of a read somewhere in the large file."""
        fd = os.open(self.root / "large", os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        offsets = [self.random.randrange(self.options.size * MIB // size) * size for _ in range(count)]
        start = time.perf_counter()
        for offset in offsets:
            assert len(os.pread(fd, size, offset)) == size
        elapsed = time.perf_counter() - start
        os.close(fd)
        return elapsed / count * 1e6

    def _names(self, round_number: int) -> list[str]:
        folder = self.root / f"small-{round_number}"
        folder.mkdir(exist_ok=True)
        return [f"{folder}/{number:05d}" for number in range(self.options.files)]

    def write_small(self, round_number: int) -> float:
        names = self._names(round_number)
        start = time.perf_counter()
        for name in names:
            fd = os.open(name, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)
            os.write(fd, self.block[:4096])
            os.close(fd)
        return len(names) / (time.perf_counter() - start)

    def read_small(self, round_number: int) -> float:
        names = self._names(round_number)
        self.chill()
        start = time.perf_counter()
        for name in names:
            fd = os.open(name, os.O_RDONLY)
            assert len(os.read(fd, 8192)) == 4096
            os.close(fd)
        return len(names) / (time.perf_counter() - start)


class Memory:
    """The most that a process has resident, looked at ten times a second."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._idle = self._most = resident_mib(pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            with contextlib.suppress(OSError):  # it has ended
                self._most = max(self._most, resident_mib(self._pid))

    def end(self) -> str:
        """Stop looking; what was seen."""
        self._stop.set()
        self._thread.join()
        return f"idle {self._idle:.0f} MiB, at most {self._most:.0f} MiB (--buffer-size 300)"


if __name__ == "__main__":
    main()
