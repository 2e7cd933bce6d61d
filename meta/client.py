"""`MetaClient`: one client's view of a volume's metadata; what a mount, a command or an SDK calls.

Not the rules themselves: every method runs one rule in one transaction, or a reader's call without any, and tells the
table of open files and the background workers what follows from it. Thread-safe.
"""

from __future__ import annotations

from meta.client_attrs import AttrCalls
from meta.client_files import Opened
from meta.client_locks import LockCalls
from meta.client_session import SessionCalls
from meta.client_trees import TreeCalls
from meta.rules.create import Exists
from meta.rules.sessions import SessionInfo
from meta.rules.setattr import Changes
from meta.rules.statfs import StatTotals

__all__ = ["Changes", "Exists", "MetaClient", "Opened", "SessionInfo", "StatTotals"]


class MetaClient(SessionCalls, TreeCalls, AttrCalls, LockCalls):
    """Errors: `Refused` with the errno that POSIX names, other `MetaError`s for troubles of the engine."""

    def sync(self) -> None:
        """Return when everything done so far would survive a loss of power, as far as the engine can promise."""
        self.engine.flush()
        self.engine.sync()
