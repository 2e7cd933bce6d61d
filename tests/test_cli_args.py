"""The argument grammar: order, spellings, errors and how they are told; help and completion from the same tables."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from mounts import PROGRAM, environment

from juicefs_py import VERSION
from juicefs_py.cli import app
from juicefs_py.cli.args import Command, Option, Values, options_first, parse, take_globals
from juicefs_py.cli.errors import Fatal, UsageError
from juicefs_py.cli.options import GLOBAL
from juicefs_py.commands import COMMANDS, LATER

TABLE = (
    Option(("session", "s"), "uint", "0", ""),
    Option(("more", "m"), "bool", "", ""),
    Option(("threads", "p"), "int", "50", ""),
    Option(("capacity",), "size", "0", "", unit="G"),
    Option(("exclude",), "list", "", ""),
    Option(("age",), "duration", "2h", ""),
)


def parsed(*words: str) -> Values:
    values = Values(TABLE)
    parse(options_first(words, values.table), values)
    return values


@pytest.mark.parametrize("words", [
    ("-s", "5", "URL"), ("--session", "5", "URL"), ("URL", "--session=5"), ("URL", "-session", "5"), ("-s=5", "URL"),
])  # fmt: skip
def test_an_option_may_stand_anywhere_with_one_or_two_dashes(words: tuple[str, ...]) -> None:
    values = parsed(*words)
    assert values.number("session") == 5
    assert values.positionals == ["URL"]


def test_an_option_without_its_value_swallows_the_first_positional() -> None:
    with pytest.raises(UsageError, match='invalid value "URL" for flag -s: parse error'):
        parsed("URL", "-s")


def test_a_value_is_taken_blindly() -> None:
    assert parsed("--threads", "-1", "x").number("threads") == -1


@pytest.mark.parametrize("word", ["-sm", "--", "-", "--sess", "-x"])
def test_bundles_abbreviations_and_terminators_are_unknown(word: str) -> None:
    with pytest.raises(Fatal, match=f'unknown option: "{word}"'):
        parsed("URL", word)


def test_three_dashes_are_known_but_malformed() -> None:
    with pytest.raises(UsageError, match="bad flag syntax: ---more"):
        parsed("---more")


def test_two_spellings_of_one_option_are_refused_and_the_last_of_one_spelling_wins() -> None:
    with pytest.raises(UsageError, match="Cannot use two forms of the same flag: s session"):
        parsed("-s", "1", "--session", "2")
    assert parsed("-s", "1", "-s", "2").number("session") == 2


@pytest.mark.parametrize(("word", "value"), [("--more=false", False), ("--more=T", True), ("-m", True)])
def test_booleans(word: str, value: bool) -> None:
    assert parsed(word).flag("more") is value


def test_a_bad_boolean_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match='invalid boolean value "no" for -more: parse error'):
        parsed("--more=no")


def test_being_set_is_not_having_a_value() -> None:
    assert not parsed("URL").is_set("capacity")
    given = parsed("--capacity", "0")
    assert given.is_set("capacity")
    assert given.size("capacity") == 0


def test_lists_repeat_and_split_on_commas() -> None:
    assert parsed("--exclude", "a,b", "--exclude", "c").listing("exclude") == ["a", "b", "c"]


def test_sizes_name_the_option_in_their_error() -> None:
    with pytest.raises(Fatal, match='Invalid value "10GiB" for "capacity"'):
        parsed("--capacity", "10GiB").size("capacity")


def test_a_go_duration_is_checked_at_once() -> None:
    with pytest.raises(UsageError, match='invalid value "2d" for flag -age: parse error'):
        parsed("--age", "2d")


def test_global_options_are_pulled_out_of_every_position() -> None:
    table = Values(GLOBAL).table
    moved, rest = take_globals(["status", "URL", "-v", "--log-level", "debug", "--comment", "--trace"], table)
    assert moved == ["-v", "--log-level", "debug", "--trace"]
    assert rest == ["status", "URL", "--comment"]
    with pytest.raises(Fatal, match='option "--log-level" requires value'):
        take_globals(["status", "--log-level"], table)


# the program


def juicefs(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "juicefs_py", *words], capture_output=True, text=True, timeout=60)


def test_the_version_line_is_one_that_scripts_and_other_clients_parse() -> None:
    line = f"juicefs version {VERSION}\n"
    assert juicefs("version").stdout == line
    assert juicefs("--version").stdout == line
    assert juicefs("status", "nonsense", "-V").stdout == line
    numbers, _, build = VERSION.partition("+")
    assert tuple(map(int, numbers.split("."))) >= (1, 4, 0)
    assert build.count(".") == 1


def test_version_starts_quickly() -> None:
    """A tenth of a second, or on slow machines six times what the interpreter alone takes: no heavy imports."""

    def timed(*command: str) -> float:
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env=environment(), cwd="/")
        return time.perf_counter() - started

    alone, ours = (min(timed(*each) for _ in range(10)) for each in ((PROGRAM[0], "-c", "pass"), (*PROGRAM, "version")))
    print(f"juicefs version: {1000 * ours:.0f} ms, {ours / alone:.1f} x the interpreter alone")
    assert ours < max(0.1, 6 * alone)


@pytest.mark.parametrize(("words", "code", "stdout", "stderr"), [
    ((), 0, "COMMANDS:", ""),
    (("-h",), 0, "COMMANDS:", ""),
    (("status", "-h"), 0, "juicefs status - Show status", ""),
    (("help",), 3, "", "No help topic for 'help'"),
    (("foo",), 3, "", "No help topic for 'foo'"),
    (("sync", "x"), 1, "", "<FATAL>: the command `sync` is not part of juicefs_py yet"),
    (("status",), 1, "ERROR: This command requires at least 1 arguments\nUSAGE:\n   juicefs status", ""),
    (("format", "a", "b", "c"), 1, "ERROR: This command accept at most 2 arguments but got [a b c]", ""),
    (("status", "x", "--foo"), 1, "", '<FATAL>: unknown option: "--foo"'),
    (("rmr", "-p", "abc", "x"), 1, 'Incorrect Usage: invalid value "abc" for flag -p: parse error\n\nNAME:',
     '<FATAL>: invalid value "abc" for flag -p: parse error'),
])  # fmt: skip
def test_usage(words: tuple[str, ...], code: int, stdout: str, stderr: str) -> None:
    done = juicefs(*words)
    assert done.returncode == code, done
    assert stdout in done.stdout
    assert stderr in done.stderr
    assert bool(done.stderr) == bool(stderr)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_table_without_doubles_and_a_help_page(name: str) -> None:
    command = app.load(name)
    assert isinstance(command, Command)
    assert (command.category, command.summary) == COMMANDS[name]
    spellings = [spelling for option in (*command.options, *GLOBAL) for spelling in option.names]
    assert len(spellings) == len(set(spellings))
    values = Values(command.options)
    for option in command.options:
        if option.kind == "size":
            values.size(option.name)
        elif option.kind == "seconds":
            values.seconds(option.name)
        elif option.kind != "list":
            values._value(option.name)
    page = juicefs(name, "--help").stdout
    for option in command.options:
        assert (f"--{option.name}" in page or f"-{option.name}" in page) is not option.hidden or option.hidden


def test_no_command_is_both_there_and_yet_to_come() -> None:
    assert not set(COMMANDS) & set(LATER)


def test_completion_names_commands_and_options() -> None:
    assert juicefs("--generate-bash-completion").stdout.split() == list(COMMANDS)
    assert "--bucket" in juicefs("format", "--", "--generate-bash-completion").stdout.split()


def test_a_closed_pipe_ends_silently() -> None:
    line = f"{sys.executable} -m juicefs_py mount --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.strip() in ("0", "141")
