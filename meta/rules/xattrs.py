"""Extended attributes. ACLs look like some to the kernel but are none: see `meta.rules.acls`."""

from __future__ import annotations

import errno

from meta.acl import XATTR_NAMES
from meta.errors import Refused
from meta.rules.context import Volume
from meta.transaction import Reader, Transaction

CREATE, REPLACE = 1, 2
MAX_NAME = 255
MAX_VALUE = 65536


def get_xattr(reader: Reader, ino: int, name: bytes) -> bytes:
    """The value; ENODATA if there is none of that name."""
    value = reader.xattr(ino, name)
    if value is None:
        raise Refused(errno.ENODATA)
    return value


def list_xattrs(reader: Reader, vol: Volume, ino: int) -> list[bytes]:
    """The names, sorted; those of ACLs behind them."""
    names = sorted(reader.xattrs(ino))
    if vol.setting.enable_acl:
        attr = reader.attr(ino)
        if attr is not None:
            ids = {"access": attr.access_acl, "default": attr.default_acl}
            names += [name for name, kind in XATTR_NAMES.items() if ids[kind]]
    return names


def set_xattr(tx: Transaction, ino: int, name: bytes, value: bytes, flags: int) -> None:
    """Set a value. CREATE: EEXIST if there is one; REPLACE: ENODATA if there is none. ctime stays, as in upstream."""
    if not name or flags not in (0, CREATE, REPLACE):
        raise Refused(errno.EINVAL)
    if len(name) > MAX_NAME or len(value) > MAX_VALUE:
        raise Refused(errno.ERANGE)
    tx.prefetch(("attr", ino), *([("xattr", ino, name)] if flags else []))
    if tx.attr(ino) is None:
        raise Refused(errno.ENOENT)
    exists = flags and tx.xattr(ino, name) is not None
    if flags == CREATE and exists:
        raise Refused(errno.EEXIST)
    if flags == REPLACE and not exists:
        raise Refused(errno.ENODATA)
    tx.put_xattr(ino, name, value)


def remove_xattr(tx: Transaction, ino: int, name: bytes) -> None:
    """Remove a value; ENODATA if there is none."""
    tx.prefetch(("xattr", ino, name))
    if tx.xattr(ino, name) is None:
        raise Refused(errno.ENODATA)
    tx.delete_xattr(ino, name)
