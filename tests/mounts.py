"""Volumes and mounts for tests: format, mount in the foreground, wait until it serves, unmount, kill, read the log.

Not here: what is done on a mount. Everything is started in a process group of its own and ended by its id; a mount that
hangs is aborted with a forced umount, so that a broken file system fails a test instead of stopping the run.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import redis_server

REPOSITORY = Path(__file__).resolve().parent.parent
PROGRAM = (sys.executable, "-m", "juicefs_py")
MEMKV_RUNNER = (sys.executable, str(Path(__file__).resolve().parent / "mount_memkv.py"))
READY_S = 20.0
EXIT_S = 30.0
MNT_FORCE, MNT_DETACH = 1, 2  # umount2(2)
NOISE = re.compile(r"<(WARNING|ERROR|FATAL|PANIC)>|Traceback \(most recent call last\)")

_libc = ctypes.CDLL(None, use_errno=True)

live: set[Mount] = set()
"""Every mount that was started and not yet ended."""
_live_lock = threading.Lock()


class MountFailed(AssertionError):
    """The program did not mount, did not end, or complained in its log."""


def environment() -> dict[str, str]:
    """The environment of the program under test: ours, without what would turn it into another role."""
    drop = ("JFS_SUPERVISOR", "JFS_FOREGROUND", "__DAEMON_STAGE", "CALL_VIA_MOUNT")
    kept = {name: value for name, value in os.environ.items() if name not in drop}
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, (str(REPOSITORY), kept.get("PYTHONPATH"))))
    kept["PYTHONUNBUFFERED"] = "1"
    kept["PYTHONFAULTHANDLER"] = "1"
    return kept


def juicefs(*arguments: str, check: bool = True, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run one command of the program and capture what it prints."""
    done = subprocess.run(
        (*PROGRAM, *arguments), env=environment(), cwd="/", capture_output=True, text=True, timeout=timeout_s
    )
    if check and done.returncode != 0:
        shown = " ".join(arguments)
        raise MountFailed(f"juicefs {shown}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


@dataclass(eq=False)
class Volume:
    """A formatted volume under one directory: meta.db (sqlite only), objects, cache.

    engine "redis": a fresh database of the shared server, unless a `url` is given.
    """

    directory: Path
    engine: str = "sqlite"
    name: str = "testvol"
    format_options: tuple[str, ...] = ("--trash-days", "0")
    url: str = ""

    def __post_init__(self) -> None:
        if self.url:
            return
        if self.engine == "redis":
            self.url = redis_server.shared().url()
        else:
            self.url = f"sqlite3://{self.directory}/meta.db" if self.engine == "sqlite" else "memkv://tests"

    @property
    def bucket(self) -> Path:
        return self.directory / "objects"

    @property
    def cache(self) -> Path:
        return self.directory / "cache"

    def format_command(self) -> list[str]:
        """Arguments of `juicefs` that make this volume."""
        return ["format", self.url, self.name, "--storage", "file", "--bucket", f"{self.bucket}/", *self.format_options]

    def format(self) -> Volume:
        """Create the volume; a memkv volume is born in the process that mounts it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if self.engine != "memkv":
            juicefs(*self.format_command())
        return self


@dataclass(eq=False)
class Mount:
    """One mount of a volume in the foreground, log and standard error in one file."""

    volume: Volume
    path: Path
    options: tuple[str, ...] = ()
    log: Path = field(init=False)
    expected: list[str] = field(default_factory=list)  # patterns of complaints that the test provokes
    more_environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _log_checked: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.log = self.volume.directory / f"mount-{self.path.name}.log"

    def command(self) -> list[str]:
        """The command line of the mount process."""
        mount = ["mount", self.volume.url, str(self.path), "--no-usage-report", "--no-syslog"]
        if "--cache-dir" not in self.options:
            mount += ["--cache-dir", str(self.volume.cache)]
        mount += self.options
        if self.volume.engine == "memkv":
            return [*MEMKV_RUNNER, *self.volume.format_command(), "--then--", *mount]
        return [*PROGRAM, *mount]

    def start(self) -> Mount:
        """Mount and wait until the root answers."""
        self.path.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                env=environment() | self.more_environment, start_new_session=True,
            )  # fmt: skip
        with _live_lock:
            live.add(self)
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            if fuse_device(self.path) and os.stat(self.path).st_ino == 1:
                return self
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        status = self.process.poll()
        self.kill()
        raise MountFailed(f"no mount at {self.path} (exit {status}):\n{self.read_log()}")

    def stop(self) -> None:
        """Unmount as a person would, wait until the process has ended well, and look through its log."""
        process = self.process
        assert process is not None, "not started"
        done = juicefs("umount", str(self.path), check=False)
        if done.returncode and fuse_device(self.path):
            self.kill()
            raise MountFailed(f"umount: exit {done.returncode}: {done.stderr}\n{self.read_log()}")
        try:
            status = process.wait(EXIT_S)
        except subprocess.TimeoutExpired:
            stacks = self.stacks()
            self.kill()
            raise MountFailed(
                f"mount process still there {EXIT_S:.0f} s after umount:\n{stacks}\n{self.read_log()}"
            ) from None
        self._forget()
        if fuse_device(self.path):
            lazy_unmount(self.path)
            raise MountFailed(f"the process ended but {self.path} is still mounted:\n{self.read_log()}")
        self.check_log()
        if status:
            raise MountFailed(f"the mount process ended with {status}\n{self.read_log()}")

    def kill(self) -> None:
        """End every process of this mount at once (SIGKILL), as a crash would, and clear the mountpoint."""
        assert self.process is not None, "not started"
        for pid in self.pids():
            signal_process(pid, signal.SIGKILL)
        self.process.wait(EXIT_S)
        abort(self.path)
        lazy_unmount(self.path)
        self._forget()

    def pids(self) -> list[int]:
        """All living processes of this mount, the one that was started first."""
        assert self.process is not None, "not started"
        if self.process.poll() is not None:
            return [pid for pid in session_members(self.process.pid) if pid != self.process.pid]
        return [self.process.pid, *(pid for pid in session_members(self.process.pid) if pid != self.process.pid)]

    def rss_bytes(self) -> int:
        """Resident memory of all processes of this mount, shared pages counted once per process."""
        return sum(resident_bytes(pid) for pid in self.pids())

    def stacks(self) -> str:
        """End the processes with SIGABRT, on which faulthandler writes the stacks of all threads into the log."""
        before = len(self.read_log())
        for pid in reversed(self.pids()):
            signal_process(pid, signal.SIGABRT)
        time.sleep(1)
        return self.read_log()[before:]

    def read_log(self) -> str:
        """The whole log, or its last 20 kB."""
        try:
            return self.log.read_text(errors="replace")[-20_000:]
        except OSError:
            return ""

    def check_log(self) -> None:
        """Fail on any warning, error or traceback since the last look that the test has not announced in `expected`."""
        text = self.log.read_text(errors="replace")
        fresh, self._log_checked = text[self._log_checked :], len(text)
        complaints = [
            line for line in fresh.splitlines()
            if NOISE.search(line) and not any(re.search(pattern, line) for pattern in self.expected)
        ]  # fmt: skip
        if complaints:
            shown = "\n".join(complaints[:20])
            raise MountFailed(
                f"{len(complaints)} unexpected complaints in {self.log}:\n{shown}\n--- end of log\n{fresh[-6000:]}"
            )

    def _forget(self) -> None:
        with _live_lock:
            live.discard(self)


def wait_for_uploads(cache: Path, timeout_s: float = 60.0) -> None:
    """Until no block waits in a cache directory for its upload."""
    deadline = time.monotonic() + timeout_s
    while any(path.suffix != ".tmp" for path in cache.glob("*/rawstaging/chunks/*/*/*_*")):
        assert time.monotonic() < deadline, "staged blocks are not uploaded"
        time.sleep(0.1)


def abort_all() -> list[str]:
    """Abort the connections of all living mounts: whoever waits for them (a hanging test) gets an error."""
    with _live_lock:
        hanging = list(live)
    for mount in hanging:
        abort(mount.path)
    return [str(mount.path) for mount in hanging]


def fuse_device(path: Path) -> str | None:
    """MAJOR:MINOR of the fuse file system mounted at `path`, read without touching it; None if there is none."""
    found = None
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            fields = line.split()
            if fields[4] == str(path) and fields[fields.index("-") + 1].startswith("fuse"):
                found = fields[2]
    return found


def abort(path: Path) -> None:
    """Cut the kernel connection of the fuse mount at `path`; a forced umount does that even if it ends with EBUSY."""
    if fuse_device(path) is not None:
        _libc.umount2(os.fsencode(path), MNT_FORCE)


def lazy_unmount(path: Path) -> None:
    """Take every mount at `path` away, busy or not."""
    while fuse_device(path) is not None:
        if _libc.umount2(os.fsencode(path), MNT_DETACH):
            raise OSError(ctypes.get_errno(), f"cannot unmount {path}")


def session_members(session: int) -> list[int]:
    """Living processes of the session that `session` leads."""
    members = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            after_name = Path(f"/proc/{entry}/stat").read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        state, sid = after_name[0], int(after_name[3])
        if sid == session and state not in "ZX":
            members.append(int(entry))
    return sorted(members)


def signal_process(pid: int, number: int) -> None:
    """Send a signal to a process that may have ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def resident_bytes(pid: int) -> int:
    """VmRSS of a process; 0 if it has ended."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
