"""A node that runs containers, for tests: the mount image, pods, and what kubelet does with them, by podman.

Not here: what the driver asks for (`csi_driver`). Images and containers are in a store of their own below
JFS_TEST_TOOLS, and nothing of the machine's own podman is touched. Layers of the image are kept there by their content,
so a build that changes nothing takes seconds.
"""

from __future__ import annotations

import base64
import ctypes
import itertools
import json
import os
import subprocess
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

from csi_driver import VolumeSecret, mount_pod
from mounts import REPOSITORY, abort, lazy_unmount
from needs import TOOLS, missing, need, need_fuse

STORE = TOOLS / "containers"
_libc = ctypes.CDLL(None, use_errno=True)
_MS_BIND, _MS_REC, _MS_SHARED, _MNT_DETACH = 4096, 16384, 1 << 20, 2
_numbers = itertools.count(1)
HANGS_S = 240.0
"""A node that lives longer than a test should is taken for one whose mounts hang."""


def need_containers() -> None:
    """The one place that decides whether there can be containers here."""
    need_fuse()
    need("podman", "runc", "conmon", "catatonit", "debootstrap")
    problem = _trouble()
    if problem:
        missing(f"a podman that works here ({problem})")


@cache
def _trouble() -> str:
    done = podman("info", check=False)
    if done.returncode:  # overlay does not lie on every file system
        _write_storage("vfs")
        done = podman("info", check=False)
    return "" if done.returncode == 0 else done.stderr.strip()[-300:]


def _write_storage(driver: str) -> None:
    (STORE / "storage.conf").write_text(
        f'[storage]\ndriver = "{driver}"\ngraphroot = "{STORE}/{driver}"\nrunroot = "/run/juicefs_py-tests"\n'
    )


@cache
def settings() -> dict[str, str]:
    """The environment of podman: runc, because crun wants one kind of cgroups; limits that a container may have."""
    STORE.mkdir(parents=True, exist_ok=True)
    (STORE / "containers.conf").write_text(
        "[containers]\n"
        'default_ulimits = ["nofile=20000:20000", "nproc=30000:30000"]\n'
        'netns = "host"\n'
        "[engine]\n"
        'runtime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
    )
    _write_storage("overlay")
    paths = {"CONTAINERS_CONF": f"{STORE}/containers.conf", "CONTAINERS_STORAGE_CONF": f"{STORE}/storage.conf"}
    return os.environ | paths


def podman(
    *words: str, check: bool = True, timeout_s: float = 120, given: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run podman; its output as text."""
    done = subprocess.run(
        ["podman", *words], env=settings(), input=given, capture_output=True, text=True, timeout=timeout_s, cwd="/"
    )
    assert not check or done.returncode == 0, f"podman {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done


@cache
def image() -> str:
    """The mount image of this source tree, built without a registry."""
    done = subprocess.run(
        [str(REPOSITORY / "deploy/image/build"), "--without-registry"],
        env=settings(), capture_output=True, text=True, timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    podman("image", "prune", "--force", "--filter", "until=24h")
    podman("pod", "prune", "--force")  # of runs that were killed
    return done.stdout.splitlines()[-1]


def run(
    script: str, *options: str, check: bool = True, timeout_s: float = 90, of: str = ""
) -> subprocess.CompletedProcess[str]:
    """A container that runs `sh -c script` to its end; without network and rights, unless `options` give them."""
    return podman(
        "run", "--rm", *(options or ("--network", "none")), of or image(), "sh", "-c", script,
        check=check, timeout_s=timeout_s,
    )  # fmt: skip


PRIVILEGED = ("--privileged", "--device", "/dev/fuse", "--network", "host")


class Pod:
    """One pod with one container, as its kubelet sees it."""

    def __init__(self, name: str, container: str) -> None:
        self.name = name
        self.container = f"{name}-{container}"

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(podman("inspect", self.container).stdout)[0]
        return state["State"] | {"Restarts": state["RestartCount"]}

    def is_running(self) -> bool:
        return bool(self.state()["Running"])

    def exit_code(self, within_s: float = 30) -> int:
        """Wait until the container has ended for good; its exit code."""
        deadline = time.monotonic() + within_s
        while self.is_running():
            assert time.monotonic() < deadline, f"{self.name} still runs:\n{self.logs()}"
            time.sleep(0.1)
        return int(self.state()["ExitCode"])

    def exec(self, *words: str, check: bool = True) -> str:
        """Run a command in the container; what it prints on both streams."""
        done = podman("exec", self.container, *words, check=check)
        return done.stdout + done.stderr

    def logs(self) -> str:
        done = podman("logs", self.container, check=False)
        return done.stdout + done.stderr

    def terminate(self, grace_s: int = 10) -> None:
        """As the deletion of a pod begins: TERM to process 1, and KILL if it is still there after the grace period."""
        podman("stop", "--time", str(grace_s), self.container)

    def remove(self) -> None:
        """At once. The container first: with the pod as a whole podman waits for some seconds."""
        podman("rm", "--force", "--time", "0", self.container, check=False)
        podman("pod", "kill", self.name, check=False)
        podman("pod", "rm", "--force", "--time", "0", self.name, check=False)


class Node:
    """Directories of a host as the driver uses them, and the pods on it; all of it ends with `close`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.volumes = directory / "volume"  # JUICEFS_MOUNT_PATH
        self.plugin = directory / "run"  # /var/run/juicefs-csi
        self.cache = directory / "cache"
        self._pods: list[Pod] = []
        self._secrets: list[str] = []
        self._watchdog = threading.Timer(HANGS_S, self.abort)
        self._watchdog.daemon = True
        self._watchdog.start()
        for path in (self.volumes, self.plugin, self.cache):
            path.mkdir(parents=True)
        # What a container mounts below it is seen here, and in other containers.
        self._mount(str(self.volumes), _MS_BIND)
        self._mount(None, _MS_SHARED | _MS_REC)

    def _mount(self, source: str | None, flags: int) -> None:
        source_name = os.fsencode(source) if source else None
        if _libc.mount(source_name, os.fsencode(self.volumes), None, flags, None):
            raise OSError(ctypes.get_errno(), f"mount {self.volumes}")

    def descriptors(self, upgrade: str) -> Path:
        """The directory that a pod sees as /tmp; pods that follow one another have the same."""
        path = self.plugin / upgrade
        path.mkdir(exist_ok=True)
        return path

    def mount_pod(
        self, secret: VolumeSecret, volume_id: str, options: tuple[str, ...], *, upgrade: str = "", point: str = "",
        of: str = "", **more_environment: str,
    ) -> Pod:  # fmt: skip
        """Create what the driver would create for a volume. `upgrade`: the directory for the descriptor, if any."""
        number = next(_numbers)
        name = f"juicefs-node1-{volume_id}-{os.getpid():06d}{number}"
        secret_name = f"{name}-secret"
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in secret.variables().items()}
        podman("secret", "create", secret_name, "-", given=json.dumps(encoded))
        self._secrets.append(secret_name)
        folders = {"jfs-dir": str(self.volumes), "updatedb": f"{self.directory}/updatedb.conf"}
        if not any(option.startswith("cache-dir=") for option in options):
            folders["cachedir-0"] = str(self.cache)
        if upgrade:
            folders["jfs-fuse-fd"] = str(self.descriptors(upgrade))
            more_environment["JFS_SUPER_COMM"] = "/tmp/fuse_fd_csi_comm.sock"
        manifest = mount_pod(
            name, of or image(), secret, secret_name, volume_id, f"/jfs/{point or volume_id}", options, folders,
            more_environment,
        )  # fmt: skip
        pod = Pod(name, "jfs-mount")
        self._pods.append(pod)
        podman("kube", "play", "-", given=json.dumps(manifest))
        return pod

    def wait_ready(self, point: str, pod: Pod, within_s: float = 60) -> Path:
        """As the driver waits: until the mount point on the host is inode 1; its path."""
        path, deadline = self.volumes / point, time.monotonic() + within_s
        while True:
            done = subprocess.run(["timeout", "2", "stat", "-c", "%i", str(path)], capture_output=True, text=True)
            if done.stdout.strip() == "1":
                return path
            assert time.monotonic() < deadline, f"{path} is not ready: {done.stderr}\n{pod.logs()}"
            time.sleep(0.2)

    def application(self, point: str, script: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Another container that has the volume as /data, mounted before or after it was started."""
        return run(script, "--network", "none", "-v", f"{self.volumes}/{point}:/data:rslave", check=check)

    def abort(self) -> list[Path]:
        """Cut all mounts off from who serves them, so that whoever waits gets an error; where they are."""
        points = list(self.volumes.iterdir())
        for point in points:
            abort(point)
        return points

    def close(self) -> None:
        """Remove pods, mounts and secrets."""
        self._watchdog.cancel()
        points = self.abort()
        for pod in self._pods:
            pod.remove()
        for point in points:
            lazy_unmount(point)
        for name in self._secrets:
            podman("secret", "rm", name, check=False)
        _libc.umount2(os.fsencode(self.volumes), _MNT_DETACH)
