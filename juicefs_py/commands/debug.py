"""`juicefs debug`: everything that somebody who is to explain a mount's behaviour would ask for, in one archive.

The mount may hang: it is only looked at in processes that are left behind when they do not answer.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from juicefs_py import VERSION
from juicefs_py.cli import log
from juicefs_py.cli.args import Command, Option, Values
from juicefs_py.cli.errors import Fatal

_ANSWERS_WITHIN_S: Final = 3.0
_PER_PROCESS: Final = ("status", "limits", "io", "wchan", "cgroup")
_STACKS_S: Final = 0.5  # for the process to write them


def _run(values: Values) -> int:
    from fuse.mountinfo import find_mount

    mountpoint = os.path.abspath(values.positionals[0])
    found = find_mount(mountpoint)
    if found is None or found.fstype != "fuse.juicefs":
        raise Fatal(f"path {mountpoint} is not a mount point")
    config = _config(mountpoint)
    pid = int(config.get("Pid") or 0) or _pid_by_title(mountpoint)
    if not pid:
        raise Fatal(f"no mount command found for {mountpoint}")
    into = Path(values.text("out-dir")) / _folder(mountpoint)
    try:
        into.mkdir(parents=True)
    except OSError as error:
        raise Fatal(f"create {into}: {error.strerror}") from None
    log.LOG.info('mount point:"%s" pid:%d uid:%d', mountpoint, pid, _owner(pid))
    _system(into, mountpoint, pid)
    if config:
        (into / "config.txt").write_text(json.dumps(config, indent=1))
    _stats(into, mountpoint, values.number("stats-sec"))
    _processes(into, pid)
    _log(into, config, pid, values.number("limit"))
    archive = shutil.make_archive(str(into), "zip", into.parent, into.name)
    log.LOG.info('All files are collected to "%s"', archive)
    return 0


def _folder(mountpoint: str) -> str:
    return mountpoint.strip("/").replace("/", "-") + time.strftime("-%Y%m%d%H%M%S")


def _within(read: Callable[[], bytes]) -> bytes | None:
    """What the mount answers; None if it does not in time."""
    from juicefs_py.mount.process import in_a_child_within

    return in_a_child_within(_ANSWERS_WITHIN_S, read)


def _internal(mountpoint: str, name: str) -> bytes | None:
    from juicefs_py.cli.mountpoint import internal_file

    return _within(lambda: Path(internal_file(mountpoint, name)).read_bytes())


def _config(mountpoint: str) -> dict[str, Any]:
    """The mount's `.config`, which has no secrets; empty if it does not answer."""
    try:
        document = json.loads(_internal(mountpoint, "config") or b"{}")
    except ValueError:
        document = {}
    if not document:
        log.LOG.warning("the mount does not answer: config and stats are left out")
    return document if isinstance(document, dict) else {}


def _pid_by_title(mountpoint: str) -> int:
    """The youngest process whose title is a mount command for this place: the serving one."""
    found = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            title = _read(folder / "cmdline").replace("\0", " ")
            if "juicefs" in title and " mount " in f" {title} " and f" {mountpoint} " in f" {title.strip()} ":
                found = max(found, int(folder.name))
    return found


def _owner(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return -1


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _system(into: Path, mountpoint: str, pid: int) -> None:
    """What machine this is, and how the mount was started."""
    release = _read(Path("/etc/os-release"))
    name = next((line.partition("=")[2].strip('"') for line in release.splitlines() if line.startswith("PRETTY_")), "")
    command = _read(Path(f"/proc/{pid}/cmdline")).replace("\0", " ").strip()
    memory = [line for line in _read(Path("/proc/meminfo")).splitlines() if line.startswith(("MemTotal", "MemAvail"))]
    text = "\n".join((
        "Platform:",
        f"{platform.system()} {platform.release()} {platform.machine()}, {name}",
        f"Python {platform.python_version()}, {os.cpu_count()} processors, {', '.join(memory)}",
        f"JuiceFS version of this command: {VERSION}",
        f"Load: {_read(Path('/proc/loadavg')).strip()}",
        "", "Mount Command:", command,
        "", "Mounts:", *(line for line in _read(Path("/proc/self/mountinfo")).splitlines() if mountpoint in line),
        "",
    ))  # fmt: skip
    print(text)
    (into / "system-info.log").write_text(text)


def _stats(into: Path, mountpoint: str, seconds: int) -> None:
    first = _internal(mountpoint, "stats")
    if first is None:
        return
    (into / "stats.txt").write_bytes(first)
    log.LOG.info("Stats are taken again in %d seconds", seconds)
    time.sleep(seconds)
    second = _internal(mountpoint, "stats")
    if second is not None:
        (into / f"stats.{seconds}s.txt").write_bytes(second)


def _processes(into: Path, pid: int) -> None:
    """The serving process and its supervisor as the kernel sees them, thread by thread."""
    parent = next((line.split()[1] for line in _read(Path(f"/proc/{pid}/status")).splitlines() if "PPid" in line), "0")
    for number in (pid, int(parent)):
        folder = Path(f"/proc/{number}")
        if number < 1 or not folder.exists():
            continue
        parts = [f"== {name}\n{_read(folder / name)}" for name in _PER_PROCESS]
        for task in sorted((folder / "task").iterdir(), key=lambda path: int(path.name)):
            stack = _read(task / "stack") or _read(task / "wchan")
            parts.append(f"== thread {task.name} {_read(task / 'comm').strip()}\n{stack}")
        (into / f"process-{number}.txt").write_text("\n".join(parts))


def _log(into: Path, config: dict[str, Any], pid: int, limit: int) -> None:
    """The end of the log of a mount in the background, with the stacks of all threads if it is one of ours."""
    path = os.path.realpath(f"/proc/{pid}/fd/2")
    if not os.path.isfile(path):
        log.LOG.info("the mount logs to %s, not to a file: its log is left out", path)
        return
    if ".py" in str(config.get("Version", "")):
        os.kill(pid, signal.SIGUSR2)
        time.sleep(_STACKS_S)
    with open(path, errors="replace") as lines:
        (into / "juicefs.log").write_text("".join(deque(lines, limit)))


COMMAND = Command(
    "debug", "Collect and display system static and runtime information", "MOUNTPOINT", "INSPECTOR",
    "Writes what is known about the machine, the mount's configuration (without secrets), its metrics now and some\n"
    "seconds later, its processes and threads, and the end of its log (for mounts in the background) into a folder\n"
    "and a zip archive of it, to be attached to a report. Works on a mount that hangs, too.\n\n"
    "Examples:\n$ juicefs debug /mnt/jfs\n\n"
    "# Elsewhere, with at most 1000 lines of log\n$ juicefs debug --out-dir=/var/log --limit=1000 /mnt/jfs",
    (
        Option(("out-dir",), "string", "debug", "the output directory of the result files"),
        Option(("limit",), "uint", "5000", "the number of last lines of the log to be collected"),
        Option(("stats-sec",), "uint", "5", "seconds between the two takes of the metrics"),
        Option(("trace-sec",), "uint", "5", "accepted; there is no Go trace to take", hidden=True),
        Option(("profile-sec",), "uint", "30", "accepted; there is no Go profile to take", hidden=True),
    ),
    1, 1, _run,
)  # fmt: skip
