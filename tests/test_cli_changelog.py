"""`juicefs changelog`: what is there, what comes, and an end without noise."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from mounts import PROGRAM, environment
from tended import Maker, Tended, making

LINES = [f"1700000000.00000000{number}|ACCESS({number})|(1,{number})" for number in range(5)]


@pytest.fixture
def make(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Maker]:
    with making(tmp_path, capsys) as maker:
        yield maker


def append(volume: Tended, line: str) -> None:
    volume.engine.transact(lambda tx: tx.append_changelog(line))


@pytest.mark.parametrize("kind", ["sqlite3", "redis"])
def test_it_follows_until_it_is_interrupted(make: Maker, kind: str) -> None:
    volume = make(kind, change_log=True)
    for line in LINES[:3]:
        append(volume, line)
    followed = subprocess.Popen(
        [*PROGRAM, "changelog", volume.url, "--from", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment(), start_new_session=True,
    )  # fmt: skip
    latest = subprocess.Popen(
        [*PROGRAM, "changelog", volume.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment(), start_new_session=True,
    )  # fmt: skip
    assert followed.stdout and latest.stderr and latest.stdout
    try:
        assert [followed.stdout.readline() for _ in range(2)] == [f"2: {LINES[1]}\n", f"3: {LINES[2]}\n"]
        while "last version is 3" not in latest.stderr.readline():
            assert latest.poll() is None
        for line in LINES[3:]:
            append(volume, line)
        for process in (followed, latest):
            assert process.stdout
            assert [process.stdout.readline() for _ in range(2)] == [f"4: {LINES[3]}\n", f"5: {LINES[4]}\n"]
    finally:
        for process in (followed, latest):
            os.kill(process.pid, signal.SIGINT)
            _, said = process.communicate(timeout=10)
            assert process.returncode == -signal.SIGINT and "Traceback" not in said


def test_a_volume_without_one(make: Maker) -> None:
    volume = make("memkv")
    said = volume.run("changelog")
    assert said.code == 1
    assert said.last() == f"changelog is not enabled, use `juicefs config {volume.url} --changelog` to enable it"
    assert "--from should be a version" in volume.run("changelog", "--from", "-1").last()
