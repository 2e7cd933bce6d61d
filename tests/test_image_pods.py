"""Mount pods, as the CSI driver makes them: born, used through the shared mount, upgraded in both ways, ended in all.

Metadata in Redis, objects on an S3 server, both as seen from the node. Not the image itself (test_image).
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import containers
import pytest
from containers import Node, Pod
from csi_driver import PRE_STOP, Driver, VolumeSecret
from handover_work import Crew
from mounts import Volume, fuse_device
from s3_server import ACCESS_KEY, SECRET_KEY, shared_server

from juicefs_py.mount import passfd

pytestmark = [pytest.mark.battery, pytest.mark.timeout(1600)]  # the first build fetches Debian and all packages

OPTIONS = (
    "cache-size=1G", "buffer-size=300", "open-cache=0", "custom-labels=team:a;stage:b", "token=unused",
    "metrics=0.0.0.0:0",
)  # fmt: skip


@pytest.fixture
def node(scratch: Path) -> Iterator[Node]:
    containers.need_containers()
    containers.image()
    made = Node(scratch / "node")
    yield made
    made.close()


@pytest.fixture
def secret(scratch: Path) -> VolumeSecret:
    server = shared_server()
    return VolumeSecret(
        Volume(scratch / "vol", "redis").url, storage="s3", bucket=server.address(server.new_bucket()),
        access_key=ACCESS_KEY, secret_key=SECRET_KEY, more={"trash-days": "0"}, format_options=("block-size=1024",),
    )  # fmt: skip


def config_of(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((path / ".config").read_text())
    return document


def wait_until(condition: Callable[[], object], what: str, limit_s: float = 30) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.1)


def served_by(path: Path) -> int | None:
    try:
        return int(config_of(path)["Pid"])
    except (OSError, ValueError):  # in between
        return None


def test_a_pod_is_used_and_deleted(node: Node, secret: VolumeSecret) -> None:
    """What an application sees, probes, and the end: preStop as kubelet runs it, then TERM. It is quick."""
    pod = node.mount_pod(secret, "pvc-1", OPTIONS)
    path = node.wait_ready("pvc-1", pod)
    mounted = subprocess.run(["findmnt", "-n", "-o", "FSTYPE,SOURCE", str(path)], capture_output=True, text=True)
    assert mounted.stdout.split() == ["fuse.juicefs", "JuiceFS:myjfs"]
    title = pod.exec("cat", "/proc/1/cmdline")
    assert "custom-labels=team:a;stage:b" in title and "redis://" in title
    assert config_of(path)["PPid"] == 1  # what signals and upgrades rely on
    seen = node.application(
        "pvc-1",
        "mountpoint -q /data && stat -c %i /data && echo hello > /data/f && cat /data/f && mkdir -m 777 /data/sub"
        " && dd if=/dev/urandom of=/data/sub/big bs=1M count=5 status=none && sha256sum /data/sub/big | head -c 64",
    ).stdout.split()
    assert seen[:2] == ["1", "hello"]
    assert subprocess.check_output(["sha256sum", str(path / "sub/big")], text=True)[:64] == seen[2]
    assert pod.exec("timeout", "1", "stat", "-c", "%i", "/jfs/pvc-1").strip() == "1"
    assert pod.exec("sh", "-c", "cat /jfs/pvc-1/f") == "hello\n"
    assert "myjfs" in pod.exec("df", "--output=source", "/jfs/pvc-1")
    assert (node.cache / config_of(path)["Format"]["UUID"] / "raw").is_dir()
    begun = time.monotonic()
    pod.exec("sh", "-c", "+e", PRE_STOP.format(point="/jfs/pvc-1"))
    pod.terminate()
    assert pod.exit_code() == 0
    assert time.monotonic() - begun < 8, pod.logs()
    assert fuse_device(path) is None
    assert not path.exists()
    assert pod.state()["Restarts"] == 0


def test_terminated_without_prestop(node: Node, secret: VolumeSecret) -> None:
    """A sidecar, whose TERM comes while the mount is there: it goes, and what was written is kept."""
    pod = node.mount_pod(secret, "pvc-2", OPTIONS)
    path = node.wait_ready("pvc-2", pod)
    (path / "f").write_bytes(b"x" * 100_000)
    begun = time.monotonic()
    pod.terminate()
    assert pod.exit_code() == 0 and time.monotonic() - begun < 8
    assert fuse_device(path) is None
    again = node.mount_pod(secret, "pvc-2", (*OPTIONS, "ro"))
    path = node.wait_ready("pvc-2", again)
    assert (path / "f").read_bytes() == b"x" * 100_000
    with pytest.raises(OSError):
        (path / "g").touch()


def test_the_last_reference_is_gone(node: Node, secret: VolumeSecret) -> None:
    """The driver unmounts on the host; the process ends by itself, with 0, and is not started again."""
    pod = node.mount_pod(secret, "pvc-3", OPTIONS)
    path = node.wait_ready("pvc-3", pod)
    subprocess.run(["umount", "-l", str(path)], check=True)
    assert pod.exit_code() == 0
    assert pod.state()["Restarts"] == 0


def test_a_pod_that_cannot_mount_is_started_again(node: Node, secret: VolumeSecret) -> None:
    """It ends with an error that says why, which kubelet answers with another start."""
    secret.secret_key = "not-the-key"
    pod = node.mount_pod(secret, "pvc-4", OPTIONS)
    wait_until(lambda: pod.state()["Restarts"] > 1, "the container is started again")
    assert "database is not formatted" in pod.logs()
    assert "not-the-key" not in pod.logs() and SECRET_KEY not in pod.logs()


def test_the_worker_is_killed(node: Node, secret: VolumeSecret) -> None:
    """Whoever has a file open goes on with it, and the container with it."""
    pod = node.mount_pod(secret, "pvc-5", OPTIONS)
    path = node.wait_ready("pvc-5", pod)
    fd = os.open(path / "f", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"before ")
    os.fsync(fd)
    pid = config_of(path)["Pid"]
    pod.exec("kill", "-s", "SIGKILL", str(pid))
    os.write(fd, b"after")
    os.close(fd)
    assert config_of(path)["Pid"] != pid and (path / "f").read_text() == "before after"
    assert pod.state()["Restarts"] == 0


class Upgrade:
    """A pod whose mount is in use, and the driver beside it.

    Those who use it are other processes: a fork of this one would close its files, and wait for the mount to answer.
    """

    def __init__(self, node: Node, secret: VolumeSecret) -> None:
        self.node, self.secret = node, secret
        self.directory = node.descriptors("uuid-1")
        self.driver = Driver(self.directory / "fuse_fd_csi_comm.sock")
        self.pod = self.start()
        self.path = node.wait_ready("pvc-6", self.pod)
        wait_until(lambda: self.driver.fd is not None, "the driver has the descriptor")
        self.config = config_of(self.path)
        self.crew = Crew(self.path, ("reader", "writer", "unlinked", "locks"))

    def start(self, **more_environment: str) -> Pod:
        """A pod of this mount; those that follow one another share the place of the descriptor."""
        return self.node.mount_pod(self.secret, "pvc-6", OPTIONS, upgrade="uuid-1", **more_environment)

    def check_crew(self) -> None:
        """All have gone on with what they had open, and nothing was lost."""
        done = self.crew.leave()
        print({kind: (one["steps"], one["longest"]) for kind, one in done.items()})
        assert not any(one["lost"] for one in done.values()), done

    def end(self) -> None:
        self.crew.kill()
        self.driver.end()


@pytest.fixture
def upgrade(node: Node, secret: VolumeSecret) -> Iterator[Upgrade]:
    made = Upgrade(node, secret)
    yield made
    made.end()


def test_recreate_upgrade(upgrade: Upgrade) -> None:
    """The driver takes the supervisor's descriptor, HUPs the worker, and makes another pod; the mount never goes."""
    old, config = upgrade.pod, upgrade.config
    upgrade.driver.close_theirs(config["PPid"], str(upgrade.directory))
    old.exec("kill", "-s", "SIGHUP", str(config["Pid"]))
    assert old.exit_code() == 0  # "Completed"
    assert fuse_device(upgrade.path) is not None
    waiter = subprocess.Popen(["stat", "-c", "%i", str(upgrade.path / "not-cached")], stderr=subprocess.PIPE)
    time.sleep(0.5)
    assert waiter.poll() is None  # nobody serves, and nobody fails
    upgrade.start(_JFS_META_SID=str(config["Meta"]["Sid"]), _FUSE_STATE_PATH=config["StatePath"])
    old.remove()
    assert waiter.wait(60) == 1 and b"No such file" in waiter.communicate()[1]
    wait_until(lambda: upgrade.driver.fd is not None, "the driver has the descriptor again")
    assert config_of(upgrade.path)["Meta"]["Sid"] == config["Meta"]["Sid"]
    upgrade.check_crew()


REBUILD = r"""
import zipfile
old = zipfile.ZipFile("/usr/local/bin/juicefs")
with open("/tmp/juicefs", "wb") as file:
    file.write(b"#!/usr/bin/python3 -IS\n")
    with zipfile.ZipFile(file, "a") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename == "juicefs_py/__init__.py":
                data = data.replace(b'OWN_VERSION = "', b'OWN_VERSION = "9.')
            if info.filename != "juicefs_py/__init__.pyc":
                new.writestr(info, data)
"""


def test_binary_upgrade(upgrade: Upgrade) -> None:
    """Another file takes the place of the program in the running container; after a HUP it serves."""
    pod, config = upgrade.pod, upgrade.config
    canary = f"python3 - <<'END'\n{REBUILD}\nEND\nchmod 755 /tmp/juicefs"  # as if it came from another image
    containers.run(canary, "--network", "none", "-v", f"{upgrade.directory}:/tmp")
    pod.exec("sh", "-c", "rm -rf /usr/local/bin/juicefs && mv /tmp/juicefs /usr/local/bin/juicefs")
    assert config_of(upgrade.path)["Pid"] == config["Pid"]
    pod.exec("kill", "-s", "SIGHUP", str(config["Pid"]))
    wait_until(lambda: served_by(upgrade.path) not in (None, config["Pid"]), "another process serves")
    after = config_of(upgrade.path)
    assert after["Version"] != config["Version"] and ".py9" in after["Version"]
    assert (after["PPid"], after["Meta"]["Sid"]) == (1, config["Meta"]["Sid"])
    upgrade.check_crew()
    assert pod.state()["Restarts"] == 0


def test_process_1_dies(upgrade: Upgrade) -> None:
    """kubelet starts the container again, which goes on with the descriptor that the driver has kept."""
    pod, sid = upgrade.pod, upgrade.config["Meta"]["Sid"]
    upgrade.crew.leave()
    subprocess.run(["kill", "-s", "KILL", str(pod.state()["Pid"])], check=True)
    wait_until(lambda: pod.state()["Restarts"] == 1, "the container is started again")
    wait_until(lambda: served_by(upgrade.path), "it serves")
    assert config_of(upgrade.path)["Meta"]["Sid"] != sid  # nobody has told it the old one
    assert (upgrade.path / "writer/written").stat().st_size > 0


def test_the_driver_starts_again(upgrade: Upgrade) -> None:
    """It looks at every supervisor, and gives back over the same connection what it gets, less a copy of its own."""
    driver = upgrade.driver
    connection = passfd.connect(str(upgrade.directory / "fuse_fd_comm.1"))
    assert connection is not None
    with connection:
        setting, fds = passfd.receive(connection, 2)
        assert len(fds) == 2 and len(setting) == 104
        passfd.send(connection, setting, fds[1:])
    for fd in fds:
        os.close(fd)
    time.sleep(0.5)  # the supervisor gives it to the driver as well, which has its own already
    assert driver.fd is not None
    upgrade.pod.exec("kill", "-s", "SIGKILL", str(upgrade.config["Pid"]))
    wait_until(lambda: served_by(upgrade.path) not in (None, upgrade.config["Pid"]), "another process serves")
    upgrade.crew.leave()
    assert upgrade.pod.state()["Restarts"] == 0


def test_deleted_while_referenced(upgrade: Upgrade) -> None:
    """TERM ends it at once, unserved but mounted; the driver removes the state files and makes another pod."""
    upgrade.crew.leave()
    begun = time.monotonic()
    upgrade.pod.terminate()
    assert time.monotonic() - begun < 8
    assert upgrade.pod.exit_code() != 0  # it was not replaced
    assert fuse_device(upgrade.path) is not None
    upgrade.pod.remove()
    for left in upgrade.directory.glob("state*.json"):
        left.unlink()
    upgrade.start()
    wait_until(lambda: served_by(upgrade.path), "it serves")
    assert (upgrade.path / "writer/written").stat().st_size > 0
