"""What a section of the bench gets: how much to do, where, and beside whom. Measures nothing itself."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.machine import free_port, wait_for
from bench.measure import OURS
from bench.peers import Client, quietly


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything."""

    rounds: int
    files: int  # operations of a metadata row and round
    entries: int  # of the directory that is listed
    callers: tuple[int, ...]  # how many work at once
    delays_ms: tuple[float, ...]  # added to a round trip to Redis
    size_mib: int  # of the large file
    small_files: int
    reads: int  # random reads of a row and round
    sources: int  # files of the tree that real programs work on
    samples: int  # of 100 KiB, for the training loader


CHECK = Scale(5, 200, 2000, (1,), (0.0,), 64, 200, 200, 300, 200)
QUICK = Scale(3, 120, 5000, (1, 16), (0.0, 1.0), 160, 300, 160, 250, 300)
FULL = Scale(7, 400, 10_000, (1, 16), (0.0, 1.0), 2048, 5000, 400, 4000, 10_000)


@dataclass(frozen=True, slots=True)
class Bench:
    """One run of the tool."""

    base: Path  # a directory of our own
    scale: Scale
    go: Client | None  # an official client
    tikv: str | None  # addresses of a PD

    @property
    def clients(self) -> list[Client]:
        """Ours, and the official one if there is one."""
        return [Client(OURS), *([self.go] if self.go else [])]

    def folder(self, name: str) -> Path:
        """A fresh directory for a section."""
        path = self.base / name
        path.mkdir(parents=True)
        return path


@contextlib.contextmanager
def redis_server(directory: Path) -> Iterator[int]:
    """A Redis of our own, with an append-only file: its port."""
    port = free_port()
    directory.mkdir(parents=True, exist_ok=True)
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", "", "--appendonly", "yes"]
    with quietly(["redis-server", *options, "--databases", "64"]) as process:
        try:
            wait_for(lambda: _answers(port), "redis-server does not answer")
            yield port
        finally:
            process.terminate()


def _answers(port: int) -> bool:
    import socket

    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.sendall(b"PING\r\n")
            return b"PONG" in connection.recv(64)
    except OSError:
        return False


def machine() -> dict[str, str | int]:
    """What figures depend on: processor, cores, kernel, Python."""
    import platform

    with open("/proc/cpuinfo", encoding="utf-8") as cpus:
        model = next((line.split(":")[1].strip() for line in cpus if line.startswith("model name")), "?")
    cores = len(os.sched_getaffinity(0))
    return {"processor": model, "cores": cores, "kernel": platform.release(), "python": platform.python_version()}
