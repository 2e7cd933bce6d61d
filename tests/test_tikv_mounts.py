"""Four mounts over a TiKV cluster in which regions split, leaders move and stores pause.

The cluster is the stand-in, or the one that `JFS_TIKV_PD` names.
"""

from __future__ import annotations

import os
import random
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
import tikv_server
from mounts import Mount, Volume
from needs import need_fuse
from tikv_moves import Moves, OfCluster, OfStandIn
from tikv_standin import StandIn

from meta.engines import open_engine
from meta.rules.check import check
from meta.tkv.tikv.store import parse

pytestmark = pytest.mark.battery

FILES = 150
MOUNTS = 4


def work(root: Path, problems: list[BaseException]) -> None:
    """Files and directories come, change and go; what is acknowledged is there afterwards."""
    try:
        for number in range(FILES):
            path = root / f"d{number % 5}" / f"f{number}"
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_text(f"{root.name} {number}")
            if number % 3 == 0:
                path.rename(path.with_name(f"renamed{number}"))
            if number % 7 == 0 and number % 3:
                path.unlink()
    except BaseException as problem:
        problems.append(problem)


def expected(root: Path) -> dict[str, str]:
    return {
        str(Path(f"d{number % 5}") / (f"renamed{number}" if number % 3 == 0 else f"f{number}")): f"{root.name} {number}"
        for number in range(FILES)
        if number % 3 == 0 or number % 7
    }


@pytest.mark.timeout(300)
def test_mounts_go_on_while_the_cluster_moves(scratch: Path) -> None:
    need_fuse()
    named = os.environ.get("JFS_TIKV_PD")
    cluster = None if named else StandIn(stores=3, members=2)
    moves: Moves = OfCluster(named) if cluster is None else OfStandIn(cluster)  # type: ignore[arg-type]
    url = cluster.url + "vol" if cluster else tikv_server.fresh_url()
    prefix = parse(url).prefix
    volume = Volume(scratch / "vol", "tikv", url=url).format()
    mounts = [
        Mount(volume, scratch / f"mnt{number}", ("--cache-dir", str(scratch / f"cache{number}")))
        for number in range(MOUNTS)
    ]
    problems: list[BaseException] = []
    rng = random.Random(7)
    try:
        for mount in mounts:
            mount.start()
        roots = [mount.path / f"w{number}" for number, mount in enumerate(mounts)]
        workers = [threading.Thread(target=work, args=(root, problems)) for root in roots]
        for worker in workers:
            worker.start()
        number = 0
        try:
            while any(worker.is_alive() for worker in workers):
                time.sleep(0.4)
                moves.disturb(number, prefix + b"A" + rng.randrange(2, 600).to_bytes(8, "little"))
                number += 1
        finally:
            for worker in workers:
                worker.join()
        assert not problems, problems
        print(moves.done)
        assert all(moves.done.values()), moves.done
        time.sleep(1.5)  # what is believed is a second old at most
        for root in roots:
            other = mounts[1].path if root.parent == mounts[0].path else mounts[0].path
            found = {
                str(path.relative_to(other / root.name)): path.read_text()
                for path in (other / root.name).rglob("*")
                if path.is_file()
            }
            assert found == expected(root)
    finally:
        for mount in mounts:
            if mount.process is not None and mount.process.poll() is None:
                mount.stop()
        with closing(open_engine(url)) as engine:
            wrong = check(engine)
        if cluster is not None:
            cluster.close()
    assert wrong == []
