"""clone, and removing whole trees."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clients import ENGINES
from namespace import START_S, Namespace, user

from meta.acl import Rule
from meta.errors import Refused
from meta.rules import clone as cloning
from meta.rules.check import check
from meta.rules.clone import PRESERVE, remove_detached
from meta.rules.removal import Removed
from meta.rules.summary import summarize, summarize_tree
from meta.rules.usage import resize
from meta.slices import Slice
from meta.types import FLAG_IMMUTABLE, ROOT, SYMLINK


@pytest.fixture(params=ENGINES)
def fs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Namespace]:
    namespace = Namespace(request.param, tmp_path, user_group_quota=True, enable_acl=True)
    yield namespace
    assert check(namespace.engine) == []
    namespace.engine.close()


def write(fs: Namespace, path: str, *records: Slice) -> None:
    """Give a file one chunk of these records."""
    ino, attr = fs.find(path)
    length = max(record.pos + record.len for record in records)

    def body(tx: Any) -> None:
        for record in records:
            tx.append_slices(ino, 0, record.encode())
        for slice_id, size in {(record.id, record.size) for record in records if record.id}:
            tx.new_slice(slice_id, size)
            extra = sum(record.id == slice_id for record in records) - 1
            if extra:
                tx.add_slice_refs(slice_id, size, extra)
        resize(tx, fs.vol, ino, attr, length)
        tx.put_attr(ino, attr)

    fs.vol.transact(body)


def test_a_file_shares_every_record(fs: Namespace) -> None:
    fs.create("f")
    write(fs, "f", Slice(0, 5, 9000, 0, 9000), Slice(100, 0, 0, 0, 50), Slice(200, 5, 9000, 10, 20))
    fs.engine.transact(lambda tx: tx.put_xattr(fs.ino("f"), b"user.a", b"1"))
    copy = fs.clone("f", "g")
    assert copy.attr.length == 9000 and copy.attr.nlink == 1
    assert fs.reader.chunk(copy.ino, 0) == fs.reader.chunk(fs.ino("f"), 0)
    assert fs.reader.slice_refs(5, 9000) == 4
    assert fs.reader.xattrs(copy.ino) == {b"user.a": b"1"}


def test_owner_mode_and_times_are_new_unless_preserved(fs: Namespace) -> None:
    fs.mkdir("d", 0o777)
    fs.mknod("d/f", mode=0o666)
    fs.mknod("d/s", SYMLINK, target=b"x")
    fs.clock[0] += 100
    fs.clone("d", "same", PRESERVE)
    fs.caller = user(1000, 50)
    fs.clone("d", "own", umask=0o022)
    assert fs.attr("same") == fs.attr("d")
    assert (fs.attr("same/f").mode, fs.attr("same/f").mtime, fs.attr("same/f").uid) == (0o666, START_S, 0)
    attr = fs.attr("own/f")
    assert (attr.mode, attr.uid, attr.gid, attr.mtime) == (0o644, 1000, 50, START_S + 100)
    assert fs.reader.symlink(fs.ino("own/s")) == b"x"
    assert fs.reader.quota("user", 1000).used_inodes == 3


def test_a_trees_link_counts_and_broken_hard_links(fs: Namespace) -> None:
    fs.mkdir("d")
    for name in ("x", "y"):
        fs.mkdir(f"d/{name}")
    fs.create("d/x/f")
    fs.link("d/x/f", "d/y/f")
    fs.clone("d", "e")
    assert fs.attr("e").nlink == 4
    assert fs.ino("e/x/f") != fs.ino("e/y/f")
    assert [fs.attr(f"e/{name}/f").nlink for name in "xy"] == [1, 1]
    assert fs.engine.detached(1 << 40) == []


def test_into_itself_is_finite(fs: Namespace) -> None:
    fs.mkdir("d")
    fs.create("d/f")
    fs.clone("d", "d/copy")
    assert fs.names("d/copy") == [b"f"]


def test_default_acl_and_umask_stay_consistent(fs: Namespace) -> None:
    fs.mkdir("d")
    rule = Rule(7, 7, 7, 7, ((1000, 7),))
    number = fs.engine.intern_acl(rule)
    fs.change("d", default_acl=number)
    fs.create("d/f", 0o666)
    copy = fs.clone("d/f", "g", umask=0o027)
    access = fs.reader.acl(copy.attr.access_acl)
    assert access is not None and access.mode == copy.attr.mode == 0o640


@pytest.mark.parametrize(
    ("old", "new", "number"),
    [("d", "f", errno.EEXIST), ("f", "d", errno.EEXIST), ("f", "f/x", errno.ENOTDIR), ("d", ".trash", errno.EPERM)],
)
def test_refusals(fs: Namespace, old: str, new: str, number: int) -> None:
    fs.mkdir("d")
    fs.create("f")
    with pytest.raises(Refused) as refused:
        fs.clone(old, new)
    assert refused.value.errno == number
    assert fs.names() == [b"d", b"f"]


def test_nobody_clones_what_he_may_not_read(fs: Namespace) -> None:
    fs.mkdir("d")
    fs.mknod("d/secret", mode=0o600)
    fs.mknod("d/public", mode=0o644)
    fs.caller = user(1000)
    with pytest.raises(Refused) as refused:
        fs.clone("d", "e")
    assert refused.value.errno == errno.EACCES
    assert fs.names() == [b"d"] and fs.reader.counter("totalInodes") == 3


def test_a_clone_that_fails_is_removed_with_what_is_immutable(fs: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    fs.mkdir("d")
    for number in range(5):
        fs.create(f"d/f{number}")
    fs.change("d/f0", flags=FLAG_IMMUTABLE)
    fs.change("d", flags=FLAG_IMMUTABLE)
    monkeypatch.setattr(cloning, "_attach", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fs.clone("d", "e")
    assert fs.reader.counter("totalInodes") == 6
    assert fs.engine.detached(1 << 40) == []


def test_what_a_crash_leaves_is_found_and_removed(fs: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    fs.mkdir("d")
    fs.mkdir("d/sub")
    fs.create("d/sub/f")
    monkeypatch.setattr(cloning, "_attach", lambda *args: 1 / 0)
    monkeypatch.setattr(cloning, "remove_detached", lambda *args: None)
    with pytest.raises(ZeroDivisionError):
        fs.clone("d", "e")
    assert check(fs.engine) == []
    (ino,) = fs.engine.detached(1 << 40)
    remove_detached(fs.vol, ino)
    assert fs.reader.counter("totalInodes") == 3


def test_quota_stops_a_clone(fs: Namespace) -> None:
    fs.mkdir("d")
    for number in range(5):
        fs.create(f"d/f{number}")
    fs.mkdir("q")
    fs.set_quota("q", inodes=4)
    with pytest.raises(Refused) as refused:
        fs.clone("d", "q/d")
    assert refused.value.errno == errno.EDQUOT
    assert fs.reader.quota("dir", fs.ino("q")).used_inodes == 0


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("trash_days", [0, 1])
def test_a_whole_tree_goes(kind_and_path: tuple[str, Path], threads: int, trash_days: int) -> None:
    kind, path = kind_and_path
    fs = Namespace(kind, path, trash_days=trash_days)
    fs.mkdir("d")
    for first in "abc":
        fs.mkdir(f"d/{first}")
        for second in "xyz":
            fs.mkdir(f"d/{first}/{second}")
            for number in range(4):
                fs.create(f"d/{first}/{second}/{number}")
    told: list[Removed] = []
    fs.remove_tree("d", threads=threads, removed=told.append)
    assert fs.names() == [] and len(told) == 1 + 3 + 9 + 36
    assert check(fs.engine) == []
    if trash_days:
        assert all(removed.trashed for removed in told)
        fs.remove_tree(".trash/2023-11-14-22", threads=threads)
    assert fs.reader.counter("totalInodes") == 0
    fs.engine.close()


@pytest.fixture(params=ENGINES)
def kind_and_path(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    return request.param, tmp_path


def test_a_tree_that_may_not_go_says_so_and_ends(fs: Namespace) -> None:
    fs.mkdir("d", 0o777)
    fs.mkdir("d/theirs", 0o755)
    fs.create("d/theirs/f")
    fs.caller = user(1000)
    with pytest.raises(Refused) as refused:
        fs.remove_tree("d", threads=3)
    assert refused.value.errno == errno.EACCES
    with pytest.raises(Refused) as refused:
        fs.remove_tree("nothing")
    assert refused.value.errno == errno.ENOENT


def test_summaries_fast_and_exact(fs: Namespace) -> None:
    fs.mkdir("d")
    fs.mkdir("d/sub")
    fs.create("d/big")
    write(fs, "d/big", Slice(0, 9, 10_000, 0, 10_000))
    fs.create("d/sub/small")
    for strict in (False, True):
        total = summarize(fs.reader, fs.vol, fs.ino("d"), strict=strict)
        assert total == (10_000, 4096 * 2 + 12288 + 4096, 2, 2)
    fs.engine.transact(lambda tx: tx.delete_dir_stat(fs.ino("d")))
    assert summarize(fs.reader, fs.vol, ROOT) == (10_000, 4096 * 3 + 12288 + 4096, 2, 3)
    tree = summarize_tree(fs.reader, fs.vol, fs.ino("d"), 1, 1)
    assert [child.name for child in tree.children] == [b"big", b"..."]
    assert tree.total == total and tree.children[1].total.dirs == 1
