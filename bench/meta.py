"""Metadata through the kernel: all clients are mounted at once, each on a database of its own, and work in turn.

Sections: Redis beside an official client, with one caller and with several (processes), next door and with a round trip
of a millisecond more; TiKV, if the run knows a cluster; our own engines beside each other and beside a plain directory.
The page, dentry and inode caches are dropped before every row that reads.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.delay import delayed
from bench.machine import drop_caches
from bench.measure import OURS, Measure, Row, alternate
from bench.peers import Client
from bench.setting import Bench, Scale, redis_server

Action = Callable[[str], object]
_SETTLE_S = 2.5  # before cold reads: of names younger than two seconds ours reads nothing ahead, and those are rare


def on_redis(bench: Bench) -> Iterator[Row]:
    """Beside an official client."""
    base = bench.folder("meta")
    with redis_server(base / "redis") as port:
        for delay in bench.scale.delays_ms:
            with delayed(port, delay) if delay else contextlib.nullcontext(port) as seen:
                first = 1 + 2 * int(delay * 10)
                where = "Redis next door" if not delay else f"Redis +{delay:g} ms"
                urls = [f"redis://127.0.0.1:{seen}/{first + number}" for number in range(2)]
                subjects = {client.name: (client, url) for client, url in zip(bench.clients, urls, strict=False)}
                yield from _mounted(base / f"delay-{delay:g}", where, subjects, bench.scale)


def on_tikv(bench: Bench) -> Iterator[Row]:
    """Beside an official client on the same cluster, and beside ourselves on other engines."""
    if bench.tikv is None:
        return
    base = bench.folder("tikv")
    urls = [f"tikv://{bench.tikv}/bench-{time.time_ns()}-{number}" for number in range(3)]
    subjects = {client.name: (client, url) for client, url in zip(bench.clients, urls, strict=False)}
    yield from _mounted(base / "clients", "TiKV", subjects, bench.scale)
    with redis_server(base / "redis") as port:
        engines = {OURS: urls[2], "on Redis": f"redis://127.0.0.1:{port}/1", "on SQLite": f"sqlite3://{base}/meta.db"}
        ours = {name: (Client(name), url) for name, url in engines.items()}
        yield from _mounted(base / "engines", "TiKV beside other engines", ours, bench.scale)


def _mounted(base: Path, where: str, subjects: Mapping[str, tuple[Client, str]], scale: Scale) -> Iterator[Row]:
    """All rows with the subjects mounted side by side."""
    with contextlib.ExitStack() as stack:
        works = {}
        for number, (name, (client, url)) in enumerate(subjects.items()):
            folder = base / name.replace(" ", "-")
            client.format(url, f"bench-{number}", folder / "objects")
            works[name] = Names(stack.enter_context(client.mounted(url, folder)), scale)
        for callers in scale.callers:
            section = f"metadata, {where}, {callers} caller{'s' * (callers > 1)}"
            yield from rows(section, works, callers, scale, {"go": 1.5 if callers == 1 else 1.0})


def rows(
    section: str, works: Mapping[str, Names], callers: int, scale: Scale, budgets: Mapping[str, float]
) -> Iterator[Row]:
    """All rows for so many callers, in an order in which later ones use what earlier ones have made."""

    def row(name: str, unit: str, method: str) -> Row:
        def of(work: Names) -> Measure:
            return lambda round_number: float(getattr(work, method)(round_number, callers))

        subjects = {who: of(work) for who, work in works.items()}
        return alternate(Row(section, name, unit, False, budgets), subjects, scale.rounds)

    yield row("create + close", "us", "create")
    yield row("mkdir", "us", "mkdir")
    yield row("write 4 KiB (create, write, close)", "us", "write_small")
    yield row("stat, cold", "us", "stat")
    yield row("stat of a missing name", "us", "miss")
    yield row("open + close, cold", "us", "open_close")
    yield row("open, read 4 KiB, close, cold", "us", "read_small")
    yield row("rename", "us", "rename")
    yield row("unlink", "us", "unlink")
    if callers == 1:
        yield row(f"readdir of {scale.entries}", "ms", "readdir")


class Names:
    """The work of every row, on one directory."""

    def __init__(self, root: Path, scale: Scale) -> None:
        self.root = root
        self.scale = scale
        self._made_at = 0.0  # when `create` last made a name

    def create(self, number: int, callers: int) -> float:
        try:
            return self._shared("files", number, callers, _create)
        finally:
            self._made_at = time.monotonic()

    def mkdir(self, number: int, callers: int) -> float:
        return self._shared("dirs", number, callers, os.mkdir)

    def write_small(self, number: int, callers: int) -> float:
        return self._shared("small", number, callers, _write)

    def stat(self, number: int, callers: int) -> float:
        return self._shared("files", number, callers, os.stat, cold=True)

    def miss(self, number: int, callers: int) -> float:
        return self._shared("files", number, callers, _miss)

    def open_close(self, number: int, callers: int) -> float:
        return self._shared("files", number, callers, _open, cold=True)

    def read_small(self, number: int, callers: int) -> float:
        """Of what `write_small` has written; from the clients' own caches."""
        return self._shared("small", number, callers, _read, cold=True)

    def rename(self, number: int, callers: int) -> float:
        return self._shared("files", number, callers, lambda path: os.rename(path, path + "~"))

    def unlink(self, number: int, callers: int) -> float:
        return self._shared("files", number, callers, lambda path: os.unlink(path + "~"))

    def readdir(self, number: int, callers: int) -> float:
        """Milliseconds of one listing with a cold cache."""
        directory = self.root / "many"
        if number == 0 and not directory.exists():
            directory.mkdir()
            for entry in range(self.scale.entries):
                _create(str(directory / f"entry-{entry:06d}"))
        drop_caches()
        start = time.perf_counter()
        found = len(os.listdir(directory))
        elapsed = time.perf_counter() - start
        assert found == self.scale.entries, f"listed {found} of {self.scale.entries} entries"
        return elapsed * 1e3

    def _shared(self, kind: str, number: int, callers: int, action: Action, cold: bool = False) -> float:
        """Microseconds per operation of all callers together, who share a directory."""
        directory = self.root / f"{kind}-{callers}-{number}"
        directory.mkdir(exist_ok=True)
        paths = [str(directory / f"file-{index:06d}") for index in range(self.scale.files)]
        if cold:
            time.sleep(max(0.0, self._made_at + _SETTLE_S - time.monotonic()))
            drop_caches()
        if callers == 1:
            start = time.perf_counter()
            for path in paths:
                action(path)
            return (time.perf_counter() - start) / len(paths) * 1e6
        return _together(paths, callers, action) / len(paths) * 1e6


def _together(paths: list[str], callers: int, action: Action) -> float:
    """Seconds that processes take for all paths, from the moment when all are ready."""
    context: Any = multiprocessing.get_context("fork")
    ready, failed = context.Barrier(callers + 1), context.Value("i", 0)

    def work(mine: list[str]) -> None:
        ready.wait()
        try:
            for path in mine:
                action(path)
        except BaseException:
            failed.value = 1
            raise

    processes = [context.Process(target=work, args=(paths[index::callers],)) for index in range(callers)]
    for process in processes:
        process.start()
    ready.wait()
    start = time.perf_counter()
    for process in processes:
        process.join()
    elapsed = time.perf_counter() - start
    assert not failed.value, "a caller failed"
    return elapsed


def _create(path: str) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))


def _write(path: str) -> None:
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    os.write(fd, b"\xa5" * 4096)
    os.close(fd)


def _read(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    found = os.read(fd, 8192)
    os.close(fd)
    assert len(found) == 4096, f"{len(found)} bytes in {path}"


def _open(path: str) -> None:
    os.close(os.open(path, os.O_RDONLY))


def _miss(path: str) -> None:
    try:
        os.stat(path + ".missing")
    except FileNotFoundError:
        return
    raise AssertionError(f"{path}.missing exists")
