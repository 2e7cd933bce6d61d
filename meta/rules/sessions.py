"""Client sessions: their records, and what must be undone when one ends - by its owner or, after a crash, by anybody.

Not the heartbeat (`meta.client_session`). A session owns locks and sustained inodes: files without links that it
holds open.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass, field
from datetime import datetime

from meta.rules.context import Volume
from meta.rules.usage import charge
from meta.transaction import DeletedFile, SessionRecord, Transaction
from meta.version import COMPATIBLE_VERSION

MISSED_HEARTBEATS = 5  # after so many a session counts as dead
_YEAR_S = 365 * 86400


@dataclass(slots=True)
class SessionInfo:
    """How a session describes itself to people and to other clients. `mount_point` is free text ("sdk", "webdav")."""

    mount_point: str = ""
    version: str = COMPATIBLE_VERSION
    host_name: str = field(default_factory=socket.gethostname)
    ip_addrs: list[str] = field(default_factory=list)
    mount_time: str = field(default_factory=lambda: rfc3339(datetime.now().astimezone()))
    process_id: int = field(default_factory=os.getpid)

    def to_json(self) -> bytes:
        """The stored document."""
        document: dict[str, object] = {"Version": self.version, "HostName": self.host_name}
        if self.ip_addrs:
            document["IPAddrs"] = self.ip_addrs
        document |= {"MountPoint": self.mount_point, "MountTime": self.mount_time, "ProcessID": self.process_id}
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def rfc3339(time: datetime) -> str:
    """A time of a known zone as Go writes it: no zeros behind the last digit of a fraction, Z for UTC."""
    text = time.isoformat()
    clock, zone = text[:-6], text[-6:]
    if "." in clock:
        clock = clock.rstrip("0").rstrip(".")
    return clock + ("Z" if zone == "+00:00" else zone)


def expiry(vol: Volume) -> int:
    """When a session refreshed now expires, in Unix seconds."""
    heartbeat = vol.config.heartbeat_s
    return int(vol.now()[0] + (heartbeat * MISSED_HEARTBEATS if heartbeat > 0 else _YEAR_S))


def put_session(tx: Transaction, vol: Volume, info: bytes) -> None:
    """Create the session's record or push its expiry; also brings back one that others took for dead."""
    tx.put_session(SessionRecord(vol.sid, expiry(vol), info))


def release_sustained(tx: Transaction, vol: Volume, sid: int, ino: int) -> DeletedFile | None:
    """The last handle of a file without links is gone, so the inode goes. None if it has links, or is gone already."""
    tx.prefetch(("attr", ino))
    attr = tx.attr(ino)
    tx.delete_sustained(sid, ino)
    if attr is None or attr.nlink > 0:
        return None
    deleted = DeletedFile(ino, attr.length, vol.now()[0])
    tx.put_deleted_file(deleted)
    tx.delete_attr(ino)
    tx.delete_xattrs(ino)  # those that were set when it had no link any more
    charge(tx, vol, attr.uid, attr.gid, -attr.space, -1)
    return deleted


def end_session(vol: Volume, sid: int) -> list[DeletedFile]:
    """Undo a session: its locks, its sustained files (returned: their data is to be deleted), then its record."""
    vol.engine.drop_locks(sid)
    deleted = []
    for ino in vol.engine.reader.sustained(sid):
        file = vol.transact(lambda tx, ino=ino: release_sustained(tx, vol, sid, ino))  # type: ignore[misc]
        if file is not None:
            deleted.append(file)
    vol.transact(lambda tx: tx.delete_session(sid))
    return deleted
