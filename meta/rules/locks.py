"""BSD locks of whole files and POSIX locks of byte ranges: who may hold what beside whom.

Not waiting (`meta.lock_waits`): a rule answers at once. A lock belongs to (session, owner number); a session that
dies loses its locks.
"""

from __future__ import annotations

import errno

from meta.errors import Refused
from meta.plock import UNLOCK, Plock, decode_plocks, encode_plocks, find_conflict, update_plocks
from meta.rules.context import Volume
from meta.transaction import Owner, Reader, Transaction

READ, WRITE = b"R", b"W"


def flock(tx: Transaction, vol: Volume, ino: int, owner: int, kind: bytes | None) -> bool:
    """Take (b"R", b"W"), change or release (None) the BSD lock of an owner. False if others stand in the way."""
    me: Owner = (vol.sid, owner)
    tx.prefetch(("attr", ino), ("flocks", ino))
    held = tx.flocks(ino)
    if kind is None:
        if me in held:
            tx.put_flock(ino, me, None)
        return True
    if tx.attr(ino) is None:
        raise Refused(errno.ENOENT)
    for other, theirs in held.items():
        if other != me and WRITE in (kind, theirs):
            return False
    if held.get(me) != kind:
        tx.put_flock(ino, me, kind)
    return True


def set_plock(tx: Transaction, vol: Volume, ino: int, owner: int, lock: Plock) -> bool:
    """Set a POSIX lock, or release its range (type UNLOCK). False if another owner's lock is in the way."""
    me: Owner = (vol.sid, owner)
    tx.prefetch(("attr", ino), ("plocks", ino))
    held = tx.plocks(ino)
    mine = held.get(me, b"")
    if lock.type == UNLOCK:
        if not mine:
            return True
    elif tx.attr(ino) is None:
        raise Refused(errno.ENOENT)
    elif _blocking(held, me, lock) is not None:
        return False
    records = encode_plocks(update_plocks(decode_plocks(mine), lock))
    if records != mine:
        tx.put_plock(ino, me, records or None)
    return True


def get_plock(reader: Reader, vol: Volume, ino: int, owner: int, lock: Plock) -> Plock:
    """The lock that keeps `lock` from being set, or one of type UNLOCK. Process ids of other clients are shown as 0."""
    blocking = _blocking(reader.plocks(ino), (vol.sid, owner), lock)
    if blocking is None:
        return lock._replace(type=UNLOCK)
    (sid, _), theirs = blocking
    return theirs if sid == vol.sid else theirs._replace(pid=0)


def _blocking(held: dict[Owner, bytes], me: Owner, lock: Plock) -> tuple[Owner, Plock] | None:
    for other, records in held.items():
        if other != me:
            conflict = find_conflict(decode_plocks(records), lock)
            if conflict is not None:
                return other, conflict
    return None
