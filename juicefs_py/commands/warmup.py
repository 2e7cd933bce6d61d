"""`juicefs warmup`: fill the cache of a mount, empty it, or tell what is in it. The serving process does the work.

Not here: the work (`control.warmup`), the messages (`cli.control_client`). Paths are sent as the mount knows them, from
its root on; where that cannot be told (a part of the volume is mounted elsewhere), by the numbers of their inodes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import chain, islice
from typing import Any

from juicefs_py.cli import log, tables
from juicefs_py.cli.args import Command, Option, Values
from juicefs_py.cli.control_client import FILL_CACHE, Control, open_control, strerror
from juicefs_py.cli.errors import Fatal
from juicefs_py.cli.progress import Progress
from juicefs_py.cli.report import words
from juicefs_py.cli.sizes import ibytes

_WARM, _EVICT, _CHECK, _ASSEMBLE = range(4)
_TITLES = ("warmup cache", "evict cache", "check cache", "assemble")
_BATCH = 10240  # paths in a request
_MOST_THREADS = 65535  # what the request has room for
_ROOT = 1  # the inode of every mount's root
_NOWHERE = b"inode:0"
_ONE_WRITE = 60_000  # bytes of a request that reach an old mount in one piece, without which it understands nothing


def _run(values: Values) -> int:
    chosen = [f"--{name}" for name in ("check", "evict", "assemble") if values.flag(name)]
    if len(chosen) > 1:
        raise Fatal(f"{chosen[0]} and {chosen[1]} can't be used together")
    with _open_list(values.text("file")) as lines:
        listed = (path for line in lines if (path := line.strip()))
        return _send_all(map(os.path.abspath, chain(values.positionals, listed)), values)


def _open_list(name: str) -> contextlib.AbstractContextManager[Iterable[str]]:
    """A file in which paths stand, one on each line; without a name, none."""
    if not name:
        return contextlib.nullcontext(())
    try:
        return open(name, encoding="utf-8", errors="surrogateescape", newline="\n")
    except OSError as error:
        raise Fatal(f'Failed to open file "{name}": {words(error)}') from None


def _send_all(paths: Iterator[str], values: Values) -> int:
    first = next(paths, None)
    if first is None:
        log.LOG.info("no path")
        return 0
    action = _EVICT if values.flag("evict") else _CHECK if values.flag("check") else _WARM
    action = _ASSEMBLE if values.flag("assemble") else action
    background = values.flag("background")
    place = _Place(first)
    try:
        control = open_control(place.directory)
    except OSError as error:
        raise Fatal(f"open control file for {first}: {words(error)}") from None
    with control, Progress(quiet=background or values.flag("quiet")) as progress:
        work = _Work(control, progress, action, _threads(values), background)
        names = (name for path in chain([first], paths) if (name := place.name(path)) is not None)
        while batch := list(islice(names, _BATCH)):
            work.send(batch)
    if not background:
        work.tell()
    return 0


def _threads(values: Values) -> int:
    threads = values.number("threads")
    if threads == 0:
        log.LOG.warning("threads should be larger than 0, reset it to 1")
    if threads > _MOST_THREADS:
        log.LOG.warning("threads should not be larger than %d, reset it to that", _MOST_THREADS)
    return min(max(threads, 1), _MOST_THREADS)


class _Place:
    """The mount that a path lies in, and what it calls other paths."""

    def __init__(self, first: str) -> None:
        found = _root_above(first) or _root_above(os.path.realpath(first))
        self.directory = found or _nearest_directory(first)
        self._roots = {found, os.path.realpath(found)} if found else set()
        self._device = os.stat(self.directory).st_dev

    def name(self, path: str) -> bytes | None:
        """The path as the mount knows it; None (and an ERROR line) if it lies elsewhere."""
        name = self._inside(path) or self._inside(os.path.realpath(path))
        if name is None and self._roots:
            log.LOG.error('Path "%s" is not under mount point "%s"', path, self.directory)
            return None
        if name is None or b"\n" in name:  # which stands between paths
            return self._number(path)
        return name

    def _inside(self, path: str) -> bytes | None:
        for root in self._roots:
            if os.path.commonpath((path, root)) == root:
                return b"/" + os.fsencode(path[len(root) :].lstrip("/"))
        return None

    def _number(self, path: str) -> bytes | None:
        try:
            status = os.stat(path)
        except OSError as error:
            log.LOG.error('lookup inode for "%s": %s', path, words(error))
            return None
        if status.st_dev != self._device:
            log.LOG.error('Path "%s" is not under mount point "%s"', path, self.directory)
            return None
        return b"inode:%d" % status.st_ino


def _root_above(path: str) -> str | None:
    """The nearest directory on the way up that is the root of a mount."""
    while True:
        try:
            if os.stat(path).st_ino == _ROOT:
                return path
        except OSError:
            pass  # a path that is not there may lie in a mount all the same
        if path == "/":
            return None
        path = os.path.dirname(path)


def _nearest_directory(path: str) -> str:
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


class _Work:
    """Requests to one mount, and the sums of its answers."""

    def __init__(self, control: Control, progress: Progress, action: int, threads: int, background: bool) -> None:
        self._control = control
        self._action = action
        self._title = _TITLES[action]
        self._threads = threads
        self._background = background
        self._files = progress.spinner(f"{self._title} file")
        self._sizes = progress.spinner(f"{self._title} size", in_bytes=True)
        self._missing = 0
        self._paths_uncounted = 0
        self._locations: Counter[str] = Counter()
        if action != _WARM and self._old:
            raise Fatal(
                f"{self._title}: this mount is older than JuiceFS 1.2 and can only warm up; upgrade it and mount again"
            )

    @cached_property
    def _old(self) -> bool:
        """Whether the mount is older than 1.2. Such a one warms up whatever it is asked for, and reports nothing."""
        number, document = self._control.call(FILL_CACHE, _body([_NOWHERE], 1, False, _CHECK), lambda *_: None)
        return number in (0, errno.EINVAL) and document is None

    def send(self, batch: list[bytes]) -> None:
        """Have a batch of paths done, or begun if it is for the background."""
        body = _body(batch, self._threads, self._background, self._action)
        if len(body) > _ONE_WRITE and len(batch) > 1 and self._old:
            middle = len(batch) // 2
            self.send(batch[:middle])
            self.send(batch[middle:])
            return
        files, size = self._files.count, self._sizes.count

        def show(more_files: int, more_bytes: int) -> None:
            self._files.update(files + more_files)
            self._sizes.update(size + more_bytes)

        number, document = self._control.call(FILL_CACHE, body, show)
        if number:
            raise Fatal(f"{self._title} failed: {strerror(number)}{self._advice(number)}")
        if self._background:
            log.LOG.info("%s for %d paths in background", self._title, len(batch))
        elif document is not None:
            show(document["FileCount"], document["TotalBytes"])
            self._add(document)
        elif self._files.count == files:
            self._paths_uncounted += len(batch)

    def _advice(self, number: int) -> str:
        if number == errno.EOPNOTSUPP and self._action == _ASSEMBLE:
            return "; mount with --passthrough, and see the mount's log for why it is not used"
        return "; is this mount too old? Upgrade it and mount again" if number == errno.EINVAL else ""

    def _add(self, document: dict[str, Any]) -> None:
        self._missing += document["MissBytes"]
        self._locations.update(document.get("Locations") or {})
        failures = document.get("Failures") or ()
        for failure in failures:
            log.LOG.warning("%s: %s", self._title, failure)
        errors = document.get("Errors", 0)
        if errors:
            self._files.advance(0, errors)
            named = min(errors, len(failures))
            log.LOG.error("%s: %d failures (%d named above)", self._title, errors, named)

    def tell(self) -> None:
        """The last lines."""
        files, size = self._files.count, self._sizes.count
        if self._action == _CHECK:
            self._tell_places(size)
            cached = size - self._missing
            share = cached * 100 / size if size else 0.0
            shown = f"{ibytes(cached)} of {ibytes(size)} ({share:.1f}%)"
            log.LOG.info("%s: %d files checked, %s cached", self._title, files, shown)
        elif self._paths_uncounted:
            log.LOG.info("%s: %d paths; this old mount does not count files", self._title, self._paths_uncounted)
        else:
            done = size - self._missing if self._action in (_WARM, _ASSEMBLE) else size
            log.LOG.info("%s: %d files (%s bytes)", self._title, files, ibytes(done))

    def _tell_places(self, size: int) -> None:
        if self._locations:
            places = sorted(self._locations.items())
            rows = [(place, ibytes(held), f"{held * 100 / size:.1f}%") for place, held in places]
            print(tables.render([("Location", "Size", "Percentage"), *rows], left=0))


def _body(paths: Iterable[bytes], threads: int, background: bool, action: int) -> bytes:
    joined = b"\n".join(paths)
    return struct.pack(">I", len(joined)) + joined + struct.pack(">HBB", threads, background, action)


COMMAND = Command(
    "warmup", "Build cache for target directories/files", "[PATH ...]", "TOOL",
    "Fetch the data of files and whole trees into the cache of the mount, ahead of their use.\n\n"
    "Examples:\n# All files of a directory\n$ juicefs warmup /mnt/jfs/datadir\n\n"
    "# The files of a list, one path on each line\n$ juicefs warmup -f /tmp/filelist\n\n"
    "# How much of it is cached\n$ juicefs warmup --check /mnt/jfs/datadir\n\n"
    "# Have the kernel read a file past the mount process (mounts with --passthrough)\n"
    "$ juicefs warmup --assemble /mnt/jfs/datadir/large",
    (
        Option(("file", "f"), "string", "", "file containing a list of paths"),
        Option(("threads", "p"), "uint", "50", "number of concurrent workers"),
        Option(("background", "b"), "bool", "", "run in background"),
        Option(("evict",), "bool", "", "evict cached blocks"),
        Option(("check",), "bool", "", "check whether the data blocks are cached or not"),
        Option(("assemble",), "bool", "", "also assemble each file for the kernel to read (mount --passthrough)"),
    ),
    0, None, _run,
)  # fmt: skip
