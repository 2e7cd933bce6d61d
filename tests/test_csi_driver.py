"""The official CSI driver with this client: a volume is made, published twice, used, grown, taken back and deleted.

Not without the driver's binary (JFS_TEST_CSI, see `csi_process`); `test_cli_driver_calls` has the command lines alone.
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import pytest
import redis_server
from csi_process import BYTES, Driver, capability, decoded, wait_until_gone

GIB = 1 << 30


def total_bytes(driver: Driver, path: Path) -> int:
    """What df says is the size of a file system."""
    return int(driver.inside("df", "-B1", "--output=size", str(path)).split()[-1])


def wait_for_total(driver: Driver, path: Path, total: int) -> None:
    """Quotas are set in the background, and running clients notice them with their next heartbeat (12 s)."""
    deadline = time.monotonic() + 30
    while (seen := total_bytes(driver, path)) != total:
        assert time.monotonic() < deadline, f"df says {seen}, not {total}"
        time.sleep(0.5)


@pytest.mark.parametrize("engine", ["sqlite", "redis"])
def test_the_life_of_a_volume(engine: str, scratch: Path) -> None:
    with Driver(scratch) as driver:
        url = f"sqlite3://{scratch}/meta.db" if engine == "sqlite" else redis_server.shared().url()
        secrets = {
            "name": "myjfs", "metaurl": url, "storage": "file", "bucket": f"{scratch}/objects/",
            "format-options": "trash-days=0",
        }  # fmt: skip
        assert driver.call("Identity/Probe") is not None
        assert driver.call("Identity/GetPluginInfo")[1] == [b"csi.juicefs.com"]

        name = f"pvc-{uuid.uuid4()}"
        made = driver.call("Controller/CreateVolume", {
            1: name, 2: {1: GIB}, 3: [capability()], 4: {"mountOptions": f"cache-dir={scratch}/cache"}, 5: secrets,
        })  # fmt: skip
        volume = decoded(made[1][0])
        assert volume[2] == [name.encode()] and volume[1] == [GIB]
        context = {pair[1][0].decode(): pair[2][0].decode() for pair in map(decoded, volume[3])}

        targets = [scratch / "target-1", scratch / "target-2"]
        for target in targets:
            driver.call("Node/NodePublishVolume", {
                1: name, 4: str(target), 5: capability(), 7: secrets, 8: context,
            })  # fmt: skip
            source, kind = driver.inside("findmnt", "-n", "-o", "SOURCE,FSTYPE", str(target)).split()
            assert source.startswith("JuiceFS:myjfs") and kind == "fuse.juicefs"
        one, two = targets
        driver.inside("sh", "-c", f"echo hello > {one}/f && dd if=/dev/zero of={one}/big bs=1M count=8 status=none")
        assert driver.inside("cat", f"{two}/f") == "hello\n"
        for target in targets:
            wait_for_total(driver, target, GIB)
        stats = driver.call("Node/NodeGetVolumeStats", {1: name, 2: str(one)})
        usage = {each[4][0]: each for each in map(decoded, stats[1])}
        assert usage[BYTES][2] == [GIB] and usage[BYTES][3][0] >= 8 << 20

        driver.call("Controller/ControllerExpandVolume", {1: name, 2: {1: 2 * GIB}, 3: secrets, 4: capability()})
        for target in targets:
            wait_for_total(driver, target, 2 * GIB)

        for target in targets:
            driver.call("Node/NodeUnpublishVolume", {1: name, 2: str(target)})
        wait_until_gone(driver)
        assert "JuiceFS:myjfs" not in driver.inside("cat", "/proc/self/mounts")
        assert b"Traceback" not in driver.log.read_bytes()

        driver.call("Controller/DeleteVolume", {1: name, 2: secrets})
        wait_until_gone(driver)
        looked = scratch / "look"
        driver.inside("juicefs", "mount", "-d", "--no-usage-report", f"--cache-dir={scratch}/cache", url, str(looked))
        try:
            assert name not in driver.inside("ls", str(looked)).split()
        finally:
            driver.inside("juicefs", "umount", str(looked))
        wait_until_gone(driver)
