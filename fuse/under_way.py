"""Which requests are being served, noted where it outlives the process: for kernels that do not send them again.

Not here: whose memory that is, and who takes a connection over (the caller of `Session`). Linux before 6.9 gives a
request to one process only. If that is killed, somebody waits for ever, unless a successor answers in its place; it
must know the number of the request for that. Newer kernels are asked to send them again (`Notifier.resend`).

Layout, native 64-bit words: `SLOTS` pairs, one per serving thread, of a request's number, and its opcode (8 bits) below
its node id (56 bits; 0 if it is larger). The kernel counts in twos; an odd number means that the request before it was
answered.
"""

from __future__ import annotations

from typing import Final, NamedTuple

SLOTS: Final = 2304
"""More than there are threads (`max_threads` and `max_lock_waits`); those without a slot note nothing."""

WORDS: Final = 2 * SLOTS
_UNSEEN: Final = 512
"""Requests before and after the last noted one that may have been read in the moment before the end."""

UNKNOWN: Final = 0


class Lost(NamedTuple):
    """What is known of a request that may have been lost: its opcode, or `UNKNOWN`, and its node id, or 0."""

    opcode: int
    node: int


class UnderWay:
    """Notes in `words`, a memoryview of `WORDS` words that are shared with whoever comes next."""

    def __init__(self, words: memoryview) -> None:
        self._words = words
        self._free = list(range(0, WORDS, 2))

    def slot(self) -> int:
        """A place for a thread; -1 if there is none."""
        return self._free.pop() if self._free else -1

    def leave(self, slot: int) -> None:
        """The thread ends."""
        if slot >= 0:
            self._free.append(slot)

    def begin(self, slot: int, unique: int, opcode: int, node: int) -> None:
        """The thread serves this request."""
        if slot >= 0:
            self._words[slot + 1] = (opcode & 0xFF) | (0 if node >> 56 else node << 8)
            self._words[slot] = unique

    def end(self, slot: int) -> None:
        """It is answered."""
        if slot >= 0:
            self._words[slot] |= 1

    def take_lost(self) -> dict[int, Lost]:
        """Numbers of requests that a predecessor may have left without an answer, and what is known of each.

        Many of them were answered, or never read: to answer those does nothing. Afterwards nothing is noted.
        """
        numbers = list(self._words[::2])
        noted = {
            unique: Lost(self._words[2 * at + 1] & 0xFF, self._words[2 * at + 1] >> 8)
            for at, unique in enumerate(numbers) if unique and not unique & 1
        }  # fmt: skip
        last = max(numbers) & ~1
        for at in range(WORDS):
            self._words[at] = 0
        around = range(max(2, last - 2 * _UNSEEN), last + 2 * _UNSEEN, 2) if last else range(0)
        return dict.fromkeys(around, Lost(UNKNOWN, 0)) | noted
