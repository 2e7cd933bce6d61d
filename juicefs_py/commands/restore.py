"""`juicefs restore`: bring files and directories back from the trash, hour by hour."""

from __future__ import annotations

import os

from juicefs_py.cli import log
from juicefs_py.cli.args import Command, Option, Values
from juicefs_py.cli.errors import Fatal
from juicefs_py.cli.progress import Progress


def _run(values: Values) -> int:
    from juicefs_py.maintenance.opening import opened_metadata
    from juicefs_py.maintenance.restore import CONFLICT, DONE, FAILED, SKIPPED, Restoring, find_hour
    from meta.errors import Refused

    if os.getuid() != 0:
        raise Fatal("only root can restore files from trash")
    url, *hours = values.positionals
    put_back, threads = values.flag("put-back"), max(values.number("threads"), 1)
    with opened_metadata(url, writing=True) as meta:
        for hour in hours:
            log.LOG.info('restore files in "%s" ...', hour)
            try:
                restoring = Restoring(meta, find_hour(meta, hour), put_back)
            except Refused as problem:
                log.LOG.error('lookup "%s": %s', hour, str(problem).lower())
                continue
            with Progress() as progress:
                restoring.run(progress, threads)
            if not progress.shown:
                counts, word = restoring.counts, "restored" if put_back else "rebuilt"
                log.LOG.info(
                    "%s: %d %s, %d need --put-back, %d conflicts, %d failed",
                    hour, counts[DONE], word, counts[SKIPPED], counts[CONFLICT], counts[FAILED],
                )  # fmt: skip
    return 0


COMMAND = Command(
    "restore", "Restore files from trash", "META-URL HOUR ...", "ADMIN",
    "HOUR is the name of a directory in the trash, in UTC, such as 2023-05-10-01. Without --put-back only trees are\n"
    "rebuilt there: what was removed from a directory that is itself in the trash goes back into that. With it, all\n"
    "goes back to where it was, unless there is something of that name. It may be interrupted and run again.\n\n"
    "Examples:\n$ juicefs restore redis://localhost 2023-05-10-01\n\n"
    "# Move everything back\n$ juicefs restore redis://localhost 2023-05-10-01 --put-back",
    (
        Option(("put-back",), "bool", "", "move the recovered files into their original directories"),
        Option(("threads",), "int", "10", "number of entries that are restored at a time"),
    ),
    2, None, _run,
)  # fmt: skip
