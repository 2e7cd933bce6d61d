"""Creating, finding, linking and removing names: attributes, inheritance, permissions, times, refusals."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import ENGINES
from namespace import START_S, Namespace, user

from meta.acl import Rule
from meta.attr import Attr
from meta.errors import Refused
from meta.rules.access import allowed, require_movable, require_unsticky
from meta.rules.check import check
from meta.rules.create import Exists
from meta.rules.lookup import list_dir, lookup, paths, resolve
from meta.transaction import DirStat
from meta.types import (
    BLOCKDEV,
    CHARDEV,
    DIRECTORY,
    FIFO,
    FILE,
    FLAG_IMMUTABLE,
    FLAG_SKIP_TRASH,
    ROOT,
    SOCKET,
    SUPERUSER,
    SYMLINK,
    TRASH,
    Identity,
)  # fmt: skip


@pytest.fixture(params=ENGINES)
def fs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Namespace]:
    namespace = Namespace(request.param, tmp_path, trash_days=1, enable_acl=True, user_group_quota=True)
    yield namespace
    assert check(namespace.engine) == []
    namespace.engine.close()


def refused(call: object, *args: object, **more: object) -> int:
    with pytest.raises(Refused) as e:
        call(*args, **more)  # type: ignore[operator]
    return e.value.errno


# Creating


@pytest.mark.parametrize("type", [FILE, DIRECTORY, SYMLINK, FIFO, BLOCKDEV, CHARDEV, SOCKET])
def test_a_new_inode(fs: Namespace, type: int) -> None:
    fs.caller = Identity(1000, 50, 0, (50, 60), checked=True)
    fs.clock[1] = 123_456_789
    target = b"there" if type == SYMLINK else b""
    ino, attr = fs.mknod("x", type, 0o6775, 0o022, rdev=0x801, target=target)
    assert attr == fs.reader.attr(ino)
    assert (attr.uid, attr.gid, attr.parent, attr.type) == (1000, 50, ROOT, type)
    assert attr.mode == (0o777 if type == SYMLINK else 0o6755)
    assert attr.length == {DIRECTORY: 4096, SYMLINK: 5}.get(type, 0)
    assert attr.nlink == (2 if type == DIRECTORY else 1)
    assert attr.rdev == (0x801 if type in (BLOCKDEV, CHARDEV) else 0)
    assert (attr.mtime, attr.ctimensec, attr.atimensec) == (START_S, 123_456_789, 123_456_789)
    assert fs.attr("").nlink == (3 if type == DIRECTORY else 2)
    assert fs.reader.dir_stat(ino) == (DirStat(0, 0, 0) if type == DIRECTORY else None)
    if type == SYMLINK:
        assert fs.reader.symlink(ino) == b"there"


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("d", errno.EEXIST),
        (".", errno.EEXIST),
        ("..", errno.EEXIST),
        ("", errno.EINVAL),
        ("a\0b", errno.EINVAL),
        ("n" * 256, errno.ENAMETOOLONG),
        (".trash", errno.EPERM),
        ("f/x", errno.ENOTDIR),
        ("none/x", errno.ENOENT),
    ],
)
def test_names_that_cannot_be_created(fs: Namespace, path: str, number: int) -> None:
    fs.mkdir("d")
    fs.create("f")
    assert refused(fs.create, path) == number


def test_what_exists_is_handed_back(fs: Namespace) -> None:
    ino = fs.create("f")
    with pytest.raises(Exists) as exists:
        fs.create("f")
    assert exists.value.existing == (ino, fs.attr("f"))


def test_an_existing_name_is_found_without_write_permission(fs: Namespace) -> None:
    fs.mkdir("d")
    fs.create("d/f")
    fs.caller = user(1000)
    assert refused(fs.create, "d/f") == errno.EEXIST
    assert refused(fs.create, "d/g") == errno.EACCES


@pytest.mark.parametrize("target", [b"", b"a\0b", b"t" * 4097])
def test_targets_that_no_symlink_has(fs: Namespace, target: bytes) -> None:
    number = errno.ENAMETOOLONG if len(target) > 4096 else errno.EINVAL
    assert refused(fs.symlink, "s", target) == number


def test_group_flags_and_tier_are_inherited(fs: Namespace) -> None:
    fs.mkdir("d")
    fs.change("d", mode=0o2777, gid=77, flags=FLAG_SKIP_TRASH | 0x10, tier=2)
    fs.engine.transact(lambda tx: (tx.add_quota("group", 0, -4096, -1), tx.add_quota("group", 77, 4096, 1)))
    fs.caller = user(1000)
    below = fs.mknod("d/sub", DIRECTORY, 0o755).attr
    assert (below.mode, below.gid, below.flags, below.tier) == (0o2755, 77, FLAG_SKIP_TRASH, 2)
    assert fs.mknod("d/f", FILE, 0o2770).attr.mode == 0o770  # not in the group: no setgid program
    assert fs.mknod("d/g", FILE, 0o2760).attr.mode == 0o2760
    fs.caller = user(1000, 1000, 77)
    assert fs.mknod("d/h", FILE, 0o2770).attr.mode == 0o2770


def test_a_default_acl_takes_the_place_of_the_umask(fs: Namespace) -> None:
    fs.mkdir("d")
    rule = Rule(7, 5, 7, 0, ((1000, 6),))
    number = fs.engine.intern_acl(rule)
    fs.change("d", default_acl=number)
    attr = fs.mknod("d/f", FILE, 0o666, 0o077).attr
    assert fs.reader.acl(attr.access_acl) == Rule(6, 5, 6, 0, ((1000, 6),))
    assert (attr.mode, attr.default_acl) == (0o660, 0)
    assert fs.mknod("d/sub", DIRECTORY, 0o777, 0o077).attr.default_acl == number
    assert fs.mknod("d/s", SYMLINK, 0o777, target=b"x").attr.access_acl == 0
    fs.mkdir("e")
    fs.change("e", default_acl=fs.engine.intern_acl(Rule(7, 5, other=1)))
    minimal = fs.mknod("e/f", FILE, 0o666, 0o077).attr
    assert (minimal.mode, minimal.access_acl) == (0o640, 0)


def test_quotas_refuse(fs: Namespace) -> None:
    fs.mkdir("d")
    fs.set_quota("d", inodes=1)
    fs.create("d/a")
    assert refused(fs.create, "d/b") == errno.EDQUOT
    assert refused(fs.link, "d/a", "d/b") == errno.EDQUOT
    fs.unlink("d/a")
    fs.create("d/b")


# Finding


def test_dots_and_the_trash(fs: Namespace) -> None:
    d = fs.mkdir("d")
    sub = fs.mkdir("d/sub")
    look = lambda parent, name: lookup(fs.reader, fs.vol, SUPERUSER, parent, name)[0]  # noqa: E731
    assert [look(sub, b"."), look(sub, b".."), look(d, b".."), look(ROOT, b"..")] == [sub, d, ROOT, ROOT]
    assert look(ROOT, b".trash") == TRASH and look(TRASH, b"..") == ROOT
    fs.vol.root = d
    assert look(d, b"..") == d
    assert refused(look, ROOT, b".trash") == errno.ENOENT
    assert paths(fs.reader, fs.vol, sub) == [b"/sub"] and paths(fs.reader, fs.vol, ROOT) == []


def test_an_entry_without_inode_is_found_by_type(fs: Namespace) -> None:
    ino = fs.mkdir("d")
    fs.engine.transact(lambda tx: tx.delete_attr(ino))
    try:
        assert fs.lookup("d")[1].type == DIRECTORY
    finally:
        fs.rmdir("d")
        fs.engine.transact(lambda tx: (tx.add_usage(-4096, -1), tx.delete_dir_stat(ROOT)))
        fs.engine.transact(lambda tx: (tx.add_quota("user", 0, -4096, -1), tx.add_quota("group", 0, -4096, -1)))


def test_paths_and_errors_of_resolving(fs: Namespace) -> None:
    fs.mkdir("d")
    ino = fs.create("d/f")
    fs.link("d/f", "g")
    assert sorted(paths(fs.reader, fs.vol, ino)) == [b"/d/f", b"/g"]
    assert paths(fs.reader, fs.vol, ROOT) == [b"/"]
    assert resolve(fs.reader, fs.vol, SUPERUSER, fs.ino("d"), b"/d//f")[0] == ino
    assert refused(fs.find, "g/x") == errno.ENOTDIR
    assert refused(fs.find, "d/" + "n" * 256) == errno.ENAMETOOLONG


def test_search_and_read_permission(fs: Namespace) -> None:
    fs.mkdir("d", 0o711)
    fs.create("d/f")
    fs.caller = user(1000)
    assert fs.lookup("d/f")
    assert refused(fs.names, "d") == errno.EACCES
    fs.change("d", mode=0o744)
    assert fs.names("d") == [b"f"]
    assert refused(fs.lookup, "d/f") == errno.EACCES
    assert refused(list_dir, fs.reader, fs.vol, fs.caller, fs.ino("d"), True) == errno.EACCES


# Permissions


def test_the_first_class_that_matches_decides(fs: Namespace) -> None:
    attr = Attr(FILE, 0o074, uid=1, gid=10)
    assert allowed(fs.reader, user(0), attr, 7)
    assert not allowed(fs.reader, user(1, 10), attr, 4)
    assert allowed(fs.reader, user(2, 10), attr, 7)
    assert allowed(fs.reader, user(2, 3, 10), attr, 7)
    assert allowed(fs.reader, user(2), attr, 4) and not allowed(fs.reader, user(2), attr, 2)
    attr.access_acl = fs.engine.intern_acl(Rule(0, 0, 7, 0, ((2, 6),)))
    assert allowed(fs.reader, user(2), attr, 6) and not allowed(fs.reader, user(2), attr, 1)
    attr.mode &= ~0o070
    assert allowed(fs.reader, user(2), attr, 4) and not allowed(fs.reader, user(2), attr, 2)


@pytest.mark.parametrize(
    ("uid", "victim", "remove", "move_file", "move_dir"),
    [(0, 5, True, True, True), (1, 5, True, True, False), (5, 5, True, True, True), (6, 5, False, False, False)],
)
def test_sticky_directories(uid: int, victim: int, remove: bool, move_file: bool, move_dir: bool) -> None:
    directory = Attr(DIRECTORY, 0o1777, uid=1)
    checks = [
        lambda: require_unsticky(user(uid), directory, Attr(FILE, 0, uid=victim)),
        lambda: require_movable(user(uid), directory, Attr(FILE, 0, uid=victim)),
        lambda: require_movable(user(uid), directory, Attr(DIRECTORY, 0, uid=victim)),
    ]
    for check_one, fine in zip(checks, (remove, move_file, move_dir), strict=True):
        if fine:
            check_one()
        else:
            assert refused(check_one) == errno.EACCES


# Linking and removing


def test_links(fs: Namespace) -> None:
    fs.mkdir("d")
    ino = fs.create("f")
    assert fs.reader.attr(ino).parent == ROOT
    fs.clock[0] += 9
    attr = fs.link("f", "d/f")
    assert (attr.nlink, attr.parent, attr.ctime, attr.mtime) == (2, 0, START_S + 9, START_S)
    assert fs.reader.parents(ino) == {ROOT: 1, fs.ino("d"): 1}
    fs.unlink("f", skip_trash=True)
    assert fs.reader.parents(ino) == {fs.ino("d"): 1} and fs.reader.attr(ino).parent == 0
    assert fs.unlink("d/f", skip_trash=True).deleted is not None
    assert fs.reader.parents(ino) == {}


def test_what_cannot_be_linked(fs: Namespace) -> None:
    fs.mkdir("d")
    fs.create("f")
    fs.create("g")
    assert refused(fs.link, "d", "e") == errno.EPERM
    assert refused(fs.link, "f", "g") == errno.EEXIST
    fs.change("f", flags=FLAG_IMMUTABLE)
    assert refused(fs.link, "f", "h") == errno.EPERM
    fs.change("f", flags=0)
    ino = fs.ino("g")
    fs.unlink("g")
    gone = f".trash/2023-11-14-22/1-{ino}-g"
    assert refused(fs.link, gone, "back") == errno.EPERM


def test_refusals_of_removal(fs: Namespace) -> None:
    fs.mkdir("d")
    fs.create("d/f")
    assert refused(fs.unlink, "d") == errno.EPERM
    assert refused(fs.unlink, "x") == errno.ENOENT
    assert refused(fs.unlink, ".trash") == errno.EPERM
    assert refused(fs.rmdir, "d") == errno.ENOTEMPTY
    assert refused(fs.rmdir, "d/f") == errno.ENOTDIR
    assert refused(fs.rmdir, "d/.") == errno.EINVAL
    assert refused(fs.rmdir, "d/..") == errno.ENOTEMPTY
    assert refused(fs.rmdir, ".trash") == errno.EPERM
    fs.caller = user(1000)
    assert refused(fs.unlink, "d/f") == errno.EACCES


def test_times_of_a_directory_are_left_alone_while_they_are_fresh(fs: Namespace) -> None:
    fs.mkdir("d")
    fs.clock[1] += 99_999_999
    fs.create("d/a")
    assert fs.attr("d").mtimensec == 0
    fs.clock[1] += 1
    fs.create("d/b")
    assert fs.attr("d").mtimensec == 100_000_000
    fs.mkdir("d/c")
    fs.clock[1] += 5
    fs.rmdir("d/c")
    assert fs.attr("d").mtimensec == fs.attr("d").ctimensec == 100_000_005
    fs.change("d", mtime=START_S + 50)
    fs.unlink("d/a")
    assert fs.attr("d").mtime == START_S  # a time to come is not fresh
