"""How a client uses a volume: the options of `MetaClient`, and what it needs from the room that stores the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from meta.slices import Piece


@dataclass(slots=True)
class MetaConfig:
    """Client options (mount flags of the same names); nothing of this is stored in the volume."""

    read_only: bool = False
    subdir: str = ""
    atime_mode: str = "noatime"  # noatime, relatime, strictatime
    skip_dir_mtime_s: float = 0.1  # leave a directory's times alone if they are fresher than this
    skip_dir_nlink: int = 20  # shown in `.config` only: our engines never give up a directory's nlink
    open_cache_s: float = 0.0
    open_cache_limit: int = 10_000
    heartbeat_s: float = 12.0  # 0: no heartbeat
    no_bgjob: bool = False
    max_deletes: int = 10  # 0: never delete objects
    retries: int = 10
    mount_point: str = ""
    sort_dir: bool = False  # whoever lists sorts by name, if the engine does not
    fast_statfs: bool = False  # the volume's totals as of the last heartbeat
    dir_stat_flush_s: float = 1.0


class SliceStore(Protocol):
    """What the metadata room needs done to data."""

    def delete_slice(self, slice_id: int, size: int) -> None:
        """Delete every object of a slice; objects that are gone already are fine. Raises if any may be left."""
        ...

    def compact_slice(self, pieces: Sequence[Piece], slice_id: int, size: int, tier: int) -> None:
        """Write the bytes that `pieces` describe (id 0: zeros) as the new slice `slice_id` of `size` bytes."""
        ...
