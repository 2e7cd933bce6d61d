"""`juicefs status`: setting, sessions and usage of a volume as JSON on stdout, which scripts parse."""

from __future__ import annotations

import json
from typing import Any

from juicefs_py.cli.args import Command, Option, Values
from juicefs_py.cli.errors import Fatal


def _run(values: Values) -> int:
    from juicefs_py.cli.connect import connect, load_setting
    from meta.gojson import go_dumps

    url = values.positionals[0]
    engine = connect(url, read_only=True)
    try:
        try:
            setting = load_setting(engine, url)
        except Fatal as error:
            raise Fatal(f"get status: {error}") from None
        if values.is_set("session") and values.number("session"):
            print(go_dumps(_session_details(engine, values.number("session")), 2))
            return 0
        stat = _usage(engine, setting)
        if values.flag("more"):
            stat |= _pending(engine)
        document = {
            "Setting": json.loads(setting.without_secrets().to_json(2)),
            "Sessions": [_session(record) for record in engine.sessions()],
            "Stat": stat,
        }
        print(go_dumps(document, 2))
    finally:
        engine.close()
    return 0


def _session(record: Any) -> dict[str, Any]:
    """One client, in the order of the official document."""
    import datetime

    from meta.rules.sessions import rfc3339

    info = json.loads(record.info or b"{}")
    expire = datetime.datetime.fromtimestamp(record.expire).astimezone()
    shown = {"Sid": record.sid, "Expire": rfc3339(expire)}
    for key in ("Version", "HostName", "IPAddrs", "MountPoint", "MountTime", "ProcessID"):
        if key in info:
            shown[key] = info[key]
    return shown


def _session_details(engine: Any, sid: int) -> dict[str, Any]:
    """One client with the files that only it keeps alive, and its locks."""
    from meta.plock import decode_plocks

    record = engine.reader.session(sid)
    if record is None:
        raise Fatal(f"get session: session not found: {sid}")
    shown = _session(record)
    sustained = sorted(engine.reader.sustained(sid))
    flocks, plocks = engine.session_locks(sid)
    if sustained:
        shown["Sustained"] = sustained
    if flocks:
        shown["Flocks"] = [
            {"Inode": ino, "Owner": owner, "Ltype": kind.decode()}
            for ino, owners in sorted(flocks.items()) for owner, kind in sorted(owners.items())
        ]  # fmt: skip
    if plocks:
        shown["Plocks"] = [
            {"Inode": ino, "Owner": owner, "Records": [_plock(lock) for lock in decode_plocks(records)]}
            for ino, owners in sorted(plocks.items()) for owner, records in sorted(owners.items())
        ]  # fmt: skip
    return shown


def _plock(lock: Any) -> dict[str, int]:
    return {"Type": lock.type, "Pid": lock.pid, "Start": lock.start, "End": lock.end}


def _usage(engine: Any, setting: Any) -> dict[str, int]:
    from meta.config import MetaConfig
    from meta.rules.context import Volume
    from meta.rules.statfs import stat_totals
    from meta.types import ROOT

    total = stat_totals(engine.reader, Volume(engine, setting, MetaConfig(read_only=True)), ROOT)
    return {
        "UsedSpace": total.total_space - total.avail_space,
        "AvailableSpace": total.avail_space,
        "UsedInodes": total.used_inodes,
        "AvailableInodes": total.avail_inodes,
    }


def _pending(engine: Any) -> dict[str, int]:
    """What the trash holds and what waits for deletion; only what is not zero."""
    import time

    from juicefs_py.cli.progress import Spinner

    now = int(time.time()) + 1
    totals: dict[str, int] = {}

    def scan(title: str, prefix: str, sizes: Any) -> None:
        with Spinner(title, with_bytes=True) as spinner:
            for size in sizes:
                spinner.update(spinner.count + 1, spinner.bytes + size)
        totals[f"{prefix}Count"], totals[f"{prefix}Size"] = spinner.count, spinner.bytes

    scan("Trash Files", "TrashFile", _trash_files(engine))
    scan("Pending Deleted Files", "PendingDeletedFile", (file.length for file in engine.deleted_files(now, -1)))
    delayed = (size for entry in engine.delayed_slices(now) for _, size in entry.slices)
    scan("Trash Slices", "TrashSlice", delayed)
    scan("Pending Deleted Slices", "PendingDeletedSlice", (size for _, size in engine.dead_slices()))
    return {key: value for key, value in totals.items() if value}


def _trash_files(engine: Any) -> Any:
    """Sizes of all files below the trash."""
    from meta.types import DIRECTORY, TRASH

    waiting = [TRASH]
    while waiting:
        for item in engine.reader.list_entries(waiting.pop(), plus=True).items:
            if item.type == DIRECTORY:
                waiting.append(item.ino)
            elif item.attr is not None:
                yield item.attr.space


COMMAND = Command(
    "status", "Show status of a volume", "META-URL", "INSPECTOR",
    "Show the setting, the clients and the usage of a volume as JSON.\n\n"
    "Examples:\n$ juicefs status sqlite3://myjfs.db",
    (
        Option(("session", "s"), "uint", "0", "show one session (sid) with its sustained inodes and locks"),
        Option(("more", "m"), "bool", "", "show more statistics, may take a long time"),
    ),
    1, 1, _run,
)  # fmt: skip
