"""What may go wrong in a hand-over: who dies of an error, what is still owed, notes of other versions, two at once.

The hand-over that goes well is in `test_handover`; the supervisor alone in `test_supervisor`.
"""

from __future__ import annotations

import array
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from mounts import PROGRAM, Mount, Volume, abort, environment, fuse_device, juicefs, lazy_unmount
from needs import need_fuse
from test_handover import config_of, served_by, wait_until
from test_vfs_faults import Faulty
from vfs_harness import Client, File, World, errno_from, quick, world

from fuse.config import SessionConfig
from fuse.pool import Pool, Worker
from juicefs_py.ledger import Ledger, OpenFile
from juicefs_py.mount import passfd, program, start, state, succession, takeover
from juicefs_py.mount.takeover import Running
from meta.types import SUPERUSER

FRAIL = (
    "import os, sys; from juicefs_py.mount import chores\n"
    "async def show_life(session, ledger):\n"
    "    import trio\n"
    "    while not os.path.exists(os.environ['FAIL']): await trio.sleep(0.05)\n"
    "    os.unlink(os.environ['FAIL'])\n"
    "    raise RuntimeError('made to fail')\n"
    "chores.show_life = show_life\n"
    "from juicefs_py.cli.app import run; sys.exit(run(['juicefs', *sys.argv[1:]]))"
)
"""The program, one of whose tasks fails when it is told to."""


@pytest.fixture
def volume(scratch: Path) -> Volume:
    need_fuse()
    return Volume(scratch / "vol").format()


def test_a_serving_process_that_fails_leaves_the_mount_to_the_next(volume: Volume, scratch: Path) -> None:
    """A bug in one part is no reason to take the mount away: written data is flushed, files stay open, locks held."""
    path, fail, log = scratch / "mnt", scratch / "fail", volume.directory / "log"
    path.mkdir()
    with log.open("wb") as stream:
        supervisor = subprocess.Popen(
            [sys.executable, "-c", FRAIL, *Mount(volume, path).command()[len(PROGRAM) :]], cwd="/",
            env=environment() | {"FAIL": str(fail)}, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
            start_new_session=True,
        )  # fmt: skip
    try:
        wait_until(lambda: served_by(path), "it serves")
        wait_until(lambda: "is ready at" in log.read_text(), "it says so")
        before = config_of(path)
        fd = os.open(path / "f", os.O_RDWR | os.O_CREAT)
        os.write(fd, b"kept")
        os.unlink(path / "f")
        fail.touch()
        wait_until(lambda: served_by(path) not in (None, before["Pid"]), "another process serves")
        assert config_of(path)["Meta"]["Sid"] == before["Meta"]["Sid"]
        assert "made to fail" in log.read_text()
        os.fsync(fd)
        assert os.pread(fd, 10, 0) == b"kept"
        os.close(fd)
        supervisor.terminate()
        assert supervisor.wait(20) == 0
        assert fuse_device(path) is None
    finally:
        if supervisor.poll() is None:
            os.killpg(supervisor.pid, signal.SIGKILL)
            supervisor.wait(20)
        abort(path)
        lazy_unmount(path)


def test_the_end_comes_before_making_room(volume: Volume, scratch: Path) -> None:
    """HUP and then TERM: unmounted, the session's record removed, and nobody is started."""
    made = Mount(volume, scratch / "mnt").start()
    try:
        wait_until(lambda: "is ready at" in made.read_log(), "it serves")
        with (made.path / "f").open("w") as file:
            file.write("kept")
            file.flush()
            os.write(file.fileno(), b"x" * (8 << 20))
            pid = config_of(made.path)["Pid"]
            os.kill(pid, signal.SIGHUP)
            os.kill(pid, signal.SIGTERM)
        assert made.process is not None
        assert made.process.wait(40) == 0
        assert fuse_device(made.path) is None
        assert "starting the next one" not in made.read_log()
        assert json.loads(juicefs("status", volume.url).stdout)["Sessions"] == []
    finally:
        if made.process is not None and made.process.poll() is None:
            made.kill()
        made._forget()


def test_nobody_keeps_the_connection(volume: Volume, scratch: Path) -> None:
    """Who would be lost by making room stays: a successor would find nothing to go on with."""
    made = Mount(volume, scratch / "mnt", expected=["cannot give the connection", "no supervisor"])
    made.more_environment = {"PYTHONPATH": f"{scratch}:{environment()['PYTHONPATH']}"}
    (scratch / "sitecustomize.py").write_text(
        "from juicefs_py.mount import passfd\npassfd.give = lambda *words: False\n"
    )
    made.start()
    wait_until(lambda: "no supervisor at" in made.read_log(), "it has noticed")
    pid = config_of(made.path)["Pid"]
    stays = "this process stays"
    os.kill(pid, signal.SIGHUP)
    wait_until(lambda: stays in made.read_log(), "it has thought of it")
    os.kill(pid, signal.SIGHUP)
    wait_until(lambda: made.read_log().count(stays) == 2, "it has thought of it again")
    assert config_of(made.path)["Pid"] == pid
    made.stop()


def test_a_mount_on_top_changes_nothing(volume: Volume, scratch: Path) -> None:
    """The successor must not take it for its own, and take it away in the end."""
    made = Mount(volume, scratch / "mnt", expected=["will restart"]).start()
    try:
        wait_until(lambda: "is ready at" in made.read_log(), "it serves")
        inside = os.open(made.path / "f", os.O_RDWR | os.O_CREAT)
        pid = config_of(made.path)["Pid"]
        subprocess.run(["mount", "-t", "tmpfs", "none", made.path], check=True)
        os.kill(pid, signal.SIGKILL)
        os.write(inside, b"x")
        os.close(inside)
        assert made.process is not None
        made.process.terminate()
        assert made.process.wait(60) == 0
        assert subprocess.run(["findmnt", "-n", "-o", "FSTYPE", made.path], capture_output=True, text=True).stdout
    finally:
        subprocess.run(["umount", made.path], check=False)
        made.kill()


# What is owed


@pytest.fixture
def volume_in_memory() -> Iterator[World]:
    with world("mem") as made:
        yield made


def faulty(made: World, **more: Any) -> tuple[Client, Faulty]:
    buckets: list[Faulty] = []

    def wrap(bucket: Any) -> Faulty:
        buckets.append(Faulty(bucket))
        return buckets[0]

    return made.client(wrap, vfs=quick(), max_retries=1, **more), buckets[0]


def succeed(made: World, first: Client, ledger: Ledger, path: Path) -> Client:
    """Another supervisor's child goes on with what `first` has written down."""
    second = made.client(ledger=ledger, sid=first.vfs.meta.sid)
    succession.open_again(SimpleNamespace(vfs=second.vfs), ledger, state.load(str(path)))  # type: ignore[arg-type]
    return second


def test_what_one_pod_owes_the_next_one_owes(volume_in_memory: World, tmp_path: Path) -> None:
    """An error untold, and data that could not be flushed: the document says so, and fsync does not answer 0."""
    first, bucket = faulty(volume_in_memory, ledger=Ledger())
    owed, told, late, clean = (first.create(name) for name in (b"owed", b"told", b"late", b"clean"))
    bucket.fail_put = True
    for file in (owed, told):
        file.write(0, b"lost")
    first.vfs.flush_all(5)
    assert errno_from(told.fsync) == errno.EIO
    bucket.fail_put = False
    clean.write(0, b"kept")
    clean.fsync()
    late.write(0, b"late")
    first.vfs.writers.all_heard()
    state.save(str(tmp_path / "state"), first.vfs.handles)
    assert state.load(str(tmp_path / "state")).lost == {owed.ino, late.ino}
    state.save(str(tmp_path / "state"), first.vfs.handles)
    ledger = Ledger()
    second = succeed(volume_in_memory, first, ledger, tmp_path / "state")
    assert ledger.dirty() == {owed.ino, late.ino}
    for file, expected in ((owed, errno.EIO), (late, errno.EIO), (told, 0), (clean, 0)):
        again = File(second, file.ino, file.fh)
        assert errno_from(again.fsync) == expected, file
        again.fsync()


def test_an_error_is_owed_until_the_next_request(volume_in_memory: World) -> None:
    """Who answers may die before the answer is sent; then the request comes again, to a successor that must know."""
    ledger = Ledger()
    client, bucket = faulty(volume_in_memory, ledger=ledger)
    file = client.create(b"f")
    bucket.fail_put = True
    file.write(0, b"lost")
    assert errno_from(file.fsync) == errno.EIO
    assert ledger.dirty() == {file.ino}
    bucket.fail_put = False
    file.fsync()
    assert ledger.dirty() == set()
    bucket.fail_put = True
    file.write(0, b"lost")
    assert errno_from(file.flush) == errno.EIO and ledger.dirty() == {file.ino}
    file.release()
    assert ledger.dirty() == set()


def test_making_room_does_not_wait_for_a_bucket_that_hangs(
    volume_in_memory: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody who uses the mount waits. What is not flushed is written down as lost."""
    monkeypatch.setattr(succession, "_FLUSHED_WITHIN_S", 0.3)
    monkeypatch.setattr(state, "path_of", lambda _: str(tmp_path / "state"))
    ledger = Ledger()
    client, bucket = faulty(volume_in_memory, ledger=ledger)
    file = client.create(b"f")
    bucket.hold.clear()
    try:
        file.write(0, b"late")
        begun = time.monotonic()
        trio.run(succession.leave, SimpleNamespace(vfs=client.vfs, leave=None), ledger, True)
        assert time.monotonic() - begun < 5
        assert state.load(str(tmp_path / "state")).lost == {file.ino}
        assert ledger.made_room == 1
    finally:
        bucket.hold.set()


def test_a_predecessor_that_tells_nothing(volume_in_memory: World, tmp_path: Path) -> None:
    """Numbers of its handles are not given out again, and what programs may have open is not removed."""
    first = volume_in_memory.client()
    file = first.create(b"f")
    file.write(0, b"kept")
    file.fsync()
    first.unlink(b"f")
    second = succeed(volume_in_memory, first, Ledger(), tmp_path / "none")
    assert second.create(b"g").fh > 1 << 50
    assert second.vfs.meta.reader.sustained(second.vfs.meta.sid) == [file.ino]
    state.save(str(tmp_path / "state"), volume_in_memory.client().vfs.handles)  # a predecessor with no file open
    succeed(volume_in_memory, first, Ledger(), tmp_path / "state")
    assert second.vfs.meta.reader.sustained(second.vfs.meta.sid) == []
    first.vfs.meta.vol.sid = 0  # its session has ended with its successors'


def test_the_document_is_looked_for_in_both_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first child finds it where the supervisor was told to look, all later ones where their predecessor put it."""
    told, usual = tmp_path / "told", tmp_path / "usual"
    monkeypatch.setenv("_FUSE_STATE_PATH", str(told))
    told.write_text('{"NextFh": 5}')
    assert state.load(str(usual)).next == 5
    usual.write_text('{"NextFh": 7}')
    state.load(str(usual)).put_aside()
    assert state.load(str(usual)).next == 7
    state.load(str(usual)).put_aside()
    assert state.load(str(usual)).next == 0


def test_the_document_stays_until_it_is_taken_over(volume_in_memory: World, tmp_path: Path) -> None:
    """An heir that fails while it begins leaves it to the next one."""
    first, path = volume_in_memory.client(), tmp_path / "state"
    file = first.create(b"f")
    state.save(str(path), first.vfs.handles)
    left = state.load(str(path))
    broken = SimpleNamespace(vfs=SimpleNamespace(handles=None))
    with pytest.raises(AttributeError):
        succession.open_again(broken, Ledger(), left)  # type: ignore[arg-type]
    ledger = Ledger()
    second = succeed(volume_in_memory, first, ledger, path)
    assert [found.fh for found in ledger.files()] == [file.fh]
    assert second.vfs.file_handle(file.fh, file.ino) is not None
    assert not path.exists() and path.with_name("state.bak").exists()
    path.write_text("[")  # told once
    state.load(str(path)).put_aside()
    assert not path.exists()


# Notes and connections of other versions


def test_the_header_outlives_other_tables() -> None:
    """A supervisor of an older program has a smaller memory with another layout; it sees what is noted from now on."""
    old = os.memfd_create("older")
    words = array.array("Q", [77, 1, 40, 5, 3, 2, 99, 0] + [8] * 100)
    os.write(old, words)
    ledger = Ledger(old)
    assert (ledger.session, ledger.served, ledger.device, ledger.next) == (77, 1, 39, 99)
    assert ledger.files() == [] and ledger.dirty() == set() and ledger.alive == ledger.made_room == 0
    ledger.session, ledger.device = 78, 41
    again = array.array("Q", os.pread(old, 64, 0))
    assert (again[0], again[2]) == (78, 42)
    ledger.opened(4, 9, 0)
    assert Ledger(os.dup(old)).files() == [OpenFile(4, 9, 0)]


@pytest.mark.parametrize("why", ["another layout", "no room"])
def test_notes_that_are_not_all_remove_nothing(
    volume_in_memory: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """A file may be open without being noted, until a document names them all; also for the successor after next."""
    first, ledger = volume_in_memory.client(), Ledger()
    file = first.create(b"f")
    file.write(0, b"kept")
    file.fsync()
    first.unlink(b"f")
    ledger.next = 9
    if why == "another layout":
        ledger._words[5] = 2
        ledger = Ledger(ledger.fd)
    else:
        monkeypatch.setattr("juicefs_py.ledger.FILES", 0)
        assert not ledger.opened(file.fh, file.ino, os.O_RDWR)
    assert not ledger.complete
    for _ in range(2):
        second = succeed(volume_in_memory, first, ledger, tmp_path / "none")
        assert second.vfs.meta.reader.sustained(second.vfs.meta.sid) == [file.ino]
        assert second.create(b"g%d" % os.urandom(4)[0]).fh > 1 << 50
    state.save(str(tmp_path / "state"), volume_in_memory.client().vfs.handles)
    succeed(volume_in_memory, first, ledger, tmp_path / "state")
    assert second.vfs.meta.reader.sustained(second.vfs.meta.sid) == []
    assert ledger.complete
    first.vfs.meta.vol.sid = 0


def test_a_new_program_inherits_the_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by the socket, where it would be nobody's for a moment: nobody listens here."""
    ledger = Ledger()
    ledger.session = 77
    fd = os.open("/dev/null", os.O_RDONLY)
    monkeypatch.chdir(tmp_path)
    executed: list[dict[str, str]] = []
    monkeypatch.setattr(os, "execve", lambda path, words, environment: executed.append(environment))
    program.Program().become(1234, str(tmp_path / "nobody"), ledger, passfd.Offer(b"setting", fd))
    assert os.get_inheritable(fd)
    for name, value in executed[0].items():
        monkeypatch.setenv(name, value)
    found = start._from_other_supervisor()
    assert (found.fd, found.setting, found.ledger.session) == (fd, b"setting", 77)
    assert not os.get_inheritable(fd)
    assert "_JFS_CONNECTION" not in os.environ
    os.close(fd)


# Two at once


def test_all_threads_at_work_is_told_from_standing_still() -> None:
    work, free = threading.Semaphore(0), threading.Event()

    def serve(worker: Worker) -> None:
        while True:
            work.acquire()
            if pool.stopping:
                return
            worker.started = time.perf_counter()
            pool.hand_over(worker)
            free.wait()
            worker.ended, worker.started = time.perf_counter(), 0.0
            if not pool.keep_reading(worker):
                return

    pool = Pool(serve, SessionConfig(max_threads=2, idle_thread_s=0.1), 4096)
    pool.start()
    pool.gets_on()
    assert not pool.gets_on()  # nothing to do
    work.release()
    work.release()
    wait_until(lambda: pool.leader is None, "all are at work")
    assert pool.gets_on() and pool.gets_on()
    free.set()
    wait_until(lambda: pool.leader is not None, "they are done")
    assert pool.gets_on()
    wait_until(lambda: pool.threads == 1, "the other one has left")
    pool.gets_on()
    assert not pool.gets_on()
    pool.stop()
    work.release()
    pool.join()


def running(pid: int, comm_path: Path) -> Running:
    return Running(pid, str(comm_path), "/state", 5)


def test_who_was_started_in_the_last_moment_makes_room_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The serving process had died just before the connection was taken, and its supervisor had started another."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    # A run that was started with nohup is deaf to HUP, and so are its children.
    second = subprocess.Popen(["env", "--default-signal=HUP", "sleep", "60"])
    comm = tmp_path / "comm"
    holder = threading.Event()

    def supervise() -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(comm))
            listener.listen()
            holder.set()
            second.wait()
        comm.unlink()

    supervisor = threading.Thread(target=supervise)
    supervisor.start()
    holder.wait()
    document = {"Pid": second.pid, "CommPath": str(comm)}
    monkeypatch.setattr(takeover, "_config", lambda *_: document)
    monkeypatch.setattr(takeover, "_LEAVES_WITHIN_S", 0.3)
    try:
        assert takeover._makes_room(running(dead.pid, comm), str(tmp_path), "")
        assert second.poll() == -signal.SIGHUP
    finally:
        second.kill()
        supervisor.join()


def test_who_does_not_answer_may_still_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor that listens has a process, or starts one: its mount is not taken for free."""
    for name, seconds in (("_LEAVES_WITHIN_S", 0.1), ("_GONE_WITHIN_S", 0.5)):
        monkeypatch.setattr(takeover, name, seconds)
    monkeypatch.setattr(takeover, "_config", lambda *_: None)
    dead = subprocess.Popen(["true"])
    dead.wait()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "comm"))
        listener.listen()
        assert not takeover._makes_room(running(dead.pid, tmp_path / "comm"), str(tmp_path), "")
    assert takeover._makes_room(running(dead.pid, tmp_path / "comm"), str(tmp_path), "")


def test_a_supervisor_that_is_slow_is_not_robbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have the descriptor back already, and two who serve one mount know half of it each."""
    monkeypatch.setattr(passfd, "PATIENCE_S", 0.1)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "comm"))
        listener.listen()
        assert takeover._given_back(str(tmp_path / "comm"), b"setting", 0)
        with pytest.raises(OSError, match="timed out"):
            passfd.take(str(tmp_path / "comm"))
    assert not takeover._given_back(str(tmp_path / "comm"), b"setting", 0)


def test_what_fails_while_room_is_made_gives_the_descriptor_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[str, bytes, int]] = []

    def scarce(*_: object) -> bool:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(takeover, "_taken", lambda _: passfd.Offer(b"setting", 77))
    monkeypatch.setattr(takeover, "_makes_room", scarce)
    monkeypatch.setattr(passfd, "give", lambda *words: given.append(words) or True)
    with pytest.raises(BlockingIOError):
        takeover.take_over(running(1, tmp_path / "comm"), str(tmp_path), "")
    assert given == [(str(tmp_path / "comm"), b"setting", 77)]


def test_the_last_descriptor_is_never_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old process does not end, and its supervisor, which should have it back, is gone."""
    monkeypatch.setattr(takeover, "_GONE_WITHIN_S", 0.3)
    fd = os.open("/dev/null", os.O_RDONLY)
    monkeypatch.setattr(takeover, "_taken", lambda _: passfd.Offer(b"setting", fd))
    for name in ("_FUSE_STATE_PATH", "_JFS_META_SID"):
        monkeypatch.setenv(name, "")
    stubborn = subprocess.Popen(["nohup", "sleep", "60"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(0.2)
        assert takeover.take_over(running(stubborn.pid, tmp_path / "nobody"), str(tmp_path), "") == (b"setting", fd)
        os.fstat(fd)
        assert os.environ["_FUSE_STATE_PATH"] == "/state"
        assert stubborn.poll() is None
    finally:
        stubborn.kill()
        stubborn.wait()
        os.close(fd)


def test_a_handle_that_two_requests_want_is_opened_once(volume_in_memory: World) -> None:
    """Of a predecessor's files opened for reading only the number is known; two reads of it come side by side."""
    client = volume_in_memory.client()
    client.create(b"f").close()
    ino = client.vfs.meta.lookup(SUPERUSER, 1, b"f")[0]
    slow = client.vfs.meta.open

    def opens(*words: Any) -> Any:
        time.sleep(0.2)
        return slow(*words)

    client.vfs.meta.open = opens  # type: ignore[method-assign]
    found: list[Any] = []
    readers = [threading.Thread(target=lambda: found.append(client.vfs.file_handle(9, ino))) for _ in range(3)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert len(found) == 3 and len(set(map(id, found))) == 1
    File(client, ino, 9).release()
    assert client.vfs.handles.inode(ino) is None
