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
_STEP_S: Final = 0.1
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


def running(mountpoint: str, name: str, options: dict[str, object], prefixed: bool) -> Running | None:
    """The mount of this volume at the mount point, if its process can be replaced by one with these `FuseOpts`."""
    if os.environ.get("JFS_SUPER_COMM"):
        return None
    if mountpoint.startswith("/dev/fd/"):
        return None
    document = _config(mountpoint, ".jfs" if prefixed else "")
    if document is None:
        return None
    try:
        found = Running(
            int(document["Pid"]), str(document.get("CommPath") or ""), str(document.get("StatePath") or ""),
            int(document["Meta"]["Sid"]),
        )  # fmt: skip
        other, theirs = document["Format"]["Name"], dict(document["FuseOpts"])
    except (KeyError, TypeError, ValueError):
        return None
    if not found.pid or not found.comm_path:
        return None
    if other != name:
        log.LOG.info("different volume %s != %s, mount on top of it", other, name)
    elif theirs.get("DisableXAttrs") and not options.get("DisableXAttrs"):
        log.LOG.info("Xattr is enabled, mount on top of it")
    elif _normal(theirs) != _normal(options):
        log.LOG.info("different options, mount on top of it: %s", _difference(_normal(theirs), _normal(options)))
    else:
        return found
    return None


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


def take_over(old: Running) -> passfd.Offer | None:
    """Take the connection of a running mount and have its process make room; None if it does not, and keeps it."""
    offer = _taken(old.comm_path)
    if offer is None or offer.fd is None:
        log.LOG.warning("nobody hands over the mount at %s, mount on top of it", old.comm_path)
        return None
    deadline = time.monotonic() + _GONE_WITHIN_S
    while time.monotonic() < deadline:
        try:
            os.kill(old.pid, signal.SIGHUP)
        except ProcessLookupError:
            os.environ["_FUSE_STATE_PATH"] = old.state_path
            os.environ["_JFS_META_SID"] = str(old.sid)
            return offer
        except PermissionError:
            break
        time.sleep(_STEP_S)
    log.LOG.warning("mount process %d does not make room, mount on top of it", old.pid)
    passfd.give(old.comm_path, offer.setting, offer.fd)
    os.close(offer.fd)
    return None


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
