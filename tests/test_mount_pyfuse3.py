"""The second door: what it cannot do is answered as docs/mounting.md says, and it lives and ends like the first.

Not here: POSIX behaviour (test_posix_cases and test_posix_pjdfstest run through both doors).
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fsx import PUNCH_HOLE, fallocate
from mounts import EXIT_S, Mount, fuse_device, juicefs
from needs import need_pyfuse3
from test_handover import Driver

pytestmark = pytest.mark.battery


@pytest.fixture
def mount(new_mount: Callable[..., Mount]) -> Mount:
    need_pyfuse3()
    return new_mount(options=("--fuse", "pyfuse3", "--enable-ioctl"))


def test_what_it_cannot_do_is_refused(mount: Mount) -> None:
    path = mount.path / "f"
    path.write_bytes(b"x" * 8192)
    assert "no locks between clients, fallocate, ioctl" in mount.read_log()
    with path.open("r+b") as file:
        with pytest.raises(OSError) as raised:
            fallocate(file.fileno(), PUNCH_HOLE | 1, 0, 4096)
        assert raised.value.errno == errno.EOPNOTSUPP
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 8192  # all of it counts as data
        with (mount.path / "copy").open("wb") as copy:
            assert os.copy_file_range(file.fileno(), copy.fileno(), 8192, 0) == 8192  # read and written by the kernel
    assert (mount.path / "copy").read_bytes() == path.read_bytes()
    with pytest.raises(OSError) as raised:
        os.close(os.open(mount.path, os.O_TMPFILE | os.O_RDWR))
    assert raised.value.errno == errno.EOPNOTSUPP
    with path.open() as file, pytest.raises(OSError) as raised:
        fcntl.ioctl(file.fileno(), 0x80086601, bytes(8))  # FS_IOC_GETFLAGS
    assert raised.value.errno in (errno.ENOTTY, errno.ENOSYS)


def test_locks_hold_within_the_mount_only(mount: Mount, new_mount: Callable[..., Mount]) -> None:
    other = new_mount(volume=mount.volume, options=("--metrics", "127.0.0.1:0"))
    path = mount.path / "f"
    path.touch()
    program = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        here, there = (
            subprocess.run([sys.executable, "-c", program, root / "f"], capture_output=True).returncode
            for root in (mount.path, other.path)
        )
    assert (here, there) == (1, 0)


def test_commands_and_squashed_users(mount: Mount, new_mount: Callable[..., Mount]) -> None:
    (mount.path / "d").mkdir()
    (mount.path / "d" / "f").write_bytes(b"x" * 100)
    assert "f" in juicefs("info", str(mount.path / "d" / "f")).stdout
    juicefs("clone", str(mount.path / "d"), str(mount.path / "e"))
    assert (mount.path / "e" / "f").read_bytes() == b"x" * 100
    juicefs("rmr", str(mount.path / "d"))
    assert sorted(path.name for path in mount.path.iterdir() if not path.name.startswith(".")) == ["e"]
    squashed = new_mount(options=("--fuse", "pyfuse3", "--all-squash", "1234:1235", "--metrics", "127.0.0.1:0"))
    (squashed.path / "f").write_text("x")
    found = os.stat(squashed.path / "f")
    assert (found.st_uid, found.st_gid) == (1234, 1235)


def test_its_serving_process_dies_and_is_started_again(mount: Mount) -> None:
    (mount.path / "f").write_text("x")
    pid = json.loads((mount.path / ".config").read_text())["Pid"]
    mount.expected.append(f"mount process {pid}")
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + EXIT_S
    while True:
        try:
            assert (mount.path / "f").read_text() == "x"
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_a_signal_ends_it_in_order(mount: Mount) -> None:
    (mount.path / "f").write_text("x")
    assert mount.process is not None
    mount.process.send_signal(signal.SIGTERM)
    assert mount.process.wait(EXIT_S) == 0
    assert not Path(mount.path / "f").exists()
    mount.check_log()
    mount.kill()


def test_a_pod_ends_with_its_container(mount: Mount, new_mount: Callable[..., Mount], tmp_path: Path) -> None:
    """A driver that keeps connections has none of it, so TERM means the end of the mount and not a pause."""
    driver = Driver(tmp_path / "driver.sock")
    try:
        environment = {"JFS_SUPER_COMM": str(driver.path)}
        pod = Mount(mount.volume, tmp_path / "pod", ("--fuse", "pyfuse3"), more_environment=environment).start()
        (pod.path / "f").write_text("flushed")
        assert pod.process is not None
        pod.process.send_signal(signal.SIGTERM)
        assert pod.process.wait(EXIT_S) == 0
        pod._forget()
        assert fuse_device(pod.path) is None and driver.fd is None
        assert (mount.path / "f").read_text() == "flushed"
    finally:
        driver.end()


def test_an_answer_that_nobody_waits_for_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """After the unmount the kernel knows a request no more whose answer is under way: pyfuse3 logged an error."""
    need_pyfuse3()
    from juicefs_py.doors.pyfuse3 import _of_interest

    log = logging.getLogger("pyfuse3")
    log.addFilter(_of_interest)
    log.error("fuse_release(): fuse_reply_* failed with %s", os.strerror(errno.ENOENT))
    assert not caplog.records
    log.error("fuse_release(): fuse_reply_* failed with %s", os.strerror(errno.EINVAL))
    assert len(caplog.records) == 1


def test_it_is_never_handed_over(mount: Mount) -> None:
    """HUP only flushes, and another mount lies on top: nobody could go on with libfuse's connection."""
    pid = json.loads((mount.path / ".config").read_text())["Pid"]
    os.kill(pid, signal.SIGHUP)
    deadline = time.monotonic() + 10
    while "cannot hand a mount over" not in mount.read_log():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    words = ("--cache-dir", str(mount.volume.cache), "--log", str(mount.volume.directory / "log"), "--enable-ioctl")
    juicefs("mount", "-d", mount.volume.url, str(mount.path), *words)
    assert json.loads((mount.path / ".config").read_text())["Pid"] != pid
    juicefs("umount", str(mount.path))
    assert json.loads((mount.path / ".config").read_text())["Pid"] == pid
