"""A mount outlives the process that serves it: it is killed, or makes room; programs notice a pause.

The wire format of the hand-over is checked byte by byte. Long runs: `--long`.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import socket
import stat
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from csi_driver import Driver
from handover_work import Crew
from mounts import PROGRAM, REPOSITORY, Mount, Volume, abort, environment, fuse_device, lazy_unmount
from needs import need_fuse
from volumes import check_volume

from fuse.handshake import Negotiated
from juicefs_py.ledger import Ledger, OpenFile
from juicefs_py.mount import passfd, watchdog
from juicefs_py.mount.supervisor import Inheritance, Supervisor

EXPECTED = [r"will restart", r"data that was not flushed was lost", r"is lost", r"flush"]


def config_of(mount: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((mount / ".config").read_text())
    return document


@pytest.fixture(params=["sqlite", "redis"])
def volume(request: pytest.FixtureRequest, scratch: Path) -> Volume:
    need_fuse()
    return Volume(scratch / "vol", request.param).format()


@pytest.fixture
def mount(volume: Volume, scratch: Path) -> Iterator[Mount]:
    made = Mount(volume, scratch / "mnt", expected=list(EXPECTED)).start()
    try:
        yield made
        if made.process is not None and made.process.poll() is None:
            made.stop()
    finally:
        if made.process is not None and made.process.poll() is None:
            made.kill()


def replace_all_the_time(mount: Mount, number: signal.Signals, times: int, rng: random.Random) -> float:
    """Send the serving process this signal again and again; the longest time until the mount answered."""
    longest, path = 0.0, mount.path
    for _ in range(times):
        time.sleep(rng.uniform(0.2, 1.5))
        pid = config_of(path)["Pid"]
        os.kill(pid, number)
        begun = time.monotonic()
        while config_of(path)["Pid"] == pid:
            time.sleep(0.01)
            assert time.monotonic() - begun < 30
        longest = max(longest, time.monotonic() - begun)
        time.sleep(5.2)  # three deaths within ten seconds are given up
    return longest


@pytest.mark.battery
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_programs_go_on(mount: Mount, number: signal.Signals, long_run: bool) -> None:
    seed = int(time.time())
    rng, sid = random.Random(seed), config_of(mount.path)["Meta"]["Sid"]
    crew = Crew(mount.path)
    try:
        longest = replace_all_the_time(mount, number, (50 if number == signal.SIGKILL else 20) if long_run else 4, rng)
        done = crew.leave()
    finally:
        crew.kill()
    print(f"{number.name}, seed {seed}: longest pause {longest:.2f} s; " + ", ".join(
        f"{kind} {one['steps']} steps, {one['lost']} lost, longest {one['longest']} s" for kind, one in done.items()
    ))  # fmt: skip
    assert config_of(mount.path)["Meta"]["Sid"] == sid
    assert done["writer"]["lost"] <= 3 * (50 if long_run else 4), done  # told by a write, and by fsync; never for ever
    if number == signal.SIGHUP:
        assert not any(one["lost"] for one in done.values()), done
    mount.stop()
    check_volume(mount.volume)


def test_unflushed_data_is_reported_once(mount: Mount) -> None:
    fd = os.open(mount.path / "f", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"kept")
    os.fsync(fd)
    os.write(fd, b"lost")
    other = os.open(mount.path / "f", os.O_RDONLY)
    os.kill(config_of(mount.path)["Pid"], signal.SIGKILL)
    with pytest.raises(OSError) as caught:
        os.fsync(fd)
    assert caught.value.errno == errno.EIO
    os.fsync(fd)
    os.pwrite(fd, b"again", 4)
    os.close(fd)
    assert os.pread(other, 100, 0) == b"keptagain"
    os.close(other)


@pytest.mark.battery
@pytest.mark.parametrize("volume", ["sqlite"], indirect=True)
@pytest.mark.parametrize("second", [signal.SIGKILL, signal.SIGHUP])
def test_a_loss_is_reported_after_another_death(mount: Mount, second: signal.Signals) -> None:
    """What one process owes, the next one owes as well; once it is told, nobody owes it any more."""
    fd = os.open(mount.path / "f", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"lost")
    for number in (signal.SIGKILL, second):
        pid = config_of(mount.path)["Pid"]
        os.kill(pid, number)
        wait_until(lambda pid=pid: served_by(mount.path) not in (None, pid), "another process serves")  # type: ignore[misc]
    with pytest.raises(OSError) as caught:
        os.fsync(fd)
    assert caught.value.errno == errno.EIO
    os.pwrite(fd, b"kept", 0)
    os.fsync(fd)
    time.sleep(10)  # three deaths within ten seconds are given up
    os.kill(config_of(mount.path)["Pid"], signal.SIGKILL)
    os.fsync(fd)
    assert os.pread(fd, 100, 0) == b"kept"
    os.close(fd)


def test_a_clean_file_reports_nothing(mount: Mount) -> None:
    fd = os.open(mount.path / "f", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"kept")
    os.fsync(fd)
    os.kill(config_of(mount.path)["Pid"], signal.SIGKILL)
    assert os.pread(fd, 10, 0) == b"kept"
    os.fsync(fd)
    os.close(fd)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_a_request_under_way_is_done_by_the_successor(mount: Mount, number: signal.Signals) -> None:
    """A wait for a lock outlives the process that was asked for it, however long it takes."""
    path = mount.path / "f"
    path.touch()
    holder = subprocess.Popen(["flock", str(path), "sleep", "7"])
    time.sleep(0.5)
    waiter = subprocess.Popen(["flock", str(path), "true"])
    time.sleep(0.5)
    os.kill(config_of(mount.path)["Pid"], number)
    assert waiter.wait(20) == 0
    assert holder.wait(20) == 0


def test_three_deaths_within_ten_seconds_are_given_up(volume: Volume, scratch: Path) -> None:
    made = Mount(volume, scratch / "mnt", expected=[*EXPECTED, "give up"]).start()
    assert made.process is not None
    while "is ready at" not in made.read_log():  # before, nobody else has the connection
        time.sleep(0.05)
    killed: set[int] = set()
    deadline = time.monotonic() + 20
    while made.process.poll() is None and time.monotonic() < deadline:
        pid = served_by(made.path)
        if pid is not None and pid not in killed:
            killed.add(pid)
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    assert made.process.wait(1) == 1
    assert len(killed) == 3, made.read_log()
    assert fuse_device(made.path) is None
    made._forget()


def served_by(path: Path) -> int | None:
    try:
        return int(config_of(path)["Pid"])
    except (OSError, ValueError):  # in between
        return None


def test_a_process_that_hangs_is_replaced(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped, it answers nobody; what it had open goes on in another one."""
    for name, after_s in (("_WARN_S", 0.5), ("_ABORT_S", 1.0), ("_KILL_S", 1.5)):
        monkeypatch.setattr(watchdog, name, after_s)
    ledger = Ledger()
    ledger.device = os.minor(os.stat(mount.path).st_dev)
    pid, told = config_of(mount.path)["Pid"], watchdog.Watchdog(str(mount.path), False, ledger)
    for _ in range(3):
        told.ask(pid)
        time.sleep(0.3)
    assert served_by(mount.path) == pid
    holder = subprocess.Popen(["sh", "-c", f"exec 3>{mount.path}/f; sleep 1; echo kept >&3"])
    time.sleep(0.5)
    os.kill(pid, signal.SIGSTOP)
    for _ in range(4):
        told.ask(pid)
    wait_until(lambda: served_by(mount.path) not in (None, pid), "another process serves")
    assert holder.wait(20) == 0
    assert (mount.path / "f").read_text() == "kept\n"


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_a_program_that_was_replaced_goes_on_as_the_new_one(scratch: Path, number: signal.Signals) -> None:
    """How the driver upgrades a mount: another file under the same name, and a signal to the serving process."""
    need_fuse()
    program = scratch / "program"
    for room in ("juicefs_py", "meta", "chunkstore", "fuse"):
        shutil.copytree(REPOSITORY / room, program / room)
    made = Mount(Volume(scratch / "vol").format(), scratch / "mnt", expected=list(EXPECTED))
    made.more_environment = {"PYTHONPATH": str(program)}
    made.start()
    try:
        before = config_of(made.path)
        holder = subprocess.Popen(["sh", "-c", f"exec 3>{made.path}/f; sleep 4; echo kept >&3"])
        time.sleep(0.5)
        version = program / "juicefs_py/__init__.py"
        new = version.read_text().replace('OWN_VERSION = "', 'OWN_VERSION = "9.')
        version.unlink()
        version.write_text(new)
        os.kill(before["Pid"], number)
        wait_until(lambda: served_by(made.path) not in (None, before["Pid"]), "another process serves")
        after = config_of(made.path)
        assert after["Version"] != before["Version"] and ".py9" in after["Version"]
        assert (after["PPid"], after["Meta"]["Sid"]) == (before["PPid"], before["Meta"]["Sid"])
        assert holder.wait(20) == 0
        assert (made.path / "f").read_text() == "kept\n"
        made.stop()
    finally:
        if made.process is not None and made.process.poll() is None:
            made.kill()


def test_a_usual_place_that_is_taken_is_left_alone(tmp_path: Path) -> None:
    """Anybody may put something into /tmp."""
    told = Supervisor(str(tmp_path), lambda inherited: 0)
    told.comm_path = str(tmp_path / "taken")
    (tmp_path / "taken").mkdir()
    with told._listening():
        assert told.comm_path != str(tmp_path / "taken")
        assert stat.S_ISSOCK(os.stat(told.comm_path).st_mode)
        assert os.stat(told.comm_path).st_mode & 0o077 == 0
    assert not os.path.exists(told.comm_path)


def as_pod(volume: Volume, path: Path, driver: Driver, **more: str) -> subprocess.Popen[bytes]:
    """The mount process of a pod, whose files are in the same place."""
    with (volume.directory / "pod.log").open("ab") as log:
        return subprocess.Popen(
            [*PROGRAM, "mount", volume.url, str(path), "--cache-dir", str(volume.cache), "--no-usage-report"],
            env=environment() | {"JFS_FOREGROUND": "1", "JFS_SUPER_COMM": str(driver.path)} | more,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True,
        )  # fmt: skip


def wait_until(condition: Callable[[], object], what: str, limit_s: float = 20) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.05)


def test_the_driver_hands_a_mount_from_pod_to_pod(volume: Volume, scratch: Path) -> None:
    """The old one ends with 0, which says that it was replaced; whoever uses the mount notices a pause."""
    path = scratch / "mnt"
    path.mkdir()
    driver = Driver(scratch / "driver.sock")
    old = as_pod(volume, path, driver)
    new: subprocess.Popen[bytes] | None = None
    crew: Crew | None = None
    try:
        wait_until(lambda: driver.fd is not None and served_by(path), "the driver has the descriptor")
        config = config_of(path)
        assert config["PPid"] == old.pid and config["CommPath"] == f"/tmp/fuse_fd_comm.{old.pid}"
        crew = Crew(path, ("reader", "writer", "unlinked", "locks"))  # not here: see `Supervisor`
        driver.close_theirs(config["PPid"])
        os.kill(config["Pid"], signal.SIGHUP)
        assert old.wait(20) == 0
        new = as_pod(
            volume, path, driver, _JFS_META_SID=str(config["Meta"]["Sid"]), _FUSE_STATE_PATH=config["StatePath"]
        )
        wait_until(lambda: served_by(path) not in (None, config["Pid"]), "another process serves")
        wait_until(lambda: driver.fd is not None, "the driver has the descriptor again")
        assert config_of(path)["Meta"]["Sid"] == config["Meta"]["Sid"]
        print(crew.leave())
        new.terminate()  # the pod is deleted: the mount waits for the next one
        assert new.wait(20) == 2
        assert fuse_device(path) is not None
    finally:
        if crew is not None:
            crew.kill()
        for pod in (old, new):
            if pod is not None and pod.poll() is None:
                pod.kill()
        driver.end()
        abort(path)
        lazy_unmount(path)


def test_who_was_robbed_before_it_announced_itself_was_replaced(tmp_path: Path) -> None:
    """The driver may take the descriptor in the moment between its giving and the first request that is answered."""
    path, may_end = str(tmp_path / "comm"), tmp_path / "may-end"

    def serve(inherited: Inheritance) -> int:
        assert passfd.give(inherited.comm_path, b"setting", os.open("/dev/null", os.O_RDONLY))
        while not may_end.exists():
            time.sleep(0.01)
        return 1

    child = os.fork()
    if not child:
        supervisor = Supervisor(str(tmp_path), serve)
        supervisor.comm_path = path
        os._exit(supervisor.run())
    offer = None
    while offer is None or offer.fd is None:
        offer = passfd.take(path)
    os.close(offer.fd)
    may_end.touch()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# The wire


def test_a_descriptor_changes_hands(tmp_path: Path) -> None:
    """As a server: setting and two descriptors, and the server keeps nothing; then it takes one back."""
    path = str(tmp_path / "socket")
    kept: list[tuple[bytes, list[int]]] = []
    reading, writing = os.pipe()

    def serve() -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            for fds in ([0, reading], [0]):
                connection, _ = listener.accept()
                with connection:
                    passfd.send(connection, b"FUSE", fds)
                    kept.append(passfd.receive(connection, 1))

    server = threading.Thread(target=serve)
    server.start()
    while not os.path.exists(path):
        time.sleep(0.01)
    offer = passfd.take(path)
    assert offer is not None and offer.setting == b"FUSE" and offer.fd is not None
    os.write(writing, b"through")
    assert os.read(offer.fd, 10) == b"through"
    assert passfd.give(path, b"setting", offer.fd)
    server.join(10)
    assert kept[0][0] == b"CLOSE" and len(kept[0][1]) == 1
    assert kept[1][0] == b"setting" and len(kept[1][1]) == 1
    os.write(writing, b"again")
    assert os.read(kept[1][1][0], 10) == b"again"
    assert not os.get_inheritable(kept[1][1][0])
    for fd in (reading, writing, offer.fd, *kept[0][1], *kept[1][1]):
        os.close(fd)


def test_nobody_there(tmp_path: Path) -> None:
    assert passfd.take(str(tmp_path / "none")) is None
    assert not passfd.give(str(tmp_path / "none"), b"FUSE", 0)


def test_the_setting_is_the_request_of_the_kernel() -> None:
    header = struct.pack("=IIQQIIII", 104, 26, 2, 0, 0, 0, 0, 0)
    agreed = Negotiated(header + b"rest", 45, 0x123 | 0x80 << 32, 131072, 1 << 20)
    setting = passfd.setting_of(agreed)
    assert setting == header + struct.pack("=IIIII", 7, 45, 131072, 0x123, 0x80) + struct.pack(
        "=11I", 1 << 20, *[0] * 10
    )
    assert len(setting) == 104
    again = passfd.negotiated_of(setting, 4096)
    assert again is not None
    assert (again.minor, again.flags, again.max_readahead, again.max_write) == (45, 0x123 | 0x80 << 32, 131072, 1 << 20)


def test_the_setting_of_an_official_client_is_understood() -> None:
    short = struct.pack("=IIQQIIII", 104, 26, 2, 0, 0, 0, 0, 0) + struct.pack("=IIII", 7, 31, 65536, 0xFF)
    agreed = passfd.negotiated_of(short, 131072)
    assert agreed is not None
    assert (agreed.minor, agreed.flags, agreed.max_readahead, agreed.max_write) == (31, 0xFF, 65536, 131072)
    assert passfd.negotiated_of(b"FUSE", 131072) is None


# The ledger


def test_a_ledger_is_read_by_another_process() -> None:
    ledger = Ledger()
    child = os.fork()
    if not child:
        rows = [ledger.opened(2 * number, number, os.O_RDWR) for number in range(1, 11)]
        for row in rows[::2]:
            ledger.closed(row)
        ledger.is_dirty(5)
        ledger.is_dirty(6)
        ledger.is_clean(5)
        ledger.session = 77
        os._exit(0)
    os.waitpid(child, 0)
    assert ledger.files() == [OpenFile(2 * number, number, os.O_RDWR) for number in range(2, 11, 2)]
    assert ledger.dirty() == {6}
    assert ledger.session == 77
    ledger.resume(complete=True)
    kept = [ledger.opened(2 * number, number, os.O_RDWR) for number in range(2, 11, 2)]
    assert ledger.files() == [OpenFile(2 * number, number, os.O_RDWR) for number in range(2, 11, 2)]
    ledger.closed(kept[0])
    assert ledger.opened(99, 9, 0) == kept[0] or ledger.opened(101, 9, 0)
    ledger.is_clean(6)
    assert ledger.dirty() == set()
    ledger.clear()
    assert ledger.files() == [] and ledger.dirty() == set()
    assert ledger.opened(3, 9, 0) and ledger.files() == [OpenFile(3, 9, 0)]


def test_a_ledger_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("juicefs_py.ledger.FILES", 3)
    monkeypatch.setattr("juicefs_py.ledger.DIRTY", 2)
    ledger = Ledger()
    rows = [ledger.opened(number, number, 0) for number in range(1, 6)]
    assert rows[3:] == [0, 0]
    ledger.closed(0)
    ledger.closed(rows[1])
    assert ledger.opened(9, 9, 0) == rows[1]
    for ino in (1, 2, 3):
        ledger.is_dirty(ino)
    assert ledger.dirty() == {1, 2}
    ledger.is_clean(3)
