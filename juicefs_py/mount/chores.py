"""What a serving process does now and then, each a task in its nursery. Not here: its heartbeat, which may end it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

import trio

from fuse.session import Session
from juicefs_py.cli import log
from juicefs_py.ledger import Ledger
from juicefs_py.mount import settings
from meta.errors import MetaError

if TYPE_CHECKING:
    from juicefs_py.cli.args import Values
    from juicefs_py.doors import Door
    from juicefs_py.volume import OpenVolume

_LIFE_EVERY_S: Final = 1.0
_TOTALS_EVERY_S: Final = 1.0  # as official clients do


async def show_life(session: Door, ledger: Ledger) -> None:
    """For the watchdog, which gets no answer while all threads are at work."""
    while isinstance(session, Session):
        await trio.sleep(_LIFE_EVERY_S)
        if session.gets_on():
            ledger.is_alive()


async def run_jobs(volume: OpenVolume) -> None:
    """Background jobs run in one thread; they look at `stop` often."""
    if volume.meta.config.read_only or volume.meta.config.no_bgjob:
        return
    ended = False
    try:
        await trio.to_thread.run_sync(volume.meta.run_jobs, lambda: ended, abandon_on_cancel=True)
    finally:
        ended = True


async def write_totals(volume: OpenVolume) -> None:
    """Write the totals that the engine collects."""
    while True:
        await trio.sleep(_TOTALS_EVERY_S)
        try:
            await trio.to_thread.run_sync(volume.meta.engine.flush, abandon_on_cancel=True)
        except MetaError as error:
            log.LOG.warning("totals of the volume: %s; will be tried again", error)


async def back_up(volume: OpenVolume, url: str, values: Values) -> None:
    """Look ten times per interval whether a backup of the metadata is due."""
    interval_s = settings.backup_interval_s(values)
    if not interval_s or not volume.meta.sid:
        log.LOG.info("Metadata backup is disabled")
        return
    from juicefs_py.maintenance.backup import Backups, Plan

    plan = Plan(url, interval_s, values.flag("backup-skip-trash"))
    backups = Backups(volume.meta, plan, lambda: volume.store.bucket)
    number = volume.vfs.stats.registry.number
    number("last_successful_backup", "gauge", "When it was made, by this mount.", lambda: backups.last_success)
    number("last_backup_duration", "gauge", "Seconds that it took.", lambda: backups.last_took_s)
    ended = False
    try:
        while True:
            await trio.sleep(interval_s / 10 * random.uniform(0.95, 1.05))
            await trio.to_thread.run_sync(backups.run_due, lambda: ended, abandon_on_cancel=True)
    finally:
        ended = True
