"""The SFTP bucket against a real server: addresses, logins, host keys, whole objects or none, and broken lines."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from full_disk import full_disk
from proxy import Proxy
from rclone_server import PASSWORD, USER, SftpServer, escaped, make_key, shared_sftp
from redis_server import free_port, wait_until
from ssh_agent import Agent

from chunkstore.bucket import Bucket
from chunkstore.buckets import open_bucket
from chunkstore.buckets.sftp import SftpBucket, parse_address
from chunkstore.errors import BadBucket, Denied, NoSpace, NotFound, StoreError, Timeout, Unavailable

KEY = "vol/chunks/0/0/1_0_4194304"
BLOCK = os.urandom(4 << 20)


@pytest.fixture(autouse=True)
def no_keys_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SSH_AUTH_SOCK", "SSH_PRIVATE_KEY_PATH", "SSH_KNOWN_HOSTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def line() -> Iterator[Proxy]:
    proxy = Proxy(shared_sftp().port)
    yield proxy
    proxy.close()


@pytest.fixture
def opened(line: Proxy) -> Iterator[Callable[..., SftpBucket]]:
    """Makes buckets in one new folder, behind `line`."""
    made: list[SftpBucket] = []
    folder = shared_sftp().new_folder()

    def open_one(**access: object) -> SftpBucket:
        bucket = open_bucket("sftp", shared_sftp().address(f"{folder}/", line.port), escaped(**access))
        assert isinstance(bucket, SftpBucket)
        made.append(bucket)
        return bucket

    yield open_one
    for each in made:
        each.close()


@pytest.fixture
def bucket(opened: Callable[..., SftpBucket]) -> SftpBucket:
    return opened(timeout_s=0.5)


def files(bucket: Bucket) -> list[str]:
    """The files on the server, temporary ones included."""
    root = shared_sftp().root / bucket.describe().rpartition(":")[2]
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


# addresses


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("host:/a/b/", ("host", 22, "/a/b/")),
        ("host:2222:/a/b", ("host", 2222, "/a/b")),
        ("10.0.0.1:22:obj-", ("10.0.0.1", 22, "obj-")),
        ("host:", ("host", 22, ".")),
        ("host:./", ("host", 22, "./")),
        ("host:/", ("host", 22, "/")),
        ("host://a//b/../c/", ("host", 22, "/a/c/")),
        ("[::1]:/a", ("::1", 22, "/a")),
        ("[fe80::1]:2222:a/", ("fe80::1", 2222, "a/")),
    ],
)
def test_addresses_mean_what_official_clients_take_them_for(address: str, expected: tuple[str, int, str]) -> None:
    assert parse_address(address) == expected


@pytest.mark.parametrize(
    "address", ["", "host", ":/a", "user:hidden@host:/a", "sftp://host/a", "sftp://host:22:/a", "host:x:/a", "::1:/a"]
)
def test_addresses_that_are_none_are_refused_without_showing_them(address: str) -> None:
    with pytest.raises(BadBucket, match=r"HOST\[:PORT\]:PATH") as caught:
        open_bucket("sftp", address)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("host:/a/", "sftp://me@host:/a/"),
        ("host:2222:a-", "sftp://me@host:2222:a-"),
        ("[::1]:/a/", "sftp://me@[::1]:/a/"),
    ],
)
def test_names_show_the_user_and_no_password(address: str, name: str) -> None:
    assert open_bucket("sftp", address, escaped(access_key="me")).describe() == name


def test_paths_without_a_slash_are_a_prefix_of_names() -> None:
    server = shared_sftp()
    folder = server.new_folder()
    bucket = open_bucket("sftp", server.address(f"{folder}/obj-"), escaped())
    bucket.put("vol/a", b"1")
    assert (server.root / folder / "obj-vol" / "a").read_bytes() == b"1"
    assert [each.key for each in bucket.list("", delimiter="/").objects] == ["vol/"]
    bucket.close()


def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paramiko", None)
    with pytest.raises(BadBucket, match=r"needs the package paramiko; .* pip install 'juicefs-py\[sftp\]'"):
        open_bucket("sftp", "host:/a/")


# logging in


def test_users_and_passwords_are_unescaped_like_parts_of_a_url() -> None:
    for password in (escaped().secret_key, PASSWORD.replace("+", "%2B").replace("100%", "100%25")):
        bucket = open_bucket("sftp", shared_sftp().address("login/"), escaped(secret_key=password))
        bucket.put("a", b"1")
        bucket.close()


@pytest.mark.parametrize(
    ("changes", "way"), [({"secret_key": "wrong-secret"}, "password"), ({"secret_key": ""}, "no password")]
)
def test_who_cannot_log_in_is_told_what_was_tried(changes: dict[str, str], way: str) -> None:
    bucket = open_bucket("sftp", shared_sftp().address("login/"), escaped(**changes))
    with pytest.raises(Denied, match=f"user {USER} cannot log in by {way}; check") as caught:
        bucket.get("a")
    assert "wrong-secret" not in str(caught.value)
    bucket.close()


@pytest.fixture
def with_keys(tmp_path: Path) -> Iterator[tuple[SftpServer, Path]]:
    """A server that trusts the key in a file; nothing of what tests know else is in the way."""
    key = tmp_path / "trusted"
    (tmp_path / "authorized").write_text(make_key(key) + "\n")
    server = SftpServer("--authorized-keys", str(tmp_path / "authorized")).start()
    yield server, key
    server.close()


def test_logging_in_by_key(with_keys: tuple[SftpServer, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    server, key = with_keys

    def logs_in() -> bool:
        bucket = open_bucket("sftp", server.address("k/"), escaped(secret_key=""))
        try:
            bucket.put("a", b"1")
        except Denied:
            return False
        finally:
            bucket.close()
        return True

    assert not logs_in()
    with monkeypatch.context() as patch:
        patch.setenv("SSH_PRIVATE_KEY_PATH", str(key))
        assert logs_in()
    agent = Agent(key.with_name("agent"), key)
    with monkeypatch.context() as patch:
        patch.setenv("SSH_AUTH_SOCK", str(key.with_name("agent")))
        assert logs_in() and agent.signed == 1
    agent.close()
    folder = key.parent / ".ssh"  # HOME is the test's directory
    folder.mkdir()
    (folder / "id_rsa").write_text("not a key")
    (folder / "id_ed25519").write_bytes(key.read_bytes())
    assert logs_in()


def test_a_chosen_key_that_is_none_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSH_PRIVATE_KEY_PATH", str(tmp_path / "nothing"))
    bucket = open_bucket("sftp", shared_sftp().address("k/"), escaped(secret_key=""))
    with pytest.raises(BadBucket, match=r"cannot use the key SSH_PRIVATE_KEY_PATH=.*nothing"):
        bucket.get("a")


# host keys


def test_host_keys_are_looked_at_if_a_file_of_them_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server, known = shared_sftp(), tmp_path / "known_hosts"
    monkeypatch.setenv("SSH_KNOWN_HOSTS", str(known))
    host = f"[127.0.0.1]:{server.port}"
    other = make_key(tmp_path / "other")
    bucket = open_bucket("sftp", server.address("known/"), escaped())
    for content, error in (
        (None, (BadBucket, "cannot read SSH_KNOWN_HOSTS=")),
        (f"{host} {other}\n", (Denied, "its host key is not the one in SSH_KNOWN_HOSTS")),
        (f"example.com {server.host_key}\n", (Denied, r"has no key of \[127.0.0.1\]:\d+; if ssh-ed25519 SHA256:")),
        (f"{host} {server.host_key}\n", None),
    ):
        if content is not None:
            known.write_text(content)
        if error is None:
            bucket.put("a", b"1")
        else:
            with pytest.raises(error[0], match=error[1]):
                bucket.put("a", b"1")
    bucket.close()


# whole objects, or none


def test_objects_are_renamed_into_place(bucket: SftpBucket) -> None:
    bucket.put(KEY, BLOCK)
    bucket.put(KEY, BLOCK[::-1])
    assert files(bucket) == [KEY]
    assert bucket.get(KEY) == BLOCK[::-1]


def test_a_put_that_breaks_off_leaves_the_old_object(bucket: SftpBucket, line: Proxy) -> None:
    bucket.put(KEY, b"old")
    for after in (1000, 300_000, 2_000_000, 4_000_000):
        for key in (KEY, "vol/new"):
            line.arm("up", after)
            with pytest.raises(Unavailable, match=f"write object .*{key}"):
                bucket.put(key, BLOCK)
            assert line.arm() == 1
            assert bucket.get(KEY) == b"old"
            with pytest.raises(NotFound):
                bucket.head("vol/new")
    left = set(files(bucket)) - {KEY}
    assert all(Path(name).name.startswith((".jfs.new.tmp.", ".jfs.1_0_4194304.tmp.")) for name in left)
    bucket.put(KEY, BLOCK)
    assert bucket.get(KEY) == BLOCK


def test_names_may_be_as_long_as_a_file_system_takes_them(bucket: SftpBucket) -> None:
    bucket.put("n" * 255, b"1")
    assert bucket.get("n" * 255) == b"1"


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    with full_disk(tmp_path / "disk", 1 << 20) as disk:
        server = SftpServer()
        server.root.rmdir()
        server.root.symlink_to(disk)
        server.start()
        bucket = open_bucket("sftp", server.address("./"), escaped())
        with pytest.raises(NoSpace, match="no space left"):
            bucket.put(KEY, BLOCK[: 1100 << 10])
        assert not [path for path in disk.rglob("*") if path.is_file()]
        bucket.put(KEY, b"fits")
        assert bucket.get(KEY) == b"fits"
        bucket.close()
        server.stop()
        server.root.unlink()
        server.close()


# lines and servers that fail


def test_a_lost_connection_is_an_error_of_one_call(bucket: SftpBucket, line: Proxy) -> None:
    bucket.put(KEY, BLOCK)
    for after in (500, 100_000, 3_000_000):
        line.arm("down", after)
        with pytest.raises(Unavailable, match="read object"):
            bucket.get(KEY)
        assert line.arm() == 1
        assert bucket.get(KEY) == BLOCK
    line.arm("down", 500)
    with pytest.raises(Unavailable, match="list objects in"):
        list(bucket.list_all())
    assert [each.key for each in bucket.list_all()] == [KEY]


def test_a_connection_that_was_lost_while_idle_is_not_noticed(bucket: SftpBucket, line: Proxy) -> None:
    bucket.put("a", b"1")
    line.cut()
    wait_until(lambda: not bucket._pool._idle[0].alive, "the end of the connection is seen")
    assert bucket.get("a") == b"1"


def test_a_server_that_says_nothing_more_is_a_timeout(bucket: SftpBucket, line: Proxy) -> None:
    bucket.put(KEY, BLOCK)
    calls: list[Callable[[], object]] = [
        lambda: bucket.get(KEY), lambda: bucket.put("b", BLOCK), lambda: bucket.head(KEY), lambda: bucket.list()
    ]  # fmt: skip
    for call in calls:
        assert bucket.get(KEY, 0, 3) == BLOCK[:3]
        line.black_hole = True
        began = time.monotonic()
        with pytest.raises(Timeout, match="did not answer in time"):
            call()
        assert 0.4 < time.monotonic() - began < 3
        line.black_hole = False
    assert bucket.get(KEY) == BLOCK


def test_a_server_that_does_not_greet_is_a_timeout(opened: Callable[..., SftpBucket], line: Proxy) -> None:
    line.black_hole = True
    bucket = opened(connect_timeout_s=0.5)
    began = time.monotonic()
    with pytest.raises(Timeout, match=r"connect to 127.0.0.1, port \d+: the server did not answer within 0.5 s"):
        bucket.get("a")
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9])
def test_a_server_that_falls_silent_while_logging_in_is_a_timeout(
    opened: Callable[..., SftpBucket], line: Proxy, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened()._pool.one("log in"):
        whole, take = line.down, line.take
    line.arm()

    def until(way: str, data: bytes) -> tuple[bytes, bool]:
        found = take(way, data)  # type: ignore[arg-type]
        line.black_hole = line.down >= whole * share
        return found

    monkeypatch.setattr(line, "take", until)
    bucket = opened(connect_timeout_s=0.6)
    with pytest.raises(Timeout, match=r"within 0.6 s"):
        bucket.get("a")


def test_a_transfer_that_hardly_moves_ends(bucket: SftpBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.put(KEY, BLOCK)
    with monkeypatch.context() as patch:
        patch.setattr("chunkstore.buckets.sftp._PATIENCE", 0)
        for call in (lambda: bucket.get(KEY), lambda: bucket.put(KEY, b"new")):
            with pytest.raises(Timeout, match="hardly any"):
                call()
    assert bucket.get(KEY) == BLOCK


def test_nobody_there() -> None:
    for address, told in (
        (f"127.0.0.1:{free_port()}:a/", "Connection refused"),
        ("nobody.invalid:a/", "connect to nobody.invalid, port 22: "),
    ):
        with pytest.raises(Unavailable, match=told):
            open_bucket("sftp", address, escaped()).get("a")


def test_a_server_that_comes_back_is_found() -> None:
    server = SftpServer().start()
    bucket = open_bucket("sftp", server.address("a/"), escaped())
    bucket.put("k", b"1")
    server.stop()
    with pytest.raises(Unavailable):
        bucket.get("k")
    server.start()
    assert bucket.get("k") == b"1"
    bucket.close()
    server.close()


def test_a_server_that_may_only_be_read_refuses() -> None:
    server = SftpServer("--read-only")
    (server.root / "a").mkdir()
    (server.root / "a" / "k").write_bytes(b"1")
    server.start()
    bucket = open_bucket("sftp", server.address("a/"), escaped())
    assert bucket.get("k") == b"1"
    with pytest.raises(StoreError, match=r"write object .*a/k2"):
        bucket.put("k2", b"2")
    with pytest.raises(StoreError, match=r"delete object .*a/k"):
        bucket.delete("k")
    bucket.close()
    server.close()


# folders


def test_folders(bucket: SftpBucket) -> None:
    with pytest.raises(NotFound):
        bucket.head("")
    assert bucket.list().objects == [] and list(bucket.list_all("x/y")) == []
    bucket.put("testing/", b"")
    assert bucket.head("").is_dir
    assert bucket.head("testing/") == bucket.head("testing") and bucket.head("testing").is_dir
    assert bucket.get("testing/") == b""
    bucket.put("testing/a", b"1")
    with pytest.raises(StoreError, match=r"delete object .*testing/"):
        bucket.delete("testing/")
    bucket.delete("testing/a")
    bucket.delete("testing/")
    bucket.delete("testing/")
    with pytest.raises(NotFound):
        bucket.get("testing/")


def test_only_a_folder_can_be_folded(bucket: SftpBucket) -> None:
    with pytest.raises(BadBucket, match="delimiter"):
        bucket.list(delimiter="-")


# connections


def test_threads_share_a_bounded_number_of_connections(opened: Callable[..., SftpBucket], line: Proxy) -> None:
    bucket = opened(connections=3)
    bucket.put("a", b"1")
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(5):
                assert bucket.get("a") == b"1"
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and 1 < line.connections <= 3
    bucket.close()
    wait_until(lambda: not line.pairs, "the end of all connections")


def test_who_finds_all_connections_busy_waits_for_a_time(opened: Callable[..., SftpBucket]) -> None:
    bucket = opened(connections=1, timeout_s=0.2)
    bucket.put("a", b"1")
    with bucket._pool.one("hold it"), pytest.raises(Timeout, match=r"all 1 connections were busy for 0.2 s"):
        bucket.get("a")
    assert bucket.get("a") == b"1"
