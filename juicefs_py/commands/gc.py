"""`juicefs gc`: find objects that no slice explains, compact, clean up. Without options nothing is changed.

Not the work (`juicefs_py.maintenance`): here is the order of its steps, and how each is told.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from juicefs_py.cli import log
from juicefs_py.cli.args import Command, Option, Values
from juicefs_py.cli.errors import Fatal
from juicefs_py.cli.progress import Progress

if TYPE_CHECKING:
    from juicefs_py.maintenance.columns import Column
    from juicefs_py.maintenance.gc import ObjectScan
    from juicefs_py.maintenance.opening import Opened

_SKIPPED_S = 3600  # younger objects may be about to get their metadata


def _run(values: Values) -> int:
    from juicefs_py.maintenance.opening import opened
    from meta.errors import MetaError

    delete, compact = values.flag("delete"), values.flag("compact")
    threads = values.number("threads")
    if (delete or compact) and threads <= 0:
        raise Fatal("threads should be greater than 0 to delete or compact objects")
    youngest = time.time() - _skipped_s()
    with opened(values.positionals[0], writing=delete or compact, deletes=threads) as volume:
        with Progress() as progress:
            try:
                cleaned = _tend(volume, progress, delete, compact, threads)
            except MetaError as error:
                raise Fatal(f"clean up: {error}; no leaked object was deleted") from None
            scan = _scan(volume, progress, youngest, threads if delete else 0)
        log.LOG.info("%s", _summary(scan, cleaned))
        if scan.leaked.objects.count and not delete:
            log.LOG.info("Please add `--delete` to clean leaked objects")
    return 0


def _skipped_s() -> int:
    text = os.environ.get("JFS_GC_SKIPPEDTIME", "")
    if not text:
        return _SKIPPED_S
    try:
        seconds = int(text)
        if seconds >= 0:
            return seconds
    except ValueError:
        pass
    log.LOG.error("parse JFS_GC_SKIPPEDTIME=%s: not a number of seconds; %d is used", text, _SKIPPED_S)
    return _SKIPPED_S


def _tend(
    volume: Opened, progress: Progress, delete: bool, compact: bool, threads: int
) -> tuple[Column, Column] | None:
    """What is done through the metadata; if anything was cleaned, how many replaced slices and removed files."""
    from juicefs_py.maintenance import cleanup

    meta = volume.meta
    if not delete and not compact:
        if progress.shown:
            cleanup.count_pending(meta, progress)
        return None
    slices = cleanup.CountedSlices(volume.store, progress)
    meta.set_slice_store(slices)
    cleaned = None
    if delete:
        cleaning = cleanup.Cleanup(meta, progress, threads)
        cleaning.run()
        cleaned = cleaning.slices, cleaning.files
    if compact:
        chunks = progress.spinner("Compacted chunks")
        cleanup.compact_all(meta, chunks, threads)
        cleanup.drain(meta)
        if not progress.shown:
            merged = slices.merged.objects.count, slices.merged.data.count
            log.LOG.info("Compacted %d chunks (%d slices, %d bytes).", chunks.count, *merged)
    if delete:
        cleanup.delete_dead_slices(meta)
    if not progress.shown:
        log.LOG.info("Deleted %d pending slices", slices.deleted.count)
    return cleaned


def _scan(volume: Opened, progress: Progress, youngest: float, threads: int) -> ObjectScan:
    """Compare objects and slices; with `threads`, delete what is leaked."""
    from contextlib import closing

    from chunkstore.errors import StoreError
    from juicefs_py.maintenance.gc import ObjectScan, delete_leaked
    from meta.errors import MetaError

    block_size = volume.store.config.block_size
    with closing(ObjectScan(volume.meta, volume.bucket, block_size, youngest, progress)) as scan:
        try:
            used = scan.learn()
            if not progress.shown:
                log.LOG.info("using %d slices (%d bytes)", *used)
            scan.run()
        except MetaError as error:
            raise Fatal(f"list all slices: {error}; no leaked object was deleted") from None
        except StoreError as error:
            raise Fatal(f"list all blocks: {error}; no leaked object was deleted") from None
        if threads:
            delete_leaked(volume.bucket, scan, threads)
        return scan


def _summary(scan: ObjectScan, cleaned: tuple[Column, Column] | None) -> str:
    """The line that scripts read."""

    def bytes_too(column: Column | None, what: str) -> str:
        count, size = (column.objects.count, column.data.count) if column is not None else (0, 0)
        return f"{count} {what} ({size} bytes)"

    slices, files = cleaned or (None, None)
    return ", ".join((
        f"scanned {scan.scanned.count} objects",
        f"{scan.valid.objects.count} valid",
        bytes_too(scan.pending, "pending delete"),
        bytes_too(scan.compacted, "compacted"),
        bytes_too(scan.leaked, "leaked"),
        bytes_too(slices, "delslices"),
        bytes_too(files, "delfiles"),
        bytes_too(scan.skipped, "skipped"),
    ))  # fmt: skip


COMMAND = Command(
    "gc", "Garbage collector of objects in data storage", "META-URL", "ADMIN",
    "Compares all objects in the data storage with the slices in the metadata, and counts those that are leaked.\n"
    "Use it if the storage holds more than expected.\n\n"
    "Examples:\n# Check only, nothing is changed\n$ juicefs gc redis://localhost\n\n"
    "# Compact all fragmented chunks\n$ juicefs gc redis://localhost --compact\n\n"
    "# Delete leaked objects, the expired trash, and what waits for deletion\n$ juicefs gc redis://localhost --delete",
    (
        Option(("compact",), "bool", "", "compact small slices into bigger ones"),
        Option(("delete",), "bool", "", "delete leaked objects, expired trash, pending files and slices"),
        Option(("threads", "p"), "int", "10", "number of threads to delete and compact"),
    ),
    1, 1, _run,
)  # fmt: skip
