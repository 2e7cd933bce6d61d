"""The placement driver: timestamps, where regions are, the point up to which old versions may go. Not TiKV itself."""

from __future__ import annotations

import logging
import threading
from typing import Any, Final

from meta.errors import Unavailable
from meta.tkv.tikv.channels import Channels
from meta.tkv.tikv.errors import Lost
from meta.tkv.tikv.messages import message
from meta.tkv.tikv.patience import Patience

log = logging.getLogger(__name__)

LOGICAL_BITS: Final = 18
"""A timestamp is milliseconds since 1970, shifted by these, and a counter in them."""

_TIMEOUT_S: Final = 3.0
_GROUP: Final = 8


class _Ticket:
    """A thread that waits for a timestamp."""

    __slots__ = ("problem", "value")

    def __init__(self) -> None:
        self.value = 0
        self.problem: BaseException | None = None


class Pd:
    """The leader among the members of PD, found again when it changes. Thread-safe."""

    def __init__(self, endpoints: list[str], channels: Channels) -> None:
        self._endpoints = endpoints
        self._channels = channels
        self._leader = ""
        self._header: Any = None
        self._finding = threading.Lock()
        self._tickets: list[_Ticket] = []
        self._tickets_lock = threading.Lock()
        self._asking = threading.Lock()

    # -- timestamps

    def timestamp(self) -> int:
        """A timestamp greater than all that were given out before, to anybody. One request serves all who wait."""
        ticket = _Ticket()
        with self._tickets_lock:
            self._tickets.append(ticket)
        with self._asking:  # over the request on purpose: who comes meanwhile shares the next one
            if not ticket.value and ticket.problem is None:
                self._serve_tickets()
        if ticket.problem is not None:
            raise ticket.problem
        return ticket.value

    def _serve_tickets(self) -> None:
        with self._tickets_lock:
            tickets, self._tickets = self._tickets, []
        try:
            last = self._ask("Tso", "TsoResponse", "TsoRequest", count=len(tickets)).timestamp
        except Exception as error:
            for ticket in tickets:
                ticket.problem = error
            return
        value = (last.physical << LOGICAL_BITS) + last.logical
        for ticket in tickets:
            ticket.value = value
            value -= 1 << last.suffix_bits

    # -- regions and stores

    def region(self, key: bytes) -> tuple[Any, Any]:
        """The region that holds a key, with its boundaries as they are, and its leader (id 0 if there is none)."""
        patience = Patience()
        while True:
            reply = self._ask("GetRegion", "GetRegionResponse", "GetRegionRequest", region_key=encode_key(key))
            if reply.HasField("region"):
                region = reply.region
                region.start_key, region.end_key = decode_key(region.start_key), decode_key(region.end_key)
                return region, reply.leader
            patience.pause("PD knows no region for a key yet")

    def address(self, store: int) -> str:
        """Where a store listens."""
        address: str = self._ask("GetStore", "GetStoreResponse", "GetStoreRequest", store_id=store).store.address
        return address

    # -- garbage

    def safe_point(self) -> int:
        """Versions that were replaced before this timestamp may be gone."""
        point: int = self._ask("GetGCSafePoint", "GetGCSafePointResponse", "GetGCSafePointRequest").safe_point
        return point

    def allowed_safe_point(self, wished: int) -> int:
        """Announce that nobody here reads at or before `wished`; up to where all services of the cluster agree."""
        reply = self._ask(
            "UpdateServiceGCSafePoint", "UpdateServiceGCSafePointResponse", "UpdateServiceGCSafePointRequest",
            service_id=b"gc_worker", TTL=(1 << 63) - 1, safe_point=wished,
        )  # fmt: skip
        point: int = min(reply.min_safe_point, wished)
        return point

    def move_safe_point(self, point: int) -> int:
        """Let versions go that were replaced before `point`; the safe point as it is then."""
        reply = self._ask(
            "UpdateGCSafePoint", "UpdateGCSafePointResponse", "UpdateGCSafePointRequest", safe_point=point
        )
        new: int = reply.new_safe_point
        return new

    # -- the leader

    def _ask(self, method: str, reply: str, request: str, **fields: Any) -> Any:
        """One request to the leader, again and again until it answers. `Unavailable` after a while."""
        patience = Patience()
        while True:
            try:
                leader = self._leader or self._find_leader()
                asked = message(request)(header=self._header, **fields)
                answer = self._channels.call(leader, f"/pdpb.PD/{method}", asked, reply, _TIMEOUT_S)
            except Lost as error:
                problem = str(error)
            else:
                if not answer.header.error.type:
                    return answer
                problem = f"{leader}: {answer.header.error.message}"
            self._leader = ""
            patience.pause(f"PD {problem}")

    def _find_leader(self) -> str:
        with self._finding:
            if self._leader:
                return self._leader
            problem = Lost(",".join(self._endpoints), "no leader")
            for endpoint in list(self._endpoints):
                try:
                    reply = self._channels.call(
                        endpoint,
                        "/pdpb.PD/GetMembers",
                        message("GetMembersRequest")(),
                        "GetMembersResponse",
                        _TIMEOUT_S,
                    )
                except Lost as error:
                    problem = error
                    continue
                if reply.leader.client_urls:
                    self._take(reply)
                    return self._leader
            raise problem

    def _take(self, members: Any) -> None:
        cluster = members.header.cluster_id
        if self._header is not None and self._header.cluster_id != cluster:
            raise Unavailable(f"TiKV: PD at {self._endpoints[0]} is of another cluster than before")
        self._header = message("RequestHeader")(cluster_id=cluster)
        known = [_host_of(url) for member in members.members for url in member.client_urls[:1]]
        self._endpoints = known + [endpoint for endpoint in self._endpoints if endpoint not in known]
        self._leader = _host_of(members.leader.client_urls[0])
        log.debug("PD leader is %s", self._leader)


def _host_of(url: str) -> str:
    return url.partition("://")[2] or url


def physical_ms(timestamp: int) -> int:
    """The milliseconds since 1970 of a timestamp."""
    return timestamp >> LOGICAL_BITS


def at(seconds: float) -> int:
    """The first timestamp of a moment."""
    return int(seconds * 1000) << LOGICAL_BITS


def encode_key(key: bytes) -> bytes:
    """A key as PD orders it: groups of 8 bytes, padded with zeros, each followed by 255 minus the padding."""
    parts = []
    for begin in range(0, len(key) + 1, _GROUP):
        group = key[begin : begin + _GROUP]
        missing = _GROUP - len(group)
        parts.append(group + bytes(missing) + bytes((255 - missing,)))
    return b"".join(parts)


def decode_key(encoded: bytes) -> bytes:
    """The opposite of `encode_key`; empty, an open end, stays empty."""
    parts = []
    for begin in range(0, len(encoded), _GROUP + 1):
        group = encoded[begin : begin + _GROUP + 1]
        missing = 255 - group[-1]
        parts.append(group[: _GROUP - missing])
    return b"".join(parts)
