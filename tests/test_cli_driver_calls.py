"""The command lines that the CSI driver runs, word by word: their streams, exit codes and the texts it looks for.

Not the mounts that it makes (`test_cli_helper`, `test_mount_process`). Commands run through a shell where the driver
does so.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mounts import Mount, Volume, environment

from meta.engines import open_engine

UUID = re.compile(r'"UUID": "(.*)"')
"""What the driver looks for in stdout and stderr together; it takes what stands behind the third quote."""
VERSION = re.compile(r"version (\d+)\.(\d+)\.(\d+)")
NOTICED_S = 15


class Image:
    """A mount image: `juicefs` and `mount.juicefs` on the PATH, and a shell."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.url = f"sqlite3://{directory}/meta.db"
        self.bin = directory / "bin"
        self.bin.mkdir()
        for name in ("juicefs", "mount.juicefs"):
            script = self.bin / name
            script.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{_START}' {name} \"$@\"\n")
            script.chmod(0o755)

    def shell(self, script: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a script; $metaurl is the volume's address."""
        path = f"{self.bin}:{os.environ['PATH']}"
        return subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, timeout=timeout_s, cwd="/",
            env={**environment(), "PATH": path, "metaurl": self.url},
        )  # fmt: skip

    def ok(self, script: str, timeout_s: float = 60) -> str:
        """Run what must go well; both streams together, as the driver reads them."""
        done = self.shell(script, timeout_s)
        assert done.returncode == 0, done
        return done.stdout + done.stderr

    def fails(self, script: str) -> str:
        """Run what must not, with exit code 1."""
        done = self.shell(script)
        assert done.returncode == 1 and "Traceback" not in done.stderr, done
        return done.stdout + done.stderr

    def format(self) -> None:
        options = f"--storage=file --bucket={self.directory}/data"
        self.ok(f"juicefs format --no-update {options} $metaurl myjfs --trash-days=0")


_START = "import sys; from juicefs_py.cli.app import run; sys.exit(run(sys.argv[1:]))"


@pytest.fixture
def image(scratch: Path) -> Image:
    return Image(scratch)


def uuid_of(output: str) -> str:
    found = UUID.search(output)
    assert found, output
    return found[0].split('"')[3]


def test_version_is_new_enough_for_quotas(image: Image) -> None:
    done = image.shell("juicefs version")
    match = VERSION.search(done.stdout)
    assert done.returncode == 0 and done.stderr == "" and match
    assert tuple(map(int, match.groups())) >= (1, 3, 0)
    assert "dev" not in done.stdout and "nightly" not in done.stdout


@pytest.mark.parametrize("command", ["config", "status"])
def test_an_unformatted_volume(image: Image, command: str) -> None:
    assert "database is not formatted" in image.fails(f"juicefs {command} $metaurl")
    assert not Path(image.url.removeprefix("sqlite3://")).exists()


@pytest.mark.parametrize("command", ["config", "status"])
def test_the_uuid_is_the_first_that_is_found(image: Image, command: str) -> None:
    image.format()
    began = time.monotonic()
    output = image.ok(f"juicefs {command} $metaurl", timeout_s=16)
    assert time.monotonic() - began < 4, "the webhook gives it four seconds"
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", uuid_of(output))
    assert len(UUID.findall(output)) == 1


def test_format_again_and_again(image: Image) -> None:
    image.format()
    before = image.ok("juicefs config $metaurl --log-level=error")
    image.ok("juicefs format --no-update --storage=file --bucket=/nowhere $metaurl myjfs --trash-days=9")
    image.ok(f"juicefs format --storage=file --bucket={image.directory}/data --trash-days=0 $metaurl myjfs", 16)
    assert image.ok("juicefs config $metaurl --log-level=error") == before


def test_several_formats_at_once(image: Image) -> None:
    """The driver makes the volume and publishes it at the same time; all are told that it is there."""
    options = f"--storage=file --bucket={image.directory}/data --trash-days=0"
    one = f"juicefs format {options} $metaurl myjfs"
    image.ok(
        f'pids=; for i in 1 2 3 4; do {one} & pids="$pids $!"; done; for pid in $pids; do wait $pid || exit 1; done'
    )
    uuid_of(image.ok("juicefs config $metaurl"))


def quota(path: str, capacity: int, create: bool = True) -> str:
    """How the driver sets one."""
    return (
        f"sh -c \"umask 000; juicefs quota set '$metaurl' --path {path} --capacity {capacity}"
        + (" --create" if create else "")
        + '"'
    )


def test_a_volume_of_its_own_with_a_quota(image: Image) -> None:
    image.format()
    image.ok(quota("/pvc-1/sub", 1))
    image.ok(quota("/pvc-1/sub", 1))
    image.ok(quota("/pvc-1/sub", 3, create=False))
    engine = open_engine(image.url)
    try:
        (path, (ino, limits)) = ("/pvc-1/sub", next(iter(engine.reader.quotas("dir").items())))
        parent = engine.reader.entry(1, b"pvc-1")
        assert parent is not None and engine.reader.entry(parent.ino, b"sub") == (2, ino), path
        assert limits.max_space == 3 << 30
        for each in (parent.ino, ino):
            attr = engine.reader.attr(each)
            assert attr is not None and stat.S_IMODE(attr.mode) == 0o777
    finally:
        engine.close()


def test_a_quota_that_cannot_be_set(image: Image) -> None:
    assert "database is not formatted" in image.fails(quota("/pvc", 1))
    image.format()
    output = image.fails(quota("/missing", 1, create=False))
    assert "resolve dir /missing: no such file or directory" in output
    assert "No help topic for 'quota'" not in output and "invalid command: quota" not in output


def test_quota_alone(image: Image) -> None:
    done = image.shell("juicefs quota")
    assert done.returncode == 0 and "--create" in done.stderr and "--create" in done.stdout


def test_a_command_that_does_not_exist(image: Image) -> None:
    done = image.shell("juicefs auth myjfs")
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "No help topic for 'auth'\n")


@pytest.fixture
def mounted(image: Image, new_mount: Callable[..., Mount]) -> Path:
    """The volume of the image, mounted; notices changes within a second or two."""
    image.format()
    volume = Volume(image.directory, url=image.url, name="myjfs")
    return new_mount(volume=volume, options=("--heartbeat", "1")).path


def test_df_shows_the_quota_of_a_sub_path(image: Image, mounted: Path) -> None:
    for gib in (1, 2):
        image.ok(quota("/pvc", gib))
        deadline = time.monotonic() + NOTICED_S
        while os.statvfs(mounted / "pvc").f_blocks * os.statvfs(mounted).f_frsize != gib << 30:
            assert time.monotonic() < deadline, "a mount does not notice the new size"
            time.sleep(0.2)
        assert f"{gib}.0G" in image.ok(f"df -h {mounted}/pvc")
    assert "JuiceFS:myjfs" in image.ok(f"df -h {mounted}/pvc")


def test_snapshot_restore_delete(image: Image, mounted: Path) -> None:
    image.ok(f"mkdir -m 777 {mounted}/src; cd {mounted}/src; echo one > f; chown 5:6 f; chmod 640 f")
    snapshot = f"{mounted}/.snapshots/src/snap"
    script = f"set -ex; mkdir -p {mounted}/.snapshots/src; juicefs clone -p {mounted}/src {snapshot}"
    image.ok(script)
    image.ok(f"echo two > {mounted}/src/f; juicefs clone -p {snapshot} {mounted}/restored")
    kept = os.stat(mounted / "restored" / "f")
    assert (kept.st_uid, kept.st_gid, stat.S_IMODE(kept.st_mode)) == (5, 6, 0o640)
    assert (mounted / "restored" / "f").read_text() == "one\n"
    assert "already exists" in image.fails(script)
    image.ok(f"juicefs rmr {snapshot}")
    assert not os.path.exists(snapshot)


def test_delete_volume(image: Image, mounted: Path) -> None:
    """The job that removes a volume: when `rmr` returns, all is committed."""
    image.ok(f"mkdir -p {mounted}/pvc/a/b; echo x > {mounted}/pvc/a/b/c")
    job = f"if [ -d {mounted}/pvc ]; then juicefs rmr {mounted}/pvc; fi;"
    image.ok(job)
    image.ok(job)
    engine = open_engine(image.url)
    assert engine.reader.entry(1, b"pvc") is None
    engine.close()


@pytest.mark.parametrize("check", ["true", "false"])
def test_warmup_from_the_dashboard(image: Image, mounted: Path, check: str) -> None:
    (mounted / "f").write_bytes(b"x" * 100_000)
    output = image.ok(f"juicefs warmup --threads=5 --background=false --check={check} --no-color {mounted}")
    assert ("check cache: 1 files checked" if check == "true" else "warmup cache: 1 files") in output
    assert "\x1b[" not in output
