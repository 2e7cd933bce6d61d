"""Mount options on real mounts: what `-o` brings, who one is, what is seen, fstab and mount(8), and what goes wrong.

Not here: how a list becomes a command line (test_cli_helper).
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mounts import PROGRAM, Mount, Volume, environment, fuse_device, juicefs
from needs import need, need_fuse, need_pyfuse3, need_root

pytestmark = pytest.mark.battery

NOBODY = 65534


def as_user(uid: int, program: str, *arguments: object) -> str:
    """What a Python program prints when that user runs it."""
    drop = f"import os, sys; os.setgroups([]); os.setgid({uid}); os.setuid({uid})\n"
    done = subprocess.run(
        [sys.executable, "-c", drop + program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


TRY = """
try:
    {call}
    print("ok")
except OSError as error:
    print(error.strerror)
"""


def test_root_squash(new_mount: Callable[..., Mount]) -> None:
    root = new_mount(options=("--root-squash", "1234:1235")).path
    os.mkdir(root / "made")
    found = os.stat(root / "made")
    assert (found.st_uid, found.st_gid) == (1234, 1235)
    as_user(777, "open(sys.argv[1], 'w').close()", root / "others")
    assert os.stat(root / "others").st_uid == 777  # only root is mapped
    os_error = as_user(0, TRY.format(call="open(sys.argv[1], 'w')"), root / "others")
    assert os_error == os.strerror(errno.EACCES)


def test_all_squash(new_mount: Callable[..., Mount]) -> None:
    root = new_mount(options=("--all-squash", "1234:", "--root-squash", "9:9")).path  # the first one wins
    for uid in (0, 777):
        as_user(uid, "open(sys.argv[1], 'w').close(); os.chmod(sys.argv[1], 0o600)", root / str(uid))
        found = os.stat(root / str(uid))
        assert (found.st_uid, found.st_gid) == (1234, NOBODY)
    assert as_user(778, "print(open(sys.argv[1]).read() == '')", root / "777") == "True"  # another name, the same user


@pytest.mark.parametrize(("mask", "file_mode", "directory_mode"), [("027", 0o640, 0o750), ("0", 0o666, 0o777)])
def test_umask(mask: str, file_mode: int, directory_mode: int, new_mount: Callable[..., Mount]) -> None:
    """Instead of the program's own, whether it takes more away or less."""
    root = new_mount(options=("--umask", mask)).path
    before = os.umask(0o077)
    try:
        os.close(os.open(root / "f", os.O_CREAT | os.O_WRONLY, 0o666))
        os.mkdir(root / "d", 0o777)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(root / "f").st_mode) == file_mode
    assert stat.S_IMODE(os.stat(root / "d").st_mode) == directory_mode


@pytest.mark.parametrize("door", ["native", "pyfuse3"])
def test_internal_files(door: str, new_mount: Callable[..., Mount]) -> None:
    if door == "pyfuse3":
        need_pyfuse3()
    volume_names = {".accesslog", ".config", ".stats", ".trash"}
    plain = new_mount(options=("--fuse", door))
    assert set(os.listdir(plain.path)) == volume_names
    hidden = new_mount(options=("--hide-internal", "--fuse", door, "--metrics", "127.0.0.1:0"))
    assert os.listdir(hidden.path) == []
    assert json.loads((hidden.path / ".config").read_text())["HideInternal"] is True
    prefixed = new_mount(options=("--prefix-internal", "--fuse", door, "--metrics", "127.0.0.1:0"))
    assert set(os.listdir(prefixed.path)) == {f".jfs{name}" for name in volume_names}
    assert not (prefixed.path / ".config").exists()
    assert json.loads((prefixed.path / ".jfs.config").read_text())["PrefixInternal"] is True


@pytest.mark.parametrize("words", [("--read-only",), ("-o", "ro")])
@pytest.mark.parametrize("door", ["native", "pyfuse3"])
def test_read_only(words: tuple[str, ...], door: str, new_mount: Callable[..., Mount]) -> None:
    if door == "pyfuse3":
        need_pyfuse3()
    first = new_mount()
    (first.path / "f").write_text("x")
    second = new_mount(volume=first.volume, options=(*words, "--fuse", door))
    assert (second.path / "f").read_text() == "x"
    for call in (lambda: (second.path / "g").touch(), lambda: (second.path / "f").unlink(),
                 lambda: os.chmod(second.path / "f", 0), lambda: (second.path / "f").open("w")):  # fmt: skip
        with pytest.raises(OSError) as raised:
            call()
        assert raised.value.errno == errno.EROFS
    sessions = json.loads(juicefs("status", first.volume.url).stdout)["Sessions"]
    assert [session["MountPoint"] for session in sessions] == [str(first.path)]


@pytest.mark.parametrize(("given", "size"), [("128K", 128 << 10), ("1M", 1 << 20), ("4096", 4096)])
def test_max_fuse_io(given: str, size: int, new_mount: Callable[..., Mount]) -> None:
    """Seen in the access log: no write of the kernel is larger, and the largest is exactly that."""
    root = new_mount(options=("--max-fuse-io", given)).path
    log = os.open(root / ".accesslog", os.O_RDONLY)
    os.read(log, 1 << 16)
    fd = os.open(root / "f", os.O_CREAT | os.O_WRONLY)
    os.write(fd, b"x" * (1 << 20))  # pages that are there: the kernel ends a request where it must fetch one
    os.close(fd)
    seen: list[int] = []
    deadline = time.monotonic() + 10
    while sum(seen) < 1 << 20 and time.monotonic() < deadline:
        lines = os.read(log, 1 << 20).decode().splitlines()
        seen += [int(line.partition("write (")[2].split(",")[1]) for line in lines if " write (" in line]
    os.close(log)
    assert sum(seen) == 1 << 20
    assert max(seen) == size


# -- mount(8), fstab


@pytest.fixture
def helper_installed() -> None:
    """mount(8) finds helpers in /sbin only; ours is put there within a mount namespace, so that nobody else sees it."""
    need_root()
    need_fuse()
    need("unshare", "mount", "findmnt")


def in_namespace(scratch: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script where /sbin/mount.juicefs is ours; what it mounts is gone with it."""
    helper = scratch / "mount.juicefs"
    helper.write_text(f'#!/bin/sh\nexport CALL_VIA_MOUNT=1\nexec {" ".join(PROGRAM)} "$@"\n')
    helper.chmod(0o755)
    target = os.path.realpath("/sbin")
    overlay = f"""set -e
mkdir -p {scratch}/sbin
mount -t tmpfs none {scratch}/sbin
cp -a {target}/. {scratch}/sbin/
cp {helper} {scratch}/sbin/mount.juicefs
mount --bind {scratch}/sbin {target}
{script}
"""
    environ = {**environment(), "PATH": os.environ["PATH"]}
    return subprocess.run(
        ["unshare", "-m", "bash", "-c", overlay], env=environ, capture_output=True, text=True, timeout=120, cwd="/"
    )


def test_mount_8(scratch: Path, helper_installed: None) -> None:
    """`mount -a` mounts what the table says, once; findmnt shows it; umount takes it away, and both processes end."""
    volume = Volume(scratch / "vol").format()
    point = scratch / "mnt"
    point.mkdir()
    options = f"_netdev,nofail,cache-dir={volume.cache},log={scratch}/log,metrics=127.0.0.1:0,token=secret,ro"
    (scratch / "fstab").write_text(f"{volume.url}  {point}  juicefs  {options}  0 0\n")
    done = in_namespace(
        scratch,
        f"""
mount -a -T {scratch}/fstab
findmnt -n -o SOURCE,FSTYPE {point}
pid=$(sed -n 's/.*"Pid": \\([0-9]*\\).*/\\1/p' {point}/.config)
touch {point}/f 2>&1 | grep -o 'Read-only file system'
umount {point}
for i in $(seq 100); do [ -e /proc/$pid ] || break; sleep 0.1; done
[ -n "$pid" ] && [ ! -e /proc/$pid ] && echo ended
mount -t juicefs -o {options.removesuffix(",ro")} {volume.url} {point}
echo hello > {point}/f
umount -t fuse.juicefs {point}
ls -A {point} | wc -l
mount -t juicefs -o cache-size {volume.url} {point} 2>&1 | grep -o 'option cache-size requires a value'
""",
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.strip(".")] == [  # a dot for each second of waiting
        "JuiceFS:testvol fuse.juicefs", "Read-only file system", "ended", "0", "option cache-size requires a value",
    ]  # fmt: skip
    assert "-o token belongs to the Enterprise Edition and is ignored" in done.stderr
    assert "secret" not in done.stderr + (scratch / "log").read_text()


# -- what goes wrong: one line, exit 1, no mount left


def refused(volume: Volume, point: Path, *words: str) -> str:
    """The only complaint of a mount in the background that must not come to be."""
    command = (*PROGRAM, "mount", "-d", volume.url, str(point), "--log", str(volume.directory / "log"), *words)
    done = subprocess.run(command, env=environment(), cwd="/", capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert fuse_device(point) is None
    complaints = [line for line in done.stderr.splitlines() if "<FATAL>" in line]
    assert len(complaints) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return complaints[0]


def test_an_option_that_the_kernel_refuses(scratch: Path, helper_installed: None) -> None:
    volume = Volume(scratch / "vol").format()
    message = refused(volume, scratch / "mnt", "-o", "nosuchword", "--cache-dir", str(volume.cache))
    assert "nosuchword" in message
    assert "Invalid argument" in message


def test_a_door_that_does_not_exist(scratch: Path, helper_installed: None) -> None:
    volume = Volume(scratch / "vol").format()
    assert 'unknown --fuse "fuse2"; choose native or pyfuse3' in refused(volume, scratch / "mnt", "--fuse", "fuse2")


def test_a_chosen_port_that_is_taken(scratch: Path, new_mount: Callable[..., Mount]) -> None:
    """The mount is worth more than its metrics."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        mount = new_mount(options=("--metrics", address))
        mount.expected.append(address)
        (mount.path / "f").write_text("x")
        assert re.search(f"ERROR.*{address}", mount.read_log())


def test_a_dead_mount_below(scratch: Path, new_mount: Callable[..., Mount]) -> None:
    """The kernel says "Transport endpoint is not connected" for what a killed mount left; it is taken away first."""
    dead = new_mount()
    (dead.path / "f").write_text("x")
    for pid in dead.pids():
        os.kill(pid, signal.SIGKILL)
    assert dead.process is not None
    dead.process.wait(10)
    seen = None
    deadline = time.monotonic() + 10
    while seen != errno.ENOTCONN and time.monotonic() < deadline:  # while the descriptors are closed, another one
        try:
            os.stat(dead.path)
        except OSError as error:
            seen = error.errno
    assert seen == errno.ENOTCONN
    words = ("--cache-dir", str(dead.volume.cache), "--log", str(scratch / "log"))
    done = juicefs("mount", "-d", dead.volume.url, str(dead.path), *words)
    assert "is broken" in done.stderr
    assert (dead.path / "f").read_text() == "x"
    juicefs("umount", str(dead.path))
    assert fuse_device(dead.path) is None
    dead.kill()  # nothing lives; it is no longer waited for


def test_a_cache_directory_that_cannot_be_made(scratch: Path, new_mount: Callable[..., Mount]) -> None:
    """A file is in its way: not even root can. The volume is served without."""
    (scratch / "file").write_text("")
    mount = new_mount(options=("--cache-dir", str(scratch / "file")))
    mount.expected += [f"cache directory {scratch / 'file'}.*cannot be used", "no cache directory can be used"]
    (mount.path / "f").write_text("x" * 100)
    assert (mount.path / "f").read_text() == "x" * 100
    assert str(scratch / "file") in mount.read_log()
