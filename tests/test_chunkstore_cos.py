"""What is peculiar to buckets of Tencent COS: addresses, keys, and how the service tells of failures."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cos_server import REGION, CosServer

from chunkstore.bucket import Access, Bucket, Multipart
from chunkstore.buckets import open_bucket
from chunkstore.errors import BadBucket, Denied, NotFound, StoreError, Unavailable

ANYBODY = Access(access_key="k", secret_key="s")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COS_SECRETID", "COS_SECRETKEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[CosServer]:
    made = CosServer()
    yield made
    made.close()


def ready(server: CosServer, address: str = "", **changes: object) -> Bucket:
    bucket = server.open(address=address, **changes)  # type: ignore[arg-type]
    bucket.create()
    server.requests.clear()
    return bucket


@pytest.mark.parametrize(
    ("address", "described"),
    [
        ("b-1250000000.cos.ap-beijing.myqcloud.com", "cos://b-1250000000.cos.ap-beijing.myqcloud.com/"),
        ("https://b-125.cos.ap-beijing.myqcloud.com/", "cos://b-125.cos.ap-beijing.myqcloud.com/"),
        ("http://b-125.cos.accelerate.myqcloud.com", "cos://b-125.cos.accelerate.myqcloud.com/"),
        ("http://storage.example.com:8080?disable-checksum=true", "cos://storage.example.com:8080/"),
    ],
)
def test_a_bucket_is_a_host(address: str, described: str) -> None:
    """And nothing is asked of it yet: none of these can be reached."""
    bucket = open_bucket("cos", address, ANYBODY)
    assert bucket.describe() == described
    bucket.close()


@pytest.mark.parametrize("address", ["ftp://b-1.cos.x.myqcloud.com", "https://", "http://b-1.cos.x:port", ""])
def test_what_is_no_address_says_what_is(address: str) -> None:
    with pytest.raises(BadBucket, match="invalid bucket address"):
        open_bucket("cos", address, ANYBODY)


def test_keys_in_an_address_are_refused_and_not_shown() -> None:
    with pytest.raises(BadBucket, match="give --access-key and --secret-key") as caught:
        open_bucket("cos", "https://AKID:hidden@b-1.cos.x.myqcloud.com", ANYBODY)
    assert "hidden" not in str(caught.value)


def test_keys_of_the_environment(server: CosServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Denied, match=r"no access key was given; give .* or set COS_SECRETID and COS_SECRETKEY"):
        server.open(access_key="", secret_key="")
    server.keys = {"env-id": "env-key"}
    monkeypatch.setenv("COS_SECRETID", "env-id")
    monkeypatch.setenv("COS_SECRETKEY", "env-key")
    bucket = ready(server, access_key="", secret_key="")
    bucket.put("k", b"x")
    assert bucket.get("k") == b"x"


def test_keys_with_a_space_are_refused(server: CosServer) -> None:
    with pytest.raises(Denied, match="cannot contain spaces") as caught:
        server.open(secret_key="s3cret ")
    assert "s3cret" not in str(caught.value)


def test_a_bare_name_is_found_among_the_buckets_of_the_account(server: CosServer) -> None:
    for name in ("aaa-1", "target-2", "zzz-3"):
        server.open(name).create()
    server.requests.clear()
    bucket = server.open(address="http://target-2")
    assert [each.host for each in server.requests] == ["service.cos.myqcloud.com"] * 2, "one page for each bucket"
    assert bucket.describe() == f"cos://target-2.cos.{REGION}.myqcloud.com/"
    with server.proxied():
        bucket.put("k", b"x")
    assert server.buckets["target-2"]["k"].data == b"x"
    with pytest.raises(BadBucket, match="this account has no bucket nothing-4; write its whole address"):
        server.open(address="http://nothing-4")
    with pytest.raises(Denied, match="find bucket target-2: the secret key is wrong"):
        server.open(address="http://target-2", secret_key="wrong")


def test_a_port_is_signed_with_its_host(server: CosServer) -> None:
    bucket = ready(server, "http://b-1.storage.example.com:8080")
    bucket.put("k", b"x")
    assert bucket.get("k") == b"x" and server.requests[-1].host == "b-1.storage.example.com:8080"


def test_the_first_version_of_listings_is_used(server: CosServer) -> None:
    ready(server).list("p/", "p/after")
    assert server.requests[0].query == {
        "prefix": "p/", "marker": "p/after", "delimiter": "", "max-keys": "1000", "encoding-type": "url",
    }  # fmt: skip


def test_a_failure_within_a_success_is_one(server: CosServer) -> None:
    """Copies and uploads in parts are answered before they are done."""
    bucket = ready(server)
    assert isinstance(bucket, Multipart)
    bucket.put("k", b"x")
    upload = bucket.start_upload("big")
    part = bucket.upload_part("big", upload, 1, b"x")
    for call in (lambda: bucket.copy("other", "k"), lambda: bucket.complete_upload("big", upload, [part])):
        server.faults.refuse = [(200, "InternalError")]
        with pytest.raises(Unavailable, match="InternalError") as caught:
            call()
        assert not caught.value.final


def test_a_refusal_is_read_even_if_elements_are_missing(server: CosServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a service that only speaks the language."""
    bucket = ready(server)
    monkeypatch.setattr(server, "refusal", lambda error, request: f"<Error><Code>{error.code}</Code></Error>".encode())
    with pytest.raises(NotFound, match="NoSuchKey"):
        bucket.get("k")
    monkeypatch.setattr(server, "refusal", lambda error, request: b"<html>Bad Gateway")
    server.faults.refuse = [(502, "")]
    with pytest.raises(Unavailable, match="status 502"):
        bucket.get("k")


@pytest.mark.parametrize("code", ["RequestIsExpired", "InvalidObjectState", "UserNetworkTooSlow"])
def test_refusals_that_only_this_service_knows(server: CosServer, code: str) -> None:
    wanted = {
        "RequestIsExpired": "the clock of this machine is wrong",
        "InvalidObjectState": "it lies in an archive, and has to be restored first",
        "UserNetworkTooSlow": "UserNetworkTooSlow",
    }
    bucket = ready(server)
    server.faults.refuse = [(400 if "Network" in code else 403, code)]
    with pytest.raises(StoreError, match=wanted[code]) as caught:
        bucket.get("k")
    assert caught.value.final is (code != "UserNetworkTooSlow")
