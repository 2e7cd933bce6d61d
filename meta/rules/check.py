"""The invariants of a volume, checked one by one over all its records: what fsck and the tests ask.

Nothing is repaired here. On a volume that is in use, findings may be changes that happened while it was read; deferred
totals of this client should be written first (`Engine.flush`, done here), those of others cannot be.
"""

from __future__ import annotations

from collections.abc import Iterator

from meta.engine import Engine
from meta.rules.snapshot import Snapshot
from meta.setting import Setting
from meta.transaction import DirStat
from meta.types import DIR_LENGTH, DIRECTORY, FILE, ROOT, SYMLINK, TRASH

_ROOTS = f"({ROOT}, {TRASH})"
_NAMES = "SELECT parent, count(*) FROM edge WHERE ino = ? GROUP BY parent"


def check(engine: Engine) -> list[str]:
    """Every violated invariant, one sentence each; empty for a sound volume."""
    return list(problems(engine))


def problems(engine: Engine) -> Iterator[str]:
    """The same, as they are found."""
    document = engine.reader.setting()
    if document is None:
        yield "there is no setting"
        return
    setting = Setting.parse(document)
    engine.flush()
    snapshot = Snapshot(engine)
    try:
        yield from snapshot.damage
        yield from _roots(snapshot, setting)
        yield from _edges(snapshot)
        yield from _links(snapshot)
        yield from _parents(snapshot, engine)
        yield from _ends(snapshot)
        yield from _contents(snapshot, engine)
        yield from _references(snapshot, engine)
        yield from _usage(snapshot, engine)
        if setting.dir_stats:
            yield from _dir_stats(snapshot, engine)
            yield from _dir_quotas(snapshot, engine)
        if setting.user_group_quota:
            yield from _owner_quotas(snapshot, engine)
    finally:
        snapshot.close()


def _roots(s: Snapshot, setting: Setting) -> Iterator[str]:
    for ino, name in ((ROOT, "root"), (TRASH, "trash")):
        rows = list(s.rows("SELECT type, parent FROM node WHERE ino = ?", ino))
        if not rows and (ino == ROOT or setting.trash_days > 0):
            yield f"the {name} directory (inode {ino}) is missing"
        elif rows and rows[0] != (DIRECTORY, ROOT):
            yield f"the {name} (inode {ino}) has type {rows[0][0]} and parent {rows[0][1]}"


def _edges(s: Snapshot) -> Iterator[str]:
    """Entries lead from a directory to an inode of their type, and every inode is reached."""
    for parent, name, ino, had, has in s.rows(
        "SELECT e.parent, e.name, e.ino, e.type, n.type FROM edge e LEFT JOIN node n ON n.ino = e.ino"
        " WHERE n.ino IS NULL OR n.type <> e.type"
    ):
        what = "has no inode record" if has is None else f"says type {had}, the inode has {has}"
        yield f"entry {name!r} of directory {parent} (inode {ino}) {what}"
    for parent, kind in s.rows(
        "SELECT DISTINCT e.parent, p.type FROM edge e LEFT JOIN node p ON p.ino = e.parent"
        " WHERE p.ino IS NULL OR p.type <> ?",
        DIRECTORY,
    ):
        yield f"entries in inode {parent}, which " + ("does not exist" if kind is None else f"has type {kind}")
    for ino, nlink in s.rows(
        "SELECT ino, nlink FROM node n WHERE NOT EXISTS (SELECT 1 FROM edge e WHERE e.ino = n.ino)"
        f" AND ino NOT IN {_ROOTS} AND ino NOT IN (SELECT ino FROM sustained) AND ino NOT IN (SELECT ino FROM detached)"
    ):
        yield f"inode {ino} (nlink {nlink}) has no entry"
    for (ino,) in s.rows(
        f"WITH RECURSIVE reached(ino) AS (VALUES({ROOT}), ({TRASH}) UNION SELECT ino FROM detached UNION"
        " SELECT e.ino FROM reached r JOIN edge e ON e.parent = r.ino)"
        " SELECT n.ino FROM node n WHERE n.ino NOT IN reached AND EXISTS (SELECT 1 FROM edge e WHERE e.ino = n.ino)"
    ):
        yield f"inode {ino} cannot be reached from the root"


def _links(s: Snapshot) -> Iterator[str]:
    """Link counts: names of a file; two and the subdirectories of a directory, but always two in the trash."""
    for ino, nlink, names in s.rows(
        "SELECT ino, nlink, names FROM (SELECT n.ino, n.nlink, (SELECT count(*) FROM edge e WHERE e.ino = n.ino) names"
        " FROM node n WHERE n.type <> ?) WHERE nlink <> names",
        DIRECTORY,
    ):
        yield f"inode {ino} has nlink {nlink}, but {names} names"
    for ino, nlink, below in s.rows(
        "SELECT ino, nlink, below FROM (SELECT n.ino, n.nlink, CASE WHEN n.ino >= ? THEN 0 ELSE"
        " (SELECT count(*) FROM edge e WHERE e.parent = n.ino AND e.type = ?) END below FROM node n WHERE n.type = ?)"
        " WHERE nlink <> below + 2",
        *(TRASH, DIRECTORY, DIRECTORY),
    ):
        yield f"directory {ino} has nlink {nlink}, expected {below + 2}"
    for ino, names in s.rows(
        "SELECT ino, count(*) FROM edge WHERE type = ? GROUP BY ino HAVING count(*) > 1", DIRECTORY
    ):
        yield f"directory {ino} has {names} names"


def _parents(s: Snapshot, engine: Engine) -> Iterator[str]:
    """The parent field says where the only name is; without it the map of parents says how many are where."""
    for ino, parent, actual in s.rows(
        "SELECT n.ino, n.parent, e.parent FROM node n JOIN edge e ON e.ino = n.ino"
        " WHERE n.parent <> e.parent AND (n.parent <> 0 OR n.type = ?)",
        DIRECTORY,
    ):
        yield f"inode {ino} has parent {parent}, but a name in {actual}"
    for ino, parent in s.rows("SELECT ino, parent FROM node WHERE nlink > 1 AND parent <> 0 AND type <> ?", DIRECTORY):
        yield f"inode {ino} has several links, but parent {parent}"
    for (ino,) in s.rows("SELECT ino FROM node WHERE parent = 0 AND type <> ?", DIRECTORY):
        names: dict[int, int] = dict(s.rows(_NAMES, ino))
        stored = engine.reader.parents(ino)
        if stored != names:
            yield f"inode {ino} has parents {stored}, but names in {names}"


def _ends(s: Snapshot) -> Iterator[str]:
    """What has lost its last link: held open by a session, or gone and leaving only chunks."""
    for sid, ino in s.rows("SELECT sid, ino FROM sustained WHERE ino NOT IN (SELECT ino FROM node)"):
        yield f"session {sid} holds inode {ino}, which does not exist"
    for sid, ino, nlink in s.rows("SELECT sid, s.ino, nlink FROM sustained s JOIN node n USING (ino) WHERE nlink > 0"):
        yield f"session {sid} holds inode {ino} as removed, but it has nlink {nlink}"
    for (ino,) in s.rows("SELECT ino FROM detached WHERE ino NOT IN (SELECT ino FROM node)"):
        yield f"detached inode {ino} does not exist"
    for (ino,) in s.rows("SELECT ino FROM detached WHERE ino IN (SELECT ino FROM edge)"):
        yield f"detached inode {ino} has an entry"
    for (ino,) in s.rows("SELECT ino FROM deleted WHERE ino IN (SELECT ino FROM node)"):
        yield f"inode {ino} is registered as a deleted file, but exists"


def _contents(s: Snapshot, engine: Engine) -> Iterator[str]:
    """Chunks belong to files, targets to symlinks, rules to ids."""
    for ino, chunks in s.rows(
        "SELECT ino, count(*) FROM chunk WHERE ino NOT IN (SELECT ino FROM node WHERE type = ?)"
        " AND ino NOT IN (SELECT ino FROM deleted) GROUP BY ino",
        FILE,
    ):
        yield f"{chunks} chunks of inode {ino}, which is no file"
    for ino, length in s.rows("SELECT ino, length FROM node WHERE type = ?", SYMLINK):
        target = engine.reader.symlink(ino)
        if target is None or len(target) != length:
            yield f"symlink {ino} has length {length}, but " + (f"target {target!r}" if target else "no target")
    for (acl_id,) in s.rows(
        "SELECT acl FROM node WHERE acl > 0 UNION SELECT default_acl FROM node WHERE default_acl > 0"
    ):
        if engine.reader.acl(acl_id) is None:
            yield f"access control list {acl_id} is in use, but does not exist"


def _references(s: Snapshot, engine: Engine) -> Iterator[str]:
    """A slice is counted once for each record in a chunk and each place in a delayed list."""
    absent = 0 if engine.counts_every_slice else 1  # a slice whose count is lost is never deleted
    for slice_id, size, stored, actual in s.rows(
        "SELECT id, size, coalesce(r.n, ?), f.n FROM ref f LEFT JOIN stored_ref r USING (id, size)"
        " WHERE coalesce(r.n, ?) <> f.n",
        *(absent, absent),
    ):
        yield f"slice {slice_id} of {size} bytes is counted {stored} times, but referred to {actual} times"
    for slice_id, size, stored in s.rows(
        "SELECT id, size, n FROM stored_ref r WHERE n > 0 AND NOT EXISTS"  # else it is dead, and its objects go soon
        " (SELECT 1 FROM ref f WHERE f.id = r.id AND f.size = r.size)"
    ):
        yield f"slice {slice_id} of {size} bytes is counted {stored} times, but nothing refers to it"


def _usage(s: Snapshot, engine: Engine) -> Iterator[str]:
    for name, column in (("usedSpace", "coalesce(sum(space), 0)"), ("totalInodes", "count(*)")):
        actual = s.number(f"SELECT {column} FROM node WHERE ino NOT IN {_ROOTS}")
        stored = engine.reader.counter(name)
        if stored != actual:
            yield f"{name} is {stored}, expected {actual}"


def _dir_stats(s: Snapshot, engine: Engine) -> Iterator[str]:
    """Statistics of directories that have them. The trash root's are not kept anywhere."""
    for ino, length, space, inodes in s.rows(
        "SELECT d.ino, coalesce(sum(iif(n.type = ?, n.length, 0)), 0),"
        " sum(iif(e.ino IS NULL, 0, coalesce(n.space, ?))), count(e.ino) FROM node d"
        " LEFT JOIN edge e ON e.parent = d.ino LEFT JOIN node n ON n.ino = e.ino"
        " WHERE d.type = ? AND d.ino <> ? GROUP BY d.ino",
        *(FILE, DIR_LENGTH, DIRECTORY, TRASH),
    ):
        stored, actual = engine.reader.dir_stat(ino), DirStat(length, space, inodes)
        if stored is not None and stored != actual:
            yield f"directory {ino} has {stored}, expected {actual}"


def _dir_quotas(s: Snapshot, engine: Engine) -> Iterator[str]:
    for ino, quota in engine.reader.quotas("dir").items():
        if not s.number("SELECT count(*) FROM node WHERE ino = ? AND type = ?", ino, DIRECTORY):
            yield f"there is a quota on {ino}, which is no directory"
            continue
        ((space, inodes),) = s.rows(
            "WITH RECURSIVE below(ino, n) AS (SELECT ?, 1 UNION SELECT e.ino, e.rowid FROM below b JOIN edge e"
            " ON e.parent = b.ino) SELECT coalesce(sum(n.space), 0), count(*) FROM below JOIN node n USING (ino)",
            ino,
        )
        if (quota.used_space, quota.used_inodes) != (space - DIR_LENGTH, inodes - 1):
            yield f"quota of directory {ino} has {quota}, expected use {space - DIR_LENGTH}, {inodes - 1}"


def _owner_quotas(s: Snapshot, engine: Engine) -> Iterator[str]:
    for kind, column in (("user", "uid"), ("group", "gid")):
        stored = engine.reader.quotas("user" if kind == "user" else "group")
        for key, space, inodes in s.rows(
            f"SELECT {column}, sum(space), count(*) FROM node WHERE ino NOT IN {_ROOTS} GROUP BY 1"
        ):
            quota = stored.pop(key, None)
            if quota is None or (quota.used_space, quota.used_inodes) != (space, inodes):
                yield f"{kind} {key} has {quota}, expected use {space}, {inodes}"
        for key, quota in stored.items():
            if quota.used_space or quota.used_inodes:
                yield f"{kind} {key} has {quota}, but owns nothing"
