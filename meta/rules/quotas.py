"""Which directories, users and groups have quotas: the little that each client remembers so that others pay nothing.

Not the use and not the limits: those are records, read by whoever wants to grow. Reloaded with every heartbeat.
"""

from __future__ import annotations

from dataclasses import dataclass

from meta.transaction import Quota, Reader


@dataclass(frozen=True, slots=True)
class QuotaTable:
    """Keys of quota records: every directory that has one, and the users and groups that really have a limit."""

    dirs: frozenset[int] = frozenset()
    users: frozenset[int] = frozenset()
    groups: frozenset[int] = frozenset()

    @classmethod
    def load(cls, reader: Reader, *, dirs: bool, owners: bool) -> QuotaTable:
        """Read the tables of the kinds that the volume keeps."""
        return cls(
            frozenset(reader.quotas("dir")) if dirs else frozenset(),
            _limited(reader.quotas("user")) if owners else frozenset(),
            _limited(reader.quotas("group")) if owners else frozenset(),
        )


def _limited(quotas: dict[int, Quota]) -> frozenset[int]:
    return frozenset(key for key, quota in quotas.items() if quota.max_space > 0 or quota.max_inodes > 0)


def exceeds(quota: Quota, space: int, inodes: int) -> bool:
    """Whether growing by that much would pass a limit. Only what grows is held against its limit."""
    return (space > 0 and 0 < quota.max_space < quota.used_space + space) or (
        inodes > 0 and 0 < quota.max_inodes < quota.used_inodes + inodes
    )
