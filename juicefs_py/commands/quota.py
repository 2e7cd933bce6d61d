"""`juicefs quota`: limits of directories, users and groups - set, shown, lifted, and checked against what there is.

Not their enforcement, and not the counting (`meta.rules.limits`). Running mounts take a change over with their next
heartbeat.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from juicefs_py.cli import log, tables
from juicefs_py.cli.args import Command, Option, Subcommand, Values
from juicefs_py.cli.errors import Fatal
from juicefs_py.cli.sizes import ibytes, thousands
from juicefs_py.cli.umask import umask

if TYPE_CHECKING:
    from meta.client import MetaClient
    from meta.rules.limits import Use
    from meta.transaction import Quota, QuotaKind

_HIGHEST_ID = (1 << 32) - 1
_HEADING = ("Size", "Used", "Use%", "Inodes", "IUsed", "IUse%")
_FIRST = {"dir": "Path", "user": "User ID", "group": "Group ID"}
_SELECTORS = ("uid", "gid", "path")
_SHORT: dict[QuotaKind, str] = {"user": "uid", "group": "gid"}


class Named(NamedTuple):
    """Whose quota a command is about, as the options say it."""

    kind: QuotaKind
    name: str
    number: int = 0  # of a user or group

    @property
    def listed(self) -> str:
        """How a list of all kinds shows it."""
        return self.name if self.kind == "dir" else f"{_SHORT[self.kind]}:{self.number}"


def _set(values: Values) -> int:
    from juicefs_py.maintenance.opening import opened_metadata
    from meta.errors import Refused
    from meta.rules.limits import set_limit

    one = _named(values)
    space = values.size("capacity") if values.is_set("capacity") else None
    inodes = values.number("inodes") if values.is_set("inodes") else None
    with opened_metadata(values.positionals[0], writing=True) as meta:
        key = _key(meta, one, create=values.flag("create"))
        try:
            quota = set_limit(meta.vol, one.kind, key, space, inodes, strict=values.flag("strict"))
        except Refused as problem:
            raise Fatal(f"set quota of {one.name}: {str(problem).lower()}") from None
        _print(_FIRST[one.kind], {one.name: quota})
    return 0


def _get(values: Values) -> int:
    from juicefs_py.maintenance.opening import opened_metadata

    one = _named(values)
    with opened_metadata(values.positionals[0]) as meta:
        quota = meta.reader.quota(one.kind, _key(meta, one))
        _print(_FIRST[one.kind], {one.name: quota} if quota is not None else {})
    return 0


def _delete(values: Values) -> int:
    from juicefs_py.maintenance.opening import opened_metadata
    from meta.rules.limits import lift_limit

    one = _named(values)
    with opened_metadata(values.positionals[0], writing=True) as meta:
        lift_limit(meta.vol, one.kind, _key(meta, one))
    return 0


def _list(values: Values) -> int:
    from juicefs_py.maintenance.opening import opened_metadata

    one = _named(values) if values.any_set(*_SELECTORS) else None
    with opened_metadata(values.positionals[0]) as meta:
        if one is None:
            found = dict(_all(meta))
        else:
            quota = meta.reader.quota(one.kind, _key(meta, one))
            found = {} if quota is None else {one.listed: quota}
        _print("Path/ID", {name: quota for name, quota in found.items() if quota[:2] != (-1, -1)})
    return 0


def _check(values: Values) -> int:
    from juicefs_py.maintenance.opening import opened_metadata

    one = _named(values) if values.any_set(*_SELECTORS) else None
    repair = values.flag("repair")
    with opened_metadata(values.positionals[0], writing=repair) as meta:
        if one is not None and one.kind == "dir":
            _check_directory(meta, one.name, _key(meta, one), values.flag("strict"), repair)
        else:  # users and groups are counted together, whoever is named
            _check_owners(meta, repair)
    return 0


def _named(values: Values) -> Named:
    """Whom the options name; exactly one."""
    given = [option for option in _SELECTORS if values.is_set(option)]
    if len(given) > 1:
        raise Fatal(f"Cannot specify both --{given[0]} and --{given[1]} at the same time")
    if not given:
        raise Fatal(
            "Please specify the directory with `--path <dir>` option or specify user/group with `--uid <uid>`/"
            "`--gid <gid>` option"
        )
    if given == ["path"]:
        return Named("dir", values.text("path"))
    number = values.number(given[0])
    if number > _HIGHEST_ID:
        raise Fatal(f"Invalid --{given[0]}: {number} is larger than {_HIGHEST_ID}, the largest id there is")
    if given == ["uid"] and not number:
        raise Fatal("Invalid --uid: 0 is not allowed")
    return Named("user" if given == ["uid"] else "group", str(number), number)


def _key(meta: MetaClient, one: Named, *, create: bool = False) -> int:
    """What the quota is kept under: the number of the user or group, or the inode of the directory."""
    if one.kind != "dir":
        return one.number
    from meta.errors import Refused
    from meta.types import SUPERUSER, TRASH_NAME

    path = b"/" + os.fsencode(one.name).lstrip(b"/")
    if os.path.normpath(path).split(b"/")[1] == TRASH_NAME:
        raise Fatal("no quota for any trash directory")
    try:
        return meta.make_directories(path, 0o777 & ~umask()) if create else meta.resolve(SUPERUSER, path)[0]
    except Refused as problem:
        raise Fatal(f"resolve dir {one.name}: {str(problem).lower()}") from None


def _all(meta: MetaClient) -> Iterator[tuple[str, Quota]]:
    """Every quota by the name that a list shows."""
    from juicefs_py.maintenance.names import shown

    for ino, quota in meta.reader.quotas("dir").items():
        paths = meta.paths(ino)
        yield shown(paths[0]) if paths else f"inode:{ino}", quota
    for kind, short in _SHORT.items():
        for number, quota in meta.reader.quotas(kind).items():
            yield f"{short}:{number}", quota


def _check_directory(meta: MetaClient, name: str, ino: int, strict: bool, repair: bool) -> None:
    from meta.rules.limits import check_directory, repair_directory

    quota, use = check_directory(meta.vol, ino, strict=strict)
    if quota is None:
        raise Fatal(f"no quota for inode {ino} path {name}")
    if (quota.used_space, quota.used_inodes) == use:
        log.LOG.info("quota of %s is consistent", name)
    else:
        kept = _told(quota.used_space, quota.used_inodes)
        log.LOG.warning("%s: quota(%s) != summary(%s)", name, kept, _told(*use))
        if not repair:
            raise Fatal(f"quota of {name} is inconsistent, please repair it with --repair flag")
        log.LOG.info("repairing...")
        use = repair_directory(meta.vol, ino, strict=strict)
    _print("Path", {name: quota._replace(used_space=use.space, used_inodes=use.inodes)})


def _check_owners(meta: MetaClient, repair: bool) -> None:
    from meta.rules.limits import owners, repair_owner

    if not meta.setting.user_group_quota:
        raise Fatal(
            "the volume keeps no usage of users and groups; `juicefs config META-URL --user-group-quota` or a first "
            "quota switches that on"
        )
    wrong = 0
    with owners(meta.vol) as counted:
        for kind, number, quota, use in counted.differences():
            if quota is None or (quota.used_space, quota.used_inodes) != use:
                wrong += 1
                _complain(f"{_SHORT[kind]}:{number}", quota, use)
        if wrong and not repair:
            raise Fatal("user/group quota is inconsistent, please repair it with --repair flag")
        if not repair:
            return
        log.LOG.info("Begin to repair user/group quota.")
        for kind, number, _, use in counted.differences():
            repair_owner(meta.vol, kind, number, use)


def _complain(name: str, quota: Quota | None, use: Use) -> None:
    counted = _told(*use)
    if quota is None:
        log.LOG.warning("%s: quota not found, actual usage(%s)", name, counted)
        return
    kept = _told(quota.used_space, quota.used_inodes)
    if use.inodes:
        log.LOG.warning("%s: usage(%s) != actual usage(%s)", name, kept, counted)
    else:
        log.LOG.warning("%s: usage missing, but quota usage is (%s)", name, kept)


def _told(space: int, inodes: int) -> str:
    """Inodes first, as scripts know it."""
    return f"{thousands(inodes)}, {ibytes(space)}"


def _print(first: str, quotas: dict[str, Quota]) -> None:
    """A table of quotas; nothing at all if there are none."""
    rows = [(name, *_cells(name, quota)) for name, quota in sorted(quotas.items())]
    if rows:
        print(tables.render([(first, *_HEADING), *rows], left=0))


def _cells(name: str, quota: Quota) -> tuple[str, ...]:
    space, inodes = max(quota.used_space, 0), max(quota.used_inodes, 0)
    if min(quota.used_space, quota.used_inodes) < 0:
        log.LOG.warning("The usage of %s is negative, please run `juicefs quota check --repair` to fix it", name)
    return (*_share(space, quota.max_space, ibytes), *_share(inodes, quota.max_inodes, thousands))


def _share(used: int, limit: int, show: Callable[[int], str]) -> tuple[str, str, str]:
    """Limit, use, and how much of the limit that is."""
    if limit <= 0:
        return "unchanged", show(used), ""
    return show(limit), show(used), f"{used * 100 // limit}%"


COMMAND = Command(
    "quota", "Manage quotas of directories, users and groups", "META-URL", "ADMIN",
    "Limits hold for all clients; mounts notice a change within a heartbeat (12 seconds).\n"
    "Writing beyond a limit fails with \"Disk quota exceeded\".\n\n"
    "Examples:\n"
    "$ juicefs quota set redis://localhost --path /dir1 --capacity 1 --inodes 100\n"
    "$ juicefs quota get redis://localhost --path /dir1\n"
    "$ juicefs quota list redis://localhost\n"
    "$ juicefs quota delete redis://localhost --path /dir1\n"
    "$ juicefs quota check redis://localhost --path /dir1 --repair\n"
    "$ juicefs quota set redis://localhost --uid 1000 --capacity 2 --inodes 200\n"
    "$ juicefs quota set redis://localhost --gid 100 --capacity 5",
    (
        Option(("path",), "string", "", "full path of the directory within the volume"),
        Option(("create",), "bool", "", "create the directory if it does not exist (set)"),
        Option(("capacity",), "size", "", "hard limit of the space in GiB, 0 for none (set)", unit="G"),
        Option(("inodes",), "uint", "0", "hard limit of the number of inodes, 0 for none (set)"),
        Option(("repair",), "bool", "", "make the recorded usage what was counted (check)"),
        Option(("strict",), "bool", "", "count by each inode instead of by totals of directories; slow (set, check)"),
        Option(("uid",), "uint", "0", "number of the user"),
        Option(("gid",), "uint", "0", "number of the group"),
    ),
    1, 1, None,
    (
        Subcommand(("set",), "Set the quota of a directory, user or group", _set),
        Subcommand(("get",), "Get the quota of a directory, user or group", _get),
        Subcommand(("delete", "del"), "Delete the quota of a directory, user or group", _delete),
        Subcommand(("list", "ls"), "List all quotas, or one", _list),
        Subcommand(("check",), "Check the usage of a directory, or of all users and groups", _check),
    ),
)  # fmt: skip
