"""Bytes through the kernel: on a local directory and on an S3 server, beside an official client and beside others.

On S3 also beside `s3fs`, `rclone mount` and the bare SDK, as far as they are installed. All are mounted at once and
work in turn. "Cold" means that neither the kernel nor a cache directory has the bytes; what the S3 server itself keeps
in the page cache is dropped as well.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.machine import MIB, Memory, drop_caches, serving_pid
from bench.measure import OURS, Figure, Measure, Row, alternate
from bench.s3_peers import BareSdk, Server, rclone_mount, s3_server, s3fs_mount
from bench.setting import Bench, Scale, redis_server

READERS = 16
_WAYS = {"go": 1.0, "bare": 0.9}
"""Budgets of what goes to the bucket and comes from it."""
_CACHED = {"go": 2.0}


def on_directory(bench: Bench) -> Iterator[Row]:
    """Blocks in a local directory."""
    yield from _on(bench, "file", None)


def on_s3(bench: Bench) -> Iterator[Row]:
    """Blocks on an S3 server."""
    with s3_server(bench.folder("s3-server")) as server:
        yield from _on(bench, "S3", server)


def _on(bench: Bench, storage: str, server: Server | None) -> Iterator[Row]:
    base, section = bench.folder(f"data-{storage}"), f"data on {storage}"
    with redis_server(base / "redis") as port, contextlib.ExitStack() as stack:
        subjects: dict[str, object] = {}
        for number, client in enumerate(bench.clients):
            home = base / client.name.replace(" ", "-")
            url = f"redis://127.0.0.1:{port}/{1 + number}"
            client.format(url, f"bench-{number}", home / "objects", server.options(f"bench-{number}") if server else ())
            subjects[client.name] = Bytes(stack.enter_context(client.mounted(url, home)), bench.scale, home / "cache")
        if server is not None:
            for name, mounted in (("s3fs", s3fs_mount), ("rclone", rclone_mount)):
                root = stack.enter_context(mounted(server, base / name))
                if root is not None:
                    subjects[name] = Bytes(root, bench.scale, None)
            subjects["bare SDK"] = BareSdk(server, bench.scale)
        memory = Memory(serving_pid(base / OURS / "mnt"))
        yield from rows(section, subjects, bench.scale)
        memory.end()
        most = Row(section, "resident memory of who serves, at most", "MiB", limit=80 + 300)
        most.figures[OURS] = Figure([memory.most_mib])
        yield most


def rows(section: str, subjects: Mapping[str, object], scale: Scale) -> Iterator[Row]:
    """All rows; a subject that has no such method is left out of a row."""

    def row(name: str, unit: str, method: str, higher: bool, budgets: Mapping[str, float]) -> Row:
        able: dict[str, Measure] = {
            who: getattr(subject, method) for who, subject in subjects.items() if hasattr(subject, method)
        }
        return alternate(Row(section, name, unit, higher, budgets), able, scale.rounds)

    size, small = f"{scale.size_mib} MiB", f"{scale.small_files} files of 4 KiB"
    yield row(f"write {size} + fsync", "MiB/s", "write_large", True, _WAYS)
    yield row(f"read {size}, cold", "MiB/s", "read_large", True, _WAYS)
    yield row(f"{READERS} readers at once, {size}, cold", "MiB/s", "read_many", True, _WAYS)
    yield row("random 4 KiB read, cold", "us", "read_4k_cold", False, {})
    yield row("random 128 KiB read, cold", "us", "read_128k_cold", False, {})
    yield row(f"read {size}, cached blocks", "MiB/s", "read_cached", True, _CACHED)
    yield row("random 4 KiB read, cached blocks", "us", "read_4k", False, _CACHED)
    yield row("random 128 KiB read, cached blocks", "us", "read_128k", False, _CACHED)
    yield row(f"write {small}", "files/s", "write_small", True, {})
    yield row(f"read {small}, cold", "files/s", "read_small", True, {})


class Bytes:
    """The work of every row below one directory. Methods run in the order of the rows, on earlier files."""

    def __init__(self, root: Path, scale: Scale, cache: Path | None) -> None:
        self.root = root
        self.scale = scale
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
        self._write("large", self.scale.size_mib)
        elapsed = time.perf_counter() - start
        for number in range(READERS if round_number == 0 else 0):
            self._write(f"part-{number}", self.scale.size_mib // READERS)
        return self.scale.size_mib / elapsed

    def _write(self, name: str, size_mib: int) -> None:
        fd = os.open(self.root / name, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)
        for _ in range(size_mib):
            os.write(fd, self.block)
        os.fsync(fd)
        os.close(fd)

    def read_large(self, round_number: int) -> float:
        self.chill()
        return self._timed_read()

    def read_cached(self, round_number: int) -> float:
        if round_number == 0:
            self._read("large")  # into the block cache
        drop_caches()
        return self._timed_read()

    def _timed_read(self) -> float:
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
        return self._random(4 << 10, self.scale.reads // 4)

    def read_128k_cold(self, round_number: int) -> float:
        self.chill()
        return self._random(128 << 10, self.scale.reads // 4)

    def read_4k(self, round_number: int) -> float:
        drop_caches()
        return self._random(4 << 10, self.scale.reads)

    def read_128k(self, round_number: int) -> float:
        drop_caches()
        return self._random(128 << 10, self.scale.reads)

    def _random(self, size: int, count: int) -> float:
        """Average microseconds of a read somewhere in the large file."""
        fd = os.open(self.root / "large", os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        offsets = [self.random.randrange(self.scale.size_mib * MIB // size) * size for _ in range(count)]
        start = time.perf_counter()
        for offset in offsets:
            assert len(os.pread(fd, size, offset)) == size
        elapsed = time.perf_counter() - start
        os.close(fd)
        return elapsed / count * 1e6

    def _names(self, round_number: int) -> list[str]:
        folder = self.root / f"few-bytes-{round_number}"
        folder.mkdir(exist_ok=True)
        return [f"{folder}/{number:05d}" for number in range(self.scale.small_files)]

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
