"""rename: what it refuses and why, and what it leaves behind."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from clients import ENGINES
from namespace import START_S, Namespace, user

from meta.errors import Refused
from meta.rules.check import check
from meta.rules.rename import EXCHANGE, NOREPLACE, RESTORE, rename
from meta.types import FLAG_APPEND, FLAG_IMMUTABLE, ROOT, SUPERUSER, TRASH


@pytest.fixture(params=ENGINES)
def fs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Namespace]:
    namespace = Namespace(request.param, tmp_path, trash_days=1)
    namespace.mkdir("d")
    namespace.mkdir("d/sub")
    namespace.mkdir("empty")
    namespace.create("f")
    namespace.create("d/g")
    yield namespace
    assert check(namespace.engine) == []
    namespace.engine.close()


@pytest.mark.parametrize(
    ("old", "new", "flags", "number"),
    [
        ("x", "y", 0, errno.ENOENT),
        ("x", "x", 0, errno.ENOENT),
        ("f", "d", 0, errno.EISDIR),
        ("empty", "f", 0, errno.ENOTDIR),
        ("empty", "d", 0, errno.ENOTEMPTY),
        ("f", "d/g", NOREPLACE, errno.EEXIST),
        ("f", "x", EXCHANGE, errno.ENOENT),
        ("d", "d/sub/x", 0, errno.EINVAL),
        ("d", "d/x", 0, errno.EINVAL),
        ("d", "d/sub", EXCHANGE, errno.EINVAL),
        ("d/sub", "d", EXCHANGE, errno.EINVAL),
        ("f", "x", 4, errno.EOPNOTSUPP),
        ("f", "x", 5, errno.EOPNOTSUPP),
        ("f", "x", 8, errno.EINVAL),
        ("f", "x" * 256, 0, errno.ENAMETOOLONG),
        ("f", ".trash", 0, errno.EPERM),
        (".trash", "x", 0, errno.EPERM),
        ("f", "d/.", 0, errno.EBUSY),
    ],
)
def test_refusals(fs: Namespace, old: str, new: str, flags: int, number: int) -> None:
    with pytest.raises(Refused) as refused:
        fs.rename(old, new, flags)
    assert refused.value.errno == number
    assert fs.names() == [b"d", b"empty", b"f"]


@pytest.mark.parametrize(
    ("path", "flags"), [("", FLAG_APPEND), ("", FLAG_IMMUTABLE), ("d", FLAG_IMMUTABLE), ("f", FLAG_APPEND),
                        ("d/g", FLAG_IMMUTABLE)],
)  # fmt: skip
def test_flags_refuse(fs: Namespace, path: str, flags: int) -> None:
    fs.change(path, flags=flags)
    with pytest.raises(Refused) as refused:
        fs.rename("f", "d/g")
    assert refused.value.errno == errno.EPERM


def test_an_append_only_directory_takes_new_names_but_keeps_old_ones(fs: Namespace) -> None:
    fs.change("d", flags=FLAG_APPEND)
    fs.rename("f", "d/f")
    with pytest.raises(Refused):
        fs.rename("empty", "d/sub")


def test_files_of_one_inode_stay_two_names(fs: Namespace) -> None:
    fs.link("f", "d/h")
    fs.rename("f", "d/h")
    assert fs.ino("f") == fs.ino("d/h")


def test_replacing_a_directory_forgets_its_statistics(fs: Namespace) -> None:
    replaced = fs.ino("empty")
    fs.rename("d", "empty")
    assert fs.reader.dir_stat(replaced) is None
    assert fs.attr("").nlink == 3
    assert fs.names("empty") == [b"g", b"sub"]


def test_what_was_replaced_goes_to_the_trash_under_the_name_it_had(fs: Namespace) -> None:
    old, d = fs.ino("d/g"), fs.ino("d")
    done = fs.rename("f", "d/g")
    assert done.replaced is not None and done.replaced.trashed and done.replaced.ino == old
    assert fs.ino(f".trash/2023-11-14-22/{d}-{old}-g") == old


def test_without_trash_a_replaced_file_leaves_its_chunks_to_delete(fs: Namespace) -> None:
    fs.vol.setting = replace(fs.vol.setting, trash_days=0)
    done = fs.rename("f", "d/g")
    assert done.replaced is not None and done.replaced.deleted is not None
    assert fs.reader.attr(done.replaced.ino) is None


def test_hard_links_keep_account_of_their_directories(fs: Namespace) -> None:
    fs.link("f", "f2")
    fs.rename("f2", "d/f2")
    ino = fs.ino("f")
    assert fs.reader.parents(ino) == {ROOT: 1, fs.ino("d"): 1}
    fs.rename("f", "d/f3")
    assert fs.reader.parents(ino) == {fs.ino("d"): 2}
    assert fs.reader.attr(ino).parent == 0


def test_exchange_of_a_file_and_a_directory_moves_link_counts(fs: Namespace) -> None:
    fs.rename("f", "d/sub", EXCHANGE)
    assert (fs.attr("").nlink, fs.attr("d").nlink) == (5, 2)
    assert fs.attr("f").parent == ROOT and fs.attr("d/sub").parent == fs.ino("d")


def test_times(fs: Namespace) -> None:
    fs.clock[0] += 10
    fs.rename("f", "d/f")
    for path in ("", "d"):
        assert (fs.attr(path).mtime, fs.attr(path).ctime) == (START_S + 10, START_S + 10)
    assert (fs.attr("d/f").mtime, fs.attr("d/f").ctime) == (START_S, START_S + 10)


def test_restore_brings_back_but_never_replaces(fs: Namespace) -> None:
    g, d = fs.ino("d/g"), fs.ino("d")
    fs.unlink("d/g")
    gone = f".trash/2023-11-14-22/{d}-{g}-g"
    fs.create("d/g")
    with pytest.raises(Refused) as refused:
        fs.rename(gone, "d/g", RESTORE)
    assert refused.value.errno == errno.EEXIST
    fs.unlink("d/g", skip_trash=True)
    fs.caller = user(1000)
    with pytest.raises(Refused) as refused:
        fs.rename(gone, "d/g", RESTORE)
    assert refused.value.errno == errno.EPERM
    fs.caller = SUPERUSER
    fs.rename(gone, "d/g", RESTORE)
    assert fs.ino("d/g") == g and fs.attr("d/g").parent == d


def test_a_trashed_directory_takes_only_what_is_restored(fs: Namespace) -> None:
    empty, g, d = fs.ino("empty"), fs.ino("d/g"), fs.ino("d")
    fs.rmdir("empty")
    with pytest.raises(Refused) as refused:
        fs.vol.transact(lambda tx: rename(tx, fs.vol, SUPERUSER, ROOT, b"f", empty, b"f"))
    assert refused.value.errno == errno.ENOENT
    fs.unlink("d/g")
    hour = fs.ino(".trash/2023-11-14-22")
    name = b"%d-%d-g" % (d, g)
    fs.vol.transact(lambda tx: rename(tx, fs.vol, SUPERUSER, hour, name, empty, b"g", RESTORE))
    assert fs.reader.entry(empty, b"g").ino == g


def test_nothing_is_moved_into_the_trash(fs: Namespace) -> None:
    fs.unlink("f")
    for target in (TRASH, fs.ino(".trash/2023-11-14-22")):
        with pytest.raises(Refused) as refused:
            fs.vol.transact(lambda tx, to=target: rename(tx, fs.vol, SUPERUSER, ROOT, b"d", to, b"d"))  # type: ignore[misc]
        assert refused.value.errno == errno.EPERM


def test_permissions_of_callers_whom_nobody_checked(fs: Namespace) -> None:
    fs.caller = user(1000)
    with pytest.raises(Refused) as refused:
        fs.rename("f", "d/f")
    assert refused.value.errno == errno.EACCES
    fs.change("d", mode=0o777)
    fs.rename("f", "d/f")  # the root directory is open to all
    fs.change("", mode=0o1777)
    with pytest.raises(Refused) as refused:
        fs.rename("empty", "x")
    assert refused.value.errno == errno.EACCES  # sticky, and somebody else's
    fs.change("", mode=0o777)
    with pytest.raises(Refused) as refused:
        fs.rename("empty", "d/empty")
    assert refused.value.errno == errno.EACCES  # the ".." of somebody else's directory
    fs.rename("empty", "x")


def test_quotas_are_checked_and_move_with_the_tree(fs: Namespace) -> None:
    fs.mkdir("q")
    fs.set_quota("q", inodes=2)
    fs.set_quota("empty")
    with pytest.raises(Refused) as refused:
        fs.rename("d", "q/d")  # three inodes
    assert refused.value.errno == errno.EDQUOT
    fs.rename("d", "empty/d")
    assert fs.reader.quota("dir", fs.ino("empty")).used_inodes == 3
    fs.rename("empty/d/sub", "q/sub")
    fs.rename("q/sub", "empty/d/g", EXCHANGE)
    assert fs.reader.quota("dir", fs.ino("q")).used_inodes == 1
    assert fs.reader.quota("dir", fs.ino("empty")).used_inodes == 2
