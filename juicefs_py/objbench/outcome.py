"""How a test or a measurement came out, and in which colour a terminal shows it. Texts are what scripts match."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

PASS, NOT_SUPPORTED, SKIPPED, FAILED = "pass", "not support", "skipped", "failed"
_LONGEST = 45  # characters of an error


class Colour(Enum):
    """A number of the terminal's palette."""

    RED = 31
    GREEN = 32
    YELLOW = 33


class Cell(NamedTuple):
    """A text, of which the first part is coloured."""

    text: str
    colour: Colour
    unit: str = ""

    def shown(self, colourful: bool) -> str:
        text = f"\x1b[1;{self.colour.value}m{self.text}\x1b[0m" if colourful else self.text
        return text + self.unit


GOOD = Cell(PASS, Colour.GREEN)
MISSING = Cell(NOT_SUPPORTED, Colour.YELLOW)
LEFT_OUT = Cell(SKIPPED, Colour.YELLOW)
BROKEN = Cell(FAILED, Colour.RED)


def in_words(problem: Exception) -> str:
    """What an error says, as one line that any terminal can show."""
    text = " ".join(str(problem).split("\n")) or type(problem).__name__
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def told(problem: Exception, colour: Colour) -> Cell:
    """What there is room for: the end of a long sentence has the reason, its beginning a long address."""
    text = in_words(problem)
    if len(text) > _LONGEST:
        text = text.rpartition(": ")[2]
    return Cell(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...", colour)
