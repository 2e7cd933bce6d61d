"""`juicefs quota` from the command line, over every engine: its tables, its errors, and what other clients notice."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clients import ENGINES
from tended import Maker, Said, Tended, making

from juicefs_py.cli import app
from meta.errors import Refused
from meta.transaction import Quota
from meta.types import DIRECTORY, ROOT, SUPERUSER, Identity


@pytest.fixture
def make(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Maker]:
    with making(tmp_path, capsys) as maker:
        yield maker


@pytest.fixture(params=ENGINES)
def volume(request: pytest.FixtureRequest, make: Maker) -> Tended:
    """With /dir, which holds a file of 8 KiB and a directory."""
    made = make(request.param)
    with made.client() as client:
        top = client.mkdir(b"dir")
        file = client.create(b"f", top)
        file.write(0, b"x" * 8192)
        file.close()
        client.mkdir(b"below", top)
    return made


def quota(volume: Tended, action: str, *words: str) -> tuple[Said, list[list[str]]]:
    """Run it; how it ended, and the cells of its table."""
    said, out = volume.call("quota", action, volume.url, *words)
    lines = out.splitlines()
    assert all(line.startswith("+-") and line.endswith("-+") for line in lines if "|" not in line)
    return said, [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]


def fatal(volume: Tended, *words: str) -> str:
    said, out = volume.call("quota", *words[:1], volume.url, *words[1:])
    assert said.code == 1 and out == "" and said.lines[-1][0] == "FATAL", said
    return said.last()


HEADING = ["Size", "Used", "Use%", "Inodes", "IUsed", "IUse%"]


def test_set_get_list_delete_of_a_directory(volume: Tended) -> None:
    said, rows = quota(volume, "set", "--path", "/dir", "--capacity", "1", "--inodes", "2000")
    row = ["/dir", "1.0 GiB", "12 KiB", "0%", "2,000", "2", "0%"]
    assert said.code == 0 and rows == [["Path", *HEADING], row]
    assert quota(volume, "get", "--path", "/dir")[1] == [["Path", *HEADING], row]
    assert quota(volume, "list")[1] == [["Path/ID", *HEADING], row]
    assert quota(volume, "ls", "--path", "/dir")[1] == [["Path/ID", *HEADING], row]
    assert quota(volume, "del", "--path", "/dir") == (Said(0, said.lines[:1]), [])
    for action in (("list",), ("get", "--path", "/dir"), ("delete", "--path", "/dir")):
        assert quota(volume, *action) == (Said(0, said.lines[:1]), [])


def test_no_limit_is_shown_as_unchanged(volume: Tended) -> None:
    rows = quota(volume, "set", "--path", "dir/", "--capacity", "0.00002")[1]
    assert rows[1] == ["dir/", "21 KiB", "12 KiB", "57%", "unchanged", "2", ""]


def test_users_and_groups(volume: Tended) -> None:
    assert quota(volume, "set", "--uid", "1000", "--inodes", "10")[1] == [
        ["User ID", *HEADING], ["1000", "unchanged", "0 B", "", "10", "0", "0%"]
    ]  # fmt: skip
    assert quota(volume, "set", "--gid", "0", "--capacity", "1M")[1][1] == [
        "0", "1.0 MiB", "16 KiB", "1%", "unchanged", "3", ""
    ]  # fmt: skip
    quota(volume, "set", "--path", "/dir", "--capacity", "1")
    assert [row[0] for row in quota(volume, "list")[1]] == ["Path/ID", "/dir", "gid:0", "uid:1000"]
    assert [row[0] for row in quota(volume, "list", "--gid", "0")[1]] == ["Path/ID", "gid:0"]
    quota(volume, "delete", "--uid", "1000")
    assert [row[0] for row in quota(volume, "list")[1]] == ["Path/ID", "/dir", "gid:0"]
    assert quota(volume, "check")[0].code == 0


def test_create_makes_the_whole_way(volume: Tended) -> None:
    before = os.umask(0)
    try:
        said, rows = quota(volume, "set", "--path", "/dir/new/er", "--capacity", "1", "--create")
        os.umask(0o027)
        quota(volume, "set", "--path", "/other", "--capacity", "1", "--create")
    finally:
        os.umask(before)
    assert said.code == 0 and rows[1][0] == "/dir/new/er"
    with volume.client() as client:
        for path, mode in (((b"dir", b"new"), 0o777), ((b"dir", b"new", b"er"), 0o777), ((b"other",), 0o750)):
            assert client.vfs.meta.getattr(client.ino(*path)).mode == mode


def test_options_may_stand_anywhere(volume: Tended) -> None:
    before, behind = ("--path", "/dir", "set"), ("--path=/dir", "--inodes", "5")
    for words in ((*before, volume.url, "-inodes=5"), ("set", *behind, volume.url)):
        assert volume.call("quota", *words)[0].code == 0
    assert volume.engine.reader.quotas("dir")[2].max_inodes == 5


def test_a_mount_notices_and_refuses(volume: Tended) -> None:
    with volume.opened() as opened:
        top = opened.meta.resolve(SUPERUSER, b"/dir")[0]
        quota(volume, "set", "--path", "/dir", "--inodes", "3")
        quota(volume, "set", "--uid", "7", "--inodes", "1")
        opened.meta.reload()  # what a heartbeat does
        opened.meta.mknod(SUPERUSER, top, b"third", DIRECTORY, 0o755, 0)
        with pytest.raises(Refused) as refused:
            opened.meta.mknod(SUPERUSER, top, b"fourth", DIRECTORY, 0o755, 0)
        assert refused.value.errno == errno.EDQUOT
        user = Identity(7, 7, groups=(7,), checked=True)
        opened.meta.mknod(user, ROOT, b"one", DIRECTORY, 0o755, 0)
        with pytest.raises(Refused) as refused:
            opened.meta.mknod(user, ROOT, b"two", DIRECTORY, 0o755, 0)
        assert refused.value.errno == errno.EDQUOT
        quota(volume, "delete", "--path", "/dir")
        opened.meta.reload()
        opened.meta.mknod(SUPERUSER, top, b"fourth", DIRECTORY, 0o755, 0)
    assert quota(volume, "check")[0].code == 0


def broken(volume: Tended) -> None:
    volume.engine.transact(lambda tx: tx.put_quota("dir", 2, Quota(1 << 30, -1, 4096, 9)))


def test_check_and_repair_of_a_directory(volume: Tended) -> None:
    quota(volume, "set", "--path", "/dir", "--capacity", "1")
    said, rows = quota(volume, "check", "--path", "/dir")
    assert said.texts("INFO")[-1] == "quota of /dir is consistent" and rows[1][2] == "12 KiB"
    broken(volume)
    said, rows = quota(volume, "check", "--path", "/dir")
    assert said.code == 1 and rows == []
    assert said.complaints() == [
        "/dir: quota(9, 4.0 KiB) != summary(2, 12 KiB)",
        "quota of /dir is inconsistent, please repair it with --repair flag",
    ]
    said, rows = quota(volume, "check", "--path", "/dir", "--repair", "--strict")
    assert said.code == 0 and said.last() == "repairing..." and rows[1][5] == "2"
    assert quota(volume, "check", "--path", "/dir")[0].code == 0


def test_check_and_repair_of_users_and_groups(volume: Tended) -> None:
    quota(volume, "set", "--uid", "5", "--capacity", "1")
    volume.engine.transact(lambda tx: tx.add_quota("user", 0, 4096, 1))
    volume.engine.transact(lambda tx: tx.add_quota("user", 5, 4096, 1))
    volume.engine.transact(lambda tx: tx.delete_quota("group", 0))
    said, _ = quota(volume, "check")
    assert said.code == 1 and said.complaints() == [
        "uid:0: usage(4, 20 KiB) != actual usage(3, 16 KiB)",
        "uid:5: usage missing, but quota usage is (1, 4.0 KiB)",
        "gid:0: quota not found, actual usage(3, 16 KiB)",
        "user/group quota is inconsistent, please repair it with --repair flag",
    ]
    said, _ = quota(volume, "check", "--gid", "0", "--repair")
    assert said.code == 0 and said.last() == "Begin to repair user/group quota."
    assert quota(volume, "check")[0].complaints() == []
    assert volume.engine.reader.quota("user", 5) == Quota(1 << 30, -1, 0, 0)


@pytest.mark.parametrize(("words", "text"), [
    (("set", "--path", "/none", "--capacity", "1"), "resolve dir /none: no such file or directory"),
    (("set", "--path", "/dir/f", "--capacity", "1"), "set quota of /dir/f: not a directory"),
    (("set", "--path", "/dir/f/x", "--create"), "resolve dir /dir/f/x: not a directory"),
    (("get", "--path", "/.trash"), "no quota for any trash directory"),
    (("set", "--path", "/a/../.trash/x", "--create"), "no quota for any trash directory"),
    (("check", "--path", "/dir"), "no quota for inode 2 path /dir"),
    (("check",), "the volume keeps no usage of users and groups; "),
    (("set", "--uid", "0", "--capacity", "1"), "Invalid --uid: 0 is not allowed"),
    (("set", "--gid", "4294967296", "--capacity", "1"), "Invalid --gid: 4294967296 is larger than 4294967295"),
    (("set", "--uid", "1", "--gid", "1"), "Cannot specify both --uid and --gid at the same time"),
    (("get", "--path", "/dir", "--uid", "1"), "Cannot specify both --uid and --path at the same time"),
    (("list", "--path", "/dir", "--gid", "1"), "Cannot specify both --gid and --path at the same time"),
    (("delete",), "Please specify the directory with `--path <dir>` option or specify user/group with"),
    (("set", "--path", "/dir", "--capacity", "10GiB"), 'Invalid value "10GiB" for "capacity"'),
    (("set", "--path", "/dir", "--bogus"), 'unknown option: "--bogus"'),
])  # fmt: skip
def test_mistakes(make: Maker, words: tuple[str, ...], text: str) -> None:
    made = make("sqlite3")
    with made.client() as client:
        top = client.mkdir(b"dir")
        client.create(b"f", top).close()
    assert text in fatal(made, *words)
    assert made.engine.reader.quotas("dir") == {} and made.engine.reader.quotas("user") == {}


@pytest.mark.parametrize(("words", "code", "text"), [
    (("--help",), 0, "   set          Set the quota"),
    (("set", "--help"), 0, "--create"),
    (("set",), 1, "at least 1 arguments\nUSAGE:\n   juicefs quota set [command options] META-URL"),
    (("get", "a", "b"), 1, "ERROR: This command accept at most 1 arguments but got [a b]"),
    (("set", "--inodes", "x"), 1, 'Incorrect Usage: invalid value "x" for flag -inodes: parse error'),
])  # fmt: skip
def test_usage(make: Maker, words: tuple[str, ...], code: int, text: str) -> None:
    said, out = make("memkv").call("quota", *words)
    assert said.code == code and text in out


def test_the_group_alone_shows_its_options_on_both_streams(capsys: pytest.CaptureFixture[str]) -> None:
    """A sidecar runs it to see that it ends with 0; others look for `--create`, on the one or the other."""
    assert app.run(["juicefs", "quota"]) == 0
    printed = capsys.readouterr()
    assert "--create" in printed.out and printed.out == printed.err


def test_an_unknown_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["juicefs", "quota", "bogus", "redis://nowhere"]) == 3
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "No help topic for 'bogus'\n")


def test_a_volume_with_a_change_log_is_left_alone(make: Maker) -> None:
    made = make("sqlite3", change_log=True)
    with_log: Any = made.call("quota", "set", made.url, "--path", "/", "--capacity", "1")[0]
    assert with_log.code == 1 and "change log" in with_log.last()
    assert made.call("quota", "list", made.url)[0].code == 0
