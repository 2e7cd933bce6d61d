"""`python -m bench.meta [--vs juicefs-go]`: metadata through the kernel, on one Redis, beside an official client.

Both clients are mounted at once, each on a database of its own, and work in turn. Every row is measured with one caller
and with several (processes); once with Redis next door and once with a round trip of a millisecond more. The page,
dentry and inode caches are dropped before every row that reads. Above 1 is a win.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.delay import delayed
from bench.local import drop_caches
from bench.measure import Row, alternate, as_json, table
from bench.peers import OURS, Client, official, redis_server

Action = Callable[[str], object]
SETTLE_S = 2.5  # before cold reads: of names younger than two seconds ours reads nothing ahead, and those are rare


def main() -> None:
    """Parse the options, run every row in every setting, print the tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.meta", description=__doc__.splitlines()[0])
    parser.add_argument("--vs", metavar="PROGRAM", help="the official client; without, one that is found")
    parser.add_argument("--files", type=int, default=400, help="operations of a row and round (default 400)")
    parser.add_argument("--entries", type=int, default=10_000, help="entries of the listed directory (default 10000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds per row (default 5)")
    parser.add_argument("--callers", type=int, nargs="*", default=[1, 16], help="how many at once (default 1 16)")
    parser.add_argument("--delay", type=float, nargs="*", default=[0.0, 1.0], help="ms added to a round trip")
    parser.add_argument("--quick", action="store_true", help="less of everything, for a first look")
    parser.add_argument("--json", action="store_true", help="print all runs as JSON")
    options = parser.parse_args()
    if options.quick:
        options.files, options.entries, options.rounds = 100, 2000, 3
    peer = official(options.vs)
    if peer is None:
        print("no official client found: name one with --vs; only ours is measured")
    base = Path(tempfile.mkdtemp(prefix="bench-meta-"))
    try:
        with redis_server(base / "redis") as port:
            for delay in options.delay:
                with delayed(port, delay) if delay else contextlib.nullcontext(port) as seen:
                    measure(base / f"delay-{delay:g}", seen, peer, delay, options)
    finally:
        shutil.rmtree(base, ignore_errors=True)


def measure(base: Path, port: int, peer: Client | None, delay: float, options: argparse.Namespace) -> None:
    """All rows with Redis at `port`."""
    clients = [Client("juicefs_py", OURS), *([peer] if peer else [])]
    with contextlib.ExitStack() as stack:
        works = {}
        for number, client in enumerate(clients):
            url = f"redis://127.0.0.1:{port}/{number + 1 + 2 * int(delay * 10)}"
            client.format(url, f"bench-{number}", base / client.name.replace(" ", "-") / "objects")
            mountpoint = stack.enter_context(client.mounted(url, base / client.name.replace(" ", "-")))
            works[client.name] = Work(mountpoint, options)
        for callers in options.callers:
            budget = 2.0 if delay and callers == 1 else 1.5 if callers == 1 else 1.0
            rows = run(works, callers, options, budget if peer else None)
            title = f"{callers} caller{'s' * (callers > 1)}, Redis {'next door' if not delay else f'+{delay:g} ms'}"
            shown = as_json(rows) if options.json else table(rows, "juicefs_py", [peer.name] if peer else [])
            print(f"\n{title}\n{shown}", flush=True)


def run(works: dict[str, Work], callers: int, options: argparse.Namespace, budget: float | None) -> list[Row]:
    """All rows for so many callers, in an order in which later ones use what earlier ones have made."""

    def row(name: str, unit: str, method: str) -> Row:
        subjects: dict[str, Callable[[int], float]] = {
            who: lambda number, work=work: getattr(work, method)(number, callers)  # type: ignore[misc]
            for who, work in works.items()
        }
        return alternate(Row(name, unit, False, budget), subjects, options.rounds)

    rows = [
        row("create + close", "us", "create"),
        row("mkdir", "us", "mkdir"),
        row("write 4 KiB (create, write, close)", "us", "write_small"),
        row("stat, cold", "us", "stat"),
        row("stat of a missing name", "us", "miss"),
        row("open + close", "us", "open_close"),
        row("rename", "us", "rename"),
        row("unlink", "us", "unlink"),
    ]
    return [*rows, row(f"readdir of {options.entries}", "ms", "readdir")] if callers == 1 else rows


class Work:
    """The work of every row, on one mount."""

    def __init__(self, root: Path, options: argparse.Namespace) -> None:
        self.root = root
        self.options = options

    def create(self, number: int, callers: int) -> float:
        return self._shared("files", number, callers, _create)

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

    def rename(self, number: int, callers: int) -> float:
        return self._shared("files", number, callers, lambda path: os.rename(path, path + "~"))

    def unlink(self, number: int, callers: int) -> float:
        return self._shared("files", number, callers, lambda path: os.unlink(path + "~"))

    def readdir(self, number: int, callers: int) -> float:
        """Milliseconds of one listing with a cold cache."""
        directory = self.root / "many"
        if number == 0 and not directory.exists():
            directory.mkdir()
            for entry in range(self.options.entries):
                _create(str(directory / f"entry-{entry:06d}"))
        drop_caches()
        start = time.perf_counter()
        found = len(os.listdir(directory))
        elapsed = time.perf_counter() - start
        assert found == self.options.entries, f"listed {found} of {self.options.entries} entries"
        return elapsed * 1e3

    def _shared(self, kind: str, number: int, callers: int, action: Action, cold: bool = False) -> float:
        """Microseconds per operation of all callers together, who share a directory."""
        directory = self.root / f"{kind}-{callers}-{number}"
        directory.mkdir(exist_ok=True)
        paths = [str(directory / f"file-{index:06d}") for index in range(self.options.files)]
        if cold:
            time.sleep(SETTLE_S)
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


def _open(path: str) -> None:
    os.close(os.open(path, os.O_RDONLY))


def _miss(path: str) -> None:
    try:
        os.stat(path + ".missing")
    except FileNotFoundError:
        return
    raise AssertionError(f"{path}.missing exists")


if __name__ == "__main__":
    main()
