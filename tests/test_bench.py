"""`python -m bench`: what it makes of measured runs, and a short run whose ratios must not have fallen.

Budgets are for people to look at (`python -m bench`); here only what was reached once must not be lost again.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mounts import REPOSITORY
from needs import need, need_fuse, tool

from bench.measure import OURS, Row, alternate
from bench.plot import plot
from bench.report import as_json, fallen, lines, recorded, table

RECORDS = REPOSITORY / "bench" / "recorded.json"


def measured(ours: list[float], theirs: list[float], **more: object) -> Row:
    row = Row("section", "work", "us", budgets={"go": 1.5}, **more)  # type: ignore[arg-type]
    subjects = {OURS: lambda number: ours[number], "go 1.4.1": lambda number: theirs[number]}
    return alternate(row, subjects, len(ours))


def test_a_ratio_is_the_median_of_pairs_and_not_a_quotient_of_medians() -> None:
    (line,) = lines([measured([1, 10, 100], [2, 40, 100])])
    assert line.ratio == 2
    assert line.spread == (1, 4)
    assert (line.budget, line.met) == (">= 1.50", True)


def test_a_rate_is_better_when_it_is_higher() -> None:
    (line,) = lines([measured([10, 10], [20, 20], higher_is_better=True)])
    assert (line.ratio, line.met) == (0.5, False)


def test_subjects_take_turns() -> None:
    order: list[str] = []

    def note(name: str) -> float:
        order.append(name)
        return 1.0

    alternate(Row("s", "n", "us"), {name: lambda _, name=name: note(name) for name in "ab"}, 3)  # type: ignore[misc]
    assert "".join(order) == "ababab"


def test_a_peer_that_fails_is_told_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    def fails(number: int) -> float:
        if number:
            raise OSError(5, "Input/output error")
        return 3.0

    row = alternate(Row("s", "n", "us"), {OURS: lambda _: 1.0, "other": fails}, 3)
    assert "other fails in `s: n`: [Errno 5]" in capsys.readouterr().out
    (line,) = lines([row])
    assert line.ratio == 3
    assert json.loads(as_json([row], {}))["rows"][0]["runs"]["other"] == [3.0, None, None]


def test_a_failure_of_ours_ends_the_run() -> None:
    def fails(_: int) -> float:
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        alternate(Row("s", "n", "us"), {OURS: fails}, 1)


def test_a_limit_is_a_line_of_its_own() -> None:
    row = measured([20, 20], [10, 10], limit=15)
    beside, alone = lines([row])
    assert (beside.peer, beside.met) == ("go 1.4.1", False)
    assert (alone.peer, alone.budget, alone.met) == ("", "<= 15.0 us", False)


def test_tables() -> None:
    found = lines([measured([1, 2], [3, 4]), alternate(Row("other", "alone", "ms"), {OURS: lambda _: 7.0}, 1)])
    text = table(found)
    assert "section\n  work" in text and "other\n  alone" in text
    assert all(not line.endswith(" ") for line in text.splitlines())
    document = table(found, markdown=True).splitlines()
    assert document[2].startswith("| section: work | us | 1.50 | go 1.4.1 | 3.50 | 2.50 |")
    assert len({line.count("|") for line in document}) == 1


def test_what_is_recorded_must_not_fall_far() -> None:
    before = json.loads(recorded(lines([measured([1], [2])])))
    assert before == {"section / work / go 1.4.1": 2.0}
    assert not fallen(lines([measured([1], [1.7])]), before)
    assert [line.name for line in fallen(lines([measured([1], [1.5])]), before)] == ["work"]
    assert not fallen(lines([measured([1], [0.1])]), {})


def test_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib") if "CI" not in os.environ else None
    plot(lines([measured([1, 2], [3, 4])]), tmp_path / "ratios.png")
    assert (tmp_path / "ratios.png").read_bytes().startswith(b"\x89PNG")


def test_figures_without_a_good_run_are_not_compared() -> None:
    row = measured([1], [math.nan])
    assert [line.peer for line in lines([row])] == [""]


def bench(*words: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *words], cwd=REPOSITORY, capture_output=True, text=True, timeout=timeout_s,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip


def test_help_names_the_sections() -> None:
    done = bench("--help", timeout_s=60)
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("startup", "session", "meta", "file", "s3", "local", "programs"))


@pytest.mark.battery
@pytest.mark.timeout(900)
def test_ratios_have_not_fallen() -> None:
    need_fuse()
    need("redis-server")
    records = json.loads(RECORDS.read_text())
    done = bench("--check", str(RECORDS), "--vs", tool("juicefs-go"), "startup", "meta", timeout_s=850)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    missing = [key for key in records if key.split(" / ")[1] not in done.stdout]
    assert not missing, "recorded rows that were not measured"
