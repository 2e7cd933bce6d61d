"""scripts/quickstart: from nothing to a mounted volume, again without harm, clear words where something is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mounts import REPOSITORY, abort, fuse_device, lazy_unmount
from needs import need_fuse

SCRIPT = str(REPOSITORY / "scripts" / "quickstart")


@pytest.fixture
def home(scratch: Path) -> Iterator[Path]:
    yield scratch / "home"
    for mountpoint in (scratch / "mnt", scratch / "home" / "mnt"):
        abort(mountpoint)
        lazy_unmount(mountpoint)


def quickstart(home: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, *words], capture_output=True, text=True, timeout=240, cwd=home.parent if home.parent.exists() else "/",
        env={**os.environ, "PYTHON": sys.executable, "JFS_QUICKSTART_DIR": str(home), **environment},
    )  # fmt: skip


@pytest.mark.battery
@pytest.mark.skipif(os.getuid() != 0, reason="mounts as root")
def test_a_first_volume_and_the_same_again(home: Path) -> None:
    need_fuse()
    mountpoint = home.parent / "mnt"
    first = quickstart(home, "mnt")  # relative to the current directory
    assert first.returncode == 0, first.stdout + first.stderr
    assert fuse_device(mountpoint)
    assert os.stat(mountpoint).st_ino == 1
    for text in (f"Your volume is at  {mountpoint}", "Three things to try:", "umount"):
        assert text in first.stdout
    (mountpoint / "hello.txt").write_text("hello\n")
    again = quickstart(home, str(mountpoint))
    assert again.returncode == 0
    assert "It is already there." in again.stdout
    (umount,) = [line for line in again.stdout.splitlines() if line.startswith("Unmount:")]
    subprocess.run(umount.partition(":")[2], shell=True, check=True)
    assert fuse_device(mountpoint) is None
    third = quickstart(home, str(mountpoint))
    assert third.returncode == 0
    assert "Installing" not in third.stdout
    assert (mountpoint / "hello.txt").read_text() == "hello\n"
    subprocess.run([home / "venv" / "bin" / "juicefs", "umount", mountpoint], check=True)


def stub(directory: Path, name: str, text: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text("#!/bin/sh\n" + text)
    (directory / name).chmod(0o755)


def test_a_python_that_is_too_old(home: Path, scratch: Path) -> None:
    for name in ("python3", "python3.11", "python3.12", "python3.13", "python3.14"):
        stub(scratch / "bin", name, "exit 1\n")
    done = quickstart(home, PYTHON="", PATH=f"{scratch}/bin:/usr/bin:/bin")
    assert done.returncode == 1
    assert "quickstart: Python 3.11 or newer is needed." in done.stderr
    assert "apt-get install python3" in done.stderr


def test_debians_python_without_venv(home: Path, scratch: Path) -> None:
    """A Python that cannot make environments until the package is installed, and an apt-get that installs nothing."""
    stub(scratch / "bin", "old-python", f'case "$*" in *ensurepip*) exit 1;; esac\nexec {sys.executable} "$@"\n')
    stub(scratch / "bin", "apt-get", f'echo "$@" >> {scratch}/asked\n')
    done = quickstart(home, PYTHON=f"{scratch}/bin/old-python", PATH=f"{scratch}/bin:/usr/bin:/bin")
    assert done.returncode == 1
    version = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    assert "apt-get install python3" in done.stderr
    if os.getuid() == 0:
        asked = (scratch / "asked").read_text()
        assert "python3-venv" in asked
        assert version in asked


def test_a_directory_that_cannot_be_made(scratch: Path) -> None:
    done = quickstart(Path("/proc/nowhere/home"), PATH=os.environ["PATH"])
    assert done.returncode == 1
    assert "cannot create /proc/nowhere/home" in done.stderr
