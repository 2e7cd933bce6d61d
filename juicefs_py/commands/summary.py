"""`juicefs summary`: the sizes of a directory tree, as the serving process counts them."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Any

from juicefs_py.cli import log, tables
from juicefs_py.cli.args import Command, Option, Values
from juicefs_py.cli.control_client import SUMMARY, open_control, strerror
from juicefs_py.cli.errors import Fatal
from juicefs_py.cli.progress import Spinner
from juicefs_py.cli.report import words
from juicefs_py.cli.sizes import ibytes

_MAX_DEPTH, _MAX_ENTRIES = 10, 100
_DIRECTORY = 2
_HEADING = ("PATH", "SIZE", "DIRS", "FILES")


def _run(values: Values) -> int:
    path = os.path.abspath(values.positionals[0])
    depth = _bounded(values, "depth", _MAX_DEPTH)
    entries = _bounded(values, "entries", _MAX_ENTRIES)
    try:
        ino = os.stat(path).st_ino
        control = open_control(path if os.path.isdir(path) else os.path.dirname(path))
    except OSError as error:
        raise Fatal(f"open controller: {path}: {words(error)}") from None
    body = struct.pack(">QBBB", ino, depth, entries, values.flag("strict"))
    csv = values.flag("csv")
    with control, Spinner("Collecting stats", with_bytes=True, quiet=csv) as spinner:
        number, result = control.call(SUMMARY, body, spinner.update)
    number = number or result["Errno"]
    if number:
        raise Fatal(f"summary: {strerror(number)}")
    rows = list(_rows(result["Tree"]))
    if csv:
        print("\n".join(",".join(map(str, row)) for row in (_HEADING, *rows)))
    else:
        shown = [(name, ibytes(size), str(dirs), str(files)) for name, size, dirs, files in rows]
        print(tables.render([_HEADING, *shown], left=0))
    return 0


def _bounded(values: Values, name: str, most: int) -> int:
    number = values.number(name)
    if number > most:
        log.LOG.warning("%s should be less than %d", name, most + 1)
        return most
    return number


def _rows(tree: dict[str, Any]) -> Iterator[tuple[str, int, int, int]]:
    """A node and those below it; paths are relative to the root, which is `/`, and directories end with a slash."""
    path = tree["Path"].strip("/") + ("/" if tree["Type"] == _DIRECTORY else "")
    yield path, tree["Size"], tree["Dirs"], tree["Files"]
    for child in tree.get("Children") or ():
        yield from _rows(child)


COMMAND = Command(
    "summary", "Show tree summary of a directory", "PATH", "INSPECTOR",
    "Show the space and the number of files below a directory, largest first.\n\n"
    "Examples:\n$ juicefs summary /mnt/jfs/foo\n$ juicefs summary --depth 5 --entries 20 --csv /mnt/jfs/foo",
    (
        Option(("depth", "d"), "uint", "2", "depth of tree to show (zero means only show root)"),
        Option(("entries", "e"), "uint", "10", "show top N entries (sort by size)"),
        Option(("strict",), "bool", "", "show accurate summary, including directories and files (may be slow)"),
        Option(("csv",), "bool", "", "print summary in csv format"),
    ),
    1, 1, _run,
)  # fmt: skip
