"""Accounting: under random operations every total and quota stays exactly what a recount finds, on every engine."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest
from clients import ENGINES, Client, check_sound, new_engine

from meta.client import Changes
from meta.errors import Refused
from meta.transaction import Quota
from meta.types import DIRECTORY, ROOT, SET_GID, SET_UID, SUPERUSER, SYMLINK, Identity

NAMES = [b"a", b"b", b"c"]
EXPECTED = {
    errno.EEXIST, errno.ENOENT, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR, errno.EPERM, errno.EDQUOT, errno.EINVAL,
    errno.ENOSPC,
}  # fmt: skip


class Crowd:
    """Random operations of two clients on a small tree, so that names collide and limits are met."""

    def __init__(self, clients: list[Client], rng: random.Random) -> None:
        self.clients = clients
        self.rng = rng
        self.refusals: dict[int, int] = {}
        self.directories = [ROOT]
        for depth in range(3):
            name = b"q%d" % depth
            ino, _ = clients[0].mknod(SUPERUSER, self.directories[-1], name, DIRECTORY, 0o777, 0)
            self.directories.append(ino)
        for ino, below in ((self.directories[1], 2), (self.directories[2], 1)):
            quota = Quota(200_000, 30, 4096 * below, below)
            clients[0].vol.transact(lambda tx, i=ino, q=quota: tx.put_quota("dir", i, q))
        for client in clients:
            client.load_quotas()

    def step(self) -> None:
        client = self.rng.choice(self.clients)
        operation = self.rng.choice((
            self.create, self.create, self.write, self.write, self.truncate, self.mkdir, self.symlink, self.unlink,
            self.rmdir, self.rename, self.rename, self.link, self.chown, self.clone, self.remove_tree,
        ))  # fmt: skip
        try:
            operation(client)
        except Refused as e:
            assert e.errno in EXPECTED, e
            self.refusals[e.errno] = self.refusals.get(e.errno, 0) + 1

    def place(self) -> tuple[int, bytes]:
        return self.rng.choice(self.directories), self.rng.choice(NAMES)

    def caller(self) -> Identity:
        uid = self.rng.choice((0, 7, 8))
        return Identity(uid, uid, groups=(uid,), checked=True)

    def find(self, client: Client) -> int:
        return client.lookup(SUPERUSER, *self.place())[0]

    def create(self, client: Client) -> None:
        ino, _ = client.create(self.caller(), *self.place(), 0o666, 0, 2)
        if self.rng.random() < 0.3:
            client.write(ino, 0, self.rng.randrange(1, 20_000))
        client.close(ino)

    def write(self, client: Client) -> None:
        ino = self.find(client)
        if client.getattr(ino).is_file:
            client.write(ino, self.rng.randrange(30_000), self.rng.randrange(1, 20_000))

    def truncate(self, client: Client) -> None:
        client.truncate(SUPERUSER, self.find(client), self.rng.randrange(40_000))

    def mkdir(self, client: Client) -> None:
        ino, _ = client.mknod(self.caller(), *self.place(), DIRECTORY, 0o777, 0)
        self.directories.append(ino)

    def symlink(self, client: Client) -> None:
        client.mknod(self.caller(), *self.place(), SYMLINK, 0o777, 0, target=b"x" * self.rng.randrange(1, 300))

    def unlink(self, client: Client) -> None:
        parent, name = self.place()
        if self.rng.random() < 0.5:
            client.unlink(SUPERUSER, parent, name, skip_trash=self.rng.random() < 0.3)
            return
        ino, attr = client.lookup(SUPERUSER, parent, name)
        if attr.is_file:
            client.open(SUPERUSER, ino, 2)
            try:
                client.unlink(SUPERUSER, parent, name, skip_trash=True)
                client.write(ino, 0, 9000)
            finally:
                client.close(ino)

    def rmdir(self, client: Client) -> None:
        client.rmdir(SUPERUSER, *self.place())

    def rename(self, client: Client) -> None:
        client.rename(SUPERUSER, *self.place(), *self.place(), self.rng.choice((0, 0, 1, 2)))

    def link(self, client: Client) -> None:
        client.link(SUPERUSER, self.find(client), *self.place())

    def chown(self, client: Client) -> None:
        uid = self.rng.choice((0, 7, 8))
        client.setattr(SUPERUSER, self.find(client), Changes(SET_UID | SET_GID, uid=uid, gid=uid))

    def clone(self, client: Client) -> None:
        client.clone(SUPERUSER, self.find(client), *self.place(), 0, 0o022)

    def remove_tree(self, client: Client) -> None:
        if self.rng.random() < 0.3:
            client.remove_tree(SUPERUSER, *self.place(), skip_trash=self.rng.random() < 0.5)


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("trash_days", [0, 1])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_totals_are_exact(kind: str, trash_days: int, seed: int, tmp_path: Path) -> None:
    print("seed", seed)
    engine = new_engine(kind, tmp_path, trash_days=trash_days, user_group_quota=True)
    clients = [Client(engine), Client(engine)]
    crowd = Crowd(clients, random.Random(seed))
    for n in range(240):
        crowd.step()
        if n % 40 == 39:
            check_sound(engine)
    print(crowd.refusals)
    for client in clients:
        client.close_session()
    check_sound(engine, clients[0].store.deleted + clients[1].store.deleted)
    engine.close()


@pytest.mark.parametrize("kind", ENGINES)
def test_a_quota_is_never_passed(kind: str, tmp_path: Path) -> None:
    """However the use of a directory grows - creating, writing, linking, moving and cloning things into it."""
    engine = new_engine(kind, tmp_path)
    client = Client(engine)
    crowd = Crowd([client], random.Random(5))
    limits = {ino: Quota(60_000, 8, 0, 0) for ino in crowd.directories[1:3]}
    for ino, quota in limits.items():
        used = client.reader.quota("dir", ino)
        assert used is not None
        merged = quota._replace(used_space=used.used_space, used_inodes=used.used_inodes)
        client.vol.transact(lambda tx, i=ino, q=merged: tx.put_quota("dir", i, q))
    for _ in range(300):
        crowd.step()
        for ino in limits:
            quota = client.reader.quota("dir", ino)
            if quota is not None and quota.max_space > 0:
                assert quota.used_space <= quota.max_space and quota.used_inodes <= quota.max_inodes
    print(crowd.refusals)
    assert crowd.refusals.get(errno.EDQUOT, 0) > 3
    client.shutdown()
