"""stress-ng's file system stressors on a mount, each for a second with --verify.

Not here: those that test the machine and not the file system below --temp-path (binderfs, procfs, eventfd, ioprio ...).
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from needs import tool

pytestmark = pytest.mark.battery

STRESSORS = (
    "access", "chattr", "chdir", "chmod", "chown", "copy-file", "dentry", "dir", "dirdeep", "dirmany", "dnotify", "dup",
    "fallocate", "fcntl", "fiemap", "file-ioctl", "filename", "flock", "fpunch", "fsize", "fstat", "getdent", "handle",
    "hdd", "inode-flags", "inotify", "io", "iomix", "lease", "link", "locka", "lockf", "lockofd", "mknod", "open",
    "rename", "symlink", "sync-file", "touch", "utime", "xattr",
)  # fmt: skip
BOUNDS = {
    "copy-file": ("--copy-file-bytes", "128m"),
    "fallocate": ("--fallocate-bytes", "32m"),
    "hdd": ("--hdd-bytes", "32m"),
    "iomix": ("--iomix-bytes", "32m"),
    "sync-file": ("--sync-file-bytes", "16m"),
    "dirdeep": ("--dirdeep-inodes", "200", "--dirdeep-dirs", "1"),
    "dentry": ("--dentries", "256"),
    "dir": ("--dir-dirs", "256"),
}
"""Their default sizes are made for local disks: what a second's work leaves behind would take minutes to remove."""
SECONDS, LONG_SECONDS = "1", "10"
OK, NOT_IMPLEMENTED = 0, 4  # exit codes of stress-ng
UNSUPPORTED: frozenset[str] = frozenset()
"""Stressors that may say that the file system lacks what they need."""


@pytest.mark.timeout(240)
@pytest.mark.parametrize("stressor", STRESSORS)
def test_stressor(stressor: str, place: Path, long_run: bool) -> None:
    command = [
        tool("stress-ng"), f"--{stressor}", "2", "--timeout", LONG_SECONDS if long_run else SECONDS, "--verify",
        "--temp-path", str(place), "--oomable", *BOUNDS.get(stressor, ()),
    ]  # fmt: skip
    known = subprocess.run(
        [tool("stress-ng"), "--stressors"], capture_output=True, text=True, check=True
    ).stdout.split()
    if stressor not in known:
        pytest.skip(f"this stress-ng has no stressor {stressor}")
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60 if not long_run else 200,
        cwd=place,
    )
    allowed = {OK, NOT_IMPLEMENTED} if stressor in UNSUPPORTED else {OK}
    assert done.returncode in allowed, f"exit {done.returncode}\n{done.stdout[-3000:]}"
    assert "fail:" not in done.stdout, done.stdout[-3000:]
