"""Reading a mount's own files (`.stats`, `.accesslog`, `.config`) for commands that watch it. Not `.control`."""

from __future__ import annotations

import os
import sys

from juicefs_py.cli.errors import Fatal
from juicefs_py.cli.report import words

ROOT_INODE = 1


def must_be_mounted(path: str, refusal: str) -> None:
    """`Fatal` unless a volume's root is at the path; `refusal` says so with `%s` for the path."""
    try:
        ino = os.stat(path).st_ino
    except OSError as error:
        raise Fatal(f'lookup inode for "{path}": {words(error)}') from None
    if ino != ROOT_INODE:
        raise Fatal(refusal % f'"{path}"')


def internal_file(mountpoint: str, name: str) -> str:
    """The path of `.NAME` in the mount, under whichever of its two names it has."""
    prefixed = os.path.join(mountpoint, f".jfs.{name}")
    return prefixed if os.path.exists(prefixed) else os.path.join(mountpoint, f".{name}")


def coloured(wanted: bool = True) -> bool:
    """Whether standard output is a terminal that shows colours."""
    return wanted and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def paint(text: str, colour: int, *, bold: bool = True, underlined: bool = False) -> str:
    """The text in one of the terminal's colours (30 to 37)."""
    under = "\x1b[4m" if underlined else ""
    return f"{under}\x1b[{int(bold)};{colour}m{text}\x1b[0m"
