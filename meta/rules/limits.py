"""Quotas as people set, lift and check them; and counting again what directories and owners use.

Not keeping the use up to date (`usage`), nor which quotas a client knows of (`quotas`). A quota is noticed by other
clients with their next heartbeat; what they change in between, while its use is counted for the first time, may be
missing from it, as with official clients: `repair_directory` and `repair_owner` put that right.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, Literal, NamedTuple

from meta.errors import NotFormatted, Refused
from meta.rules.context import Volume
from meta.rules.format import init_volume
from meta.rules.summary import summarize
from meta.setting import Setting
from meta.transaction import Quota, QuotaKind, Transaction
from meta.types import DIR_LENGTH, ROOT, TRASH

OwnerKind = Literal["user", "group"]
_NONE: Final = Quota(-1, -1, 0, 0)
_ATTEMPTS: Final = 3  # at a count during which nothing changes
_COLUMNS: Final[dict[OwnerKind, str]] = {"user": "uid", "group": "gid"}


class Use(NamedTuple):
    """What is held: space accounted for, and inodes."""

    space: int
    inodes: int


def set_limit(
    vol: Volume, kind: QuotaKind, key: int, space: int | None, inodes: int | None, *, strict: bool = False
) -> Quota:
    """Limit a directory, a user or a group; None leaves that limit as it was. Returns the quota as it then is.

    Switches on what the volume must keep for it, and counts what a new one uses: `strict` by looking at each inode.
    """
    fresh = _keep_totals(vol, kind)
    new = vol.transact(lambda tx: _put_limit(tx, kind, key, space, inodes))
    if kind == "dir":
        if new:
            repair_directory(vol, key, strict=strict)
    elif fresh:
        count_owners(vol)
    return vol.engine.reader.quota(kind, key) or _NONE


def lift_limit(vol: Volume, kind: QuotaKind, key: int) -> None:
    """No quota any more. Of users and groups the use is still kept, so only the limits go."""

    def body(tx: Transaction) -> None:
        tx.prefetch(("quota", kind, key))
        quota = tx.quota(kind, key)
        if kind == "dir":
            tx.delete_quota(kind, key)
        elif quota is not None:
            tx.put_quota(kind, key, quota._replace(max_space=-1, max_inodes=-1))

    vol.transact(body)


def check_directory(vol: Volume, ino: int, *, strict: bool = False) -> tuple[Quota | None, Use]:
    """The quota of a directory and what there is below it; both of one time, unless it never comes to rest."""
    vol.engine.flush()
    reader = vol.engine.reader
    quota = reader.quota("dir", ino)
    for _ in range(_ATTEMPTS):
        total = summarize(reader, vol, ino, strict=strict)
        before, quota = quota, reader.quota("dir", ino)
        if before == quota:
            break
    return quota, Use(total.size - DIR_LENGTH, total.files + total.dirs - 1)


def repair_directory(vol: Volume, ino: int, *, strict: bool = False) -> Use:
    """Make the use of a directory's quota what there is below it."""
    for attempt in range(_ATTEMPTS):
        quota, counted = check_directory(vol, ino, strict=strict)
        seen = None if attempt + 1 == _ATTEMPTS else quota
        if quota is None or vol.transact(lambda tx: _put_use(tx, "dir", ino, counted, seen)):  # noqa: B023 - run at once
            break
    return counted


def count_owners(vol: Volume) -> None:
    """Count what every user and group holds, and keep that."""
    with owners(vol) as counted:
        for kind, key, _, use in counted.differences():
            repair_owner(vol, kind, key, use)


def repair_owner(vol: Volume, kind: OwnerKind, key: int, counted: Use) -> None:
    """Make the use of a user or group what was counted."""
    vol.transact(lambda tx: _put_use(tx, kind, key, counted, None))


class Owners:
    """What users and groups hold by a count, beside what is kept about them."""

    def __init__(self, vol: Volume, db: sqlite3.Connection) -> None:
        self._vol = vol
        self._db = db

    def differences(self) -> Iterator[tuple[OwnerKind, int, Quota | None, Use]]:
        """Owners whose kept use is not the counted one."""
        return (row for row in self.all() if row[2] is None or Use(row[2].used_space, row[2].used_inodes) != row[3])

    def all(self) -> Iterator[tuple[OwnerKind, int, Quota | None, Use]]:
        """Every owner that holds anything or has a record."""
        for kind, column in _COLUMNS.items():
            stored = self._vol.engine.reader.quotas(kind)
            for key, space, inodes in self._db.execute(
                f"SELECT {column}, sum(space), count(*) FROM node GROUP BY 1 ORDER BY 1"
            ):
                yield kind, key, stored.pop(key, None), Use(space, inodes)
            for key, quota in sorted(stored.items()):
                yield kind, key, quota, Use(0, 0)


@contextmanager
def owners(vol: Volume) -> Iterator[Owners]:
    """Count every inode of the volume for its owners, in a temporary database on disk. For a volume at rest."""
    vol.engine.flush()
    db = sqlite3.connect("", isolation_level=None)  # no name: a file that vanishes when closed
    try:
        db.executescript(
            "PRAGMA synchronous=OFF; CREATE TABLE node(ino INTEGER PRIMARY KEY, uid INT, gid INT, space INT); BEGIN"
        )
        nodes = ((ino, attr.uid, attr.gid, attr.space) for ino, attr in vol.engine.list_nodes())
        db.executemany("INSERT OR IGNORE INTO node VALUES(?, ?, ?, ?)", nodes)  # a walk may bring one twice
        db.execute("DELETE FROM node WHERE ino IN (?, ?)", (ROOT, TRASH))
        yield Owners(vol, db)
    finally:
        db.close()


def _keep_totals(vol: Volume, kind: QuotaKind) -> bool:
    """Have the volume keep what the quota needs; whether it did not before."""
    document = vol.engine.reader.setting()
    if document is None:
        raise NotFormatted
    stored = Setting.parse(document)
    wanted = replace(stored, dir_stats=True) if kind == "dir" else replace(stored, user_group_quota=True)
    if wanted == stored:
        return False
    vol.setting = init_volume(vol.engine, wanted).decrypted()
    return True


def _put_limit(tx: Transaction, kind: QuotaKind, key: int, space: int | None, inodes: int | None) -> bool:
    """Whether there was no such quota before."""
    tx.prefetch(("quota", kind, key), *([("attr", key)] if kind == "dir" else []))
    if kind == "dir":
        attr = tx.attr(key)
        if attr is None:
            raise Refused(errno.ENOENT)
        if not attr.is_dir:
            raise Refused(errno.ENOTDIR)
    stored = tx.quota(kind, key)
    quota = stored or _NONE
    quota = quota._replace(
        max_space=quota.max_space if space is None else space,
        max_inodes=quota.max_inodes if inodes is None else inodes,
    )
    tx.put_quota(kind, key, quota)
    return stored is None


def _put_use(tx: Transaction, kind: QuotaKind, key: int, use: Use, seen: Quota | None) -> bool:
    """Store a counted use; not if there is something else than was `seen` during the count."""
    tx.prefetch(("quota", kind, key))
    stored = tx.quota(kind, key)
    if seen is not None and stored != seen:
        return False
    if stored is not None or kind != "dir":  # else it was lifted meanwhile
        tx.put_quota(kind, key, (stored or _NONE)._replace(used_space=use.space, used_inodes=use.inodes))
    return True
