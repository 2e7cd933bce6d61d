"""One large file of a mount with `--passthrough`, beside the plain directory and a mount without it.

The file is assembled and its blocks are cached; "warm" means that the disk's files are in memory (not that the kernel
keeps pages of ours: those are dropped), "cold" that they are not.
"""

from __future__ import annotations

import mmap
import os
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from bench.machine import drop_caches
from bench.measure import OURS, Measure, Row, alternate
from bench.peers import PROGRAM, Client, run
from bench.setting import Bench

MIB = 1 << 20
SIZE_MIB = 1024
STEP = MIB
READS = 2000  # random reads, and opens, of a row and round


def past_the_process(bench: Bench) -> Iterator[Row]:
    """All rows, each for two peers. `without` is our own mount without the option."""
    if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 9):
        print("passthrough needs Linux 6.9, so it is left out", flush=True)
        return
    base, size = bench.folder("passthrough"), min(2 * bench.scale.size_mib, SIZE_MIB)
    section, client = "passthrough (SQLite, file)", Client(OURS)
    with ExitStack() as stack:
        files = {OURS: base / "a", "local": base / "b", "without": base / "c"}
        for name, flags in ((OURS, ("--passthrough",)), ("without", ())):
            url, home = f"sqlite3://{files[name]}.db", files[name]
            client.format(url, "bench", home / "objects")
            files[name] = stack.enter_context(client.mounted(url, home, *flags))
        files["local"].mkdir()
        works = {name: Work(directory / "file", size) for name, directory in files.items()}
        run([*PROGRAM, "warmup", "--assemble", str(works[OURS].path)])
        run([*PROGRAM, "warmup", str(works["without"].path)])
        for name, unit, method, budget in (
            (f"read {size} MiB, warm", "MiB/s", "read_warm", 0.9),
            (f"mmap {size} MiB, warm", "MiB/s", "map_warm", 0.9),
            (f"read {size} MiB, cold", "MiB/s", "read_cold", 0.9),
            (f"mmap {size} MiB, cold", "MiB/s", "map_cold", 0.9),
            ("random 4 KiB read, warm", "us", "read_4k", None),
            ("open + close", "us", "open_close", None),
            ("open + read 4 MiB + close, warm", "us", "read_small", None),
        ):
            for peer in ("local", "without"):  # by pairs: the process still works on when its reader has all
                budgets = {"local": budget} if budget and peer == "local" else {}
                subjects: Mapping[str, Measure] = {who: getattr(works[who], method) for who in (OURS, peer)}
                yield alternate(Row(section, name, unit, unit == "MiB/s", budgets), subjects, bench.scale.rounds)


class Work:
    """The file at `path`, which is written first."""

    def __init__(self, path: Path, size_mib: int) -> None:
        self.path = path
        self.size = size_mib * MIB
        self.random = random.Random(7)
        self.buffer = memoryview(mmap.mmap(-1, STEP))  # at a page: copies to other places are slower
        block = self.random.randbytes(STEP)
        with path.open("wb") as file:
            for _ in range(size_mib):
                file.write(block)
            os.fsync(file.fileno())

    def _warm(self) -> None:
        """The files of the disk in memory; the kernel's pages of a mounted file, if there are any, are not."""
        self._read()
        fd = os.open(self.path, os.O_RDONLY)
        if os.path.ismount(self.path.parent):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)

    def _cold(self) -> None:
        """Nothing in memory, and nobody still reading ahead for the subject before."""
        time.sleep(1)
        drop_caches()

    def _read(self) -> float:
        began = time.perf_counter()
        fd = os.open(self.path, os.O_RDONLY)
        while os.readv(fd, [self.buffer]):
            pass
        os.close(fd)
        return self.size / MIB / (time.perf_counter() - began)

    def _map(self) -> float:
        """Touch a byte of each page, in order."""
        began = time.perf_counter()
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            mapped.madvise(mmap.MADV_SEQUENTIAL)
            assert len(mapped[:: mmap.PAGESIZE]) == self.size // mmap.PAGESIZE
        return self.size / MIB / (time.perf_counter() - began)

    def read_warm(self, round_number: int) -> float:
        self._warm()
        return self._read()

    def map_warm(self, round_number: int) -> float:
        self._warm()
        return self._map()

    def read_cold(self, round_number: int) -> float:
        self._cold()
        return self._read()

    def map_cold(self, round_number: int) -> float:
        self._cold()
        return self._map()

    def read_4k(self, round_number: int) -> float:
        self._warm()
        fd = os.open(self.path, os.O_RDONLY)
        places = [self.random.randrange(self.size // 4096) * 4096 for _ in range(READS)]
        began = time.perf_counter()
        for place in places:
            os.pread(fd, 4096, place)
        took = time.perf_counter() - began
        os.close(fd)
        return took / READS * 1e6

    def open_close(self, round_number: int) -> float:
        began = time.perf_counter()
        for _ in range(READS):
            os.close(os.open(self.path, os.O_RDONLY))
        return (time.perf_counter() - began) / READS * 1e6

    def read_small(self, round_number: int) -> float:
        """A file of 4 MiB, as far as the mount can tell: a part of this one."""
        self._warm()
        began = time.perf_counter()
        fd = os.open(self.path, os.O_RDONLY)
        for place in range(0, 4 * MIB, STEP):
            os.preadv(fd, [self.buffer], place)
        os.close(fd)
        return (time.perf_counter() - began) * 1e6
