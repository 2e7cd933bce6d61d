"""The log: one line format on stderr for every part of the program, and levels by the global options.

`YYYY/MM/DD HH:MM:SS.uuuuuu juicefs[PID] <LEVEL>: MESSAGE [function@file:line]`. The pillars log through the standard
library's `logging` under their own names; nothing else writes to stderr.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType

TRACE = 5
FATAL = logging.CRITICAL
LOG = logging.getLogger("juicefs_py")

_NAMES = {TRACE: "TRACE", logging.DEBUG: "DEBUG", logging.INFO: "INFO", logging.WARNING: "WARNING",
          logging.ERROR: "ERROR", FATAL: "FATAL"}  # fmt: skip
_COLOURS = {TRACE: 35, logging.DEBUG: 35, logging.INFO: 34, logging.WARNING: 33, logging.ERROR: 31, FATAL: 31}
_LEVELS = {"trace": TRACE, "debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING,
           "error": logging.ERROR, "fatal": FATAL, "panic": FATAL}  # fmt: skip


class LineFormatter(logging.Formatter):
    """Renders one record in the program's log format; a traceback, if any, follows on its own lines."""

    def __init__(self, coloured: bool, log_id: str) -> None:
        super().__init__()
        self.coloured = coloured
        self.prefix = f"[{log_id}] " if log_id else ""

    def format(self, record: logging.LogRecord) -> str:
        seconds = int(record.created)
        stamp = time.strftime("%Y/%m/%d %H:%M:%S", time.localtime(seconds))
        micros = int((record.created - seconds) * 1e6)
        level = _NAMES.get(record.levelno, record.levelname)
        if self.coloured:
            level = f"\x1b[1;{_COLOURS.get(record.levelno, 35)}m{level}\x1b[0m"
        where = f"{record.funcName}@{record.filename}:{record.lineno}"
        line = (
            f"{self.prefix}{stamp}.{micros:06d} juicefs[{os.getpid()}] <{level}>: "
            f"{record.getMessage().rstrip(chr(10))} [{where}]"
        )
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class StderrHandler(logging.Handler):
    """Writes each line whole. `elsewhere` takes the lines while progress is drawn on the same terminal."""

    elsewhere: Callable[[str], None] | None = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
            if self.elsewhere is not None:
                self.elsewhere(line)
                return
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        except Exception:
            # A log line must never take the program down: neither a full disk nor a closed stderr.
            pass


HANDLER = StderrHandler()


def set_up(*, level_name: str = "", trace: bool = False, verbose: bool = False, quiet: bool = False,
           log_id: str = "", colour: bool = True) -> None:  # fmt: skip
    """Install the handler and choose the level; safe to call again."""
    level = logging.INFO
    if quiet:
        level = logging.WARNING
    if verbose:
        level = logging.DEBUG
    if trace:
        level = TRACE
    level = _LEVELS.get(level_name, level)
    if log_id == "random":
        import uuid

        log_id = str(uuid.uuid4())
    root = logging.getLogger()
    HANDLER.setFormatter(LineFormatter(colour and sys.stderr.isatty(), log_id))
    if HANDLER not in root.handlers:
        root.addHandler(HANDLER)
    root.setLevel(level)
    logging.addLevelName(TRACE, "TRACE")
    if level_name and level_name not in _LEVELS:
        LOG.warning("Unknown log level: %s, choose one of %s", level_name, " ".join(_LEVELS))


@contextlib.contextmanager
def warned_before() -> Iterator[None]:
    """What is repeated inside has been warned about by another process already: only errors are logged."""
    level = LOG.level
    LOG.setLevel(logging.ERROR)
    try:
        yield
    finally:
        LOG.setLevel(level)


def fatal(message: str, traceback: TracebackType | None = None) -> None:
    """Print a FATAL line that names the place where the error was raised."""
    filename, line, function = "main", 0, "main"
    while traceback is not None:
        code = traceback.tb_frame.f_code
        filename, line, function = code.co_filename, traceback.tb_lineno, code.co_name
        traceback = traceback.tb_next
    record = LOG.makeRecord(LOG.name, FATAL, filename, line, "%s", (message,), None, function)
    LOG.handle(record)
