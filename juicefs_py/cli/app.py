"""From a command line to an exit code: which command, its options, the log level, and how every failure is shown.

Not here: what a command does (`juicefs_py.commands`), what an option means (`options`).
"""

from __future__ import annotations

import importlib
import os
import signal
import sys

from juicefs_py import VERSION
from juicefs_py.cli import help as help_text
from juicefs_py.cli import options
from juicefs_py.cli.args import COMPLETION, Command, Values, options_first, parse, take_globals
from juicefs_py.cli.errors import Fatal, UsageError
from juicefs_py.commands import COMMANDS, LATER

UNKNOWN_COMMAND = 3


def run(argv: list[str]) -> int:
    """Run a whole command line, the program's name included; the exit code of the process."""
    _become_juicefs()
    try:
        code = _dispatch(argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        return _die_by(signal.SIGPIPE)
    except KeyboardInterrupt:
        return _die_by(signal.SIGINT)
    except Exception as error:  # the outermost frame: whatever it is, a person reads one line
        from juicefs_py.cli.report import report

        report(error)
        return 1


def _dispatch(argv: list[str]) -> int:
    if os.path.basename(argv[0]) == "mount.juicefs" or os.environ.get("CALL_VIA_MOUNT"):
        from juicefs_py.mount import helper

        argv = helper.rewrite(argv)
    values = Values((*options.GLOBAL, options.VERSION))
    moved, words = take_globals(argv[1:], values.table)
    parse(moved, values)
    if values.flag("version"):
        print(f"juicefs version {VERSION}")
        return 0
    if COMPLETION in words:
        return _complete(words)
    if not words or words[0] in ("-h", "--help", "-help", "--h"):
        print(help_text.of_program(COMMANDS, (*options.GLOBAL, options.HELP, options.VERSION)))
        return 0
    values.command_line = ["juicefs", *argv[1:]]
    return _run_command(words, values)


def _run_command(words: list[str], globals_: Values) -> int:
    name = words[0]
    if name in LATER:
        raise Fatal(f"the command `{name}` is not part of juicefs_py yet; run `juicefs --help` for those that are")
    if name.startswith("-"):
        raise Fatal(f'unknown option: "{name}"')
    if name not in COMMANDS:
        return _unknown(name)
    command = load(name)
    values = Values((*command.options, options.HELP))
    try:
        parse(options_first(words[1:], values.table), values)
    except UsageError as error:
        print(f"Incorrect Usage: {error}\n\n{help_text.of_command(command, options.HELP)}")
        raise
    if values.flag("help"):
        print(help_text.of_command(command, options.HELP))
        return 0
    if command.subcommands:
        if not values.positionals:
            return _show_group(command)
        name = values.positionals.pop(0)
        member = command.chosen(name)
        if member is None:
            return _unknown(name)
        command = member
    complaint = _count_complaint(command, values.positionals)
    if complaint:
        print(help_text.of_arguments(command, complaint))
        return 1
    values.command_line = globals_.command_line
    values.given |= globals_.given
    values.table |= globals_.table
    if name != "version":
        _set_up_log(globals_)
    assert command.run is not None
    return command.run(values)


def _unknown(name: str) -> int:
    print(f"No help topic for '{name}'", file=sys.stderr)
    return UNKNOWN_COMMAND


def _show_group(command: Command) -> int:
    """Help of a group without a member. Others look on either stream for the options that it knows."""
    text = help_text.of_command(command, options.HELP)
    print(text)
    if not sys.stderr.isatty():
        print(text, file=sys.stderr)
    return 0


def load(name: str) -> Command:
    """The command of that name, from its module."""
    command = importlib.import_module(f"juicefs_py.commands.{name}").COMMAND
    assert isinstance(command, Command)
    return command


def _count_complaint(command: Command, positionals: list[str]) -> str:
    if len(positionals) < command.least:
        return f"This command requires at least {command.least} arguments"
    if command.most is not None and len(positionals) > command.most:
        return f"This command accept at most {command.most} arguments but got [{' '.join(positionals)}]"
    return ""


def _complete(words: list[str]) -> int:
    """What shell completion asks for: command names, or option names after a word that begins with a dash."""
    before = [word for word in words if word != COMPLETION]
    if before and before[0] in COMMANDS:
        if before[-1].startswith("-"):
            known = (name for option in load(before[0]).options if not option.hidden for name in option.names)
            print("\n".join(("--" if len(name) > 1 else "-") + name for name in known))
        return 0
    print("\n".join(COMMANDS))
    return 0


def _set_up_log(globals_: Values) -> None:
    from juicefs_py.cli import log

    log.set_up(
        level_name=globals_.text("log-level"), trace=globals_.flag("trace"), verbose=globals_.flag("verbose"),
        quiet=globals_.flag("quiet"), log_id=globals_.text("log-id"), colour=not globals_.flag("no-color"),
    )  # fmt: skip
    if globals_.is_set("pyroscope"):
        log.LOG.warning("--pyroscope is not supported yet and ignored")


def _die_by(number: int) -> int:
    """End as a C program would: by the signal itself, silently."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number


def _become_juicefs() -> None:
    """Take the name that `pidof juicefs` and `ps` look for."""
    try:
        with open("/proc/self/comm", "w", encoding="ascii") as comm:
            comm.write("juicefs")
    except OSError:
        pass
