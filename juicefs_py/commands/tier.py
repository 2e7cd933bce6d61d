"""`juicefs tier`: storage tiers of files and directories - listed, set, and asked back from archives.

Which class a tier means is said by `config --tier`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from juicefs_py.cli import log, tables
from juicefs_py.cli.args import Command, Option, Subcommand, Values
from juicefs_py.cli.errors import Fatal

if TYPE_CHECKING:
    from juicefs_py.maintenance.opening import Opened
    from juicefs_py.maintenance.tiers import Tiering
    from meta.attr import Attr

_HIGHEST = 3
_FILE, _DIRECTORY = 1, 2


def _list(values: Values) -> int:
    from juicefs_py.maintenance.opening import opened_metadata

    _check_options(values)
    with opened_metadata(values.positionals[0]) as meta:
        rows = [(str(number), tier.storage_class, tier.tag) for number, tier in sorted(meta.setting.tiers.items())]
    print(tables.render([("tier", "storageClass", "tag"), *rows], left=1))
    return 0


def _set(values: Values) -> int:
    from juicefs_py.maintenance.opening import opened
    from juicefs_py.maintenance.tiers import changing

    _check_options(values)
    if not values.is_set("tier"):
        raise Fatal("missing required flag: --tier")
    url, path = values.positionals
    number = values.number("tier")
    with opened(url, writing=True) as volume:
        tiers = volume.meta.setting.tiers
        if number not in tiers:
            raise Fatal(f"unknown tier {number}")
        ino, attr = _find(volume, path)
        old, new = tiers.get(attr.tier, tiers[0]), tiers[number]
        log.LOG.info(
            'set storage tier of "%s" from %d(storage-class: %s;tag: %s) to %d(storage-class: %s;tag: %s)',
            path, attr.tier, old.storage_class, old.tag, number, new.storage_class, new.tag,
        )  # fmt: skip
        _run(changing(volume, number, values.flag("force")), ino, attr, values.flag("recursive"))
    return 0


def _restore(values: Values) -> int:
    from juicefs_py.maintenance.opening import opened
    from juicefs_py.maintenance.tiers import thawing

    _check_options(values)
    url, path = values.positionals
    with opened(url, writing=False) as volume:
        ino, attr = _find(volume, path)
        _run(thawing(volume, values.number("days")), ino, attr, values.flag("recursive"))
    return 0


def _check_options(values: Values) -> None:
    if not 0 <= values.number("tier") <= _HIGHEST:
        raise Fatal(f"--tier should be between 0 and {_HIGHEST}")
    if values.number("days") < 1:
        raise Fatal("--days should be at least 1")


def _find(volume: Opened, path: str) -> tuple[int, Attr]:
    """The file or directory at a path of the volume. Symlinks are not followed."""
    from meta.errors import Refused
    from meta.types import SUPERUSER

    try:
        ino, attr = volume.meta.resolve(SUPERUSER, b"/" + os.fsencode(path).lstrip(b"/"))
    except Refused as problem:
        raise Fatal(f"{path}: {str(problem).lower()}") from None
    if attr.type not in (_FILE, _DIRECTORY):
        raise Fatal("only file and directory are supported to set storage tier")
    return ino, attr


def _run(work: Tiering, ino: int, attr: Attr, recursive: bool) -> None:
    from juicefs_py.maintenance.tiers import File

    if attr.type == _FILE:
        work.file(File(ino, attr.length, attr.tier))
    else:
        work.tree(ino, recursive)
    log.LOG.debug("%d files", work.files)


COMMAND = Command(
    "tier", "Manage storage tiers of files and directories", "META-URL", "ADMIN",
    "A tier (0 to 3) is a storage class and a tag, defined by `config META-URL --tier N --storage-class CLASS`.\n"
    "New files get the tier of their directory.\n\n"
    "Examples:\n$ juicefs tier list redis://localhost\n"
    "$ juicefs tier set redis://localhost --tier 1 /dir -r\n"
    "$ juicefs tier restore redis://localhost /dir/file --days 5",
    (
        Option(("tier",), "int", "0", "the tier, 0 to 3 (set)"),
        Option(("recursive", "r"), "bool", "", "all files and directories below as well (set, restore)"),
        Option(("force", "f"), "bool", "", "rewrite objects even if the tier is the same: its class was changed (set)"),
        Option(("days",), "int", "3", "how many days restored objects stay readable (restore)"),
    ),
    1, 1, None,
    (
        Subcommand(("list",), "List the tiers of a volume", _list),
        Subcommand(("set",), "Put a file or directory into a tier", _set, "META-URL PATH", 2),
        Subcommand(("restore",), "Ask for archived objects to become readable", _restore, "META-URL PATH", 2),
    ),
)  # fmt: skip
