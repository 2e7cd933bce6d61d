"""mount(8)'s call, `mount.juicefs SOURCE TARGET [-o LIST]...`, rewritten to a `juicefs mount` command line.

Only words and option names here; nothing is mounted.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from juicefs_py.cli import log
from juicefs_py.cli.args import Option
from juicefs_py.cli.errors import Fatal
from juicefs_py.cli.options import GLOBAL

_DROPPED = frozenset(("", "background", "_netdev", "nofail", "rw", "defaults", "remount"))
_ALIASES = {"attrcacheto": "attr-cache", "entrycacheto": "entry-cache", "direntrycacheto": "dir-entry-cache"}
_OF_ANOTHER_EDITION = frozenset(  # the kernel would refuse the mount for them; copied entries and ConfigMaps have them
    ("token", "passphrase", "conf-dir", "rsa-key", "no-update", "no-sharing", "max-cached-inodes", "cache-group")
)
_FAMILIES_OF_IT = ("cache-group-", "group-")


def rewrite(argv: Sequence[str]) -> list[str]:
    """The `juicefs mount -d` command line that a call by mount(8) means; the bare program name if words are missing."""
    if len(argv) < 3:
        return ["juicefs"]
    from juicefs_py.commands.mount import COMMAND

    table = {name: option for option in (*COMMAND.options, *GLOBAL) for name in option.names if len(name) > 1}
    flags: list[str] = []
    kernel: list[str] = []
    for part in _parts(argv[3:]):
        name, has_value, value = part.partition("=")
        name = _ALIASES.get(name, name)
        if name in _DROPPED:
            continue
        if name in _OF_ANOTHER_EDITION or name.startswith(_FAMILIES_OF_IT):
            log.LOG.warning("-o %s belongs to the Enterprise Edition and is ignored", name)  # no value: may be secret
            continue
        if name == "debug":
            kernel.append("debug")
        if name in table and name != "o":
            flags.append(_flag(table[name], name, has_value, value))
        elif name != "debug":
            kernel.append(part)
    if kernel:
        flags += ["-o", ",".join(kernel)]
    return ["juicefs", "mount", "-d", *flags, argv[1], argv[2]]


def _parts(words: Sequence[str]) -> Iterable[str]:
    """The comma parts of every word that follows a `-o`."""
    for flag, word in itertools.pairwise(words):
        if flag == "-o":
            yield from map(str.strip, word.split(","))


def _flag(option: Option, name: str, has_value: str, value: str) -> str:
    if not has_value and option.kind != "bool":
        raise Fatal(f"option {name} requires a value")
    return f"--{name}={value}" if has_value else f"--{name}"
