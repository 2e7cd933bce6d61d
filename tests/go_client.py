"""An official client in Go on volumes of ours: format, mount, fsck. The same as `mounts`, for somebody else's program.

Not what is compared. Its log is shown when something fails; complaints there are its own affair.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Container
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import mounts
from mounts import EXIT_S, READY_S, MountFailed, Volume, abort, fuse_device, lazy_unmount
from needs import go_client, need_fuse

UNCACHED = ("--attr-cache", "0", "--entry-cache", "0", "--dir-entry-cache", "0")
"""Mount options, of both clients: what another client has done is seen at once."""


@cache
def version() -> tuple[int, int]:
    """Major and minor version of the program."""
    words = subprocess.run([go_client(), "--version"], capture_output=True, text=True, check=True).stdout.split()
    number = next(word for word in words if word[0].isdigit())
    major, minor = number.split(".")[:2]
    return int(major), int(minor)


def is_old() -> bool:
    """Whether it is the 0.14.2 that scripts/test fetches: it knows nothing of what came with 1.0 and later."""
    return version() < (1, 0)


def run(*arguments: str, timeout_s: float = 120) -> tuple[int, str]:
    """Run a command of it: its exit status and what it said."""
    done = subprocess.run(
        [go_client(), "--no-agent", *arguments], cwd="/", text=True, timeout=timeout_s,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return done.returncode, done.stdout


def go_format(volume: Volume, *options: str) -> Volume:
    """Let it make the volume."""
    volume.directory.mkdir(parents=True)
    newer = () if is_old() else ("--trash-days", "0")
    bucket = ("--storage", "file", "--bucket", f"{volume.bucket}/")
    status, said = run("format", *bucket, *newer, *options, volume.url, volume.name)
    assert status == 0, said
    return volume


def go_fsck(volume: Volume, empty: Container[int] = ()) -> None:
    """Its check of the whole volume, objects included, finds nothing.

    0.14 makes a slice of no bytes when it compacts a chunk in which there are only zeros, and misses 1024 objects of
    such a slice; their numbers are `empty`.
    """
    status, said = run("fsck", volume.url)
    lost = re.compile(r"<ERROR>: can't find block (\d+)_")
    errors = [line for line in said.splitlines() if re.search(r"<(ERROR|FATAL|PANIC)>", line)]
    found = [line for line in errors if not ((match := lost.search(line)) and int(match[1]) in empty)]
    if len(found) < len(errors):
        found = [line for line in found if not re.search(r"<FATAL>: \d+ object is lost \(0 bytes\)", line)]
        status = 0
    assert not found and status == 0, said[-6000:]


@dataclass(eq=False)
class GoMount:
    """One mount by it, in the foreground."""

    volume: Volume
    path: Path
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def log(self) -> Path:
        return self.volume.directory / f"go-{self.path.name}.log"

    def start(self) -> GoMount:
        """Mount and wait until the root answers."""
        need_fuse()
        self.path.mkdir(parents=True, exist_ok=True)
        command = [
            go_client(), "--no-agent", "mount", "--no-usage-report", "--no-syslog",
            "--metrics", "127.0.0.1:0", "--cache-dir", f"{self.volume.directory}/go-cache", *self.options,
            self.volume.url, str(self.path),
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True
            )
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and self.process.poll() is None:
            if fuse_device(self.path) and os.stat(self.path).st_ino == 1:
                return self
            time.sleep(0.05)
        self.end()
        raise MountFailed(f"the Go client does not mount {self.path}:\n{self.log.read_text()[-4000:]}")

    def stop(self) -> None:
        """Unmount, and wait until it has written everything and ended."""
        assert self.process is not None
        done = subprocess.run(["umount", str(self.path)], capture_output=True, text=True)
        try:
            if done.returncode:
                raise MountFailed(f"umount of the Go client: {done.stderr}\n{self.log.read_text()[-4000:]}")
            self.process.wait(EXIT_S)
        finally:
            self.end()

    def end(self) -> None:
        """Take it away, whatever it does."""
        abort(self.path)
        lazy_unmount(self.path)
        assert self.process is not None
        for pid in mounts.session_members(self.process.pid):
            mounts.signal_process(pid, 9)
        self.process.wait(EXIT_S)
