"""The tables that `objbench` prints: which rows in which order, units, and from which value on a cell is green or red.

Not the drawing of tables (`cli.tables`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from juicefs_py.cli import tables
from juicefs_py.objbench import functional
from juicefs_py.objbench.functional import Result
from juicefs_py.objbench.outcome import Cell, Colour
from juicefs_py.objbench.speed import Load, Measured

HEADING = ("ITEM", "VALUE", "COST")
_ORDER = ("put", "get", "smallput", "smallget", "list", "head", "delete", "chmod", "chown", "chtimes")
_MIB = 1 << 20


class _Limits(NamedTuple):
    """Values up to `slow` are red, above `fast` green; costs below `cheap` are green, from `dear` on red."""

    slow: float
    fast: float
    cheap: float
    dear: float


_OF_BYTES = _Limits(100, 150, 50, 150)
_OF_OBJECTS = _Limits(10, 30, 30, 100)
_OF_LISTS = _Limits(1000, 10000, 100, 200)
_LIMITS = {"put": _OF_BYTES, "get": _OF_BYTES, "list": _OF_LISTS}


def of_tests(results: Iterable[Result], colourful: bool) -> str:
    """CATEGORY, TEST, RESULT."""
    rows = [(each.category, each.title, each.cell.shown(colourful)) for each in results]
    return tables.render([functional.HEADING, *rows])


def of_speed(measured: Iterable[Measured], load: Load, colourful: bool) -> str:
    """ITEM, VALUE, COST."""
    rows = []
    for each in sorted(measured, key=lambda each: _ORDER.index(each.name)):
        value, cost = (each.instead, each.instead) if each.instead else _cells(each, load)
        rows.append((each.title, value.shown(colourful), cost.shown(colourful)))
    return tables.render([HEADING, *rows])


def _cells(each: Measured, load: Load) -> tuple[Cell, Cell]:
    """The value is of all threads together, the cost of one request."""
    limits = _LIMITS.get(each.name, _OF_OBJECTS)
    seconds = max(each.seconds, 1e-9)
    if each.name == "list":
        value, unit, cost = load.listed * load.threads / seconds, " objects/s", seconds * 1000
        return _value(value, unit, limits), _cost(cost, f" ms/ {load.listed} objects", limits)
    count = {"smallput": load.smalls, "smallget": load.smalls, "put": load.blocks, "get": load.blocks}
    requests = count.get(each.name, load.objects)
    cost = load.threads * seconds * 1000 / requests
    if each.name in ("put", "get"):
        value, unit = requests * load.block_size / _MIB / seconds, " MiB/s"
    else:
        value, unit = requests / seconds, " objects/s"
    return _value(value, unit, limits), _cost(cost, " ms/object", limits)


def _value(value: float, unit: str, limits: _Limits) -> Cell:
    colour = Colour.GREEN if value > limits.fast else Colour.YELLOW if value > limits.slow else Colour.RED
    return Cell(f"{value:.2f}", colour, unit)


def _cost(cost: float, unit: str, limits: _Limits) -> Cell:
    colour = Colour.GREEN if cost < limits.cheap else Colour.YELLOW if cost < limits.dear else Colour.RED
    return Cell(f"{cost:.2f}" if cost >= 0.01 else f"{cost:.2g}", colour, unit)
