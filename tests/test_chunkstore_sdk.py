"""What buckets of COS and OSS promise alike, each against a server that checks signatures (the suite of all buckets is
`test_chunkstore_buckets`; what is peculiar to one of them, `test_chunkstore_cos` and `test_chunkstore_oss`).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from cos_server import CosServer
from object_http import Faults
from object_server import SECRET_KEY, ObjectServer
from oss_server import OssServer

from chunkstore.bucket import Bucket, Multipart, ObjectInfo, Tier
from chunkstore.buckets import sdk
from chunkstore.checksum import crc
from chunkstore.errors import (
    BadBucket,
    ChecksumMismatch,
    Denied,
    NotFound,
    StoreError,
    Throttled,
    Timeout,
    Unavailable,
)

pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")  # of oss2, version 4

UNIT = 32 << 10
KEY = "vol/chunks/0/0/1_0_100000"


class Service(NamedTuple):
    """A server, and how to open a bucket of it."""

    server: ObjectServer
    open: Callable[..., Bucket]
    rare: str  # a storage class
    archive: str  # another one

    def ready(self, **changes: object) -> Bucket:
        """A bucket that is there; nothing has been asked of the server since."""
        bucket = self.open(**{"sum_unit": UNIT, "timeout_s": 5.0, **changes})
        bucket.create()
        self.server.requests.clear()
        return bucket

    def header(self, key: str, name: str) -> str | None:
        return self.server.object(key).headers.get(f"{self.server.prefix}{name}")


@pytest.fixture(params=["cos", "oss", "oss by version 4"])
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    server: CosServer | OssServer
    if request.param == "cos":
        server = CosServer()
        made = Service(server, server.open, "STANDARD_IA", "ARCHIVE")
    else:
        server = OssServer()
        version = 4 if "4" in request.param else 1
        opened = server.open
        made = Service(server, lambda **changes: opened(version=version, **changes), "IA", "Archive")
    yield made
    server.close()


def get_into(bucket: Bucket, key: str, offset: int, size: int) -> bytes:
    buffer = bytearray(size)
    return bytes(buffer[: bucket.get_into(key, offset, memoryview(buffer))])


def fails(kind: type[StoreError], call: Callable[..., object], *args: object) -> str:
    """The line of the error that a call ends with, which is of that very kind."""
    with pytest.raises(StoreError) as caught:
        call(*args)
    assert type(caught.value) is kind, caught.value
    text = str(caught.value)
    assert "\n" not in text and SECRET_KEY not in text and "q-sign" not in text and "0x" not in text, text
    return text


# sums


def test_sums_are_written_and_prove_whole_objects_and_parts(service: Service) -> None:
    bucket, data = service.ready(), os.urandom(3 * UNIT + 100)
    bucket.put(KEY, data)
    assert service.header(KEY, "meta-crc32c") == str(crc()(data))
    assert (service.header(KEY, "meta-crc32c-parts") or "").startswith(f"{UNIT}-")
    assert bucket.get(KEY) == get_into(bucket, KEY, 0, len(data)) == data
    assert get_into(bucket, KEY, UNIT + 5, 100) == data[UNIT + 5 : UNIT + 105]
    service.server.damage(KEY, UNIT + 50)
    for read in (lambda: bucket.get(KEY), lambda: get_into(bucket, KEY, UNIT + 5, 100)):
        assert f"{KEY} is damaged: its content does not match its checksum" in fails(ChecksumMismatch, read)
    assert get_into(bucket, KEY, 2 * UNIT + 5, 100) == data[2 * UNIT + 5 : 2 * UNIT + 105], "another part is sound"


def test_an_official_sum_proves_the_whole_and_an_object_without_sums_passes(service: Service) -> None:
    bucket, data = service.ready(), os.urandom(2 * UNIT)
    bucket.put(KEY, data)
    headers = service.server.object(KEY).headers
    del headers[f"{service.server.prefix}meta-crc32c-parts"]
    service.server.damage(KEY, 50)
    assert len(get_into(bucket, KEY, 5, 100)) == 100, "nobody can prove a part"
    fails(ChecksumMismatch, bucket.get, KEY)
    del headers[f"{service.server.prefix}meta-crc32c"]
    assert bucket.get(KEY)[51:] == data[51:]


def test_the_switch_for_checksums_of_the_sdk_leaves_ours_on(service: Service) -> None:
    name = service.server.new_name()
    address = service.server.address(name) + "?disable-checksum=true"  # type: ignore[attr-defined]
    bucket = service.ready(address=address)
    bucket.put(KEY, b"data")
    assert service.header(KEY, "meta-crc32c") == str(crc()(b"data"))
    assert "content-md5" not in service.server.requests[0].headers
    service.server.damage(KEY, 1)
    fails(ChecksumMismatch, bucket.get, KEY)


def test_bytes_that_change_on_the_way_up_are_refused(service: Service) -> None:
    """Over http, where no TLS does that."""
    bucket = service.ready()
    service.server.faults.flip_up = True
    assert "its bytes were changed on their way" in fails(Unavailable, bucket.put, KEY, os.urandom(1000))
    fails(NotFound, bucket.head, KEY)


# ranges and bodies


@pytest.mark.parametrize("whole", [False, True])
def test_a_service_may_give_more_than_was_asked_for(service: Service, whole: bool) -> None:
    bucket, data = service.ready(), os.urandom(2 * UNIT + 10)
    bucket.put(KEY, data)
    service.server.faults.whole = whole
    assert bucket.get(KEY, 10, 20) == get_into(bucket, KEY, 10, 20) == data[10:30]
    assert bucket.get(KEY, UNIT) == data[UNIT:]
    assert get_into(bucket, KEY, 2 * UNIT, 100) == data[2 * UNIT :], "over the end"
    assert bucket.get(KEY, len(data) + 7) == get_into(bucket, KEY, 3 * UNIT, 5) == b""


def test_empty_objects(service: Service) -> None:
    bucket = service.ready()
    bucket.put("empty", b"")
    assert bucket.get("empty") == get_into(bucket, "empty", 0, 10) == b"" and bucket.head("empty").size == 0


def test_a_connection_that_ends_in_the_middle_never_makes_short_data(service: Service) -> None:
    bucket, data = service.ready(), os.urandom(3 * UNIT)
    bucket.put(KEY, data)
    service.server.requests.clear()
    service.server.faults.cut = UNIT + 1
    for read in (lambda: bucket.get(KEY), lambda: get_into(bucket, KEY, 0, len(data)), lambda: bucket.get(KEY, 5)):
        assert KEY in fails(Unavailable, read)
    assert len(service.server.requests) == 3
    service.server.faults.cut = None
    assert bucket.get(KEY) == data


def test_a_body_may_take_longer_than_the_timeout(service: Service) -> None:
    """The limit is for each piece of it: a block over a slow line is no failure."""
    data = os.urandom(12 << 20)
    bucket = service.ready(connect_timeout_s=0.3)
    bucket.close()  # a new connection sends within the time limit of connecting
    service.server.faults.slow_read_s = 0.08
    bucket.put(KEY, memoryview(data))
    assert service.server.object(KEY).data == data


# classes and tags


def test_class_and_tag_of_a_tier_arrive(service: Service) -> None:
    bucket = service.ready(tiers={0: Tier(service.rare, "owner=team a"), 1: Tier(service.archive), 2: Tier()})
    for tier, storage_class, tag in (
        (0, service.rare, "owner=team+a"), (1, service.archive, None), (2, None, None),
        (9, service.rare, "owner=team+a"),
    ):  # fmt: skip
        bucket.put(f"put-{tier}", b"x", tier)
        assert isinstance(bucket, Multipart)
        upload = bucket.start_upload(f"parts-{tier}", tier)
        bucket.complete_upload(f"parts-{tier}", upload, [bucket.upload_part(f"parts-{tier}", upload, 1, b"x")])
        bucket.put("origin", b"x", 1)
        bucket.copy(f"copy-{tier}", "origin", tier)
        for kind in ("put", "parts", "copy"):
            assert service.header(f"{kind}-{tier}", "storage-class") == storage_class, (kind, tier)
            assert service.header(f"{kind}-{tier}", "tagging") == tag, (kind, tier)


def test_a_copy_keeps_the_sums(service: Service) -> None:
    bucket, data = service.ready(tiers={1: Tier(service.archive, "a=b")}), os.urandom(1000)
    bucket.put(KEY, data)
    bucket.copy(KEY, KEY, 1)
    assert service.header(KEY, "meta-crc32c") == str(crc()(data)) and service.header(KEY, "tagging") == "a=b"
    assert bucket.get(KEY) == data


def test_an_unknown_class_says_so(service: Service) -> None:
    bucket = service.ready(tiers={0: Tier("GLACIER")})
    assert "no such storage class; check --storage-class" in fails(BadBucket, bucket.put, KEY, b"x")


# who may


def test_wrong_keys_say_which(service: Service) -> None:
    service.ready()
    wrong = service.open(secret_key="another-secret")
    text = fails(Denied, wrong.put, KEY, b"x")
    assert "the secret key is wrong; check --secret-key (SignatureDoesNotMatch)" in text and "another" not in text
    unknown = service.open(access_key="nobody")
    assert "does not know this access key; check --access-key" in fails(Denied, unknown.list)
    assert "access is denied" in fails(Denied, unknown.head, KEY), "an answer to HEAD has no body"
    assert len(service.server.requests) == 3


def test_a_session_token_goes_along(service: Service) -> None:
    service.server.token = "token-1234"
    bucket = service.ready(token="token-1234")
    bucket.put(KEY, b"x")
    assert bucket.get(KEY) == b"x" and [each.key for each in bucket.list_all()] == [KEY]
    for token in ("", "token-wrong"):
        text = fails(Denied, service.open(token=token).put, KEY, b"x")
        assert "the session token is wrong; check --session-token" in text and "token-1234" not in text


@pytest.mark.parametrize("ahead_s", [-3600, 5 * 3600])
def test_a_clock_that_is_wrong_is_called_so(service: Service, ahead_s: float) -> None:
    bucket = service.ready()
    service.server.clock_ahead_s = ahead_s
    assert "the clock of this machine is wrong" in fails(Denied, bucket.put, KEY, b"x")


def test_who_may_only_read(service: Service) -> None:
    bucket = service.ready()
    bucket.put(KEY, b"x")
    service.server.read_only = True
    for call in (lambda: bucket.put(KEY, b"y"), lambda: bucket.delete(KEY), lambda: bucket.copy("other", KEY)):
        assert "access is denied; check the permissions" in fails(Denied, call)
    assert {type(error) for error in bucket.delete_many(["a", "b", "c"]).values()} == {Denied}
    assert bucket.get(KEY) == b"x"


def test_a_bucket_that_is_not_there(service: Service) -> None:
    bucket = service.open()
    for call in (lambda: bucket.put(KEY, b"x"), lambda: bucket.get(KEY), bucket.list, lambda: bucket.delete(KEY)):
        assert "there is no such bucket (NoSuchBucket)" in fails(BadBucket, call)
    bucket.create()
    bucket.create()
    bucket.put(KEY, b"x")


# failures on the way


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (503, "SlowDown", Throttled),
        (429, "TooManyRequests", Throttled),
        (500, "InternalError", Unavailable),
        (504, "GatewayTimeout", Timeout),
    ],
)
def test_one_call_is_one_attempt(service: Service, status: int, code: str, kind: type[StoreError]) -> None:
    bucket = service.ready()
    bucket.put(KEY, b"x")
    service.server.requests.clear()
    calls = (
        lambda: bucket.put(KEY, b"y"), lambda: bucket.get(KEY), lambda: bucket.head(KEY), lambda: bucket.delete(KEY),
        bucket.list, lambda: bucket.copy("other", KEY),
    )  # fmt: skip
    for number, call in enumerate(calls, 1):
        service.server.faults.refuse = [(status, code)]
        assert not kind.final
        fails(kind, call)
        assert len(service.server.requests) == number
    service.server.faults.refuse = [(status, code)]
    assert [type(each) for each in bucket.delete_many(["a", "b", "c"]).values()] == [kind] * 3
    assert len(service.server.requests) == len(calls) + 1
    assert bucket.get(KEY) == b"x"


def test_a_service_that_hangs_up_or_is_gone(service: Service) -> None:
    bucket = service.ready()
    service.server.faults.hang_up = True
    for call in (lambda: bucket.put(KEY, b"x"), lambda: bucket.get(KEY), bucket.list):
        assert "no sound answer from" in fails(Unavailable, call)
    assert len(service.server.requests) == 3
    service.server.close()
    assert ": Connection refused" in fails(Unavailable, bucket.put, KEY, b"x")


def test_a_service_that_does_not_answer(service: Service) -> None:
    bucket = service.ready(timeout_s=0.2)
    service.server.faults.stall_s = 1.0
    for call in (lambda: bucket.put(KEY, b"x"), lambda: bucket.get(KEY)):
        assert "did not answer in time" in fails(Timeout, call)
    assert len(service.server.requests) == 2


def test_a_redirect_is_no_success(service: Service) -> None:
    """Such as a portal sends, or a gateway."""
    bucket = service.ready()
    service.server.faults.redirect = "http://login.example.com/?back=1"
    for call in (lambda: bucket.put(KEY, b"x"), lambda: bucket.get(KEY), bucket.list, lambda: bucket.delete(KEY)):
        assert "it redirects to login.example.com (status 307)" in fails(Unavailable, call)
    service.server.faults.redirect = ""
    fails(NotFound, bucket.get, KEY)


def test_nothing_of_the_sdk_reaches_the_log(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    service.server.token = "token-1234"
    bucket = service.ready(token="token-1234", timeout_s=0.2)
    bucket.put(KEY, b"x")
    for faults in (Faults(refuse=[(500, "InternalError")]), Faults(stall_s=0.5), Faults(hang_up=True)):
        service.server.faults = faults
        with pytest.raises(StoreError):
            bucket.get(KEY)
    assert not [each for each in caplog.records if each.name.split(".")[0] in ("qcloud_cos", "oss2", "chunkstore")]
    assert SECRET_KEY not in caplog.text and "token-1234" not in caplog.text


# connections


def test_connections_are_used_again(service: Service) -> None:
    bucket = service.ready()
    assert isinstance(bucket, Multipart)
    service.server.connections = 1
    for number in range(3):
        bucket.put(f"k{number}", b"x" * 1000)
        bucket.get(f"k{number}")
        get_into(bucket, f"k{number}", 10, 20)
        bucket.head(f"k{number}")
        bucket.list()
        bucket.copy("other", f"k{number}")
        fails(NotFound, bucket.get, "nothing")
        fails(NotFound, bucket.head, "nothing")
        bucket.abort_upload("k", bucket.start_upload("k"))
        bucket.delete("other")
    bucket.delete_many(["k0", "k1", "k2"])
    assert service.server.connections == 1
    assert {each.headers["user-agent"].rpartition("/")[2] for each in service.server.requests} == {"JuiceFS-1.4.1"}
    assert {each.headers.get("accept-encoding") for each in service.server.requests} == {"identity"}


def test_a_proxy_does_not_slow_down_small_objects(service: Service) -> None:
    """A body that waits until its head is acknowledged takes 40 ms."""
    bucket = service.ready()

    def put() -> float:
        start = time.perf_counter()
        bucket.put(KEY, b"x")
        return time.perf_counter() - start

    assert min(put() for _ in range(10)) < 0.03


def test_no_password_file_changes_a_request(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("default login somebody password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    bucket = service.ready()
    bucket.put(KEY, b"x")
    assert bucket.get(KEY) == b"x"


def test_clients_of_one_process_keep_to_themselves(service: Service) -> None:
    """Each with its own keys and its own pool, from several threads."""
    service.server.keys = {f"key-{n}": f"secret-{n}" for n in range(4)}
    buckets = [service.ready(access_key=f"key-{n}", secret_key=f"secret-{n}", connections=n + 1) for n in range(4)]
    failures: list[BaseException] = []

    def work(number: int) -> None:
        bucket = buckets[number % 4]
        try:
            for turn in range(10):
                data = os.urandom(1000)
                bucket.put(f"{number}/{turn}", data)
                assert bucket.get(f"{number}/{turn}") == data
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    buckets[0].close()
    assert buckets[1].get("1/0")


def test_an_address_without_a_scheme_means_https(service: Service) -> None:
    name = service.server.new_name()
    address: str = service.server.address(name)  # type: ignore[attr-defined]
    bucket = service.open(address=address.removeprefix("http://"))
    assert "Tunnel connection failed: 501" in fails(Unavailable, bucket.put, KEY, b"x")
    assert not service.server.requests


# many objects, and large ones


def test_lists_of_many_pages_and_odd_names(service: Service) -> None:
    bucket = service.ready()
    bucket.put("~", b"123")
    objects = next(each for each in service.server.buckets.values() if each)
    odd = ["a b+c", "a&<b>'\"", "ä/ö", "100%25", "#?x=1", "dir/"]
    for name in [*odd, *(f"k/{number:05}" for number in range(2100))]:
        objects[name] = objects["~"]
    assert [each.key for each in bucket.list_all()] == sorted(objects, key=str.encode)
    pages = [each for each in service.server.requests if each.method == "GET"]
    assert len(pages) == 3 and {each.query["encoding-type"] for each in pages} == {"url"}
    assert bucket.list("d", delimiter="/").objects == [ObjectInfo("dir/", 0, 0.0, is_dir=True)]
    for name in odd:
        bucket.put(name, name.encode())
        bucket.copy("copied", name)
        assert bucket.get(name) == bucket.get("copied") == name.encode()
        assert bucket.head(name).size == len(name.encode())
    assert bucket.delete_many(odd) == {} and not set(odd) & set(objects)


def test_pages_of_directories(service: Service) -> None:
    """The next page begins behind all that is in a directory, not in it."""
    bucket = service.ready()
    for name in ("a/1", "a/2", "a/3", "b", "c/1", "c/2", "d"):
        bucket.put(name, b"x")
    seen: list[str] = []
    more = True
    while more:
        objects, more = bucket.list("", seen[-1] if seen else "", limit=1, delimiter="/")
        seen += [each.key for each in objects]
    assert seen == ["a/", "b", "c/", "d"]


def test_many_are_deleted_a_thousand_at_once(service: Service) -> None:
    bucket = service.ready()
    bucket.put("d/1", b"x")
    service.server.requests.clear()
    assert bucket.delete_many(f"d/{number}" for number in range(2002)) == {}
    assert [each.method for each in service.server.requests] == ["POST", "POST", "DELETE", "DELETE"]
    fails(NotFound, bucket.head, "d/1")


def test_what_is_not_deleted_is_told(service: Service) -> None:
    bucket = service.ready()
    for key in "abcd":
        bucket.put(key, b"x")
    service.server.locked = {"b", "c"}
    failed = bucket.delete_many("abcd")
    assert set(failed) == {"b", "c"} and all(f"delete object {bucket.describe()}" in str(e) for e in failed.values())
    assert [each.key for each in bucket.list_all()] == ["b", "c"]


def test_an_upload_in_parts(service: Service) -> None:
    bucket = service.ready()
    assert isinstance(bucket, Multipart)
    pieces = [os.urandom(bucket.min_part_size) for _ in range(2)] + [b"tail"]
    upload = bucket.start_upload(KEY)
    parts = [bucket.upload_part(KEY, upload, number, piece) for number, piece in enumerate(pieces, 1)]
    assert [part.size for part in parts] == [len(piece) for piece in pieces]
    fails(NotFound, bucket.head, KEY)
    bucket.complete_upload(KEY, upload, parts)
    assert bucket.get(KEY) == b"".join(pieces)
    second = bucket.start_upload(KEY)
    bucket.upload_part(KEY, second, 1, b"x")
    bucket.abort_upload(KEY, second)
    fails(NotFound, bucket.upload_part, KEY, second, 1, b"x")
    assert bucket.get(KEY) == b"".join(pieces)


def test_a_listing_that_does_not_go_on_is_an_error() -> None:
    with pytest.raises(Unavailable, match="promises more and gives none"):
        sdk.page([], more=True, after="k", what="list objects")
