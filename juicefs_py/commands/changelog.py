"""`juicefs changelog`: the lines of a volume's change log as they come. Not who writes one: official clients do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from juicefs_py.cli import log
from juicefs_py.cli.args import Command, Option, Values
from juicefs_py.cli.errors import Fatal

if TYPE_CHECKING:
    from meta.engine import Engine

_TOGETHER = 1000
_POLL_S = 1.0


def _run(values: Values) -> int:
    from juicefs_py.maintenance.opening import opened_metadata
    from meta.engines import mask_url, with_scheme

    if values.number("from") < 0:
        raise Fatal(f"--from should be a version of the change log, 0 for the latest, not {values.number('from')}")
    url = values.positionals[0]
    with opened_metadata(url) as meta:
        if not meta.setting.change_log:
            shown = mask_url(with_scheme(url))
            raise Fatal(f"changelog is not enabled, use `juicefs config {shown} --changelog` to enable it")
        _follow(meta.engine, values.number("from"))
    return 0


def _follow(engine: Engine, after: int) -> None:
    """Print what there is behind a number, and what comes, until somebody interrupts."""
    from meta.errors import Unavailable

    if not after:
        after = engine.last_change()
        log.LOG.info("last version is %d", after)
    while True:
        try:
            lines = engine.changes(after, _TOGETHER)
        except Unavailable as problem:  # a server that comes back goes on where it was
            log.LOG.error("scan changelog: %s", problem)
            lines = []
        for number, line in lines:
            print(f"{number}: {line}", flush=True)
            after = number
        if len(lines) < _TOGETHER:
            time.sleep(_POLL_S)


COMMAND = Command(
    "changelog", "Tail the changelog of a volume", "META-URL", "INSPECTOR",
    "Shows operations on the metadata, a line each: VERSION: SECONDS|OPERATION(ARGUMENTS)|(SESSION,NUMBER). Official\n"
    "clients (1.4 or newer) write them, if `config META-URL --changelog` of such a client has asked for it.\n\n"
    "Examples:\n$ juicefs changelog redis://localhost\n\n"
    "# Begin behind a version\n$ juicefs changelog redis://localhost --from 100",
    (Option(("from",), "int", "0", "show what comes behind this version (0 means behind the latest)"),),
    1, 1, _run,
)  # fmt: skip
