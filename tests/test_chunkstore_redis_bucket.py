"""The Redis bucket: URLs, logins, what lies in the keys, clusters and sentinels, and servers that fail."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest
from proxy import Proxy
from redis_server import Cluster, RedisServer, Sentinel, TlsServer, free_port, replica_of, shared, wait_until

from chunkstore.bucket import Access, Bucket
from chunkstore.buckets import open_bucket
from chunkstore.buckets.redis_address import RedisAddress, parse_address
from chunkstore.errors import BadBucket, Denied, NoSpace, NotFound, StoreError, Timeout, Unavailable

BLOCK = os.urandom(4 << 20)


@pytest.fixture
def line() -> Iterator[Proxy]:
    proxy = Proxy(shared().port)
    yield proxy
    proxy.close()


@pytest.fixture
def bucket(line: Proxy) -> Iterator[Bucket]:
    """One behind `line`, in a new database."""
    made = open_bucket("redis", shared().url(port=line.port), Access(timeout_s=0.5))
    yield made
    made.close()


# addresses

ONE = (("host", 6379),)


@pytest.mark.parametrize(
    ("url", "address", "user", "password"),
    [
        ("redis://host", RedisAddress(ONE), "", ""),
        ("redis://host/", RedisAddress(ONE), "", ""),
        ("redis://:p%2Fw%40@host:7000/3", RedisAddress((("host", 7000),), db=3), "", "p/w@"),
        ("rediss://me:pw@host?db=2", RedisAddress(ONE, db=2, tls=True), "me", "pw"),
        ("rediss://host/1?skip_verify=true", RedisAddress(ONE, db=1, tls=True, verify=False), "", ""),
        ("redis://[::1]:7000/1?read_timeout=3s", RedisAddress((("::1", 7000),), db=1), "", ""),
        ("unix://me:pw@/run/redis.sock?db=4", RedisAddress(path="/run/redis.sock", db=4), "me", "pw"),
        ("redis://a:1,b:2,c/1", RedisAddress((("a", 1), ("b", 2), ("c", 6379)), db=1), "", ""),
        ("redis://a,b", RedisAddress((("a", 6379), ("b", 6379))), "", ""),
        ("redis://m,a:1/2", RedisAddress((("a", 1),), master="m", db=2), "", ""),
        ("redis://m,a,b:7/2", RedisAddress((("a", 7), ("b", 7)), master="m", db=2), "", ""),
    ],
)
def test_urls_mean_what_official_clients_take_them_for(
    url: str, address: RedisAddress, user: str, password: str
) -> None:
    assert parse_address(url) == (address, user, password)


@pytest.mark.parametrize(
    "url",
    ["", "host:6379", "http://host", "redis://", "redis://:hidden@host/x", "redis://:hid/den@host", "redis://a:b"],
)
def test_urls_that_are_none_are_refused_without_showing_them(url: str) -> None:
    with pytest.raises(BadBucket, match=r"write for example redis://HOST:6379/1") as caught:
        open_bucket("redis", url)
    assert "hid" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://me:hidden@host", "redis://host:6379/0/"),
        ("rediss://:hidden@a:1,b:2/", "rediss://a:1,b:2/0/"),
        ("redis://m,a:1/2", "redis://m,a:1/2/"),
        ("unix:///s?db=1", "unix:///s?db=1/"),
    ],
)
def test_names_show_no_secrets(url: str, name: str) -> None:
    assert open_bucket("redis", url).describe() == name


# logging in


def test_access_keys_take_the_place_of_user_and_password() -> None:
    server = RedisServer(requirepass="default-pw").start()
    with server.client(password="default-pw") as client:
        client.execute_command("ACL", "SETUSER", "me", "on", ">my/pw", "~vol/*", "+@all")
        client.execute_command("ACL", "SETUSER", "narrow", "on", ">pw", "~*", "+get", "+set")
    place = f"127.0.0.1:{server.port}/0"
    for url, keys in (
        (f"redis://:default-pw@{place}", Access()),
        (f"redis://:wrong@{place}", Access(secret_key="default-pw")),
        (f"redis://me:my%2Fpw@{place}", Access()),
        (f"redis://you:wrong@{place}", Access(access_key="me", secret_key="my/pw")),
    ):
        bucket = open_bucket("redis", url, keys)
        bucket.put("vol/a", b"1")
        assert [each.key for each in bucket.list_all("vol/")] == ["vol/a"]
        bucket.close()
    for url, keys in (
        (f"redis://{place}", Access()),
        (f"redis://:hidden@{place}", Access()),
        (f"redis://{place}", Access(access_key="me", secret_key="hidden")),
    ):
        bucket = open_bucket("redis", url, keys)
        with pytest.raises(Denied, match="read object redis://") as caught:
            bucket.get("vol/a")
        assert "hidden" not in str(caught.value)
        bucket.close()
    narrow = open_bucket("redis", f"redis://narrow:pw@{place}")  # who may not even ask whether it is a cluster
    narrow.put("k", b"1")
    assert narrow.get("k") == b"1"
    narrow.close()
    bucket = open_bucket("redis", f"redis://me:my%2Fpw@{place}")
    with pytest.raises(Denied, match=r"write object .*other/a"):
        bucket.put("other/a", b"1")
    bucket.close()
    server.close()


def test_tls_servers_have_to_be_trusted_unless_the_url_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    server = TlsServer().start()
    url = server.url(0)
    for address in (f"{url}?skip_verify=true", url):
        if address == url:
            monkeypatch.setenv("SSL_CERT_FILE", str(server.ca))
        bucket = open_bucket("redis", address)
        bucket.put("a", b"1")
        assert bucket.get("a") == b"1"
        bucket.close()
    monkeypatch.delenv("SSL_CERT_FILE")
    bucket = open_bucket("redis", url)
    with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
        bucket.get("a")
    bucket.close()
    server.close()


# what lies in the keys


def test_values_are_the_objects() -> None:
    url = shared().url()
    database = int(url.rpartition("/")[2])
    bucket = open_bucket("redis", url)
    bucket.put("vol/chunks/0/0/1_0_4194304", BLOCK)
    with shared().client(database) as client:
        assert client.keys() == [b"vol/chunks/0/0/1_0_4194304"]
        assert client.get("vol/chunks/0/0/1_0_4194304") == BLOCK
        assert client.ttl("vol/chunks/0/0/1_0_4194304") == -1
        client.set("vol/theirs", b"\x00\xff")
    assert bucket.get("vol/theirs") == b"\x00\xff"
    assert abs(bucket.head("vol/theirs").mtime - time.time()) < 60
    bucket.close()


def test_empty_objects_are_there(bucket: Bucket) -> None:
    bucket.put("a", b"")
    assert bucket.get("a") == bucket.get("a", 0, 5) == bucket.get("a", 3) == b""
    assert [each.key for each in bucket.list_all()] == ["a"]
    assert bucket.get_into("a", 0, memoryview(bytearray(0))) == 0
    with pytest.raises(NotFound):
        bucket.get_into("b", 0, memoryview(bytearray(0)))


@pytest.mark.parametrize("prefix", ["a*", "a?", "a[bc]", "a\\", "^", "[^a]-", "ä"])
def test_prefixes_are_no_patterns(bucket: Bucket, prefix: str) -> None:
    for key in (prefix, prefix + "x", "abc", "ab", "a", "b-", "xx"):
        bucket.put(key, b"1")
    expected = sorted({prefix, prefix + "x"})
    assert [each.key for each in bucket.list_all(prefix)] == expected


def test_keys_that_are_no_objects_are_left_out(bucket: Bucket) -> None:
    """Metadata may lie in the same database."""
    bucket.put("a", b"1")
    database = int(bucket.describe().rstrip("/").rpartition("/")[2])
    with shared().client(database) as client:
        client.hset("d1", "name", b"x")
        client.rpush("c1_0", b"x")
    assert [each.key for each in bucket.list_all()] == ["a"]
    with pytest.raises(NotFound):
        bucket.head("d1")
    with pytest.raises(StoreError, match=r"read object .*d1: WRONGTYPE") as caught:
        bucket.get("d1")
    assert caught.value.final


def test_many_are_listed_and_deleted(bucket: Bucket) -> None:
    names = sorted(f"v/{number}" for number in range(2500))
    for name in names:
        bucket.put(name, b"x")
    assert [each.key for each in bucket.list_all()] == names
    assert [each.key for each in bucket.list("v/", names[1199], 5).objects] == names[1200:1205]
    assert bucket.delete_many(iter(names)) == {}
    assert list(bucket.list_all()) == []


# several servers


def test_clusters_are_found_out_and_used_as_one_bucket() -> None:
    cluster = Cluster()
    names = [f"vol/{number}" for number in range(60)]
    whole = open_bucket("redis", cluster.url(0))
    for name in names:
        whole.put(name, name.encode())
    assert {cluster.owner(name).port for name in names} == {node.port for node in cluster.masters}
    one_node = open_bucket("redis", cluster.url(0, nodes=1))
    for bucket in (whole, one_node):
        assert [each.key for each in bucket.list_all("vol/")] == sorted(names)
        assert all(bucket.get(name, 1, 4) == name.encode()[1:5] for name in names)
        bucket.copy("copy", names[0])
        assert bucket.get("copy") == names[0].encode()
        assert bucket.delete_many(["copy", "never/was", *names[:10]]) == {}
        del names[:10]
    owner = cluster.owner(names[0])
    owner.kill()
    with pytest.raises(Unavailable, match="read object"):
        whole.get(names[0])
    owner.start()
    wait_until(lambda: _got(whole, names[0]) == names[0].encode(), "the cluster works again")
    whole.close()
    one_node.close()
    cluster.close()


def test_sentinels_name_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    master = RedisServer().start()
    replica = replica_of(master)
    sentinel = Sentinel(master, password="sentinel-pw").start()
    bucket = open_bucket("redis", sentinel.url(1), Access(timeout_s=2.0))
    with pytest.raises(StoreError, match="write object redis://mymaster,"):
        bucket.put("a", b"1")
    bucket.close()
    monkeypatch.setenv("SENTINEL_PASSWORD_FOR_OBJ", "sentinel-pw")
    bucket = open_bucket("redis", sentinel.url(1), Access(timeout_s=2.0))
    bucket.put("a", b"1")
    assert master.ask("GET", "a", database=1) == b"1"
    wait_until(lambda: replica.ask("GET", "a", database=1) == b"1", "replication")
    bucket.close()
    for each in (sentinel, replica, master):
        each.close()


def _got(bucket: Bucket, key: str) -> bytes | None:
    try:
        return bucket.get(key)
    except Unavailable:
        return None


# lines and servers that fail


def test_a_lost_connection_is_an_error_of_one_call(bucket: Bucket, line: Proxy) -> None:
    bucket.put("a", b"old")
    bucket.put("b", BLOCK)
    for way, after in (("up", 1000), ("up", 3_000_000)):
        line.arm(way, after)  # type: ignore[arg-type]
        with pytest.raises(Unavailable, match=r"write object .*/a"):
            bucket.put("a", BLOCK)
        assert line.arm() == 1
        assert bucket.get("a") == b"old"
    for after in (10, 3_000_000):
        line.arm("down", after)
        with pytest.raises(Unavailable, match=r"read object .*/b"):
            bucket.get("b")
        assert line.arm() == 1
        assert bucket.get("b") == BLOCK
    line.cut()
    time.sleep(0.1)  # until that is known here
    assert bucket.get("a") == b"old"


def test_a_server_that_says_nothing_more_is_a_timeout(bucket: Bucket, line: Proxy) -> None:
    bucket.put("a", b"1")
    calls: list[Callable[[], object]] = [
        lambda: bucket.get("a"), lambda: bucket.put("b", BLOCK), lambda: list(bucket.list_all()),
        lambda: bucket.delete("a"),
    ]  # fmt: skip
    for call in calls:
        line.black_hole = True
        began = time.monotonic()
        with pytest.raises(Timeout):
            call()
        assert 0.4 < time.monotonic() - began < 3
        line.black_hole = False
        assert bucket.get("a") == b"1"
    line.black_hole = True
    failed = bucket.delete_many(["a", "b"])
    assert list(failed) == ["a", "b"] and all(isinstance(each, Timeout) for each in failed.values())


def test_nobody_there() -> None:
    for url, told in (
        (f"redis://127.0.0.1:{free_port()}/1", "refused"),
        ("redis://nobody.invalid/1", "nobody.invalid"),
        (f"redis://127.0.0.1:{free_port()},127.0.0.1:{free_port()}/0", "read object"),
        (f"redis://mymaster,127.0.0.1:{free_port()}/0", "read object"),
    ):
        bucket = open_bucket("redis", url)
        with pytest.raises(Unavailable, match=told) as caught:
            bucket.get("a")
        assert "\n" not in str(caught.value)
        bucket.close()


def test_a_full_memory_is_no_space() -> None:
    server = RedisServer(maxmemory="16mb", maxmemory_policy="noeviction").start()
    bucket = open_bucket("redis", f"redis://127.0.0.1:{server.port}/0")
    with pytest.raises(NoSpace, match="write object"):
        for number in range(6):
            bucket.put(f"v/{number}", BLOCK)
    for each in list(bucket.list_all()):
        bucket.delete(each.key)
    bucket.put("v/x", b"fits")
    assert bucket.get("v/x") == b"fits"
    bucket.close()
    server.close()


def test_a_server_that_comes_back_is_found() -> None:
    server = RedisServer().start()
    bucket = open_bucket("redis", f"redis://127.0.0.1:{server.port}/0")
    bucket.put("a", b"1")
    server.stop()
    with pytest.raises(Unavailable):
        bucket.get("a")
    server.start()
    assert bucket.get("a") == b"1"
    bucket.close()
    server.close()
