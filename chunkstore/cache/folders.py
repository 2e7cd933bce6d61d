"""Making cache directories, their ids and modes. Not what is in them."""

from __future__ import annotations

import os
import uuid


def read_id(path: str, mode: int) -> str:
    """The id of a cache directory, made up when it has none. The directory is made too."""
    make_dirs(path, mode)
    lock = f"{path}/.lock"
    try:
        fd = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        os.fchmod(fd, mode)  # whatever the umask: who shares the cache must read it
    except FileExistsError:
        with open(lock, encoding="ascii", errors="replace") as file:
            found = file.read().strip()
        if found:
            return found
        fd = os.open(lock, os.O_WRONLY | os.O_CLOEXEC)
    made = str(uuid.uuid4())
    try:
        os.write(fd, made.encode())
    finally:
        os.close(fd)
    return made


def make_dirs(path: str, mode: int) -> list[str]:
    """Directories for files of `mode`: who may read a file may also list and fill its directory, as upstream.

    Returns those that were missing.
    """
    readable = mode & 0o444
    wanted = mode | readable >> 2 | readable >> 1
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for each in reversed(missing):
        try:
            os.mkdir(each, wanted)
            os.chmod(each, wanted)
        except FileExistsError:
            if not os.path.isdir(each):
                raise
    return missing


def unlink_quietly(path: str) -> None:
    """Remove a file that is no longer registered; one that is gone already, or on a sick disk, is left at that."""
    try:
        os.unlink(path)
    except OSError:
        pass
