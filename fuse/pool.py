"""The threads that serve a session: who reads the device next. Not here: what a request is (session).

One thread, the leader, waits in read(2) on the device, serves the request it gets and reads on; for requests answered
from memory that is faster than any hand-over, because a second Python thread only fights for the interpreter and the
caches. Three things give the leader's role to another thread:

- an opcode that lately took longer than `blocking_us` on average (I/O, the copy of a large payload), or longer than
  `slow_us` while another request waits: the role is handed over before the request is served, so that such requests run
  side by side from the start;
- the overseer, a thread that looks every `rescue_ms` while there is work, finds the leader inside one request for
  longer than that: it blocked unexpectedly (a lock, a slow disk);
- the leader leaves.

A thread that finds another leader when it has finished its request parks, last in first out, and leaves after
`idle_thread_s`. Invariants: `leader` changes under `_lock` only; a worker reads the device only as the leader, except
that a worker that finishes in the very moment it is replaced may read once more (two readers are harmless, none would
not be).

Measured on two cores, stat of a file in memory (us of server CPU time per call, one caller / four callers): this design
16 / 19; a semaphore around the read, which hands over at every request, 94 / 92; two threads in plain reads 56 / 33;
four 44 / 56. A stat over Redis on the same machine: 150 us of CPU with a hand-over each, 55 without.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import perf_counter

from fuse.config import SessionConfig
from fuse.operations import Caller
from fuse.under_way import UnderWay

log = logging.getLogger(__name__)

_QUIET_S = 0.05  # without a request for so long, the overseer sleeps until the next one
_LONGEST_SLEEP_S = 1.0  # and looks again by itself at the latest after this


class Worker:
    """A serving thread with its own request buffer. `started` is 0 while it waits for a request."""

    __slots__ = ("buffer", "caller", "ended", "gate", "slot", "started", "view")

    def __init__(self, buffer_size: int, slot: int) -> None:
        self.buffer = (bytearray(buffer_size),)
        self.view = memoryview(self.buffer[0])
        self.caller: Caller | None = None
        self.slot = slot
        self.started = 0.0
        self.ended = 0.0
        self.gate = threading.Lock()
        self.gate.acquire()


class Pool:
    """`serve(worker)` must read and answer requests until `keep_reading(worker)` is False."""

    def __init__(
        self, serve: Callable[[Worker], None], config: SessionConfig, buffer_size: int, notes: UnderWay | None = None
    ) -> None:
        self.leader: Worker | None = None
        self.asleep = False
        self.stopping = False
        self.failure: BaseException | None = None
        self._serve = serve
        self._config = config
        self._buffer_size = buffer_size
        self._notes = notes
        self._lock = threading.Lock()
        self._workers: set[Worker] = set()
        self._parked: list[Worker] = []
        self._lock_waits = 0
        self._seen: set[tuple[float, float]] = set()
        self._changed = threading.Event()  # wakes the overseer
        self._empty = threading.Condition(self._lock)

    @property
    def threads(self) -> int:
        """How many threads there are now, parked ones included."""
        return len(self._workers)

    def start(self) -> None:
        """Start the first thread."""
        with self._lock:
            self._appoint()

    def hand_over(self, worker: Worker) -> None:
        """Let another thread read on, if `worker` is the leader and the bound allows it."""
        with self._lock:
            if self.leader is worker and not self.stopping:
                self._appoint()

    def _appoint(self) -> None:
        """Make a parked or new worker the leader; at the bound there is none until somebody finishes."""
        self.leader = None
        if self._parked:
            self.leader = self._parked.pop()
            self.leader.gate.release()
        elif len(self._workers) - self._lock_waits < self._config.max_threads:
            slot = self._notes.slot() if self._notes else -1
            worker = self.leader = Worker(self._buffer_size, slot)  # before it runs: it compares itself with `leader`
            self._workers.add(worker)
            try:
                threading.Thread(target=self._run, args=(worker,), name="fuse", daemon=True).start()
            except RuntimeError as error:  # no more threads from the system: as if the bound were reached
                log.warning("cannot start a thread: %s", error)
                self._forget(worker)
                self.leader = None

    def _run(self, worker: Worker) -> None:
        try:
            self._serve(worker)
        except BaseException as error:  # a dying thread must end the session, not leave it without a reader
            self.failure = error
            self.stop()
        finally:
            with self._lock:
                self._forget(worker)
                if self.leader is worker and not self.stopping:
                    self._appoint()
                self._empty.notify_all()

    def _forget(self, worker: Worker) -> None:
        self._workers.discard(worker)
        if self._notes:
            self._notes.leave(worker.slot)

    def keep_reading(self, worker: Worker) -> bool:
        """For a worker that is no longer the leader: wait to become it again. False: the thread is to end."""
        with self._lock:
            if self.stopping:
                return False
            if self.leader in (None, worker):
                self.leader = worker
                return True
            worker.caller = None
            self._parked.append(worker)
        if worker.gate.acquire(timeout=self._config.idle_thread_s):
            return not self.stopping
        with self._lock:
            if worker in self._parked:
                self._parked.remove(worker)
                return False
        worker.gate.acquire()  # appointed, or told to stop, in the moment of the timeout
        return not self.stopping

    def begin_lock_wait(self, caller: Caller) -> bool:
        """Count a request that waits for a lock: it does not use up the bound. False if too many wait already.

        Its thread reads no more for now, and there may be room for one again that does: if the bound was reached
        before this was counted, nobody reads.
        """
        with self._lock:
            if self._lock_waits >= self._config.max_lock_waits:
                return False
            self._lock_waits += 1
            if self._workers and not self.stopping and (self.leader is None or self.leader.caller is caller):
                self._appoint()
            return True

    def end_lock_wait(self) -> None:
        with self._lock:
            self._lock_waits -= 1

    def interrupt(self, unique: int) -> bool:
        """Interrupt the request `unique`; False if no thread is serving it."""
        for caller in self.under_way():
            if caller.unique == unique:
                caller.interrupt()
                return True
        return False

    def under_way(self) -> list[Caller]:
        """Who waits for the requests that are being served, and maybe for some that are answered by now."""
        with self._lock:
            return [worker.caller for worker in self._workers if worker.caller is not None]

    def gets_on(self) -> bool:
        """Whether a request was begun or ended since the last call, or none can be read: all threads are at work."""
        with self._lock:
            seen, self._seen = self._seen, {(worker.started, worker.ended) for worker in self._workers}
            return (self.leader is None and bool(self._workers)) or seen != self._seen

    def wake(self) -> None:
        """Called by the leader when it gets a request and sees `asleep`."""
        self.asleep = False
        self._changed.set()

    def oversee(self) -> None:
        """Replace a leader that blocks, until `stop`. Runs in a thread of its own."""
        patience = self._config.rescue_ms / 1000
        while not self.stopping:
            leader = self.leader
            now = perf_counter()
            pause = patience
            if leader is not None and leader.started:
                if now - leader.started >= patience:
                    self.hand_over(leader)
            elif leader is not None and now - leader.ended > _QUIET_S:
                self.asleep = True
                if not leader.started:  # it looks at `asleep` after it sets `started`
                    pause = _LONGEST_SLEEP_S
            self._changed.wait(pause)
            self._changed.clear()
        self.asleep = False

    def stop(self) -> None:
        """Nobody reads again: parked threads end now, others when their request or their read is finished."""
        with self._lock:
            self.stopping = True
            self.leader = None
            parked, self._parked = self._parked, []
        for worker in parked:
            worker.gate.release()
        self._changed.set()

    def join(self) -> None:
        """Wait until the last thread has ended."""
        with self._empty:
            self._empty.wait_for(lambda: not self._workers)
