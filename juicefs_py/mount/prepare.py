"""Make a mount point fit to be mounted on: it exists, answers, is not the root of everything, and may be written to.

A mount point that is in use already is fine (a second mount is stacked on it). Nothing is mounted here.
"""

from __future__ import annotations

import errno
import os
import stat

from juicefs_py.cli import log
from juicefs_py.cli.control_client import strerror
from juicefs_py.cli.errors import Fatal
from juicefs_py.mount.readiness import look

_LOOK_S = 3.0


def prepare(path: str) -> str:
    """The absolute path of the mount point, ready to be mounted on."""
    if path.startswith("/dev/fd/"):
        return path
    path = os.path.abspath(path)
    if path == "/":
        raise Fatal("should not mount on the root directory")
    found = look(path, _LOOK_S)
    if found.error == errno.ENOENT:
        _create(path)
    elif found.error == errno.ENOTCONN or found.hangs:
        log.LOG.info('mountpoint "%s" is broken: %s, umount it', path, "no answer" if found.hangs else "not connected")
        lazy_umount(path)
    elif found.error:
        raise Fatal(f'stat "{path}": {strerror(found.error)}')
    if not os.path.isdir(path):
        raise Fatal(f'"{path}" is not a directory; choose a directory to mount on')
    if os.getuid() != 0 and not os.access(path, os.W_OK):
        raise Fatal(f'Do not have write permission on "{path}"')
    return path


def untouched(path: str) -> str:
    """The absolute path of a mount point whose mount may be kept for us by somebody: made if it is not there.

    To look at it would wait for ever for who serves it; to make it does not go beyond the directory that it is in.
    """
    path = os.path.abspath(path)
    try:
        os.makedirs(os.path.dirname(path), mode=0o777, exist_ok=True)
        os.mkdir(path, 0o777)
    except FileExistsError:
        pass
    except OSError as error:
        raise Fatal(f'create "{path}": {strerror(error.errno or 0)}') from None
    return path


def tell_what_is_covered(path: str) -> None:
    """Mounting over something is allowed, and often a mistake."""
    from fuse.mountinfo import find_mount

    below = find_mount(path)
    if below is not None:
        log.LOG.info('%s is mounted on "%s" already, mount on top of it: each umount takes one', below.source, path)
        return
    try:
        with os.scandir(path) as entries:
            empty = next(entries, None) is None
    except OSError:
        return
    if not empty:
        log.LOG.warning('mountpoint "%s" is not empty: what is in it is hidden until it is unmounted', path)


def lazy_umount(path: str, device: int | None = None) -> None:
    """Take the mount out of the tree now; it goes away when nobody uses it any more. Failures are only logged.

    With `device` (`Mount.minor`) only if that is what is mounted there: by now it may be a mount of somebody else.
    """
    from fuse.errors import MountError
    from fuse.mount import unmount
    from fuse.mountinfo import find_mount

    if device is not None:
        found = find_mount(path)
        if found is None or found.minor != device:
            return
    try:
        unmount(path, lazy=True)
    except MountError as error:
        if error.errno != errno.EINVAL:  # not mounted (any more) is what was wanted
            log.LOG.warning("%s", error.strerror)


def make_device() -> None:
    """Some containers come without /dev/fuse."""
    if os.getuid() == 0 and not os.path.exists("/dev/fuse"):
        try:
            os.mknod("/dev/fuse", stat.S_IFCHR | 0o666, os.makedev(10, 229))
        except OSError as error:
            if error.errno != errno.EEXIST:
                log.LOG.warning("create /dev/fuse: %s", error.strerror)


def _create(path: str) -> None:
    try:
        os.makedirs(path, mode=0o777, exist_ok=True)
    except OSError as error:
        raise Fatal(f'create "{path}": {strerror(error.errno or 0)}') from None
