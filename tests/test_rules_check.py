"""The checker finds what is wrong: every kind of damage planted in a sound volume, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clients import ENGINES
from namespace import SID, Namespace

from meta.engines import open_engine
from meta.rules.check import check
from meta.slices import Slice
from meta.transaction import DeletedFile, DirStat, Quota
from meta.types import DIRECTORY, FILE, ROOT, TRASH, Dirent


@pytest.fixture(params=ENGINES)
def fs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Namespace]:
    namespace = Namespace(request.param, tmp_path, trash_days=1, user_group_quota=True)
    namespace.mkdir("d")
    namespace.mkdir("d/sub")
    namespace.create("f")
    namespace.create("d/g")
    namespace.link("f", "d/f2")
    namespace.symlink("s")
    namespace.create("gone")
    namespace.unlink("gone")
    namespace.set_quota("d")
    assert check(namespace.engine) == []
    yield namespace
    namespace.engine.close()


DAMAGE: list[tuple[str, Callable[[Any, Namespace], object]]] = [
    ("has no inode record", lambda tx, fs: tx.delete_attr(fs.ino("d/g"))),
    ("has no entry", lambda tx, fs: tx.delete_entry(fs.ino("d"), b"g")),
    ("says type 2", lambda tx, fs: tx.put_entry(fs.ino("d"), b"g", Dirent(DIRECTORY, fs.ino("d/g")))),
    ("which does not exist", lambda tx, fs: tx.put_entry(999, b"x", Dirent(FILE, fs.ino("d/g")))),
    ("has nlink", lambda tx, fs: tx.put_attr(fs.ino("f"), _with(fs.attr("f"), nlink=3))),
    ("has nlink 5, expected 3", lambda tx, fs: tx.put_attr(fs.ino("d"), _with(fs.attr("d"), nlink=5))),
    ("2 names", lambda tx, fs: tx.put_entry(ROOT, b"again", Dirent(DIRECTORY, fs.ino("d/sub")))),
    ("but a name in", lambda tx, fs: tx.put_attr(fs.ino("d/g"), _with(fs.attr("d/g"), parent=ROOT))),
    ("several links, but parent", lambda tx, fs: tx.put_attr(fs.ino("f"), _with(fs.attr("f"), parent=ROOT))),
    ("holds inode 999", lambda tx, fs: tx.put_sustained(SID, 999)),
    ("as removed, but it has nlink 1", lambda tx, fs: tx.put_sustained(SID, fs.ino("d/g"))),
    ("registered as a deleted file", lambda tx, fs: tx.put_deleted_file(DeletedFile(fs.ino("d/g"), 0, 5))),
    ("chunks of inode 999", lambda tx, fs: tx.append_slices(999, 0, Slice(0, 0, 0, 0, 9).encode())),
    ("impossible record", lambda tx, fs: tx.append_slices(fs.ino("f"), 0, Slice(1 << 26, 0, 0, 0, 9).encode())),
    ("no target", lambda tx, fs: tx.delete_symlink(fs.ino("s"))),
    ("access control list 77", lambda tx, fs: tx.put_attr(fs.ino("f"), _with(fs.attr("f"), access_acl=77))),
    ("usedSpace is", lambda tx, fs: tx.add_usage(4096, 0)),
    ("totalInodes is", lambda tx, fs: tx.add_usage(0, 1)),
    ("expected DirStat", lambda tx, fs: tx.add_dir_stat(fs.ino("d"), DirStat(1, 0, 0))),
    ("quota of directory", lambda tx, fs: tx.add_quota("dir", fs.ino("d"), 0, 1)),
    ("which is no directory", lambda tx, fs: tx.put_quota("dir", 999, Quota(1, 1, 0, 0))),
    ("user 0 has", lambda tx, fs: tx.add_quota("user", 0, 4096, 0)),
    ("owns nothing", lambda tx, fs: tx.add_quota("group", 5, 4096, 1)),
    ("the trash directory", lambda tx, fs: tx.delete_attr(TRASH)),
    ("detached inode", lambda tx, fs: tx.put_detached(fs.ino("d"), 5)),
    ("counted 3 times, but nothing refers", lambda tx, fs: (tx.new_slice(5, 9), _count(tx, 5, 9, 3))),
    ("counted 1 times, but nothing refers", lambda tx, fs: (
        tx.new_slice(5, 9), _count(tx, 5, 9, 2), _count(tx, 5, 9, 1))),
    ("but referred to 2 times", lambda tx, fs: (
        tx.append_slices(fs.ino("f"), 0, Slice(0, 5, 9, 0, 9).encode() * 2), tx.new_slice(5, 9))),
]  # fmt: skip


def _with(attr: Any, **changes: int) -> Any:
    for name, value in changes.items():
        setattr(attr, name, value)
    return attr


def _count(tx: Any, slice_id: int, size: int, wanted: int) -> None:
    tx.add_slice_refs(slice_id, size, wanted - tx.slice_refs(slice_id, size))


def test_a_slice_that_lost_its_count_is_found_where_all_are_counted(fs: Namespace) -> None:
    fs.engine.transact(lambda tx: tx.append_slices(fs.ino("f"), 0, Slice(0, 5, 9, 0, 9).encode()))
    wanted = "slice 5 of 9 bytes is counted 0 times, but referred to 1 times"
    assert (wanted in check(fs.engine)) == fs.engine.counts_every_slice


@pytest.mark.parametrize(("words", "damage"), DAMAGE, ids=[words for words, _ in DAMAGE])
def test_damage_is_found(fs: Namespace, words: str, damage: Callable[[Any, Namespace], object]) -> None:
    fs.engine.transact(lambda tx: damage(tx, fs))
    found = check(fs.engine)
    assert any(words in problem for problem in found), found


def test_a_circle_cannot_be_reached(fs: Namespace) -> None:
    d, sub = fs.ino("d"), fs.ino("d/sub")

    def damage(tx: Any) -> None:
        tx.delete_entry(ROOT, b"d")
        tx.put_entry(sub, b"d", Dirent(DIRECTORY, d))
        tx.put_attr(d, _with(tx.attr(d), parent=sub))

    fs.engine.transact(damage)
    assert f"inode {d} cannot be reached from the root" in check(fs.engine)


def test_a_database_without_volume(tmp_path: Path) -> None:
    engine = open_engine("memkv://")
    engine.prepare()
    assert check(engine) == ["there is no setting"]
