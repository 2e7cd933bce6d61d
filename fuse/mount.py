"""Attach /dev/fuse to a directory and detach it: mount(2) where we may, the setuid helper fusermount3 where not.

Not here: serving the mount (session), what is mounted (mountinfo).
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import socket
import stat
import subprocess
from dataclasses import dataclass, field

from fuse.errors import MountError
from fuse.mountinfo import find_mount

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_SYNCHRONOUS = 1, 2, 4, 8, 16
MS_DIRSYNC, MS_NOATIME, MS_NODIRATIME, MS_RELATIME, MS_STRICTATIME = 128, 1024, 2048, 1 << 21, 1 << 24
MNT_FORCE, MNT_DETACH, UMOUNT_NOFOLLOW = 1, 2, 8

_SET_FLAGS = {
    "ro": MS_RDONLY, "nosuid": MS_NOSUID, "nodev": MS_NODEV, "noexec": MS_NOEXEC, "sync": MS_SYNCHRONOUS,
    "dirsync": MS_DIRSYNC, "noatime": MS_NOATIME, "nodiratime": MS_NODIRATIME, "relatime": MS_RELATIME,
    "strictatime": MS_STRICTATIME,
}  # fmt: skip
_CLEAR_FLAGS = {
    "rw": MS_RDONLY, "suid": MS_NOSUID, "dev": MS_NODEV, "exec": MS_NOEXEC, "async": MS_SYNCHRONOUS,
    "atime": MS_NOATIME, "diratime": MS_NODIRATIME, "norelatime": MS_RELATIME, "nostrictatime": MS_STRICTATIME,
}  # fmt: skip
_FOR_OTHERS = frozenset(  # words of fstab, mount(8) and libfuse that the kernel must not see
    {"auto", "noauto", "user", "nouser", "users", "owner", "group", "defaults", "nonempty", "nofail", "_netdev", "rw"}
)


def raise_read_ahead(device: int, kib: int) -> None:
    """Let the kernel read that much ahead on a mounted FUSE file system, `device` being its minor number.

    It begins with 128 KiB, one request; with several under way, it need not wait for each. Only for root, and only
    after INIT, which would lower it again. A kernel that does not let us is left as it is.
    """
    path = f"/sys/class/bdi/0:{device}/read_ahead_kb"
    try:
        with open(path, encoding="ascii") as file:
            if int(file.read()) >= kib:
                return
        with open(path, "w", encoding="ascii") as file:
            file.write(str(kib))
    except (OSError, ValueError):
        return


@dataclass(frozen=True, slots=True)
class MountOptions:
    """How to mount. `options` are the words of an `-o` list; what is neither a mount flag nor for somebody else goes
    to the kernel's FUSE module as it is."""

    fsname: str = "fuse"  # the source, as `df` shows it
    subtype: str = ""  # the type is then `fuse.SUBTYPE`
    options: list[str] = field(default_factory=list)
    allow_other: bool = False
    default_permissions: bool = True
    read_only: bool = False
    max_read: int = 0  # bytes of one READ; 0: up to max_write's pages. Give it when max_write is given

    def flags(self) -> int:
        """The MS_* flags; set-id programs and device files are off unless `suid` or `dev` is among the options."""
        flags = MS_NOSUID | MS_NODEV | (MS_RDONLY if self.read_only else 0)
        for word in self.options:
            flags |= _SET_FLAGS.get(word, 0)
            flags &= ~_CLEAR_FLAGS.get(word, 0)
        return flags

    def flag_words(self) -> list[str]:
        """The words of the flags that are set."""
        flags = self.flags()
        return [word for word, flag in _SET_FLAGS.items() if flags & flag]

    def module_options(self) -> list[str]:
        """What the kernel's FUSE module is told."""
        words = [
            word
            for word in self.options
            if word not in _SET_FLAGS
            and word not in _CLEAR_FLAGS
            and word not in _FOR_OTHERS
            and not word.startswith(("x-", "fsname=", "subtype=", "comment="))
        ]
        if self.allow_other:
            words.append("allow_other")
        if self.default_permissions:
            words.append("default_permissions")
        if self.max_read:
            words.append(f"max_read={self.max_read}")
        return list(dict.fromkeys(words))


def mount(mountpoint: str, options: MountOptions) -> int:
    """Mount and return the /dev/fuse descriptor (close-on-exec), whose first message is INIT. Raises MountError."""
    try:
        mode = os.stat(mountpoint).st_mode
    except OSError as error:
        raise MountError(error.errno, f"cannot mount on {mountpoint}: {error.strerror}") from None
    if os.geteuid() == 0:
        try:
            return _mount_directly(mountpoint, mode, options)
        except MountError as error:
            if error.errno != errno.EPERM:
                raise
    return _mount_with_helper(mountpoint, options)


def _mount_directly(mountpoint: str, mode: int, options: MountOptions) -> int:
    try:
        fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise MountError(error.errno, f"cannot open /dev/fuse: {error.strerror}") from None
    words = [
        f"fd={fd}",
        f"rootmode={stat.S_IFMT(mode):o}",
        f"user_id={os.getuid()}",
        f"group_id={os.getgid()}",
        *options.module_options(),
    ]
    fstype = f"fuse.{options.subtype}" if options.subtype else "fuse"
    arguments = [os.fsencode(text) for text in (options.fsname, mountpoint, fstype)]
    if _libc().mount(*arguments, ctypes.c_ulong(options.flags()), os.fsencode(",".join(words))) != 0:
        number = ctypes.get_errno()
        os.close(fd)
        raise MountError(
            number, f"cannot mount {fstype} on {mountpoint}: {os.strerror(number)} (options {','.join(words)})"
        )
    return fd


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _helper(doing: str) -> str:
    for name in ("fusermount3", "fusermount"):
        path = shutil.which(name)
        if path:
            return path
    raise MountError(errno.EPERM, f"cannot {doing}: not permitted, and neither fusermount3 nor fusermount is installed")


def _mount_with_helper(mountpoint: str, options: MountOptions) -> int:
    """fusermount3 mounts and sends the descriptor over a socket whose number is in _FUSE_COMMFD."""
    program = _helper(f"mount on {mountpoint}")
    words = options.flag_words()  # nosuid and nodev it sets by itself
    words += [f"fsname={_escape(options.fsname)}", *options.module_options()]
    if options.subtype:
        words.append(f"subtype={_escape(options.subtype)}")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        environment = {**os.environ, "_FUSE_COMMFD": str(theirs.fileno())}
        process = subprocess.Popen(
            [program, "-o", ",".join(words), "--", mountpoint],
            env=environment, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        theirs.close()
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        _, errors = process.communicate()
    if process.returncode != 0 or not fds:
        for fd in fds:
            os.close(fd)
        said = errors.decode(errors="replace").strip()
        raise MountError(errno.EPERM, f"cannot mount on {mountpoint}: {said or f'{program} failed'}")
    os.set_inheritable(fds[0], False)
    return fds[0]


def _escape(text: str) -> str:
    """fusermount's option parser takes a comma as a separator unless a backslash stands before it."""
    return text.replace("\\", "\\\\").replace(",", "\\,")


def unmount(mountpoint: str, lazy: bool = False) -> None:
    """Detach; `lazy` succeeds even if it is in use, and the session ends with the last user. Raises MountError."""
    flags = UMOUNT_NOFOLLOW | (MNT_DETACH if lazy else 0)
    if _libc().umount2(os.fsencode(mountpoint), flags) == 0:
        return
    number = ctypes.get_errno()
    if number == errno.EPERM:
        program = _helper(f"unmount {mountpoint}")
        lazy_option = ["-z"] if lazy else []
        result = subprocess.run(
            [program, "-u", *lazy_option, "--", mountpoint], stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        if result.returncode == 0:
            return
        raise MountError(number, f"cannot unmount {mountpoint}: {result.stderr.decode(errors='replace').strip()}")
    raise MountError(number, f"cannot unmount {mountpoint}: {os.strerror(number)}")


def abort(mountpoint: str) -> None:
    """Cut the connection of the FUSE mount there, for dead servers: requests fail at once, the server gets ENODEV.

    Where fusectl is not mounted, a forced unmount does the same; then the mount is gone as well, unless it is busy.
    """
    found = find_mount(mountpoint)
    if found is None or not found.fstype.startswith("fuse"):
        raise MountError(errno.EINVAL, f"{mountpoint} is not a FUSE mount")
    path = f"/sys/fs/fuse/connections/{found.minor}/abort"
    try:
        with open(path, "w", encoding="ascii") as control:
            control.write("1")
    except FileNotFoundError:
        if _libc().umount2(os.fsencode(mountpoint), MNT_FORCE | UMOUNT_NOFOLLOW) != 0:
            number = ctypes.get_errno()
            if number != errno.EBUSY:  # busy: aborted, but still there
                raise MountError(number, f"cannot abort {mountpoint}: {os.strerror(number)}") from None
    except OSError as error:
        raise MountError(
            error.errno, f"cannot abort the connection of {mountpoint}: {path}: {error.strerror}"
        ) from None


def set_read_ahead(mountpoint: str, size: int) -> bool:
    """Set the kernel's read-ahead window to `size` bytes (INIT can only lower it). False if not allowed."""
    found = find_mount(mountpoint)
    if found is None:
        return False
    try:
        with open(f"/sys/class/bdi/{found.major}:{found.minor}/read_ahead_kb", "w", encoding="ascii") as control:
            control.write(str(size >> 10))
    except OSError:
        return False
    return True
