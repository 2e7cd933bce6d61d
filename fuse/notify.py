"""Messages from us to the kernel: what it has cached is no longer true. Not here: replies to requests (session).

Deadlocks: the kernel takes the inode's (for entries: the parent directory's) lock, or waits for pages that are being
read or written, while it processes a notification. So never notify about an inode from the thread that is serving a
request on that inode or directory (in particular not before its reply): use another thread, and do not wait for it.
The exception is `inval_inode` with offset -1: the kernel then takes no lock and touches no page.
"""

from __future__ import annotations

import errno

from fuse import abi
from fuse.device import Device
from fuse.operations import Buffer

_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ECONNABORTED, errno.EBADF})


class Notifier:
    """Each method returns False when the kernel has nothing cached about the target (or the session is over)."""

    __slots__ = ("_device",)

    def __init__(self, device: Device) -> None:
        self._device = device

    def _send(self, code: int, *parts: Buffer) -> bool:
        length = abi.fuse_out_header.size + sum(map(len, parts))
        try:
            self._device.write([abi.fuse_out_header.pack(length, code, 0), *parts])
        except OSError as error:
            if error.errno in _GONE:
                return False
            raise
        return True

    def inval_inode(self, ino: int, offset: int = 0, length: int = 0) -> bool:
        """Drop cached attributes, and pages from `offset` on (`length` 0: to the end; `offset` -1: no pages)."""
        return self._send(abi.FUSE_NOTIFY_INVAL_INODE, abi.fuse_notify_inval_inode_out.pack(ino, offset, length))

    def inval_entry(self, parent: int, name: bytes) -> bool:
        """Drop a cached name and the attributes of its directory."""
        record = abi.fuse_notify_inval_entry_out.pack(parent, len(name), 0)
        return self._send(abi.FUSE_NOTIFY_INVAL_ENTRY, record, name + b"\0")

    def delete(self, parent: int, child: int, name: bytes) -> bool:
        """As `inval_entry`, and tell watchers (inotify) that `child` was deleted."""
        record = abi.fuse_notify_delete_out.pack(parent, child, len(name))
        try:
            return self._send(abi.FUSE_NOTIFY_DELETE, record, name + b"\0")
        except OSError as error:
            if error.errno in (errno.EBUSY, errno.ENOTEMPTY):  # a mount point, or a directory with cached entries
                return False
            raise

    def resend(self) -> bool:
        """Have every request that was read and not answered sent again, marked (`Caller.resent`). Linux 6.9 or newer.

        For a process that takes a connection over, before it reads the first request.
        """
        return self._send(abi.FUSE_NOTIFY_RESEND)

    def store(self, ino: int, offset: int, data: Buffer) -> bool:
        """Put `data` into the page cache; extends the size that the kernel knows if need be."""
        record = abi.fuse_notify_store_out.pack(ino, offset, len(data))
        return self._send(abi.FUSE_NOTIFY_STORE, record, data)
