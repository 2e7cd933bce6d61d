"""What the metadata room does, measured from outside: its calls, its transactions, its background jobs.

Not here: the operations of the VFS (`stats`), the other rooms (`rooms`). The room knows nothing of being measured: the
methods of a client and of its engine are replaced by ones that look at the clock around them, about 1 µs per call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from juicefs_py.metrics import Counter, Distribution, Histogram, Registry, Sample, exponential

if TYPE_CHECKING:
    from meta.client import MetaClient

BOUNDS: Final = exponential(1e-4, 1.5, 30)  # seconds
JOB_BOUNDS: Final = exponential(1, 2, 13)  # seconds

CALLS: Final = {
    "lookup": "Lookup", "resolve": "Resolve", "list_dir": "Readdir", "getattr": "GetAttr", "setattr": "SetAttr",
    "access": "Access", "readlink": "ReadLink", "mknod": "Mknod", "create": "Create", "unlink": "Unlink",
    "rmdir": "Rmdir", "rename": "Rename", "link": "Link", "open": "Open", "close": "Close", "read_chunk": "Read",
    "write_slice": "Write", "truncate": "Truncate", "fallocate": "Fallocate", "copy_file_range": "CopyFileRange",
    "getxattr": "GetXattr", "setxattr": "SetXattr", "listxattr": "ListXattr", "removexattr": "RemoveXattr",
    "get_acl": "GetFacl", "set_acl": "SetFacl", "statfs": "StatFS", "flock": "Flock", "setlk": "Setlk",
    "getlk": "Getlk", "clone": "Clone", "remove_tree": "Remove", "summary": "GetSummary",
}  # fmt: skip
"""Methods of `MetaClient`, and the official names of what they do."""


class MetaStats:
    """The numbers of one client."""

    def __init__(self, registry: Registry) -> None:
        self._calls = {official: Histogram(BOUNDS) for official in CALLS.values()}
        self._transactions = Histogram(BOUNDS)
        self._restarts: dict[str, Counter] = {}
        self._jobs: dict[tuple[str, str], Histogram] = {}
        self._deletions: dict[str, Counter] = {}
        self._lock = threading.Lock()
        self._now = threading.local()
        self._register(registry)

    def _register(self, registry: Registry) -> None:
        add = registry.add
        registry.histogram("meta_ops_durations_histogram_seconds", "Durations of metadata calls.", self._all_calls)
        add("meta_ops_total", "counter", "Metadata calls by method.", lambda: self._per_call(_count))
        add("meta_ops_duration_seconds", "counter", "Time in metadata calls by method.", lambda: self._per_call(_sum))
        registry.histogram(
            "transaction_durations_histogram_seconds", "Durations of transactions.", self._transactions.distribution
        )
        add("transaction_restart", "counter", "Transactions that ran again, by method.", self._all_restarts)

    def register_jobs(self, registry: Registry) -> None:
        """Of clients that have background jobs."""
        add = registry.add
        add("juicefs_bgjob_duration_seconds", "histogram", "Durations of background jobs.", self._all_jobs)
        add("juicefs_bgjob_deletions_total", "counter", "What background jobs have deleted.", self._all_deletions)

    def watch(self, meta: MetaClient) -> None:
        """Measure what this client does from now on."""
        for name, official in CALLS.items():
            setattr(meta, name, self._timed(official, getattr(meta, name)))
        setattr(meta.engine, "transact", self._timed_transact(meta.engine.transact))  # noqa: B010 - types say no

    def job_done(self, job: str, status: str, took_s: float, deleted: int) -> None:
        """A background job has ended: `succ`, `fail` or `canceled`."""
        with self._lock:
            histogram = self._jobs.setdefault((job, status), Histogram(JOB_BOUNDS))
            counter = self._deletions.setdefault(job, Counter())
        histogram.observe(took_s)
        counter.add(deleted)

    def _timed(self, official: str, call: Callable[..., Any]) -> Callable[..., Any]:
        observe, now = self._calls[official].observe, self._now

        def timed(*args: Any, **kwargs: Any) -> Any:
            now.call = official
            began = perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                observe(perf_counter() - began)

        return timed

    def _timed_transact(self, transact: Callable[..., Any]) -> Callable[..., Any]:
        observe = self._transactions.observe

        def timed(body: Callable[[Any], Any]) -> Any:
            runs = 0

            def counted(tx: Any) -> Any:
                nonlocal runs
                runs += 1
                return body(tx)

            began = perf_counter()
            try:
                return transact(counted)
            finally:
                observe(perf_counter() - began)
                if runs > 1:
                    self._restarted(runs - 1)

        return timed

    def _restarted(self, times: int) -> None:
        call = getattr(self._now, "call", "background")
        with self._lock:
            counter = self._restarts.setdefault(call, Counter())
        counter.add(times)

    # -- what there is to see

    def _all_calls(self) -> Distribution:
        parts = [timer.distribution() for timer in self._calls.values()]
        counts = tuple(sum(column) for column in zip(*(part.counts for part in parts), strict=True))
        return Distribution(BOUNDS, counts, sum(part.sum for part in parts))

    def _per_call(self, value: Callable[[Distribution], float]) -> Iterable[Sample]:
        for official, timer in self._calls.items():
            state = timer.distribution()
            if any(state.counts):
                yield Sample((("method", official),), value(state))

    def _all_restarts(self) -> Iterable[Sample]:
        return [Sample((("method", call),), counter.value) for call, counter in sorted(self._restarts.items())]

    def _all_jobs(self) -> Iterable[Sample]:
        for (job, status), histogram in sorted(self._jobs.items()):
            yield Sample((("job", job), ("status", status)), histogram.distribution())

    def _all_deletions(self) -> Iterable[Sample]:
        return [Sample((("job", job),), counter.value) for job, counter in sorted(self._deletions.items())]


def _count(state: Distribution) -> float:
    return sum(state.counts)


def _sum(state: Distribution) -> float:
    return state.sum
