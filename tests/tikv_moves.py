"""What disturbs a TiKV cluster while mounts use it: regions split, leaders move, stores pause.

Of the stand-in, or of a real cluster through the HTTP interface of PD. There, `JFS_TIKV_PIDS` names processes of stores
that may be stopped for a second. Not here: what the mounts do meanwhile.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
import urllib.error
import urllib.request
from typing import Any, Protocol

from tikv_standin import StandIn

from meta.tkv.tikv.pd import encode_key


class Moves(Protocol):
    """What can be done to a cluster."""

    done: dict[str, int]
    """How often each succeeded."""

    def disturb(self, number: int, key: bytes) -> None:
        """Do one thing; `number` says which, `key` where a split may be."""


class OfStandIn:
    """Everything, also another leader of PD."""

    def __init__(self, cluster: StandIn) -> None:
        self._cluster = cluster
        self.done: dict[str, int] = {"split": 0, "leaders": 0, "pd": 0, "pause": 0}

    def disturb(self, number: int, key: bytes) -> None:
        kind = list(self.done)[number % 4]
        if kind == "split":
            if len(self._cluster.regions) >= 12 or any(region.start == key for region in self._cluster.regions):
                return
            self._cluster.split(key)
        elif kind == "leaders":
            self._cluster.move_leaders()
        elif kind == "pd":
            self._cluster.pd_leader ^= 1
        else:
            self._cluster.stopped.add(2)
            time.sleep(1)
            self._cluster.stopped.clear()
        self.done[kind] += 1


class OfCluster:
    """What PD can be asked for; it is done when the cluster gets to it."""

    def __init__(self, pd: str) -> None:
        self._pd = f"http://{pd.split(',')[0]}/pd/api/v1"
        self._pids = [int(pid) for pid in os.environ.get("JFS_TIKV_PIDS", "").split(",") if pid]
        self._random = random.Random(11)
        self.done: dict[str, int] = {"split": 0, "leaders": 0, **({"pause": 0} if self._pids else {})}

    def disturb(self, number: int, key: bytes) -> None:
        kind = list(self.done)[number % len(self.done)]
        if kind == "pause":
            self._pause(self._random.choice(self._pids))
            self.done[kind] += 1
            return
        encoded = encode_key(key).hex().upper()
        if kind == "split":
            asked = {"name": "split-region", "policy": "usekey", "keys": [encoded]}
            here = [region for region in self._regions() if _holds(region, encoded)]
            self.done[kind] += sum(self._ask({**asked, "region_id": region["id"]}) for region in here)
            return
        for region in self._regions():
            leader = region["leader"]["store_id"]
            others = [peer["store_id"] for peer in region["peers"] if peer["store_id"] != leader]
            if others:
                asked = {"name": "transfer-leader", "to_store_id": self._random.choice(others)}
                self.done[kind] += self._ask({**asked, "region_id": region["id"]})

    def _regions(self) -> list[Any]:
        with urllib.request.urlopen(f"{self._pd}/regions", timeout=10) as answer:
            found: list[Any] = json.load(answer)["regions"]
            return found

    def _ask(self, operator: dict[str, Any]) -> bool:
        request = urllib.request.Request(
            f"{self._pd}/operators", json.dumps(operator).encode(), {"Content-Type": "application/json"}
        )
        try:
            urllib.request.urlopen(request, timeout=10).close()
        except urllib.error.HTTPError:  # it has something else to do with this region
            return False
        return True

    @staticmethod
    def _pause(pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(1)
        finally:
            os.kill(pid, signal.SIGCONT)


def _holds(region: dict[str, Any], encoded: str) -> bool:
    """Whether the region can be split at this key."""
    return bool(region["start_key"] < encoded and (encoded < region["end_key"] or not region["end_key"]))
