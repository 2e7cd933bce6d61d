"""How an error that ends a program is told: one FATAL line for a person, details only for those who ask."""

from __future__ import annotations

import os
import sys

from juicefs_py.cli import log
from juicefs_py.cli.errors import Fatal, UsageError


def report(error: BaseException) -> None:
    """Print the FATAL line of an error."""
    error = innermost(error)
    if not log.LOG.hasHandlers():
        log.set_up()
    try:
        sys.stdout.flush()
    except OSError:
        pass  # nobody reads it; the error still matters
    log.fatal(explain(error), error.__traceback__)


def words(error: OSError) -> str:
    """What an error says: the system's texts in lower case, which scripts match, our own as they are."""
    text = error.strerror or str(error)
    return text.lower() if text == os.strerror(error.errno or 0) else text


def innermost(error: BaseException) -> BaseException:
    """What went wrong: a nursery wraps it."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def explain(error: BaseException) -> str:
    """One line about an error, in words that say what failed."""
    error = innermost(error)
    if isinstance(error, (Fatal, UsageError)):
        return str(error)
    from chunkstore.errors import StoreError
    from meta.errors import MetaError

    if isinstance(error, (MetaError, StoreError)):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename}: {words(error)}" if error.filename else words(error)
    log.LOG.debug("unexpected error", exc_info=error)
    return f"internal error: {type(error).__name__}: {error}; run again with --verbose for details and report it"
