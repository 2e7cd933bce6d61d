"""The supervisor alone: its children are scripted, and there is no mount.

What real serving processes make of it is in `test_handover`.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from concurrent import futures
from pathlib import Path

import pytest
from test_handover import Driver

from juicefs_py.cli import log
from juicefs_py.mount import passfd, patience, supervisor
from juicefs_py.mount.patience import Patience
from juicefs_py.mount.process import end_with
from juicefs_py.mount.supervisor import FORWARDED, Inheritance, Supervisor

Serve = Callable[[Inheritance, int], int]


class Stage:
    """Supervisors in processes of their own, and what they did."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "log"
        self.log.touch()

    def note(self, what: str) -> None:
        with self.log.open("a") as log:
            log.write(what + "\n")

    def noted(self) -> list[str]:
        return self.log.read_text().split()

    def start(self, serve: Serve, driver: str = "") -> int:
        """`serve(inherited, number of the child)`; the process."""

        def numbered(inherited: Inheritance) -> int:
            self.note("started")
            return serve(inherited, self.noted().count("started"))

        child = os.fork()
        if not child:
            told = Supervisor(str(self.directory), numbered, driver=driver)
            told.comm_path = str(self.directory / "comm")
            os._exit(told.run())
        return child

    def wait_for(self, what: str, times: int = 1) -> None:
        deadline = time.monotonic() + 20
        while self.noted().count(what) < times:
            assert time.monotonic() < deadline, self.noted()
            time.sleep(0.01)


def code_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    made = Stage(tmp_path)
    monkeypatch.setattr(supervisor, "lazy_umount", lambda *_: made.note("unmounted"))
    monkeypatch.setattr(patience, "_PAUSE_S", 0.02)
    return made


def serves(inherited: Inheritance) -> None:
    """Mount, the first time, and begin to serve."""
    if inherited.fd is None:
        fd = os.open("/dev/null", os.O_RDONLY)
        assert passfd.give(inherited.comm_path, b"setting", fd)
        os.close(fd)
    inherited.ledger.serves()


def test_making_room_is_no_failure(stage: Stage) -> None:
    """However often within ten seconds."""

    def serve(inherited: Inheritance, number: int) -> int:
        serves(inherited)
        if number == 6:
            return 0
        if number == 3:  # while it began
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGHUP)
        inherited.ledger.makes_room()
        return 1

    assert code_of(stage.start(serve)) == 0
    assert stage.noted() == ["started"] * 6


def test_a_successor_that_cannot_begin_is_tried_again(stage: Stage) -> None:
    """The database is away, say: requests wait in the kernel, and nobody takes the mount from under them."""

    def serve(inherited: Inheritance, number: int) -> int:
        if 2 <= number <= 5:
            assert inherited.fd is not None
            return 1
        serves(inherited)
        return 1 if number == 1 else 0

    assert code_of(stage.start(serve)) == 0
    assert stage.noted() == ["started"] * 6


def test_patience_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    told = Patience()
    pauses = []
    while (pause := told.after_failure(died=False)) is not None:
        pauses.append(pause)
        now[0] += pause + 1
    assert pauses[:6] == [1, 2, 4, 8, 16, 30] and max(pauses) == 30
    assert now[0] - 1000 > 300
    assert "could begin for" in str(told)
    told.served()
    now[0] += 86400
    assert told.after_failure(died=False) == 1, "a day later that is forgotten"
    assert told.after_failure(died=True) == 0  # one did begin: that is another failure
    now[0] += 5
    assert told.after_failure(died=True) == 1
    now[0] += 4
    assert told.after_failure(died=True) is None
    assert str(told) == "fail 3 times in 9 s"


@pytest.mark.parametrize("driver", ["none", "away", "there"])
def test_a_driver_keeps_what_is_given_up(stage: Stage, driver: str) -> None:
    """The next container goes on with the connection, so the mount stays; unless the driver has no copy."""
    path = stage.directory / "driver"
    keeper = Driver(path) if driver == "there" else None

    def serve(inherited: Inheritance, number: int) -> int:
        serves(inherited)
        return 1

    try:
        assert code_of(stage.start(serve, "" if driver == "none" else str(path))) == 1
        assert stage.noted() == ["started"] * 3 + ["unmounted"] * (driver != "there")
    finally:
        if keeper is not None:
            keeper.end()


def test_a_signal_while_the_driver_is_asked(stage: Stage) -> None:
    """What was taken from it, it has again when the supervisor ends."""
    keeper = Driver(stage.directory / "driver")
    fd = os.open("/dev/null", os.O_RDONLY)
    passfd.give(str(keeper.path), b"setting", fd)
    os.close(fd)
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    try:
        child = stage.start(lambda *_: 1, str(keeper.path))
        os.kill(child, signal.SIGTERM)  # before it has any handler
        assert code_of(child) == 2
        assert keeper.fd is not None
        assert stage.noted() == []
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        keeper.end()


def test_a_first_child_that_is_killed_is_told(stage: Stage, capfd: pytest.CaptureFixture[str]) -> None:
    """One that ended by itself has said why, and a second word would hide the first."""
    log.set_up()

    def killed(inherited: Inheritance, number: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    assert code_of(stage.start(killed)) == 1
    assert "signal: SIGKILL" in capfd.readouterr().err
    assert code_of(stage.start(lambda *_: 1)) == 1
    assert capfd.readouterr().err == ""
    assert stage.noted() == ["started"] * 2


def test_a_child_ends_whatever_its_threads_do(tmp_path: Path) -> None:
    """A pool's threads are waited for by an ordinary exit: one that hangs would keep the successor from beginning."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:

        def work() -> int:
            futures.ThreadPoolExecutor(1).submit(os.read, reading, 1)
            return 7

        end_with(work)
    try:
        deadline = time.monotonic() + 10
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
            assert time.monotonic() < deadline, "it waits"
            time.sleep(0.02)
        assert os.waitstatus_to_exitcode(ended[1]) == 7
    finally:
        os.close(writing)
        os.close(reading)


def test_a_signal_between_two_children_is_heard(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_PAUSE_S", 20.0)

    def serve(inherited: Inheritance, number: int) -> int:
        if number == 1:
            serves(inherited)
        else:
            stage.note("failed")
        return 1

    child = stage.start(serve)
    stage.wait_for("failed")
    time.sleep(0.2)
    begun = time.monotonic()
    os.kill(child, signal.SIGTERM)
    assert code_of(child) == 0
    assert time.monotonic() - begun < 10
    assert stage.noted()[-1] == "unmounted"


def test_no_process_for_a_while(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    fork, calls = os.fork, [0]

    def scarce() -> int:
        calls[0] += 1
        if 3 <= calls[0] <= 6:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return fork()

    def serve(inherited: Inheritance, number: int) -> int:
        serves(inherited)
        return 1 if number == 1 else 0

    monkeypatch.setattr(os, "fork", scarce)
    assert code_of(stage.start(serve)) == 0
    assert stage.noted() == ["started"] * 2
