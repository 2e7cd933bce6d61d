"""Turning passthrough on for a mount that asks for it, or telling in one line why it stays off.

Not what it does then (`juicefs_py.passthrough`).
"""

from __future__ import annotations

import errno
import os
import signal
import tempfile

from fuse.abi import FUSE_PASSTHROUGH
from fuse.session import Session
from juicefs_py.assembling import Assembler
from juicefs_py.cli import log
from juicefs_py.passthrough import Passthrough
from juicefs_py.vfs import VFS

_WORDS = {
    errno.EPERM: "this process lacks CAP_SYS_ADMIN",
    errno.ELOOP: "{path} lies on a stacked file system (overlay); choose another --cache-dir",
    errno.EOPNOTSUPP: "the kernel refuses it",
}


def ignore_leases() -> None:
    """The signal that tells of a broken lease (`chunkstore.cache.assembled.only_mine`) ends a process otherwise."""
    signal.signal(signal.SIGIO, signal.SIG_IGN)


def enable(vfs: VFS, session: Session, wanted: bool, minor: int | None, heir: bool = False) -> None:
    """Once INIT is agreed (with a predecessor, for an heir), before any request is served. `minor`: of the mount."""
    agreed = session.negotiated is not None and session.negotiated.has(FUSE_PASSTHROUGH)
    reason = _obstacle(vfs, session, agreed, heir) if wanted else ""
    if reason:
        log.LOG.warning("--passthrough is not used: %s", reason)
    if not agreed:
        return
    usable = vfs.store.assembled if wanted and not reason else None
    notifier = session.notifier
    passthrough = Passthrough(session.device, usable, str(minor), lambda node: notifier.inval_inode(node, -1, 0))
    assembler = Assembler(vfs)
    passthrough.rebuild = assembler.rebuild
    passthrough.wake = vfs.housekeeper.wake
    if usable is not None:
        passthrough.assembler = assembler
    vfs.housekeeper.add(passthrough.round)
    vfs.passthrough = passthrough
    passthrough.resume(vfs.handles.files())


def _obstacle(vfs: VFS, session: Session, agreed: bool, heir: bool) -> str:
    """Why nothing would come of it; empty if nothing is in the way."""
    if session.config.writeback_cache:
        return "the kernel does not combine it with -o writeback_cache"
    if not agreed and heir:
        return "this mount was made without it; unmount it first"
    if not agreed:
        return "the kernel does not offer it (Linux 6.9 or newer, with CONFIG_FUSE_PASSTHROUGH)"
    if vfs.store.assembled is None:
        return "there is no cache directory on a disk"
    for path in vfs.store.assembled.paths():
        try:
            with tempfile.TemporaryFile(dir=path) as file:
                session.device.close_backing(session.device.open_backing(file.fileno()))
        except OSError as error:
            words = _WORDS.get(error.errno or 0, "a file in {path} cannot be read so: {error}")
            return words.format(path=path, error=os.strerror(error.errno or 0))
    return ""
