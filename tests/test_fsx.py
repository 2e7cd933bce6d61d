"""Long random runs over one file on a mount (fsx.py): plain, write-back cache, Redis, a chunk edge, several at once.

The seeds are fixed so that CI is repeatable; FSX_SEED=n tries another one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fsx import Exerciser, Mismatch
from mounts import Mount

pytestmark = pytest.mark.battery

SEED = int(os.environ.get("FSX_SEED", "20251"))
CHUNK = 64 << 20
OPERATIONS = 90_000
LONG_OPERATIONS = 200_000


def exercise(path: Path, seed: int, operations: int, **settings: int) -> None:
    """One run; prints seed and speed."""
    exerciser = Exerciser(path, seed, **settings)
    started = time.monotonic()
    try:
        exerciser.run(operations)
    finally:
        exerciser.close()
    print(f"fsx seed {seed}: {operations} operations, {operations / (time.monotonic() - started):.0f}/s")


def count(long_run: bool, share: float = 1.0) -> int:
    return int((LONG_OPERATIONS if long_run else OPERATIONS) * share)


@pytest.mark.timeout(900)
def test_one_file(place: Path, long_run: bool) -> None:
    exercise(place / "file", SEED, count(long_run))


@pytest.mark.timeout(900)
def test_over_the_edge_of_a_chunk(place: Path, long_run: bool) -> None:
    exercise(place / "file", SEED + 1, count(long_run, 0.2), base=CHUNK - 128 * 1024)


@pytest.mark.timeout(900)
def test_large_writes_over_blocks(place: Path, long_run: bool) -> None:
    exercise(place / "file", SEED + 2, count(long_run, 0.05), largest=12 << 20, base=CHUNK - (6 << 20))


@pytest.mark.timeout(900)
def test_with_the_kernels_write_back_cache(new_mount: Callable[..., Mount], long_run: bool) -> None:
    mount = new_mount("sqlite", ("-o", "writeback_cache"))
    exercise(mount.path / "file", SEED + 3, count(long_run, 0.4))


@pytest.mark.timeout(900)
def test_on_redis(new_mount: Callable[..., Mount], long_run: bool) -> None:
    mount = new_mount("redis")
    exercise(mount.path / "file", SEED + 5, count(long_run, 0.05))


@pytest.mark.timeout(900)
def test_compressed_blocks_and_no_cache(new_mount: Callable[..., Mount], long_run: bool) -> None:
    """Every read comes from the bucket, through zstd, and blocks are of 64 KiB."""
    form = ("--trash-days", "0", "--compress", "zstd", "--block-size", "64K")
    mount = new_mount("sqlite", ("--cache-size", "0"), format_options=form)
    mount.expected.append("cache-size is 0")
    exercise(mount.path / "file", SEED + 4, count(long_run, 0.2))


@pytest.mark.timeout(900)
def test_four_files_at_once(place: Path, long_run: bool) -> None:
    program = Path(__file__).with_name("fsx.py")
    operations = str(count(long_run, 0.1))
    running = [
        subprocess.Popen(
            [sys.executable, str(program), str(place / f"file{n}"), "--seed", str(SEED + 10 + n), "--ops", operations],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for n in range(4)
    ]  # fmt: skip
    reports = [(process.communicate(timeout=800)[0], process.returncode) for process in running]
    for report, status in reports:
        print(report.strip())
        assert status == 0, report


def test_the_exerciser_sees_a_wrong_byte(tmp_path: Path) -> None:
    exerciser = Exerciser(tmp_path / "file", SEED)
    exerciser.run(500)
    exerciser.put(100, b"some")
    os.pwrite(exerciser.fd, b"some", 100)
    exerciser.check_all()
    os.pwrite(exerciser.fd, bytes([exerciser.model[-1] ^ 1]), len(exerciser.model) - 1)
    with pytest.raises(Mismatch, match=f"seed {SEED}"):
        exerciser.check_all()
    exerciser.close()
