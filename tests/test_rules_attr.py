"""setattr, ACLs and extended attributes: who may change what, what else changes with it - on every engine."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
from clients import ENGINES, Client, check_sound, new_engine

from meta.acl import EMPTY, Rule
from meta.client import Changes
from meta.errors import Refused
from meta.types import (
    DIRECTORY,
    FLAG_APPEND,
    FLAG_IMMUTABLE,
    ROOT,
    SET_ATIME,
    SET_ATIME_NOW,
    SET_FLAG,
    SET_GID,
    SET_MODE,
    SET_MTIME,
    SET_MTIME_NOW,
    SET_TIER,
    SET_UID,
    SUPERUSER,
    SYMLINK,
    Identity,
)

OWNER = Identity(1000, 1000, groups=(1000, 1001))
STRANGER = Identity(2000, 2000, groups=(2000,))
GOOD_NOW = SET_ATIME | SET_MTIME | SET_ATIME_NOW | SET_MTIME_NOW


@pytest.fixture(params=ENGINES)
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Client]:
    client = Client(new_engine(request.param, tmp_path, enable_acl=True, user_group_quota=True))
    yield client
    client.shutdown()


def refused(number: int) -> AbstractContextManager[object]:
    return pytest.raises(Refused, check=lambda e: e.errno == number)


def make(client: Client, mode: int, kind: int = 1, name: bytes = b"f") -> int:
    ino, _ = client.mknod(SUPERUSER, ROOT, name, kind, mode, 0)
    client.setattr(SUPERUSER, ino, Changes(SET_UID | SET_GID | SET_MODE, mode=mode, uid=1000, gid=1000))
    client.setattr(SUPERUSER, ino, Changes(SET_MODE, mode=mode))
    return ino


@pytest.mark.parametrize(
    ("mode", "caller", "changes", "result"),
    [
        (0o6755, OWNER, Changes(SET_GID, gid=1001), 0o0755),  # both bits go
        (0o6755, SUPERUSER, Changes(SET_UID, uid=5), 0o0755),  # for root too, because the group may execute
        (0o6744, SUPERUSER, Changes(SET_UID, uid=5), 0o2744),  # mandatory locking, not set-group-id
        (0o6744, OWNER, Changes(SET_GID, gid=1001), 0o0744),
        (0o6755, SUPERUSER, Changes(SET_UID | SET_MODE, uid=5, mode=0o6755), 0o0755),  # the kernel's way to ask
        (0o1755, OWNER, Changes(SET_GID, gid=1001), 0o1755),
        (0o0755, OWNER, Changes(SET_MODE, mode=0o6711), 0o6711),
        (0o4755, STRANGER, Changes(SET_MODE, mode=0o0755), 0o0755),  # what the kernel asks for when a stranger writes
    ],
)  # fmt: skip
def test_mode_after_a_change(client: Client, mode: int, caller: Identity, changes: Changes, result: int) -> None:
    ino = make(client, mode)
    assert oct(client.setattr(caller, ino, changes).mode) == oct(result)


def test_directories_keep_their_set_id_bits(client: Client) -> None:
    ino = make(client, 0o6755, DIRECTORY)
    assert client.setattr(OWNER, ino, Changes(SET_GID, gid=1001)).mode == 0o6755


@pytest.mark.parametrize(
    ("caller", "changes", "number"),
    [
        (STRANGER, Changes(SET_MODE, mode=0o700), errno.EPERM),
        (STRANGER, Changes(SET_MODE, mode=0o6755), errno.EPERM),
        (STRANGER, Changes(SET_MODE, mode=0o644), errno.EPERM),  # even if nothing would change
        (STRANGER, Changes(SET_UID, uid=1000), errno.EPERM),
        (OWNER, Changes(SET_UID, uid=1001), errno.EPERM),
        (OWNER, Changes(SET_UID, uid=1000), 0),
        (OWNER, Changes(SET_GID, gid=1001), 0),
        (OWNER, Changes(SET_GID, gid=5), errno.EPERM),
        (STRANGER, Changes(SET_GID, gid=2000), errno.EPERM),
        (STRANGER, Changes(GOOD_NOW), errno.EACCES),
        (STRANGER, Changes(SET_MTIME | SET_MTIME_NOW), errno.EPERM),
        (STRANGER, Changes(SET_MTIME, mtime=5), errno.EPERM),
        (OWNER, Changes(SET_MTIME, mtime=5), 0),
        (OWNER, Changes(SET_FLAG, flags=FLAG_APPEND), errno.EPERM),
        (STRANGER._replace(checked=True), Changes(SET_MODE, mode=0o700), 0),  # the kernel has looked
    ],
)  # fmt: skip
def test_who_may_change(client: Client, caller: Identity, changes: Changes, number: int) -> None:
    ino = make(client, 0o644)
    before = client.getattr(ino)
    if number:
        with refused(number):
            client.setattr(caller, ino, changes)
        assert client.getattr(ino) == before
    else:
        client.setattr(caller, ino, changes)


def test_a_writer_may_touch(client: Client) -> None:
    ino = make(client, 0o666)
    attr = client.setattr(STRANGER, ino, Changes(GOOD_NOW))
    assert (attr.atime, attr.atimensec) == (attr.mtime, attr.mtimensec)
    with refused(errno.EPERM):
        client.setattr(STRANGER, ino, Changes(SET_ATIME | SET_MTIME, atime=1, mtime=2))


def test_times_are_kept_to_the_nanosecond(client: Client) -> None:
    ino = make(client, 0o644)
    times = {"atime": -5, "atimensec": 999_999_999, "mtime": 1 << 32, "mtimensec": 1}
    client.setattr(OWNER, ino, Changes(SET_ATIME | SET_MTIME, **times))
    attr = client.getattr(ino)
    assert {name: getattr(attr, name) for name in times} == times


def test_ctime_follows_every_change(client: Client) -> None:
    """Even one that sets what was there, and one that sets nothing (chown with -1)."""
    ino = make(client, 0o644)
    for changes in (Changes(SET_MODE, mode=0o644), Changes(SET_UID, uid=1000), Changes(), Changes(SET_TIER, tier=2)):
        before = client.getattr(ino)
        after = client.setattr(OWNER, ino, changes)
        assert (after.ctime, after.ctimensec) > (before.ctime, before.ctimensec), changes
        assert (after.mtime, after.mtimensec) == (before.mtime, before.mtimensec)
    assert client.getattr(ino).tier == 2


def test_chmod_by_somebody_outside_the_group_loses_set_group_id(client: Client) -> None:
    ino = make(client, 0o755)
    client.setattr(SUPERUSER, ino, Changes(SET_GID, gid=77))
    assert client.setattr(OWNER, ino, Changes(SET_MODE, mode=0o2755)).mode == 0o755


@pytest.mark.parametrize("flag", [FLAG_IMMUTABLE, FLAG_APPEND])
def test_protected_inodes(client: Client, flag: int) -> None:
    """chattr +i and +a bind root too; only times may be set to now, and not even that with +i."""
    ino = make(client, 0o644)
    client.setattr(SUPERUSER, ino, Changes(SET_FLAG, flags=flag))
    for changes in (Changes(SET_MODE, mode=0o600), Changes(SET_UID, uid=1), Changes(SET_MTIME, mtime=3)):
        with refused(errno.EPERM):
            client.setattr(SUPERUSER, ino, changes)
    if flag == FLAG_IMMUTABLE:
        with refused(errno.EPERM):
            client.setattr(SUPERUSER, ino, Changes(GOOD_NOW))
    else:
        client.setattr(SUPERUSER, ino, Changes(GOOD_NOW))
    client.setattr(SUPERUSER, ino, Changes(SET_FLAG))
    client.setattr(SUPERUSER, ino, Changes(SET_MODE, mode=0o600))


def test_usage_changes_hands_with_the_owner(client: Client) -> None:
    ino = make(client, 0o644)
    make(client, 0o755, DIRECTORY, b"d")
    client.write(ino, 0, 10_000)
    client.setattr(SUPERUSER, ino, Changes(SET_UID | SET_GID, uid=3, gid=4))
    assert client.reader.quota("user", 3) is not None
    check_sound(client.engine)


def test_what_is_in_the_trash_keeps_its_attributes(client: Client) -> None:
    client.vol.setting = replace(client.vol.setting, trash_days=1)
    ino = make(client, 0o644)
    client.unlink(SUPERUSER, ROOT, b"f")
    with refused(errno.EPERM):
        client.setattr(SUPERUSER, ino, Changes(SET_MODE, mode=0))


def test_setattr_of_nothing(client: Client) -> None:
    with refused(errno.ENOENT):
        client.setattr(SUPERUSER, 4711, Changes(SET_MODE))


def test_acl_and_mode_tell_the_same(client: Client) -> None:
    """chmod changes the mask, setfacl the mode; a minimal list is no list; equal lists share one number."""
    ino, other = make(client, 0o640), make(client, 0o640, name=b"g")
    rule = Rule(6, 4, 6, 0, users=((2000, 6),))
    for inode in (ino, other):
        assert client.set_acl(OWNER, inode, "access", rule).mode == 0o660
    assert client.getattr(ino).access_acl == client.getattr(other).access_acl != 0
    client.access(STRANGER, ino, 6)
    assert client.setattr(OWNER, ino, Changes(SET_MODE, mode=0o604)).mode == 0o604
    assert client.get_acl(ino, "access") == Rule(6, 4, 0, 4, users=((2000, 6),))
    with refused(errno.EACCES):
        client.access(STRANGER, ino, 2)
    assert client.get_acl(other, "access") == rule
    assert client.set_acl(OWNER, ino, "access", Rule(7, 5, other=1)).mode == 0o751
    assert client.get_acl(ino, "access") is None and client.getattr(ino).access_acl == 0
    assert client.listxattr(OWNER, other) == [b"system.posix_acl_access"]
    client.set_acl(OWNER, other, "access", EMPTY)
    assert client.listxattr(OWNER, other) == []


def test_a_default_acl_is_handed_down(client: Client) -> None:
    directory = make(client, 0o755, DIRECTORY, b"d")
    rule = Rule(7, 5, 7, 0, users=((2000, 7),))
    client.set_acl(OWNER, directory, "default", rule)
    _, attr = client.mknod(OWNER, directory, b"f", 1, 0o666, 0o077)
    assert attr.mode == 0o660 and attr.access_acl and not attr.default_acl
    ino, attr = client.mknod(OWNER, directory, b"e", DIRECTORY, 0o777, 0o077)
    assert client.get_acl(ino, "default") == rule
    client.set_acl(OWNER, directory, "default", EMPTY)
    assert client.get_acl(directory, "default") is None


def test_who_may_set_an_acl(client: Client) -> None:
    ino = make(client, 0o640)
    with refused(errno.EPERM):
        client.set_acl(STRANGER, ino, "access", Rule(7, 7, other=7))
    with refused(errno.EACCES):
        client.set_acl(OWNER, ino, "default", Rule(7, 7, other=7))
    client.vol.setting = replace(client.vol.setting, enable_acl=False)
    with refused(errno.ENOTSUP):
        client.set_acl(OWNER, ino, "access", Rule(7, 7, other=7))
    with refused(errno.ENOTSUP):
        client.get_acl(ino, "access")


def test_extended_attributes(client: Client) -> None:
    ino = make(client, 0o644)
    name, value = b"user.\xff", bytes(range(256))
    with refused(errno.ENODATA):
        client.getxattr(OWNER, ino, name)
    with refused(errno.ENODATA):
        client.setxattr(OWNER, ino, name, value, 2)
    client.setxattr(OWNER, ino, name, value, 1)
    with refused(errno.EEXIST):
        client.setxattr(OWNER, ino, name, value, 1)
    client.setxattr(OWNER, ino, name, b"", 2)
    client.setxattr(OWNER, ino, b"user.b", value)
    assert client.getxattr(OWNER, ino, name) == b""
    assert client.listxattr(OWNER, ino) == [b"user.b", name]
    client.removexattr(OWNER, ino, name)
    with refused(errno.ENODATA):
        client.removexattr(OWNER, ino, name)
    for number, bad in (
        (errno.EINVAL, (b"", b"", 0)), (errno.EINVAL, (b"a", b"", 3)), (errno.ERANGE, (b"a" * 256, b"", 0)),
        (errno.ERANGE, (b"a", bytes(65537), 0)),
    ):  # fmt: skip
        with refused(number):
            client.setxattr(OWNER, ino, *bad)
    with refused(errno.ENOENT):
        client.setxattr(OWNER, 4711, b"user.a", b"")


def test_readlink(client: Client) -> None:
    ino, _ = client.mknod(OWNER, ROOT, b"l", SYMLINK, 0o777, 0, target=b"over/there")
    assert client.readlink(ino) == b"over/there"
    with refused(errno.EINVAL):
        client.readlink(ROOT)
    with refused(errno.ENOENT):
        client.readlink(4711)
