"""A serving process's connection to the kernel: made by mounting, or inherited from its supervisor.

Not here: the exchange of the descriptor (`passfd`), and what is answered on it (`fuse.session`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fuse.errors import MountError
from fuse.mount import mount
from fuse.mountinfo import find_mount
from fuse.session import Session
from fuse.under_way import UnderWay
from juicefs_py.cli import log
from juicefs_py.cli.errors import Fatal
from juicefs_py.doors import Door
from juicefs_py.errors import errno_of
from juicefs_py.mount import backing, passfd, settings
from juicefs_py.mount.prepare import make_device
from juicefs_py.mount.supervisor import Inheritance
from juicefs_py.volume import OpenVolume

if TYPE_CHECKING:
    from juicefs_py.mount.start import Job


class Connection:
    """The mount of one volume. `lasts`: it outlives this process, since the supervisor has a copy of the descriptor."""

    def __init__(self, job: Job, inherited: Inheritance, volume: OpenVolume, plan: settings.Plan) -> None:
        self._job = job
        self._inherited = inherited
        self._ledger = inherited.ledger
        self._volume = volume
        self._plan = plan
        self.lasts = inherited.fd is not None

    def open(self) -> Door:
        """Mount, or go on with what is mounted. Nothing is answered yet. Fatal if that cannot be."""
        fd, name, where = self._inherited.fd, self._volume.setting.name, self._job.mountpoint
        if fd is not None:
            log.LOG.info('Going on with the mount of volume %s at "%s" ...', name, where)
            return self._go_on(fd)
        log.LOG.info('Mounting volume %s at "%s" ...', name, where)
        make_device()
        try:
            door = self._mount()
        except MountError as error:
            raise Fatal(f"fuse: {error.strerror}") from None
        self._note_device()
        self._volume.vfs.notifier = door.notifier
        return door

    def _go_on(self, fd: int) -> Session:
        vfs, plan, ledger = self._volume.vfs, self._plan, self._ledger
        negotiated = passfd.negotiated_of(self._inherited.setting, plan.session.max_write)
        if negotiated is None:
            raise Fatal("the connection that was handed over comes without what was agreed with the kernel")
        if ledger.device is None:  # from another supervisor; ours knows it, whatever is mounted on top by now
            self._note_device()
        session = Session(vfs, fd, plan.session, errno_of, negotiated, UnderWay(ledger.requests))
        session.before_serving = ledger.serves
        vfs.notifier = session.notifier
        backing.enable(vfs, session, plan.passthrough, ledger.device, heir=True)
        return session

    def _mount(self) -> Door:
        vfs, plan, ledger = self._volume.vfs, self._plan, self._ledger
        if self._job.values.text("fuse") == "pyfuse3":
            from juicefs_py.doors.pyfuse3 import PyFuse3Door

            return PyFuse3Door(
                vfs, self._job.mountpoint, plan.mount, plan.session.writeback_cache, plan.session.posix_acl
            )
        fd = mount(self._job.mountpoint, plan.mount)
        session = Session(vfs, fd, plan.session, errno_of, under_way=UnderWay(ledger.requests))

        def before_serving() -> None:
            backing.enable(vfs, session, plan.passthrough, ledger.device)
            self.lasts = self._give(session)
            ledger.serves()

        session.before_serving = before_serving
        return session

    def _note_device(self) -> None:
        found = find_mount(self._job.mountpoint)
        if found is not None:
            self._ledger.device = found.minor

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
