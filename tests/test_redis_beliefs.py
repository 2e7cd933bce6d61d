"""What a client of Redis remembers: that it tells nobody what is only believed, and that it does not grow.

Not what believing saves (test_redis_roundtrips).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis_server
from clients import Client
from redis_work import client_at, end_clients

from meta.errors import OutcomeUnknown
from meta.redis.known import Known
from meta.redis.scripts import APPLY, Script
from meta.rules.check import check
from meta.rules.create import mknod
from meta.rules.setattr import Changes
from meta.transaction import Quota, Transaction
from meta.types import DIRECTORY, FILE, ROOT, SET_ATIME, SET_MTIME, SUPERUSER

ME = SUPERUSER
AGE_S = 60.0


@pytest.fixture
def client() -> Iterator[Client]:
    client = client_at(redis_server.shared().url(), name="test")
    yield client
    client.shutdown()
    end_clients()


def other(client: Client) -> Client:
    return client_at(redis_server.shared().url(client.engine._endpoint.options.db))  # type: ignore[attr-defined]


def folder(client: Client, name: bytes, parent: int = ROOT) -> int:
    return client.mknod(ME, parent, name, DIRECTORY, 0o755, 0)[0]


def links_told(client: Client, ino: int) -> int | None:
    """The link count of a directory that a kernel would be told without a question to the server."""
    found = client.lately(ino, AGE_S)
    return None if found is None else found[0].nlink


def test_what_our_change_left_is_told(client: Client) -> None:
    folder(client, b"a")
    assert links_told(client, ROOT) == 3


def test_a_new_directory_is_told_and_a_removed_one_is_not(client: Client) -> None:
    """Entries made in it at once leave its times as they are, so there is no later record of ours."""
    ino = folder(client, b"a")
    assert links_told(client, ino) == 2
    client.file(b"f", ino)
    assert links_told(client, ino) == 2
    client.unlink(ME, ino, b"f")
    client.rmdir(ME, ROOT, b"a")
    assert links_told(client, ino) is None


def test_what_was_read_since_our_change_is_told(client: Client) -> None:
    folder(client, b"a")
    second = other(client)
    folder(second, b"b")
    assert links_told(client, ROOT) == 3
    client.lookup(ME, ROOT, b"a")
    assert client.getattr(ROOT).nlink == 4
    assert links_told(client, ROOT) == 4
    second.shutdown()


def test_a_read_that_our_change_overtakes_is_not_told(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been answered before the change, or behind one of others after it."""
    client.file(b"f")  # has numbers
    reader = client.reader
    get = reader.get  # type: ignore[attr-defined]

    def overtaken(key: bytes) -> bytes | None:
        answer: bytes | None = get(key)
        folder(client, b"a")
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(reader, "get", overtaken)
        assert client.getattr(ROOT).nlink == 2
    assert links_told(client, ROOT) is None
    assert client.getattr(ROOT).nlink == 3
    assert links_told(client, ROOT) == 3


def test_a_directory_that_was_only_looked_at_does_not_get_younger(client: Client) -> None:
    """A rule compares rights of the directories above, not their times and links: what others have changed of those."""
    above = folder(client, b"above")
    below = folder(client, b"below", above)
    second = other(client)  # has yet to hear of the quota
    client.engine.transact(lambda tx: tx.put_quota("dir", ROOT, Quota(1 << 40, 1 << 20, 0, 0)))
    client.load_quotas()
    client.getattr(above)  # believed from here on
    changed = time.monotonic()
    folder(second, b"b", above)
    client.file(b"f", below)
    age_s = time.monotonic() - changed
    assert client.lately(above, age_s) is None
    found = client.lately(above, AGE_S)
    assert found is None or found[0].nlink == 4 or found[1] >= age_s
    second.shutdown()


def test_of_two_changes_at_once_nobody_knows_which_was_last(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is done first and heard of last."""
    client.file(b"f")  # has numbers
    done, go = threading.Event(), threading.Event()
    link = client.engine._link  # type: ignore[attr-defined]
    run_script = link.run_script

    def slowly(script: Script, keys: Any, arguments: Any) -> Any:
        answer = run_script(script, keys, arguments)
        if script is APPLY and b"first" in arguments:
            done.set()
            go.wait(10)
        return answer

    monkeypatch.setattr(link, "run_script", slowly)
    slow = threading.Thread(target=folder, args=(client, b"first"))
    slow.start()
    assert done.wait(10)
    folder(client, b"second")
    assert links_told(client, ROOT) == 4
    client.lookup(ME, ROOT, b"second")
    go.set()
    slow.join()
    assert links_told(client, ROOT) in (None, 4)


@pytest.mark.parametrize("known", [True, False])
def test_a_change_whose_answer_is_lost_leaves_nothing_to_tell(
    client: Client, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    folder(client, b"a")
    assert links_told(client, ROOT) == 3
    once = client.engine._once  # type: ignore[attr-defined]
    run = once.run

    def lost(words: Any) -> None:
        assert isinstance(run(words), list)
        if not known:
            raise OutcomeUnknown("lost")

    with monkeypatch.context() as patch:
        patch.setattr(once, "run", lost)
        if known:
            folder(client, b"b")
        else:
            with pytest.raises(OutcomeUnknown):
                folder(client, b"b")
    assert links_told(client, ROOT) is None
    assert client.getattr(ROOT).nlink == 4
    assert check(client.engine) == []


def test_times_of_a_directory_are_set_whatever_was_believed(client: Client) -> None:
    """Also to what they are believed to be already, while another client has changed them."""
    ino = folder(client, b"a")
    times = Changes(SET_ATIME | SET_MTIME, atime=5, mtime=5)
    client.setattr(ME, ino, times)
    second = other(client)
    second.file(b"f", ino)
    assert second.getattr(ino).mtime > 5
    client.setattr(ME, ino, times)
    found = second.getattr(ino)
    assert (found.atime, found.mtime) == (5, 5)
    second.shutdown()


def test_directories_without_end() -> None:
    """What had to be forgotten is not taken for untouched."""
    known = Known()
    began = time.monotonic()
    for look in (known.left, known.seen):
        known.left(1, b"newer", time.monotonic())
        for ino in range(2, 3000):
            look(ino, b"x", time.monotonic())
        assert len(known._directories) <= 1024
        look(1, b"older", began)
        assert known.lately(1, AGE_S) is None


def test_large_values_are_not_kept(client: Client) -> None:
    ino = client.file(b"f")
    client.setxattr(ME, ino, b"user.small", b"small", 0)
    for value in (b"x" * 65536, b"y" * 65536):
        client.setxattr(ME, ino, b"user.large", value, 0)
        assert client.getxattr(ME, ino, b"user.large") == value
        client.setxattr(ME, ino, b"user.small", value[:10], 2)
    known: Known = client.engine._known  # type: ignore[attr-defined]
    values = [value for value in (*known._young.values(), *known._old.values()) if value is not None]
    assert max(map(len, values)) <= 1024


def test_clients_below_one_quota_do_not_meet(client: Client) -> None:
    """What others only add to is no condition of ours, though it is held against a limit."""
    below, second, attempts = folder(client, b"below"), other(client), []
    client.engine.transact(lambda tx: tx.put_quota("dir", below, Quota(1 << 40, 1 << 20, 0, 0)))
    client.load_quotas()
    second.load_quotas()
    client.vol.inodes.take()

    def body(tx: Transaction) -> None:
        attempts.append(1)
        mknod(tx, client.vol, ME, below, b"ours-%d" % len(attempts), FILE, 0o644, 0)
        second.mknod(ME, below, b"theirs-%d" % len(attempts), FILE, 0o644, 0)

    client.vol.transact(body)
    assert len(attempts) == 1
    assert client.engine.reader.quota("dir", below) == Quota(1 << 40, 1 << 20, 2 * 4096, 2)
