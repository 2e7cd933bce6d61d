"""`juicefs clone`: what it asks of a mount, what it refuses by itself, and clones on real mounts of every engine."""

from __future__ import annotations

import errno
import os
import stat
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from control_server import PROGRESS, Server
from mounts import Mount, juicefs
from test_cli_bad_input import refused
from trees import differences, snapshot
from varied_tree import fill

from juicefs_py.cli import app
from juicefs_py.cli.control_client import CLONE
from juicefs_py.cli.umask import umask
from juicefs_py.commands import clone
from meta.engines import open_engine
from meta.rules.check import check


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[bytes], Server]]:
    """Clones below tmp_path, which counts as a mount, answered by script."""
    servers: list[Server] = []

    def serve(answer: bytes) -> Server:
        servers.append(Server([answer]))
        monkeypatch.setattr(clone, "open_control", servers[-1].open)
        return servers[-1]

    monkeypatch.setattr(clone, "_mount_of", lambda directory: str(tmp_path))
    (tmp_path / "src").mkdir()
    yield serve
    for server in servers:
        server.close()


@pytest.mark.parametrize(("words", "threads", "mode"), [
    ((), 4, 0), (("-p",), 4, 2), (("--preserve", "--threads", "999"), 255, 2), (("--threads=-3",), 1, 0),
])  # fmt: skip
def test_what_it_sends(served: Any, tmp_path: Path, words: tuple[str, ...], threads: int, mode: int) -> None:
    server = served(PROGRESS + b"\0")
    before = os.umask(0o027)
    try:
        assert umask() == 0o027
        assert app.run(["juicefs", "clone", str(tmp_path / "src"), f"{tmp_path}/é", *words]) == 0
    finally:
        os.umask(before)
    parent = tmp_path.stat().st_ino
    head = struct.pack(">QQQB", (tmp_path / "src").stat().st_ino, parent, parent, 2)
    assert server.asked == [(CLONE, head + "é".encode() + struct.pack(">HBB", 0o027, mode, threads))]


def test_a_target_that_ends_with_a_slash_is_a_directory(served: Any, tmp_path: Path) -> None:
    server = served(b"\0")
    (tmp_path / "into").mkdir()
    assert app.run(["juicefs", "clone", f"{tmp_path}/src", f"{tmp_path}/into/"]) == 0
    body = server.asked[0][1]
    assert struct.unpack(">Q", body[16:24]) == ((tmp_path / "into").stat().st_ino,) and body[24:28] == b"\x03src"


def test_the_answer_of_the_mount_is_told(served: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served(bytes((errno.EDQUOT,)))
    assert app.run(["juicefs", "clone", f"{tmp_path}/src", f"{tmp_path}/dst"]) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and "<FATAL>: clone failed: disk quota exceeded" in printed.err


@pytest.mark.parametrize("engine", ["sqlite", "redis", "memkv"])
def test_a_tree_is_the_same_afterwards(new_mount: Callable[..., Mount], engine: str) -> None:
    mount = new_mount(engine, ("--enable-xattr",))
    source = mount.path / "source"
    source.mkdir()
    fill(source, 60)
    done = juicefs("clone", "-p", str(source), str(mount.path / "copy"))
    assert (done.stdout, done.stderr) == ("", "")
    juicefs("clone", str(source), str(mount.path / "own"), "--threads", "8")
    links_broken = {name: node._replace(same_as="") for name, node in snapshot(source).items()}
    assert not differences(links_broken, snapshot(mount.path / "copy"))
    for name in ("copy", "own"):
        assert os.stat(mount.path / name).st_nlink == os.stat(source).st_nlink
        assert (mount.path / name).stat().st_ino != source.stat().st_ino
    juicefs("rmr", str(source), str(mount.path / "copy"))
    assert len(os.listdir(mount.path / "own")) > 5
    if engine != "memkv":
        mount.stop()
        opened = open_engine(mount.volume.url)
        assert check(opened) == []
        opened.close()


def test_a_quota_that_has_no_room_leaves_nothing(new_mount: Callable[..., Mount]) -> None:
    mount = new_mount(options=("--heartbeat", "1"))
    juicefs("quota", "set", mount.volume.url, "--path", "/small", "--inodes", "5", "--create")
    (mount.path / "big").mkdir()
    for number in range(8):
        (mount.path / "big" / str(number)).write_bytes(b"x")
    deadline = time.monotonic() + 15
    while os.statvfs(mount.path / "small").f_files > 5:  # what is done before the mount knows the quota is not counted
        assert time.monotonic() < deadline, "a mount does not notice a quota"
        time.sleep(0.2)
    done = juicefs("clone", str(mount.path / "big"), f"{mount.path}/small/", check=False)
    assert done.returncode == 1 and "clone failed: disk quota exceeded" in done.stderr
    assert os.listdir(mount.path / "small") == []


def test_mistakes(new_mount: Callable[..., Mount], scratch: Path) -> None:
    top = new_mount().path
    (top / "d").mkdir()
    (top / "f").write_bytes(b"x")
    (top / "hanging").symlink_to("nowhere")
    outside = scratch / "outside"
    outside.mkdir()
    for source, target, text in (
        (top / "d", top / "f", "f already exists"),
        (top / "d", top / "hanging", "hanging already exists"),
        (top / "none", top / "x", f"lookup inode for {top}/none: no such file or directory"),
        (top / "d", top / "none" / "x", f"lookup inode for {top}/none: no such file or directory"),
        (top / "d", top / "f" / "x", "not a directory"),
        (top / "d", top / "d" / "x", "should not be under the SRC path"),
        (top / "d", outside / "x", f"{outside} is not inside JuiceFS"),
        (outside, top / "x", f"{outside} is not inside JuiceFS"),
        (top / "d", top / ("n" * 256), "file name too long"),
    ):
        assert text.lower() in refused("clone", str(source), str(target)).lower()
    assert sorted(name for name in os.listdir(top) if name[0] != ".") == ["d", "f", "hanging"]
    assert os.listdir(top / "d") == []


def test_between_two_mounts(new_mount: Callable[..., Mount]) -> None:
    one, other = new_mount().path, new_mount().path
    (one / "f").write_bytes(b"x")
    assert "should be at the same mount point" in refused("clone", str(one / "f"), str(other / "g"))


def test_a_symlink_is_cloned_as_one(new_mount: Callable[..., Mount]) -> None:
    top = new_mount().path
    (top / "d").mkdir()
    (top / "link").symlink_to("d")
    juicefs("clone", str(top / "link"), str(top / "copy"))
    assert os.readlink(top / "copy") == "d" and stat.S_ISLNK(os.lstat(top / "copy").st_mode)
