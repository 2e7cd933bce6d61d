"""`juicefs stats`: what a mount does right now, a line per second, from its `.stats`. Works on any client's mount."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import count as numbers
from typing import NamedTuple

from juicefs_py.cli import log
from juicefs_py.cli.args import Command, Option, Values
from juicefs_py.cli.errors import Fatal
from juicefs_py.cli.mountpoint import coloured, internal_file, must_be_mounted, paint
from juicefs_py.cli.report import words

_BLACK, _RED, _GREEN, _YELLOW, _BLUE, _MAGENTA, _CYAN, _WHITE = range(30, 38)
_HEADER_EVERY = 30
_TIME = "%m-%d %H:%M:%S"
_TIME_WIDTH = 14
_WIDTH = 5

Numbers = Mapping[str, float]
Paint = Callable[[str, int, bool], str]


class Column(NamedTuple):
    """`kind`: gauge (bytes), bytes or count (per second), cpu (share of a core), time (how often, how long), clock."""

    title: str
    metric: str
    kind: str
    verbose: bool = False  # only with --verbosity


_SECTIONS: dict[str, tuple[str, tuple[Column, ...]]] = {
    "t": ("system", (Column("time", "", "clock"),)),
    "u": ("usage", (
        Column("cpu", "cpu_usage", "cpu"), Column("mem", "memory", "gauge"),
        Column("buf", "used_buffer_size_bytes", "gauge"), Column("cache", "store_cache_size_bytes", "gauge", True),
    )),
    "f": ("fuse", (
        Column("ops", "fuse_ops_durations_histogram_seconds", "time"),
        Column("read", "fuse_read_size_bytes_sum", "bytes"), Column("write", "fuse_written_size_bytes_sum", "bytes"),
    )),
    "m": ("meta", (
        Column("ops", "meta_ops_durations_histogram_seconds", "time"),
        Column("txn", "transaction_durations_histogram_seconds", "time", True),
        Column("retry", "transaction_restart", "count", True),
    )),
    "c": ("blockcache", (
        Column("read", "blockcache_hit_bytes", "bytes"), Column("write", "blockcache_write_bytes", "bytes"),
    )),
    "o": ("object", (
        Column("get", "object_request_data_bytes_GET", "bytes"),
        Column("get_c", "object_request_durations_histogram_seconds_GET", "time", True),
        Column("put", "object_request_data_bytes_PUT", "bytes"),
        Column("put_c", "object_request_durations_histogram_seconds_PUT", "time", True),
        Column("del_c", "object_request_durations_histogram_seconds_DELETE", "time", True),
    )),
    "g": ("go", (
        Column("alloc", "go_memstats_alloc_bytes", "gauge"), Column("sys", "go_memstats_sys_bytes", "gauge"),
    )),
}  # fmt: skip
"""Letters of --schema: a section's name and its columns, in the official order."""


def _run(values: Values) -> int:
    mountpoint = values.positionals[0]
    must_be_mounted(mountpoint, "path %s is not a mount point")
    interval = max(1, values.number("interval"))
    sections = _chosen(values.text("schema"), verbose=values.number("verbosity") > 0)
    colour = coloured(not values.flag("no-color"))
    table = Table(sections, _painter(colour))
    lines = values.number("count")
    last = now = _read(mountpoint)
    begun = time.monotonic()
    for tick in numbers(1):
        if (tick - 1) % (interval * _HEADER_EVERY) == 0:
            print(table.header(), flush=True)
        time.sleep(max(0.0, begun + tick - time.monotonic()))
        before, now = now, _read(mountpoint)
        if tick % interval:
            if colour:
                print(table.line(before, now, 1, dark=True), end="\r", flush=True)
            continue
        print(table.line(last, now, interval), flush=True)
        last = now
        if lines and tick // interval >= lines:
            break
    return 0


def _chosen(schema: str, *, verbose: bool) -> list[tuple[str, list[Column]]]:
    chosen = []
    for letter in schema:
        if letter not in _SECTIONS:
            print(f"Warning: no item defined for {letter}")
            continue
        name, columns = _SECTIONS[letter]
        chosen.append((name, [column for column in columns if verbose or not column.verbose]))
    if not chosen:
        raise Fatal(f'no section to watch, please check the schema "{schema}"; its letters are {"".join(_SECTIONS)}')
    return chosen


def _read(mountpoint: str) -> Numbers:
    """All numbers of the mount; of several lines with one name the sum. Empty, and a warning, if it does not answer."""
    path = internal_file(mountpoint, "stats")
    found: dict[str, float] = {}
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, value = line.strip().rpartition(" ")
                try:
                    found[name] = found.get(name, 0.0) + float(value)
                except ValueError:
                    log.LOG.warning("parse %s: not a number: %s", path, line.strip())
    except OSError as error:
        log.LOG.warning('read stats file under mount point "%s": %s', mountpoint, words(error))
    return found


def _painter(colour: bool) -> Paint:
    return (lambda text, number, bold: paint(text, number, bold=bold)) if colour else (lambda text, number, bold: text)


class Table:
    """Header and lines of the chosen sections."""

    def __init__(self, sections: list[tuple[str, list[Column]]], painted: Paint) -> None:
        self._sections = sections
        self._paint = painted

    def header(self) -> str:
        """Two lines: names of sections, titles of columns."""
        names, titles = [], []
        for name, columns in self._sections:
            shown = [title for column in columns for title in self._titles(column)]
            names.append(self._paint(_centred(name, sum(map(len, shown)) + len(shown) - 1, "-"), _BLUE, True))
            titles.append(" ".join(self._paint(title, _BLUE, False) for title in shown))
        return " ".join(names) + "\n" + self._paint("|", _BLUE, True).join(titles)

    @staticmethod
    def _titles(column: Column) -> list[str]:
        if column.kind == "clock":
            return [_centred(column.title, _TIME_WIDTH, " ")]
        return [_centred(column.title, _WIDTH, " ")] + ([" lat "] if column.kind == "time" else [])

    def line(self, before: Numbers, now: Numbers, seconds: int, *, dark: bool = False) -> str:
        """What happened between two readings, per second."""
        parts = [
            " ".join(cell for column in columns for cell in self._cells(column, before, now, seconds, not dark))
            for _, columns in self._sections
        ]
        return self._paint("|", _BLUE, True).join(parts)

    def _cells(self, column: Column, before: Numbers, now: Numbers, seconds: int, bold: bool) -> list[str]:
        def grown(suffix: str = "") -> float:
            name = f"juicefs_{column.metric}{suffix}"
            return _of(now, name) - _of(before, name)

        if column.kind == "clock":
            return [self._paint(time.strftime(_TIME), _WHITE if bold else _BLACK, bold)]
        if column.kind == "gauge":
            return [self._size(now.get(f"juicefs_{column.metric}", 0.0), "B", bold)]
        if column.kind == "cpu":
            return [self._share(grown() / seconds, bold)]
        if column.kind == "time":
            times, took = grown("_total"), grown("_sum")
            return [
                self._size(times / seconds, " ", bold),
                self._milliseconds(1000 * took / times if times else 0, bold),
            ]
        return [self._size(grown() / seconds, "B" if column.kind == "bytes" else " ", bold)]

    def _size(self, value: float, unit: str, bold: bool) -> str:
        if value <= 0:
            return self._paint("   0 ", _BLACK, False)
        number, colour = int(value), _RED
        for larger, painted in zip("KMGTP", (_YELLOW, _GREEN, _BLUE, _MAGENTA, _CYAN), strict=True):
            if number < 10_000:
                break
            number, unit, colour = number >> 10, larger, painted
        return self._paint(f"{number:4d}", colour, bold) + self._paint(unit, _BLACK, False)

    def _milliseconds(self, value: float, bold: bool) -> str:
        if value <= 0:
            return self._paint("   0 ", _BLACK, False)
        if value < 10:
            return self._paint(f"{value:4.2f} ", _GREEN, bold)
        if value < 100:
            return self._paint(f"{value:4.1f} ", _YELLOW, bold)
        if value < 10_000:
            return self._paint(f"{value:4.0f} ", _RED, bold)
        return self._paint(f"{value:1.0e}", _MAGENTA, bold)

    def _share(self, value: float, bold: bool) -> str:
        percent = max(0.0, 100 * value)
        colour = _WHITE if not percent else _GREEN if percent < 30 else _YELLOW if percent < 100 else _RED
        text = f"{percent:4.1f}" if percent < 100 else f"{percent:4.0f}"
        return self._paint(text, colour, bold) + self._paint("%", _BLACK, False)


def _of(found: Numbers, name: str) -> float:
    """A number, or the sum of what carries a method behind its name."""
    value = found.get(name)
    return value if value is not None else sum(v for key, v in found.items() if key.startswith(name + "_"))


def _centred(text: str, width: int, fill: str) -> str:
    """In the middle, or one place to the right of it; cut if it is too long."""
    left = (width - len(text) + 1) // 2
    return (fill * left + text)[:width].ljust(width, fill)


COMMAND = Command(
    "stats", "Show real time performance statistics of a mount", "MOUNTPOINT", "INSPECTOR",
    "A line per interval, with rates per second and latencies in milliseconds, of what programs ask (fuse), of the\n"
    "database (meta), the local cache and the object storage. Ends with Ctrl-C, or after --count lines.\n\n"
    "Examples:\n$ juicefs stats /mnt/jfs\n\n"
    "# More columns, with the time, every 5 seconds\n$ juicefs stats /mnt/jfs --schema tufmco -l 1 --interval 5",
    (
        Option(
            ("schema",), "string", "ufmco",
            "sections to show: t: time, u: usage, f: fuse, m: meta, c: blockcache, o: object, g: go",
        ),
        Option(("interval",), "uint", "1", "seconds between two lines"),
        Option(("verbosity", "l"), "uint", "0", "1 shows more columns"),
        Option(("count", "c"), "uint", "0", "number of lines to show before exiting (0: no end)"),
    ),
    1, 1, _run,
)  # fmt: skip
