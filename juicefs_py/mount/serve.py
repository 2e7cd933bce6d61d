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
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

import trio

from fuse.errors import MountError
from fuse.mount import mount, raise_read_ahead
from fuse.mountinfo import find_mount
from fuse.session import Session
from fuse.under_way import UnderWay
from juicefs_py import VERSION
from juicefs_py.cli import log
from juicefs_py.cli.errors import Fatal
from juicefs_py.doors import Door
from juicefs_py.errors import errno_of
from juicefs_py.mount import (
    backing,
    chores,
    consul,
    metrics,
    passfd,
    process,
    settings,
    state,
    store_options,
    succession,
)  # fmt: skip
from juicefs_py.mount.prepare import lazy_umount, make_device
from juicefs_py.mount.readiness import SERVES, tell_caller
from juicefs_py.mount.supervisor import HANDED_OVER, UNMOUNT_AND_STOP, Inheritance
from juicefs_py.storage import for_this_client
from juicefs_py.vfs_config import VFSConfig
from juicefs_py.volume import OpenVolume, open_volume
from meta.errors import MetaError, SettingError, VolumeGone
from meta.setting import Setting

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
        self._lasts = inherited.fd is not None  # the mount outlives this process
        self._for_good = False  # unless its end was asked for, or found

    async def run(self) -> int:
        address = settings.metrics_address(self.job.values)
        listeners = await metrics.listen(*address, self.job.values.is_set("metrics"))
        if listeners and self.job.values.is_set("consul"):
            where = self.job.values.text("consul"), metrics.address_of(listeners), self.job.mountpoint
            await trio.to_thread.run_sync(consul.register, *where)
        volume = await trio.to_thread.run_sync(self._open, metrics.address_of(listeners))
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
            session = await trio.to_thread.run_sync(self._mount, volume)
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

    def _open(self, metrics_address: str) -> OpenVolume:
        """Metadata, storage and VFS, with a session record unless read-only."""
        job, values, ledger = self.job, self.job.values, self._ledger
        left = state.load(state.path_of(os.getppid()))
        # Without the connection of the last session its locks and open files are nobody's any more.
        ended = ledger.session if self._inherited.fd is None else 0
        sid = 0 if ended else ledger.session or int(os.environ.get("_JFS_META_SID") or 0)
        with log.warned_before():
            meta = settings.meta_config(values, job.mountpoint)
        volume = open_volume(
            job.url,
            meta,
            lambda setting: self._plan(setting).store,
            lambda setting: self._vfs_config(setting, metrics_address),
            limits=lambda setting: store_options.limits(values, setting),
            overridden=lambda setting: for_this_client(
                setting, values.text("storage"), job.bucket, store_options.own_tier(values, setting)
            ),
            sid=sid,
            ledger=ledger,
        )
        log.LOG.info("JuiceFS version %s", VERSION)
        if sid:
            log.LOG.info("Go on with session %d, version: %s", sid, VERSION)
        elif volume.meta.sid:
            log.LOG.info("Create session %d OK with version: %s", volume.meta.sid, VERSION)
        else:
            log.LOG.info("Create read-only session OK with version: %s", VERSION)
        ledger.session = volume.meta.sid
        if ended:
            succession.end_session(volume, ended)
        if self._inherited.fd is None:
            ledger.clear()
            left.put_aside()  # whoever has left it had the same process number
        else:
            succession.open_again(volume, ledger, left)
        return volume

    def _plan(self, setting: Setting) -> settings.Plan:
        """The options with the setting as it is now; it may have changed since the command was given."""
        with log.warned_before():
            return settings.plan(self.job.values, self.job.mountpoint, setting)

    def _vfs_config(self, setting: Setting, metrics_address: str) -> VFSConfig:
        """With what is only known now: where the metrics are."""
        config = self._plan(setting).vfs
        port = {"PrometheusAgent": metrics_address} if metrics_address else {}
        native = self.job.values.text("fuse") == "native"  # others cannot be taken over, and do not offer it
        paths = {"CommPath": self._inherited.comm_path if native else "", "StatePath": state.path_of(os.getppid())}
        return replace(config, document={"Port": port, **paths, **config.document})

    def _mount(self, volume: OpenVolume) -> Door:
        setting, plan = volume.setting, self._plan(volume.setting)
        inherited = self._inherited
        if inherited.fd is not None:
            negotiated = passfd.negotiated_of(inherited.setting, plan.session.max_write)
            if negotiated is None:
                raise Fatal("the connection that was handed over comes without what was agreed with the kernel")
            log.LOG.info('Going on with the mount of volume %s at "%s" ...', setting.name, self.job.mountpoint)
            if self._ledger.device is None:  # from another supervisor; ours knows it, whatever is mounted on top by now
                self._note_device()
            notes = UnderWay(self._ledger.requests)
            heir = Session(volume.vfs, inherited.fd, plan.session, errno_of, negotiated, notes)
            heir.before_serving = self._ledger.serves
            volume.vfs.notifier = heir.notifier
            backing.enable(volume.vfs, heir, plan.passthrough, self._ledger.device, heir=True)
            return heir
        log.LOG.info('Mounting volume %s at "%s" ...', setting.name, self.job.mountpoint)
        make_device()
        try:
            session = self._door(volume, plan)
        except MountError as error:
            raise Fatal(f"fuse: {error.strerror}") from None
        self._note_device()
        volume.vfs.notifier = session.notifier
        return session

    def _door(self, volume: OpenVolume, plan: settings.Plan) -> Door:
        """Mounted; nothing is answered yet."""
        if self.job.values.text("fuse") == "pyfuse3":
            from juicefs_py.doors.pyfuse3 import PyFuse3Door

            return PyFuse3Door(
                volume.vfs, self.job.mountpoint, plan.mount, plan.session.writeback_cache, plan.session.posix_acl
            )
        fd = mount(self.job.mountpoint, plan.mount)
        session = Session(volume.vfs, fd, plan.session, errno_of, under_way=UnderWay(self._ledger.requests))

        def before_serving() -> None:
            backing.enable(volume.vfs, session, plan.passthrough, self._ledger.device)
            self._lasts = self._give(session)
            self._ledger.serves()

        session.before_serving = before_serving
        return session

    def _note_device(self) -> None:
        found = find_mount(self.job.mountpoint)
        if found is not None:
            self._ledger.device = found.minor

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

    def _give(self, session: Session) -> bool:
        """The supervisor keeps a copy of the connection, for a successor of ours: from the first request on.

        False if it does not: the mount ends with this process.
        """
        assert session.negotiated is not None
        path = self._inherited.comm_path
        if not path:
            return False  # started by somebody who keeps no connections
        try:
            given = passfd.give(path, passfd.setting_of(session.negotiated), session.device.fd)
        except OSError as error:
            log.LOG.warning("cannot give the connection to the supervisor at %s: %s", path, error)
            return False
        if not given:
            log.LOG.warning("no supervisor at %s: the mount ends with this process", path)
        return given

    async def _make_room(self, session: Door, volume: OpenVolume) -> None:
        """End so that a successor can go on, unless this process is to stop meanwhile."""
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
