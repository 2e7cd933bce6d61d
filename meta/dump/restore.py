"""A copy written into an empty database. Not how the copy came to be (`from_json`, `binary`).

The setting is written last: until then there is no volume, whatever happens. A restore that fails takes away what it
has written; one that is killed leaves a database that is neither empty nor a volume, and says so when tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final

from meta.acl import Rule
from meta.attr import Attr
from meta.dump.copy import Copy, Progress, _nothing, unsigned
from meta.engine import Engine
from meta.errors import MetaError
from meta.rules.format import ensure_trash
from meta.setting import Setting
from meta.transaction import DeletedFile, DirStat, Quota, Transaction
from meta.types import DIRECTORY, Dirent

_BATCH: Final = 200
_BATCH_OF: Final = {"xattr": 20, "chunk": 50}
"""Records of one transaction."""


def restore(copy: Copy, engine: Engine, progress: Progress = _nothing) -> None:
    """Write the volume. `MetaError` if the database is not empty."""
    assert copy.setting is not None
    refuse_used(engine)
    engine.prepare()
    try:
        _write_all(copy, engine, progress)
        setting = copy.setting.encrypted()

        def make_volume(tx: Transaction) -> None:
            if setting.trash_days > 0:
                ensure_trash(tx)
            tx.put_setting(setting.to_json().encode())

        engine.transact(make_volume)
    except BaseException:
        engine.reset()
        raise
    engine.sync()


def refuse_used(engine: Engine) -> None:
    """`MetaError` unless there is nothing in the database."""
    if engine.is_empty():
        return
    document = engine.reader.setting()
    if document is not None:
        raise MetaError(f"database is used by volume {Setting.parse(document).name}; load into an empty one")
    raise MetaError("database is not empty, but has no volume: is it of something else, or of a load that was killed?")


def _write_all(copy: Copy, engine: Engine, progress: Progress) -> None:
    acls = {acl_id: engine.intern_acl(Rule.decode(data)) for acl_id, data in copy.rows("SELECT id, data FROM acl")}
    engine.init_counters(dict(copy.rows("SELECT name, value FROM counter")))

    def node(tx: Transaction, ino: int, nlink: int, parent: int, data: bytes) -> None:
        attr = Attr.decode(data)
        attr.nlink, attr.parent = nlink, unsigned(parent)
        attr.access_acl, attr.default_acl = acls.get(attr.access_acl, 0), acls.get(attr.default_acl, 0)
        tx.put_attr(unsigned(ino), attr)

    def edge(tx: Transaction, parent: int, name: bytes, ino: int, kind: int) -> None:
        tx.put_entry(unsigned(parent), name, Dirent(kind, unsigned(ino)))

    def ref(tx: Transaction, slice_id: int, size: int, count: int) -> None:
        tx.new_slice(slice_id, size)
        if count != 1:
            tx.add_slice_refs(slice_id, size, count - 1)

    def deleted(tx: Transaction, ino: int, length: int, expire: int) -> None:
        tx.put_deleted_file(DeletedFile(unsigned(ino), unsigned(length), expire))

    work: dict[str, tuple[str, Callable[..., None]]] = {
        "node": ("SELECT ino, nlink, parent, data FROM node", node),
        "edge": ("SELECT parent, name, ino, type FROM edge", edge),
        "parent": (
            f"SELECT e.ino, e.parent, count(*) FROM edge e JOIN node n USING (ino) WHERE n.parent = 0 AND n.type <>"
            f" {DIRECTORY} GROUP BY e.ino, e.parent",
            lambda tx, ino, parent, count: tx.add_parent(unsigned(ino), unsigned(parent), count),
        ),
        "chunk": ("SELECT ino, indx, data FROM chunk", lambda tx, ino, *rest: tx.put_chunk(unsigned(ino), *rest)),
        "ref": ("SELECT id, size, n FROM ref", ref),
        "symlink": ("SELECT ino, target FROM symlink", lambda tx, ino, to: tx.put_symlink(unsigned(ino), to)),
        "xattr": ("SELECT ino, name, value FROM xattr", lambda tx, ino, *rest: tx.put_xattr(unsigned(ino), *rest)),
        "deleted": ("SELECT ino, length, expire FROM deleted", deleted),
        "sustained": (
            "SELECT sid, ino FROM sustained", lambda tx, sid, ino: tx.put_sustained(sid, unsigned(ino)),
        ),
        "stat": (
            "SELECT ino, length, space, inodes FROM stat",
            lambda tx, ino, *totals: tx.put_dir_stat(unsigned(ino), DirStat(*totals)),
        ),
        "quota": (
            "SELECT kind, key, max_space, max_inodes, used_space, used_inodes FROM quota",
            lambda tx, kind, key, *limits: tx.put_quota(kind, unsigned(key), Quota(*limits)),
        ),
    }  # fmt: skip
    for name, (query, write) in work.items():
        for count in _in_batches(engine, copy.rows(query), write, _BATCH_OF.get(name, _BATCH)):
            progress(name, count)


def _in_batches(
    engine: Engine, rows: Iterable[tuple[Any, ...]], write: Callable[..., None], size: int
) -> Iterator[int]:
    """Write rows, so many in a transaction; how many they were."""
    source = iter(rows)
    while batch := list(islice(source, size)):

        def body(tx: Transaction, batch: list[tuple[Any, ...]] = batch) -> None:
            for row in batch:
                write(tx, *row)

        engine.transact(body)
        yield len(batch)
