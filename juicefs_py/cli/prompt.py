"""Questions and warnings to the person at the terminal; on stdout, because scripts answer them through pipes."""

from __future__ import annotations

import sys

from juicefs_py.cli.errors import Fatal


def warn(text: str) -> None:
    """A yellow WARNING line; coloured even when stdout is not a terminal, as scripts know it."""
    print(f"\x1b[1;33mWARNING\x1b[0m: {text}")


def confirmed() -> bool:
    """Ask `Proceed anyway? [y/N]: ` until the answer is clear; no answer is no."""
    print("Proceed anyway? [y/N]: ", end="", flush=True)
    for line in sys.stdin:
        answer = line.strip().lower()
        if answer in ("y", "yes"):
            return True
        if answer in ("", "n", "no"):
            return False
        print("Please input y(yes) or n(no): ", end="", flush=True)
    return False


def confirm_or_abort() -> None:
    """Go on only after a yes."""
    if not confirmed():
        raise Fatal("Aborted.")
