"""S3 as another server speaks it (moto): error shapes, storage classes, tags, regions, parts, and lines for people."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import s3_server
from buckets import KEY
from mounts import juicefs
from redis_server import free_port

from chunkstore import sums
from chunkstore.bucket import Access, Bucket, Multipart, Tier
from chunkstore.buckets import open_bucket
from chunkstore.errors import BadBucket, Denied, NotFound, StoreError

TIERS = {0: Tier(), 1: Tier("STANDARD_IA", "team=data + more"), 2: Tier("NO_SUCH_CLASS")}


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    port = free_port()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop()


def access(**changes: Any) -> Access:
    return Access(**{"access_key": "key", "secret_key": "secret", "tiers": TIERS, "sum_unit": 32 << 10, **changes})


@pytest.fixture
def bucket(moto: str, request: pytest.FixtureRequest) -> Iterator[Bucket]:
    name = request.node.name.replace("_", "-").replace("[", "-").rstrip("]")[:60].rstrip("-").lower()
    made = open_bucket("s3", f"{moto}/{name}", access())
    made.create()
    yield made
    made.close()


def client(bucket: Bucket) -> Any:
    return bucket._client  # type: ignore[attr-defined]


def name_of(bucket: Bucket) -> str:
    return bucket.describe().rstrip("/").rpartition("/")[2]


def test_a_bucket_that_is_not_there(moto: str) -> None:
    missing = open_bucket("s3", f"{moto}/nowhere", access())
    for act in (
        lambda: missing.put("k", b"x"), lambda: missing.get("k"), lambda: missing.delete("k"), lambda: missing.list(),
        lambda: list(missing.list_all()),
    ):  # fmt: skip
        with pytest.raises(BadBucket, match=r"there is no such bucket \(NoSuchBucket\)"):
            act()
    assert all(isinstance(error, BadBucket) for error in missing.delete_many("abc").values())
    missing.close()


def test_objects_that_are_not_there(bucket: Bucket) -> None:
    for act in (bucket.get, bucket.head, lambda key: bucket.copy("other", key)):
        with pytest.raises(NotFound):
            act("k")
    bucket.delete("k")


def test_classes_and_tags_arrive(bucket: Bucket) -> None:
    bucket.put("plain", b"x")
    bucket.put("cold", b"x", tier=1)
    bucket.put("unknown tier", b"x", tier=3)
    found = {
        each["Key"]: each["StorageClass"] for each in client(bucket).list_objects_v2(Bucket=name_of(bucket))["Contents"]
    }
    assert found == {"plain": "STANDARD", "cold": "STANDARD_IA", "unknown tier": "STANDARD"}
    tags = client(bucket).get_object_tagging(Bucket=name_of(bucket), Key="cold")["TagSet"]
    assert tags == [{"Key": "team", "Value": "data + more"}]
    bucket.copy("plain", "plain", tier=1)  # a change of the class, as tiering does it
    assert client(bucket).head_object(Bucket=name_of(bucket), Key="plain")["StorageClass"] == "STANDARD_IA"


def test_a_class_that_is_not_known(bucket: Bucket) -> None:
    with pytest.raises(BadBucket, match="check --storage-class"):
        bucket.put("k", b"x", tier=2)


def test_sums_are_metadata_as_official_clients_read_it(bucket: Bucket) -> None:
    data = os.urandom(100_000)
    bucket.put("k", data)
    metadata = client(bucket).head_object(Bucket=name_of(bucket), Key="k")["Metadata"]
    assert metadata["crc32c"] == sums.of(data, 0)["Crc32c"] and metadata["crc32c"].isdigit()
    client(bucket).put_object(Bucket=name_of(bucket), Key="bare", Body=data)
    assert bucket.get("bare") == data, "an object without sums is as good"
    client(bucket).put_object(Bucket=name_of(bucket), Key="wrong", Body=data, Metadata={"Crc32c": "1"})
    with pytest.raises(StoreError, match="does not match its checksum"):
        bucket.get("wrong")
    view = memoryview(bytearray(1000))
    assert bucket.get_into("wrong", 50_000, view) == 1000, "its parts have no sums"


def test_buckets_in_a_region(moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    made = open_bucket("s3", f"{moto}/in-frankfurt", access())
    made.create()
    made.create()  # ours already
    assert client(made).get_bucket_location(Bucket="in-frankfurt")["LocationConstraint"] == "eu-central-1"
    made.close()


def test_large_objects_in_parts(bucket: Bucket) -> None:
    assert isinstance(bucket, Multipart)
    whole = os.urandom(bucket.min_part_size) + b"the rest"
    upload = bucket.start_upload("large", tier=1)
    parts = [
        bucket.upload_part("large", upload, 1, whole[: bucket.min_part_size]),
        bucket.upload_part("large", upload, 2, memoryview(whole)[bucket.min_part_size :]),
    ]
    bucket.complete_upload("large", upload, parts)
    assert bucket.get("large") == whole
    given_up = bucket.start_upload("never")
    bucket.upload_part("never", given_up, 1, b"x")
    bucket.abort_upload("never", given_up)
    with pytest.raises(NotFound):
        bucket.head("never")


def test_deletion_of_many(bucket: Bucket) -> None:
    keys = [f"k/{number}" for number in range(1200)]
    for key in keys[:30]:
        bucket.put(key, b"x")
    assert bucket.delete_many(keys) == {}
    assert list(bucket.list_all()) == []


def test_without_keys_it_says_what_to_give(monkeypatch: pytest.MonkeyPatch, moto: str, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    nobody = open_bucket("s3", f"{moto}/b", Access())
    with pytest.raises(Denied, match="give --access-key and --secret-key"):
        nobody.put("k", b"x")
    nobody.close()
    anyone = open_bucket("s3", f"{moto}/public", Access(access_key="anonymous"))
    with pytest.raises(BadBucket, match="NoSuchBucket"):  # asked without a signature, and answered
        anyone.get("k")
    anyone.close()


# the same for people: `juicefs format` over a server that checks signatures

SECRET = "a-secret-that-nobody-sees"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--access-key", "nobody"), "it does not know this access key; check --access-key"),
        (("--secret-key", SECRET), "the secret key is wrong; check --secret-key"),
        (("--storage", "minio", "--bucket", "http://127.0.0.1:1"), "no bucket in the address"),
        (("--bucket", "ftp://host/bucket"), "invalid bucket address"),
    ],
)
def test_format_says_in_one_line_what_is_wrong(words: tuple[str, ...], line: str, tmp_path: Path) -> None:
    server = s3_server.shared_server()
    name = server.new_bucket()
    given = {
        "--storage": "s3", "--bucket": server.address(name), "--access-key": s3_server.ACCESS_KEY,
        "--secret-key": s3_server.SECRET_KEY,
    } | dict(zip(words[::2], words[1::2], strict=True))  # fmt: skip
    options = [word for pair in given.items() for word in pair]
    done = juicefs("format", f"sqlite3://{tmp_path}/meta.db", "vol", *options, check=False)
    assert done.returncode == 1 and line in done.stderr, done.stderr
    assert done.stderr.count("FATAL") == 1 and "Traceback" not in done.stderr
    assert SECRET not in done.stderr + done.stdout and s3_server.SECRET_KEY not in done.stderr + done.stdout
    assert not (server.root / name).exists(), "nothing is half created"
    if (tmp_path / "meta.db").exists():
        with sqlite3.connect(tmp_path / "meta.db") as database:
            tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type='table'")]
            assert "jfs_setting" not in tables or not database.execute("SELECT * FROM jfs_setting").fetchall()
        database.close()


def test_mount_says_in_one_line_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = s3_server.shared_server()
    url = f"sqlite3://{tmp_path}/meta.db"
    key = tmp_path / "key.pem"
    key.write_text(KEY)
    monkeypatch.setenv("JFS_RSA_PASSPHRASE", "golden")
    keys = ("--access-key", s3_server.ACCESS_KEY, "--secret-key", s3_server.SECRET_KEY)
    bucket = server.address(server.new_bucket())
    juicefs("format", url, "vol", "--storage", "s3", "--bucket", bucket, *keys, "--encrypt-rsa-key", str(key))
    where = str(tmp_path / "mnt")

    def refused(*words: str) -> str:
        done = juicefs("mount", url, where, *words, check=False)
        assert done.returncode == 1 and done.stderr.count("FATAL") == 1, done.stderr
        assert s3_server.SECRET_KEY not in done.stderr and "PRIVATE KEY" not in done.stderr
        return done.stderr

    assert "there is no such bucket" in refused("--bucket", server.address("no-such-bucket"))
    assert "no bucket in the address" in refused("--bucket", "http://127.0.0.1:1")
    other = open_bucket("s3", bucket, s3_server.access())
    other.put("vol/juicefs_uuid", b"not encrypted with that key" * 20)
    other.close()
    assert "cannot be decrypted" in refused()
    juicefs("config", url, "--secret-key", "wrong", "--force", check=False)
    assert "the secret key is wrong; check --secret-key" in refused()
    assert not (tmp_path / "mnt").exists()


# The short way past the client (`s3_direct`)


@pytest.fixture
def asked(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the client is asked for; everything else took the short way."""
    calls: list[str] = []
    for name in ("put_object", "get_object"):
        inner = getattr(client(bucket), name)

        def call(*, Key: str, name: str = name, inner: Any = inner, **more: Any) -> Any:
            calls.append(f"{name[:3]} {Key}")
            return inner(Key=Key, **more)

        monkeypatch.setattr(client(bucket), name, call)
    return calls


def test_both_ways_store_the_same(bucket: Bucket, asked: list[str]) -> None:
    """The first request shows where to and how; what is told with an object must not depend on the way."""
    data = os.urandom(100_000)
    for key in ("first", "chunks/0/0/1_0_100000", "second"):
        bucket.put(key, data, tier=1)
        assert bucket.get(key) == data
        assert bucket.get(key, 5, 10) == data[5:15]
    assert asked == ["put first"]
    told = []
    for key in ("first", "chunks/0/0/1_0_100000"):
        answer = client(bucket).head_object(Bucket=name_of(bucket), Key=key)
        tags = client(bucket).get_object_tagging(Bucket=name_of(bucket), Key=key)["TagSet"]
        told.append((answer["ContentType"], answer["Metadata"], answer["StorageClass"], answer["ETag"], tags))
    assert told[0] == told[1]


def test_what_only_the_client_can_spell_or_judge_is_left_to_it(bucket: Bucket, asked: list[str]) -> None:
    bucket.put("first", b"x")
    bucket.put("ü b+c%20", b"x")
    assert bucket.get("ü b+c%20") == b"x"
    with pytest.raises(NotFound):
        bucket.get("missing")
    assert bucket.get("first", 5, 3) == b""  # behind the end: 416
    with pytest.raises(BadBucket, match="check --storage-class"):
        bucket.put("k", b"x", tier=2)
    assert asked == ["put first", "put ü b+c%20", "get ü b+c%20", "get missing", "get first", "put k"]
    bucket.put("k/../j", b"x")
    bucket.put(".hidden", b"x")
    assert asked[6:] == ["put k/../j", "put .hidden"]


def test_the_short_way_signs_with_keys_that_were_renewed(bucket: Bucket, asked: list[str]) -> None:
    """Those of a machine's role change while the client lives."""
    bucket.put("first", b"x")
    signer = bucket._direct._known.signer  # type: ignore[attr-defined]
    seen: list[str] = []
    renewed = signer._credentials
    renewed.access_key, renewed.token = "renewed", "session"
    sent = client(bucket)._endpoint.http_session.send

    def send(request: Any) -> Any:
        seen.append(request.headers["Authorization"] + " " + request.headers["X-Amz-Security-Token"])
        return sent(request)

    client(bucket)._endpoint.http_session.send = send
    bucket.put("second", b"y")
    assert bucket.get("second") == b"y"
    assert asked == ["put first"]
    assert len(seen) == 2 and all("Credential=renewed/" in each and each.endswith(" session") for each in seen)


def test_nothing_is_learned_from_a_refusal(bucket: Bucket, asked: list[str]) -> None:
    with pytest.raises(NotFound):
        bucket.get("missing")
    bucket.put("first", b"x")
    bucket.put("second", b"x")
    assert asked == ["get missing", "put first"]
