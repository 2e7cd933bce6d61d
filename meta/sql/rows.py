"""Rows of the `node` table as inode records, and the number conventions of the other tables. Not the statements."""

from __future__ import annotations

from typing import Any, Final

from meta.attr import Attr

Row = tuple[Any, ...]

NODE_COLUMNS: Final = (
    "type", "flags", "mode", "uid", "gid", "atime", "mtime", "ctime", "atimensec", "mtimensec", "ctimensec",
    "nlink", "length", "rdev", "parent", "access_acl_id", "default_acl_id", "tier_id",
)  # fmt: skip
"""Columns of `node` in the order of `read_node` and `node_row`; the inode number comes apart."""

_MAX, _MIN = (1 << 63) - 1, -(1 << 63)
_PLAIN_SECONDS = 9_000_000_000_000  # below this, microseconds fit 63 bits


def read_node(row: Row) -> Attr:
    """The inode record of a row of `NODE_COLUMNS`."""
    attr = Attr.__new__(Attr)
    (
        attr.type, attr.flags, attr.mode, attr.uid, attr.gid, atime, mtime, ctime, anano, mnano, cnano,
        attr.nlink, attr.length, rdev, parent, access_acl, default_acl, tier,
    ) = row  # fmt: skip
    attr.atime, attr.atimensec = atime // 1_000_000, atime % 1_000_000 * 1000 + anano
    attr.mtime, attr.mtimensec = mtime // 1_000_000, mtime % 1_000_000 * 1000 + mnano
    attr.ctime, attr.ctimensec = ctime // 1_000_000, ctime % 1_000_000 * 1000 + cnano
    if anano < 0 or mnano < 0 or cnano < 0:  # before 1970 the remainder is negative
        attr.atime, attr.atimensec = divmod(atime * 1000 + anano, 1_000_000_000)
        attr.mtime, attr.mtimensec = divmod(mtime * 1000 + mnano, 1_000_000_000)
        attr.ctime, attr.ctimensec = divmod(ctime * 1000 + cnano, 1_000_000_000)
    attr.rdev = rdev or 0
    attr.parent = parent or 0
    attr.access_acl = access_acl or 0
    attr.default_acl = default_acl or 0
    attr.tier = tier or 0
    return attr


def node_row(attr: Attr) -> Row:
    """The values of `NODE_COLUMNS` for an inode record."""
    if (
        0 <= attr.atime < _PLAIN_SECONDS and 0 <= attr.mtime < _PLAIN_SECONDS and 0 <= attr.ctime < _PLAIN_SECONDS
    ):  # fmt: skip
        atime, anano = attr.atime * 1_000_000 + attr.atimensec // 1000, attr.atimensec % 1000
        mtime, mnano = attr.mtime * 1_000_000 + attr.mtimensec // 1000, attr.mtimensec % 1000
        ctime, cnano = attr.ctime * 1_000_000 + attr.ctimensec // 1000, attr.ctimensec % 1000
    else:
        atime, anano = _split(attr.atime, attr.atimensec)
        mtime, mnano = _split(attr.mtime, attr.mtimensec)
        ctime, cnano = _split(attr.ctime, attr.ctimensec)
    return (
        attr.type, attr.flags, attr.mode, attr.uid, attr.gid, atime, mtime, ctime, anano, mnano, cnano,
        attr.nlink, attr.length, attr.rdev, attr.parent, attr.access_acl, attr.default_acl, attr.tier,
    )  # fmt: skip


def _split(seconds: int, nanoseconds: int) -> tuple[int, int]:
    """Microseconds and remainder as Go divides: towards zero, so that both are negative before 1970.

    Times beyond what 64 bits of microseconds hold are kept at the bound.
    """
    total = seconds * 1_000_000_000 + nanoseconds
    micro = total // 1000 if total >= 0 else -(-total // 1000)
    if not _MIN <= micro <= _MAX:
        return min(max(micro, _MIN), _MAX), 0
    return micro, total - micro * 1000


def signed(number: int) -> int:
    """A 64-bit unsigned number as the signed one of the same bits."""
    return number - (1 << 64) if number > _MAX else number


def unsigned(number: int) -> int:
    """The inverse of `signed`."""
    return number + (1 << 64) if number < 0 else number
