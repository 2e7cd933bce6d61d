"""The client side of the control file, and what the commands over it print, against a server that answers by script."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from control_server import PROGRESS, Server, result

from juicefs_py.cli import app
from juicefs_py.cli.control_client import INFO, LEGACY_INFO, RMR, SUMMARY
from juicefs_py.commands import info, rmr, summary


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    servers = []

    def serve(*answers: bytes, piece: int = 1 << 20) -> Server:
        server = Server(list(answers), piece)
        servers.append(server)
        for module in (info, rmr, summary):
            monkeypatch.setattr(module, "open_control", server.open)
        return server

    yield serve
    for server in servers:
        server.close()


@pytest.mark.parametrize("piece", [1, 3, 7, 1 << 20])
def test_answers_may_come_in_any_pieces(served: Any, piece: int) -> None:
    server = served(PROGRESS + PROGRESS + b"\x00", PROGRESS + result({"a": [1]}), b"\x0d", piece=piece)
    seen: list[tuple[int, int]] = []
    with server.open() as control:
        assert control.call(RMR, b"body", lambda *totals: seen.append(totals)) == (0, None)
        assert control.call(INFO, b"", lambda *totals: None) == (0, {"a": [1]})
        assert control.call(INFO, b"x", lambda *totals: None) == (errno.EACCES, None)
    assert seen == [(3, 4096), (3, 4096)]
    assert server.asked == [(RMR, b"body"), (INFO, b""), (INFO, b"x")]


def run(*words: str) -> int:
    return app.run(["juicefs", *words])


def test_rmr_sends_parent_name_flags_and_threads(served: Any, tmp_path: Path) -> None:
    server = served(PROGRESS + b"\x00", b"\x00")
    assert run("rmr", str(tmp_path / "a"), f"{tmp_path}/é", "--threads", "999", "--skip-trash") == 0
    parent = struct.pack(">Q", tmp_path.stat().st_ino)
    assert server.asked == [(RMR, parent + b"\x01a\x01\xff"), (RMR, parent + b"\x02\xc3\xa9\x01\xff")]


def test_rmr_tells_the_errno(served: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served(bytes((errno.EACCES,)))
    assert run("rmr", str(tmp_path / "a")) == 1
    assert f'<FATAL>: RMR "{tmp_path}/a": permission denied' in capsys.readouterr().err


INFO_REPLY = {
    "Ino": 36, "Failed": False, "Reason": "", "Summary": {"Length": 807955, "Size": 811008, "Files": 1, "Dirs": 0},
    "Paths": ["/f"], "Chunks": None,
    "Objects": [
        {"ChunkIndex": 0, "Key": "myjfs/chunks/0/0/1_0_800000", "Size": 800000, "Off": 0, "Len": 800000},
        {"ChunkIndex": 0, "Key": "", "Size": 0, "Off": 0, "Len": 7955},
        {"ChunkIndex": 2, "Key": "myjfs/chunks/0/0/2_0_5", "Size": 5, "Off": 0, "Len": 5},
    ],
    "FLocks": [{"Sid": 1, "Owner": 7, "Type": "W"}],
    "PLocks": [{"Sid": 1, "Owner": 8, "Type": "R", "Pid": 9, "Start": 0, "End": 99}],
    "Tier": {"ID": 1, "StorageClass": "STANDARD_IA", "Tag": "k=v"},
}  # fmt: skip


def test_info_prints_lines_that_scripts_find_by_number(
    served: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "f"
    path.write_text("")
    server = served(result(INFO_REPLY))
    assert run("info", str(path), "--strict") == 0
    assert server.asked == [(INFO, struct.pack(">QBBB", path.stat().st_ino, 0, 0, 1))]
    assert capsys.readouterr().out == (
        f"{path} :\n"
        "  inode: 36\n"
        "  files: 1\n"
        "   dirs: 0\n"
        " length: 789.02 KiB (807955 Bytes)\n"
        "   size: 792.00 KiB (811008 Bytes)\n"
        "   path: /f\n"
        "   tier: 1->STANDARD_IA tag: k=v\n"
        " objects:\n"
        "+------------+-----------------------------+--------+--------+--------+-----------+\n"
        "| chunkIndex |          objectName         |  size  | offset | length |    pos    |\n"
        "+------------+-----------------------------+--------+--------+--------+-----------+\n"
        "|          0 | myjfs/chunks/0/0/1_0_800000 | 800000 |      0 | 800000 |         0 |\n"
        "|          0 |                             |      0 |      0 |   7955 |    800000 |\n"
        "|          2 | myjfs/chunks/0/0/2_0_5      |      5 |      0 |      5 | 134217728 |\n"
        "+------------+-----------------------------+--------+--------+--------+-----------+\n"
        " flocks:\n"
        "+-----+-------+------+\n"
        "| Sid | Owner | Type |\n"
        "+-----+-------+------+\n"
        "|   1 |     7 |    W |\n"
        "+-----+-------+------+\n"
        " plocks:\n"
        "+-----+-------+------+-----+-------+-----+\n"
        "| Sid | Owner | Type | Pid | Start | End |\n"
        "+-----+-------+------+-----+-------+-----+\n"
        "|   1 |     8 |    R |   9 |     0 |  99 |\n"
        "+-----+-------+------+-----+-------+-----+\n"
    )


def test_info_of_hard_links_and_of_an_unreachable_file(
    served: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reply = {**INFO_REPLY, "Objects": None, "FLocks": None, "PLocks": None, "Tier": {"ID": 0}}
    served(result({**reply, "Paths": ["/a", "/b"]}), result({**reply, "Paths": []}))
    assert run("info", str(tmp_path), str(tmp_path)) == 0
    shown = capsys.readouterr().out
    assert "  paths:\n\t/a\n\t/b\n   tier: 0-> \n" in shown
    assert "   path: unknown\n" in shown


def test_info_of_a_mount_that_only_knows_the_old_protocol(
    served: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = b"  inode: 1\n  files: 0\n"
    server = served(bytes((errno.EINVAL,)), struct.pack(">I", len(text)) + text)
    assert run("info", str(tmp_path)) == 0
    assert server.asked[1] == (LEGACY_INFO, struct.pack(">QBB", tmp_path.stat().st_ino, 0, 0))
    assert capsys.readouterr().out == f"{tmp_path} :\n{text.decode()}\n"


def test_info_that_the_mount_cannot_give(served: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served(result({**INFO_REPLY, "Failed": True, "Reason": "no such inode"}))
    assert run("info", str(tmp_path)) == 1
    assert "<FATAL>: info: no such inode" in capsys.readouterr().err
    assert run("info", "-i", "0") == 1


TREE = {
    "Inode": 1, "Path": "", "Type": 2, "Size": 1700000, "Files": 3, "Dirs": 2, "Children": [
        {"Inode": 2, "Path": "sub", "Type": 2, "Size": 4096, "Files": 1, "Dirs": 1, "Children": [
            {"Inode": 4, "Path": "sub/f", "Type": 1, "Size": 512, "Files": 1, "Dirs": 0}]},
        {"Inode": 0, "Path": "...", "Type": 1, "Size": 9, "Files": 1, "Dirs": 0},
    ],
}  # fmt: skip


def test_summary(served: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = served(result({"Errno": 0, "Tree": TREE}), result({"Errno": 0, "Tree": TREE}))
    assert run("summary", str(tmp_path), "-d", "99", "-e", "5") == 0
    assert server.asked[0] == (SUMMARY, struct.pack(">QBBB", tmp_path.stat().st_ino, 10, 5, 0))
    assert capsys.readouterr().out == (
        "+-------+---------+------+-------+\n"
        "|  PATH |   SIZE  | DIRS | FILES |\n"
        "+-------+---------+------+-------+\n"
        "| /     | 1.6 MiB |    2 |     3 |\n"
        "| sub/  | 4.0 KiB |    1 |     1 |\n"
        "| sub/f |   512 B |    0 |     1 |\n"
        "| ...   |     9 B |    0 |     1 |\n"
        "+-------+---------+------+-------+\n"
    )
    assert run("summary", str(tmp_path), "--csv") == 0
    assert capsys.readouterr().out == "PATH,SIZE,DIRS,FILES\n/,1700000,2,3\nsub/,4096,1,1\nsub/f,512,0,1\n...,9,0,1\n"


def test_summary_that_fails(served: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served(result({"Errno": errno.EACCES, "Tree": None}))
    assert run("summary", str(tmp_path)) == 1
    assert "<FATAL>: summary: permission denied" in capsys.readouterr().err
