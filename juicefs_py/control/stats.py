"""What a mount counts, under the official metric names, for `.stats` and the metrics server.

Not here: how numbers are kept and printed (`juicefs_py.metrics`).
"""

from __future__ import annotations

import errno
import os
import platform
import resource
import threading
import time
from collections.abc import Callable, Iterable, Mapping

from fuse.operations import Operations
from juicefs_py.metrics import Counter, Distribution, Histogram, Registry, Sample, exponential, linear

OP_BOUNDS = exponential(1e-5, 1.8, 29)  # seconds
SIZE_BOUNDS = linear(4096, 4096, 32)  # bytes
COMPACT_BOUNDS = exponential(1024, 2, 16)
_PAGE = os.sysconf("SC_PAGE_SIZE")
_OPERATIONS = tuple(name for name in vars(Operations) if not name.startswith("_"))


class MountStats:
    """The counters that the VFS itself keeps, and the registry of everything."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        self.registry = Registry(labels)
        self.timers = {name: Histogram(OP_BOUNDS) for name in _OPERATIONS}
        self.read_sizes = Histogram(SIZE_BOUNDS)
        self.written_sizes = Histogram(SIZE_BOUNDS)
        self.compact_sizes = Histogram(COMPACT_BOUNDS)
        self._errors: dict[int, Counter] = {}
        self._lock = threading.Lock()
        self._began, self._born = time.monotonic(), time.time()
        self._fuse()
        self._process()

    def failed(self, number: int) -> None:
        """An operation answered this errno."""
        counter = self._errors.get(number)
        if counter is None:
            with self._lock:
                counter = self._errors.setdefault(number, Counter())
        counter.add()

    def _fuse(self) -> None:
        add, histogram = self.registry.add, self.registry.histogram
        histogram("fuse_ops_durations_histogram_seconds", "Operations latencies in seconds.", self._all_ops)
        add("fuse_ops_total", "counter", "Operations by method.", lambda: self._per_op(_count))
        add("fuse_ops_durations_seconds", "counter", "Time spent by method.", lambda: self._per_op(_sum))
        add("fuse_ops_io_errors", "counter", "Failed operations by errno.", self._failures)
        histogram("fuse_read_size_bytes", "Sizes of reads.", self.read_sizes.distribution)
        histogram("fuse_written_size_bytes", "Sizes of writes.", self.written_sizes.distribution)
        histogram("compact_size_histogram_bytes", "Sizes of compacted slices.", self.compact_sizes.distribution)

    def _process(self) -> None:
        number = self.registry.number
        number("cpu_usage", "gauge", "Accumulated CPU time in seconds.", _cpu_s)
        number("memory", "gauge", "Resident memory in bytes.", _resident)
        number("uptime", "gauge", "Seconds since the start.", lambda: time.monotonic() - self._began)
        number("process_cpu_seconds_total", "counter", "CPU time in seconds.", _cpu_s)
        number("process_resident_memory_bytes", "gauge", "Resident memory in bytes.", _resident)
        number("process_virtual_memory_bytes", "gauge", "Virtual memory in bytes.", _virtual)
        number("process_start_time_seconds", "gauge", "Start since the epoch in seconds.", lambda: self._born)
        number("process_open_fds", "gauge", "Open file descriptors.", lambda: len(os.listdir("/proc/self/fd")))
        number("process_max_fds", "gauge", "How many descriptors there may be.", _max_fds)
        number("process_threads", "gauge", "Threads.", threading.active_count)
        self.registry.add("python_info", "gauge", "The interpreter.", _python)

    def _all_ops(self) -> Distribution:
        parts = [timer.distribution() for timer in self.timers.values()]
        counts = tuple(sum(column) for column in zip(*(part.counts for part in parts), strict=True))
        return Distribution(OP_BOUNDS, counts, sum(part.sum for part in parts))

    def _per_op(self, value: Callable[[Distribution], float]) -> Iterable[Sample]:
        for name, timer in self.timers.items():
            state = timer.distribution()
            if any(state.counts):
                yield Sample((("method", name),), value(state))

    def _failures(self) -> Iterable[Sample]:
        for number, counter in sorted(self._errors.items()):
            yield Sample((("errno", errno.errorcode.get(number, str(number))),), counter.value)


def _count(state: Distribution) -> float:
    return sum(state.counts)


def _sum(state: Distribution) -> float:
    return state.sum


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _virtual() -> float:
    return _statm(0)


def _resident() -> float:
    return _statm(1)


def _statm(column: int) -> float:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[column]) * _PAGE


def _max_fds() -> float:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _python() -> Iterable[Sample]:
    version = platform.python_version()
    return (Sample((("implementation", platform.python_implementation()), ("version", version)), 1),)
