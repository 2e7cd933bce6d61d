"""What ends a command early. Not here: how it is printed (app, log)."""

from __future__ import annotations


class Fatal(Exception):
    """A mistake or a failure that the user must hear of: printed as one FATAL log line, exit code 1.

    The message says what failed, on which file or address, and what to do.
    """


class UsageError(Exception):
    """A value that an option does not take: the command's help is shown, then the message."""
