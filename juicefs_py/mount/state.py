"""What a serving process writes down when it makes room for a successor: its open files, as official clients do.

A JSON document: `{"Handler": {"HANDLE": {"Inode", "Length", "Flags", "UseLocks", "FlockOwner", "Off", "Data",
"TierID", "Node", "Backing", "Lost"}}, "NextFh": N}`. `UseLocks`: bit 0 BSD lock, bit 1 record locks; the last three are
ours alone: `passthrough`'s, and whether the handle is to hear that data is lost. Handles of directories and of
internal files are not in it: they are opened again when they are used. It lies in /tmp, so it is read only if it is
ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from typing import TYPE_CHECKING, Any, NamedTuple

from juicefs_py.cli import log
from juicefs_py.ledger import OpenFile

if TYPE_CHECKING:
    from juicefs_py.handles import HandleTable


class Left(NamedTuple):
    """What a predecessor has written down."""

    files: list[OpenFile]
    next: int  # above all handle numbers that it gave out; 0 if it does not tell
    lost: set[int]  # inodes whose handles are to hear of a loss
    path: str = ""  # of the document; empty without one

    def put_aside(self) -> None:
        """It is taken over: nobody else may find it. Until then whoever is tried next must."""
        if self.path:
            with contextlib.suppress(OSError):
                os.rename(self.path, f"{self.path}.bak")


_NOTHING = Left([], 0, set())


def path_of(supervisor: int) -> str:
    """Where the child of this supervisor leaves it, unless somebody wants it elsewhere (`_FUSE_STATE_PATH`)."""
    return f"/tmp/state{supervisor}.json"


def save(path: str, handles: HandleTable) -> None:
    """Write down all open files, in one step."""
    document = {"Handler": {str(handle.fh): _described(handle) for handle in handles.files()}, "NextFh": handles.next}
    new = f"{path}.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="ascii") as file:
        json.dump(document, file)
    os.rename(new, path)


def _described(handle: Any) -> dict[str, object]:
    return {
        "Inode": handle.ino,
        "Length": handle.inode.length,
        "Flags": handle.flags,
        "UseLocks": (handle.flock_owner is not None) | bool(handle.lock_owners) << 1,
        "FlockOwner": handle.flock_owner or 0,
        "Off": 0,
        "Data": "",
        "TierID": 0,
        "Node": handle.node,
        "Backing": handle.backing,
        "Lost": handle.writer is not None and (handle.writer.dirty or handle.writer.owes_to(handle.claim)),
    }


def load(default: str) -> Left:
    """What a predecessor has left, if anything. The document stays where it is (`Left.put_aside`)."""
    for path in (os.environ.get("_FUSE_STATE_PATH", ""), default):  # the first is the first process's alone to find
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            break
    else:
        return _NOTHING
    with open(fd, "rb") as file:
        about = os.fstat(file.fileno())
        if about.st_uid != os.getuid() or not stat.S_ISREG(about.st_mode):
            log.LOG.warning("%s is not ours, and not used", path)
            return _NOTHING
        text = file.read()
    try:
        document = json.loads(text)
        files = [
            OpenFile(
                int(fh),
                int(known["Inode"]),
                int(known["Flags"]) & 0xFFFFFFFF,
                int(known.get("Node", 0)),
                int(known.get("Backing", 0)),
            )
            for fh, known in document.get("Handler", {}).items()
        ]
        lost = {int(known["Inode"]) for known in document.get("Handler", {}).values() if known.get("Lost")}
        return Left(files, int(document.get("NextFh", 0)), lost, path)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        log.LOG.warning("%s tells no open files: %s", path, error)
        return _NOTHING._replace(path=path)
