"""`juicefs warmup` on real mounts, and against mounts of every age that answer by script.

Not here: what the mount does about it (`test_vfs_warmup`).
"""

from __future__ import annotations

import errno
import os
import re
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import end_all
from control_server import PROGRESS, Server, result
from go_client import GoMount, go_format, is_old
from mounts import PROGRAM, Mount, Volume, environment, juicefs
from needs import need_fuse

from juicefs_py.cli import app
from juicefs_py.cli.control_client import FILL_CACHE
from juicefs_py.commands import warmup

MIB = 1 << 20
CLONE = 1006


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    """One mount for all tests of this module, each of which works in a directory of its own."""
    need_fuse()
    directory = tmp_path_factory.mktemp("warmup")
    made = Mount(Volume(directory / "vol", format_options=("--trash-days", "0")).format(), directory / "mnt")
    made.start()
    yield made
    end_all([made])


@pytest.fixture
def place(mount: Mount, request: pytest.FixtureRequest) -> Path:
    path = mount.path / re.sub(r"\W", "_", request.node.name)
    path.mkdir()
    return path


def fill(place: Path, files: int = 3, size: int = 5 * MIB) -> list[Path]:
    """Files of two blocks each."""
    made = [place / f"f{number}" for number in range(files)]
    for path in made:
        path.write_bytes(os.urandom(size))
    return made


def said(*words: str | Path, code: int = 0) -> str:
    """What the command says to a person: messages of its log lines, without their heads and tails."""
    done = juicefs("warmup", *map(str, words), check=False)
    assert done.returncode == code, done.stderr
    lines = re.findall(r"<(\w+)>: (.*) \[\w+@[\w.]+:\d+\]$", done.stderr, re.M)
    return "\n".join(f"{level} {message}" for level, message in lines)


def test_a_cold_cache_is_filled_checked_and_emptied(mount: Mount, place: Path) -> None:
    fill(place)
    assert said(place, "--evict") == "INFO evict cache: 3 files (15 MiB bytes)"
    assert said(place, "--check") == "INFO check cache: 3 files checked, 0 B of 15 MiB (0.0%) cached"
    assert said(place) == "INFO warmup cache: 3 files (15 MiB bytes)"
    done = juicefs("warmup", "--check", str(place))
    assert "check cache: 3 files checked, 15 MiB of 15 MiB (100.0%) cached" in done.stderr
    (cache,) = (path for path in mount.volume.cache.iterdir() if path.is_dir())
    rows = [re.split(r" *\| *", line.strip("| ")) for line in done.stdout.splitlines() if line[0] == "|"]
    assert rows == [["Location", "Size", "Percentage"], [str(cache), "15 MiB", "100.0%"]]
    assert said(place / "f1", place / "f2", "--evict") == "INFO evict cache: 2 files (10 MiB bytes)"
    assert said("--check", place) == "INFO check cache: 3 files checked, 5.0 MiB of 15 MiB (33.3%) cached"


def test_a_file_that_was_warmed_up_is_read_without_its_bucket(mount: Mount, place: Path) -> None:
    (path,) = fill(place, 1)
    wanted = path.read_bytes()
    said(path, "--evict")
    said(path)
    os.rename(mount.volume.bucket / "testvol" / "chunks", mount.volume.directory / "away")
    try:
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(fd, len(wanted), 0) == wanted
        os.close(fd)
    finally:
        os.rename(mount.volume.directory / "away", mount.volume.bucket / "testvol" / "chunks")


def test_a_list_of_paths(place: Path, tmp_path: Path) -> None:
    paths = fill(place, 4, 10)
    listed = tmp_path / "list"
    listed.write_text(f"\n{paths[0]}\n   \n\t{paths[1]}  \r\n\n{place}/../{place.name}/f2\n\n")
    assert said("-f", listed) == "INFO warmup cache: 3 files (30 B bytes)"
    assert said(paths[3], "--file", listed) == "INFO warmup cache: 4 files (40 B bytes)"
    assert said("-f", tmp_path / "gone", code=1).startswith(
        f'FATAL Failed to open file "{tmp_path}/gone": no such file'
    )
    assert "is a directory" in said("-f", tmp_path, code=1)
    listed.write_text("\n \n")
    assert said("-f", listed) == "INFO no path"
    assert said() == "INFO no path"
    assert said(place, "--evict", "--check", code=1) == "FATAL --check and --evict can't be used together"
    assert said(place, "-p", "0").startswith("WARNING threads should be larger than 0, reset it to 1\nINFO warmup")


def test_paths_elsewhere_are_passed_over(mount: Mount, place: Path, tmp_path: Path) -> None:
    """By whole names: `mnt2` does not lie in `mnt`."""
    fill(place, 1, 10)
    beside = mount.path.with_name(mount.path.name + "2")
    beside.mkdir()
    (beside / "f").touch()
    answer = said(place, beside / "f", "/etc/passwd", place / "gone")
    assert answer.splitlines() == [
        f'ERROR Path "{beside}/f" is not under mount point "{mount.path}"',
        f'ERROR Path "/etc/passwd" is not under mount point "{mount.path}"',
        f"WARNING warmup cache: /{place.name}/gone: No such file or directory",
        "ERROR warmup cache: 1 failures (1 named above)",
        "INFO warmup cache: 1 files (10 B bytes)",
    ]
    assert said(place / "gone", code=1) == "FATAL warmup cache failed: no such file or directory"
    assert said(tmp_path, code=1) == f"FATAL open control file for {tmp_path}: not inside a JuiceFS mount"
    assert said(tmp_path / "gone" / "f", code=1).startswith("FATAL open control file for")


def test_symlinks_lead_where_they_should(mount: Mount, place: Path, tmp_path: Path) -> None:
    fill(place, 2, 10)
    (place / "link").symlink_to("f0")
    (place / "absolute").symlink_to(place)
    (tmp_path / "outside").symlink_to(place)
    (tmp_path / "mount").symlink_to(mount.path)
    assert said(place / "link") == "INFO warmup cache: 1 files (10 B bytes)"
    assert said(place) == "INFO warmup cache: 2 files (20 B bytes)", "links in a tree are not followed"
    assert said(place / "absolute") == "INFO warmup cache: 2 files (20 B bytes)"
    assert said(tmp_path / "outside", tmp_path / "outside" / "f1") == "INFO warmup cache: 3 files (30 B bytes)"
    through = tmp_path / "mount" / place.name / "f1"
    assert said(through, place / "f1") == "INFO warmup cache: 2 files (20 B bytes)"
    assert said(place / "f1", through) == "INFO warmup cache: 2 files (20 B bytes)"


def test_any_name_can_be_asked_for(place: Path, tmp_path: Path) -> None:
    strange = [b"line\nbreak", b"inode:5", b"\xff\xfe not UTF-8", "日本語 x".encode(), b"$HOME;*"]
    for name in strange:
        with open(os.fsencode(place) + b"/" + name, "wb") as file:
            file.write(b"x" * 10)
    for name in strange:
        words = (*PROGRAM, b"warmup", os.fsencode(place) + b"/" + name)
        done = subprocess.run(words, env=environment(), cwd="/", capture_output=True, check=True)
        assert b"warmup cache: 1 files (10 B bytes)" in done.stderr, name


def test_a_part_of_the_volume_that_is_mounted_elsewhere(place: Path, tmp_path: Path) -> None:
    """Nobody can tell its path from the root of the mount there: inodes are sent."""
    fill(place, 2, 10)
    bound = tmp_path / "bound"
    bound.mkdir()
    subprocess.run(["mount", "--bind", str(place), str(bound)], check=True)
    try:
        assert said(bound, bound / "f0") == "INFO warmup cache: 3 files (30 B bytes)"
        answer = said(bound / "f0", bound / "gone", "/etc/passwd")
        assert f'ERROR lookup inode for "{bound}/gone": no such file or directory' in answer
        assert f'ERROR Path "/etc/passwd" is not under mount point "{bound}"' in answer
        assert answer.endswith("INFO warmup cache: 1 files (10 B bytes)")
    finally:
        subprocess.run(["umount", str(bound)], check=True)


def test_in_the_background_it_goes_on_after_the_command(place: Path) -> None:
    fill(place, 2)
    said(place, "--evict")
    assert said(place, "--background") == "INFO warmup cache for 1 paths in background"
    deadline = time.monotonic() + 20
    while "(100.0%)" not in (answer := said("--check", place)):
        assert time.monotonic() < deadline, answer
        time.sleep(0.1)


def test_an_object_that_is_lost_is_told_and_the_others_are_fetched(mount: Mount, place: Path) -> None:
    fill(place, 3)
    shown = juicefs("info", str(place / "f1")).stdout
    lost = mount.volume.bucket / re.findall(r"testvol/chunks/\S+", shown)[1]
    lost.unlink()
    said(place, "--evict")
    mount.expected.append(rf"/{place.name}/f1: .*{lost.name}")
    warned, error, info = said(place).splitlines()
    assert f"/{place.name}/f1: " in warned and lost.name in warned
    assert error == "ERROR warmup cache: 1 failures (1 named above)"
    assert info == "INFO warmup cache: 3 files (14 MiB bytes)"
    assert said("--check", place).endswith("INFO check cache: 3 files checked, 14 MiB of 15 MiB (93.3%) cached")


@pytest.mark.battery
def test_ten_thousand_files(mount: Mount, place: Path) -> None:
    """In a modest time, and in the memory of a few."""
    fill(place, 100, 4096)
    copies = place.with_name("copies")
    copies.mkdir()
    with warmup.open_control(str(place)) as control:
        for number in range(100):
            name = b"%03d" % number
            source, target = place.stat().st_ino, copies.stat().st_ino
            body = struct.pack(">QQQB", source, mount.path.stat().st_ino, target, len(name)) + name
            assert control.call(CLONE, body + struct.pack(">HBB", 0o22, 0, 4), lambda *_: None)[0] == 0
    said(copies, "--evict")
    before, began = mount.rss_bytes(), time.monotonic()
    assert said(copies) == "INFO warmup cache: 10000 files (39 MiB bytes)"
    assert said(copies, "--check").endswith("10000 files checked, 39 MiB of 39 MiB (100.0%) cached")
    took, grown = time.monotonic() - began, (mount.rss_bytes() - before) / MIB
    print(f"10,000 files warmed up and checked in {took:.1f} s, {grown:.0f} MiB more memory")
    assert took < 60 and grown < 64


# mounts that answer by script


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def serve(*answers: bytes) -> Server:
        servers.append(Server(list(answers)))
        monkeypatch.setattr(warmup, "open_control", servers[-1].open)
        return servers[-1]

    yield serve
    for server in servers:
        server.close()


def run(*words: str | Path) -> int:
    return app.run(["juicefs", "warmup", *map(str, words)])


def asked(server: Server) -> list[tuple[list[bytes], int, int, int]]:
    """Of each request: paths, threads, background, action."""
    requests = []
    for opcode, body in server.asked:
        assert opcode == FILL_CACHE
        (length,) = struct.unpack_from(">I", body)
        requests.append((body[4 : 4 + length].split(b"\n"), *struct.unpack(">HBB", body[4 + length :])))
    return requests


def official(files: int, size: int, missing: int = 0, locations: dict[str, int] | None = None) -> bytes:
    """What a mount of the official client 1.2 or newer answers."""
    document: dict[str, Any] = {"FileCount": files, "SliceCount": files, "TotalBytes": size, "MissBytes": missing}
    return result({**document, "Locations": locations})


def test_requests_and_answers_of_an_official_mount(
    served: Callable[..., Server], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    number = b"inode:%d" % tmp_path.stat().st_ino
    server = served(PROGRESS + official(3, 15 * MIB))
    assert run(tmp_path, "-p", "7") == 0
    assert asked(server) == [([number], 7, 0, 0)]
    assert caplog.messages == ["warmup cache: 3 files (15 MiB bytes)"]
    server = served(official(0, 0), PROGRESS + official(3, 15 * MIB, 5 * MIB, {"/a": 4 * MIB, "/b": 6 * MIB}))
    assert run("--check", tmp_path, "-p", "70000") == 0
    assert asked(server)[1] == ([number], 65535, 0, 2)
    assert caplog.messages[1:] == [
        "threads should not be larger than 65535, reset it to that",
        "check cache: 3 files checked, 10 MiB of 15 MiB (66.7%) cached",
    ]


def test_long_lists_go_in_batches(
    served: Callable[..., Server], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listed = tmp_path / "list"
    listed.write_text(f"{tmp_path}\n" * 25_000)
    probe = official(0, 0)
    server = served(probe, official(10240, 1), official(10240, 1), official(4520, 1))
    assert run("-f", listed) == 0
    assert [len(paths) for paths, *_ in asked(server)] == [1, 10240, 10240, 4520]
    assert caplog.messages == ["warmup cache: 25000 files (3 B bytes)"]
    server = served(*[probe] * 4)
    assert run("-f", listed, "-b") == 0
    assert [background for _, _, background, _ in asked(server)] == [0, 1, 1, 1]
    assert caplog.messages[1:] == [f"warmup cache for {n} paths in background" for n in (10240, 10240, 4520)]


def test_an_old_mount_is_not_asked_for_what_it_takes_for_a_warm_up(
    served: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in ("--evict", "--check"):
        server = served(b"\0")
        assert run(tmp_path, option) == 1
        assert asked(server) == [([b"inode:0"], 1, 0, 2)]
        assert f"{option[2:]} cache: this mount is older than JuiceFS 1.2" in capsys.readouterr().err


def test_an_old_mount_warms_up_in_small_requests(
    served: Callable[..., Server], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listed = tmp_path / "list"
    listed.write_text(f"{tmp_path}\n" * 10_000)
    server = served(b"\0", *[b"\0"] * 4)
    assert run("-f", listed) == 0
    assert [len(paths) for paths, *_ in asked(server)] == [1, 2500, 2500, 2500, 2500]
    assert caplog.messages == ["warmup cache: 10000 paths; this old mount does not count files"]
    served(PROGRESS + b"\0")  # 1.0 and 1.1 do count
    assert run(tmp_path) == 0
    assert caplog.messages[1:] == ["warmup cache: 3 files (4.0 KiB bytes)"]


def test_a_mount_that_fails_or_knows_no_warm_up(
    served: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served(PROGRESS + bytes((errno.EIO,)))
    assert run(tmp_path) == 1
    assert "<FATAL>: warmup cache failed: input/output error [" in capsys.readouterr().err
    served(bytes((errno.EINVAL,)))
    assert run(tmp_path) == 1
    assert "<FATAL>: warmup cache failed: invalid argument; is this mount too old?" in capsys.readouterr().err


@pytest.mark.battery
def test_a_mount_of_the_official_client(scratch: Path) -> None:
    volume = go_format(Volume(scratch / "vol", "redis"))
    go = GoMount(volume, scratch / "mnt")
    try:
        go.start()
        fill(go.path, 3)
        cache = volume.directory / "go-cache"
        subprocess.run(["rm", "-rf", *cache.glob("*/raw")], check=True)
        answer = said(go.path, go.path / "f0")
        if is_old():
            assert answer == "INFO warmup cache: 2 paths; this old mount does not count files"
            assert "older than JuiceFS 1.2" in said(go.path, "--evict", code=1)
        else:
            assert answer == "INFO warmup cache: 4 files (20 MiB bytes)"
            assert said(go.path, "--check").endswith("(100.0%) cached")
            assert said(go.path, "--evict") == "INFO evict cache: 3 files (15 MiB bytes)"
        assert sum(path.stat().st_size for path in cache.rglob("*_4194304")) > 0 or not is_old()
        listed = scratch / "list"
        listed.write_text(f"{go.path}/f0\n" * 12_000)
        said("-f", listed)
    finally:
        end_all([go])
