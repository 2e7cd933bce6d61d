"""What is told of measured rows: a table, a document, and whether recorded ratios still hold. Measures nothing."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.measure import OURS, Row, number

SLACK = 0.8
"""A ratio fails when it falls below this part of its recorded value."""


@dataclass(frozen=True, slots=True)
class Line:
    """One row beside one peer, or alone if it has none (`ratio` is then None)."""

    section: str
    name: str
    unit: str
    ours: str
    peer: str
    theirs: str
    ratio: float | None
    spread: tuple[float, float]
    budget: str
    met: bool | None

    @property
    def key(self) -> str:
        """What the line is recorded under."""
        return f"{self.section} / {self.name} / {self.peer}"


def lines(rows: Iterable[Row]) -> list[Line]:
    """Every row beside every peer that it was measured with."""
    found = []
    for row in rows:
        peers = [peer for peer in row.figures if peer != OURS and row.ratios(peer)]
        found += [_beside(row, peer) for peer in peers]
        if row.limit is not None or not peers:
            found.append(_alone(row))
    return found


def _beside(row: Row, peer: str) -> Line:
    ratios = row.ratios(peer)
    ratio, budget = statistics.median(ratios), row.budgets.get(peer.split()[0])
    return Line(
        row.section, row.name, row.unit, str(row.figures[OURS]), peer, str(row.figures[peer]), ratio,
        (min(ratios), max(ratios)), f">= {number(budget)}" if budget else "", ratio >= budget if budget else None,
    )  # fmt: skip


def _alone(row: Row) -> Line:
    figure = row.figures[OURS]
    budget = "" if row.limit is None else f"<= {number(row.limit)} {row.unit}"
    met = None if row.limit is None else figure.median <= row.limit
    return Line(row.section, row.name, row.unit, str(figure), "", "", None, (0, 0), budget, met)


_HEAD = ("", "unit", OURS, "peer", "its figure", "ratio", "spread", "budget", "met")


def table(found: Iterable[Line], markdown: bool = False) -> str:
    """The lines as text, sections apart; `markdown` as a table of a document, without spreads of the figures."""
    cells: list[tuple[str, ...]] = [_HEAD]
    section = ""
    for line in found:
        if line.section != section and not markdown:
            cells += [("",) * len(_HEAD), (line.section, *[""] * (len(_HEAD) - 1))]
        section = line.section
        cells.append(_cells(line, f"{section}: " if markdown else "  "))
    if markdown:
        short = [tuple(cell.split(" [")[0] for cell in row) for row in cells]
        rows = [f"| {' | '.join(row)} |" for row in short]
        return "\n".join([rows[0], f"|{'---|' * len(_HEAD)}", *rows[1:]])
    widths = [max(len(row[column]) for row in cells[1:]) for column in range(len(_HEAD))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def _cells(line: Line, before: str) -> tuple[str, ...]:
    ratio = "" if line.ratio is None else f"{line.ratio:.2f}"
    spread = "" if line.ratio is None else f"{line.spread[0]:.2f}-{line.spread[1]:.2f}"
    met = {None: "", True: "yes", False: "no"}[line.met]
    return (before + line.name, line.unit, line.ours, line.peer, line.theirs, ratio, spread, line.budget, met)


def as_json(rows: Iterable[Row], machine: Mapping[str, Any]) -> str:
    """All runs of all rows, and where they were measured, for other tools."""
    kept = [
        {
            "section": row.section, "name": row.name, "unit": row.unit, "higher_is_better": row.higher_is_better,
            "budgets": dict(row.budgets), "limit": row.limit,
            "runs": {who: [None if math.isnan(run) else run for run in each.runs] for who, each in row.figures.items()},
        }
        for row in rows
    ]  # fmt: skip
    return json.dumps({"machine": dict(machine), "rows": kept}, indent=1) + "\n"


def recorded(found: Iterable[Line]) -> str:
    """The ratios to hold from now on, as `--check` reads them."""
    ratios = {line.key: float(f"{line.ratio:.3g}") for line in found if line.ratio is not None}
    return json.dumps(ratios, indent=1) + "\n"


def fallen(found: Iterable[Line], records: Mapping[str, float]) -> list[Line]:
    """The lines whose ratio is below `SLACK` of what is recorded; those never recorded are left out."""
    return [line for line in found if line.ratio is not None and line.ratio < SLACK * records.get(line.key, 0)]
