"""Mistakes made when mounting, in the foreground, in the background, and as mount(8) and the CSI driver mount.

Each ends with exit code 1, one FATAL line on standard error, and nothing mounted. Other values of options are in
`test_cli_bad_input` and `test_cli_helper`; what a mount can do without, such as its port, in `test_mount_options`.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mounts import PROGRAM, Volume, abort, environment, fuse_device, juicefs, lazy_unmount
from needs import need, need_fuse

HELPER = "import sys; from juicefs_py.cli.app import run; sys.exit(run(['/sbin/mount.juicefs', *sys.argv[1:]]))"
FORMS = ("foreground", "background", "helper", "pod")


def command(form: str, url: str, point: Path, log: Path, *options: str) -> list[str]:
    """A mount asked for in this way; options without dashes, `cache-size=1`."""
    if form in ("helper", "pod"):
        return [sys.executable, "-c", HELPER, url, str(point), "-o", ",".join((f"log={log}", *options))]
    words = [f"--{option}" for option in (f"log={log}", *options)]
    return [*PROGRAM, "mount", url, str(point), *words, *(("-d",) if form == "background" else ())]


def run(form: str, url: str, point: Path, log: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run it until it has ended, which a mount in the foreground only does if it fails."""
    more = {"JFS_FOREGROUND": "1"} if form == "pod" else {}
    return subprocess.run(
        command(form, url, point, log, *options), env=environment() | more, cwd="/", capture_output=True, text=True,
        timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture
def volume(scratch: Path) -> Volume:
    need_fuse()
    return Volume(scratch / "vol").format()


def refused(form: str, url: str, point: Path, log: Path, *options: str) -> str:
    """The only FATAL line of a mount that must not come to be; nothing is left of it."""
    done = run(form, url, point, log, *options)
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr + done.stdout
    fatal = [line for line in done.stderr.splitlines() if "<FATAL>" in line]
    assert len(fatal) == 1, done.stderr
    assert fuse_device(point) is None
    return fatal[0]


@pytest.mark.parametrize("form", FORMS)
def test_option_values(form: str, volume: Volume, scratch: Path) -> None:
    """Told before anything is touched."""
    point = scratch / "mnt"
    for option, message in (
        ("cache-size=huge", 'Invalid value "huge" for "cache-size"'),
        ("io-retries=x", 'invalid value "x" for flag -io-retries'),
        ("metrics=nowhere", "invalid --metrics address"),
        ("umask=9", 'invalid umask "9"'),
    ):
        assert message in refused(form, volume.url, point, scratch / "log", option)
    assert not point.exists()


@pytest.mark.parametrize("form", FORMS)
def test_metadata(form: str, scratch: Path) -> None:
    """Unreachable, and not formatted: no mount point is made, and no database."""
    need_fuse()
    point = scratch / "mnt"
    message = refused(form, "redis://127.0.0.1:1/1", point, scratch / "log")
    assert "redis://127.0.0.1:1/1 is not available: cannot connect to Redis at 127.0.0.1:1" in message
    message = refused(form, f"sqlite3://{scratch}/none.db", point, scratch / "log")
    assert "database is not formatted" in message
    assert not point.exists() and not (scratch / "none.db").exists()


@pytest.mark.parametrize("form", FORMS)
def test_mount_points(form: str, volume: Volume, scratch: Path) -> None:
    (scratch / "file").write_text("")
    message = refused(form, volume.url, scratch / "file", scratch / "log")
    assert f'"{scratch}/file" is not a directory; choose a directory to mount on' in message
    message = refused(form, volume.url, Path("/proc/nowhere/mnt"), scratch / "log")
    assert 'create "/proc/nowhere/mnt": ' in message


@pytest.mark.parametrize("form", FORMS)
def test_an_option_that_the_kernel_refuses(form: str, volume: Volume, scratch: Path) -> None:
    """The kernel says no more than "invalid": so that all its options are named. No session is left behind."""
    point = scratch / "mnt"
    options = ("nosuchword",) if form in ("helper", "pod") else ()
    words = command(form, volume.url, point, scratch / "log", f"cache-dir={volume.cache}", *options)
    if not options:
        words += ["-o", "nosuchword"]
    more = {"JFS_FOREGROUND": "1"} if form == "pod" else {}
    done = subprocess.run(words, env=environment() | more, cwd="/", capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done
    fatal = [line for line in done.stderr.splitlines() if "<FATAL>" in line]
    assert len(fatal) == 1 and "Invalid argument" in fatal[0] and "nosuchword" in fatal[0], done.stderr
    assert fuse_device(point) is None
    assert '"Sessions": []' in juicefs("status", volume.url).stdout


@pytest.mark.parametrize("form", FORMS)
def test_a_mount_point_that_is_missing_or_dead(form: str, volume: Volume, scratch: Path) -> None:
    """ "Transport endpoint is not connected" after a crash: taken away first; a directory that is missing is made."""
    point = scratch / "mnt"
    started: list[subprocess.Popen[bytes]] = []
    try:
        for _ in ("missing", "dead"):
            process = start(form, volume, point, scratch / "log")
            started.append(process)
            wait_until(lambda: answers(point))
            kill_all(str(point))
            process.wait(20)
            wait_until(lambda: not answers(point))
            assert fuse_device(point) is not None
        started.append(start(form, volume, point, scratch / "log"))
        wait_until(lambda: answers(point))
        juicefs("umount", str(point))
        wait_until(lambda: not mount_processes(str(point)))
        assert fuse_device(point) is None, "the dead mounts below are gone, too"
    finally:
        kill_all(str(point))
        for process in started:
            process.wait(20)
        abort(point)
        lazy_unmount(point)


def start(form: str, volume: Volume, point: Path, log: Path) -> subprocess.Popen[bytes]:
    more = {"JFS_FOREGROUND": "1"} if form == "pod" else {}
    with log.open("ab") as stream:
        return subprocess.Popen(
            command(form, volume.url, point, log, f"cache-dir={volume.cache}"), env=environment() | more, cwd="/",
            stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True,
        )  # fmt: skip


def wait_until(condition: Callable[[], object], limit_s: float = 20) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def answers(point: Path) -> bool:
    try:
        return os.stat(point).st_ino == 1
    except OSError:
        return False


def mount_processes(point: str) -> list[int]:
    """Those of ours that serve or watch this mount point."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{entry}/cmdline").read_bytes().rstrip(b"\0 ").decode().split(" ")
        except OSError:
            continue
        if words[:2] == ["juicefs", "mount"] and point in words:
            found.append(int(entry))
    return found


def kill_all(point: str) -> None:
    while pids := mount_processes(point):
        for pid in sorted(pids):  # the supervisor first
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.05)


# Not root


@pytest.mark.parametrize("form", FORMS)
def test_nobody_mounts_without_fusermount(form: str, volume: Volume, scratch: Path) -> None:
    """Not as somebody else than root; the line says which package it is."""
    need("setpriv")
    for path in (volume.directory, volume.bucket, Path(volume.url.removeprefix("sqlite3://"))):
        path.chmod(0o777)
    point = scratch / "mnt"
    point.mkdir()
    point.chmod(0o777)
    home = scratch / "home"
    home.mkdir()
    home.chmod(0o777)
    more = {"JFS_FOREGROUND": "1"} if form == "pod" else {}
    words = command(form, volume.url, point, home / "log", f"cache-dir={home}")
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *words], cwd="/",
        env=environment() | more | {"PATH": str(home), "HOME": str(home)},
        capture_output=True, text=True, timeout=60, executable=shutil.which("setpriv"),
    )  # fmt: skip
    if "Permission denied" in done.stderr and "juicefs_py" in done.stderr:
        pytest.skip("needs a checkout that user 65534 may read")
    assert done.returncode == 1, done
    fatal = [line for line in done.stderr.splitlines() if "<FATAL>" in line]
    assert len(fatal) == 1 and re.search(r"fusermount3?.*install", fatal[0]), done.stderr
    assert fuse_device(point) is None
