"""Mounting where the same volume is mounted already: the new processes go on with the old ones' mount."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from mounts import Mount, Volume, fuse_device
from needs import need_fuse

from juicefs_py.vfs_recovery import answer_again
from meta.attr import Attr
from meta.errors import Refused
from meta.types import DIRECTORY, FILE


def wait_for_line(mount: Mount, line: str) -> None:
    deadline = time.monotonic() + 20
    while line not in mount.read_log():
        assert time.monotonic() < deadline, mount.read_log()
        time.sleep(0.05)


def test_mounting_again_takes_the_running_mount_over(scratch: Path) -> None:
    """The old processes end with 0; open files, locks and the session stay, and so does the kernel's mount."""
    need_fuse()
    volume = Volume(scratch / "vol").format()
    old, new = Mount(volume, scratch / "mnt").start(), Mount(volume, scratch / "mnt")
    try:
        wait_for_line(old, "is ready at")
        device, before = fuse_device(old.path), json.loads((old.path / ".config").read_text())
        fd = os.open(old.path / "f", os.O_RDWR | os.O_CREAT)
        os.write(fd, b"first, ")
        fcntl.flock(fd, fcntl.LOCK_EX)
        new.start()  # the mount point answers all the time
        assert old.process is not None and old.process.wait(20) == 0
        wait_for_line(new, "oing on with the mount")
        os.write(fd, b"second")
        assert os.pread(fd, 100, 0) == b"first, second"
        other = os.open(old.path / "f", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(other)
        os.close(fd)
        after = json.loads((old.path / ".config").read_text())
        assert (after["Meta"]["Sid"], after["PPid"]) == (before["Meta"]["Sid"], new.process and new.process.pid)
        assert fuse_device(old.path) == device
        old._forget()
        new.stop()
    finally:
        for mount in (old, new):
            if mount.process is not None and mount.process.poll() is None:
                mount.kill()


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (("-o", "writeback_cache"), "different options, mount on top of it: EnableWriteback"),
        (("--read-only",), "read-only False != True, mount on top of it"),
    ],
)
def test_other_options_are_mounted_on_top(scratch: Path, options: tuple[str, ...], difference: str) -> None:
    need_fuse()
    volume = Volume(scratch / "vol").format()
    old, new = Mount(volume, scratch / "mnt").start(), Mount(volume, scratch / "mnt", options)
    try:
        wait_for_line(old, "is ready at")
        new.start()
        wait_for_line(new, difference)
        wait_for_line(new, "is ready at")
        assert old.process is not None and old.process.poll() is None
    finally:
        for mount in (new, old):
            if mount.process is not None and mount.process.poll() is None:
                mount.kill()


def test_a_request_that_was_done_before_is_not_refused() -> None:
    """What is there and new was made by the request; what is old, or of another kind, was not."""

    def asked(kind: int, age_s: float, op: str = "mkdir", number: int = errno.EEXIST, died_s: float = 0) -> object:
        attr = Attr(type=kind, ctime=int(time.time() - age_s))
        meta = SimpleNamespace(lookup=lambda *_: (7, attr))
        vfs = SimpleNamespace(meta=meta, entry=lambda ino, attr: ino, lost_since=time.time() - died_s)
        return answer_again(vfs, op, None, (1, b"name", 0o755, 0), Refused(number))  # type: ignore[arg-type]

    assert asked(DIRECTORY, 0) == 7
    assert asked(DIRECTORY, 0, "unlink", errno.ENOENT) is None
    assert asked(DIRECTORY, 400, died_s=300) == 7  # the database was away for long
    for kind, age_s, op, number in (
        (FILE, 0, "mkdir", errno.EEXIST), (DIRECTORY, 3600, "mkdir", errno.EEXIST), (FILE, 0, "unlink", errno.EACCES),
    ):  # fmt: skip
        with pytest.raises(Refused) as caught:
            asked(kind, age_s, op, number)
        assert caught.value.errno == number


def test_an_attribute_that_was_set_before_is_not_refused() -> None:
    """`XATTR_CREATE` sent again: what is there is ours if it has our value."""
    meta = SimpleNamespace(getxattr=lambda *_: b"value")
    vfs = SimpleNamespace(meta=meta)

    def asked(value: bytes) -> object:
        return answer_again(vfs, "setxattr", None, (1, b"user.a", value, 1), Refused(errno.EEXIST))  # type: ignore[arg-type]

    assert asked(b"value") is None
    with pytest.raises(Refused):
        asked(b"other")
