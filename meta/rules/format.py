"""A volume's birth and its changes of setting: what `format` and `config` write.

Not which option changes what (commands).
"""

from __future__ import annotations

import time

from meta.attr import Attr
from meta.engine import Engine
from meta.setting import Setting
from meta.transaction import DirStat, Transaction
from meta.types import DIR_LENGTH, DIRECTORY, ROOT, TRASH

_COUNTERS = {
    "nextInode": 2, "nextChunk": 1, "nextSession": 0, "usedSpace": 0, "totalInodes": 0, "nextCleanupSlices": 0,
}  # fmt: skip


def init_volume(engine: Engine, setting: Setting, *, force: bool = False) -> Setting:
    """Create the volume that `setting` describes, or give an existing one that setting; returns what is stored.

    Raises `SettingError` if the existing volume's setting forbids the change (`force` allows it).
    """
    engine.prepare()
    stored = engine.reader.setting()
    if stored is None:
        stored = _create(engine, setting)
    if stored is None:
        return setting
    old = Setting.parse(stored)
    new = old.updated(setting, force)
    if new.dir_stats and not old.dir_stats:
        engine.clear_dir_stats()  # they were not kept up to date while switched off
    if new.user_group_quota and not old.user_group_quota:
        engine.clear_quotas(("user", "group"))

    def body(tx: Transaction) -> None:
        if new.trash_days > 0:
            ensure_trash(tx)
        tx.put_setting(new.to_json().encode())

    engine.transact(body)
    return new


def _create(engine: Engine, setting: Setting) -> bytes | None:
    """First records: the root, the trash and the setting together, so that there is a whole volume or none.

    Returns None, or the stored setting if somebody else has created the volume meanwhile.
    """
    engine.init_counters(_COUNTERS)

    def body(tx: Transaction) -> bytes | None:
        stored = tx.setting()
        if stored is not None:
            return stored
        if tx.attr(ROOT) is None:
            tx.put_attr(ROOT, _directory(0o777))
            tx.put_dir_stat(ROOT, DirStat(0, 0, 0))  # later changes only add to a record that exists
        if setting.trash_days > 0:
            ensure_trash(tx)
        tx.put_setting(setting.to_json().encode())
        return None

    return engine.transact(body)


def ensure_trash(tx: Transaction) -> None:
    """Create the trash root unless there is one. No entry leads to it and no total counts it."""
    if tx.attr(TRASH) is None:
        tx.put_attr(TRASH, _directory(0o555))


def _directory(mode: int) -> Attr:
    """The root or the trash root: its own parent is the root, and no entry leads to it."""
    now = int(time.time())
    return Attr(DIRECTORY, mode, nlink=2, length=DIR_LENGTH, parent=ROOT, atime=now, mtime=now, ctime=now)
