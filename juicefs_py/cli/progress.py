"""Progress of long commands on a terminal: a spinner that counts entries or bytes. Nothing is drawn anywhere else."""

from __future__ import annotations

import os
import sys
import time

from juicefs_py.cli import log
from juicefs_py.cli.sizes import exact_bytes, ibytes

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_CLEAR = "\r\x1b[K"


class Spinner:
    """One line, `NAME: N  12.3/s`, and optionally a second value in bytes. Use as a context manager.

    Log lines printed meanwhile appear above it.
    """

    def __init__(self, name: str, *, with_bytes: bool = False, quiet: bool = False) -> None:
        self.name = name
        self.with_bytes = with_bytes
        self.shown = not quiet and sys.stdout.isatty() and os.environ.get("DISPLAY_PROGRESSBAR") != "false"
        self.count = 0
        self.bytes = 0
        self._started = time.monotonic()
        self._frame = 0

    def __enter__(self) -> Spinner:
        if self.shown:
            log.HANDLER.around = self._hide
        return self

    def __exit__(self, *_: object) -> None:
        if self.shown:
            log.HANDLER.around = None
            self._draw(" ")
            print(flush=True)

    def update(self, count: int, size: int = 0) -> None:
        """Show new totals."""
        self.count, self.bytes = count, size
        if self.shown:
            self._frame = (self._frame + 1) % len(_FRAMES)
            self._draw(f"\x1b[1;32m{_FRAMES[self._frame]}\x1b[0m")

    def _draw(self, mark: str) -> None:
        elapsed = max(time.monotonic() - self._started, 1e-3)
        line = f"{mark} {self.name}: {self.count}  {self.count / elapsed:.1f}/s"
        if self.with_bytes:
            line += f"   {exact_bytes(self.bytes)}  {ibytes(int(self.bytes / elapsed))}/s"
        print(_CLEAR + line, end="", flush=True)

    @staticmethod
    def _hide() -> None:
        print(_CLEAR, end="", flush=True)
