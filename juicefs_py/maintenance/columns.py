"""What is counted as things and as bytes: two lines of progress, whose sums the last line of a command tells."""

from __future__ import annotations

from dataclasses import dataclass

from juicefs_py.cli.progress import Meter, Progress


@dataclass(frozen=True, slots=True)
class Column:
    """Objects, or other things, and their bytes."""

    objects: Meter
    data: Meter

    def add(self, size: int) -> None:
        """One more, of that many bytes."""
        self.objects.advance()
        self.data.advance(size)


def column(progress: Progress, title: str, things: str = "objects") -> Column:
    """Two lines: how many, how much."""
    return Column(progress.spinner(f"{title} {things}"), progress.spinner(f"{title} data", in_bytes=True))
