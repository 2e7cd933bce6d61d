"""The parent of the serving process: keeps the kernel's connection, starts a successor when its child dies or makes
room for one, forwards signals, and cleans up in the end.

It has one thread and no memory to speak of, so that it outlives whatever happens to its child. The connection to the
kernel is a descriptor of /dev/fuse: as long as somebody holds it, requests wait instead of failing. The supervisor
offers and takes it over a socket (`passfd`): its child gives it a copy as soon as the mount is served, the CSI driver
or the supervisor of a newer program may take it away. It never touches the mount itself, and never forks while it has
a file of it open.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final, NamedTuple

from juicefs_py.cli import log
from juicefs_py.ledger import Ledger
from juicefs_py.mount import passfd
from juicefs_py.mount.patience import Patience
from juicefs_py.mount.prepare import lazy_umount
from juicefs_py.mount.process import end_with, flush_streams
from juicefs_py.mount.program import Program
from juicefs_py.mount.readiness import look
from juicefs_py.mount.watchdog import ASK_EVERY_S, Watchdog

UNMOUNT_AND_STOP: Final = 11
"""Exit code of the serving process that asks for exactly that."""

HANDED_OVER: Final = 1
"""Exit code of the serving process that has made room for a successor."""

FORWARDED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_STOPPED: Final = 2
_LOOK_S: Final = 1.0
_MADE_ROOM: Final = "it has made room"


class Inheritance(NamedTuple):
    """What a serving process has from its supervisor. `fd` and `setting`: of a connection that was served before."""

    ledger: Ledger
    comm_path: str  # where it gives the descriptor of a new connection
    fd: int | None
    setting: bytes


class Supervisor:
    """Runs `serve(inheritance)` in a child until the mount ends for good."""

    def __init__(
        self, mountpoint: str, serve: Callable[[Inheritance], int], taken: passfd.Offer | None = None,
        *, prefixed: bool = False, driver: str = "",
    ) -> None:  # fmt: skip
        self.mountpoint = mountpoint
        self.comm_path = comm_path_of(os.getpid())
        self._serve = serve
        self._program = Program()
        self._ledger = Ledger()
        self._watchdog = Watchdog(mountpoint, prefixed, self._ledger)
        self._patience = Patience()
        self._child = 0
        self._killed = False  # the last one, by a signal
        self._said_why = False  # it has ended, by itself
        self._stopping = False
        self._driver = driver  # where a driver listens that keeps the connection for the next container
        self._kept = False  # it has a copy
        self._fd: int | None = None
        self._given_away = False
        self._setting = passfd.UNKNOWN
        if taken is not None:
            self._fd, self._setting = taken.fd, taken.setting

    def run(self) -> int:
        """Until the mount is gone; the exit code."""
        with self._listening() as listener, self._woken_by_signals() as woken:
            if self._driver:
                self._take_from(self._driver)
            return self._run(listener, woken)

    def _run(self, listener: socket.socket, woken: socket.socket) -> int:
        while True:
            before = self._ledger.served
            problem = self._start(listener, woken) or self._wait(listener, woken)
            if self._ledger.served > before:
                self._patience.served()
            if problem is None:
                return 0
            if self._given_away:
                log.LOG.info("the connection was handed over to another process")
                return 0
            if not self._ledger.served and self._fd is None:
                if self._ledger.device is not None:
                    lazy_umount(self.mountpoint, self._ledger.device)
                if not self._said_why and not self._stopping:
                    log.LOG.error("mount process %s", problem)
                return 1
            if self._stopping:
                return self._leave(_STOPPED, 0)
            if problem != _MADE_ROOM:
                pause_s = self._patience.after_failure(died=self._killed or self._ledger.served > before)
                if pause_s is None:
                    log.LOG.error("%s, give up", self._patience)
                    return self._leave(1, 1)
                when = f"in {pause_s:.0f} s" if pause_s else "now"
                log.LOG.error("mount process %s, will restart %s", problem, when)
                self._pause(pause_s, listener, woken)
            if self._fd is None and not self._given_away:
                lazy_umount(self.mountpoint, self._ledger.device)

    def _leave(self, kept: int, unmounted: int) -> int:
        """The end of the mount, unless the driver keeps the connection for the next container; the exit code."""
        if self._kept:
            return kept
        lazy_umount(self.mountpoint, self._ledger.device)
        return unmounted

    def _pause(self, pause_s: float, listener: socket.socket, woken: socket.socket) -> None:
        """Wait, but not for a successor that will not come."""
        deadline = time.monotonic() + pause_s
        while not (self._stopping or self._given_away) and (left_s := deadline - time.monotonic()) > 0:
            for ready in select.select([listener, woken], [], [], left_s)[0]:
                if ready is woken:
                    woken.recv(4096)
                else:
                    self._serve_socket(listener)

    # -- the child

    def _start(self, listener: socket.socket, woken: socket.socket) -> str:
        """Start a serving process. "" if there is one now; otherwise why not."""
        flush_streams()
        self._killed = self._said_why = False
        # A signal between fork and the child's own handlers must wait, or it would be handled as the supervisor's.
        signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
        try:
            if self._stopping or self._given_away:
                return "is not wanted any more"
            pid = os.fork()
            if pid == 0:
                listener.close()
                woken.close()
                end_with(self._be_child)
            self._child = pid
        except OSError as error:
            return f"cannot be started: {error.strerror}"
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        return ""

    def _be_child(self) -> int:
        signal.set_wakeup_fd(-1)
        for number in (*FORWARDED, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        if self._program.is_replaced():
            self._become_new_program()
        return self._serve(Inheritance(self._ledger, self.comm_path, self._fd, self._setting))

    def _become_new_program(self) -> None:
        log.LOG.info("the program was replaced, starting the new one")
        flush_streams()
        kept = None if self._fd is None else passfd.Offer(self._setting, self._fd)
        try:
            self._program.become(os.getppid(), self.comm_path, self._ledger, kept)
        except OSError as error:
            log.LOG.error("the new program cannot be started, the old one goes on: %s", error)

    def _wait(self, listener: socket.socket, woken: socket.socket) -> str | None:
        """Wait for the child, and serve the socket meanwhile; None if it ended well, otherwise what happened."""
        pid, made_room, served = self._child, self._ledger.made_room, self._ledger.served
        self._watchdog.forget()
        poll = select.poll()
        for source in (listener, woken):
            poll.register(source, select.POLLIN)
        while True:
            ended, status = os.waitpid(-1, os.WNOHANG)
            if ended == pid:
                break
            if ended:
                continue  # the watchdog's, which got no answer in time
            events = poll.poll(ASK_EVERY_S * 1000)
            if not events and self._ledger.served > served and self._fd is not None:
                self._watchdog.ask(pid)
            for ready, _ in events:
                if ready == woken.fileno():
                    woken.recv(4096)
                else:
                    self._serve_socket(listener)
        self._child = 0
        if self._ledger.served > served:
            self._ledger.ended = int(time.time())
        while select.select([listener], [], [], 0)[0]:  # given in the last moment
            self._serve_socket(listener)
        code = os.waitstatus_to_exitcode(status)
        self._killed, self._said_why = code < 0, code > 0
        if code == UNMOUNT_AND_STOP:
            log.LOG.error("received umount exit code")
            lazy_umount(self.mountpoint, self._ledger.device)
            return None
        if code == 0:
            self._clear_dead_mount()
            return None
        if self._ledger.made_room > made_room or code == -signal.SIGHUP:  # by the signal: asked while it began
            log.LOG.info("mount process %d has made room, starting the next one", pid)
            return _MADE_ROOM
        return f"{pid}: " + (f"signal: {_signal_name(-code)}" if code < 0 else f"exit status {code}")

    def _clear_dead_mount(self) -> None:
        """If the connection was aborted, the mount is still there, and fails for everybody."""
        device = self._ledger.device
        if device is not None and not self._given_away and look(self.mountpoint, _LOOK_S).error == errno.ENOTCONN:
            lazy_umount(self.mountpoint, device)

    # -- the descriptor

    @contextlib.contextmanager
    def _listening(self) -> Iterator[socket.socket]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as listener:
            try:
                _bind(listener, self.comm_path)
            except OSError as error:  # somebody else has taken the usual place
                usual, self.comm_path = (
                    self.comm_path,
                    os.path.join(tempfile.mkdtemp(prefix="juicefs-"), "fuse_fd_comm"),
                )
                log.LOG.warning("%s: %s; listening on %s instead", usual, error.strerror, self.comm_path)
                _bind(listener, self.comm_path)
            listener.listen(8)
            try:
                yield listener
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(self.comm_path)

    def _serve_socket(self, listener: socket.socket) -> None:
        """One exchange as a server. A partner that misbehaves or is late concerns nobody else."""
        try:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(passfd.PATIENCE_S)
                self._exchange(connection)
        except OSError as error:
            log.LOG.warning("exchange on %s: %s", self.comm_path, error)

    def _exchange(self, connection: socket.socket) -> None:
        with passfd.dummy() as standin:
            fd = self._fd
            passfd.send(connection, self._setting, [standin] if fd is None else [standin, fd])
        if fd is not None:
            os.close(fd)
            self._fd, self._given_away = None, True
        setting, fds = passfd.receive(connection, 1)
        if setting != passfd.CLOSE and self._fd is None and len(fds) == 1:
            self._adopt(fds[0], setting)
        else:
            for extra in fds:
                os.close(extra)

    def _adopt(self, fd: int, setting: bytes) -> None:
        self._fd, self._setting, self._given_away = fd, setting, False
        if self._driver:
            try:
                self._kept |= passfd.give(self._driver, setting, fd)
            except OSError as error:
                log.LOG.warning("the driver at %s did not take the connection: %s", self._driver, error)

    def _take_from(self, path: str) -> None:
        """Go on with a connection that somebody has kept."""
        try:
            offer = passfd.take(path)
        except OSError as error:
            log.LOG.warning("cannot take a connection from %s: %s", path, error)
            return
        if offer is not None and offer.fd is not None:
            self._adopt(offer.fd, offer.setting)  # the driver gets a copy back: it has given its own away

    # -- signals

    @contextlib.contextmanager
    def _woken_by_signals(self) -> Iterator[socket.socket]:
        reading, writing = socket.socketpair()
        with reading, writing:
            writing.setblocking(False)
            for number in FORWARDED:
                signal.signal(number, self._forward)
            signal.signal(signal.SIGCHLD, lambda number, frame: None)
            signal.set_wakeup_fd(writing.fileno())
            signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)  # as they came meanwhile
            try:
                yield reading
            finally:
                signal.set_wakeup_fd(-1)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGHUP:
            self._stopping = True
            if self._kept:
                number = signal.SIGHUP  # whoever uses the mount goes on with the next container
        if self._child:  # otherwise whoever would start one sees it
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, number)


def _bind(listener: socket.socket, path: str) -> None:
    """For nobody but us."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    mask = os.umask(0o077)
    try:
        listener.bind(path)
    finally:
        os.umask(mask)


def comm_path_of(pid: int) -> str:
    """Where the supervisor of this number listens, in its own file system."""
    return f"/tmp/fuse_fd_comm.{pid}"


def _signal_name(number: int) -> str:
    """Real-time signals have no name of their own."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
