"""The trash: hourly directories below the trash root, the names of what is in them, and when they are due.

Not the moving there (removal) and not the emptying (jobs). An hourly directory is named by the UTC hour, an entry in it
`<directory it was in>-<inode>-<name it had>`, cut to the longest name allowed.
"""

from __future__ import annotations

import errno
import time
from calendar import timegm
from typing import Final, NamedTuple

from meta.attr import Attr
from meta.errors import Refused
from meta.rules.context import Unprepared, Volume
from meta.rules.create import add_entry, add_inode, new_attr
from meta.rules.directory import Time
from meta.rules.format import ensure_trash
from meta.transaction import Read, Transaction
from meta.types import DIRECTORY, FLAG_SKIP_TRASH, MAX_NAME, SUPERUSER, TRASH

_HOUR: Final = "%Y-%m-%d-%H"
_GRACE_HOURS: Final = 2  # an hour's directory fills until the hour is over; one more for clocks that differ


class TrashName(NamedTuple):
    """What the name of a trash entry says; the original name may have been cut."""

    parent: int
    ino: int
    name: bytes


def hour_name(now: int) -> bytes:
    """The name of the hourly directory for a time in Unix seconds."""
    return time.strftime(_HOUR, time.gmtime(now)).encode()


def parse_hour(name: bytes) -> int | None:
    """When the hour of that directory began, in Unix seconds; None if it is no hourly directory's name."""
    try:
        return timegm(time.strptime(name.decode("ascii"), _HOUR))
    except ValueError:
        return None


def is_due(name: bytes, now: int, days: int) -> bool:
    """Whether an hourly directory has outlived the days of the trash. What is not named by an hour never has."""
    hour = parse_hour(name)
    return hour is not None and hour < now - (24 * days + _GRACE_HOURS) * 3600


def entry_name(parent: int, ino: int, name: bytes) -> bytes:
    """The name in an hourly directory of what was `name` in the directory `parent`."""
    return (b"%d-%d-%s" % (parent, ino, name))[:MAX_NAME]


def parse_entry(name: bytes) -> TrashName | None:
    """Where a trash entry came from; None if it does not say."""
    parts = name.split(b"-", 2)
    if len(parts) != 3 or not parts[0].isdigit() or not parts[1].isdigit():
        return None
    return TrashName(int(parts[0]), int(parts[1]), parts[2])


def reads_of_bin(vol: Volume) -> tuple[Read, ...]:
    """What `bin_for` will most likely read, for a rule's `prefetch`."""
    return (("attr", vol.trash_hour[1]),) if vol.trash_enabled else ()


def bin_for(tx: Transaction, vol: Volume, parent: int, victim: Attr, now: Time, *, skip: bool = False) -> int:
    """The hourly directory that something removed from `parent` goes to; 0 if it does not go to the trash.

    Raises `Unprepared` if this client does not know the hour's directory yet, or somebody has removed it: creating it
    is a transaction of its own.
    """
    if skip or not vol.trash_enabled or parent >= TRASH or victim.flags & FLAG_SKIP_TRASH:
        return 0
    name = hour_name(now[0])
    known, ino = vol.trash_hour
    if known != name or tx.attr(ino) is None:
        raise Unprepared(lambda: _open_hour(vol, name))
    return ino


def _open_hour(vol: Volume, name: bytes) -> None:
    """Find or create the hourly directory, and remember it. Of two clients that create it, one uses the other's."""
    found = vol.engine.reader.target(TRASH, name)
    ino = found[0].ino if found is not None else TRASH + vol.engine.increment("nextTrash")
    if found is None or found[1] is None:
        ino = vol.engine.transact(lambda tx: _create_hour(tx, vol, name, ino))
    vol.trash_hour = (name, ino)


def _create_hour(tx: Transaction, vol: Volume, name: bytes, ino: int) -> int:
    tx.prefetch(("attr", TRASH), ("target", TRASH, name))
    ensure_trash(tx)
    attr = new_attr(SUPERUSER, DIRECTORY, 0o555, vol.now())
    found = tx.target(TRASH, name)
    if found is None:
        if tx.attr(ino) is not None:
            raise Refused(errno.EIO, f"trash directory {ino} exists already, but not as {name!r}")
        add_entry(tx, vol, TRASH, name, ino, attr)
        return ino
    entry, stored = found
    if stored is None:  # a damaged volume: nobody could remove anything this hour
        attr.parent = TRASH
        add_inode(tx, vol, entry.ino, attr)
        tx.delete_dir_stat(entry.ino)  # it is not empty; counted when needed
    return entry.ino
