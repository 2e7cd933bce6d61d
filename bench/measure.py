"""Time several subjects in turn and print their medians, spreads and ratios. Knows nothing of file systems.

Machines are shared and drift: subjects are measured alternately (A B A B ...), figures are medians with the lowest and
highest run beside them, and a ratio is the median of the ratios of neighbouring runs, never a quotient of two medians
from different moments.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field


@dataclass(slots=True)
class Figure:
    """Runs of one subject in one row, in the row's unit."""

    runs: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    def __str__(self) -> str:
        return f"{number(self.median)} [{number(min(self.runs))}-{number(max(self.runs))}]"


@dataclass(slots=True)
class Row:
    """One kind of work: a figure per subject. `higher_is_better` for rates, else the figures are costs."""

    name: str
    unit: str
    higher_is_better: bool = False
    budget: float | None = None  # what the ratio of the first subject to the second should at least be
    figures: dict[str, Figure] = field(default_factory=dict)

    def ratio(self, ours: str, peer: str) -> float:
        """How many times better `ours` is than `peer`, pair by pair; above 1 is a win."""
        pairs = zip(self.figures[ours].runs, self.figures[peer].runs, strict=True)
        return statistics.median(a / b if self.higher_is_better else b / a for a, b in pairs)


def alternate(row: Row, subjects: Mapping[str, Callable[[int], float]], rounds: int) -> Row:
    """Measure every subject once per round; a subject gets the round's number and returns its figure."""
    for round_number in range(rounds):
        for name, measure in subjects.items():
            row.figures.setdefault(name, Figure()).runs.append(measure(round_number))
    return row


def number(value: float) -> str:
    """Three significant figures without an exponent."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(rows: Sequence[Row], ours: str, peers: Sequence[str]) -> str:
    """A plain text table: our figure, each peer's figure with the ratio, the budget where there is one."""
    head = ["", "unit", ours] + [cell for peer in peers for cell in (peer, "ratio")] + ["budget"]
    lines = [head]
    for row in rows:
        cells = [row.name, row.unit, str(row.figures[ours])]
        for peer in peers:
            known = peer in row.figures
            cells += [str(row.figures[peer]), f"{row.ratio(ours, peer):.2f}"] if known else ["-", "-"]
        lines.append([*cells, "" if row.budget is None else f">= {row.budget:g}"])
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def as_json(rows: Sequence[Row]) -> str:
    """All runs of all rows, for other tools."""
    return json.dumps([asdict(row) for row in rows], indent=2)
