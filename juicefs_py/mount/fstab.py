"""`--update-fstab`: an entry in /etc/fstab that mounts the volume with the options of this command line."""

from __future__ import annotations

import os
import re
import shutil
import sys

from juicefs_py.cli import log
from juicefs_py.cli.args import Values
from juicefs_py.cli.errors import Fatal
from juicefs_py.mount.process import in_container

_FSTAB = "/etc/fstab"
_HELPER = "/sbin/mount.juicefs"
_NOT_STORED = frozenset(("update-fstab", "background", "foreground", "o", "cache-dir", "bucket"))


def update(url: str, mountpoint: str, values: Values, bucket: str = "", path: str = _FSTAB) -> None:
    """Add the entry, or replace the one of the same volume and mount point. Only as root and outside containers.

    `bucket` is what `--bucket` means.
    """
    if os.environ.get("CALL_VIA_MOUNT"):
        return
    if in_container():
        log.LOG.warning("--update-fstab is ignored inside a container, %s is not changed", path)
        return
    if os.getuid() != 0:
        log.LOG.warning("--update-fstab needs root, %s is not changed", path)
        return
    line = entry(url, mountpoint, values, bucket)
    try:
        if not os.path.lexists(_HELPER):
            _install_helper()
        _rewrite(path, line)
    except OSError as error:
        raise Fatal(f"update {path}: {error.strerror}") from None
    log.LOG.info('Successfully updated fstab, now you can mount with `mount "%s"`', mountpoint)


def _install_helper() -> None:
    """Let mount(8) find us: a link to this program, or to the installed one if this is no program, as with `-m`."""
    candidates = (os.path.abspath(sys.argv[0]), shutil.which("mount.juicefs"), shutil.which("juicefs"))
    for program in filter(None, candidates):
        if os.path.isfile(program) and os.access(program, os.X_OK):
            os.symlink(os.path.abspath(program), _HELPER)
            return
    log.LOG.warning("%s is missing, and mount(8) needs it: make it a link to the program juicefs", _HELPER)


def entry(url: str, mountpoint: str, values: Values, bucket: str = "") -> str:
    """The line: every option that is given, sorted."""
    options = ["_netdev,nofail"]
    for name, value in values.given.items():
        if name in _NOT_STORED:
            continue
        if value is True:
            options.append(name)
        elif value is not False:
            text = str(value).replace(",", "-") if name == "upload-hours" else str(value)
            if "," in text:
                raise Fatal(f"--update-fstab: a comma cannot stand in the value of --{name}; leave that option out")
            options.append(f"{name}={text}")
    if values.is_set("cache-dir"):
        paths = filter(None, re.split("[:,]" if ":" not in values.text("cache-dir") else ":", values.text("cache-dir")))
        options.append("cache-dir=" + ":".join(p if p == "memory" else os.path.abspath(p) for p in paths))
    if bucket:
        options.append(f"bucket={bucket}")
    if values.text("o"):
        options.append(values.text("o"))
    fields = (url, mountpoint, "juicefs", ",".join(sorted(options)), "0 0")
    return "  ".join((*map(_field, fields[:4]), fields[4]))


def _field(text: str) -> str:
    """A field of fstab(5): what would end it, or begin a comment, is written in octal."""
    return re.sub(r"[ \t\n\\#]", lambda found: f"\\{ord(found[0]):03o}", text)


def _rewrite(path: str, line: str) -> None:
    with open(path, encoding="utf-8") as fstab:
        lines = fstab.read().splitlines()
    same = [number for number, old in enumerate(lines) if old.split()[:3] == line.split()[:3]]
    if same:
        lines[same[0]] = line
    else:
        lines.append(line)
    temporary = path + ".tmp"
    mode = os.stat(path).st_mode & 0o777
    with open(temporary, "w", encoding="utf-8") as fstab:
        os.fchmod(fstab.fileno(), mode)
        fstab.write("\n".join(lines) + "\n")
        fstab.flush()
        os.fsync(fstab.fileno())
    os.rename(temporary, path)
