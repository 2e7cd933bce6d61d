"""How long commands take to begin: `version`, and a mount until it serves. Beside an empty Python program and Go."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench.measure import OURS, Measure, Row, alternate
from bench.peers import PROGRAM, Client, run, unmount
from bench.setting import Bench, redis_server

_SECTION = "start-up"
_EMPTY = "python -c pass"


def starting(bench: Bench) -> Iterator[Row]:
    """`juicefs version`, and `juicefs mount -d` on Redis until it returns."""
    subjects = {OURS: [*PROGRAM, "version"], _EMPTY: [sys.executable, "-c", "pass"]}
    if bench.go:
        subjects[bench.go.name] = [*bench.go.command, "--version"]
    measures = {who: _ended(command) for who, command in subjects.items()}
    yield alternate(Row(_SECTION, "juicefs version", "ms", limit=100), measures, 3 * bench.scale.rounds)

    base = bench.folder("startup")
    with redis_server(base / "redis") as port:
        mounts: dict[str, Measure] = {}
        for number, client in enumerate(bench.clients):
            home, url = base / client.name.replace(" ", "-"), f"redis://127.0.0.1:{port}/{number}"
            (home / "mnt").mkdir(parents=True)
            client.format(url, f"bench-{number}", home / "objects")
            mounts[client.name] = _mounted(client, url, home)
        mounts[_EMPTY] = _ended([sys.executable, "-c", "pass"])
        yield alternate(Row(_SECTION, "juicefs mount -d on Redis", "ms", limit=1000), mounts, bench.scale.rounds)


def _ended(command: list[str]) -> Measure:
    """Milliseconds of a whole process."""

    def measure(round_number: int) -> float:
        start = time.perf_counter()
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        return (time.perf_counter() - start) * 1e3

    return measure


def _mounted(client: Client, url: str, home: Path) -> Measure:
    """Milliseconds until the mount command has returned and the root can be listed."""

    def measure(round_number: int) -> float:
        start = time.perf_counter()
        run(client.mount_command(url, home))
        os.listdir(home / "mnt")
        elapsed = (time.perf_counter() - start) * 1e3
        unmount(home / "mnt")
        time.sleep(0.5)  # until it has ended its session
        return elapsed

    return measure
