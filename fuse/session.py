"""A served connection: requests in, calls of `Operations`, replies out. Start here after `operations`.

Not here: mounting (mount), which thread reads (pool), what an opcode looks like (opcodes). The life of a session: `run`
answers INIT (unless given what a predecessor agreed), serves until the file system is unmounted or `stop` is called,
and waits for the requests under way. A request always gets an answer: an exception becomes an errno, an unknown one EIO
with a traceback in the log. A malformed request fails alone.

Interrupts: the kernel sends INTERRUPT with the number of a request. If a thread serves that request, its `Caller` is
marked and woken. If none does, the request was read but is not registered yet, or it is finished: EAGAIN makes the
kernel ask again, and forget it if the request is gone. A request that nobody serves after many rounds was lost with a
predecessor: it gets EINTR.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import threading
import time
from collections.abc import Callable
from time import perf_counter
from typing import Any

from fuse import abi, handlers, opcodes, trace
from fuse.config import SessionConfig
from fuse.device import Device
from fuse.errors import FuseError, MalformedRequest, SessionEnded
from fuse.handshake import Negotiated, negotiate, other_major
from fuse.nodes import ALIAS, inode_of
from fuse.notify import Notifier
from fuse.operations import Caller, Operations
from fuse.pool import Pool, Worker
from fuse.reply import Payload
from fuse.under_way import UnderWay

log = logging.getLogger(__name__)

_HEADER = abi.fuse_in_header.size
_REPLY_HEADER = abi.fuse_out_header.size
_unpack_header = abi.fuse_in_header.unpack_from
_pack_reply = abi.fuse_out_header.pack
_GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.ECONNABORTED, errno.EBADF})  # nobody waits for the reply any more
_PATIENT_ROUNDS = 3
_LOST_AFTER = 100  # rounds of an INTERRUPT that nobody claims
_TRIED_ALONE = 16  # of so many requests of a slow opcode one is served without handing over
_SMALLEST_BUFFER = 132 << 10  # the largest xattr value (64 KiB) must fit even when max_write is small


class Session:
    """Serves `operations` on the descriptor `fd` of a mount. `errno_of` translates the file system's exceptions."""

    def __init__(
        self,
        operations: Operations,
        fd: int,
        config: SessionConfig | None = None,
        errno_of: Callable[[BaseException], int | None] = lambda error: None,
        negotiated: Negotiated | None = None,
        under_way: UnderWay | None = None,
    ) -> None:
        self.operations = operations
        self.config = config or SessionConfig()
        self.device = Device(fd)
        self.notifier = Notifier(self.device)
        self.negotiated = negotiated
        self._resumed = negotiated is not None
        self._notes = under_way  # only if the kernel sends no request again
        self.before_serving: Callable[[], None] = lambda: None  # called when INIT is answered, before any request is
        self.ready = threading.Event()  # INIT is answered, requests are served
        self.unmounted = False
        self._errno_of = errno_of
        self._checked = self.config.default_permissions
        self._debug = self.config.debug
        self._routes = {row.opcode: _route(row) for row in opcodes.ROWS} | self._own_routes()
        self._average_s = [0.0] * (1 + max(self._routes))
        self._slow_s = self.config.slow_us / 1e6
        self._turns = [0] * len(self._average_s)
        self._longest_s = 10 * self._slow_s  # so that one slow request does not count for long
        self._left: frozenset[int] = frozenset()  # requests that get no answer if they are interrupted
        self._unclaimed: dict[int, int] = {}
        self._pool: Pool | None = None
        self._stopping = False

    def _own_routes(self) -> dict[int, Route]:
        own: dict[int, Callable[..., Any]] = {
            opcodes.FUSE_INTERRUPT: self._interrupt,
            opcodes.FUSE_SETLKW: self._wait_for_lock,
        }
        return {number: _route(opcodes.BY_OPCODE[number], handler) for number, handler in own.items()}

    # -- the life of the session

    def run(self) -> None:
        """Serve until unmounted or stopped. Raises UnsupportedKernel, or the OSError that broke the device.

        The descriptor stays open: it is the caller's. `unmounted` tells which end it was.
        """
        try:
            if self.negotiated is None:
                self.negotiated = self._answer_init()
            if self.negotiated is not None:
                self._run_pool(self.negotiated)
        except SessionEnded:
            self.unmounted = True
        finally:
            self.device.close()
        if self.unmounted:
            self.operations.destroy()

    def _run_pool(self, negotiated: Negotiated) -> None:
        if negotiated.has(abi.FUSE_HAS_RESEND):
            self._notes = None
        self.before_serving()
        if self._resumed:
            self._see_to_lost_requests()
        buffer_size = max(_SMALLEST_BUFFER, negotiated.max_write + 4096)
        pool = self._pool = Pool(self._serve, self.config, buffer_size, self._notes)
        self.ready.set()
        if self._stopping:
            return
        pool.start()
        pool.oversee()
        pool.join()
        if pool.failure is not None:
            raise pool.failure

    def _see_to_lost_requests(self) -> None:
        """What a predecessor has read and not answered: it comes again, or fails now."""
        if self._notes is None:
            self.notifier.resend()
            return
        for unique, (opcode, node) in self._notes.take_lost().items():
            if opcode == opcodes.FUSE_GETATTR and node:
                self._answer_attributes(unique, node)
            else:
                self._send_error(unique, _of_a_lost_request(opcode))

    def _answer_attributes(self, unique: int, node: int) -> None:
        """Nothing else is asked for; and a read asks for them on its way, which on ESTALE would not be tried again."""
        caller = Caller(0, 0, 0, unique, self._checked, node)
        route = self._routes[opcodes.FUSE_GETATTR]
        try:
            self._call(route, caller, inode_of(node), memoryview(bytes(route[2])))
        except BaseException as error:  # somebody waits for an answer
            self._fail(route, caller, error)

    def gets_on(self) -> bool:
        """Whether anything was done since the last call, or requests wait because all threads are at work.

        Neither says that something is wrong: there may be no requests.
        """
        return self._pool is not None and self._pool.gets_on()

    def stop(self) -> None:
        """Read no more requests; those under way are answered, those unread stay with the kernel for a successor."""
        self._stopping = True
        if self._pool is not None:
            self._pool.stop()
        self.device.wake()

    def leave_rest(self) -> None:
        """After `stop`: interrupt the requests that are still under way. A successor sees to them."""
        callers = self._pool.under_way() if self._pool is not None else []
        self._left = frozenset(caller.unique for caller in callers)
        for caller in callers:
            caller.interrupt()

    def _answer_init(self) -> Negotiated | None:
        """None if stopped before INIT came."""
        buffer = bytearray(_SMALLEST_BUFFER)
        while True:
            message = bytes(buffer[: self.device.read((buffer,))])
            if not message:
                return None
            _, opcode, unique, *_ = abi.fuse_in_header.unpack_from(message)
            if opcode != opcodes.FUSE_INIT:
                self._send_error(unique, errno.EIO)
                continue
            reply = other_major(message)
            if reply is not None:
                self._send(unique, reply)
                continue
            try:
                negotiated, reply = negotiate(message, self.config)
            except FuseError:
                self._send_error(unique, errno.EPROTO)
                raise
            self._send(unique, reply)
            log.debug("FUSE 7.%d, flags %#x, max_write %d", negotiated.minor, negotiated.flags, negotiated.max_write)
            return negotiated

    # -- requests

    def _serve(self, worker: Worker) -> None:
        """Read and answer requests as long as the pool wants this thread to."""
        pool = self._pool
        assert pool is not None
        read, buffer = self.device.read, worker.buffer
        while True:
            try:
                length = read(buffer)
            except SessionEnded:
                self.unmounted = True
                pool.stop()
                return
            if length == 0:
                return
            worker.started = perf_counter()
            if pool.asleep:
                pool.wake()
            self._answer(pool, worker, length)
            if pool.leader is not worker and not pool.keep_reading(worker):
                return

    def _answer(self, pool: Pool, worker: Worker, length: int) -> None:
        """One request from its bytes to its reply, with the book-keeping of who waits how long."""
        _, opcode, unique, node, uid, gid, pid, extensions, _ = _unpack_header(worker.view)
        route = self._routes.get(opcode)
        if route is None or length < _HEADER:
            log.warning("opcode %d is unknown", opcode)
            self._send_error(unique, errno.ENOSYS)
            worker.started = 0.0
            return
        average_s = self._average_s[opcode]
        alone = average_s <= self._slow_s or self._take_turn(opcode) == 0
        if not alone:
            pool.hand_over(worker)
        caller = worker.caller = Caller(uid, gid, pid, unique, self._checked, node)
        notes = self._notes
        if notes is not None:
            notes.begin(worker.slot, unique, opcode, node)
        try:
            self._call(route, caller, node if node < ALIAS else inode_of(node), worker.view[: length - 8 * extensions])
        except BaseException as error:  # whatever happens, somebody waits for an answer
            self._fail(route, caller, error)
        if notes is not None and unique not in self._left:
            notes.end(worker.slot)
        ended = worker.ended = perf_counter()
        taken_s = min(ended - worker.started, self._longest_s)
        worker.started = 0.0
        if alone:
            self._average_s[opcode] = average_s + (taken_s - average_s) * 0.125

    def _take_turn(self, opcode: int) -> int:
        """Requests of a slow opcode that came since the last one that was served alone, to see if it still is slow."""
        turn = self._turns[opcode] = (self._turns[opcode] + 1) % _TRIED_ALONE
        return turn

    def _call(self, route: Route, caller: Caller, node: int, message: memoryview) -> None:
        row, unpack, start, carries, handler, encode = route
        if len(message) < start:
            raise MalformedRequest(f"{row.name} of {len(message)} bytes")
        fields = unpack(message, _HEADER)
        carried = carries(message[start:])
        if self._debug:
            log.debug(trace.received(row, caller, node, fields, carried))
        result = handler(self.operations, caller, node, fields, carried)
        if encode is not None:
            self._send(caller.unique, encode(result))
            if self._debug:
                log.debug(trace.answered(row, caller, result))

    def _fail(self, route: Route, caller: Caller, error: BaseException) -> None:
        row = route[0]
        number = self._errno(error)
        if number == 0:
            log.error("%s failed: unexpected error", row.name, exc_info=error)
            number = errno.EIO
        if number == errno.ENOENT and row.opcode in opcodes.OF_AN_INODE:
            number = errno.ESTALE  # on which the kernel follows the path once more, without its cache
        if number == errno.EINTR and caller.unique in self._left:
            return
        if self._debug:
            log.debug(trace.failed(row, caller, number, error))
        if row.encode is not None:
            self._send_error(caller.unique, number)

    def _errno(self, error: BaseException) -> int:
        """The errno that an exception stands for; 0 if none."""
        number = self._errno_of(error)
        if number is None and isinstance(error, OSError | MalformedRequest):
            number = error.errno
        return number if number is not None and 0 < number < 512 else 0

    # -- replies

    def _send(self, unique: int, payload: Payload) -> None:
        try:
            if isinstance(payload, bytes):
                self.device.send(_pack_reply(_REPLY_HEADER + len(payload), 0, unique) + payload)
            else:
                length = _REPLY_HEADER + sum(len(part) for part in payload)
                self.device.write([_pack_reply(length, 0, unique), *payload])
        except OSError as error:
            self._not_sent(unique, error)

    def _send_error(self, unique: int, number: int) -> bool:
        """False if the request is gone."""
        try:
            self.device.write([_pack_reply(_REPLY_HEADER, -number, unique)])
        except OSError as error:
            if error.errno not in _GONE:
                log.error("cannot answer request %d: %s", unique, error)
            return False
        return True

    def _not_sent(self, unique: int, error: OSError) -> None:
        if error.errno not in _GONE:  # the kernel refused the reply, so the request is still waiting
            log.error("the kernel refused the reply to request %d: %s", unique, error)
            self._send_error(unique, errno.EIO)

    # -- requests that concern the session

    def _interrupt(self, fs: Operations, caller: Caller, node: int, fields: tuple[int], carried: None) -> None:
        unique = fields[0]
        assert self._pool is not None
        if self._pool.interrupt(unique):
            self._unclaimed.pop(unique, None)
            return
        rounds = self._unclaimed.get(unique, 0) + 1
        if rounds > _PATIENT_ROUNDS:
            time.sleep(0.001)
        if rounds < _LOST_AFTER and self._send_error(caller.unique, errno.EAGAIN):
            self._unclaimed[unique] = rounds
            return
        self._unclaimed.pop(unique, None)
        if rounds >= _LOST_AFTER:
            self._send_error(unique, errno.EINTR)

    def _wait_for_lock(self, fs: Operations, caller: Caller, node: int, fields: tuple[int, ...], _: None) -> None:
        """SETLKW. flock(LOCK_UN) comes this way too: giving up a lock is never refused."""
        assert self._pool is not None
        if fields[4] == fcntl.F_UNLCK:
            handlers.setlkw(fs, caller, node, fields, None)
            return
        if not self._pool.begin_lock_wait(caller):
            raise OSError(errno.ENOLCK, "too many requests wait for locks")
        try:
            handlers.setlkw(fs, caller, node, fields, None)
        finally:
            self._pool.end_lock_wait()


Route = tuple[
    opcodes.Row,
    Callable[[memoryview, int], tuple[Any, ...]],  # the fixed struct
    int,  # where what it carries starts
    Callable[[memoryview], Any],
    opcodes.Handler,
    Callable[[Any], Payload] | None,
]


def _route(row: opcodes.Row, handler: opcodes.Handler | None = None) -> Route:
    """A row unfolded into what the hot path needs."""
    start = _HEADER + row.struct.size
    return row, row.struct.unpack_from, start, row.carries, handler or row.handler, row.encode


def _of_a_lost_request(opcode: int) -> int:
    """What to answer when nobody knows any more what was asked."""
    if opcode in opcodes.FOLLOWED_AGAIN:
        return errno.ESTALE
    if opcode in (opcodes.FUSE_SETLK, opcodes.FUSE_SETLKW):
        return errno.EAGAIN  # EINTR would restart the call, but there is no signal that does: users would see errno 512
    return errno.EINTR
