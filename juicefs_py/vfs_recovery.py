"""Taking over from another process on the same connection: its open files, and requests that it may have served.

Not here: the connection (`mount.serve`, `fuse.session`) and what the predecessor noted (`ledger`).

A request that is sent again may have been done before. Where doing it twice is the same as doing it once there is
nothing to see to. Where the second time fails because of the first, the failure is taken for success: a name that was
to be made is there, of the right kind and new; one that was to go is gone. (Others may have done just that in the
moment between. Then both get what they asked for.) Two names that were to be exchanged do not tell if they have been:
EIO.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from fuse.operations import Caller
from juicefs_py.ledger import Ledger, OpenFile
from meta.attr import Attr
from meta.errors import MetaError
from meta.types import DIRECTORY, FILE, SUPERUSER, SYMLINK

if TYPE_CHECKING:
    from juicefs_py.vfs import VFS

log = logging.getLogger(__name__)

_NEW_S: Final = 120.0  # a name that a lost request has made was not older when the process died

LOST: Final = "data that was not flushed was lost with the process that had taken it"


def recover(vfs: VFS, files: Sequence[OpenFile], ledger: Ledger, known: bool = True) -> None:
    """Open a predecessor's handles again. Those of files with unflushed data, or an error untold, report EIO once.

    `known`: these are all. Otherwise programs may have others open, and removed files are left to the session's end.
    """
    dirty = ledger.dirty()
    meta = vfs.meta
    inos = {file.ino for file in files}
    attrs = meta.reader.attrs(inos) if inos else {}
    sustained = set(meta.reader.sustained(meta.sid)) if meta.sid else set()
    _, plocks = meta.engine.session_locks(meta.sid) if meta.sid else ({}, {})
    for fh, ino, flags, node, backing in files:
        attr = attrs.get(ino)
        meta.adopt(ino, removed=ino in sustained)
        inode = vfs.handles.hold(ino)
        inode.lock_owners |= plocks.get(ino, {}).keys()
        tier = attr.tier if attr else 0
        handle = vfs.handles.open(inode, tier, flags, writable=fh & 1 == 0, fh=fh, node=node, backing=backing)
        handle.recovered = True
        if handle.claim is not None and ino in dirty:
            handle.claim.wrote = True
    for ino in dirty:
        writer = vfs.writers.get(ino)
        if writer is not None:
            log.error("inode %d: %s", ino, LOST)
            writer.lose(OSError(errno.EIO, LOST))
        else:
            ledger.is_clean(ino)
    for ino in sustained - inos if known else ():  # closed while nobody listened
        meta.adopt(ino, removed=True)
        meta.close(ino)


def answer_again(vfs: VFS, op: str, caller: Caller, args: tuple[Any, ...], problem: BaseException) -> Any:
    """The answer to a request that was sent again and has failed with `problem`, which is raised if it counts."""
    judge = _JUDGES.get((op, getattr(problem, "errno", None)))
    if judge is None:
        raise problem
    try:
        return judge(vfs, caller, *args)
    except (MetaError, OSError, _Other):
        raise problem from None


class _Other(Exception):
    """What is there was not made by the request."""


def _made(vfs: VFS, parent: int, name: bytes, kind: int) -> Any:
    ino, attr = vfs.meta.lookup(SUPERUSER, parent, name)
    if attr.type != kind or _is_old(vfs, attr):
        raise _Other
    return vfs.entry(ino, attr)


def _is_old(vfs: VFS, attr: Attr) -> bool:
    return attr.ctime < vfs.lost_since - _NEW_S


def _mkdir(vfs: VFS, caller: Caller, parent: int, name: bytes, *_: Any) -> Any:
    return _made(vfs, parent, name, DIRECTORY)


def _symlink(vfs: VFS, caller: Caller, parent: int, name: bytes, target: bytes) -> Any:
    entry = _made(vfs, parent, name, SYMLINK)
    if vfs.meta.readlink(entry.stat.ino) != target:
        raise _Other
    return entry


def _mknod(vfs: VFS, caller: Caller, parent: int, name: bytes, *_: Any) -> Any:
    ino, attr = vfs.meta.lookup(SUPERUSER, parent, name)
    if attr.type in (DIRECTORY, SYMLINK) or _is_old(vfs, attr):
        raise _Other
    return vfs.entry(ino, attr)


def _create(vfs: VFS, caller: Caller, parent: int, name: bytes, mode: int, umask: int, flags: int) -> Any:
    entry = _made(vfs, parent, name, FILE)
    if entry.stat.size:
        raise _Other
    return entry, vfs.open(caller, entry.stat.ino, flags & ~(os.O_CREAT | os.O_EXCL))


def _link(vfs: VFS, caller: Caller, ino: int, parent: int, name: bytes) -> Any:
    found, attr = vfs.meta.lookup(SUPERUSER, parent, name)
    if found != ino:
        raise _Other
    return vfs.entry(found, attr)


def _gone(vfs: VFS, caller: Caller, *_: Any) -> None:
    return None


def _renamed(vfs: VFS, caller: Caller, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
    _, attr = vfs.meta.lookup(SUPERUSER, new_parent, new_name)
    if _is_old(vfs, attr):
        raise _Other


def _setxattr(vfs: VFS, caller: Caller, ino: int, name: bytes, value: bytes, flags: int) -> None:
    if vfs.meta.getxattr(SUPERUSER, ino, name) != value:
        raise _Other


_JUDGES: dict[tuple[str, int | None], Callable[..., Any]] = {
    ("mkdir", errno.EEXIST): _mkdir, ("symlink", errno.EEXIST): _symlink, ("mknod", errno.EEXIST): _mknod,
    ("create", errno.EEXIST): _create, ("link", errno.EEXIST): _link,
    ("unlink", errno.ENOENT): _gone, ("rmdir", errno.ENOENT): _gone, ("rename", errno.ENOENT): _renamed,
    ("removexattr", errno.ENODATA): _gone, ("setxattr", errno.EEXIST): _setxattr,
}  # fmt: skip
