"""Counters, gauges and histograms of a mount, cheap enough for every request; as Prometheus text and as `.stats`.

Not here: what is counted (`juicefs_py.control.stats`), and the HTTP server. Names are without the `juicefs_` prefix.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple

PREFIX = "juicefs_"
Kind = Literal["counter", "gauge", "histogram"]
Labels = tuple[tuple[str, str], ...]


class Distribution(NamedTuple):
    """A histogram's state: upper bounds, how many values fell into each bucket (one more for the rest), their sum."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float


class Sample(NamedTuple):
    labels: Labels
    value: float | Distribution


class Histogram:
    """Counts values into fixed buckets. Thread-safe."""

    __slots__ = ("_bounds", "_counts", "_lock", "_sum")

    def __init__(self, bounds: Iterable[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, value: float) -> None:
        bucket = bisect_left(self._bounds, value)
        with self._lock:
            self._counts[bucket] += 1
            self._sum += value

    def distribution(self) -> Distribution:
        with self._lock:
            return Distribution(self._bounds, tuple(self._counts), self._sum)


class Counter:
    """A number that only grows. Thread-safe."""

    __slots__ = ("_lock", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self._lock = threading.Lock()

    def add(self, amount: float = 1) -> None:
        with self._lock:
            self.value += amount


class Family(NamedTuple):
    """All samples of one name; `collect` is called when somebody looks."""

    name: str
    kind: Kind
    help: str
    collect: Callable[[], Iterable[Sample]]


class Registry:
    """The families of a mount and their texts."""

    def __init__(self, constant: Mapping[str, str]) -> None:
        self._constant: Labels = tuple(constant.items())
        self._families: dict[str, Family] = {}

    def add(self, name: str, kind: Kind, help: str, collect: Callable[[], Iterable[Sample]]) -> None:
        """Register a family with labelled samples."""
        self._families[name] = Family(name, kind, help, collect)

    def number(self, name: str, kind: Kind, help: str, read: Callable[[], float]) -> None:
        """Register a single number, read when somebody looks."""
        self.add(name, kind, help, lambda: (Sample((), read()),))

    def histogram(self, name: str, help: str, read: Callable[[], Distribution]) -> None:
        """Register a single histogram."""
        self.add(name, "histogram", help, lambda: (Sample((), read()),))

    def render(self) -> bytes:
        """The Prometheus text exposition format (0.0.4)."""
        lines: list[str] = []
        for family in self._sorted():
            name = PREFIX + family.name
            lines.append(f"# HELP {name} {family.help}")
            lines.append(f"# TYPE {name} {family.kind}")
            for labels, value in family.collect():
                if isinstance(value, Distribution):
                    lines += _buckets(name, self._constant + labels, value)
                else:
                    lines.append(f"{name}{_braces(self._constant + labels)} {_number(value)}")
        return ("\n".join(lines) + "\n").encode()

    def stats(self) -> bytes:
        """The text of `.stats`: one `name value` per line; of the labels only method and errno show, as suffixes."""
        lines: list[str] = []
        for family in self._sorted():
            for labels, value in family.collect():
                name = PREFIX + family.name + "".join(f"_{v}" for k, v in labels if k in ("method", "errno"))
                if isinstance(value, Distribution):
                    lines.append(f"{name}_total {sum(value.counts)}")
                    lines.append(f"{name}_sum {_number(value.sum)}")
                else:
                    lines.append(f"{name} {_number(value)}")
        return ("\n".join(lines) + "\n").encode()

    def _sorted(self) -> list[Family]:
        return [self._families[name] for name in sorted(self._families)]


def exponential(start: float, factor: float, count: int) -> tuple[float, ...]:
    """Bucket bounds that grow by a factor."""
    return tuple(start * factor**k for k in range(count))


def linear(start: float, width: float, count: int) -> tuple[float, ...]:
    """Bucket bounds at equal distances."""
    return tuple(start + width * k for k in range(count))


def _number(value: float) -> str:
    if value == int(value):
        return str(int(value))
    return f"{value:.9f}".rstrip("0")


def _braces(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{key}="{_escaped(text)}"' for key, text in labels) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _buckets(name: str, labels: Labels, value: Distribution) -> list[str]:
    lines, total = [], 0
    for bound, count in zip(value.bounds, value.counts, strict=False):
        total += count
        lines.append(f"{name}_bucket{_braces((*labels, ('le', repr(float(bound)))))} {total}")
    total += value.counts[-1]
    lines.append(f"{name}_bucket{_braces((*labels, ('le', '+Inf')))} {total}")
    lines.append(f"{name}_sum{_braces(labels)} {_number(value.sum)}")
    lines.append(f"{name}_count{_braces(labels)} {total}")
    return lines
