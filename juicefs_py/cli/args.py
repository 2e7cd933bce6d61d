"""The argument grammar: options before or after positionals, one or two dashes, no bundling, no `--`, and "is set".

Not argparse: abbreviations, intermixed positionals and negative values differ. The tables of options are data
(`options`, and each command's own), shared by this parser, the help and mount(8)'s option list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from juicefs_py.cli import values
from juicefs_py.cli.errors import Fatal, UsageError

COMPLETION = "--generate-bash-completion"
_ZERO = {"int": "0", "uint": "0", "float": "0", "duration": "0"}


class Option(NamedTuple):
    """One option. `kind` is bool, int, uint, float, string, list, or one of the texts size, mbps, seconds, duration.

    Texts are kept as given and parsed when the command asks, so that a bad value is that command's error. `unit` is the
    unit of a size without a letter. A default is written as on the command line.
    """

    names: tuple[str, ...]
    kind: str
    default: str
    help: str
    category: str = ""
    unit: str = "M"
    hidden: bool = False

    @property
    def name(self) -> str:
        """The first, official spelling."""
        return self.names[0]


class Subcommand(NamedTuple):
    """One member of a group of commands. Options are the group's, and may stand anywhere."""

    names: tuple[str, ...]
    summary: str
    run: Callable[[Values], int]
    arguments: str = "META-URL"
    words: int = 1  # positionals behind the name


class Command(NamedTuple):
    """One command: its table, its bounds of positionals, and what runs it. A group of commands has `subcommands`."""

    name: str
    summary: str
    arguments: str
    category: str
    description: str
    options: tuple[Option, ...]
    least: int
    most: int | None  # None: any number
    run: Callable[[Values], int] | None
    subcommands: tuple[Subcommand, ...] = ()

    def chosen(self, name: str) -> Command | None:
        """The member of that name, as a command of its own."""
        for each in self.subcommands:
            if name in each.names:
                full = f"{self.name} {each.names[0]}"
                return self._replace(
                    name=full, summary=each.summary, arguments=each.arguments, least=each.words, most=each.words,
                    run=each.run, subcommands=(),
                )  # fmt: skip
        return None


class Values:
    """Options and positionals as given; reading one that is not set gives its default."""

    def __init__(self, table: Iterable[Option]) -> None:
        self.table = {name: option for option in table for name in option.names}
        self.given: dict[str, object] = {}
        self.spelled: dict[str, str] = {}
        self.positionals: list[str] = []
        self.command_line: list[str] = []  # everything, for the process list

    def __repr__(self) -> str:
        return f"Values({self.given}, {self.positionals})"

    def is_set(self, name: str) -> bool:
        """Whether the option stands on the command line, with whatever value."""
        return name in self.given

    def any_set(self, *names: str) -> bool:
        """Whether any of these options stands on the command line."""
        return any(name in self.given for name in names)

    def put(self, spelling: str, text: str) -> None:
        """Take an option with its value, by any of its names."""
        option = self.table[spelling]
        earlier = self.spelled.setdefault(option.name, spelling)
        if earlier != spelling:
            raise UsageError(f"Cannot use two forms of the same flag: {earlier} {spelling}")
        try:
            value = convert(option.kind, text)
        except ValueError as reason:
            kind = "boolean value" if option.kind == "bool" else "value"
            separator = " for -" if option.kind == "bool" else " for flag -"
            raise UsageError(f'invalid {kind} "{text}"{separator}{spelling}: {reason}') from None
        if option.kind == "list":
            value = [*self.listing(option.name), *text.split(",")]
        self.given[option.name] = value

    def _value(self, name: str) -> object:
        if name in self.given:
            return self.given[name]
        option = self.table[name]
        return convert(option.kind, option.default or _ZERO.get(option.kind, ""))

    def flag(self, name: str) -> bool:
        return self._value(name) is True

    def text(self, name: str) -> str:
        return str(self._value(name))

    def number(self, name: str) -> int:
        value = self._value(name)
        assert isinstance(value, int)
        return value

    def real(self, name: str) -> float:
        value = self._value(name)
        assert isinstance(value, float)
        return value

    def listing(self, name: str) -> list[str]:
        value = self.given.get(name, [])
        assert isinstance(value, list)
        return value

    def size(self, name: str) -> int:
        """Bytes of a size option."""
        try:
            return values.size(self.text(name), self.table[name].unit)
        except ValueError as reason:
            raise Fatal(
                f'Invalid value "{self.text(name)}" for "{name}": {reason}; write a number and one of '
                "B K M G T P E, for example 512M or 1.5G"
            ) from None

    def mbps(self, name: str) -> int:
        """Megabits per second of a rate option."""
        try:
            return values.mbps(self.text(name))
        except ValueError as reason:
            raise Fatal(
                f'Invalid value "{self.text(name)}" for "{name}": {reason}; write megabits per second, or 1G, 2T'
            ) from None

    def seconds(self, name: str) -> float:
        """Seconds of a duration option. A bad one warns and is replaced by the default, as scripts rely on starting."""
        try:
            return values.duration(self.text(name))
        except ValueError:
            from juicefs_py.cli import log

            default = self.table[name].default
            log.LOG.warning(
                "Invalid duration value: %s for --%s, using the default %s", self.text(name), name, default or "0s"
            )
            return values.duration(default)


def convert(kind: str, text: str) -> object:
    """The value of an option's text; ValueError if the kind does not take it."""
    if kind == "bool":
        return values.boolean(text or "false")
    if kind in ("int", "uint"):
        return values.integer(text, signed=kind == "int")
    if kind == "float":
        try:
            return float(text)
        except ValueError:
            raise ValueError("parse error") from None
    if kind == "duration":
        try:
            values.go_duration(text)
        except ValueError:
            raise ValueError("parse error") from None
    return text


def recognise(table: Mapping[str, Option], word: str) -> tuple[bool, bool]:
    """Whether a word spells an option of the table (any number of dashes), and whether it takes the next word too."""
    bare = word.lstrip("-")
    if bare == word:
        return False, False
    name, has_value, _ = bare.partition("=")
    option = table.get(name)
    if option is None:
        return False, False
    return True, not has_value and option.kind != "bool"


def take_globals(words: Sequence[str], table: Mapping[str, Option]) -> tuple[list[str], list[str]]:
    """Split off the options that are legal anywhere, with their values; the rest in order."""
    moved: list[str] = []
    rest: list[str] = []
    at = 0
    while at < len(words):
        word = words[at]
        known, takes_next = recognise(table, word)
        (moved if known else rest).append(word)
        at += 1
        if takes_next:
            if at >= len(words):
                raise Fatal(f'option "{word}" requires value')
            moved.append(words[at])
            at += 1
    return moved, rest


def options_first(words: Sequence[str], table: Mapping[str, Option]) -> list[str]:
    """A command's words with its options moved in front of the positionals."""
    moved: list[str] = []
    rest: list[str] = []
    at = 0
    while at < len(words):
        word = words[at]
        known, takes_next = recognise(table, word)
        if not known and word.startswith("-") and COMPLETION not in words:
            raise Fatal(f'unknown option: "{word}"')
        (moved if known else rest).append(word)
        at += 1
        if takes_next and at < len(words):
            moved.append(words[at])
            at += 1
    return moved + rest


def parse(words: Sequence[str], values_: Values) -> None:
    """Read options up to the first positional, as Go's flag package does; what is left are positionals."""
    at = 0
    while at < len(words):
        word = words[at]
        if len(word) < 2 or word[0] != "-":
            break
        name, has_value, text = word[2 if word.startswith("--") else 1 :].partition("=")
        if name.startswith("-") or not name:
            raise UsageError(f"bad flag syntax: {word}")
        option = values_.table.get(name)
        if option is None:
            raise UsageError(f"flag provided but not defined: -{name}")
        at += 1
        if not has_value and option.kind == "bool":
            text = "true"
        elif not has_value:
            if at >= len(words):
                raise UsageError(f"flag needs an argument: -{name}")
            text = words[at]
            at += 1
        values_.put(name, text)
    values_.positionals = list(words[at:])
