"""A volume mounted read-only: every change is EROFS, reading goes on, and nothing reaches the volume.

Stands in for pjdfstest's EROFS cases, which would remount.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from mounts import Mount

pytestmark = pytest.mark.battery

CHANGES: dict[str, Callable[[Path], object]] = {
    "open for writing": lambda root: os.open(root / "file", os.O_WRONLY),
    "open and truncate": lambda root: os.open(root / "file", os.O_RDONLY | os.O_TRUNC),
    "create": lambda root: os.open(root / "new", os.O_CREAT | os.O_WRONLY),
    "mkdir": lambda root: os.mkdir(root / "new"),
    "mkfifo": lambda root: os.mkfifo(root / "new"),
    "symlink": lambda root: os.symlink("target", root / "new"),
    "link": lambda root: os.link(root / "file", root / "new"),
    "unlink": lambda root: os.unlink(root / "file"),
    "rmdir": lambda root: os.rmdir(root / "folder"),
    "rename": lambda root: os.rename(root / "file", root / "new"),
    "chmod": lambda root: os.chmod(root / "file", 0o600),
    "chown": lambda root: os.chown(root / "file", 1, 1),
    "lchown": lambda root: os.chown(root / "file", 1, 1, follow_symlinks=False),
    "truncate": lambda root: os.truncate(root / "file", 1),
    "utime": lambda root: os.utime(root / "file", (1, 1)),
    "setxattr": lambda root: os.setxattr(root / "file", "user.a", b"1"),
    "removexattr": lambda root: os.removexattr(root / "file", "user.kept"),
}


@pytest.mark.parametrize("options", [("--read-only",), ("-o", "ro")], ids=["flag", "mount-option"])
def test_every_change_is_refused(options: tuple[str, ...], new_mount: Callable[..., Mount]) -> None:
    mount = new_mount("sqlite", ("--enable-xattr",))
    (mount.path / "file").write_text("content")
    os.setxattr(mount.path / "file", "user.kept", b"1")
    (mount.path / "folder").mkdir()
    mount.stop()
    mount.options = ("--enable-xattr", *options)
    mount.start()
    for name, change in CHANGES.items():
        with pytest.raises(OSError) as raised:
            change(mount.path)
        assert raised.value.errno == errno.EROFS, name
    assert (mount.path / "file").read_text() == "content"
    assert os.getxattr(mount.path / "file", "user.kept") == b"1"
    assert {"file", "folder"} <= set(os.listdir(mount.path))
    assert "new" not in os.listdir(mount.path)
