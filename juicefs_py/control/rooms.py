"""The metrics of the rooms below the VFS, under their official names.

Not here: the VFS's own (`stats`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from chunkstore.metrics import Histogram as StoreHistogram
from juicefs_py.metrics import Distribution, Kind, Sample
from meta.errors import MetaError
from meta.types import ROOT, SUPERUSER

if TYPE_CHECKING:
    from juicefs_py.vfs import VFS

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
    number("used_read_buffer_size_bytes", "gauge", "Read-ahead buffers.", lambda: vfs.readers.used)
    _requests(vfs)
    if not vfs.meta.config.no_bgjob:
        _usage(vfs)


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
    def collect(pick: Callable[[tuple[int, int, int, int]], float]) -> Callable[[], Iterable[Sample]]:
        def samples() -> Iterable[Sample]:
            try:
                totals = vfs.meta.statfs(SUPERUSER, ROOT)
            except MetaError:
                return  # the engine is away: no number is better than a wrong one
            yield Sample((), pick((totals.total_space, totals.avail_space, totals.used_inodes, totals.avail_inodes)))

        return samples

    add = vfs.stats.registry.add
    add("total_space", "gauge", "Capacity in bytes.", collect(lambda t: t[0]))
    add("used_space", "gauge", "Used bytes.", collect(lambda t: t[0] - t[1]))
    add("total_inodes", "gauge", "Inodes there can be.", collect(lambda t: t[2] + t[3]))
    add("used_inodes", "gauge", "Inodes in use.", collect(lambda t: t[2]))
