"""`python -m bench.local`: the whole stack on SQLite and a local directory, beside the plain local directory.

Formats and mounts a volume of its own with the installed program, works on it through the kernel, and does the same
on a plain directory of the same disk, in turn. The page cache is dropped before every cold read (root). Ratios above 1
are wins; a plain directory is the floor that no network file system reaches, so the interest is in how they change.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.measure import Row, alternate, as_json, table

JUICEFS = [sys.executable, "-m", "juicefs_py"]
PAGE = b"\xa5" * 4096
MIB = 1 << 20


def main() -> None:
    """Parse the options, run every row, print the table and the memory of the mount."""
    parser = argparse.ArgumentParser(prog="python -m bench.local", description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=1000, help="small files per round (default 1000)")
    parser.add_argument("--entries", type=int, default=10_000, help="entries of the listed directory (default 10000)")
    parser.add_argument("--size", type=int, default=1024, help="MiB of the large file (default 1024)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds per row (default 5; large files 3)")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything, for a first look")
    parser.add_argument("--json", action="store_true", help="print all runs as JSON")
    options = parser.parse_args()
    if options.quick:
        options.files, options.entries, options.size, options.rounds = 200, 1000, 128, 3
    base = Path(tempfile.mkdtemp(prefix="bench-local-"))
    try:
        with mounted(base) as (mountpoint, pid):
            idle = resident_mib(pid)
            rows = run(mountpoint, base / "plain", options)
            print(as_json(rows) if options.json else table(rows, "juicefs_py", ["local"]))
            print(f"resident memory of the mount: idle {idle:.0f} MiB, afterwards {resident_mib(pid):.0f} MiB")
    finally:
        shutil.rmtree(base, ignore_errors=True)


@contextlib.contextmanager
def mounted(base: Path) -> Iterator[tuple[Path, int]]:
    """A fresh volume mounted under `base`: the mountpoint and the pid of the process that serves it."""
    url, mountpoint = f"sqlite3://{base}/meta.db", base / "mnt"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([*JUICEFS, "format", url, "bench", "--bucket", str(base / "objects")], check=True, **quiet)  # type: ignore[call-overload]
    flags = ["--cache-dir", str(base / "cache"), "--log", str(base / "log"), "--metrics", "127.0.0.1:0"]
    subprocess.run([*JUICEFS, "mount", "-d", *flags, url, str(mountpoint)], check=True, **quiet)  # type: ignore[call-overload]
    try:
        yield mountpoint, serving_pid(mountpoint)
    finally:
        subprocess.run([*JUICEFS, "umount", str(mountpoint)], check=False)
        for _ in range(100):
            if not os.path.ismount(mountpoint):
                break
            time.sleep(0.1)


def serving_pid(mountpoint: Path) -> int:
    """The pid that the mount tells in its `.config`."""
    import json

    return int(json.loads((mountpoint / ".config").read_bytes())["Pid"])


def resident_mib(pid: int) -> float:
    """Resident memory of a process in MiB."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE") / MIB


def drop_caches() -> None:
    """Write back and forget the kernel's clean pages, dentries and inodes (needs root)."""
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as control:
        control.write("3")


def run(mountpoint: Path, plain: Path, options: argparse.Namespace) -> list[Row]:
    """All rows, small work first."""
    plain.mkdir()
    works = {"juicefs_py": Work(mountpoint, options), "local": Work(plain, options)}

    def row(name: str, unit: str, method: str, rounds: int, higher: bool = False) -> Row:
        subjects: dict[str, Callable[[int], float]] = {who: getattr(work, method) for who, work in works.items()}
        return alternate(Row(name, unit, higher), subjects, rounds)

    few = min(options.rounds, 3)
    return [
        row("create + close", "us", "create", options.rounds),
        row("write 4 KiB (create, write, close)", "us", "write_small", options.rounds),
        row("stat (cold)", "us", "stat", options.rounds),
        row("open + read 4 KiB + close", "us", "read_small", options.rounds),
        row("rename", "us", "rename", options.rounds),
        row("unlink", "us", "unlink", options.rounds),
        row(f"readdir of {options.entries}", "ms", "readdir", options.rounds),
        row(f"sequential write, {options.size} MiB + fsync", "MiB/s", "write_large", few, higher=True),
        row(f"sequential read, {options.size} MiB, cold page cache", "MiB/s", "read_large", few, higher=True),
        row("random 4 KiB read, cached blocks", "us", "read_random", options.rounds),
    ]


class Work:
    """The work of every row, on one directory. Methods run in the order of the rows, on earlier files."""

    def __init__(self, root: Path, options: argparse.Namespace) -> None:
        self.root = root
        self.options = options
        self.random = random.Random(7)

    def directory(self, kind: str, round_number: int) -> Path:
        path = self.root / f"{kind}-{round_number}"
        path.mkdir(exist_ok=True)
        return path

    def per_file(self, paths: list[str], action: Callable[[str], object]) -> float:
        """Average microseconds of `action` over the paths."""
        start = time.perf_counter()
        for path in paths:
            action(path)
        return (time.perf_counter() - start) / len(paths) * 1e6

    def names(self, directory: Path, count: int | None = None) -> list[str]:
        return [str(directory / f"file-{number:06d}") for number in range(count or self.options.files)]

    def create(self, round_number: int) -> float:
        def action(path: str) -> None:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))

        return self.per_file(self.names(self.directory("create", round_number)), action)

    def write_small(self, round_number: int) -> float:
        def action(path: str) -> None:
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            os.write(fd, PAGE)
            os.close(fd)

        return self.per_file(self.names(self.directory("small", round_number)), action)

    def stat(self, round_number: int) -> float:
        paths = self.names(self.directory("create", round_number))
        drop_caches()
        return self.per_file(paths, os.stat)

    def read_small(self, round_number: int) -> float:
        def action(path: str) -> None:
            fd = os.open(path, os.O_RDONLY)
            os.read(fd, 4096)
            os.close(fd)

        paths = self.names(self.directory("small", round_number))
        drop_caches()
        return self.per_file(paths, action)

    def rename(self, round_number: int) -> float:
        return self.per_file(
            self.names(self.directory("create", round_number)), lambda path: os.rename(path, path + "~")
        )

    def unlink(self, round_number: int) -> float:
        paths = [path + "~" for path in self.names(self.directory("create", round_number))]
        return self.per_file(paths, os.unlink)

    def readdir(self, round_number: int) -> float:
        directory = self.root / "many"
        if round_number == 0:
            directory.mkdir()
            for path in self.names(directory, self.options.entries):
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
        drop_caches()
        start = time.perf_counter()
        found = len(os.listdir(directory))
        elapsed = time.perf_counter() - start
        assert found == self.options.entries, f"listed {found} of {self.options.entries} entries"
        return elapsed * 1e3

    def write_large(self, round_number: int) -> float:
        block = self.random.randbytes(MIB)
        start = time.perf_counter()
        fd = os.open(self.root / "large", os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)
        for _ in range(self.options.size):
            os.write(fd, block)
        os.fsync(fd)
        os.close(fd)
        return float(self.options.size) / (time.perf_counter() - start)

    def read_large(self, round_number: int) -> float:
        drop_caches()
        buffer = bytearray(MIB)
        start = time.perf_counter()
        fd = os.open(self.root / "large", os.O_RDONLY)
        while os.readv(fd, [buffer]):
            pass
        os.close(fd)
        return float(self.options.size) / (time.perf_counter() - start)

    def read_random(self, round_number: int) -> float:
        """Pages of the file that `read_large` has just brought into the block cache; the page cache is dropped."""
        drop_caches()
        fd = os.open(self.root / "large", os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        offsets = [self.random.randrange(self.options.size * 256) * 4096 for _ in range(self.options.files)]
        start = time.perf_counter()
        for offset in offsets:
            os.pread(fd, 4096, offset)
        elapsed = time.perf_counter() - start
        os.close(fd)
        return elapsed / len(offsets) * 1e6


if __name__ == "__main__":
    main()
