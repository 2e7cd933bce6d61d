"""`juicefs clone`: a copy of a file or a tree that shares all data. The serving process makes it; this asks for it."""

from __future__ import annotations

import os
import struct

from juicefs_py.cli.args import Command, Option, Values
from juicefs_py.cli.control_client import CLONE, open_control, strerror
from juicefs_py.cli.errors import Fatal
from juicefs_py.cli.progress import Progress
from juicefs_py.cli.report import words
from juicefs_py.cli.umask import umask

_ROOT = 1
_PRESERVE = 2
_MAX_NAME, _MAX_THREADS = 255, 255


def _run(values: Values) -> int:
    source = os.path.abspath(values.positionals[0])
    target = values.positionals[1]
    if target.endswith("/"):
        target = os.path.join(target, os.path.basename(source))
    if os.path.lexists(target):
        raise Fatal(f"{target} already exists")
    target = os.path.abspath(target)
    source_ino, source_parent = _ino(source, follow=False), _ino(os.path.dirname(source))
    directory, name = os.path.dirname(target), os.fsencode(os.path.basename(target))
    parent = _ino(directory)
    mount = _mount_of(source if os.path.isdir(source) and not os.path.islink(source) else os.path.dirname(source))
    if mount != _mount_of(directory):
        raise Fatal("the clone DST path should be at the same mount point as the SRC path")
    if target.startswith(source + "/"):
        raise Fatal("the clone DST path should not be under the SRC path")
    if len(name) > _MAX_NAME:
        raise Fatal(f"{target}: file name too long")
    mode = _PRESERVE if values.flag("preserve") else 0
    threads = min(max(values.number("threads"), 1), _MAX_THREADS)
    head = struct.pack(">QQQB", source_ino, source_parent, parent, len(name))
    body = head + name + struct.pack(">HBB", umask(), mode, threads)
    try:
        control = open_control(mount)
    except OSError as error:
        raise Fatal(f"Open control file for {mount}: {words(error)}") from None
    with control, Progress() as progress:
        bar = progress.bar("Cloning entries", 0)

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done)

        number, _ = control.call(CLONE, body, show)
    if number:
        raise Fatal(f"clone failed: {strerror(number)}")
    return 0


def _ino(path: str, *, follow: bool = True) -> int:
    try:
        return os.stat(path, follow_symlinks=follow).st_ino
    except OSError as error:
        raise Fatal(f"lookup inode for {path}: {words(error)}") from None


def _mount_of(directory: str) -> str:
    """The root of the mount that holds a directory, which is inode 1."""
    at = os.path.realpath(directory)
    while at != "/":
        if _ino(at) == _ROOT:
            return at
        at = os.path.dirname(at)
    raise Fatal(f"{directory} is not inside JuiceFS")


COMMAND = Command(
    "clone", "Clone a file or directory without copying the underlying data", "SRC DST", "TOOL",
    "Source and destination lie in the same mount. The clone appears when it is complete; it takes no room in the\n"
    "storage until one of both is changed. Hard links become files of their own.\n\n"
    "Examples:\n$ juicefs clone /mnt/jfs/foo /mnt/jfs/bar\n\n"
    "# Keep owner, mode and times\n$ juicefs clone -p /mnt/jfs/foo /mnt/jfs/bar",
    (
        Option(("preserve", "p"), "bool", "", "preserve the uid, gid, mode and times"),
        Option(("threads",), "int", "4", "number of threads, for mounts of official clients"),
    ),
    2, 2, _run,
)  # fmt: skip
