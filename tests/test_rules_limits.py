"""Setting, lifting and checking quotas, on every engine: what is counted is what there is, whoever works meanwhile."""

from __future__ import annotations

import errno
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import ENGINES, Client, check_sound, new_engine
from test_rules_usage import Crowd

from meta.client import Changes
from meta.errors import Refused
from meta.rules import waiting
from meta.rules.limits import (
    Use,
    check_directory,
    count_owners,
    lift_limit,
    owners,
    repair_directory,
    set_limit,
)
from meta.rules.summary import summarize
from meta.transaction import Quota
from meta.types import DIRECTORY, ROOT, SET_GID, SET_UID, SUPERUSER, SYMLINK


@pytest.fixture(params=ENGINES)
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Client]:
    engine = new_engine(request.param, tmp_path)
    made = Client(engine)
    yield made
    made.close_session()
    check_sound(engine)
    engine.close()


def tree(client: Client) -> int:
    """A directory with 3 inodes below it: a file of three pages, a directory, a symlink in there."""
    top, _ = client.mknod(SUPERUSER, ROOT, b"top", DIRECTORY, 0o755, 0)
    client.write(client.file(b"f", top), 0, 10_000)
    below, _ = client.mknod(SUPERUSER, top, b"below", DIRECTORY, 0o755, 0)
    client.mknod(SUPERUSER, below, b"s", SYMLINK, 0o777, 0, target=b"x")
    return top


def test_a_new_quota_counts_what_is_there_and_is_kept_up_to_date(client: Client) -> None:
    top = tree(client)
    assert set_limit(client.vol, "dir", top, 1 << 20, None) == Quota(1 << 20, -1, 3 * 4096 + 2 * 4096, 3)
    client.load_quotas()
    client.file(b"more", top)
    assert check_directory(client.vol, top) == (Quota(1 << 20, -1, 6 * 4096, 4), Use(6 * 4096, 4))


def test_what_is_not_given_stays_as_it_was(client: Client) -> None:
    top = tree(client)
    set_limit(client.vol, "dir", top, 1 << 20, 10)
    assert set_limit(client.vol, "dir", top, None, 20)[:2] == (1 << 20, 20)
    assert set_limit(client.vol, "dir", top, 0, None) == Quota(0, 20, 5 * 4096, 3)


def test_setting_again_does_not_count_again(client: Client) -> None:
    top = tree(client)
    set_limit(client.vol, "dir", top, 1 << 20, None)
    client.vol.transact(lambda tx: tx.add_quota("dir", top, 4096, 1))
    assert set_limit(client.vol, "dir", top, 2 << 20, None).used_inodes == 4
    assert repair_directory(client.vol, top) == Use(5 * 4096, 3)


def test_a_quota_is_for_a_directory_that_exists(client: Client) -> None:
    file = client.file(b"f")
    for ino, number in ((file, errno.ENOTDIR), (9999, errno.ENOENT)):
        with pytest.raises(Refused) as refused:
            set_limit(client.vol, "dir", ino, 1, 1)
        assert refused.value.errno == number
    assert client.reader.quotas("dir") == {}


def test_lifting(client: Client) -> None:
    top = tree(client)
    set_limit(client.vol, "dir", top, 1 << 20, 3)
    set_limit(client.vol, "user", 7, 1 << 20, 3)
    client.setattr(SUPERUSER, top, Changes(SET_UID | SET_GID, uid=7, gid=8))
    lift_limit(client.vol, "dir", top)
    lift_limit(client.vol, "user", 7)
    lift_limit(client.vol, "group", 999)
    assert client.reader.quota("dir", top) is None
    assert client.reader.quota("user", 7) == Quota(-1, -1, 4096, 1)
    assert client.reader.quota("group", 999) is None
    client.load_quotas()
    client.file(b"beyond", top)


def test_the_first_quota_of_an_owner_counts_all(client: Client) -> None:
    top = tree(client)
    client.setattr(SUPERUSER, top, Changes(SET_UID | SET_GID, uid=7, gid=8))
    assert not client.setting.user_group_quota
    assert set_limit(client.vol, "group", 8, None, 5) == Quota(-1, 5, 4096, 1)
    assert client.setting.user_group_quota
    assert client.reader.quota("user", 0) == Quota(-1, -1, 5 * 4096 - 4096 + 4096, 3)
    assert client.reader.quota("user", 7) == Quota(-1, -1, 4096, 1)


def test_owners_that_are_wrong_are_found_and_counted_again(client: Client) -> None:
    tree(client)
    set_limit(client.vol, "user", 7, 1 << 20, None)
    wrong = {("user", 0): (4096, 1), ("group", 33): (8192, 2), ("user", 7): (1, 1)}
    for (kind, key), (space, inodes) in wrong.items():
        client.vol.transact(lambda tx, k=kind, n=key, s=space, i=inodes: tx.add_quota(k, n, s, i))
    with owners(client.vol) as counted:
        assert {(kind, key) for kind, key, _, _ in counted.differences()} == set(wrong)
    count_owners(client.vol)
    with owners(client.vol) as counted:
        assert list(counted.differences()) == []
    assert client.reader.quota("user", 7) == Quota(1 << 20, -1, 0, 0)


def test_statistics_are_switched_on_by_the_first_quota(tmp_path: Path) -> None:
    engine = new_engine("sqlite3", tmp_path, dir_stats=False)
    client = Client(engine)
    top = tree(client)
    set_limit(client.vol, "dir", top, 1 << 20, None)
    assert client.setting.dir_stats
    client.load_quotas()
    client.file(b"more", top)
    assert check_directory(client.vol, top)[1] == Use(6 * 4096, 4)
    client.shutdown()


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("trash_days", [0, 1])
@pytest.mark.parametrize("seed", [1, 2])
def test_quotas_that_come_and_go_are_exact(kind: str, trash_days: int, seed: int, tmp_path: Path) -> None:
    """Two clients work in the trees; in between quotas are set, lifted and broken, and repaired."""
    print("seed", seed)
    engine = new_engine(kind, tmp_path, trash_days=trash_days)
    clients = [Client(engine), Client(engine)]
    rng = random.Random(seed)
    crowd = Crowd(clients, rng)
    for round_ in range(6):
        for _ in range(30):
            crowd.step()
        vol = clients[0].vol
        for ino in rng.sample(crowd.directories, 3):
            if engine.reader.attr(ino) is None:
                continue
            choice = rng.randrange(3)
            if choice == 0:
                lift_limit(vol, "dir", ino)
            elif engine.reader.attr(ino).parent < 1 << 62:  # type: ignore[union-attr]
                set_limit(vol, "dir", ino, rng.choice((None, 200_000)), rng.choice((0, 30)), strict=choice == 1)
        if round_ == 2:
            set_limit(vol, "user", 7, 100_000, 20)
        for client in clients:
            client.load()
        check_sound(engine)
        for ino in engine.reader.quotas("dir"):
            vol.transact(lambda tx, i=ino: tx.add_quota("dir", i, 4096, -1))
            repair_directory(vol, ino)
    print(crowd.refusals)
    for client in clients:
        client.close_session()
    check_sound(engine)
    engine.close()


@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_a_walk_sees_each_directory_once_in_memory_or_not(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "IN_MEMORY", limit)
    children = {number: [number * 3 + extra for extra in (1, 2, 3)] for number in range(100)}
    children[50] += [0, 50, 7]
    seen = []
    with waiting.Directories(0) as walk:
        while (ino := walk.pop()) is not None:
            seen.append(ino)
            walk.add(children.get(ino, []))
    assert sorted(seen) == list(range(301 - 0))


def test_a_large_tree_is_summed_up_the_same_in_a_file(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    top = tree(client)
    for number in range(20):
        ino, _ = client.mknod(SUPERUSER, top, b"d%d" % number, DIRECTORY, 0o755, 0)
        client.mknod(SUPERUSER, ino, b"x", DIRECTORY, 0o755, 0)
    inside = summarize(client.reader, client.vol, top)
    monkeypatch.setattr(waiting, "IN_MEMORY", 3)
    assert summarize(client.reader, client.vol, top) == inside
    assert inside.dirs == 42 and summarize(client.reader, client.vol, top, strict=True) == inside


def test_memory_of_a_walk_does_not_grow_with_the_tree() -> None:
    def peak(directories: int) -> int:
        tracemalloc.start()
        try:
            with waiting.Directories(0) as walk:
                walk.add(range(directories))
                assert sum(1 for _ in iter(walk.pop, None)) == directories
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(3 * waiting.IN_MEMORY) < peak(waiting.IN_MEMORY) * 1.5
