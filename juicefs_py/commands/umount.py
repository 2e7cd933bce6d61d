"""`juicefs umount`: unmount, after staged blocks are uploaded if asked. The serving process ends by itself then."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from typing import Any

from chunkstore.cache.disks import expand
from chunkstore.naming import parse
from juicefs_py.cli.args import Command, Option, Values
from juicefs_py.cli.errors import Fatal
from juicefs_py.cli.sizes import ibytes

_BUSY_S = 3.0
"""How long it is tried again: who looks at all mounts (`df`, a monitor) makes one busy for a moment, and so does the
supervisor, which asks for up to a second whether its mount answers."""
_AGAIN_S = 0.1


def _run(values: Values) -> int:
    mountpoint = os.path.abspath(values.positionals[0])
    if values.flag("flush"):
        _wait_for_uploads(mountpoint)
    from fuse.mountinfo import is_mounted

    end = time.monotonic() + _BUSY_S
    while True:
        done = subprocess.run(_helper(values.flag("force"), mountpoint), capture_output=True, check=False)
        if not done.returncode:
            return 0
        said = os.fsdecode(done.stderr or done.stdout).strip()
        if not is_mounted(mountpoint):
            raise Fatal(f"{mountpoint} is not mounted ({said})")
        if time.monotonic() > end:
            raise Fatal(said or f"umount {mountpoint} failed with code {done.returncode}")
        time.sleep(_AGAIN_S)


def _helper(force: bool, mountpoint: str) -> list[str]:
    for name in ("fusermount3", "fusermount"):
        if shutil.which(name):
            return [name, "-uz" if force else "-u", mountpoint]
    return ["umount", *(["-l"] if force else []), mountpoint]


def _wait_for_uploads(mountpoint: str) -> None:
    """Wait until no cache directory holds a block that is not in the bucket yet."""
    config = _read_config(mountpoint)
    chunk = config.get("Chunk") or {}
    directories = expand(tuple(each for each in str(chunk.get("CacheDir", "")).split(":") if each))
    last, shown = _staged(directories), False
    while last:
        time.sleep(1)
        left = _staged(directories)
        speed = max(last - left, 0)
        eta = f", left {left // speed}s" if speed and left else ""
        print(f"\r{ibytes(left)} staging chunks are being flushed... {ibytes(speed)}/s{eta}  ", end="", flush=True)
        last, shown = left, True
    print("\nAll staging chunks are flushed" if shown else "All staging chunks are flushed")


def _read_config(mountpoint: str) -> dict[str, Any]:
    for name in (".jfs.config", ".config"):
        try:
            with open(os.path.join(mountpoint, name), encoding="utf-8") as config:
                document = json.load(config)
                assert isinstance(document, dict)
                return document
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            raise Fatal(f"read {name} of {mountpoint}: {error}") from None
    raise Fatal(f"{mountpoint}: not a JuiceFS mount point")


def _staged(directories: list[str]) -> int:
    """Bytes that wait for upload below these cache directories. What is no block goes nowhere."""
    total = 0
    for directory in directories:
        for path, _, names in os.walk(os.path.join(directory, "rawstaging")):
            for name in names:
                if parse(name) is None:
                    continue
                try:
                    total += os.stat(os.path.join(path, name)).st_size
                except FileNotFoundError:
                    pass  # uploaded meanwhile
    return total


COMMAND = Command(
    "umount", "Unmount a volume", "MOUNTPOINT", "SERVICE",
    "Examples:\n$ juicefs umount /mnt/jfs",
    (
        Option(("force", "f"), "bool", "", "unmount lazily: a busy mount goes away when its last user does"),
        Option(("flush",), "bool", "", "wait for all staging chunks to be flushed"),
    ),
    1, 1, _run,
)  # fmt: skip
