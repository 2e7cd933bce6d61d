"""`juicefs info`: what the volume knows about a path or inode, as the serving process tells it.

Scripts read the output by line number: keep order, spaces and the heading ` objects:`.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from juicefs_py.cli import log, tables
from juicefs_py.cli.args import Command, Option, Values
from juicefs_py.cli.control_client import INFO, LEGACY_INFO, open_control, strerror
from juicefs_py.cli.errors import Fatal
from juicefs_py.cli.progress import Spinner
from juicefs_py.cli.report import words
from juicefs_py.cli.sizes import exact_bytes
from juicefs_py.cli.values import integer

_CHUNK_SIZE = 64 << 20


def _run(values: Values) -> int:
    for argument in values.positionals:
        target = _find(argument, values.flag("inode"))
        if target is not None:
            _show(argument, *target, values)
    return 0


def _find(argument: str, by_inode: bool) -> tuple[int, str] | None:
    """The inode and a directory of its volume; None (and an ERROR line) if there is no such path."""
    if by_inode:
        try:
            ino = integer(argument, signed=False)
        except ValueError as reason:
            raise Fatal(f'inode number "{argument}": {reason}') from None
        if ino < 1:
            raise Fatal(f"inode number shouldn't be less than 1: {argument}")
        return ino, os.getcwd()
    path = os.path.abspath(argument)
    try:
        ino = os.lstat(path).st_ino
    except OSError as error:
        log.LOG.error('lookup inode for "%s": %s', argument, words(error))
        return None
    is_dir = os.path.isdir(path) and not os.path.islink(path)
    return ino, path if is_dir else os.path.dirname(path)


def _show(argument: str, ino: int, directory: str, values: Values) -> None:
    try:
        control = open_control(directory)
    except OSError as error:
        log.LOG.error('Open control file for "%s": %s', argument, words(error))
        return
    recursive, raw, strict = values.flag("recursive"), values.flag("raw"), values.flag("strict")
    with control, Spinner("Scanned files", with_bytes=True, quiet=not recursive) as spinner:
        number, result = control.call(INFO, struct.pack(">QBBB", ino, recursive, raw, strict), spinner.update)
        if number == errno.EINVAL:
            text = control.legacy_text(LEGACY_INFO, struct.pack(">QBB", ino, recursive, raw))
            print(f"{argument} :\n{text}")
            return
    if number:
        raise Fatal(f"info: {strerror(number)}")
    if result.get("Failed"):
        raise Fatal(f"info: {result.get('Reason')}")
    print(f"{argument} :")
    print("\n".join(_lines(result, raw)))


def _lines(result: Mapping[str, Any], raw: bool) -> list[str]:
    summary = result["Summary"]
    lines = [
        f"  inode: {result['Ino']}",
        f"  files: {summary['Files']}",
        f"   dirs: {summary['Dirs']}",
        f" length: {exact_bytes(summary['Length'])}",
        f"   size: {exact_bytes(summary['Size'])}",
        *_paths(result.get("Paths") or []),
        _tier(result.get("Tier") or {}),
    ]
    if result.get("RestoreStatus"):
        lines.append(f"   restore status: {result['RestoreStatus']}")
    if raw and result.get("Chunks"):
        names = ("ChunkIndex", "Id", "Size", "Off", "Len")
        rows = [[str(item[name]) for name in names] for item in result["Chunks"]]
        lines += [" chunks:", tables.render([("chunkIndex", "sliceId", "size", "offset", "length"), *rows])]
    if not raw and result.get("Objects"):
        heading = ("chunkIndex", "objectName", "size", "offset", "length", "pos")
        lines += [" objects:", tables.render([heading, *_objects(result["Objects"])], left=1)]
    lines += _locks(" flocks:", result.get("FLocks"), ("Sid", "Owner", "Type"))
    lines += _locks(" plocks:", result.get("PLocks"), ("Sid", "Owner", "Type", "Pid", "Start", "End"))
    return lines


def _paths(paths: Sequence[str]) -> list[str]:
    if len(paths) > 1:
        return ["  paths:", *(f"\t{path}" for path in paths)]
    return [f"   path: {paths[0] if paths else 'unknown'}"]


def _tier(tier: Mapping[str, Any]) -> str:
    """The mount says what the class is, and whether that is the object's own word ("actual(STANDARD)")."""
    tag = f"tag: {tier['Tag']}" if tier.get("Tag") else ""
    return f"   tier: {tier.get('ID', 0)}->{tier.get('StorageClass', '')} {tag}"


def _objects(items: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The objects of a file in order; `pos` is where the part begins in the file."""
    rows: list[list[str]] = []
    chunk, position = -1, 0
    for item in items:
        if item["ChunkIndex"] != chunk:
            chunk = item["ChunkIndex"]
            position = chunk * _CHUNK_SIZE
        rows.append([str(item[name]) for name in ("ChunkIndex", "Key", "Size", "Off", "Len")] + [str(position)])
        position += item["Len"]
    return rows


def _locks(title: str, items: Sequence[Mapping[str, Any]] | None, names: tuple[str, ...]) -> list[str]:
    if not items:
        return []
    return [title, tables.render([names, *([str(item[name]) for name in names] for item in items)])]


COMMAND = Command(
    "info", "Show internal information of a path or inode", "PATH or INODE ...", "INSPECTOR",
    "Examples:\n# Check a path\n$ juicefs info /mnt/jfs/foo\n\n"
    "# Check an inode\n$ cd /mnt/jfs\n$ juicefs info -i 100",
    (
        Option(("inode", "i"), "bool", "", "use inode instead of path (current dir should be inside JuiceFS)"),
        Option(("recursive", "r"), "bool", "", "summarise directories recursively (may take long for huge trees)"),
        Option(("strict",), "bool", "", "summarise directories exactly (may take long for huge trees)"),
        Option(("raw",), "bool", "", "show internal raw information"),
    ),
    1, None, _run,
)  # fmt: skip
