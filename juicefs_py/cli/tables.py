"""Tables with `+---+` rules, as scripts cut them: centred headings, right-aligned cells. Text only, no colours."""

from __future__ import annotations

from collections.abc import Sequence


def render(rows: Sequence[Sequence[str]], left: int | None = None) -> str:
    """The first row is the heading; `left` is the column aligned to the left. Ends without a newline."""
    widths = [max(len(row[column]) for row in rows) + 2 for column in range(len(rows[0]))]
    rule = "+" + "+".join("-" * width for width in widths) + "+"
    lines = [rule, _row([_centre(cell, width) for cell, width in zip(rows[0], widths, strict=True)]), rule]
    for row in rows[1:]:
        cells = [
            f" {cell:<{width - 2}} " if column == left else f" {cell:>{width - 2}} "
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(_row(cells))
    return "\n".join([*lines, rule])


def _row(cells: Sequence[str]) -> str:
    return "|" + "|".join(cells) + "|"


def _centre(text: str, width: int) -> str:
    """Odd space goes to the left."""
    space = width - len(text)
    return " " * (space - space // 2) + text + " " * (space // 2)
