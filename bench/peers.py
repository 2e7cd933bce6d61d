"""Clients to compare: ours and an official one, each mounted on a volume of its own. Not what they are measured by."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

OURS = [sys.executable, "-m", "juicefs_py"]
_QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
_READY_S = 20.0


@dataclass(frozen=True, slots=True)
class Client:
    """A program that formats and mounts. `old`: the argument order of official clients before 1.0."""

    name: str
    command: list[str]
    old: bool = False

    def format(self, url: str, volume: str, bucket: Path, storage: tuple[str, ...] = ()) -> None:
        """Make a volume without a trash; `storage` are the options of another one than a local directory."""
        options = list(storage or ("--storage", "file", "--bucket", f"{bucket}/"))
        if not self.old:
            options += ["--trash-days", "0"]
        run([*self.command, "format", *options, url, volume])

    @contextlib.contextmanager
    def mounted(self, url: str, base: Path) -> Iterator[Path]:
        """The mountpoint of the volume, served until the end of the context."""
        base.mkdir(parents=True, exist_ok=True)
        mountpoint = base / "mnt"
        mountpoint.mkdir(exist_ok=True)
        options = ["-d", "--no-usage-report", "--cache-dir", str(base / "cache"), "--metrics", "127.0.0.1:0"]
        if not self.old:
            options += ["--log", str(base / "log")]
        run([*self.command, "mount", *options, url, str(mountpoint)])
        wait_for(lambda: os.path.ismount(mountpoint), f"{self.name} does not mount {url}")
        try:
            yield mountpoint
        finally:
            subprocess.run(["umount", str(mountpoint)], check=False, **_QUIET)  # type: ignore[call-overload]
            if os.path.ismount(mountpoint):
                subprocess.run(["umount", "-l", str(mountpoint)], check=False, **_QUIET)  # type: ignore[call-overload]


def run(command: list[str]) -> None:
    """Run a command that must succeed; what it says is shown if it does not."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")


def official(path: str | None = None) -> Client | None:
    """The official client: the program named, or the one that the tests use, or `juicefs-go` of the PATH."""
    tools = Path(os.environ.get("JFS_TEST_TOOLS", Path.home() / ".cache" / "juicefs_py-tools"))
    for candidate in (path, os.environ.get("JFS_TEST_GO"), shutil.which("juicefs-go"), str(tools / "bin/juicefs-go")):
        if candidate and os.access(candidate, os.X_OK):
            said = subprocess.run([candidate, "--version"], capture_output=True, text=True, check=False).stdout
            version = said.split()[2] if len(said.split()) > 2 else "?"
            return Client(f"go {version}", [candidate], old=version.startswith("0."))
    return None


def wait_for(condition: object, what: str) -> None:
    """Return when the condition (a function) holds; end the program if it does not in time."""
    end = time.monotonic() + _READY_S
    while not condition():  # type: ignore[operator]
        if time.monotonic() > end:
            raise SystemExit(what)
        time.sleep(0.05)


@contextlib.contextmanager
def redis_server(directory: Path) -> Iterator[int]:
    """A Redis of our own, with an append-only file: its port."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    directory.mkdir(parents=True, exist_ok=True)
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", "", "--appendonly", "yes"]
    options += ["--databases", "64"]
    with subprocess.Popen(["redis-server", *options], **_QUIET) as process:  # type: ignore[call-overload]
        try:
            wait_for(lambda: _answers(port), "redis-server does not answer")
            yield port
        finally:
            process.terminate()


def _answers(port: int) -> bool:
    import socket

    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.sendall(b"PING\r\n")
            return b"PONG" in connection.recv(64)
    except OSError:
        return False
