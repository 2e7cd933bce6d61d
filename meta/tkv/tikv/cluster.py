"""Requests to the store that leads a region, and what its refusals mean. Not transactions.

A request to a region that has moved, split or lost its leader does nothing; it is made again when it is known better
(`Moved`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from meta.errors import EngineError, OutOfSpace
from meta.tkv.tikv.channels import Channels, Tls
from meta.tkv.tikv.errors import Lost, Moved
from meta.tkv.tikv.messages import message
from meta.tkv.tikv.patience import Patience
from meta.tkv.tikv.pd import Pd, decode_key
from meta.tkv.tikv.regions import Region, Regions

T = TypeVar("T")

_TIMEOUT_S: Final = 5.0
_AT_ONCE: Final = 16
"""Threads that make requests to several regions side by side, for all transactions together."""


class Cluster:
    """PD, regions and stores. Thread-safe."""

    def __init__(self, endpoints: list[str], tls: Tls) -> None:
        self._channels = Channels(tls)
        self.pd = Pd(endpoints, self._channels)
        self.regions = Regions(self.pd)
        self._addresses: dict[int, str] = {}
        self._lock = threading.Lock()
        self._helpers = ThreadPoolExecutor(_AT_ONCE, "tikv")

    def ask(self, method: str, region: Region, request: Any, patience: Patience, timeout_s: float = _TIMEOUT_S) -> Any:
        """The answer of the region's leader. `Moved`: the region must be looked up again."""
        name = method.removeprefix("Kv")
        request.context.MergeFrom(region.context)
        try:
            address = self._address(region.store)
            reply = self._channels.call(address, f"/tikvpb.Tikv/{method}", request, f"{name}Response", timeout_s)
        except Lost as error:
            self._lost(region, error)
            patience.pause(error)
            raise Moved(str(error), unsure=True) from None
        if reply.HasField("region_error"):
            self._refused(region, reply.region_error, patience)
        return reply

    def single(self, method: str, key: bytes, make: Callable[[], Any], patience: Patience) -> Any:
        """Ask whichever region holds the key, until it answers."""
        while True:
            try:
                return self.ask(method, self.regions.of(key), make(), patience)
            except Moved:
                continue

    def together(self, work: Callable[[T], None], items: Iterable[T]) -> None:
        """Do the work for all items side by side; the first failure is raised when all have ended."""
        first, *rest = items
        futures = [self._helpers.submit(work, item) for item in rest]
        problems: list[BaseException] = []
        try:
            work(first)
        except Exception as error:
            problems.append(error)
        problems += [problem for future in futures if (problem := future.exception()) is not None]
        if problems:
            raise problems[0]

    def later(self, work: Callable[[], object]) -> None:
        """Do it some time soon; a failure does not matter, as others put right what is left."""

        def quietly() -> None:
            try:
                work()
            except EngineError:
                pass

        try:
            self._helpers.submit(quietly)
        except RuntimeError:  # closed: others will find what is left
            pass

    def close(self) -> None:
        """What was to be done later is done first."""
        self._helpers.shutdown()
        self._channels.close()

    # -- what refusals mean

    def _address(self, store: int) -> str:
        address = self._addresses.get(store)
        if address is None:
            address = self._addresses[store] = self.pd.address(store)
        return address

    def _lost(self, region: Region, error: Lost) -> None:
        """Nobody answers there: it may have another address, and the region another leader."""
        with self._lock:
            self._addresses.pop(region.store, None)
        self.regions.forget(region)

    def _refused(self, region: Region, error: Any, patience: Patience) -> None:
        kind = next((field.name for field, _ in error.ListFields() if field.name != "message"), "")
        problem = f"region {region.id}: {error.message or kind}"
        if kind == "not_leader" and error.not_leader.leader.id:
            self.regions.learn(region.led_by(error.not_leader.leader))
            patience.pause(problem)
        elif kind == "epoch_not_match":
            self.regions.forget(region)
            for described in error.epoch_not_match.current_regions:
                self._learn_split(region, described)
        elif kind == "raft_entry_too_large":
            raise EngineError(f"TiKV: {problem}")
        elif kind == "disk_full":
            raise OutOfSpace(f"TiKV: {problem}")
        elif kind == "server_is_busy":
            patience.pause(problem, error.server_is_busy.backoff_ms / 1000)
        else:
            self.regions.forget(region)
            patience.pause(problem)
        raise Moved(problem)

    def _learn_split(self, old: Region, described: Any) -> None:
        described.start_key, described.end_key = decode_key(described.start_key), decode_key(described.end_key)
        leader = next((peer for peer in described.peers if peer.store_id == old.store), None)
        if described.peers:
            self.regions.learn(Region(described, leader))


def make(kind: str, /, **fields: Any) -> Any:
    """A message."""
    return message(kind)(**fields)
