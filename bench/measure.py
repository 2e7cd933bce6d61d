"""Time several subjects in turn: medians, spreads and ratios. Knows nothing of file systems, prints nothing.

Machines are shared and drift: subjects are measured alternately (A B A B ...), figures are medians with the lowest and
highest run beside them, and a ratio is the median of the ratios of neighbouring runs, never a quotient of two medians
from different moments.
"""

from __future__ import annotations

import math
import statistics
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

OURS = "juicefs_py"
"""The subject that all others are peers of."""

Measure = Callable[[int], float]
"""Does the work once and returns a figure in the row's unit; gets the number of the round."""


@dataclass(slots=True)
class Figure:
    """Runs of one subject in one row, in the row's unit."""

    runs: list[float] = field(default_factory=list)

    @property
    def good(self) -> list[float]:
        """The runs that did not fail."""
        return [run for run in self.runs if not math.isnan(run)]

    @property
    def median(self) -> float:
        return statistics.median(self.good)

    def __str__(self) -> str:
        return f"{number(self.median)} [{number(min(self.good))}-{number(max(self.good))}]"


@dataclass(slots=True)
class Row:
    """One kind of work: a figure per subject.

    `higher_is_better` for rates, else the figures are costs. `budgets` says per peer what the ratio should at least be,
    `limit` what our own figure may at most be. A peer is named by what it is (`go`, `local`), figures by their subject.
    """

    section: str
    name: str
    unit: str
    higher_is_better: bool = False
    budgets: Mapping[str, float] = field(default_factory=dict)
    limit: float | None = None
    figures: dict[str, Figure] = field(default_factory=dict)

    def ratios(self, peer: str) -> list[float]:
        """How many times better ours is than the peer, pair by pair; above 1 is a win."""
        pairs = zip(self.figures[OURS].runs, self.figures[peer].runs, strict=True)
        found = [a / b if self.higher_is_better else b / a for a, b in pairs]
        return [ratio for ratio in found if not math.isnan(ratio)]


def alternate(row: Row, subjects: Mapping[str, Measure], rounds: int) -> Row:
    """Measure every subject once per round. A subject that fails has no figure (NaN), and it is said why."""
    for round_number in range(rounds):
        for name, measure in subjects.items():
            try:
                figure = measure(round_number)
            except (OSError, subprocess.CalledProcessError) as error:
                if name == OURS:
                    raise
                print(f"{name} fails in `{row.section}: {row.name}`: {error}", flush=True)
                figure = math.nan
            row.figures.setdefault(name, Figure()).runs.append(figure)
    return row


def number(value: float) -> str:
    """Three significant figures without an exponent."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
