"""Progress bars: what the lines say, where they are drawn and where not, and log lines that are printed meanwhile."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest
from mounts import environment

from juicefs_py.cli import progress
from juicefs_py.cli.progress import Meter, Progress, Spinner

WORK = """
import sys, time
from juicefs_py.cli import log
from juicefs_py.cli.progress import Progress
log.set_up()
with Progress() as lines:
    bar, files = lines.bar("head objects", 100), lines.spinner("warmup cache file")
    sizes = lines.spinner("warmup cache size", in_bytes=True)
    for step in range(10):
        bar.advance(10)
        files.advance(2, errors=step == 3)
        sizes.advance(1 << 20)
        if step == 5:
            log.LOG.warning("a line of the log [with brackets] " + "that is long " * 12)
        time.sleep(0.02)
    if "fail" in sys.argv:
        raise SystemExit("it failed")
print("done")
"""


class Clock:
    """Time that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def test_a_bar(clock: Clock) -> None:
    def says() -> str:
        return re.sub(r"\[[=>-]+\]", "[]", bar.text(80))

    bar = Meter("put objects", 200)
    assert says() == "put objects: 0/200 []  0.0/s"
    clock.now += 2
    bar.advance(50)
    assert says() == "put objects: 50/200 []  25.0/s ETA: 6s"
    assert "[" + "=" * 9 + ">" + "-" * 32 + "]" in bar.text(80), "a quarter"
    bar.advance(149, errors=2)
    assert says() == "put objects: 199/200 []  99.5/s ETA: 0s  errors: 2"
    bar.advance()
    clock.now += 2
    bar.finish()
    clock.now += 100
    bar.finish()
    assert says() == "put objects: 200/200 []  50.0/s used: 4.0s  errors: 2"


@pytest.mark.parametrize("width", [10, 40, 80, 200, 1000])
@pytest.mark.parametrize("count", [0, 1, 50, 99, 100, 150])
def test_a_bar_fits_and_has_its_length(clock: Clock, width: int, count: int) -> None:
    bar = Meter("x", 100)
    clock.now += 1
    bar.advance(count)
    (drawn,) = re.findall(r"\[(=*>?-*)\]", text := bar.text(width))
    assert 10 <= len(drawn) <= 62 and (len(text) <= width or len(drawn) == 10)
    assert drawn == "=" * len(drawn) if count >= 100 else drawn[-1:] in "->"


def test_a_bar_of_nothing_is_full(clock: Clock) -> None:
    assert Meter("x", 0).text(40).startswith("x: 0/0 [===")


def test_spinners(clock: Clock) -> None:
    files, sizes = Meter("warmup cache file"), Meter("warmup cache size", in_bytes=True)
    clock.now += 4
    files.update(10)
    sizes.update(12_900_000)
    assert files.text() == "warmup cache file: 10   2.5/s"
    assert sizes.text() == "warmup cache size: 12.30 MiB (12900000 Bytes)   3.1 MiB/s"
    files.advance(0, errors=3)
    assert files.text() == "warmup cache file: 10   2.5/s  errors: 3"


def test_any_number_of_threads_may_move_a_meter() -> None:
    meter = Meter("x", 8000)
    threads = [threading.Thread(target=lambda: [meter.advance(1, 1) for _ in range(1000)]) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert (meter.count, meter.errors) == (8000, 8000)


def test_nothing_is_drawn_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as lines, Spinner("entries", with_bytes=True) as spinner:
        lines.bar("x", 3).advance()
        spinner.update(3, 4096)
        assert not lines.shown and (spinner.count, spinner.bytes) == (3, 4096)
    assert capsys.readouterr() == ("", "")


def test_scripts_do_not_load_what_draws() -> None:
    code = WORK.replace("print(", 'assert "rich" not in sys.modules; print(')
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout == "done\n" and done.stderr.count("a line of the log [with brackets]") == 1


def on_a_terminal(*words: str, width: int = 100, stderr: int | None = None, **variables: str) -> tuple[int, str]:
    """Exit code and output of `WORK` on a terminal of that width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, *words], env=environment() | {"TERM": "xterm", **variables}, stdin=theirs,
        stdout=theirs, stderr=theirs if stderr is None else stderr,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        while data := os.read(ours, 1 << 16):
            shown += data
    except OSError:
        pass  # how a terminal ends
    os.close(ours)
    return process.wait(20), shown.decode()


def test_lines_are_drawn_and_log_lines_stand_above() -> None:
    code, text = on_a_terminal()
    assert code == 0
    assert text.count("a line of the log [with brackets] that is long that is long") == 1, "whole, and once"
    log_at = text.index("a line of the log")
    assert re.search(r"head objects: \d+/100 \[=+>-+\]  [\d.]+/s ETA: \d+s", text)
    assert re.search(r"head objects: 100/100 \[=+\]  [\d.]+/s used: [\d.]+s", text[log_at:])
    assert re.search("\x1b\\[1;32m[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏]\x1b\\[0m warmup cache file: \\d+", text)
    assert "warmup cache file: 20 " in text and "/s  errors: 1" in text
    assert "warmup cache size: 10.00 MiB (10485760 Bytes)" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor is back"
    assert text.endswith("done\r\n")


def test_a_failure_leaves_the_terminal_as_it_was() -> None:
    code, text = on_a_terminal("fail")
    assert code == 1 and text.endswith("it failed\r\n")
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_a_narrow_terminal_cuts_lines() -> None:
    _, text = on_a_terminal(width=30)
    drawn = re.findall(r"(?:head objects|warmup cache)[^\r\n\x1b]*", text)
    assert drawn and max(map(len, drawn)) <= 30


def test_a_log_that_goes_elsewhere_is_not_drawn(tmp_path: Path) -> None:
    with open(tmp_path / "log", "w") as file:
        _, text = on_a_terminal(stderr=file.fileno())
    assert "a line of the log" not in text and "head objects: 100/100" in text
    assert "<WARNING>: a line of the log" in (tmp_path / "log").read_text()


def test_a_variable_turns_it_off() -> None:
    _, text = on_a_terminal(DISPLAY_PROGRESSBAR="false")
    assert "head objects" not in text and "\x1b[?25l" not in text and text.count("a line of the log") == 1
