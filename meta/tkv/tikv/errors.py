"""What goes wrong on the way to PD and TiKV, inside of this client only: callers of the store see `meta.errors`."""

from __future__ import annotations


class Lost(Exception):
    """A call got no answer: nobody is there, or not in time. It may or may not have been done."""

    def __init__(self, address: str, problem: str) -> None:
        super().__init__(f"{address}: {problem}")
        self.address = address


class Moved(Exception):
    """A region is not where it was thought to be, or cannot serve now: look it up again. Nothing was done.

    `unsure`: it may have been done (a call was `Lost`).
    """

    def __init__(self, problem: str, unsure: bool = False) -> None:
        super().__init__(problem)
        self.unsure = unsure
