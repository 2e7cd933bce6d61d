"""Taking over from a process that was killed where the kernel does not send its requests again (Linux before 6.9).

The kernel here may do so; the client is kept from asking for it.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest
from handover_work import Crew
from mounts import REPOSITORY, Mount, Volume
from needs import need_fuse
from test_handover import EXPECTED, config_of, served_by, wait_until

from fuse.under_way import SLOTS, UNKNOWN, WORDS, UnderWay

LOOKUP, GETATTR, READ, WRITE = 1, 3, 15, 16
NO_RESEND = "import fuse.abi\nfuse.abi.FUSE_HAS_RESEND = 0\n"


def words() -> memoryview:
    return memoryview(array("Q", bytes(8 * WORDS)))


def test_what_is_under_way_is_noted() -> None:
    shared = words()
    notes = UnderWay(shared)
    first, second, third = notes.slot(), notes.slot(), notes.slot()
    notes.begin(first, 5000, LOOKUP, 1)
    notes.begin(second, 5002, WRITE, 1 << 56)
    notes.begin(third, 9000, READ, 7)
    notes.end(third)
    lost = UnderWay(shared).take_lost()
    assert lost[5000] == (LOOKUP, 1) and lost[5002] == (WRITE, 0)
    others = lost.keys() - {5000, 5002}
    assert others == set(range(9000 - 1024, 9000 + 1024, 2)) and not any(any(lost[other]) for other in others)
    assert not any(unique & 1 for unique in lost)
    assert UnderWay(shared).take_lost() == {}


def test_slots_are_bounded_and_used_again() -> None:
    notes = UnderWay(words())
    slots = [notes.slot() for _ in range(SLOTS)]
    assert sorted(slots) == list(range(0, WORDS, 2))
    assert notes.slot() == -1
    notes.begin(-1, 2, READ, 1)
    notes.end(-1)
    notes.leave(-1)
    notes.leave(slots[7])
    assert notes.slot() == slots[7]
    assert notes.take_lost() == {}


def test_an_early_end() -> None:
    notes = UnderWay(words())
    notes.begin(notes.slot(), 4, GETATTR, (1 << 56) - 1)
    lost = notes.take_lost()
    assert lost[4] == (GETATTR, (1 << 56) - 1) and lost[2] == (UNKNOWN, 0) and 0 not in lost


@pytest.fixture
def mount(scratch: Path) -> Iterator[Mount]:
    need_fuse()
    site = scratch / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(NO_RESEND)
    # Without the kernel's caches, so that there is always a request under way.
    options = ("--entry-cache", "0", "--dir-entry-cache", "0", "--attr-cache", "0")
    made = Mount(Volume(scratch / "vol").format(), scratch / "mnt", options, expected=list(EXPECTED))
    made.more_environment = {"PYTHONPATH": f"{site}:{REPOSITORY}"}
    made.start()
    try:
        yield made
        if made.process is not None and made.process.poll() is None:
            made.stop()
    finally:
        if made.process is not None and made.process.poll() is None:
            made.kill()


def replace(mount: Mount, number: signal.Signals) -> None:
    pid = config_of(mount.path)["Pid"]
    os.kill(pid, number)
    wait_until(lambda: served_by(mount.path) not in (None, pid), "another process serves")


@pytest.mark.timeout(120)
def test_paths_are_followed_again(mount: Mount) -> None:
    """Nobody hangs, and who only looks names up or reads does not even notice."""
    crew = Crew(mount.path, ("paths", "paths2", "reader", "locks"))
    try:
        for _ in range(3):
            time.sleep(0.5)
            replace(mount, signal.SIGKILL)
            time.sleep(5.2)  # three deaths within ten seconds are given up
        done = crew.leave()
    finally:
        crew.kill()
    assert len(done) == 4 and all(one["steps"] for one in done.values()), done


@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_a_wait_for_a_lock_fails(mount: Mount, number: signal.Signals) -> None:
    """It is long ago that the request was read, and others came since."""
    path = mount.path / "f"
    path.touch()
    holder = subprocess.Popen(["flock", str(path), "sleep", "8"])
    time.sleep(0.5)
    script = "import ctypes, os, sys\nlibc = ctypes.CDLL(None, use_errno=True)\n" \
        "fd = os.open(sys.argv[1], os.O_RDONLY)\nprint(libc.flock(fd, 2), ctypes.get_errno())\nos._exit(0)"  # fmt: skip
    waiter = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True)
    time.sleep(0.5)
    for _ in range(700):
        os.statvfs(mount.path)
    replace(mount, number)
    assert waiter.communicate(timeout=3)[0] == f"-1 {errno.EAGAIN}\n"
    assert holder.wait(20) == 0
