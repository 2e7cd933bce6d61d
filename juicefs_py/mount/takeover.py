"""Mounting where the same volume is mounted already: the new program goes on with the running mount.

Not here: the exchange of the descriptor (`passfd`), and what the old process does when it is asked to go (`serve`). The
old mount must be of the same volume and have the same options as far as the kernel is concerned; otherwise the new one
is mounted on top of it. Works with mounts of official clients from 1.2 on, and they with ours.
"""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any, Final, NamedTuple

from juicefs_py.cli import log
from juicefs_py.mount import passfd
from juicefs_py.mount.process import in_a_child_within

_LOOK_S: Final = 3.0
_OFFERED_WITHIN_S: Final = 10.0
_GONE_WITHIN_S: Final = 60.0
_LEAVES_WITHIN_S: Final = 2.0
_STEP_S: Final = 0.1
_GIVE_BACK_TRIES: Final = 3
_MATTERS_NOT: Final = frozenset({
    "IgnoreSecurityLabels", "RememberInodes", "SingleThreaded", "DisableXAttrs", "Debug", "NoAllocForRead", "Name",
    "MaxBackground", "MaxReadAhead", "DirectMount", "DontUmask", "Timeout",
})  # fmt: skip


class Running(NamedTuple):
    """A mount that can be taken over."""

    pid: int
    comm_path: str
    state_path: str
    sid: int


def running(
    mountpoint: str, name: str, options: dict[str, object], *, read_only: bool, prefixed: bool
) -> Running | None:
    """The mount of this volume at the mount point, if its process can be replaced by one with these `FuseOpts`."""
    if os.environ.get("JFS_SUPER_COMM"):
        return None
    if mountpoint.startswith("/dev/fd/"):
        return None
    document = _config(mountpoint, prefix_of(prefixed))
    if document is None:
        return None
    try:
        found = Running(
            int(document["Pid"]), str(document.get("CommPath") or ""), str(document.get("StatePath") or ""),
            int(document["Meta"]["Sid"]),
        )  # fmt: skip
        other, theirs = document["Format"]["Name"], dict(document["FuseOpts"])
        was_read_only = bool(document["Meta"].get("ReadOnly"))
    except (KeyError, TypeError, ValueError):
        return None
    if not found.pid or not found.comm_path:
        return None
    if other != name:
        log.LOG.info("different volume %s != %s, mount on top of it", other, name)
    elif was_read_only != read_only:  # not among the kernel's options: either client refuses changes itself
        log.LOG.info("read-only %s != %s, mount on top of it", was_read_only, read_only)
    elif theirs.get("DisableXAttrs") and not options.get("DisableXAttrs"):
        log.LOG.info("Xattr is enabled, mount on top of it")
    elif _normal(theirs) != _normal(options):
        log.LOG.info("different options, mount on top of it: %s", _difference(_normal(theirs), _normal(options)))
    else:
        return found
    return None


def prefix_of(prefixed: bool) -> str:
    """What the names of internal files begin with."""
    return ".jfs" if prefixed else ""


def _config(mountpoint: str, prefix: str) -> dict[str, Any] | None:
    def read() -> bytes:
        if os.stat(mountpoint).st_ino != 1:
            return b""
        with open(f"{mountpoint}/{prefix}.config", "rb") as file:
            return file.read()

    text = in_a_child_within(_LOOK_S, read)
    try:
        document = json.loads(text) if text else None
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _normal(options: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in options.items() if key not in _MATTERS_NOT and value}
    words = sorted(word for word in kept.get("Options") or [] if word != "nonempty")
    return {**kept, "Options": words}


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return ", ".join(f"{name} {old.get(name)} != {new.get(name)}" for name in names)


def take_over(old: Running, mountpoint: str, prefix: str) -> passfd.Offer | None:
    """Take the connection of a running mount and have its process make room; None if it does not, and keeps it."""
    offer = _taken(old.comm_path)
    if offer is None or offer.fd is None:
        log.LOG.warning("nobody hands over the mount at %s, mount on top of it", old.comm_path)
        return None
    try:
        made = _makes_room(old, mountpoint, prefix)
    except BaseException:
        _given_back(old.comm_path, offer.setting, offer.fd)
        raise
    if not made:
        if _given_back(old.comm_path, offer.setting, offer.fd):
            log.LOG.warning("mount process %d does not make room, mount on top of it", old.pid)
            os.close(offer.fd)
            return None
        log.LOG.warning("nobody takes the mount at %s back, going on with it", old.comm_path)
    os.environ["_FUSE_STATE_PATH"] = old.state_path
    os.environ["_JFS_META_SID"] = str(old.sid)
    return offer


def _makes_room(old: Running, mountpoint: str, prefix: str) -> bool:
    """Whether the serving process ends when it is asked to, and with it any that its supervisor started meanwhile."""
    pid, deadline = old.pid, time.monotonic() + _GONE_WITHIN_S
    while time.monotonic() < deadline:
        try:
            os.kill(pid, signal.SIGHUP)
        except ProcessLookupError:
            another = _started_meanwhile(old.comm_path, pid, mountpoint, prefix)
            if another is None:
                return True
            pid = another
        except PermissionError:
            return False
        time.sleep(_STEP_S)
    return False


def _started_meanwhile(comm_path: str, pid: int, mountpoint: str, prefix: str) -> int | None:
    """The serving process that came after `pid`, which had died before the connection was taken.

    None: there is none, since a supervisor that was robbed ends with its process. `pid` again: that is not known yet.
    """
    deadline = time.monotonic() + _LEAVES_WITHIN_S
    while time.monotonic() < deadline:
        try:
            connection = passfd.connect(comm_path)
        except OSError:
            pass  # too busy to listen, but there
        else:
            if connection is None:
                return None
            connection.close()
        time.sleep(_STEP_S)
    document = _config(mountpoint, prefix) or {}
    found = document.get("Pid")
    return found if isinstance(found, int) and document.get("CommPath") == comm_path else pid


def _given_back(comm_path: str, setting: bytes, fd: int) -> bool:
    """Whether there is a supervisor to give it back to. One that is slow may have it, and has its process anyway."""
    for _ in range(_GIVE_BACK_TRIES):
        try:
            return passfd.give(comm_path, setting, fd)
        except OSError as error:
            log.LOG.debug("%s: %s", comm_path, error)
    return True


def _taken(comm_path: str) -> passfd.Offer | None:
    deadline = time.monotonic() + _OFFERED_WITHIN_S
    while True:
        try:
            offer = passfd.take(comm_path)
        except OSError as error:
            log.LOG.debug("%s: %s", comm_path, error)
            offer = None
        if (offer is not None and offer.fd is not None) or time.monotonic() > deadline:
            return offer
        time.sleep(_STEP_S)
