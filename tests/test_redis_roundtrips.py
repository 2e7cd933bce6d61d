"""How often an operation waits for Redis: counted on the wire, and never more than the table says.

`cold`: this client knows nothing of what the operation is about; `warm`: it has looked it up just before, as the kernel
does. ARCHITECTURE.md shows this table beside the official client's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import redis_server
from proxy import Proxy

from meta.client import MetaClient, SessionInfo
from meta.config import MetaConfig
from meta.engines import open_engine
from meta.errors import Refused
from meta.plock import END_OF_FILE, UNLOCK, WRITE, Plock
from meta.rules.format import init_volume
from meta.rules.setattr import Changes
from meta.setting import Setting
from meta.types import DIRECTORY, FILE, ROOT, SET_MODE, SUPERUSER, SYMLINK

ME = SUPERUSER


class Wire(NamedTuple):
    """A volume behind a proxy, and one more client of it that prepares what the first shall not know."""

    proxy: Proxy
    client: MetaClient
    other: MetaClient
    folder: int


def a_client(url: str) -> MetaClient:
    client = MetaClient(open_engine(url), MetaConfig(heartbeat_s=600))
    client.load()
    client.new_session(SessionInfo("rounds"))
    return client


@pytest.fixture(scope="module", params=[0, 1], ids=["plain", "trash"])
def wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    server = redis_server.shared()
    url = server.url()
    engine = open_engine(url)
    engine.prepare()
    init_volume(engine, Setting(name="rounds", uuid="5a1ade", trash_days=request.param))
    engine.close()
    proxy = Proxy(server.port)
    client = a_client(url.replace(str(server.port), str(proxy.port)))
    other = a_client(url)
    folder, _ = other.mknod(ME, ROOT, b"folder", DIRECTORY, 0o755, 0)
    first, _ = client.create(ME, folder, b"first", 0o644, 0, 0)  # takes the batches of inode and slice numbers
    client.close(first)
    client.new_slice_id()
    client.unlink(ME, folder, b"first")  # opens the hour of the trash
    yield Wire(proxy, client, other, folder)
    client.shutdown()
    other.shutdown()
    proxy.close()


def rounds(wire: Wire, action: Callable[[], object]) -> int:
    """How often the client waits for the server during the action."""
    wire.proxy.arm()
    action()
    return wire.proxy.rounds


def forget(wire: Wire) -> None:
    """What was read and written before is not known any more."""
    known = wire.client.engine._known  # type: ignore[attr-defined]
    known.__init__()


class Case(NamedTuple):
    """`make` prepares a name through the other client; `act` is measured; `look` is what the kernel asks before it."""

    cold: int
    warm: int
    act: Callable[[Wire, bytes], object]
    make: Callable[[Wire, bytes], object] = lambda wire, name: None
    look: Callable[[Wire, bytes], object] = lambda wire, name: seek(wire, name)


def seek(wire: Wire, name: bytes) -> int:
    """Look the folder and a name up; the inode, 0 if there is none. (And the hour of the trash, lately used.)"""
    wire.client.getattr(wire.folder)
    if wire.client.vol.trash_hour[1]:
        wire.client.getattr(wire.client.vol.trash_hour[1])
    try:
        return wire.client.lookup(ME, wire.folder, name)[0]
    except Refused:
        return 0


def missed(wire: Wire, name: bytes) -> None:
    with pytest.raises(Refused):
        wire.client.lookup(ME, wire.folder, name)


def no_xattr(client: MetaClient, ino: int) -> None:
    with pytest.raises(Refused):
        client.getxattr(ME, ino, b"user.a")


def a_file(wire: Wire, name: bytes) -> None:
    ino, _ = wire.other.mknod(ME, wire.folder, name, FILE, 0o644, 0)
    wire.other.write_slice(ino, 0, 0, wire.other.new_slice_id(), 4096, wire.other.vol.now())
    wire.other.lookup(ME, wire.folder, name)


def a_folder(wire: Wire, name: bytes) -> None:
    wire.other.mknod(ME, wire.folder, name, DIRECTORY, 0o755, 0)


def ino_of(wire: Wire, name: bytes) -> int:
    return wire.other.lookup(ME, wire.folder, name)[0]


def opened(wire: Wire, name: bytes) -> None:
    ino = ino_of(wire, name)
    wire.client.open(ME, ino, os.O_RDONLY)
    wire.client.close(ino)


def opened_and_read(wire: Wire, name: bytes) -> None:
    ino = ino_of(wire, name)
    wire.client.open(ME, ino, os.O_RDONLY)
    assert wire.client.read_chunk(ino, 0)
    wire.client.close(ino)


def created(wire: Wire, name: bytes) -> None:
    ino, _ = wire.client.create(ME, wire.folder, name, 0o644, 0, os.O_EXCL)
    wire.client.close(ino)


def renamed_over(wire: Wire, name: bytes) -> None:
    wire.client.rename(ME, wire.folder, name, wire.folder, name + b"-target")


def two_files(wire: Wire, name: bytes) -> None:
    a_file(wire, name)
    a_file(wire, name + b"-target")


def seek_both(wire: Wire, name: bytes) -> None:
    seek(wire, name)
    seek(wire, name + b"-target")


def with_ino(act: Callable[[MetaClient, int], object]) -> Callable[[Wire, bytes], object]:
    return lambda wire, name: act(wire.client, ino_of(wire, name))


CASES: dict[str, Case] = {
    "lookup": Case(1, 1, lambda w, n: w.client.lookup(ME, w.folder, n), a_file),
    "lookup, missing": Case(1, 1, missed),
    "getattr": Case(1, 1, with_ino(lambda c, ino: c.getattr(ino)), a_file),
    "create": Case(2, 1, created),
    "mkdir": Case(2, 1, lambda w, n: w.client.mknod(ME, w.folder, n, DIRECTORY, 0o755, 0)),
    "symlink": Case(2, 1, lambda w, n: w.client.mknod(ME, w.folder, n, SYMLINK, 0o777, 0, 0, b"target")),
    "open": Case(1, 1, opened, a_file),
    "open and read of the first list": Case(1, 1, opened_and_read, a_file),
    "setattr": Case(2, 1, with_ino(lambda c, i: c.setattr(ME, i, Changes(valid=SET_MODE, mode=0o600))), a_file),
    "truncate": Case(2, 1, with_ino(lambda c, ino: c.truncate(ME, ino, 100)), a_file),
    "write": Case(2, 1, with_ino(lambda c, i: c.write_slice(i, 0, 0, c.new_slice_id(), 4096, c.vol.now())), a_file),
    "read of a chunk's list": Case(1, 1, with_ino(lambda c, ino: c.read_chunk(ino, 0)), a_file),
    "setxattr": Case(2, 1, with_ino(lambda c, ino: c.setxattr(ME, ino, b"user.a", b"1")), a_file),
    "getxattr": Case(1, 1, with_ino(no_xattr), a_file),
    "link": Case(2, 1, lambda w, n: w.client.link(ME, ino_of(w, n), w.folder, n + b"-target"), a_file, seek_both),
    "rename": Case(2, 1, renamed_over, a_file, seek_both),
    "rename over a file": Case(2, 1, renamed_over, two_files, seek_both),
    "unlink": Case(2, 1, lambda w, n: w.client.unlink(ME, w.folder, n), a_file),
    "rmdir": Case(2, 1, lambda w, n: w.client.rmdir(ME, w.folder, n), a_folder),
    "flock": Case(2, 2, with_ino(lambda c, ino: c.flock(ME, ino, 1, WRITE)), a_file),
    "fcntl lock": Case(2, 2, with_ino(lambda c, i: c.setlk(ME, i, 1, Plock(WRITE, 1, 0, END_OF_FILE))), a_file),
    "fcntl unlock": Case(1, 1, with_ino(lambda c, i: c.setlk(ME, i, 1, Plock(UNLOCK, 1, 0, END_OF_FILE))), a_file),
    "listing of a page": Case(1, 1, lambda w, n: w.client.list_dir(ME, w.folder, True, limit=256)),
    "path of three names": Case(2, 2, lambda w, n: w.client.resolve(ME, b"/folder/" + n), a_file),
    "statfs": Case(2, 2, lambda w, n: w.client.statfs(ME, ROOT)),
}
"""Operations with the most round trips that they may take. ("path": the root, and all names in one.)"""


@pytest.mark.parametrize("operation", CASES)
def test_round_trips(wire: Wire, operation: str) -> None:
    case = CASES[operation]
    name = operation.replace(" ", "-").encode()
    case.make(wire, name + b"-cold")
    forget(wire)
    seen = {"cold": rounds(wire, lambda: case.act(wire, name + b"-cold"))}
    case.make(wire, name + b"-warm")
    forget(wire)
    case.look(wire, name + b"-warm")
    seen["warm"] = rounds(wire, lambda: case.act(wire, name + b"-warm"))
    print(f"{operation}: {seen}")
    assert seen["cold"] <= case.cold and seen["warm"] <= case.warm, f"{operation}: {seen}"


def test_a_belief_that_is_wrong_costs_one_round_trip_more(wire: Wire) -> None:
    a_file(wire, b"believed")
    seek(wire, b"believed")
    wire.other.setattr(ME, ino_of(wire, b"believed"), Changes(valid=SET_MODE, mode=0o640))
    assert rounds(wire, lambda: wire.client.unlink(ME, wire.folder, b"believed")) == 3
