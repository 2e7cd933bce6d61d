"""Requests that are applied exactly once, whatever breaks. Not what they say (transaction), nor connections (link).

Every request goes on a *ticket*: a key of this client's own, in which the script that applies the request stores the
request's number. When the connection breaks and nobody knows whether the request was applied, the ticket tells. If it
was not, the ticket becomes void at the same moment, so that a request which is still on its way - in a network that
comes back, behind a server that was stopped - is refused when it arrives; it is sent again on another ticket. What
others have done meanwhile does not matter, and whatever loses a request (a failover, a crash) loses its number as well.

There are as many tickets as there are threads that write at one time. They expire an hour after their last use.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from meta.errors import EngineError, OutcomeUnknown
from meta.redis.keys import Keys
from meta.redis.link import Link, Lost, NotNow, Patience
from meta.redis.request import Word
from meta.redis.scripts import APPLY, VOID


class _Ticket(NamedTuple):
    key: bytes
    number: int  # of the next request
    pid: int  # a forked child needs tickets of its own


class Once:
    """`APPLY` for many threads. `list.append` and `list.pop` are atomic, so there is no lock."""

    def __init__(self, link: Link, keys: Keys) -> None:
        self._link = link
        self._keys = keys
        self._free: list[_Ticket] = []

    def run(self, words: Sequence[Word]) -> list[Any] | int | None:
        """Answers of a request that was applied, None if those were lost; the number of the condition that failed.

        Tried until the deadline. `Unavailable` and the like: nothing was done. `OutcomeUnknown`.
        """
        patience: Patience | None = None
        declared = self._declared(words)
        while True:
            ticket = self._take()
            try:
                keys = (self._keys.setting, ticket.key, *declared)
                answer = self._link.run_script(APPLY, keys, (ticket.number, *words))
            except (Lost, NotNow) as e:
                patience = patience or Patience(self._link.endpoint.deadline_s)
                if isinstance(e, NotNow):
                    patience.wait(e)
                elif self._was_applied(ticket, e, patience):
                    return None
            else:
                self._free.append(ticket._replace(number=ticket.number + 1))
                return answer  # type: ignore[no-any-return]

    def _declared(self, words: Sequence[Word]) -> Iterable[bytes]:
        """All keys of a request, for a cluster: while their slot moves to another node, some are here and some there.

        The node then refuses the request, instead of breaking it off where it comes to the first key that is not here.
        What begins with the prefix but is no key does no harm.
        """
        prefix = self._keys.prefix
        if not prefix:
            return ()
        return dict.fromkeys(word for word in words if isinstance(word, bytes) and word.startswith(prefix))

    def _take(self) -> _Ticket:
        pid = os.getpid()
        while self._free:
            try:
                ticket = self._free.pop()
            except IndexError:
                break
            if ticket.pid == pid:
                return ticket
        return _Ticket(self._keys.ticket(os.urandom(8).hex().encode()), 1, pid)

    def _was_applied(self, ticket: _Ticket, lost: Lost, patience: Patience) -> bool:
        """Whether the request was applied; if not it never will be. `OutcomeUnknown` if nobody tells in time."""
        while True:
            try:
                return bool(self._link.run_script(VOID, (self._keys.setting, ticket.key), (ticket.number,)))
            except EngineError as e:
                try:
                    if not isinstance(e, (Lost, NotNow)):
                        raise
                    patience.wait(e)
                except EngineError:
                    raise OutcomeUnknown(f"{lost}: whether the last change was made is unknown") from e
