"""Addresses of S3-like buckets, read as official clients read them."""

from __future__ import annotations

import pytest

from chunkstore.buckets.s3_address import S3Address, parse_labelled, parse_minio, parse_s3, without
from chunkstore.errors import BadBucket


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "MINIO_REGION", "JFS_S3_VHOST_STYLE"):
        monkeypatch.delenv(name, raising=False)


AWS = {"path_style": False}


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("mybucket", S3Address("mybucket", **AWS)),
        ("https://mybucket", S3Address("mybucket", **AWS)),
        ("http://mybucket", S3Address("mybucket", https=False, **AWS)),
        ("mybucket.s3.us-east-2.amazonaws.com", S3Address("mybucket", region="us-east-2", **AWS)),
        ("https://mybucket.s3-eu-west-1.amazonaws.com/", S3Address("mybucket", region="eu-west-1", **AWS)),
        ("https://mybucket.s3.amazonaws.com", S3Address("mybucket", region="us-east-1", **AWS)),
        ("https://mybucket.s3-external-1.amazonaws.com", S3Address("mybucket", region="us-east-1", **AWS)),
        ("https://my.dotted.s3.us-west-2.amazonaws.com", S3Address("my.dotted", region="us-west-2", **AWS)),
        ("https://b.s3.dualstack.us-west-2.amazonaws.com", S3Address("b", region="us-west-2", **AWS)),
        ("b.s3.cn-north-1.amazonaws.com.cn", S3Address("b", region="cn-north-1", https=False, **AWS)),
        ("https://s3.us-east-2.amazonaws.com/b/more", S3Address("b", region="us-east-2", **AWS)),
        (
            "https://b.vpce-0a1b-2c3d.s3.us-east-1.vpce.amazonaws.com",
            S3Address("b", "https://vpce-0a1b-2c3d.s3.us-east-1.vpce.amazonaws.com", "us-east-1"),
        ),
        ("http://127.0.0.1:9000/b", S3Address("b", "http://127.0.0.1:9000", "us-east-1", https=False)),
        ("minio.example.com/b", S3Address("b", "http://minio.example.com", "us-east-1", https=False)),
        ("b.storage.example.com", S3Address("b", "http://storage.example.com", "us-east-1", https=False)),
        (
            "https://b.ns.compat.objectstorage.eu-frankfurt-1.oraclecloud.com",
            S3Address("b", "https://ns.compat.objectstorage.eu-frankfurt-1.oraclecloud.com", "eu-frankfurt-1"),
        ),
        ("https://b.s3.gra.cloud.ovh.net", S3Address("b", "https://s3.gra.cloud.ovh.net", "gra")),
        (
            "https://h.example.com/b?disable-checksum=true&disable-100-continue=TRUE",
            S3Address("b", "https://h.example.com", "us-east-1", checksums=False),
        ),
    ],
)
def test_s3(address: str, wanted: S3Address) -> None:
    assert parse_s3(address) == wanted


def test_the_environment_names_regions_and_the_style(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-3")
    assert parse_s3("http://h.example.com/b").region == "eu-west-3"
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert parse_s3("http://h.example.com/b").region == "eu-west-1"
    assert parse_s3("https://b.s3.us-east-2.amazonaws.com").region == "us-east-2"
    assert parse_s3("http://h.example.com/b").path_style
    for value, by_path in (("1", False), ("true", False), ("0", True), ("false", True)):
        monkeypatch.setenv("JFS_S3_VHOST_STYLE", value)
        assert parse_s3("http://h.example.com/b").path_style is by_path


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("127.0.0.1:9000/b", S3Address("b", "http://127.0.0.1:9000", "us-east-1", https=False)),
        ("https://h/minio/b/", S3Address("b", "https://h", "us-east-1")),
        ("http://h/b?region=r1", S3Address("b", "http://h", "r1", https=False)),
    ],
)
def test_minio(address: str, wanted: S3Address) -> None:
    assert parse_minio(address) == wanted


@pytest.mark.parametrize(
    ("storage", "address", "wanted"),
    [
        ("wasabi", "b.s3.eu-central-1.wasabisys.com", ("b", "https://s3.eu-central-1.wasabisys.com", "eu-central-1")),
        ("scw", "https://b.s3.fr-par.scw.cloud", ("b", "https://s3.fr-par.scw.cloud", "fr-par")),
        ("space", "b.nyc3.digitaloceanspaces.com", ("b", "https://nyc3.digitaloceanspaces.com", "nyc3")),
        ("oos", "b.oos-hz.ctyunapi.cn", ("b", "https://oos-hz.ctyunapi.cn", "hz")),
        ("eos", "b.eos-beijing-1.cmecloud.cn", ("b", "https://eos-beijing-1.cmecloud.cn", "us-east-1")),
    ],
)
def test_services_with_buckets_in_the_host(storage: str, address: str, wanted: tuple[str, str, str]) -> None:
    found = parse_labelled(storage, address)
    assert found[:3] == wanted and found.https
    assert found.path_style is (storage in ("oos", "eos"))


@pytest.mark.parametrize("address", ["http://127.0.0.1:9000", "h:9000", "ftp://h/b", "http://", "http://h:port/b"])
def test_what_is_no_address_says_so(address: str) -> None:
    with pytest.raises(BadBucket):
        parse_s3(address)
    with pytest.raises(BadBucket):
        parse_minio(address)


def test_minio_needs_a_bucket_and_others_a_host() -> None:
    with pytest.raises(BadBucket, match="no bucket"):
        parse_minio("http://h:9000/")
    for storage in ("wasabi", "scw", "space", "oos"):
        with pytest.raises(BadBucket, match=storage):
            parse_labelled(storage, "bucket")


def test_keys_are_taken_out_of_a_query() -> None:
    assert without("http://h/b?a=1&c=2", "a") == "http://h/b?c=2"
    assert without("http://h/b?a=1", "a") == "http://h/b"
    assert without("http://h/b", "a") == "http://h/b"
