"""Help texts: of the program, of a command, and after a wrong number of arguments. Pure text, from the tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from juicefs_py import VERSION
from juicefs_py.cli.args import Command, Option

PROGRAM = "A POSIX file system built on Redis and object storage."
ADVICE = "   Run `juicefs COMMAND --help` for the options of a command."


def of_program(commands: Mapping[str, tuple[str, str]], options: Iterable[Option]) -> str:
    """`commands` gives category and summary by name."""
    lines = ["NAME:", f"   juicefs - {PROGRAM}", "", "USAGE:"]
    lines += ["   juicefs [global options] command [command options] [arguments...]", "", "VERSION:", f"   {VERSION}"]
    lines += ["", "COMMANDS:"]
    width = max(map(len, commands))
    for category in sorted({category for category, _ in commands.values()}):
        lines.append(f"   {category}:")
        lines += [f"     {name:{width}}  {text}" for name, (group, text) in commands.items() if group == category]
    lines += ["", "GLOBAL OPTIONS:", *_option_lines(options), "", "COPYRIGHT:", "   Apache License 2.0", ""]
    return "\n".join(lines)


def of_command(command: Command, help_option: Option) -> str:
    """The page of `juicefs COMMAND --help`."""
    lines = ["NAME:", f"   juicefs {command.name} - {command.summary}", ""]
    name = f"{command.name} command" if command.subcommands else command.name
    lines += ["USAGE:", f"   juicefs {name} [command options] {command.arguments}".rstrip(), ""]
    lines += ["CATEGORY:", f"   {command.category}", ""]
    if command.description:
        lines += ["DESCRIPTION:", "   ", *(f"   {line}".rstrip() for line in command.description.splitlines()), ""]
    if command.subcommands:
        rows = [(", ".join(each.names), each.summary) for each in command.subcommands]
        width = max(len(names) for names, _ in rows)
        lines += ["COMMANDS:", *(f"   {names:{width}}  {summary}" for names, summary in rows), ""]
    categories = list(dict.fromkeys(option.category for option in command.options if option.category))
    plain = [option for option in command.options if not option.category]
    lines += ["OPTIONS:", *_option_lines(plain if categories else [*plain, help_option])]
    for category in categories:
        members = [option for option in command.options if option.category == category]
        lines += ["", f"   {category}", "", *_option_lines(members)]
    return "\n".join([*lines, ""])


def of_arguments(command: Command, complaint: str) -> str:
    """What a wrong number of positionals prints."""
    return f"ERROR: {complaint}\nUSAGE:\n   juicefs {command.name} [command options] {command.arguments}\n"


def _option_lines(options: Iterable[Option]) -> list[str]:
    rows = [_describe(option) for option in options if not option.hidden]
    width = max((len(left) for left, _ in rows), default=0)
    return [f"   {left:{width}}  {right}".rstrip() for left, right in rows]


def _describe(option: Option) -> tuple[str, str]:
    """The two columns of an option: its spellings, and what it does with its default."""
    text, placeholder = option.help, "value"
    if text.count("`") >= 2:
        before, placeholder, after = text.split("`", 2)
        text = before + placeholder + after
    value = "" if option.kind == "bool" else f" {placeholder}"
    left = ", ".join(("--" if len(name) > 1 else "-") + name + value for name in option.names)
    if option.kind == "list":
        left += f" [ {left} ]"
    return left, text + _default(option)


def _default(option: Option) -> str:
    if option.kind == "bool":
        return " (default: false)"
    if not option.default:
        return ""
    quoted = option.kind not in ("int", "uint", "float", "duration")
    return f' (default: "{option.default}")' if quoted else f" (default: {option.default})"
