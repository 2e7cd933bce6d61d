"""How far to read ahead of a handle's reads: two sessions per handle, as a program may read a file in two places at
once.

Not here: buffers and loading (`reader`). Pure bookkeeping on integers.

Official clients take every read that begins within a block of where a session ended for its continuation. In a file of
a few dozen blocks that is true of many random reads, and each of them has a whole block loaded for a page. So here a
session without a window takes only what follows closely: the kernel may reorder its requests, but not by much.
"""

from __future__ import annotations

_NEAR = 256 << 10  # bytes; the kernel asks for 128 KiB at a time, a few at once


class Session:
    """One stream of reads: where it ended, how much it covered, and how many bytes ahead of it are wanted."""

    __slots__ = ("ahead", "last", "total", "used_at")

    def __init__(self) -> None:
        self.last = 0
        self.total = 0
        self.ahead = 0
        self.used_at = 0

    def __repr__(self) -> str:
        return f"Session(last={self.last}, total={self.total}, ahead={self.ahead})"


class ReadAhead:
    """Finds the session a read belongs to and adapts its window. Called under the reader's lock."""

    __slots__ = ("_block", "_clock", "_max", "_sessions")

    def __init__(self, block_size: int, max_ahead: int) -> None:
        self._block = block_size
        self._max = max_ahead
        self._clock = 0
        self._sessions = (Session(), Session())

    def note(self, off: int, size: int, budget: int, used: int) -> int:
        """A read of `size` bytes at `off` happens; how many bytes behind its end to load now.

        `budget` and `used` are bytes of all read-ahead buffers of the mount: what may be and what is in use.
        """
        if self._max < self._block:
            return 0
        session = self._match(off, size)
        self._clock += 1
        session.used_at = self._clock
        end = off + size
        if session.last <= end:
            session.total += end - max(off, session.last) if session.total else size
            session.last = end
        elif off < session.last:
            session.total += size
            session.last = end
        self._adapt(session, off, size, budget, used)
        return session.ahead if session.ahead >= self._block else 0

    def _match(self, off: int, size: int) -> Session:
        near = max(_NEAR, 4 * size)
        best = None
        for session in self._sessions:
            reach = session.ahead + self._block if session.ahead else near
            if 0 < session.last <= off <= session.last + reach and (best is None or session.last > best.last):
                best = session
        if best is not None:
            return best
        for session in self._sessions:
            back = max(session.ahead // 8, self._block) if session.ahead else near
            if session.last - back <= off < session.last and (best is None or session.last < best.last):
                best = session
        if best is not None:
            return best
        best = min(self._sessions, key=lambda session: session.used_at)
        best.last, best.total, best.ahead = off, 0, 0
        return best

    def _adapt(self, session: Session, off: int, size: int, budget: int, used: int) -> None:
        ahead = session.ahead
        if ahead == 0:
            if off == 0 or session.total > size:
                session.ahead = self._block
        elif ahead < self._max and session.total >= ahead and budget > used + 4 * ahead:
            session.ahead = min(ahead * 2, self._max)
        elif ahead >= self._block and (budget < used + ahead // 2 or session.total < ahead // 4):
            session.ahead = ahead // 2
