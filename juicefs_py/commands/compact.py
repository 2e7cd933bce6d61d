"""`juicefs compact`: merge the small slices of files and trees. The serving process does the work; this asks for it."""

from __future__ import annotations

import errno
import os
import struct

from juicefs_py.cli import log
from juicefs_py.cli.args import Command, Option, Values
from juicefs_py.cli.control_client import COMPACT, open_control, strerror
from juicefs_py.cli.errors import Fatal
from juicefs_py.cli.progress import Progress
from juicefs_py.cli.report import words

_MOST_THREADS = 65535  # what the request has room for


def _run(values: Values) -> int:
    threads = _threads(values)
    for path in values.positionals:
        _compact(os.path.abspath(path), threads)
    return 0


def _threads(values: Values) -> int:
    threads = values.number("threads")
    if threads == 0:
        log.LOG.warning("threads should be > 0, reset it to 1")
    if threads > _MOST_THREADS:
        log.LOG.warning("threads should not be larger than %d, reset it to that", _MOST_THREADS)
    return min(max(threads, 1), _MOST_THREADS)


def _compact(path: str, threads: int) -> None:
    """A failure is told, and does not keep the next path."""
    try:
        ino = os.stat(path).st_ino
    except OSError as error:
        log.LOG.error('lookup inode for "%s": %s', path, words(error))
        return
    real = os.path.realpath(path)
    try:
        control = open_control(real if os.path.isdir(real) else os.path.dirname(real))
    except OSError as error:
        log.LOG.error("open control file for [%d:%s]: %s", ino, path, words(error))
        return
    with control, Progress() as progress:
        chunks = progress.bar("Compacted chunks", 0)

        def show(total: int, done: int) -> None:
            chunks.total = total
            chunks.update(done)

        number, _ = control.call(COMPACT, struct.pack(">QH", ino, threads), show)
    if number == errno.EINVAL:
        raise Fatal("compact is not supported, please upgrade and mount again")
    if number:
        log.LOG.error("compact [%d:%s] error: %s", ino, path, strerror(number))
    else:
        log.LOG.info('compact [%d:"%s"] success.', ino, path)


COMMAND = Command(
    "compact", "Trigger compaction of chunks", "PATH ...", "TOOL",
    "Merges the small slices that random writes leave in files, so that they are read faster.\n\n"
    "Examples:\n# A file or a directory with all that is in it\n$ juicefs compact /mnt/jfs/foo",
    (Option(("threads", "p"), "uint", "10", "compact concurrency"),),
    1, None, _run,
)  # fmt: skip
