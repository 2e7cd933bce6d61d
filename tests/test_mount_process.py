"""The life of a mount's processes: background, readiness, log, process list, signals, death and restart, metrics."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import mounts
import pytest
from mounts import Volume, environment, fuse_device, juicefs, lazy_unmount, signal_process
from needs import need_fuse

from juicefs_py.ledger import Ledger
from juicefs_py.mount.process import in_a_child_within
from juicefs_py.mount.supervisor import _signal_name
from juicefs_py.mount.watchdog import Watchdog

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="mounts as root")


class Background:
    """A `mount -d` of a volume."""

    def __init__(self, volume: Volume, path: Path) -> None:
        self.volume = volume
        self.path = path
        self.log = volume.directory / "log" / "juicefs.log"
        self.pids: list[int] = []

    def command(self, *options: str) -> list[str]:
        words = ["mount", self.volume.url, str(self.path), "-d", "--log", str(self.log)]
        return [*words, "--cache-dir", str(self.volume.cache), "--no-usage-report", *options]

    def start(self, *options: str) -> subprocess.CompletedProcess[str]:
        done = juicefs(*self.command(*options), check=False)
        self.pids = processes(str(self.path))
        return done

    def read_log(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def supervisor_and_worker(self) -> tuple[int, int]:
        (worker,) = [pid for pid in self.pids if parent(pid) in self.pids]
        (supervisor,) = [pid for pid in self.pids if pid != worker]
        return supervisor, worker

    def wait_until_gone(self) -> None:
        wait_for(lambda: not any(alive(pid) for pid in self.pids), "the processes end")
        assert fuse_device(self.path) is None


@pytest.fixture
def background(scratch: Path) -> Iterator[Background]:
    need_fuse()
    mount = Background(Volume(scratch / "vol").format(), scratch / "mnt")
    yield mount
    for pid in processes(str(mount.path)):
        signal_process(pid, signal.SIGKILL)
    mounts.abort(mount.path)
    lazy_unmount(mount.path)


def processes(mountpoint: str) -> list[int]:
    """Processes whose command line names the mount point as `ps` would show it: one string."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                line = Path(f"/proc/{entry}/cmdline").read_bytes().rstrip(b"\0").decode()
            except OSError:
                continue
            if line.startswith("juicefs mount ") and mountpoint in line.split(" "):
                found.append(int(entry))
    return sorted(found)


def status_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()


def parent(pid: int) -> int:
    return int(status_of(pid)[1])


def alive(pid: int) -> bool:
    try:
        return status_of(pid)[0] not in "ZX"
    except OSError:
        return False


def wait_for(condition: Callable[[], bool], what: str, limit_s: float = 15) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"waited {limit_s} s in vain: {what}"
        time.sleep(0.05)


def serves(path: Path) -> bool:
    try:
        return os.stat(path).st_ino == 1
    except OSError:
        return False


def test_a_background_mount_from_start_to_end(background: Background) -> None:
    started = time.monotonic()
    done = background.start()
    took = time.monotonic() - started
    assert done.returncode == 0, done.stderr
    assert f'<INFO>: \x1b[92mOK\x1b[0m, testvol is ready at "{background.path}"' in done.stderr
    assert "Meta address: sqlite3://" in done.stderr
    assert "Data use file://" in done.stderr
    assert took < 10
    assert os.stat(background.path).st_ino == 1
    # the processes, as tools look for them
    supervisor, worker = background.supervisor_and_worker()
    assert len(background.pids) == 2
    assert parent(supervisor) != os.getpid()
    for pid in background.pids:
        assert Path(f"/proc/{pid}/comm").read_text() == "juicefs\n"
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert os.readlink(f"/proc/{pid}/fd/2") == str(background.log)
    (session,) = json.loads(juicefs("status", background.volume.url).stdout)["Sessions"]
    assert session["ProcessID"] == worker
    assert session["MountPoint"] == str(background.path)
    with open("/proc/self/mounts") as table:
        (line,) = [line for line in table if line.split()[1] == str(background.path)]
    assert line.split()[0] == "JuiceFS:testvol"
    assert line.split()[2] == "fuse.juicefs"
    (background.path / "file").write_bytes(b"x" * 100_000)
    assert juicefs("umount", str(background.path)).stdout == ""
    background.wait_until_gone()
    log = background.read_log()
    assert "The juicefs mount process exit successfully" in log
    assert not re.search(r"<(FATAL|ERROR|WARNING)>|Traceback", log), log
    assert json.loads(juicefs("status", background.volume.url).stdout)["Sessions"] == []
    assert background.start().returncode == 0
    assert (background.path / "file").read_bytes() == b"x" * 100_000


@pytest.mark.parametrize("umask", [0, 0o077])
def test_nobody_else_may_write_what_a_mount_in_the_background_writes(background: Background, umask: int) -> None:
    old = os.umask(umask)
    try:
        background.start()
    finally:
        os.umask(old)
    (background.path / "file").write_bytes(b"cached, being smaller than a block")
    (background.path / "file").read_bytes()
    juicefs("umount", str(background.path))
    background.wait_until_gone()
    cached = [background.volume.cache, *background.volume.cache.rglob("*")]
    objects = list(background.volume.bucket.glob("testvol/chunks/**/*"))
    assert ".lock" in {path.name for path in cached}
    assert [path for path in cached if path.is_file()][1:] and [path for path in objects if path.is_file()]
    for path in cached:
        assert not path.stat().st_mode & 0o077, path
    for path in objects:
        assert not path.stat().st_mode & (0o077 if umask else 0o002), path
    assert (background.volume.directory / "meta.db").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("how", ["absolute", "relative"])
def test_a_bucket_of_this_mount_alone_is_a_directory_with_or_without_a_slash(background: Background, how: str) -> None:
    other = background.volume.directory / "other"
    done = background.start("--bucket", str(other) if how == "absolute" else os.path.relpath(other, "/"))
    assert f"Data use file://{other}/testvol/" in done.stderr
    (background.path / "file").write_bytes(b"there")
    assert [path for path in other.glob("testvol/chunks/**/*") if path.is_file()]


def test_the_callers_pipe_ends_with_the_caller(background: Background) -> None:
    line = [sys.executable, "-m", "juicefs_py", *background.command()]
    pipe = subprocess.run(
        ["bash", "-c", '"$@" 2>&1 | cat', "-", *line], env=environment(), capture_output=True, timeout=30
    )
    assert b"is ready at" in pipe.stdout


@pytest.mark.parametrize("target", ["supervisor", "worker"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_unmounts_and_loses_nothing(background: Background, target: str, number: signal.Signals) -> None:
    background.start()
    supervisor, worker = background.supervisor_and_worker()
    with open(background.path / "unfinished", "wb") as file:
        file.write(b"y" * 5_000_000)
    os.kill(supervisor if target == "supervisor" else worker, number)
    background.wait_until_gone()
    assert "Received signal" in background.read_log()
    assert "Traceback" not in background.read_log()
    background.start()
    assert (background.path / "unfinished").read_bytes() == b"y" * 5_000_000


def test_harmless_signals_are_harmless(background: Background) -> None:
    background.start()
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGPIPE, signal.SIGWINCH):
        for pid in background.pids:
            os.kill(pid, number)
    time.sleep(0.3)
    (background.path / "still").write_text("alive")
    assert processes(str(background.path)) == background.pids


def test_a_killed_worker_is_replaced(background: Background) -> None:
    background.start()
    supervisor, worker = background.supervisor_and_worker()
    (background.path / "kept").write_text("kept")
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: serves(background.path), "served again")
    assert (background.path / "kept").read_text() == "kept"
    background.pids = processes(str(background.path))
    assert supervisor in background.pids
    assert worker not in background.pids
    assert "mount process" in background.read_log()
    juicefs("umount", str(background.path))
    background.wait_until_gone()


def test_a_worker_that_dies_again_and_again_is_given_up(background: Background) -> None:
    background.start()
    supervisor, worker = background.supervisor_and_worker()
    for killed in range(3):
        wait_for(lambda: background.read_log().count("oing on with the mount") == killed, "served again")  # noqa: B023
        background.pids = processes(str(background.path))
        worker = background.supervisor_and_worker()[1]
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: not alive(worker), "dead")  # noqa: B023
    wait_for(lambda: not alive(supervisor), "the supervisor gives up")
    assert "fail 3 times in" in background.read_log()
    assert fuse_device(background.path) is None


def test_who_looks_at_a_mount_holds_nothing_of_it(tmp_path: Path) -> None:
    """A child that waits for an answer must not keep the connection alive whose end would be one.

    Found as processes that hung for good behind a mount whose supervisor and serving process had both been killed.
    """

    def held() -> bytes:
        found = []
        for name in os.listdir(b"/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):  # what the list itself was read through
                found.append(os.readlink(b"/proc/self/fd/" + name))
        return b" ".join(found)

    with open(tmp_path / "device", "w") as device:
        assert os.fsencode(device.name) in held()
        found = in_a_child_within(10, held)
    assert found is not None and b"pipe:" in found and b"device" not in found


def test_stacks_are_written_on_abort(background: Background) -> None:
    background.start()
    os.kill(background.supervisor_and_worker()[1], signal.SIGABRT)
    wait_for(lambda: "most recent call first" in background.read_log(), "stacks in the log")


def test_a_file_that_is_in_use_delays_the_end_but_not_the_unmount(background: Background) -> None:
    background.start()
    with open(background.path / "busy", "wb") as file:
        file.write(b"first ")
        refused = juicefs("umount", str(background.path), check=False)
        assert refused.returncode == 1
        assert "busy" in refused.stderr
        assert juicefs("umount", "--force", str(background.path)).returncode == 0
        assert fuse_device(background.path) is None
        file.write(b"second")
    background.wait_until_gone()
    background.start()
    assert (background.path / "busy").read_bytes() == b"first second"


def test_a_file_that_is_in_use_for_a_moment_does_not_keep_it_from_being_unmounted(background: Background) -> None:
    """A monitor that looks at all mounts must not make `umount` fail."""
    background.start()
    looker = subprocess.Popen(["sleep", "0.5"], cwd=background.path)
    try:
        assert juicefs("umount", str(background.path)).returncode == 0
    finally:
        looker.wait()
    assert fuse_device(background.path) is None
    background.wait_until_gone()


def test_a_mount_whose_volume_is_replaced_ends_at_once_and_writes_nothing(background: Background) -> None:
    """Its inode numbers would mean files of the other volume."""
    background.start("--heartbeat", "1s")
    writer = os.open(background.path / "file", os.O_CREAT | os.O_WRONLY)
    ino = os.fstat(writer).st_ino
    database = sqlite3.connect(background.volume.directory / "meta.db")
    with database:
        (document,) = database.execute("SELECT value FROM jfs_setting WHERE name = 'format'").fetchone()
        other = re.sub(rb'"UUID": "[^"]*"', b'"UUID": "00000000-1111-2222-3333-444444444444"', as_bytes(document))
        database.execute("UPDATE jfs_setting SET value = ? WHERE name = 'format'", (other.decode(),))
    os.write(writer, b"x" * 100)
    background.wait_until_gone()
    with pytest.raises(OSError, check=lambda error: error.errno == errno.ENOTCONN):
        os.write(writer, b"more")
    with contextlib.suppress(OSError):  # its flush finds nobody
        os.close(writer)
    assert "the volume is not the same any more: volume UUID changed" in background.read_log()
    assert "Traceback" not in background.read_log()
    ((length,),) = database.execute("SELECT length FROM jfs_node WHERE inode = ?", (ino,))
    database.close()
    assert length in (0, 100)  # what was committed before the heartbeat noticed


def test_a_mount_whose_database_file_is_removed_says_so_and_ends(background: Background) -> None:
    background.start("--heartbeat", "1s")
    (background.path / "before").write_bytes(b"x")
    (background.volume.directory / "meta.db").unlink()
    with pytest.raises(OSError, check=lambda error: error.errno in (errno.EIO, errno.ENOTCONN)):
        (background.path / "after").write_bytes(b"x")
    background.wait_until_gone()
    log = background.read_log()
    assert f"{background.volume.directory}/meta.db was removed or replaced while it was in use" in log
    assert "the volume is not the same any more" in log
    assert "Traceback" not in log


def as_bytes(document: str | bytes) -> bytes:
    return document if isinstance(document, bytes) else document.encode()


def test_two_mounts_on_one_mount_point_are_stacked(background: Background) -> None:
    """If the kernel would have to treat the second one in another way."""
    assert "on top" not in background.start().stderr
    said = background.start("--max-fuse-io", "64K").stderr
    assert "different options, mount on top of it: MaxWrite 131072 != 65536" in said
    assert f'JuiceFS:testvol is mounted on "{background.path}" already, mount on top of it' in said
    assert len(background.pids) == 4
    juicefs("umount", str(background.path))
    wait_for(lambda: len(processes(str(background.path))) == 2, "one mount is left")
    assert serves(background.path)
    juicefs("umount", str(background.path))
    background.wait_until_gone()


def test_a_mount_that_stops_leaves_another_one_at_its_mount_point_alone(background: Background) -> None:
    background.start()
    with open(background.path / "busy", "wb") as file:  # so that the first mount goes on after the unmount
        juicefs("umount", "--force", str(background.path))
        old = background.pids
        background.start()
        supervisor = next(pid for pid in old if parent(pid) not in old)
        os.kill(supervisor, signal.SIGTERM)
        wait_for(lambda: "Received signal" in background.read_log(), "the first mount stops")
        time.sleep(0.5)
        assert serves(background.path)
        file.write(b"written until the end")
    wait_for(lambda: not any(alive(pid) for pid in old), "the first mount ends")
    assert (background.path / "busy").read_bytes() == b"written until the end"


def test_a_mount_point_that_is_missing_is_made_and_one_that_is_not_empty_is_covered(background: Background) -> None:
    background.path = background.path / "deep" / "er"
    assert "not empty" not in background.start().stderr
    assert serves(background.path)
    juicefs("umount", str(background.path))
    background.wait_until_gone()
    (background.path / "below").write_text("hidden while mounted")
    assert f'mountpoint "{background.path}" is not empty: what is in it is hidden' in background.start().stderr
    assert not (background.path / "below").exists()
    juicefs("umount", str(background.path))
    background.wait_until_gone()
    assert (background.path / "below").read_text() == "hidden while mounted"


def test_a_mount_point_whose_name_is_not_utf_8(background: Background) -> None:
    name = os.fsencode(background.path) + b"-\xff"
    background.path = Path(os.fsdecode(name))
    done = juicefs(*background.command("--subdir", os.fsdecode(b"\xfe")), check=False)
    assert done.returncode == 0, background.read_log()
    assert serves(background.path)
    shown = name.decode(errors="replace")
    assert json.loads((background.path / ".config").read_bytes())["Meta"]["MountPoint"] == shown
    assert json.loads(juicefs("status", background.volume.url).stdout)["Sessions"][0]["MountPoint"] == shown
    assert f'mp="{shown}"' in metrics_of(background)
    juicefs("umount", str(background.path))
    assert not serves(background.path)
    again = juicefs("umount", str(background.path), check=False)
    assert again.returncode == 1
    assert "failed to unmount" in again.stderr


def metrics_of(background: Background) -> str:
    url = re.search(r'Prometheus metrics listening on "([\d.:]+)"', background.read_log())
    assert url
    with urllib.request.urlopen(f"http://{url[1]}/metrics", timeout=5) as answer:
        text: str = answer.read().decode()
    return text


def test_a_dead_mount_point_is_repaired(background: Background) -> None:
    background.start()
    supervisor, worker = background.supervisor_and_worker()
    os.kill(supervisor, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: not alive(worker), "the worker is dead")
    with pytest.raises(OSError):
        os.statvfs(background.path)
    done = background.start()
    assert done.returncode == 0
    assert "is broken" in done.stderr
    assert serves(background.path)


def test_an_aborted_connection_leaves_no_dead_mount(background: Background) -> None:
    """An administrator's last resort ends everybody's waiting, and the mount."""
    background.start()
    supervisor, worker = background.supervisor_and_worker()
    mounts.abort(background.path)
    wait_for(lambda: not alive(supervisor) and not alive(worker), "the processes end")
    assert fuse_device(background.path) is None
    assert os.listdir(background.path) == []


def test_a_mount_that_fails_in_the_background_is_told_at_once(background: Background) -> None:
    started = time.monotonic()
    done = background.start("-o", "no_such_option_of_the_kernel")
    assert done.returncode == 1
    assert time.monotonic() - started < 8
    reason = f"fuse: cannot mount fuse.juicefs on {background.path}: Invalid argument"
    assert f"<FATAL>: The mount process ended before it was ready: {reason}" in done.stderr
    assert f'please check the log ("{background.log}") or re-mount in foreground' in done.stderr
    assert f"<FATAL>: {reason}" in background.read_log()
    assert fuse_device(background.path) is None
    assert json.loads(juicefs("status", background.volume.url).stdout)["Sessions"] == []


def test_metrics_are_served(background: Background) -> None:
    background.start()
    url = re.search(r'Prometheus metrics listening on "([\d.:]+)"', background.read_log())
    assert url
    with urllib.request.urlopen(f"http://{url[1]}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    assert f'mp="{background.path}"' in text
    assert 'vol_name="testvol"' in text
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://{url[1]}/", timeout=5)


def test_the_foreground_is_foreground_even_with_d_when_the_environment_says_so(background: Background) -> None:
    written = background.volume.directory / "stderr"
    with written.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "juicefs_py", *background.command()], stderr=stderr,
            env={**environment(), "JFS_FOREGROUND": "1"},
        )  # fmt: skip
    ready = f'OK\x1b[0m, testvol is ready at "{background.path}"'
    wait_for(lambda: ready in written.read_text(), "the ready line")
    assert serves(background.path)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0
    assert fuse_device(background.path) is None


def test_the_helper_of_mount_8(background: Background) -> None:
    code = "import sys; from juicefs_py.cli.app import run; sys.exit(run(['/sbin/mount.juicefs', *sys.argv[1:]]))"
    done = subprocess.run(
        [sys.executable, "-c", code, background.volume.url, str(background.path), "-n", "-o",
         f"rw,_netdev,log={background.log},cache-dir={background.volume.cache},attrcacheto=3,max_read=65536"],
        env=environment(), capture_output=True, text=True, timeout=30, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert serves(background.path)
    background.pids = processes(str(background.path))
    assert len(background.pids) == 2
    line = Path(f"/proc/{background.pids[0]}/cmdline").read_bytes().decode()
    assert "--attr-cache=3" in line
    juicefs("umount", str(background.path))
    background.wait_until_gone()


def watchdog_of(path: str) -> Watchdog:
    """It has not had an answer for long."""
    ledger = Ledger()
    ledger.device = os.minor(os.stat(path).st_dev)
    watchdog = Watchdog(path, False, ledger)
    watchdog._answered -= 1000
    return watchdog


def test_a_watchdog_that_cannot_fork_knows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor lives on, and nobody is killed for it, however long it lasts."""

    def no_process(*_: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    child = subprocess.Popen(["sleep", "60"])
    try:
        watchdog = watchdog_of("/proc")
        monkeypatch.setattr("juicefs_py.mount.watchdog.in_a_child_within", no_process)
        watchdog.ask(child.pid)
        time.sleep(0.1)
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()


def test_a_queue_is_not_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all threads at work nobody reads the question; a process that stands still is another matter."""
    monkeypatch.setattr("juicefs_py.mount.watchdog.in_a_child_within", lambda *_: None)
    child = subprocess.Popen(["sleep", "60"])
    try:
        watchdog = watchdog_of("/proc")
        watchdog._ledger.is_alive()
        watchdog.ask(child.pid)
        watchdog._answered -= 1000
        watchdog._ledger.is_alive()
        watchdog.ask(child.pid)
        assert child.poll() is None
        watchdog._answered -= 1000
        watchdog.ask(child.pid)
        assert child.wait(10) == -signal.SIGKILL
    finally:
        child.kill()
        child.wait()


def test_a_mount_on_top_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would answer, or be silent, for somebody else."""

    def asked(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("juicefs_py.mount.watchdog.in_a_child_within", asked)
    watchdog = watchdog_of("/proc")
    watchdog._ledger.device = os.minor(os.stat("/sys").st_dev)
    watchdog.ask(os.getpid())


def test_signals_without_a_name_have_a_number() -> None:
    assert _signal_name(signal.SIGKILL) == "SIGKILL"
    assert _signal_name(signal.SIGRTMIN + 3) == str(signal.SIGRTMIN + 3)
