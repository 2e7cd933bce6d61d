"""What becomes of locks of other transactions that are in the way. Not our own locks (commit).

A transaction locks its keys, and is decided at one of them, the primary. Whoever meets a lock asks the primary's region
how the transaction ended, and then ends it at the key that is in the way. One whose lock has outlived its time is
rolled back. One that commits "asynchronously" (official clients do) is decided by all of its locks together: once all
are there it is committed, at the greatest of their `min_commit_ts`.

The algorithm is Percolator's (Peng and Dabek, OSDI 2010) as TiKV has refined it (design documents of TiDB and TiKV:
"Optimistic Transaction Model", "Async Commit").
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from meta.errors import Corrupt
from meta.tkv.tikv.cluster import Cluster, make
from meta.tkv.tikv.errors import Moved
from meta.tkv.tikv.messages import MIN_COMMIT_TS_PUSHED
from meta.tkv.tikv.patience import Patience
from meta.tkv.tikv.pd import physical_ms

_END_OF_TIME: Final = (1 << 64) - 1
_KNOWN: Final = 2048
"""Ends of transactions that are remembered."""


class _Fate(NamedTuple):
    """How a transaction ended; `ttl_ms` > 0: it has not, and has so much time left."""

    commit_ts: int  # 0: rolled back
    ttl_ms: int = 0
    pushed: bool = False  # it will commit after us


class Locks:
    """Ends transactions of others. Thread-safe."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._known: dict[int, _Fate] = {}

    def clear(self, locks: Iterable[Any], start_ts: int, patience: Patience) -> list[int]:
        """Get these locks out of the way, or wait a while for them. Versions of those that need not be waited for.

        `start_ts` is what a reader reads at; 0 for writers, who cannot look through a lock.
        """
        pushed: list[int] = []
        waiting: Any = None
        for lock in locks:
            fate = self._fate(lock, start_ts, patience)
            if fate.pushed:
                pushed.append(lock.lock_version)
            elif fate.ttl_ms:
                waiting = lock
            else:
                self._end(lock, fate, patience)
        if waiting is not None:
            patience.pause(f"a transaction of another client holds key {bytes(waiting.key)!r}")
        elif not pushed:
            patience.again()
        return pushed

    def fate_of(self, primary: bytes, version: int, patience: Patience) -> int:
        """How a transaction of ours ended whose commit was not answered: when it was committed, or 0: it never is.

        A commit may still be on its way; so one that is not done is rolled back by this question (at the end of time,
        every lock has outlived its own), and is refused when it arrives.
        """
        status = self._ask(primary, version, 0, patience, rollback=True, now=_END_OF_TIME, sync=True)
        return int(status.commit_version)

    # -- the primary

    def _fate(self, lock: Any, start_ts: int, patience: Patience) -> _Fate:
        known = self._known.get(lock.lock_version)
        if known is not None:
            return known
        now = self._cluster.pd.timestamp()
        expired = physical_ms(lock.lock_version) + lock.lock_ttl < physical_ms(now)
        status = self._ask(lock.primary_lock, lock.lock_version, start_ts, patience, rollback=expired, now=now)
        if status is None:  # its primary is not locked yet: it has just begun
            return _Fate(0, lock.lock_ttl)
        over = physical_ms(lock.lock_version) + status.lock_ttl < physical_ms(now)  # its client may have renewed that
        if status.lock_ttl and status.lock_info.use_async_commit and over:
            commit_ts = self._async_commit_ts(lock, status.lock_info, patience)
            if commit_ts is not None:
                return self._remember(lock, _Fate(commit_ts))
        if status.lock_ttl:
            return _Fate(0, status.lock_ttl, start_ts > 0 and status.action == MIN_COMMIT_TS_PUSHED)
        return self._remember(lock, _Fate(status.commit_version))

    def _remember(self, lock: Any, fate: _Fate) -> _Fate:
        if len(self._known) >= _KNOWN:
            self._known.clear()
        self._known[lock.lock_version] = fate
        return fate

    def _ask(
        self, primary: bytes, version: int, start_ts: int, patience: Patience, *, rollback: bool, now: int,
        sync: bool = False,
    ) -> Any:  # fmt: skip
        """The state at the primary; None if it does not know the transaction and must not end it."""
        reply = self._cluster.single(
            "KvCheckTxnStatus",
            primary,
            lambda: make(
                "CheckTxnStatusRequest", primary_key=primary, lock_ts=version, caller_start_ts=start_ts,
                current_ts=now, rollback_if_not_exist=rollback, force_sync_commit=sync,
            ),
            patience,
        )  # fmt: skip
        if not reply.HasField("error"):
            return reply
        if reply.error.HasField("txn_not_found"):
            return None
        raise Corrupt(f"TiKV: state of transaction {version}: {reply.error}")

    # -- asynchronous commit

    def _async_commit_ts(self, lock: Any, primary: Any, patience: Patience) -> int | None:
        """When it was committed, which is decided now if nobody knows; 0 if one of its locks never came.

        None if it is not committed that way after all, and lives.
        """
        commit_ts = primary.min_commit_ts
        left = list(primary.secondaries)
        while left:
            region = self._cluster.regions.of(left[0])
            keys = [key for key in left if region.holds(key)]
            request = make("CheckSecondaryLocksRequest", keys=keys, start_version=lock.lock_version)
            try:
                reply = self._cluster.ask("KvCheckSecondaryLocks", region, request, patience)
            except Moved:
                continue
            if reply.HasField("error"):
                raise Corrupt(f"TiKV: locks of transaction {lock.lock_version}: {reply.error}")
            if len(reply.locks) < len(keys):  # one is committed, or was rolled back just now
                return int(reply.commit_ts)
            if any(not found.use_async_commit for found in reply.locks):
                status = self._ask(
                    lock.primary_lock, lock.lock_version, 0, patience, rollback=True,
                    now=self._cluster.pd.timestamp(), sync=True,
                )  # fmt: skip
                return None if status.lock_ttl else int(status.commit_version)
            commit_ts = max(commit_ts, *(found.min_commit_ts for found in reply.locks))
            left = [key for key in left if not region.holds(key)]
        return int(commit_ts)

    # -- the key in the way

    def _end(self, lock: Any, fate: _Fate, patience: Patience) -> None:
        reply = self._cluster.single(
            "KvResolveLock",
            lock.key,
            lambda: make(
                "ResolveLockRequest", start_version=lock.lock_version, commit_version=fate.commit_ts, keys=[lock.key]
            ),
            patience,
        )
        if reply.HasField("error"):
            raise Corrupt(f"TiKV: lock of key {bytes(lock.key)!r}: {reply.error}")
