"""`juicefs profile`: which operations a mount spends its time with, from its access log, live or recorded."""

from __future__ import annotations

import datetime
import os
import re
import select
import sys
import time
from collections.abc import Iterator
from typing import IO, NamedTuple

from juicefs_py.cli import log
from juicefs_py.cli.args import Command, Option, Values
from juicefs_py.cli.errors import Fatal
from juicefs_py.cli.mountpoint import coloured, internal_file, must_be_mounted, paint
from juicefs_py.cli.report import words

_LINE = re.compile(
    r"(\d{4}\.\d\d\.\d\d \d\d:\d\d:\d\d\.\d+) \[uid:(\d+),gid:(\d+),pid:(\d+)\] (\w+) .*<(\d+(?:\.\d+)?)>\s*$"
)
_STAMP = "%Y.%m.%d %H:%M:%S.%f"
_CLEAR = "\x1b[2J\x1b[1;1H"
_BLACK, _GREEN, _YELLOW, _BLUE = 30, 32, 33, 34


class Entry(NamedTuple):
    """One operation of the log."""

    at: datetime.datetime
    ids: tuple[str, str, str]  # user, group, process
    op: str
    micros: int


class Frame:
    """Operations of one interval: how many of each, and microseconds together."""

    def __init__(self) -> None:
        self._ops: dict[str, tuple[int, int]] = {}

    def add(self, entry: Entry) -> None:
        times, micros = self._ops.get(entry.op, (0, 0))
        self._ops[entry.op] = times + 1, micros + entry.micros

    def rows(self, seconds: float) -> list[str]:
        """One per operation, the costliest first; percent of the interval."""
        return [
            f"{op:<14} {times:>10} {micros / times:>15.0f} {micros:>18} {_percent(micros, seconds):>14.1f}"
            for op, (times, micros) in sorted(self._ops.items(), key=lambda item: -item[1][1])
        ]


def _percent(micros: int, seconds: float) -> float:
    return micros / (seconds * 1e6) * 100 if seconds > 0 else 0.0


def parse(line: str) -> Entry | None:
    """An operation; None for a keep-alive (`#`), and with a warning for what is no line of an access log."""
    if len(line.strip()) < 3:
        return None
    found = _LINE.match(line)
    if found is None:
        log.LOG.warning("Log line is invalid: %s", line.rstrip())
        return None
    stamp, uid, gid, pid, op, seconds = found.groups()
    try:
        at = datetime.datetime.strptime(stamp, _STAMP)
    except ValueError:
        log.LOG.warning("Log line is invalid: %s", line.rstrip())
        return None
    return Entry(at, (uid, gid, pid), op, int(float(seconds) * 1_000_000))


class Screen:
    """Where frames are shown."""

    def __init__(self, interval: float, replay: bool) -> None:
        self._colour = coloured()
        self._interval = interval
        self._replay = replay

    def show(self, at: datetime.datetime, frame: Frame, *, done: bool = False, seconds: float | None = None) -> None:
        head = ("(replay done)" if done else "(replaying)") if self._replay else ""
        seconds = self._interval if seconds is None else seconds
        title = f"> JuiceFS Profiling {head:>13}  Refresh: {seconds:.0f} seconds {at:%Y-%m-%dT%H:%M:%S}"
        columns = f"{'Operation':<14} {'Count':>10} {'Average(us)':>15} {'Total(us)':>18} {'Percent(%)':>14}"
        rows = frame.rows(seconds)
        if self._colour:
            hint = paint("\n[enter]Pause/Continue\n", _YELLOW) if self._replay else ""
            lines = [paint(title, _GREEN), hint, paint(columns, _BLUE), *(paint(row, _BLACK) for row in rows)]
            print(_CLEAR + "\n".join(lines), flush=True)
        else:
            print("\n".join([title, columns, *rows, ""]), flush=True)


def _run(values: Values) -> int:
    path, interval = values.positionals[0], values.number("interval")
    if not os.path.exists(path):
        raise Fatal(f'Failed to stat path "{path}": no such file or directory')
    live = os.path.isdir(path)
    if live:
        must_be_mounted(path, "Path %s is not a mount point!")
        path = internal_file(path, "accesslog")
    if interval < 0 or (live and not interval):
        raise Fatal("Interval must be > 0 for real time mode!" if live else "Interval must not be negative")
    wanted = [set(filter(None, values.text(name).split(","))) for name in ("uid", "gid", "pid")]
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            if live:
                _watch(file, wanted, interval)
            else:
                _replay(file, wanted, interval)
    except OSError as error:
        raise Fatal(f'Failed to open log file "{path}": {words(error)}') from None
    return 0


def _entries(file: IO[str], wanted: list[set[str]]) -> Iterator[Entry | None]:
    """What the options ask for; None for a line that says nothing, so that time goes on without operations."""
    for line in file:
        entry = parse(line)
        ours = entry is not None and all(not ids or own in ids for ids, own in zip(wanted, entry.ids, strict=True))
        yield entry if ours else None


def _watch(file: IO[str], wanted: list[set[str]], interval: float) -> None:
    screen, frame = Screen(interval, replay=False), Frame()
    screen.show(datetime.datetime.now(), frame)
    edge = time.monotonic() + interval
    for entry in _entries(file, wanted):  # an idle mount says so every second
        if entry is not None:
            frame.add(entry)
        if time.monotonic() >= edge:
            screen.show(datetime.datetime.now(), frame)
            frame, edge = Frame(), time.monotonic() + interval


def _replay(file: IO[str], wanted: list[set[str]], interval: float) -> None:
    """Frame by frame, as fast as it was recorded; with no interval, all of it at once."""
    screen, frame = Screen(interval, replay=True), Frame()
    first: datetime.datetime | None = None
    last = first
    edge = first
    for entry in _entries(file, wanted):
        if entry is None:
            continue
        first, last = first or entry.at, entry.at
        if interval:
            edge = edge or entry.at + datetime.timedelta(seconds=interval)
            while entry.at > edge:
                screen.show(edge, frame)
                _pause(interval)
                frame, edge = Frame(), edge + datetime.timedelta(seconds=interval)
        frame.add(entry)
    if first is None or last is None:
        screen.show(datetime.datetime.now(), frame, done=True)
    elif interval:
        screen.show(edge or last, frame, done=True)
    else:
        screen.show(last, frame, done=True, seconds=(last - first).total_seconds())


def _pause(seconds: float) -> None:
    """Until the next frame; Enter stops the replay, and lets it go on."""
    if not sys.stdin.isatty():
        time.sleep(seconds)
        return
    if select.select([sys.stdin], [], [], seconds)[0]:
        sys.stdin.readline()
        print("\nPaused. Press [enter] to continue.", flush=True)
        sys.stdin.readline()


COMMAND = Command(
    "profile", "Show profiling of operations completed in a mount", "MOUNTPOINT|LOGFILE", "INSPECTOR",
    "Counts the operations of the access log: of a mount as they happen, or of a file that was recorded with\n"
    "`cat MOUNTPOINT/.accesslog > LOGFILE`.\n\n"
    "Examples:\n# Monitor real time operations\n$ juicefs profile /mnt/jfs\n\n"
    "# Replay an access log\n$ cat /mnt/jfs/.accesslog > /tmp/jfs.alog\n# Press Ctrl-C to stop the \"cat\" command\n"
    "$ juicefs profile /tmp/jfs.alog\n\n"
    "# Analyze an access log and print the total statistics immediately\n$ juicefs profile /tmp/jfs.alog --interval 0",
    (
        Option(("uid", "u"), "string", "", "track only these UIDs (separated by comma)"),
        Option(("gid", "g"), "string", "", "track only these GIDs (separated by comma)"),
        Option(("pid", "p"), "string", "", "track only these PIDs (separated by comma)"),
        Option(
            ("interval",), "int", "2",
            "flush interval in seconds; set it to 0 when replaying a log file to get an immediate result",
        ),
    ),
    1, 1, _run,
)  # fmt: skip
