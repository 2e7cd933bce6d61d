"""`juicefs rmr`: remove trees. The serving process does the work; this asks for it and shows how far it is."""

from __future__ import annotations

import os
import struct

from juicefs_py.cli import log
from juicefs_py.cli.args import Command, Option, Values
from juicefs_py.cli.control_client import RMR, open_control, strerror
from juicefs_py.cli.errors import Fatal
from juicefs_py.cli.progress import Spinner
from juicefs_py.cli.report import words

_SKIP_TRASH = 1


def _run(values: Values) -> int:
    skip_trash = values.flag("skip-trash")
    if skip_trash and os.getuid() != 0:
        raise Fatal("Only root can remove files directly")
    threads = values.number("threads")
    threads = 50 if threads <= 0 else min(threads, 255)
    with Spinner("Removing entries") as spinner:
        for path in values.positionals:
            _remove(os.path.abspath(path), _SKIP_TRASH if skip_trash else 0, threads, spinner)
    return 0


def _remove(path: str, flags: int, threads: int, spinner: Spinner) -> None:
    parent, name = os.path.split(path)
    try:
        parent_ino = os.stat(parent).st_ino
    except OSError as error:
        raise Fatal(f"lookup inode for {parent}: {strerror(error.errno or 0)}") from None
    try:
        control = open_control(parent)
    except OSError as error:
        log.LOG.error('Open control file for "%s": %s', parent, words(error))
        return
    encoded = os.fsencode(name)
    body = struct.pack(f">QB{len(encoded)}sBB", parent_ino, len(encoded), encoded, flags, threads)
    before = spinner.count
    with control:
        number, _ = control.call(RMR, body, lambda entries, _: spinner.update(before + entries))
    if number:
        raise Fatal(f'RMR "{path}": {strerror(number)}')


COMMAND = Command(
    "rmr", "Remove directories recursively", "PATH ...", "TOOL",
    "Faster than `rm -r`, because the mount process removes many entries at a time.\n\n"
    "Examples:\n$ juicefs rmr /mnt/jfs/foo",
    (
        Option(("skip-trash",), "bool", "", "skip trash and delete files directly (requires root)"),
        Option(("threads", "p"), "int", "50", "number of threads for deleting"),
    ),
    1, None, _run,
)  # fmt: skip
