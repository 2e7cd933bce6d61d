"""The commands that watch a mount: `stats`, `profile`, `debug`. Their tables word by word, and on real mounts."""

from __future__ import annotations

import datetime
import logging
import os
import re
import subprocess
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from go_client import GoMount, go_format, is_old
from mounts import PROGRAM, Mount, Volume, environment, juicefs
from needs import go_client, need_fuse

from juicefs_py.cli import mountpoint
from juicefs_py.commands import profile, stats

PLAIN = stats._painter(False)

# stats


def table(schema: str, verbose: bool = False) -> stats.Table:
    return stats.Table(stats._chosen(schema, verbose=verbose), PLAIN)


def test_header() -> None:
    assert table("ufmco").header() == (
        "------usage------ ----------fuse--------- ----meta--- -blockcache ---object--\n"
        " cpu   mem   buf | ops   lat   read write| ops   lat | read write| get   put "
    )


def test_header_with_more() -> None:
    first, second = table("tumo", verbose=True).header().splitlines()
    assert first.startswith("----system---- ---------usage---------")
    assert second.split("|")[0] == "     time     "
    assert second.split("|")[2].split() == ["ops", "lat", "txn", "lat", "retry"]
    assert second.split("|")[3].split() == ["get", "get_c", "lat", "put", "put_c", "lat", "del_c", "lat"]
    assert [len(part) for part in second.split("|")] == [14, 23, 29, 47]


def test_a_line_has_rates_and_latencies() -> None:
    before = {"juicefs_cpu_usage": 1.0}
    now = {
        "juicefs_cpu_usage": 2.0,
        "juicefs_memory": 80 << 20,
        "juicefs_used_buffer_size_bytes": 0,
        "juicefs_fuse_ops_durations_histogram_seconds_total": 30_000,
        "juicefs_fuse_ops_durations_histogram_seconds_sum": 0.6,
        "juicefs_fuse_read_size_bytes_sum": 20 << 30,
        "juicefs_meta_ops_durations_histogram_seconds_total": 10,
        "juicefs_meta_ops_durations_histogram_seconds_sum": 20.0,
    }
    assert table("ufm").line(before, now, 2) == "50.0%   80M    0 |  14K 0.02    10G    0 |   5  2000 "


def test_numbers_with_a_method_are_added_up() -> None:
    now = {"juicefs_transaction_restart_Mknod": 3.0, "juicefs_transaction_restart_Unlink": 4.0}
    assert table("m", verbose=True).line({}, now, 1).split()[-1] == "7"


def test_unknown_letters(capsys: pytest.CaptureFixture[str]) -> None:
    assert [name for name, _ in stats._chosen("xu", verbose=False)] == ["usage"]
    assert capsys.readouterr().out == "Warning: no item defined for x\n"
    with pytest.raises(Exception, match="no section to watch"):
        stats._chosen("x", verbose=False)


def test_several_lines_of_one_name_are_one_number(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / ".stats").write_text("juicefs_a 1.5\njuicefs_a 2\njuicefs_b x\n")
    with caplog.at_level(logging.WARNING):
        assert stats._read(str(tmp_path))["juicefs_a"] == 3.5
    assert "not a number" in caplog.text
    (tmp_path / ".jfs.stats").write_text("juicefs_a 9\n")
    assert stats._read(str(tmp_path)) == {"juicefs_a": 9}
    assert mountpoint.internal_file(str(tmp_path), "stats").endswith(".jfs.stats")


# profile

LOG = """#
2021.01.15 08:26:11.003330 [uid:0,gid:0,pid:4403] write (17669,8666,4993160): OK <0.000010>
2021.01.15 08:26:11.003473 [uid:0,gid:0,pid:4403] write (17675,198,997439) - OK <0.000014>
2021.01.15 08:26:12.003616 [uid:0,gid:7,pid:4404] getattr (1) (1,[drwxrwxrwx:0040777]) - OK <0.000400>
nonsense
2021.01.15 08:26:15.003616 [uid:5,gid:0,pid:4405] open (1 <2> name) - no such file <1.000000>
"""


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    path.write_text(LOG)
    return path


def run_profile(recorded: Path, *options: str) -> tuple[str, str]:
    done = subprocess.run(
        [*PROGRAM, "profile", str(recorded), *options], capture_output=True, text=True, env=environment(), check=True,
        stdin=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip
    return done.stdout, done.stderr


def test_a_recorded_log_at_once(recorded: Path) -> None:
    out, err = run_profile(recorded, "--interval", "0")
    title, columns, *rows = out.rstrip().splitlines()
    assert title == "> JuiceFS Profiling (replay done)  Refresh: 4 seconds 2021-01-15T08:26:15"
    assert columns.split() == ["Operation", "Count", "Average(us)", "Total(us)", "Percent(%)"]
    assert [row.split() for row in rows] == [
        ["open", "1", "1000000", "1000000", "25.0"],
        ["getattr", "1", "400", "400", "0.0"],
        ["write", "2", "12", "24", "0.0"],
    ]
    assert "Log line is invalid: nonsense" in err


@pytest.mark.parametrize(
    ("options", "left"), [(("--uid", "5"), {"open"}), (("-g", "7,9"), {"getattr"}), (("-p", "4403"), {"write"})]
)
def test_only_what_is_asked_for(recorded: Path, options: tuple[str, ...], left: set[str]) -> None:
    out, _ = run_profile(recorded, "--interval", "0", *options)
    assert {line.split()[0] for line in out.rstrip().splitlines()[2:]} == left


def test_a_recorded_log_frame_by_frame(recorded: Path) -> None:
    out, _ = run_profile(recorded, "--interval", "1")
    frames = out.strip().split("\n\n")
    assert [re.findall(r"T08:26:(\d\d)$", frame.splitlines()[0]) for frame in frames] == [
        ["12"], ["13"], ["14"], ["15"], ["16"],
    ]  # fmt: skip
    assert "(replaying)" in frames[0] and "(replay done)" in frames[-1]
    assert "write" in frames[0] and "getattr" in frames[1] and "open" in frames[-1]


def test_lines_that_are_none() -> None:
    assert profile.parse("#\n") is None
    assert profile.parse("2021.13.45 08:26:11.003330 [uid:0,gid:0,pid:1] a () - OK <0.1>") is None
    entry = profile.parse("2021.01.15 08:26:11.5 [uid:1,gid:2,pid:3] a () - OK <0.1>")
    assert entry == (datetime.datetime(2021, 1, 15, 8, 26, 11, 500_000), ("1", "2", "3"), "a", 100_000)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("stats", "{}"), 'path "{}" is not a mount point'),
        (("profile", "{}"), 'Path "{}" is not a mount point!'),
        (("profile", "{}/none"), 'Failed to stat path "{}/none"'),
        (("debug", "{}"), "path {} is not a mount point"),
        (("stats", "{}/none"), 'lookup inode for "{}/none"'),
    ],
)
def test_what_is_no_mount(tmp_path: Path, words: tuple[str, ...], problem: str) -> None:
    done = juicefs(*(word.format(tmp_path) for word in words), check=False)
    assert done.returncode == 1 and not done.stdout
    assert "<FATAL>" in done.stderr and problem.format(tmp_path) in done.stderr and done.stderr.count("\n") == 1


# On mounts


@pytest.fixture(params=["ours", "go"])
def path(request: pytest.FixtureRequest, scratch: Path) -> Iterator[Path]:
    """A mount of either client, with something going on."""
    need_fuse()
    mount: Mount | GoMount
    if request.param == "ours":
        mount = Mount(Volume(scratch / "vol").format(), scratch / "mnt").start()
    else:
        mount = GoMount(go_format(Volume(scratch / "vol", "redis")), scratch / "mnt").start()
    script = f"while sleep 0.05; do echo x > {mount.path}/f; cat {mount.path}/f; rm {mount.path}/f; done"
    worker = subprocess.Popen(["sh", "-c", script], stdout=subprocess.DEVNULL)
    try:
        yield mount.path
    finally:
        worker.kill()
        worker.wait()
        mount.stop()


@pytest.mark.battery
def test_stats_and_profile_of_a_mount(path: Path) -> None:
    lines = juicefs("stats", str(path), "-c", "2", "--schema", "ufm").stdout.splitlines()
    assert len(lines) == 4
    fuse = [line.split("|")[1].split() for line in lines[2:]]
    assert all(float(ops) > 0 for ops, *_ in fuse), lines
    watcher = subprocess.Popen(
        [*PROGRAM, "profile", str(path), "--interval", "1"], stdout=subprocess.PIPE, text=True, env=environment()
    )
    time.sleep(3.5)
    watcher.terminate()
    shown = watcher.communicate(timeout=10)[0]
    assert "> JuiceFS Profiling" in shown
    counted = re.findall(r"^(\w+) +(\d+) +\d+ +\d+ +\d+\.\d$", shown, re.M)
    assert {"create", "unlink", "write"} <= {op for op, _ in counted}, shown


@pytest.mark.battery
def test_the_official_commands_read_our_mount(scratch: Path) -> None:
    need_fuse()
    mount = Mount(Volume(scratch / "vol").format(), scratch / "mnt").start()
    try:
        for number in range(50):
            (mount.path / f"f{number}").write_text("x")
        watched = subprocess.Popen(
            [go_client(), "profile" if is_old() else "stats", str(mount.path)], stdout=subprocess.PIPE, text=True
        )
        profiled = subprocess.Popen(
            [go_client(), "profile", str(mount.path), "--interval", "1"], stdout=subprocess.PIPE, text=True
        )
        for number in range(35):
            (mount.path / f"g{number}").write_text("x")
            time.sleep(0.1)
        for process in (watched, profiled):
            process.terminate()
        lines, shown = (process.communicate(timeout=10)[0] for process in (watched, profiled))
        assert re.search(r"^create +\d+", shown, re.M), shown
        if not is_old():  # 0.14 has no such command
            assert lines.startswith(table("ufmco").header())
            rows = [line.split("|") for line in lines.splitlines() if "%" in line]
            assert any(float(row[1].split()[0]) > 0 for row in rows), lines
            assert any(float(row[2].split()[0]) > 0 for row in rows), lines
    finally:
        mount.stop()


@pytest.mark.battery
def test_debug_collects_what_is_asked_for(scratch: Path) -> None:
    need_fuse()
    volume = Volume(scratch / "vol").format()
    path = scratch / "mnt"
    log = scratch / "log"
    juicefs("mount", "-d", "--log", str(log), "--cache-dir", str(volume.cache), volume.url, str(path))
    try:
        done = juicefs("debug", str(path), "--out-dir", str(scratch / "out"), "--stats-sec", "1")
        assert "Mount Command:" in done.stdout and f"{path}" in done.stdout
        (folder,) = (each for each in (scratch / "out").iterdir() if each.is_dir())
        assert folder.name.startswith(str(path).strip("/").replace("/", "-"))
        names = {each.name for each in folder.iterdir()}
        assert {"system-info.log", "config.txt", "stats.txt", "stats.1s.txt", "juicefs.log"} <= names
        assert len([name for name in names if name.startswith("process-")]) == 2
        assert "juicefs_uptime" in (folder / "stats.txt").read_text()
        assert "most recent call first" in (folder / "juicefs.log").read_text()  # stacks of our threads
        with zipfile.ZipFile(f"{folder}.zip") as archive:
            assert {os.path.basename(name) for name in archive.namelist()} >= names
        assert os.stat(path).st_ino == 1  # it lives on
    finally:
        juicefs("umount", str(path))
