"""Old versions of keys, which TiKV keeps until it is told that nobody reads them any more. For the whole cluster.

First every lock of that time is ended, since its transaction may still have to be decided; then PD learns the point up
to which versions may go, and the stores drop them on their own. A cluster that is shared with TiDB has somebody who
does this already: `gc-interval=0` leaves it to them.
"""

from __future__ import annotations

import logging
import re
import time
from typing import Final

from meta.errors import BadURL
from meta.tkv.tikv.cluster import Cluster, make
from meta.tkv.tikv.errors import Moved
from meta.tkv.tikv.locks import Locks
from meta.tkv.tikv.patience import Patience
from meta.tkv.tikv.pd import at

log = logging.getLogger(__name__)

_PAGE: Final = 1024
_LEAST_S: Final = 3600.0
_UNITS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(h|ms|m|s|us|µs|ns)")


def interval(text: str) -> float:
    """Seconds of a Go duration such as `3h` or `1h30m`; at least an hour, or 0: never. `BadURL` if it is none."""
    if text in ("", "0"):
        return 0.0
    if not re.fullmatch(f"(?:{_PART.pattern})+", text):
        raise BadURL(f"tikv:// gc-interval={text}: write a duration such as 3h")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    return max(seconds, _LEAST_S) if seconds else 0.0


def collect(cluster: Cluster, locks: Locks, age_s: float) -> int:
    """Let versions go that were replaced so long ago; the point up to which they may. Slow: it asks every region."""
    point = at(time.time() - age_s)
    ended = _end_locks(cluster, locks, point)
    new = cluster.pd.move_safe_point(point)
    log.info("TiKV: old versions may go up to %d; %d locks of that time were ended", new, ended)
    return new


def _end_locks(cluster: Cluster, locks: Locks, point: int) -> int:
    begin, ended = b"", 0
    while True:
        patience = Patience()
        region = cluster.regions.of(begin)
        request = make("ScanLockRequest", max_version=point, start_key=begin, end_key=region.end, limit=_PAGE)
        try:
            found = list(cluster.ask("KvScanLock", region, request, patience).locks)
        except Moved:
            continue
        if found:
            locks.clear(found, 0, patience)
            ended += len(found)
        if len(found) == _PAGE:
            begin = found[-1].key  # it is ended now, or will be met again
        elif not region.end:
            return ended
        else:
            begin = region.end
