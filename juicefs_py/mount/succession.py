"""Both ends of a hand-over, as a serving process sees them: what it leaves to a successor, and what it finds.

Not here: the connection (`passfd`), the document and the notes themselves (`state`, `ledger`), when somebody leaves
(`serve`), and what open files become in the file system (`vfs_recovery`).
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

import trio

from juicefs_py.cli import log
from juicefs_py.ledger import Ledger
from juicefs_py.mount import state
from juicefs_py.vfs_recovery import recover
from meta.errors import MetaError

if TYPE_CHECKING:
    from juicefs_py.volume import OpenVolume

_FLUSHED_WITHIN_S: Final = 10.0
_ONE_PER_NS: Final = 10  # as a power of two: handles are not given out faster than one in 1024 ns


def open_again(volume: OpenVolume, ledger: Ledger, left: state.Left) -> None:
    """Open what a predecessor had open: as it has written down when it made room, or as it was noted."""
    files = {file.fh: file for file in (*left.files, *ledger.files())}
    known = bool(left.next) or (ledger.complete and bool(files or ledger.next))
    volume.vfs.lost_since = ledger.ended or time.time()
    ledger.resume(complete=known)
    for ino in left.lost:
        ledger.is_dirty(ino)
    # Of a predecessor that tells nothing the kernel may have any number.
    volume.vfs.handles.skip(left.next if known else time.time_ns() >> _ONE_PER_NS)
    recover(volume.vfs, list(files.values()), ledger, known)
    left.put_aside()


def end_session(volume: OpenVolume, sid: int) -> None:
    """End a session whose connection is gone: its locks and removed files are nobody's any more."""
    try:
        volume.meta.end_other_session(sid)
    except MetaError as error:
        log.LOG.warning("session %d is left for others to clean: %s", sid, error)


async def leave(volume: OpenVolume, ledger: Ledger, answered: bool) -> None:
    """Leave everything to a successor. What cannot be flushed in time is lost, and written down as such.

    `answered`: whether all requests are, so that nobody need hear a second time what went wrong.
    """
    if answered:
        volume.vfs.writers.all_heard()
    await trio.to_thread.run_sync(_write_down, volume)  # before the flush too, which may not come back
    flushed = await flush_in_time(volume)
    await trio.to_thread.run_sync(_write_down, volume)
    ledger.makes_room()
    if answered and flushed:
        await trio.to_thread.run_sync(volume.leave)


async def flush_in_time(volume: OpenVolume) -> bool:
    """Flush, but not for longer than everybody who uses the mount can be made to wait; False if that was too short."""
    with trio.move_on_after(_FLUSHED_WITHIN_S) as flush:
        await trio.to_thread.run_sync(volume.vfs.flush_all, _FLUSHED_WITHIN_S, abandon_on_cancel=True)
    return not flush.cancelled_caught


def _write_down(volume: OpenVolume) -> None:
    path = state.path_of(os.getppid())
    try:
        state.save(path, volume.vfs.handles)
    except OSError as error:
        log.LOG.error("cannot write the open files down in %s: %s", path, error.strerror)
