"""A stand-in of PD and TiKV for tests: their calls over gRPC, over tables in memory. It is not TiKV.

It keeps what the calls promise (multi-version reads, Percolator's locks, one-phase and asynchronous commit, regions
with epochs and leaders) in one process, so that tests can split a region, move its leader, stop a store, lose answers,
and look at what is kept. Durability, Raft and speed are not its subject. `python tikv_standin.py` serves until killed.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc

from meta.tkv.tikv.messages import DELETE, LOCK, PUT, message
from meta.tkv.tikv.pd import decode_key, encode_key, physical_ms

ROLLBACK = 3
MAX = (1 << 64) - 1
CLUSTER = 7_000_000_000_000_000_001


@dataclass
class KeyLock:
    """A lock of a transaction on a key."""

    start: int
    primary: bytes
    op: int
    value: bytes
    ttl: int
    min_commit: int
    is_async: bool = False
    secondaries: list[bytes] = field(default_factory=list)


@dataclass
class Version:
    """A version of a key, or the record that a transaction will never write it."""

    commit: int
    start: int
    op: int
    value: bytes = b""


@dataclass
class Row:
    """A key: its lock, and its versions, newest first."""

    lock: KeyLock | None = None
    versions: list[Version] = field(default_factory=list)

    def of(self, start: int) -> Version | None:
        return next((version for version in self.versions if version.start == start), None)

    def add(self, version: Version) -> None:
        self.versions.append(version)
        self.versions.sort(key=lambda known: -known.commit)


@dataclass
class RegionState:
    """A region: where it begins, who leads it, and how often it was split and moved."""

    id: int
    start: bytes
    leader: int
    version: int = 1


def make(kind: str, /, **fields: Any) -> Any:
    return message(kind)(**fields)


class KeyRefused(Exception):
    """A `KeyError` of TiKV."""

    def __init__(self, **fields: Any) -> None:
        self.error = make("KeyError", **fields)


class StandIn:
    """PD and some stores. Thread-safe; `lock` guards everything."""

    def __init__(self, stores: int = 3, members: int = 1, credentials: Any = None) -> None:
        self._credentials = credentials  # of grpc, for TLS
        self.lock = threading.RLock()
        self.rows: dict[bytes, Row] = {}
        self.regions = [RegionState(1, b"", 1)]
        self.max_read = 0
        self.safe_point = 0
        self.calls: list[str] = []
        self.drop: dict[str, list[Any]] = {}  # method to its requests, which are kept and not done
        self.lose: dict[str, int] = {}  # method to how many answers of it are lost, after the work was done
        self.stopped: set[int] = set()
        self.pd_leader = 0
        self._last = 0
        self._servers = []
        self.pd_ports = [self._serve("pdpb.PD", self._pd_calls(at)) for at in range(members)]
        self.store_ports = {store: self._serve("tikvpb.Tikv", self._kv_calls(store)) for store in range(1, stores + 1)}

    @property
    def url(self) -> str:
        """Of a volume here."""
        return "tikv://" + ",".join(f"127.0.0.1:{port}" for port in self.pd_ports) + "/"

    def close(self) -> None:
        for server in self._servers:
            server.stop(None).wait()

    # -- what tests do to it

    def split(self, key: bytes) -> None:
        """A new region begins at this key; its leader is the next store."""
        with self.lock:
            at = self._at(key)
            old = self.regions[at]
            old.version += 1
            leader = old.leader % len(self.store_ports) + 1
            new = RegionState(max(region.id for region in self.regions) + 1, key, leader, old.version)
            self.regions.insert(at + 1, new)

    def move_leaders(self) -> None:
        """Every region is led by the next store."""
        with self.lock:
            for region in self.regions:
                region.leader = region.leader % len(self.store_ports) + 1

    # -- serving

    def _serve(self, service: str, calls: dict[str, tuple[str, str, Callable[[Any], Any]]]) -> int:
        server = grpc.server(ThreadPoolExecutor(32))
        handlers = {}
        for method, (request, reply, work) in calls.items():
            decode, encode = message(request).FromString, message(reply).SerializeToString
            if method == "Tso":
                handlers[method] = grpc.stream_stream_rpc_method_handler(work, decode, encode)
            else:
                handlers[method] = grpc.unary_unary_rpc_method_handler(self._told(method, work), decode, encode)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        if self._credentials is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            port = server.add_secure_port("127.0.0.1:0", self._credentials)
        server.start()
        self._servers.append(server)
        return int(port)

    def _told(self, method: str, work: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
        def answer(request: Any, context: Any) -> Any:
            self.calls.append(method)
            if method in self.drop:
                self.drop[method].append(request)
                context.abort(grpc.StatusCode.UNAVAILABLE, "the request is on its way")
            reply = work(request)
            with self.lock:
                lost = self.lose.get(method, 0)
                if lost:
                    self.lose[method] = lost - 1
            if lost:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the answer is lost")
            return reply

        return answer

    # -- PD

    def _pd_calls(self, member: int) -> dict[str, tuple[str, str, Callable[..., Any]]]:
        def header() -> Any:
            if member != self.pd_leader:
                return make("ResponseHeader", cluster_id=CLUSTER, error=make("PdError", type=1, message="not leader"))
            return make("ResponseHeader", cluster_id=CLUSTER)

        def members(request: Any) -> Any:
            known = [
                make("Member", name=f"pd{at}", member_id=at + 1, client_urls=[f"http://127.0.0.1:{port}"])
                for at, port in enumerate(self.pd_ports)
            ]
            return make(
                "GetMembersResponse", header=make("ResponseHeader", cluster_id=CLUSTER), members=known,
                leader=known[self.pd_leader],
            )  # fmt: skip

        def tso(requests: Iterator[Any], context: Any) -> Iterator[Any]:
            for request in requests:
                stamp = self.timestamp(request.count)
                yield make(
                    "TsoResponse", header=header(), count=request.count,
                    timestamp=make("Timestamp", physical=stamp >> 18, logical=stamp & 0x3FFFF),
                )  # fmt: skip

        def region(request: Any) -> Any:
            with self.lock:
                at = self._at(decode_key(request.region_key))
                found = self.regions[at]
                return make(
                    "GetRegionResponse", header=header(), region=self._described(at), leader=self._peer(found.leader)
                )

        def store(request: Any) -> Any:
            address = f"127.0.0.1:{self.store_ports[request.store_id]}"
            return make("GetStoreResponse", header=header(), store=make("Store", id=request.store_id, address=address))

        def move(request: Any) -> Any:
            self.safe_point = max(self.safe_point, request.safe_point)
            return make("UpdateGCSafePointResponse", header=header(), new_safe_point=self.safe_point)

        return {
            "GetMembers": ("GetMembersRequest", "GetMembersResponse", members),
            "Tso": ("TsoRequest", "TsoResponse", tso),
            "GetRegion": ("GetRegionRequest", "GetRegionResponse", region),
            "GetStore": ("GetStoreRequest", "GetStoreResponse", store),
            "GetGCSafePoint": (
                "GetGCSafePointRequest", "GetGCSafePointResponse",
                lambda request: make("GetGCSafePointResponse", header=header(), safe_point=self.safe_point),
            ),
            "UpdateGCSafePoint": ("UpdateGCSafePointRequest", "UpdateGCSafePointResponse", move),
            "UpdateServiceGCSafePoint": (
                "UpdateServiceGCSafePointRequest", "UpdateServiceGCSafePointResponse",
                lambda request: make(
                    "UpdateServiceGCSafePointResponse", header=header(), min_safe_point=request.safe_point
                ),
            ),
        }  # fmt: skip

    def timestamp(self, count: int = 1) -> int:
        """The last of so many new timestamps."""
        with self.lock:
            self._last = max(self._last + 1, int(time.time() * 1000) << 18) + count - 1
            return self._last

    def _at(self, key: bytes) -> int:
        return bisect_right([region.start for region in self.regions], key) - 1

    def _peer(self, store: int) -> Any:
        return make("Peer", id=100 + store, store_id=store)

    def _described(self, at: int) -> Any:
        region = self.regions[at]
        end = self.regions[at + 1].start if at + 1 < len(self.regions) else b""
        return make(
            "Region", id=region.id,
            start_key=encode_key(region.start) if region.start else b"", end_key=encode_key(end) if end else b"",
            region_epoch=make("RegionEpoch", conf_ver=1, version=region.version),
            peers=[self._peer(store) for store in self.store_ports],
        )  # fmt: skip

    # -- TiKV

    def _kv_calls(self, store: int) -> dict[str, tuple[str, str, Callable[[Any], Any]]]:
        methods = {
            "KvGet": self._get, "KvBatchGet": self._batch_get, "KvScan": self._scan, "KvPrewrite": self._prewrite,
            "KvCommit": self._commit, "KvBatchRollback": self._batch_rollback,
            "KvCheckTxnStatus": self._check_txn_status, "KvCheckSecondaryLocks": self._check_secondary_locks,
            "KvResolveLock": self._resolve_lock, "KvScanLock": self._scan_lock, "KvTxnHeartBeat": self._heart_beat,
        }  # fmt: skip
        calls = {}
        for method, work in methods.items():
            name = method.removeprefix("Kv")
            calls[method] = (f"{name}Request", f"{name}Response", self._checked(store, f"{name}Response", work))
        return calls

    def _checked(self, store: int, reply: str, work: Callable[[Any, Any], None]) -> Callable[[Any], Any]:
        def answer(request: Any) -> Any:
            while store in self.stopped:
                time.sleep(0.05)
            result = make(reply)
            with self.lock:
                problem = self._region_problem(store, request)
                if problem is not None:
                    result.region_error.CopyFrom(problem)
                    return result
                try:
                    work(request, result)
                except KeyRefused as refused:
                    result.error.CopyFrom(refused.error)
            return result

        return answer

    def _region_problem(self, store: int, request: Any) -> Any:
        asked = request.context.region_id
        at = next((at for at, region in enumerate(self.regions) if region.id == asked), None)
        if at is None:
            return make("RegionError", message="no such region", region_not_found=make("RegionNotFound"))
        region = self.regions[at]
        if region.leader != store:
            return make(
                "RegionError", message="not leader",
                not_leader=make("NotLeader", region_id=region.id, leader=self._peer(region.leader)),
            )  # fmt: skip
        if request.context.region_epoch.version != region.version:
            near = [self._described(other) for other in range(at, min(at + 2, len(self.regions)))]
            return make("RegionError", message="epoch", epoch_not_match=make("EpochNotMatch", current_regions=near))
        return None

    def _row(self, key: bytes) -> Row:
        return self.rows.setdefault(key, Row())

    def _locked(self, key: bytes, lock: KeyLock) -> KeyRefused:
        return KeyRefused(locked=_lock_info(key, lock))

    def _visible(self, key: bytes, request: Any) -> bytes | None:
        row, version = self.rows.get(key), request.version
        if version != MAX:
            self.max_read = max(self.max_read, version)
            if version < self.safe_point:
                raise KeyRefused(abort="GC too early")
        if row is None:
            return None
        lock = row.lock
        if (
            lock is not None and lock.start <= version and lock.op != LOCK
            and lock.start not in request.context.resolved_locks
            and not (version == MAX and lock.primary == key and not lock.is_async)
        ):  # fmt: skip
            raise self._locked(key, lock)
        for known in row.versions:
            if known.commit <= version and known.op in (PUT, DELETE):
                return known.value if known.op == PUT else None
        return None

    def _get(self, request: Any, result: Any) -> None:
        value = self._visible(request.key, request)
        result.not_found = value is None
        result.value = value or b""

    def _batch_get(self, request: Any, result: Any) -> None:
        for key in request.keys:
            self._add_pair(key, request, result)

    def _scan(self, request: Any, result: Any) -> None:
        assert request.limit
        for key in sorted(self.rows):
            if request.start_key <= key and (not request.end_key or key < request.end_key):
                self._add_pair(key, request, result)
                if len(result.pairs) == request.limit:
                    return

    def _add_pair(self, key: bytes, request: Any, result: Any) -> None:
        try:
            value = self._visible(key, request)
        except KeyRefused as refused:
            if not refused.error.HasField("locked"):
                raise
            result.pairs.add(key=key, error=refused.error)
        else:
            if value is not None:
                result.pairs.add(key=key, value=value)

    def _prewrite(self, request: Any, result: Any) -> None:
        start = request.start_version
        for mutation in request.mutations:
            try:
                done = self._check_prewrite(mutation, start)
            except KeyRefused as refused:
                result.errors.append(refused.error)
            else:
                if done:
                    result.one_pc_commit_ts = done
        if result.errors or result.one_pc_commit_ts:
            return
        commit = max(self.max_read + 1, request.min_commit_ts, start + 1)
        for mutation in request.mutations:
            row = self._row(mutation.key)
            if request.try_one_pc:
                row.add(Version(commit, start, mutation.op, mutation.value))
            elif row.lock is None:
                row.lock = KeyLock(
                    start, request.primary_lock, mutation.op, mutation.value, request.lock_ttl,
                    commit if request.use_async_commit else request.min_commit_ts, request.use_async_commit,
                    list(request.secondaries),
                )  # fmt: skip
        if request.try_one_pc:
            result.one_pc_commit_ts = commit
        elif request.use_async_commit:
            result.min_commit_ts = commit

    def _check_prewrite(self, mutation: Any, start: int) -> int:
        """The commit of the same transaction, if it has committed already."""
        row = self._row(mutation.key)
        if row.lock is not None:
            if row.lock.start != start:
                raise self._locked(mutation.key, row.lock)
            return 0
        own = row.of(start)
        if own is not None and own.op != ROLLBACK:
            return own.commit
        newest = next((known for known in row.versions if known.op != ROLLBACK), None)
        if own is not None or (newest is not None and newest.commit > start):
            conflict = newest.commit if newest is not None else start
            raise KeyRefused(conflict=make("WriteConflict", start_ts=start, conflict_ts=conflict, key=mutation.key))
        return 0

    def _commit(self, request: Any, result: Any) -> None:
        """All keys or none."""
        locks = [(key, lock) for key in request.keys if (lock := self._lock_to_commit(key, request)) is not None]
        for key, lock in locks:
            row = self._row(key)
            row.lock = None
            row.add(Version(request.commit_version, lock.start, lock.op, lock.value))
        result.commit_version = request.commit_version

    def _lock_to_commit(self, key: bytes, request: Any) -> KeyLock | None:
        """The transaction's lock on a key; None if it is committed already."""
        row = self._row(key)
        if row.lock is None or row.lock.start != request.start_version:
            own = row.of(request.start_version)
            if own is None or own.op == ROLLBACK:
                raise KeyRefused(retryable="TxnLockNotFound")
            return None
        if request.commit_version < row.lock.min_commit:
            expired = make("CommitTsExpired", start_ts=row.lock.start, min_commit_ts=row.lock.min_commit)
            raise KeyRefused(commit_ts_expired=expired)
        return row.lock

    def _roll_back(self, key: bytes, start: int) -> None:
        row = self._row(key)
        if row.lock is not None and row.lock.start == start:
            row.lock = None
        if row.of(start) is None:
            row.add(Version(start, start, ROLLBACK))

    def _batch_rollback(self, request: Any, result: Any) -> None:
        for key in request.keys:
            own = self._row(key).of(request.start_version)
            if own is not None and own.op != ROLLBACK:
                raise KeyRefused(abort="already committed")
            self._roll_back(key, request.start_version)

    def _check_txn_status(self, request: Any, result: Any) -> None:
        row = self._row(request.primary_key)
        lock = row.lock
        if lock is not None and lock.start == request.lock_ts:
            expired = physical_ms(lock.start) + lock.ttl < physical_ms(request.current_ts)
            if expired and (not lock.is_async or request.force_sync_commit):
                self._roll_back(request.primary_key, lock.start)
                result.action = 1
                return
            if request.caller_start_ts and not lock.is_async:
                lock.min_commit = max(lock.min_commit, request.caller_start_ts + 1)
                result.action = 4
            result.lock_ttl = lock.ttl
            result.lock_info.CopyFrom(_lock_info(request.primary_key, lock))
            return
        own = row.of(request.lock_ts)
        if own is not None:
            result.commit_version = own.commit if own.op != ROLLBACK else 0
        elif request.rollback_if_not_exist:
            self._roll_back(request.primary_key, request.lock_ts)
            result.action = 2
        else:
            raise KeyRefused(txn_not_found=make("TxnNotFound", start_ts=request.lock_ts))

    def _check_secondary_locks(self, request: Any, result: Any) -> None:
        for key in request.keys:
            row = self._row(key)
            if row.lock is not None and row.lock.start == request.start_version:
                result.locks.append(_lock_info(key, row.lock))
                continue
            own = row.of(request.start_version)
            if own is None:
                self._roll_back(key, request.start_version)
            elif own.op != ROLLBACK:
                result.commit_ts = own.commit
            return

    def _resolve_lock(self, request: Any, result: Any) -> None:
        for key in request.keys:
            row = self._row(key)
            if row.lock is None or row.lock.start != request.start_version:
                continue
            if request.commit_version:
                row.add(Version(request.commit_version, row.lock.start, row.lock.op, row.lock.value))
                row.lock = None
            else:
                self._roll_back(key, request.start_version)

    def _scan_lock(self, request: Any, result: Any) -> None:
        for key in sorted(self.rows):
            lock = self.rows[key].lock
            if lock is None or lock.start > request.max_version or key < request.start_key:
                continue
            if not request.end_key or key < request.end_key:
                result.locks.append(_lock_info(key, lock))
            if len(result.locks) == request.limit:
                return

    def _heart_beat(self, request: Any, result: Any) -> None:
        lock = self._row(request.primary_lock).lock
        if lock is None or lock.start != request.start_version:
            raise KeyRefused(abort="no lock")
        lock.ttl = max(lock.ttl, request.advise_lock_ttl)
        result.lock_ttl = lock.ttl


def _lock_info(key: bytes, lock: KeyLock) -> Any:
    return make(
        "LockInfo", primary_lock=lock.primary, lock_version=lock.start, key=key, lock_ttl=lock.ttl, lock_type=lock.op,
        use_async_commit=lock.is_async, min_commit_ts=lock.min_commit, secondaries=lock.secondaries,
    )  # fmt: skip


if __name__ == "__main__":
    print(StandIn().url, flush=True)
    threading.Event().wait()
