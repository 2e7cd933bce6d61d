"""Resident memory of a mount: idle, and after large sequential writes and reads, against the budget of the design.

Not here: speed (bench/).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mounts import Mount

pytestmark = pytest.mark.battery

MIB = 1 << 20
IDLE = 80 * MIB
BUFFER = 100
BLOCK = 4 * MIB
PER_CACHED_BLOCK = 200
FILE_MIB, LONG_FILE_MIB = 512, 4096


def write(path: Path, size_mib: int) -> float:
    """Write that much with fsync; MiB/s."""
    data = os.urandom(MIB)
    started = time.monotonic()
    with path.open("wb", buffering=0) as file:
        for _ in range(size_mib):
            file.write(data)
        os.fsync(file.fileno())
    return size_mib / (time.monotonic() - started)


def read(path: Path) -> float:
    """Read it all with nothing in the kernel's page cache; MiB/s."""
    total, started = 0, time.monotonic()
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while data := file.read(MIB):
            total += len(data)
    return total / MIB / (time.monotonic() - started)


@pytest.mark.timeout(600)
def test_resident_memory(new_mount: Callable[..., Mount], long_run: bool) -> None:
    mount = new_mount("sqlite", ("--buffer-size", str(BUFFER)))
    size = LONG_FILE_MIB if long_run else FILE_MIB
    time.sleep(1)
    seen = {"idle": mount.rss_bytes()}
    speeds = {}
    speeds["written"] = write(mount.path / "a", size)
    seen["written"] = mount.rss_bytes()
    speeds["read"] = read(mount.path / "a")
    seen["read"] = mount.rss_bytes()
    for number in range(300):
        (mount.path / f"small{number}").write_bytes(b"x" * 5000)
    os.unlink(mount.path / "a")
    seen["small files"] = mount.rss_bytes()
    for state, resident in seen.items():
        speed = f" at {speeds[state]:.0f} MiB/s" if state in speeds else ""
        print(f"{state}: {resident / MIB:.0f} MiB resident in {len(mount.pids())} processes{speed}")
    assert seen["idle"] <= IDLE
    limit = IDLE + BUFFER * MIB + PER_CACHED_BLOCK * (size * MIB // BLOCK)
    assert max(seen.values()) <= limit, f"budget {limit / MIB:.0f} MiB"
