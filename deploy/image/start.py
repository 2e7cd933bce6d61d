"""The first code of the single file `juicefs` (`build_pyz` puts it there as `__main__`): where to import from.

Our own code is imported out of the file; what it needs from others lies in a directory that is named after its content.
The image has that directory; a file that replaces the one of another image unpacks its own. Not here: any command.
"""

from __future__ import annotations

import fcntl
import os
import sys
from _imp import extension_suffixes

import bundled

ROOTS = ("/usr/local/lib/juicefs", "/var/cache/juicefs")
"""Where packages are looked for and unpacked: the image's place, and one for a volume if `/` is read-only."""
_FIRST_FD = 10  # the lower ones are others' by custom: a daemon puts the standard streams on them


def run() -> int:
    """Run the command line of this process; the exit code."""
    sys.path[0] = hold(sys.path[0])
    sys.path.insert(1, packages(sys.path[0]))
    from juicefs_py.__main__ import main

    return main()


def hold(archive: str) -> str:
    """A name of this file that lasts: modules are imported as they are needed, also when another has taken its name."""
    fd = os.open(archive, os.O_RDONLY | os.O_CLOEXEC)
    held = f"/proc/self/fd/{fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FD)}"
    os.close(fd)
    return held if os.path.exists(held) else archive


def packages(archive: str) -> str:
    """The directory to import others' packages from; unpacked if it is not there yet."""
    names = [os.path.join(root, bundled.NAME) for root in roots()]
    if bundled.NAME.startswith(tag()):
        for name in names:
            if is_trusted(name):
                return name
        for name in names:
            if unpack(archive, name):
                return name
    return another() or of_the_interpreter()


def tag() -> str:
    """What native modules of this interpreter are called: its version, the machine, the C library."""
    return str(extension_suffixes()[0]).strip(".").removesuffix(".so")


def roots() -> list[str]:
    """For us to read and, as far as we may, to write."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    own = [os.path.join(home, "juicefs")] if os.geteuid() else []
    return [*ROOTS, *own, f"/dev/shm/juicefs-{os.geteuid()}"]


def is_trusted(path: str) -> bool:
    """Whether nobody but root and us can have put code there."""
    try:
        for each in (path, os.path.dirname(path)):
            found = os.lstat(each)
            if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o170022 != 0o040000:
                return False
    except OSError:
        return False
    return True


def unpack(archive: str, target: str) -> bool:
    """Unpack the packages, in one step for whoever starts beside us; False if that cannot be there."""
    import shutil
    import tempfile
    import zipfile

    new = ""
    try:
        os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
        new = tempfile.mkdtemp(prefix=".new-", dir=os.path.dirname(target))
        with zipfile.ZipFile(archive) as outer, outer.open("packages.zip") as inner:
            zipfile.ZipFile(inner).extractall(new)
        os.chmod(new, 0o755)
        os.rename(new, target)
    except OSError:
        shutil.rmtree(new, ignore_errors=True)
    return is_trusted(target)


def another() -> str:
    """Packages of another version of the program, for this interpreter; the newest."""
    found = [
        os.path.join(root, name)
        for root in roots() if os.path.isdir(root) for name in os.listdir(root) if name.startswith(tag())
    ]  # fmt: skip
    return max(filter(is_trusted, found), key=os.path.getmtime, default="")


def of_the_interpreter() -> str:
    """Nothing of ours fits: what is installed for this interpreter may do."""
    import site

    print(
        f"juicefs: the packages in this file are for {bundled.NAME.rpartition('-')[0]}, this Python is {tag()};"
        f" or they cannot be unpacked to any of {', '.join(roots())}. Trying those that are installed",
        file=sys.stderr,
    )
    site.main()
    return sys.path[-1]


if __name__ == "__main__":
    sys.exit(run())
