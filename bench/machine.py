"""What benches ask of the machine: cold caches, resident memory, free ports. Measures nothing."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

MIB = 1 << 20
_READY_S = 20.0


def drop_caches() -> None:
    """Write back and forget the kernel's clean pages, dentries and inodes (needs root)."""
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as control:
        control.write("3")


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Whether somebody accepts connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Return when the condition holds; end the program with a line if it does not in time."""
    end = time.monotonic() + _READY_S
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(what)
        time.sleep(0.02)


def serving_pid(mountpoint: Path) -> int:
    """The pid that the mount tells in its `.config`."""
    return int(json.loads((mountpoint / ".config").read_bytes())["Pid"])


def resident_mib(pid: int) -> float:
    """Resident memory of a process in MiB."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE") / MIB


def resident_pair_mib(pid: int) -> float:
    """Proportional memory of a process and its parent in MiB: a mount is a supervisor and who serves."""
    total = 0
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        parent = next(int(line.split()[1]) for line in status if line.startswith("PPid:"))
    for each in (pid, parent) if parent > 1 else (pid,):
        with open(f"/proc/{each}/smaps_rollup", encoding="ascii") as rollup:
            total += next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
    return total / 1024


class Memory:
    """The most that a process has resident, looked at ten times a second."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.idle_mib = self.most_mib = resident_mib(pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            with contextlib.suppress(OSError):  # it has ended
                self.most_mib = max(self.most_mib, resident_mib(self._pid))

    def end(self) -> None:
        """Stop looking."""
        self._stop.set()
        self._thread.join()
