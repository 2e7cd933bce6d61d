"""statfs: how much there is, how much is left - of the volume, or of the directory quotas that bind first."""

from __future__ import annotations

from typing import NamedTuple

from meta.rules.context import Volume
from meta.rules.usage import quota_chain
from meta.transaction import Reader

_PIB = 1 << 50
_INODES = 10 << 20


class StatTotals(NamedTuple):
    """Bytes and inodes."""

    total_space: int
    avail_space: int
    used_inodes: int
    avail_inodes: int


def stat_totals(reader: Reader, vol: Volume, ino: int) -> StatTotals:
    """Totals for the directory `ino`. What has no limit is shown as growing with its use, so as never to look full."""
    used, used_inodes = (max(number, 0) for number in vol.usage or read_usage(reader))
    total = vol.setting.capacity or _unlimited_space(used)
    avail = max(total - used, 0)
    if vol.setting.inodes:
        avail_inodes = max(vol.setting.inodes - used_inodes, 0)
    else:
        avail_inodes = _unlimited_inodes(used_inodes)
    nearest = None
    for directory in quota_chain(reader, vol, ino) if vol.quotas.dirs else ():
        quota = reader.quota("dir", directory)
        if quota is None:
            continue
        if quota.max_space > 0:
            avail = min(avail, max(quota.max_space - quota.used_space, 0))
        if quota.max_inodes > 0:
            avail_inodes = min(avail_inodes, max(quota.max_inodes - quota.used_inodes, 0))
        nearest = nearest or quota
    if nearest is not None:
        total, used_inodes = max(nearest.used_space, 0) + avail, max(nearest.used_inodes, 0)
    return StatTotals(total, avail, used_inodes, avail_inodes)


def read_usage(reader: Reader) -> tuple[int, int]:
    """Bytes and inodes that the volume holds."""
    return reader.counter("usedSpace"), reader.counter("totalInodes")


def _unlimited_space(used: int) -> int:
    total = _PIB
    while total * 8 < used * 10:
        total *= 2
    return total


def _unlimited_inodes(used: int) -> int:
    avail = _INODES
    while used > 4 * avail:
        avail *= 2
    return avail
