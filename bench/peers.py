"""Clients to compare: ours and an official one, each mounted on a volume of its own. Not what they are measured by."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.machine import wait_for

PROGRAM = [sys.executable, "-m", "juicefs_py"]


@dataclass(frozen=True, slots=True)
class Client:
    """A program that formats and mounts. `old`: the argument order of official clients before 1.0."""

    name: str
    command: tuple[str, ...] = tuple(PROGRAM)
    old: bool = False

    def format(self, url: str, volume: str, bucket: Path, storage: tuple[str, ...] = ()) -> None:
        """Make a volume without a trash; `storage` are the options of another one than a local directory."""
        options = list(storage or ("--storage", "file", "--bucket", f"{bucket}/"))
        if not self.old:
            options += ["--trash-days", "0"]
        run([*self.command, "format", *options, url, volume])

    @contextlib.contextmanager
    def mounted(self, url: str, base: Path, *flags: str) -> Iterator[Path]:
        """The mountpoint of the volume, `base/mnt`, served until the end of the context; its cache is `base/cache`."""
        mountpoint = base / "mnt"
        mountpoint.mkdir(parents=True, exist_ok=True)
        run([*self.mount_command(url, base), *flags])
        wait_for(lambda: os.path.ismount(mountpoint), f"{self.name} does not mount {url}")
        try:
            yield mountpoint
        finally:
            unmount(mountpoint)

    def mount_command(self, url: str, base: Path) -> list[str]:
        """What mounts in the background."""
        options = ["-d", "--no-usage-report", "--cache-dir", str(base / "cache"), "--metrics", "127.0.0.1:0"]
        if not self.old:
            options += ["--log", str(base / "log")]
        return [*self.command, "mount", *options, url, str(base / "mnt")]


def unmount(mountpoint: Path) -> None:
    """Unmount, lazily if it is busy."""
    with quietly(["umount", str(mountpoint)]) as process:
        process.wait()
    if os.path.ismount(mountpoint):
        with quietly(["umount", "-l", str(mountpoint)]) as process:
            process.wait()


def quietly(command: list[str]) -> subprocess.Popen[bytes]:
    """Start a program that nobody listens to."""
    nothing = subprocess.DEVNULL
    return subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing)


def run(command: list[str], cwd: Path | None = None) -> None:
    """Run a command that must succeed; what it says is shown if it does not."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd=cwd)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")


def official(path: str | None = None) -> Client | None:
    """The official client: the program named, or the one that the tests use, or one of the PATH that is not ours."""
    tools = Path(os.environ.get("JFS_TEST_TOOLS", Path.home() / ".cache" / "juicefs_py-tools"))
    found = (path, os.environ.get("JFS_TEST_GO"), shutil.which("juicefs"), str(tools / "bin/juicefs-go"))
    for candidate in found:
        if candidate and os.access(candidate, os.X_OK):
            said = subprocess.run([candidate, "--version"], capture_output=True, text=True, check=False).stdout
            version = said.split()[2] if len(said.split()) > 2 else "?"
            if ".py" not in version:
                return Client(f"go {version.split('+')[0]}", (candidate,), old=version.startswith("0."))
    return None
