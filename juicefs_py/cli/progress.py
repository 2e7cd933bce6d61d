"""Progress of long commands on a terminal: counters, bytes, and bars towards a total. Nothing is drawn anywhere else.

Not the work itself: whoever does it, in any number of threads, moves the meters. Lines are drawn by `rich`, several
times a second; log lines printed meanwhile stand above them. The texts are:

    NAME: CUR/TOTAL [====>----]  123.4/s ETA: 5s        a bar
    ⠋ NAME: N   12.3/s                                  a spinner, when nobody knows the total
    ⠋ NAME: 12.30 MiB (12900000 Bytes)   1.2 MiB/s      the same in bytes
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING

from juicefs_py.cli import log
from juicefs_py.cli.sizes import exact_bytes, ibytes

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_PER_SECOND = 10
_WIDEST_BAR, _NARROWEST_BAR = 62, 10  # without brackets


class Meter:
    """One line: how much is done, of how much, how fast, and what went wrong. Thread-safe."""

    def __init__(self, name: str, total: int | None = None, *, in_bytes: bool = False) -> None:
        self.name = name
        self.total = total
        self.count = 0
        self.errors = 0
        self._in_bytes = in_bytes
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._took_s: float | None = None

    def advance(self, count: int = 1, errors: int = 0) -> None:
        """So much more is done, or has failed."""
        with self._lock:
            self.count += count
            self.errors += errors

    def update(self, count: int) -> None:
        """Show a new sum."""
        with self._lock:
            self.count = count

    def finish(self) -> None:
        """The clock stands still from now on."""
        if self._took_s is None:
            self._took_s = time.monotonic() - self._began

    def text(self, width: int = 120) -> str:
        """What the line says, without the spinner in front of it."""
        took = max(self._took_s or time.monotonic() - self._began, 1e-3)
        rate = self.count / took
        errors = f"  errors: {self.errors}" if self.errors else ""
        if self.total is not None:
            return self._bar_text(width, f"{rate:.1f}/s{self._clock(rate)}{errors}")
        if self._in_bytes:
            return f"{self.name}: {exact_bytes(self.count)}   {ibytes(int(rate))}/s{errors}"
        return f"{self.name}: {self.count}   {rate:.1f}/s{errors}"

    def _clock(self, rate: float) -> str:
        if self._took_s is not None:
            return f" used: {self._took_s:.1f}s"
        left = max((self.total or 0) - self.count, 0)
        return f" ETA: {round(left / rate)}s" if rate else ""

    def _bar_text(self, width: int, tail: str) -> str:
        total = self.total or 0
        head = f"{self.name}: {self.count}/{total} "
        room = min(max(width - len(head) - len(tail) - 4, _NARROWEST_BAR), _WIDEST_BAR)
        done = room if self.count >= total else room * self.count // total
        bar = "=" * done if done == room else "=" * (done - 1) + ">" * (done > 0)
        return f"{head}[{bar:-<{room}}]  {tail}"


class Progress:
    """The lines of one command, shown while a `with` lasts if stdout is a terminal."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.shown = not quiet and sys.stdout.isatty() and os.environ.get("DISPLAY_PROGRESSBAR") != "false"
        self._meters: list[Meter] = []
        self._live: Live | None = None
        self._width = 80

    def bar(self, name: str, total: int) -> Meter:
        """A line that goes towards `total`."""
        return self._add(Meter(name, total))

    def spinner(self, name: str, *, in_bytes: bool = False) -> Meter:
        """A line that counts, things or bytes."""
        return self._add(Meter(name, in_bytes=in_bytes))

    def _add(self, meter: Meter) -> Meter:
        self._meters.append(meter)
        return meter

    def __enter__(self) -> Progress:
        if self.shown:
            from rich.console import Console
            from rich.live import Live

            console = Console(file=sys.stdout, highlight=False)
            self._width = console.width
            self._live = Live(
                console=console, get_renderable=self._lines, refresh_per_second=_PER_SECOND,
                redirect_stdout=False, redirect_stderr=False,
            )  # fmt: skip
            self._live.start(refresh=True)
            if sys.stderr.isatty():
                log.HANDLER.elsewhere = self._above
        return self

    def __exit__(self, *_: object) -> None:
        for meter in self._meters:
            meter.finish()
        if self._live is not None:
            log.HANDLER.elsewhere = None
            live, self._live = self._live, None
            live.stop()

    def _above(self, line: str) -> None:
        """A log line, which would disturb the drawing if it went to the terminal by itself."""
        if self._live is not None:
            from rich.text import Text

            self._live.console.print(Text.from_ansi(line), soft_wrap=True)

    def _lines(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        lines = []
        for meter in self._meters:
            line = Text(no_wrap=True, overflow="ellipsis")
            if meter.total is None:
                line.append(self._mark(), style="bold green").append(" ")
            lines.append(line.append(meter.text(self._width)))
        return Group(*lines)

    def _mark(self) -> str:
        """The frame of all spinners at this moment, blank when the work is over."""
        return _FRAMES[int(time.monotonic() * _PER_SECOND) % len(_FRAMES)] if self._live is not None else " "


class Spinner:
    """A single counter, and a second one in bytes if asked for. Use as a context manager."""

    def __init__(self, name: str, *, with_bytes: bool = False, quiet: bool = False) -> None:
        self._progress = Progress(quiet=quiet)
        self._counter = self._progress.spinner(name)
        self._sizes = self._progress.spinner(name, in_bytes=True) if with_bytes else Meter(name, in_bytes=True)

    @property
    def count(self) -> int:
        return self._counter.count

    @property
    def bytes(self) -> int:
        return self._sizes.count

    def __enter__(self) -> Spinner:
        self._progress.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.__exit__()

    def update(self, count: int, size: int = 0) -> None:
        """Show new totals."""
        self._counter.update(count)
        self._sizes.update(size)
