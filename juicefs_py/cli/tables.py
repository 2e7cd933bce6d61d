"""Tables with `+---+` rules, as scripts cut them: centred headings, right-aligned cells. Cells may be coloured."""

from __future__ import annotations

import re
from collections.abc import Sequence

_COLOURS = re.compile(r"\x1b\[[\d;]*m")


def render(rows: Sequence[Sequence[str]], left: int | None = None) -> str:
    """The first row is the heading; `left` is the column aligned to the left. Ends without a newline."""
    widths = [max(_length(row[column]) for row in rows) + 2 for column in range(len(rows[0]))]
    rule = "+" + "+".join("-" * width for width in widths) + "+"
    lines = [rule, _row([_centre(cell, width) for cell, width in zip(rows[0], widths, strict=True)]), rule]
    for row in rows[1:]:
        cells = [
            _aligned(cell, width, column == left) for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(_row(cells))
    return "\n".join([*lines, rule])


def _length(cell: str) -> int:
    """Places that a cell takes on the screen."""
    return len(_COLOURS.sub("", cell))


def _aligned(cell: str, width: int, to_left: bool) -> str:
    space = " " * (width - 1 - _length(cell))
    return f" {cell}{space}" if to_left else f"{space}{cell} "


def _row(cells: Sequence[str]) -> str:
    return "|" + "|".join(cells) + "|"


def _centre(text: str, width: int) -> str:
    """Odd space goes to the left."""
    space = width - len(text)
    return " " * (space - space // 2) + text + " " * (space // 2)
