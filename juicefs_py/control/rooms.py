"""The metrics of the rooms below the VFS, under their official names.

Not here: the VFS's own (`stats`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from chunkstore.metrics import Histogram as StoreHistogram
from juicefs_py.control.meta_stats import MetaStats
from juicefs_py.metrics import Distribution, Kind, Sample
from meta.errors import MetaError
from meta.transaction import Quota, QuotaKind
from meta.types import ROOT, SUPERUSER

if TYPE_CHECKING:
    from juicefs_py.vfs import VFS

T = TypeVar("T")

_COUNTERS = (
    "blockcache_hits", "blockcache_miss", "blockcache_hit_bytes", "blockcache_miss_bytes", "blockcache_writes",
    "blockcache_write_bytes", "blockcache_drops", "blockcache_evicts", "blockcache_damaged",
    "staging_write_bytes", "staging_block_delay_seconds", "staging_block_errors", "object_request_errors",
)  # fmt: skip
_GAUGES = ("staging_blocks", "staging_block_bytes", "staging_writing_blocks", "object_request_uploading")


def register_rooms(vfs: VFS) -> None:
    """Add the store's, the buffers' and the volume's numbers to the mount's registry."""
    number = vfs.stats.registry.number
    counters, buffers = vfs.store.metrics, vfs.store.buffers
    kinds: tuple[tuple[Kind, tuple[str, ...]], ...] = (("counter", _COUNTERS), ("gauge", _GAUGES))
    for kind, names in kinds:
        for name in names:
            number(name, kind, name.replace("_", " ").capitalize() + ".", _reader(counters, name))
    number("fuse_open_handlers", "gauge", "Inodes with open handles.", lambda: len(vfs.handles))
    number("used_buffer_size_bytes", "gauge", "Buffers in use.", lambda: buffers.used)
    number("store_cache_size_bytes", "gauge", "Memory held by the cache.", lambda: vfs.store.cache.memory())
    number("blockcache_blocks", "gauge", "Blocks in the cache.", lambda: vfs.store.cache.usage()[0])
    number("blockcache_bytes", "gauge", "Bytes in the cache.", lambda: vfs.store.cache.usage()[1])
    number("used_read_buffer_size_bytes", "gauge", "Read-ahead buffers.", lambda: vfs.readers.used)
    _requests(vfs)
    meta_stats = MetaStats(vfs.stats.registry)
    meta_stats.watch(vfs.meta)
    if not vfs.meta.config.no_bgjob:
        meta_stats.register_jobs(vfs.stats.registry)
        vfs.meta.job_done = meta_stats.job_done
        _usage(vfs)
        _quotas(vfs)


def _reader(counters: object, name: str) -> Callable[[], float]:
    return lambda: float(getattr(counters, name))


def _distribution(histogram: StoreHistogram) -> Distribution:
    return Distribution(tuple(histogram.bounds), tuple(histogram.counts), histogram.total)


def _requests(vfs: VFS) -> None:
    registry, counters = vfs.stats.registry, vfs.store.metrics

    def labels(method: str) -> tuple[tuple[str, str], ...]:
        tier = vfs.meta.setting.tiers.get(0)
        storage_class = "" if method == "DELETE" else (tier.storage_class if tier else "") or "STANDARD"
        return (("method", method), ("storage_class", storage_class))

    def durations() -> Iterable[Sample]:
        for method, histogram in counters.object_request_durations.items():
            yield Sample(labels(method), _distribution(histogram))

    def sizes() -> Iterable[Sample]:
        for method, total in counters.object_request_data_bytes.items():
            yield Sample(labels(method), total)

    registry.add("object_request_durations_histogram_seconds", "histogram", "Object requests.", durations)
    registry.add("object_request_data_bytes", "counter", "Bytes of object requests.", sizes)
    for name in ("blockcache_read_hist_seconds", "blockcache_write_hist_seconds"):
        registry.histogram(name, "Latency of the disk cache.", _histogram_reader(getattr(counters, name)))


def _histogram_reader(histogram: StoreHistogram) -> Callable[[], Distribution]:
    return lambda: _distribution(histogram)


def _usage(vfs: VFS) -> None:
    statfs = _lately(lambda: vfs.meta.statfs(SUPERUSER, ROOT))

    def collect(pick: Callable[[tuple[int, int, int, int]], float]) -> Callable[[], Iterable[Sample]]:
        def samples() -> Iterable[Sample]:
            try:
                totals = statfs()
            except MetaError:
                return  # the engine is away: no number is better than a wrong one
            yield Sample((), pick((totals.total_space, totals.avail_space, totals.used_inodes, totals.avail_inodes)))

        return samples

    add = vfs.stats.registry.add
    add("total_space", "gauge", "Capacity in bytes.", collect(lambda t: t[0]))
    add("used_space", "gauge", "Used bytes.", collect(lambda t: t[0] - t[1]))
    add("total_inodes", "gauge", "Inodes there can be.", collect(lambda t: t[2] + t[3]))
    add("used_inodes", "gauge", "Inodes in use.", collect(lambda t: t[2]))
    subdir = os.fsencode(vfs.meta.config.subdir).decode(errors="replace").strip("/")
    labels = (("subdir", f"/{subdir}" if subdir else ""),)
    add("subdir_info", "gauge", "The directory of the volume that is mounted.", lambda: (Sample(labels, 1),))


def _quotas(vfs: VFS) -> None:
    """Limits and use, by directory (inode), user and group; read from the engine when somebody looks."""

    def collect(
        read: Callable[[], dict[int, Quota]], label: str, pick: Callable[[Quota], int]
    ) -> Callable[[], Iterable[Sample]]:
        def samples() -> Iterable[Sample]:
            try:
                found = read()
            except MetaError:
                return
            for key, quota in sorted(found.items()):
                yield Sample(((label, str(key)),), max(pick(quota), 0))

        return samples

    kinds: tuple[tuple[QuotaKind, str, str], ...] = (
        ("dir", "dir", "inode"), ("user", "user", "uid"), ("group", "group", "gid"),
    )  # fmt: skip
    for kind, word, label in kinds:
        read = _lately(partial(vfs.meta.reader.quotas, kind))
        for name, pick in _OF_QUOTA.items():
            text = f"{word.capitalize()} quota: {name.replace('_', ' ')}."
            vfs.stats.registry.add(f"{word}_quota_{name}", "gauge", text, collect(read, label, pick))


def _lately(read: Callable[[], T]) -> Callable[[], T]:
    """What was read less than a second ago serves again: the families of one scrape share it."""
    kept: list[tuple[float, T]] = []

    def value() -> T:
        now = time.monotonic()
        if not kept or now - kept[0][0] > 1:
            kept[:] = [(now, read())]
        return kept[0][1]

    return value


_OF_QUOTA: dict[str, Callable[[Quota], int]] = {
    "max_space_bytes": lambda quota: quota.max_space,
    "max_inodes": lambda quota: quota.max_inodes,
    "used_space_bytes": lambda quota: quota.used_space,
    "used_inodes": lambda quota: quota.used_inodes,
}
