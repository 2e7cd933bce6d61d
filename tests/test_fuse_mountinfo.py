"""Mount options, mountinfo lines, and mounting through the setuid helper.

Not here: what a mount can do (test_fuse_mount).
"""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest
from needs import need, need_fuse

from bench.memfs import MemFS
from fuse import mount as mounting
from fuse.errors import MountError
from fuse.mount import MountOptions, unmount
from fuse.mountinfo import Mount, find_mount, is_mounted, parse
from fuse.session import Session


def test_options_are_sorted_out() -> None:
    words = [
        "ro",
        "suid",
        "noatime",
        "allow_other",
        "nonempty",
        "_netdev",
        "x-systemd.automount",
        "max_read=4096",
        "rw",
    ]
    options = MountOptions("JuiceFS:a,b", "juicefs", words, allow_other=True)
    assert options.flags() == mounting.MS_NODEV | mounting.MS_NOATIME
    assert options.module_options() == ["allow_other", "max_read=4096", "default_permissions"]
    assert MountOptions(read_only=True, default_permissions=False, max_read=1).module_options() == ["max_read=1"]
    assert MountOptions(read_only=True).flags() & mounting.MS_RDONLY


def test_mountinfo_line() -> None:
    line = (
        r"42 27 0:39 / /mnt/a\040b\134c rw,nosuid shared:2 master:1 - fuse.juicefs JuiceFS:x\040y rw,user_id=0" + "\n"
    )
    assert parse(line) == Mount(
        42, 0, 39, "/mnt/a b\\c", "fuse.juicefs", "JuiceFS:x y", "rw,nosuid", "rw,user_id=0"
    )  # fmt: skip


def test_what_is_mounted(tmp_path: Path) -> None:
    assert is_mounted("/proc", "proc") and not is_mounted("/proc", "ext4")
    assert find_mount(str(tmp_path)) is None
    (tmp_path / "link").symlink_to("/")
    assert is_mounted(str(tmp_path / "link/proc"))


def test_helper_mounts_and_unmounts(tmp_path: Path) -> None:
    """fusermount3, as a user without rights would use it."""
    need_fuse()
    need("fusermount3")
    options = MountOptions("with,comma", "memfs", ["noatime"], allow_other=True, max_read=65536)
    fd = mounting._mount_with_helper(str(tmp_path), options)
    assert not os.get_inheritable(fd)
    session = Session(MemFS(), fd)
    thread = threading.Thread(target=session.run)
    thread.start()
    (tmp_path / "f").write_bytes(b"x")
    found = find_mount(str(tmp_path))
    assert found is not None and (found.fstype, found.source) == ("fuse.memfs", "with,comma")
    assert "max_read=65536" in found.super_options and "noatime" in found.options
    unmount(str(tmp_path))
    thread.join(10)
    assert session.unmounted
    os.close(fd)


def test_helper_says_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("fusermount3")
    with pytest.raises(MountError, match="fusermount3: "):
        mounting._mount_with_helper(str(tmp_path), MountOptions(options=["no_such_option"]))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MountError, match="neither fusermount3 nor fusermount is installed"):
        mounting._mount_with_helper(str(tmp_path), MountOptions())
