"""The second door, `--fuse pyfuse3`: libfuse reads the requests, pyfuse3 makes trio tasks of them, the VFS answers.

Not here: what pyfuse3 has no handler for, and the kernel thus does itself or refuses (docs/mounting.md). A task hands
its request to a thread, since the VFS waits for databases and storages. The loop is its own, in the thread that calls
`run`: the serving process has another one, which must hear signals whatever happens here. pyfuse3 keeps its session in
globals, so there is one such door in a process.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pyfuse3
import trio

from fuse.errors import MountError
from fuse.mount import MountOptions
from juicefs_py.doors.pyfuse3_handlers import MAX_TASKS, Handlers

if TYPE_CHECKING:
    from juicefs_py.vfs import VFS


class PyFuse3Door:
    """A mount through libfuse. Made, it is mounted; `run` answers."""

    def __init__(self, vfs: VFS, mountpoint: str, options: MountOptions, writeback_cache: bool, acl: bool) -> None:
        self.ready = threading.Event()
        self.unmounted = False
        self.notifier = _Notifier()
        self._vfs = vfs
        self._stopping = False
        self._token: trio.lowlevel.TrioToken | None = None
        logging.getLogger("pyfuse3").addFilter(_of_interest)
        handlers = Handlers(vfs, self.ready, options.default_permissions)
        handlers.enable_writeback_cache = writeback_cache
        handlers.enable_acl = acl
        try:
            pyfuse3.init(handlers, mountpoint, set(_words(options)))
        except RuntimeError as error:  # libfuse has said why on stderr, and does not tell us
            raise MountError(errno.EIO, f"cannot mount on {mountpoint}: {error}") from None

    def run(self) -> None:
        """Serve until unmounted or stopped."""
        try:
            trio.run(self._main)
        finally:
            pyfuse3.close(unmount=False)
        if not self.ready.is_set() and not self._stopping:
            raise MountError(errno.EPROTO, "libfuse and the kernel did not agree; what libfuse said is in the log")
        self.unmounted = not self._stopping
        if self.unmounted:
            self._vfs.destroy()

    def stop(self) -> None:
        """Read no more requests."""
        self._stopping = True
        token = self._token
        if token is not None:
            try:
                token.run_sync_soon(pyfuse3.terminate)
            except trio.RunFinishedError:
                pass

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        if not self._stopping:
            await pyfuse3.main(max_tasks=MAX_TASKS)


def _words(options: MountOptions) -> list[str]:
    """The `-o` list as libfuse takes it: nosuid and nodev it sets by itself, max_read it would want at INIT as well."""
    options = replace(options, max_read=0)
    words = [word for word in options.flag_words() if word not in ("nosuid", "nodev")]
    words += [f"fsname={options.fsname}", f"subtype={options.subtype}", *options.module_options()]
    return [word.replace("\\", "\\\\").replace(",", "\\,") for word in words]


def _of_interest(record: logging.LogRecord) -> bool:
    """Not an error: an answer that nobody waits for any more, as at the unmount and after an interrupt.

    write(2) on the device says ENOENT then, and pyfuse3 logs it as any other failure.
    """
    text = record.getMessage()
    return not ("fuse_reply_* failed" in text and text.endswith(os.strerror(errno.ENOENT)))


class _Notifier:
    """Messages to the kernel about its caches."""

    def inval_inode(self, ino: int, offset: int = 0, length: int = 0) -> bool:
        return _told(lambda: pyfuse3.invalidate_inode(pyfuse3.InodeT(ino), attr_only=offset < 0))

    def inval_entry(self, parent: int, name: bytes) -> bool:
        return _told(lambda: pyfuse3.invalidate_entry(pyfuse3.InodeT(parent), pyfuse3.FileNameT(name)))


def _told(message: Callable[[], None]) -> bool:
    try:
        message()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ECONNABORTED, errno.EBADF):
            raise
        return False
    return True
