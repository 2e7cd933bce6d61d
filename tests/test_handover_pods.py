"""How a mount ends where a driver keeps its connection, and where its serving process asks for the end of everything.

What is taken over by a successor is in `test_handover`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mounts import PROGRAM, Mount, Volume, abort, environment, fuse_device, lazy_unmount
from needs import need_fuse
from test_handover import Driver, as_pod, config_of, served_by, wait_until

IMPATIENT = (
    "import sys; from juicefs_py.mount import serve; serve._STOP_WITHIN_S = 1; "
    "from juicefs_py.cli.app import run; sys.exit(run(['juicefs', *sys.argv[1:]]))"
)
"""The program, waiting less long for those who still use the mount."""


@pytest.fixture
def volume(scratch: Path) -> Volume:
    need_fuse()
    return Volume(scratch / "vol").format()


def test_a_pod_that_is_deleted_flushes_and_keeps_the_mount_for_the_next_one(volume: Volume, scratch: Path) -> None:
    """TERM: no zero, which would tell the driver "replaced", and nothing that was written is lost."""
    path = scratch / "mnt"
    path.mkdir()
    driver = Driver(scratch / "driver.sock")
    pods = [as_pod(volume, path, driver)]
    try:
        wait_until(lambda: driver.fd is not None and served_by(path), "the driver has the descriptor")
        before = config_of(path)
        writer = subprocess.Popen(["sh", "-c", f"exec 3>{path}/f; echo one >&3; sleep 4; echo two >&3"])
        wait_until(lambda: os.path.exists(path / "f"), "the file is there")
        pods[0].terminate()
        assert pods[0].wait(20) == 2
        assert not os.path.exists(f"/tmp/fuse_fd_comm.{pods[0].pid}")
        assert fuse_device(path) is not None and driver.fd is not None
        second = Mount(volume, scratch / "second").start()  # what was written is there for others
        assert (second.path / "f").read_bytes().startswith(b"one\n")
        second.stop()
        # In a container both are process 1, and the state is found by that.
        pods.append(as_pod(volume, path, driver, _FUSE_STATE_PATH=before["StatePath"]))
        wait_until(lambda: served_by(path), "another process serves")
        assert writer.wait(30) == 0
        assert (path / "f").read_text() == "one\ntwo\n"
    finally:
        for pod in pods:
            if pod.poll() is None:
                os.killpg(pod.pid, signal.SIGKILL)
                pod.wait(20)
        driver.end()
        abort(path)
        lazy_unmount(path)


def test_a_serving_process_that_asks_for_the_end(volume: Volume, scratch: Path) -> None:
    """Exit code 11, here because the mount stays in use: unmounted, not started again, and the supervisor says 0."""
    path = scratch / "mnt"
    path.mkdir()
    log = volume.directory / "log"
    with log.open("wb") as stream:
        supervisor = subprocess.Popen(
            [sys.executable, "-c", IMPATIENT, *Mount(volume, path).command()[len(PROGRAM) :]], cwd="/",
            env=environment(), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True,
        )  # fmt: skip
    try:
        wait_until(lambda: served_by(path), "it serves")
        wait_until(lambda: "is ready at" in log.read_text(), "it says so")
        busy = os.open(path / "f", os.O_WRONLY | os.O_CREAT)
        os.write(busy, b"flushed")
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(20) == 0
        with pytest.raises(OSError, match="not connected"):
            os.close(busy)  # the kernel gives the descriptor back all the same
        assert "received umount exit code" in log.read_text()
        assert "will restart" not in log.read_text()
        assert fuse_device(path) is None
        again = Mount(volume, scratch / "again").start()
        assert (again.path / "f").read_bytes() == b"flushed"
        again.stop()
    finally:
        if supervisor.poll() is None:
            os.killpg(supervisor.pid, signal.SIGKILL)
            supervisor.wait(20)
        abort(path)
        lazy_unmount(path)
