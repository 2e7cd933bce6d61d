"""What is peculiar to buckets of Alibaba OSS: endpoints and versions of signatures, the role of a machine, TLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from object_server import ACCESS_KEY, SECRET_KEY
from oss_server import METADATA, REGION, OssServer
from redis_server import make_certificates

from chunkstore.bucket import Access, Bucket, Tier
from chunkstore.buckets import open_bucket
from chunkstore.buckets.oss import region_of
from chunkstore.errors import BadBucket, Denied, NotFound, Unavailable

pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")  # of oss2, version 4

ANYBODY = Access(access_key="k", secret_key="s")
VARIABLES = (
    "ALICLOUD_ACCESS_KEY_ID", "ALICLOUD_ACCESS_KEY_SECRET", "SECURITY_TOKEN", "ALICLOUD_REGION_ID",
    "ALIBABA_CLOUD_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_SECRET", "ALIBABA_CLOUD_SECURITY_TOKEN",
    "ALIBABA_CLOUD_ECS_METADATA",
)  # fmt: skip


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[OssServer]:
    made = OssServer()
    yield made
    made.close()


def ready(server: OssServer, address: str = "", **changes: object) -> Bucket:
    bucket = server.open(address=address, **changes)  # type: ignore[arg-type]
    bucket.create()
    server.requests.clear()
    return bucket


def signatures(server: OssServer) -> set[str]:
    return {each.headers["authorization"].partition(" ")[0] for each in server.requests}


# endpoints


@pytest.mark.parametrize(
    ("endpoint", "region"),
    [
        ("oss-cn-hangzhou.aliyuncs.com", "cn-hangzhou"),
        ("oss-cn-hangzhou-internal.aliyuncs.com", "cn-hangzhou"),
        ("oss-us-west-1-vpc.aliyuncs.com", "us-west-1"),
        ("ep-bp1.oss.cn-beijing.privatelink.aliyuncs.com", "cn-beijing"),
        ("oss-cn-hangzhou.aliyuncs.com:443", "cn-hangzhou"),
        ("oss-accelerate.aliyuncs.com", ""),
        ("vpc100-oss-cn-hangzhou.aliyuncs.com", ""),
        ("oss-cn-hangzhou.aliyuncs.com.example.com", ""),
        ("storage.example.com", ""),
        ("127.0.0.1:9000", ""),
    ],
)
def test_hosts_of_the_cloud_name_their_region(endpoint: str, region: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert region_of(endpoint) == region
    monkeypatch.setenv("ALICLOUD_REGION_ID", "cn-env")
    assert region_of(endpoint) == ("cn-env" if "accelerate" in endpoint else region)


@pytest.mark.parametrize(
    ("address", "described"),
    [
        ("bucket.oss-cn-hangzhou.aliyuncs.com", "oss://oss-cn-hangzhou.aliyuncs.com/bucket/"),
        (
            "https://bucket.oss-cn-hangzhou-internal.aliyuncs.com/",
            "oss://oss-cn-hangzhou-internal.aliyuncs.com/bucket/",
        ),
        ("http://bucket.storage.example.com:80", "oss://storage.example.com:80/bucket/"),
    ],
)
def test_an_address_is_a_bucket_and_an_endpoint(address: str, described: str) -> None:
    """And nothing is asked of it yet: none of these can be reached."""
    bucket = open_bucket("oss", address, ANYBODY)
    assert bucket.describe() == described
    bucket.close()


@pytest.mark.parametrize("address", ["ftp://b.oss-x.aliyuncs.com", "https://", "http://b.oss-x:port", "b.a_b/c d"])
def test_what_is_no_address_says_so(address: str) -> None:
    with pytest.raises(BadBucket, match="invalid"):
        open_bucket("oss", address, ANYBODY)


def test_the_signature_follows_the_host(server: OssServer) -> None:
    for address, wanted in (
        (f"http://b-1.oss-{REGION}.aliyuncs.com", "OSS4-HMAC-SHA256"),
        (f"http://b-2.oss-{REGION}-internal.aliyuncs.com", "OSS4-HMAC-SHA256"),
        (f"http://b-3.ep-x.oss.{REGION}.privatelink.aliyuncs.com", "OSS4-HMAC-SHA256"),
        ("http://b-4.storage.example.com", "OSS"),
        (server.address("b-5"), "OSS"),
    ):
        server.inner = True
        bucket = ready(server, address)
        bucket.put("a/k", b"x")
        assert bucket.get("a/k") == b"x"
        assert signatures(server) == {wanted}, address
    assert server.buckets["b-3"]["a/k"], "by its path"


def test_a_bucket_of_another_region_is_named(server: OssServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.buckets["far-1"] = {}
    server.homes["far-1"] = "cn-far"
    with pytest.raises(BadBucket, match=r"the bucket lives elsewhere; write https://far-1\.oss-cn-far\.aliyuncs\.com"):
        server.open("far-1", version=4).get("k")
    monkeypatch.setenv("ALICLOUD_REGION_ID", REGION)
    assert server.open(address="http://far-1").describe() == "oss://oss-cn-far.aliyuncs.com/far-1/"


@pytest.mark.parametrize("inner", [False, True])
def test_a_bare_name_is_found_and_reached_from_inside_if_possible(
    server: OssServer, inner: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.open("bare-1").create()
    server.inner = inner
    monkeypatch.setenv("ALICLOUD_REGION_ID", REGION)
    bucket = server.open(address="http://bare-1")
    assert bucket.describe() == f"oss://oss-{REGION}{'-internal' if inner else ''}.aliyuncs.com/bare-1/"
    bucket.put("k", b"x")
    assert bucket.get("k") == b"x"
    with pytest.raises(BadBucket, match="find bucket bare-2: there is no such bucket"):
        server.open(address="http://bare-2")


def test_create_asks_for_the_class(server: OssServer, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = ready(server, tiers={0: Tier("IA")})
    bucket.create()
    assert b"<StorageClass>IA</StorageClass>" in server.requests[0].body, "of one that is there already, as well"


def test_ranges_over_the_end_are_asked_for_as_others_understand_them(server: OssServer) -> None:
    """Otherwise the whole object comes."""
    bucket = ready(server)
    bucket.put("k", bytes(1000))
    assert len(bucket.get("k", 900, 200)) == 100
    assert server.requests[-1].headers["x-oss-range-behavior"] == "standard"


# keys


@pytest.mark.parametrize("family", ["ALICLOUD_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_ID"])
def test_keys_of_the_environment(server: OssServer, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server.keys, server.token = {"env-id": "env-key"}, "env-token"
    monkeypatch.setenv(family, "env-id")
    monkeypatch.setenv(family.replace("KEY_ID", "KEY_SECRET"), "env-key")
    monkeypatch.setenv("ALIBABA_CLOUD_SECURITY_TOKEN" if "ALIBABA" in family else "SECURITY_TOKEN", "env-token")
    bucket = ready(server, access_key="", secret_key="")
    bucket.put("k", b"x")
    assert bucket.get("k") == b"x"


@pytest.mark.parametrize("named", [False, True])
def test_the_role_of_the_machine(server: OssServer, named: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    server.keys, server.token = {"role-key": "role-secret"}, "role-token"
    server.roles["my-role"] = ("role-key", "role-secret", "role-token")
    if named:
        monkeypatch.setenv("ALIBABA_CLOUD_ECS_METADATA", "my-role")
    bucket = server.open(access_key="", secret_key="")
    assert not server.requests, "the role is asked for when it is needed"
    with server.proxied():
        bucket.create()
        bucket.put("k", b"x")
        assert bucket.get("k") == b"x"
    asked = [each.path for each in server.requests if each.host == "100.100.100.200"]
    assert asked == [METADATA + "my-role"] if named else [METADATA, METADATA + "my-role"]
    assert len(server.requests) == len(asked) + 3


def test_keys_of_a_role_are_fetched_again_before_they_expire(server: OssServer) -> None:
    server.keys, server.role_age_s, server.role_lasts_s = {"key-1": "secret-1"}, 3600, 60
    server.roles["role"] = ("key-1", "secret-1", "token")
    with server.proxied():
        bucket = ready(server, access_key="", secret_key="")
        bucket.put("k", b"x")
        server.keys = {"key-2": "secret-2"}
        server.roles["role"] = ("key-2", "secret-2", "token")
        assert bucket.get("k") == b"x"


def test_no_keys_at_all(server: OssServer) -> None:
    with server.proxied():
        bucket = server.open(access_key="", secret_key="")
        for call in (lambda: bucket.put("k", b"x"), lambda: bucket.get("k"), bucket.list):
            with pytest.raises(Denied, match="no access key was given, and this machine has no RAM role") as caught:
                call()
            assert "\n" not in str(caught.value) and bucket.describe() in str(caught.value)


# TLS


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    make_certificates(tmp_path)
    return tmp_path


@pytest.fixture
def tls_server(certificates: Path) -> Iterator[OssServer]:
    made = OssServer(certificates)
    yield made
    made.close()


def test_tls_is_verified_as_the_address_says(
    tls_server: OssServer, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = Access(access_key=ACCESS_KEY, secret_key=SECRET_KEY, timeout_s=5.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    address = f"https://b-1.127.0.0.1:{tls_server.port}"

    def use(query: str) -> None:
        bucket = open_bucket("oss", address + query, access)
        try:
            bucket.create()
            bucket.put("k", b"x")
            assert bucket.get("k") == b"x"
        finally:
            bucket.close()

    with pytest.raises(Unavailable, match="certificate verify failed"):
        use("")
    use(f"?ca-certs={certificates}/ca.crt")
    use("?tls-insecure-skip-verify=true")
    use(f"?ca-certs={certificates}/ca.crt&ssl-cert={certificates}/server.crt&ssl-key={certificates}/server.key")
    with pytest.raises(BadBucket, match="ssl-cert in the bucket's address: there is no file"):
        use(f"?ca-certs={certificates}/ca.crt&ssl-cert={certificates}/nothing.crt")
    monkeypatch.setenv("SSL_CERT_FILE", f"{certificates}/ca.crt")
    use("")
    assert {each.headers.get("content-md5") for each in tls_server.requests} == {None}, "TLS proves that already"


@pytest.mark.parametrize("code", ["InvalidSecurityToken", "SecurityTokenExpired"])
def test_refusals_that_only_this_service_knows(server: OssServer, code: str) -> None:
    bucket = ready(server)
    server.faults.refuse = [(403, code)]
    with pytest.raises(Denied, match="session token"):
        bucket.get("k")
    with pytest.raises(NotFound):
        bucket.get("k")
