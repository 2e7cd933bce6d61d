"""What is mounted, from /proc/self/mountinfo. Never touches a mount point itself: a dead file system cannot hang it.

Not here: mounting and unmounting (mount).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

_ESCAPE = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """One line of mountinfo."""

    mount_id: int
    major: int
    minor: int  # of st_dev; for FUSE also the connection's number under /sys/fs/fuse/connections
    mountpoint: str
    fstype: str
    source: str
    options: str  # of the mount, a comma list
    super_options: str  # of the file system


def mounts(path: str = "/proc/self/mountinfo") -> Iterator[Mount]:
    """All mounts of this namespace, in the order they were made."""
    with open(path, encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            yield parse(line)


def parse(line: str) -> Mount:
    """`36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`"""
    left, _, right = line.rstrip("\n").partition(" - ")
    mount_id, _, device, _, mountpoint, options = left.split(" ")[:6]
    fstype, source, super_options = right.split(" ", 2)
    major, _, minor = device.partition(":")
    return Mount(
        int(mount_id), int(major), int(minor), _unescape(mountpoint), fstype, _unescape(source), options, super_options
    )


def _unescape(text: str) -> str:
    """Space, tab, newline and backslash are written in octal."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def find_mount(mountpoint: str) -> Mount | None:
    """The topmost mount exactly at `mountpoint` (symbolic links in its parent are followed), or None."""
    parent, last = os.path.split(os.path.abspath(mountpoint))
    wanted = os.path.join(os.path.realpath(parent), last)
    found = None
    for mount in mounts():
        if mount.mountpoint == wanted:
            found = mount
    return found


def is_mounted(mountpoint: str, fstype: str | None = None) -> bool:
    """Whether something (of type `fstype`, if given) is mounted exactly there."""
    mount = find_mount(mountpoint)
    return mount is not None and fstype in (None, mount.fstype)
