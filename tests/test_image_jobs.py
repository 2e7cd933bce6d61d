"""What the CSI driver runs in the mount image besides mount pods: jobs over whole directories, and sidecars.

Job pods mount in the background, work, and end with their shell. The scripts do what the driver's do, in our words.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import containers
import pytest
from containers import PRIVILEGED, Node
from csi_driver import PRE_STOP, VolumeSecret, mount_command
from mounts import Volume, fuse_device
from s3_server import ACCESS_KEY, SECRET_KEY, shared_server

pytestmark = [pytest.mark.battery, pytest.mark.timeout(1600)]  # the first build fetches Debian and all packages


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
        access_key=ACCESS_KEY, secret_key=SECRET_KEY, more={"trash-days": "0"},
    )  # fmt: skip


def job(secret: VolumeSecret, script: str, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A job's pod to its end: the volume is formatted if it is not yet, then mounted on /mnt/jfs as in `script`."""
    variables = [word for key, value in secret.variables().items() for word in ("-e", f"{key}={value}")]
    return containers.run(
        f"{secret.format_command()}\n{script}", *PRIVILEGED, *variables, "-e", "JFS_INSIDE_CONTAINER=1", *options,
        check=check,
    )  # fmt: skip


MOUNT = mount_command("/mnt/jfs", ("metrics=0.0.0.0:0",))


def test_jobs(node: Node, secret: VolumeSecret) -> None:
    """The life of a volume: made, snapshot, restored, snapshot removed, removed; as seen through a mount pod."""
    begun = time.monotonic()
    job(secret, f"{MOUNT} && if [ ! -d /mnt/jfs/pvc-1 ]; then mkdir -m 777 /mnt/jfs/pvc-1; fi")
    assert time.monotonic() - begun < 40, "the driver waits no longer"
    pod = node.mount_pod(secret, "jfs", ("metrics=0.0.0.0:0",))
    path = node.wait_ready("jfs", pod)
    assert (path / "pvc-1").stat().st_mode & 0o777 == 0o777
    (path / "pvc-1/d").mkdir()
    (path / "pvc-1/d/f").write_bytes(b"x" * 5_000_000)
    (path / "pvc-1/d/f").chmod(0o640)
    subprocess.run(["chown", "1234:1235", str(path / "pvc-1/d/f")], check=True)
    snapshots = "/mnt/jfs/.snapshots/pvc-1"
    job(
        secret,
        f"set -ex\n{MOUNT}\nsleep 1\nmkdir -p {snapshots}\njuicefs clone -p /mnt/jfs/pvc-1 {snapshots}/snap-1\n"
        "umount -l /mnt/jfs",
    )
    kept = path / ".snapshots/pvc-1/snap-1/d/f"
    about = kept.stat()
    assert (about.st_uid, about.st_gid, about.st_mode & 0o777, about.st_size) == (1234, 1235, 0o640, 5_000_000)
    (path / "pvc-1/d/f").write_bytes(b"changed")
    restored = (
        f"set -e\n{MOUNT}\ndate\nif [ -d /mnt/jfs/pvc-2 ]; then [ -z \"$(ls -A /mnt/jfs/pvc-2)\" ] || exit 3;"
        f" rmdir /mnt/jfs/pvc-2; fi\njuicefs clone -p {snapshots}/snap-1 /mnt/jfs/pvc-2\numount -l /mnt/jfs"
    )  # fmt: skip
    (path / "pvc-2").mkdir()
    job(secret, restored)
    assert (path / "pvc-2/d/f").read_bytes() == b"x" * 5_000_000
    assert job(secret, restored, check=False).returncode == 3  # it is not empty any more
    job(secret, f"set -e\n{MOUNT}\njuicefs rmr {snapshots}/snap-1\numount -l /mnt/jfs")
    for name in ("pvc-1", "pvc-2"):
        job(secret, f"{MOUNT} && if [ -d /mnt/jfs/{name} ]; then /usr/local/bin/juicefs rmr /mnt/jfs/{name}; fi;")
    time.sleep(1.1)  # names age for a second
    assert not (path / "pvc-1").exists() and not (path / "pvc-2").exists() and not kept.exists()


def test_a_job_that_fails_says_so(secret: VolumeSecret) -> None:
    """Its log is what the driver puts into the error."""
    containers.need_containers()
    done = job(secret, f"set -e\n{MOUNT}\njuicefs clone -p /mnt/jfs/missing /mnt/jfs/there", check=False)
    assert done.returncode == 1
    assert "missing" in done.stderr and "Traceback" not in done.stderr + done.stdout


def test_the_cache_is_cleaned_without_the_client(node: Node, secret: VolumeSecret) -> None:
    pod = node.mount_pod(secret, "jfs", ("metrics=0.0.0.0:0", "cache-large-write=true"))
    path = node.wait_ready("jfs", pod)
    (path / "f").write_bytes(b"x" * 6_000_000)
    raw = next(node.cache.glob("*/raw"))
    deadline = time.monotonic() + 20
    while not any(raw.glob("chunks/*/*/*")):
        assert time.monotonic() < deadline, "nothing was cached"
        time.sleep(0.1)
    place = ("--network", "none", "-v", f"{raw}:/var/jfsCache/cachedir-0")
    containers.run("rm -rf /var/jfsCache/*/chunks", *place)
    assert not (raw / "chunks").exists()
    assert (path / "f").read_bytes() == b"x" * 6_000_000


CHECK_MOUNT = r"""
seen=0
for try in $(seq 20); do
    if mount | grep "$1" | grep -q JuiceFS; then seen=1; break; fi
    date; sleep 3
done
test $seen = 1 || exit 1
echo "volume $name is there after `expr $try - 1` pauses"
if [ -n "$subpath" ] && [ -n "$capacity" ] && juicefs quota >/dev/null 2>&1; then
    juicefs quota set ${metaurl} --path $quotaPath --capacity $capacity > /tmp/quota.log 2>&1 &
    wait
fi
"""


def test_a_sidecar(node: Node, secret: VolumeSecret) -> None:
    """No descriptor is passed; a script beside the client waits for the mount and sets the quota; preStop ends it."""
    options = ("subdir=/pvc-3", "heartbeat=2", "metrics=0.0.0.0:0")
    pod = node.mount_pod(secret, "sidecar", options)
    script = node.directory / "check_mount.sh"
    script.write_text(CHECK_MOUNT)
    script.chmod(0o755)
    pod.exec("mkdir", "/jfs-scripts")
    containers.podman("cp", str(script), f"{pod.container}:/jfs-scripts/check_mount.sh")
    pod.exec(
        "bash", "-c",
        "time subpath=pvc-3 name=myjfs capacity=1 community=ce quotaPath=/pvc-3 /jfs-scripts/check_mount.sh"
        " '/jfs/sidecar' >> /proc/1/fd/1",
    )  # fmt: skip
    path = node.wait_ready("sidecar", pod)
    assert "volume myjfs is there" in pod.logs()
    deadline = time.monotonic() + 25
    while (shown := node.application("sidecar", "df -h --output=source,size /data | tail -1").stdout.split()) != [
        "JuiceFS:myjfs", "1.0G",
    ]:  # fmt: skip
        assert time.monotonic() < deadline, shown  # quotas are read again with each heartbeat
        time.sleep(1)
    pod.exec("sh", "-c", "+e", PRE_STOP.format(point="/jfs/sidecar"))
    pod.terminate()
    assert pod.exit_code() == 0
    assert fuse_device(path) is None


def test_a_sidecar_is_killed_by_name(node: Node, secret: VolumeSecret) -> None:
    """How the driver ends one whose application has ended."""
    pod = node.mount_pod(secret, "killed", ("metrics=0.0.0.0:0",))
    path = node.wait_ready("killed", pod)
    (path / "f").write_text("kept")
    pod.exec("sh", "-c", "pkill -fe juicefs", check=False)
    assert pod.exit_code() == 0
    assert fuse_device(path) is None


def test_where_nobody_is_privileged(node: Node, secret: VolumeSecret) -> None:
    """Serverless nodes: two capabilities, and no /dev/fuse until the client makes it."""
    variables = [word for key, value in secret.variables().items() for word in ("-e", f"{key}={value}")]
    rights = ("--cap-add", "SYS_ADMIN,MKNOD", "--device-cgroup-rule", "c 10:229 rwm", "--network", "host")
    done = containers.run(
        f"{secret.format_command()}\n[ -e /dev/fuse ] && exit 9\n{MOUNT} && echo hello > /mnt/jfs/f && cat /mnt/jfs/f"
        " && umount /mnt/jfs", *rights, *variables,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "hello"
