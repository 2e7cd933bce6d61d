"""The ratios of a run as a picture: one mark per row and peer, on a logarithmic scale. Measures nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.report import Line

_COLOURS = ("#1b6ca8", "#c8553d", "#588157", "#8e5ea2", "#b08900", "#444444")
_ROW_INCHES = 0.24


def plot(found: Sequence[Line], path: Path) -> None:
    """Write the ratios as a PNG: right of 1 is a win, a bar is the spread of the pairs, a hollow mark the budget."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise SystemExit("--plot needs matplotlib: pip install 'juicefs-py[bench]'") from None
    compared = [line for line in found if line.ratio is not None]
    rows = list(dict.fromkeys((line.section, line.name) for line in compared))
    figure = Figure(figsize=(10, 1.2 + _ROW_INCHES * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    places = {row: len(rows) - index for index, row in enumerate(rows)}
    peers = list(dict.fromkeys(line.peer for line in compared))
    for peer, colour in zip(peers, _COLOURS * len(peers), strict=False):
        _marks(axes, [line for line in compared if line.peer == peer], places, colour)
    _dress(axes, places, len(peers))
    figure.savefig(str(path), dpi=110)


def _marks(axes: Any, lines: Sequence[Line], places: dict[tuple[str, str], int], colour: str) -> None:
    heights = [places[line.section, line.name] for line in lines]
    axes.plot([line.ratio for line in lines], heights, "o", color=colour, markersize=5, label=lines[0].peer)
    for line, height in zip(lines, heights, strict=True):
        axes.plot(line.spread, (height, height), "-", color=colour, linewidth=1, alpha=0.6)
        if line.budget:
            budget = float(line.budget.removeprefix(">= "))
            axes.plot([budget], [height], "d", color=colour, fillstyle="none", markersize=6)


def _dress(axes: Any, places: dict[tuple[str, str], int], peers: int) -> None:
    """Names at the left, a line between sections, a line at 1."""
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(list(places.values()), [name for _, name in places], fontsize=7)
    axes.set_ylim(0.3, len(places) + 1.5)
    last = ""
    for (section, _), place in places.items():
        if section != last:
            axes.axhline(place + 0.5, color="#bbbbbb", linewidth=0.6)
            axes.text(0.005, place + 0.52, section, transform=axes.get_yaxis_transform(), fontsize=6, color="#666666")
        last = section
    ticks = (0.1, 0.25, 0.5, 1, 1.5, 2, 4, 10, 30)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    axes.set_xlabel("times as fast as the peer (logarithmic; hollow: the budget)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.04), ncols=max(peers, 1), frameon=False, fontsize=8)
