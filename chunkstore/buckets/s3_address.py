"""Addresses of S3 buckets and of services that speak its language, as official clients read them. Nothing is connected.

`host/bucket` is path style; `bucket.host` names the bucket in the host. Without a scheme it is https for a bare bucket
name and for what ends in `.amazonaws.com`, http for everything else.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from chunkstore.errors import BadBucket

DEFAULT_REGION = "us-east-1"
_AWS = ".amazonaws.com"
_VPC = re.compile(r"^.*\.(.*)\.vpce\.amazonaws\.com")
_REGION_IN_HOST = (
    re.compile(r"^[^.]+\.compat\.objectstorage\.([^.]+)\.oraclecloud\.com"),
    re.compile(r"^s3\.([^.]+)(?:\.[^.]+)?\.cloud\.ovh\.net"),
)


class S3Address(NamedTuple):
    """Where a bucket is. Without an endpoint it is Amazon's own; without a region, that has to be found out."""

    bucket: str
    endpoint: str = ""  # scheme://host[:port]
    region: str = ""
    path_style: bool = True
    https: bool = True
    checksums: bool = True


def split_query(address: str) -> tuple[str, dict[str, str]]:
    """An address without its query, and the query's keys."""
    bare, _, query = address.partition("?")
    return bare, dict(parse_qsl(query, keep_blank_values=True))


def without(address: str, *keys: str) -> str:
    """An address with some keys taken out of its query."""
    bare, query = split_query(address)
    kept = {key: value for key, value in query.items() if key not in keys}
    return f"{bare}?{urlencode(kept)}" if kept else bare


def without_user(address: str) -> str:
    """An address without what stands before its host: official clients do not look at it, and it may be secret."""
    return re.sub(r"^([^/?]*//)?[^/?]*@", r"\1", address)


def path_style() -> bool:
    """Whether buckets of foreign hosts are addressed by path, which JFS_S3_VHOST_STYLE turns off."""
    return os.environ.get("JFS_S3_VHOST_STYLE", "") in ("", "0", "false")


def _split(address: str, scheme: str) -> SplitResult:
    uri = urlsplit(address if "://" in address else f"{scheme}://{address}")
    try:
        uri.port  # noqa: B018 - raises if it is no number
    except ValueError as error:
        raise BadBucket(f"invalid bucket address {address}: {error}") from None
    if uri.scheme not in ("http", "https") or not uri.hostname:
        raise BadBucket(
            f"invalid bucket address {address}; write for example https://HOST/BUCKET or https://BUCKET.HOST"
        )
    return uri


def parse_s3(address: str) -> S3Address:
    """The address of `--storage s3`."""
    bare, query = split_query(address)
    bare = bare.strip("/")
    uri = _split(bare, "http" if "." in bare and not bare.endswith(_AWS) else "https")
    netloc, path = uri.netloc, uri.path.strip("/")
    found = S3Address(
        "",
        https=uri.scheme == "https",
        checksums=query.get("disable-checksum", "").lower() != "true",
    )
    if path:
        bucket = path.partition("/")[0]
        if _AWS in netloc:
            return found._replace(bucket=bucket, region=_aws_region(netloc), path_style=False)
        return found._replace(
            bucket=bucket, endpoint=f"{uri.scheme}://{netloc}", region=_env_region(), path_style=path_style()
        )
    bucket, dot, rest = netloc.partition(".")
    if not dot:
        if ":" in netloc:
            raise BadBucket(f"no bucket in the address {address}; write {address.rstrip('/')}/BUCKET")
        return found._replace(bucket=bucket, path_style=False)
    if _AWS in netloc:
        if vpc := _VPC.match(netloc):
            endpoint = f"{uri.scheme}://{rest}"
            return found._replace(bucket=bucket, endpoint=endpoint, region=vpc[1], path_style=path_style())
        bucket, dot, rest = netloc.partition(".s3")
        if not dot:
            raise BadBucket(f"no bucket in the address {address}; write https://BUCKET.{netloc}")
        return found._replace(bucket=bucket, region=_aws_region("s3" + rest), path_style=False)
    if re.fullmatch(r"\d+\.\d+\.\d+\.\d+(:\d+)?", netloc):
        raise BadBucket(f"no bucket in the address {address}; write {uri.scheme}://{netloc}/BUCKET")
    region = next((match[1] for each in _REGION_IN_HOST if (match := each.match(rest))), "") or _env_region()
    return found._replace(bucket=bucket, endpoint=f"{uri.scheme}://{rest}", region=region, path_style=path_style())


def _env_region() -> str:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or DEFAULT_REGION


def _aws_region(host: str) -> str:
    if host.startswith(("s3-", "s3.")):
        host = host[3:]
    host = host.removeprefix("dualstack.")
    if host == "amazonaws.com":
        return DEFAULT_REGION
    region = host.partition(".")[0]
    return DEFAULT_REGION if region == "external-1" else region


def parse_minio(address: str) -> S3Address:
    """The address of `--storage minio`: always host/bucket."""
    bare, query = split_query(address)
    uri = _split(bare, "http")
    bucket = uri.path.strip("/")
    if "/" in bucket:
        bucket = bucket.removeprefix("minio/")
    bucket = bucket.partition("/")[0]
    if not bucket:
        raise BadBucket(f"no bucket in the address {address}; write http://HOST:PORT/BUCKET")
    region = query.get("region") or os.environ.get("MINIO_REGION") or DEFAULT_REGION
    endpoint = f"{uri.scheme}://{uri.netloc}"
    return S3Address(bucket, endpoint, region, path_style(), uri.scheme == "https")


def parse_labelled(storage: str, address: str) -> S3Address:
    """The address of a service that has buckets as `bucket.host` only: wasabi, scw, space, oos, eos."""
    uri = _split(split_query(address)[0], "https")
    bucket, _, host = uri.netloc.partition(".")
    labels = host.split(".")
    try:
        region = {
            "wasabi": lambda: labels[1],
            "scw": lambda: labels[1],
            "space": lambda: labels[0],
            "oos": lambda: labels[0][4:],
            "eos": lambda: DEFAULT_REGION,
        }[storage]()
    except IndexError:
        region = ""
    if not host or not region:
        raise BadBucket(f"invalid bucket address {address}; {storage} is addressed as https://BUCKET.HOST")
    by_path = {"oos": "xstore.ctyun.cn" not in host.lower(), "eos": path_style()}.get(storage, False)
    return S3Address(bucket, f"{uri.scheme}://{host}", region, by_path, uri.scheme == "https")
