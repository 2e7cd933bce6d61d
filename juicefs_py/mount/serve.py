"""The serving process: opens the volume, mounts it or takes a connection over, and lives until it is unmounted, in one
trio nursery.

File system work happens in the session's threads; trio only runs what waits: the session's end, heartbeat, background
jobs, metrics, signals. Order of the end: unmounted, flushed, session record removed, store closed. Whoever ends for
another reason than that it should (it makes room, or a part of it fails) leaves mount and session to a successor.
"""

from __future__ import annotations

import faulthandler
import os
import signal
from typing import TYPE_CHECKING, NoReturn

import trio

from fuse.mount import raise_read_ahead
from fuse.session import Session
from juicefs_py.cli import log
from juicefs_py.doors import Door
from juicefs_py.mount import backing, chores, consul, metrics, process, settings, succession
from juicefs_py.mount.connection import Connection
from juicefs_py.mount.opening import Opening
from juicefs_py.mount.prepare import lazy_umount
from juicefs_py.mount.readiness import SERVES, tell_caller
from juicefs_py.mount.supervisor import HANDED_OVER, UNMOUNT_AND_STOP, Inheritance
from juicefs_py.volume import OpenVolume
from meta.errors import MetaError, SettingError, VolumeGone

if TYPE_CHECKING:
    from juicefs_py.mount.start import Job

_STOP_WITHIN_S = 30
_LOOK_EVERY_S = 0.01
_ANSWERED_WITHIN_S = 3.0
"""How long requests under way may take while a successor waits; then they are interrupted, or left to be sent again."""
_INTERRUPTED_WITHIN_S = 7.0
_READ_AHEAD_KIB = 512
"""What the kernel reads ahead: sequential reads of cached blocks went from 670 to 960 MiB/s. More would cost whoever
faults single pages of a mapped file."""


def serve(job: Job, inherited: Inheritance) -> int:
    """Serve the mount until it ends; the exit code of the process."""
    faulthandler.enable()
    faulthandler.register(signal.SIGQUIT, chain=True)
    faulthandler.register(signal.SIGUSR2)  # stacks of all threads into the log, for `juicefs debug`
    backing.ignore_leases()
    process.tune_memory()
    process.prefer()
    return trio.run(Server(job, inherited).run)


class Server:
    """One mount from its opening to its end."""

    def __init__(self, job: Job, inherited: Inheritance) -> None:
        self.job = job
        self.code = 0
        self._inherited = inherited
        self._ledger = inherited.ledger
        self._asked_for_room = self._making_room = self._interrupted = self._answered = False
        self._room = trio.CancelScope()  # of making room
        self._opening = Opening(job, inherited)
        self._connection: Connection | None = None
        self._for_good = False  # unless its end was asked for, or found

    async def run(self) -> int:
        address = settings.metrics_address(self.job.values)
        listeners = await metrics.listen(*address, self.job.values.is_set("metrics"))
        if listeners and self.job.values.is_set("consul"):
            where = self.job.values.text("consul"), metrics.address_of(listeners), self.job.mountpoint
            await trio.to_thread.run_sync(consul.register, *where)
        volume = await trio.to_thread.run_sync(self._opening.volume, metrics.address_of(listeners))
        try:
            await self._serve(volume, listeners)
        finally:
            with trio.CancelScope(shield=True):
                if self._making_room and not self._for_good:
                    await succession.leave(volume, self._ledger, self._answered)
                elif self._for_good or not self._lasts:
                    await trio.to_thread.run_sync(volume.close)
                else:
                    await succession.flush_in_time(volume)  # the ledger has all that a successor must know
        if not self.code:
            log.LOG.info('The juicefs mount process exit successfully, mountpoint: "%s"', self.job.mountpoint)
        return self.code

    async def _serve(self, volume: OpenVolume, listeners: list[trio.SocketListener]) -> None:
        """Mount and live until unmounted. A failure of any part stops the session."""
        async with trio.open_nursery() as nursery:
            plan = self._opening.plan(volume.setting)
            self._connection = Connection(self.job, self._inherited, volume, plan)
            session = await trio.to_thread.run_sync(self._connection.open)
            try:
                await nursery.start(self._signals, nursery, session, volume)
                nursery.start_soon(self._announce, session, volume)
                nursery.start_soon(self._heartbeat, nursery, session, volume)
                nursery.start_soon(chores.show_life, session, self._ledger)
                nursery.start_soon(chores.run_jobs, volume)
                nursery.start_soon(chores.back_up, volume, self.job.url, self.job.values)
                if volume.meta.engine.defers_totals:
                    nursery.start_soon(chores.write_totals, volume)
                if listeners:
                    nursery.start_soon(metrics.serve, listeners, volume.vfs.metrics.render)
                process.freeze_heap()
                await trio.to_thread.run_sync(session.run, abandon_on_cancel=True)
                self._answered = not self._interrupted
            finally:
                if session.unmounted:
                    self._for_good = True
                    self.code = 0 if self._making_room else self.code  # there is nothing left to go on with
                if not session.unmounted and not self._making_room:
                    session.stop()
                    if self._for_good or not self._lasts:
                        self._umount()
            nursery.cancel_scope.cancel()

    @property
    def _lasts(self) -> bool:
        """The mount outlives this process."""
        return self._inherited.fd is not None if self._connection is None else self._connection.lasts

    def _umount(self) -> None:
        """Take our mount away, unless it is gone already or covered by another one."""
        lazy_umount(self.job.mountpoint, self._ledger.device)

    async def _announce(self, session: Door, volume: OpenVolume) -> None:
        """Tell whoever waits that the mount is served."""
        while not session.ready.is_set():
            await trio.sleep(_LOOK_EVERY_S)
        if self._inherited.fd is None and self._ledger.device is not None:
            raise_read_ahead(self._ledger.device, _READ_AHEAD_KIB)
        if not isinstance(session, Session):
            self._ledger.serves()
        if self.job.background:
            tell_caller(self.job.status, SERVES)
        else:
            log.LOG.info('\x1b[92mOK\x1b[0m, %s is ready at "%s"', volume.setting.name, self.job.mountpoint)

    async def _signals(
        self, nursery: trio.Nursery, session: Door, volume: OpenVolume, *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:  # fmt: skip
        stopping = False
        # What is restored when this ends: whoever takes over goes on sending HUP while the last data is flushed.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
            task_status.started()
            async for number in received:
                if number == signal.SIGHUP:
                    if not self._asked_for_room and not stopping:
                        self._asked_for_room = True
                        nursery.start_soon(self._make_room, session, volume)
                elif not stopping:
                    stopping = self._for_good = True
                    self._room.cancel()
                    self.code = 0
                    log.LOG.info("Received signal %s, exiting...", (signal.strsignal(number) or str(number)).lower())
                    nursery.start_soon(self._stop, session, volume)

    async def _make_room(self, session: Door, volume: OpenVolume) -> None:
        """End so that a successor can go on, unless this process is to stop meanwhile."""
        self._room = trio.CancelScope()  # each is good for one time, and this process may have refused before
        with self._room:
            await self._leave_to_successor(session, volume)

    async def _leave_to_successor(self, session: Door, volume: OpenVolume) -> None:
        """Nothing pending, no request lost, open files written down."""
        log.LOG.info("Received signal hangup, making room for a successor")
        if not await trio.to_thread.run_sync(volume.vfs.flush_all, _STOP_WITHIN_S, abandon_on_cancel=True):
            log.LOG.warning("not all could be flushed: this process stays")
            self._asked_for_room = False
            return
        if not isinstance(session, Session):
            log.LOG.info("all is flushed; pyfuse3 cannot hand a mount over: this process stays")
            self._asked_for_room = False
            return
        if not self._lasts:
            log.LOG.info("all is flushed; nobody keeps the connection: this process stays")
            self._asked_for_room = False
            return
        self._making_room, self.code = True, HANDED_OVER
        session.stop()
        with trio.move_on_after(_ANSWERED_WITHIN_S):
            await trio.sleep_forever()  # the end of the session cancels this
        self._interrupted = True
        session.leave_rest()
        with trio.move_on_after(_INTERRUPTED_WITHIN_S):
            await trio.sleep_forever()
        log.LOG.warning("some requests are still under way; they are left to the successor")
        await succession.leave(volume, self._ledger, answered=False)
        process.flush_streams()
        os._exit(HANDED_OVER)

    async def _stop(self, session: Door, volume: OpenVolume) -> None:
        """Unmount now, flush, and give those who still use the mount a while to let go."""
        await trio.to_thread.run_sync(self._umount)
        with trio.move_on_after(_STOP_WITHIN_S):
            await trio.to_thread.run_sync(volume.vfs.flush_all, _STOP_WITHIN_S, abandon_on_cancel=True)
            await trio.sleep_forever()  # the end of the session cancels this
        log.LOG.warning("the mount is still in use after %d s, stopping anyway", _STOP_WITHIN_S)
        self.code = UNMOUNT_AND_STOP
        session.stop()

    async def _abandon(self) -> NoReturn:
        """End at once. What is not flushed would go to files of another volume that have the same inode numbers."""
        try:
            await trio.to_thread.run_sync(self._umount)
        finally:
            process.flush_streams()
            os._exit(UNMOUNT_AND_STOP)

    async def _heartbeat(self, nursery: trio.Nursery, session: Door, volume: OpenVolume) -> None:
        """Keep the session alive and follow changes of the setting."""
        period_s = volume.meta.config.heartbeat_s or 12.0
        while True:
            await trio.sleep(period_s)
            try:
                await trio.to_thread.run_sync(volume.meta.refresh_session, abandon_on_cancel=True)
            except VolumeGone as error:
                log.LOG.error("the volume is not the same any more: %s; unmounting, unflushed data is lost", error)
                await self._abandon()
            except SettingError as error:
                log.LOG.error("this client may not use the volume any more: %s; unmounting", error)
                self.code, self._for_good = UNMOUNT_AND_STOP, True
                nursery.start_soon(self._stop, session, volume)
                return
            except MetaError as error:
                log.LOG.warning("heartbeat: %s; will be tried again", error)
