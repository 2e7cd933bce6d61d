"""The end of a transaction that writes: all of its keys at once, or nothing. Not its reads (snapshot).

Percolator's two phases: every key is locked with its new value (prewrite), one of them being the primary; then the
primary is committed, which decides, together with those beside it in its region, and the others follow in the
background. If all keys lie in one region, TiKV does both phases at once (one round trip). Conflicts are found by
prewrite: a key that changed after `start_ts`, or is locked.

What is not answered is asked again, which TiKV takes for the same request. If nobody answers in time, the primary is
asked what became of the transaction; only if nobody answers that either is the outcome unknown.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from meta.errors import Conflict, EngineError, OutcomeUnknown
from meta.tkv.tikv.cluster import Cluster, make
from meta.tkv.tikv.errors import Moved
from meta.tkv.tikv.locks import Locks
from meta.tkv.tikv.messages import DELETE, LOCK, PUT
from meta.tkv.tikv.patience import Patience
from meta.tkv.tikv.regions import Region
from meta.tkv.tikv.snapshot import describe

_TTL_MS: Final = 20_000
"""So long after its start nobody may think us dead; renewed while we are at work."""

_AT_ONCE_BYTES: Final = 1 << 20
"""Of keys and values in one request. TiKV refuses entries of 8 MiB."""

_ASK_AGAIN_S: Final = 10.0

TWO_PHASES: Final = "JFS_TIKV_TWO_PHASES"
"""Environment: if set, commit in two round trips always. For servers that are not correct otherwise (unistore)."""


class Commit:
    """One attempt to write `writes` (None: delete) and to have `locked` unchanged since `start_ts`."""

    def __init__(
        self, cluster: Cluster, locks: Locks, start_ts: int, writes: Mapping[bytes, bytes | None], locked: set[bytes]
    ) -> None:
        self._cluster = cluster
        self._locks = locks
        self._start_ts = start_ts
        self._began = time.monotonic()
        self._renewed_ms = 0
        self._mutations: dict[bytes, tuple[int, bytes]] = dict.fromkeys(locked, (LOCK, b""))
        for key, value in writes.items():
            self._mutations[key] = (DELETE, b"") if value is None else (PUT, value)
        self._primary = min(writes)
        self._patience = Patience()
        self._done: set[bytes] = set()  # keys that are locked, or may be
        self._one_step = False
        self._committed = False  # in one step
        self._unsure = False  # a request was not answered that may have committed

    def run(self) -> None:
        """Committed afterwards. `Conflict`: nothing was applied, and it may work with a new start."""
        try:
            self._prewrite_all()
            if not self._committed:
                self._commit_primary()
        except EngineError as error:
            self._give_up(error)

    # -- the first phase

    def _prewrite_all(self) -> None:
        groups = self._cluster.regions.group(self._mutations)
        if len(groups) == 1 and self._size(self._mutations) <= _AT_ONCE_BYTES:
            self._one_step = not os.environ.get(TWO_PHASES)
            self._prewrite(list(self._mutations))
            return
        self._prewrite([self._primary])
        others = [key for key in self._mutations if key != self._primary]
        parts = [part for keys in self._cluster.regions.group(others).values() for part in self._cut(keys)]
        if parts:
            self._cluster.together(self._prewrite, parts)

    def _prewrite(self, keys: list[bytes]) -> None:
        """Lock these keys, wherever they are by now."""
        left, retried = set(keys), False
        while left:
            for region, part in self._cluster.regions.group(left).items():
                one_step = self._one_step and len(part) == len(self._mutations)
                self._keep_alive()
                unsure, self._unsure = self._unsure, self._unsure or one_step  # however this ends
                try:
                    reply = self._ask_prewrite(region, part, one_step, retried)
                except Moved as moved:
                    retried = retried or moved.unsure
                    if moved.unsure:
                        self._done.update(part)
                    else:
                        self._unsure = unsure
                    break
                self._unsure = unsure and not one_step  # the answer is that of the same request, sent before
                self._done.update(part)
                if reply.errors:
                    self._meet(reply.errors)
                    break
                self._committed = self._committed or bool(reply.one_pc_commit_ts)
                left.difference_update(part)

    def _ask_prewrite(self, region: Region, keys: list[bytes], one_step: bool, retried: bool) -> Any:
        request = make(
            "PrewriteRequest",
            context=make("Context", is_retry_request=retried),
            mutations=[
                make("Mutation", op=op, key=key, value=value) for key in keys for op, value in (self._mutations[key],)
            ],
            primary_lock=self._primary,
            start_version=self._start_ts,
            lock_ttl=_TTL_MS + self._elapsed_ms(),
            txn_size=len(keys),
            min_commit_ts=self._start_ts + 1,
            try_one_pc=one_step,
        )
        return self._cluster.ask("KvPrewrite", region, request, self._patience)

    def _meet(self, errors: Any) -> None:
        """Others' locks are cleared away; anything else ends this attempt."""
        for error in errors:
            if error.HasField("conflict"):
                raise Conflict(f"key {bytes(error.conflict.key)!r} was changed by another transaction")
            if not error.HasField("locked"):
                raise Conflict(f"TiKV: {describe(error)}")
        self._locks.clear([error.locked for error in errors], 0, self._patience)

    def _keep_alive(self) -> None:
        """A long transaction renews its primary's lock before others think it dead."""
        elapsed_ms = self._elapsed_ms()
        if elapsed_ms - self._renewed_ms < _TTL_MS // 2 or self._primary not in self._done:
            return
        self._renewed_ms = elapsed_ms
        self._cluster.single(
            "KvTxnHeartBeat",
            self._primary,
            lambda: make(
                "TxnHeartBeatRequest", primary_lock=self._primary, start_version=self._start_ts,
                advise_lock_ttl=_TTL_MS + elapsed_ms,
            ),
            self._patience,
        )  # fmt: skip

    def _elapsed_ms(self) -> int:
        return int((time.monotonic() - self._began) * 1000)

    # -- the second phase

    def _commit_primary(self) -> None:
        while True:
            commit_ts = self._cluster.pd.timestamp()
            self._unsure = True
            reply, done = self._ask_commit(commit_ts)
            if not reply.HasField("error"):
                break
            self._unsure = False
            if not reply.error.HasField("commit_ts_expired"):  # somebody has rolled us back
                raise Conflict(f"TiKV: {describe(reply.error)}")
        secondaries = self._mutations.keys() - set(done)
        if secondaries:
            self._cluster.later(lambda: self._commit_secondaries(secondaries, commit_ts))

    def _ask_commit(self, commit_ts: int) -> tuple[Any, list[bytes]]:
        """Ask for the primary and for what lies beside it, which a region does as one; the answer, and which keys."""
        while True:
            groups = self._cluster.regions.group(self._mutations).items()
            region, beside = next((region, keys) for region, keys in groups if self._primary in keys)
            keys = self._cut([self._primary, *(key for key in beside if key != self._primary)])[0]
            request = make("CommitRequest", keys=keys, start_version=self._start_ts, commit_version=commit_ts)
            try:
                return self._cluster.ask("KvCommit", region, request, self._patience), keys
            except Moved:
                continue

    def _commit_secondaries(self, keys: Iterable[bytes], commit_ts: int) -> None:
        self._in_regions("KvCommit", "CommitRequest", keys, start_version=self._start_ts, commit_version=commit_ts)

    # -- no commit

    def _give_up(self, error: EngineError) -> None:
        """It cannot go on. What was sent last, and not answered, may have been done."""
        if not self._unsure:
            self._roll_back_later()
            raise error
        try:
            committed = self._locks.fate_of(self._primary, self._start_ts, Patience(_ASK_AGAIN_S))
        except EngineError:
            raise OutcomeUnknown(f"{error}; whether the change was made is not known") from None
        if not committed:
            self._roll_back_later()
            raise error

    def _roll_back_later(self) -> None:
        keys = sorted(self._done)
        if keys:
            self._cluster.later(
                lambda: self._in_regions("KvBatchRollback", "BatchRollbackRequest", keys, start_version=self._start_ts)
            )

    def _in_regions(self, method: str, request: str, keys: Iterable[bytes], **fields: int) -> None:
        """The same request for all keys, region by region."""
        left, patience = set(keys), Patience()
        while left:
            for region, part in self._cluster.regions.group(left).items():
                try:
                    self._cluster.ask(method, region, make(request, keys=part, **fields), patience)
                except Moved:
                    break
                left.difference_update(part)

    # -- sizes

    def _size(self, keys: Any) -> int:
        return sum(len(key) + len(self._mutations[key][1]) for key in keys)

    def _cut(self, keys: list[bytes]) -> list[list[bytes]]:
        """Parts that fit into a request each."""
        parts: list[list[bytes]] = [[]]
        size = 0
        for key in keys:
            size += self._size((key,))
            if size > _AT_ONCE_BYTES and parts[-1]:
                parts.append([])
                size = self._size((key,))
            parts[-1].append(key)
        return [part for part in parts if part]
