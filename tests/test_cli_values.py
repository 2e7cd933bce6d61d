"""Value grammars, the styles in which sizes are shown, tables, the log line."""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from juicefs_py.cli import log, prompt, sizes, tables, values
from juicefs_py.cli.errors import Fatal


@pytest.mark.parametrize(("text", "unit", "result"), [
    ("", "M", 0), ("0", "M", 0), ("300M", "M", 300 << 20), ("300", "M", 300 << 20), ("10", "G", 10 << 30),
    ("4", "K", 4096), ("1.5g", "M", 3 << 29), ("7b", "M", 7), ("1e", "B", 1 << 60), ("2E", "B", 1 << 61),
    ("1T", "B", 1 << 40), (".5K", "B", 512),
])  # fmt: skip
def test_sizes(text: str, unit: str, result: int) -> None:
    assert values.size(text, unit) == result


@pytest.mark.parametrize("text", ["10GiB", "10GB", "x", "-1", "1 G", "G", "0x10", "inf", "nan", "1_0", "99999E"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(ValueError):
        values.size(text, "M")


@pytest.mark.parametrize(("text", "result"), [("", 0), ("100", 100), ("1G", 1000), ("2t", 2_000_000), ("1.9", 1)])
def test_rates(text: str, result: int) -> None:
    assert values.mbps(text) == result


@pytest.mark.parametrize("text", ["1k", "x", "-1", "1Gbps"])
def test_bad_rates(text: str) -> None:
    with pytest.raises(ValueError):
        values.mbps(text)


@pytest.mark.parametrize(("text", "result"), [
    ("", 0), ("12", 12), ("0.25", 0.25), ("1d12h", 129600), ("1h30m", 5400), ("100ms", 0.1), ("2d", 172800),
    ("-2", -2), ("1.5s", 1.5), ("10us", 1e-5),
])  # fmt: skip
def test_durations(text: str, result: float) -> None:
    assert values.duration(text) == pytest.approx(result)


@pytest.mark.parametrize("text", ["abc", "1w", "d", "1d-", "1h30", "h", ".s", "1..5s"])
def test_bad_durations(text: str) -> None:
    with pytest.raises(ValueError):
        values.duration(text)


def test_go_durations_have_no_days() -> None:
    assert values.go_duration("90m") == 5400
    assert values.go_duration("-1h") == -3600
    with pytest.raises(ValueError):
        values.go_duration("2d")


@pytest.mark.parametrize(("text", "result"), [
    ("0x10", 16), ("010", 8), ("0b11", 3), ("0o17", 15), ("1_000", 1000), ("-5", -5), ("+5", 5), ("0", 0),
])  # fmt: skip
def test_integers(text: str, result: int) -> None:
    assert values.integer(text) == result


@pytest.mark.parametrize("text", ["", "-", "1.0", "10M", "0x", "08", "--1", "+-1", "9223372036854775808", " 1"])
def test_bad_integers(text: str) -> None:
    with pytest.raises(ValueError):
        values.integer(text)


def test_unsigned_numbers_refuse_a_sign() -> None:
    assert values.integer("18446744073709551615", signed=False) == (1 << 64) - 1
    with pytest.raises(ValueError):
        values.integer("-1", signed=False)


def test_small_grammars() -> None:
    assert values.octal("022", 16) == 0o22
    assert values.hours("23-6") == (23, 6) == values.hours("23,6")
    assert values.tag("a=b") == ("a", "b")
    bad: list[tuple[Callable[..., object], tuple[object, ...]]] = [
        (values.octal, ("9", 16)), (values.octal, ("0200000", 16)), (values.hours, ("24-1",)), (values.hours, ("3",)),
        (values.tag, ("a",)), (values.tag, ("a=b=c",)), (values.tag, ("=b",)),
    ]  # fmt: skip
    for parser, arguments in bad:
        with pytest.raises(ValueError):
            parser(*arguments)


@given(st.text(max_size=12))
def test_parsers_only_ever_raise_value_error(text: str) -> None:
    for parser in (values.integer, values.mbps, values.duration, values.go_duration, values.hours, values.tag,
                   lambda t: values.size(t, "M"), lambda t: values.octal(t, 16), values.boolean):  # fmt: skip
        try:
            parser(text)
        except ValueError:
            pass


@pytest.mark.parametrize(("count", "short", "exact"), [
    (0, "0 B", "0 Bytes"), (9, "9 B", "9 Bytes"), (512, "512 B", "512 Bytes"), (1023, "1023 B", "1023 Bytes"),
    (1024, "1.0 KiB", "1.00 KiB (1024 Bytes)"), (1677722, "1.6 MiB", "1.60 MiB (1677722 Bytes)"),
    (807955, "789 KiB", "789.02 KiB (807955 Bytes)"), (10 << 30, "10 GiB", "10.00 GiB (10737418240 Bytes)"),
    (1 << 20, "1.0 MiB", "1.00 MiB (1048576 Bytes)"),
])  # fmt: skip
def test_sizes_shown(count: int, short: str, exact: str) -> None:
    assert sizes.ibytes(count) == short
    assert sizes.exact_bytes(count) == exact


def test_rates_and_counts_shown() -> None:
    assert sizes.rate(0) == "0.0 Mbps"
    assert sizes.rate(100) == "100.0 Mbps"
    assert sizes.rate(1000) == "1.0 Gbps"
    assert sizes.thousands(1000) == "1,000"


def test_a_table_has_centred_headings_and_right_aligned_cells() -> None:
    rows = [("PATH", "SIZE"), ("/", "1.6 MiB"), ("dir/", "0 B")]
    assert tables.render(rows, left=0) == (
        "+------+---------+\n"
        "| PATH |   SIZE  |\n"
        "+------+---------+\n"
        "| /    | 1.6 MiB |\n"
        "| dir/ |     0 B |\n"
        "+------+---------+"
    )


def test_the_log_line(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    root = logging.getLogger()
    level = root.level
    try:
        log.set_up(log_id="job7")
        log.LOG.warning("disk %s is full\n", "/x")
        log.LOG.debug("not shown")
        log.fatal("gone")
    finally:
        root.removeHandler(log.HANDLER)
        root.setLevel(level)
    first, second = out.getvalue().splitlines()
    stamp = r"\[job7\] \d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{6} juicefs\[\d+\] "
    assert re.fullmatch(stamp + r"<WARNING>: disk /x is full \[test_the_log_line@test_cli_values\.py:\d+\]", first), (
        first
    )
    assert re.fullmatch(stamp + r"<FATAL>: gone \[main@main:0\]", second), second


@pytest.mark.parametrize(("answers", "result"), [
    ("y\n", True), ("YES\n", True), ("\n", False), ("n\n", False), ("", False), ("what\ny\n", True),
])  # fmt: skip
def test_prompts(
    answers: str, result: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(answers))
    assert prompt.confirmed() is result
    shown = capsys.readouterr().out
    assert shown.startswith("Proceed anyway? [y/N]: ")
    assert ("Please input y(yes) or n(no): " in shown) == answers.startswith("what")
    monkeypatch.setattr(sys, "stdin", io.StringIO("no\n"))
    with pytest.raises(Fatal, match="Aborted"):
        prompt.confirm_or_abort()
