"""boto3's client for one bucket: keys, TLS, time limits, and what boto3 is not to do.

Not what is asked of it (`s3`). It is told to do what official clients do: no retries of its own, payloads unsigned over
https, no checksums but ours.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from chunkstore.bucket import Access
from chunkstore.buckets import s3_address
from chunkstore.buckets.s3_address import S3Address
from chunkstore.buckets.s3_errors import one_line
from chunkstore.buckets.sdk import silence
from chunkstore.errors import BadBucket

_KEYS = {"minio": "MINIO_{0}_KEY", "scw": "SCW_{0}_KEY", "eos": "EOS_{0}_KEY"}  # where their keys may stand, too


class Login(NamedTuple):
    """Who asks, and how a server is believed."""

    access_key: str
    secret_key: str
    token: str
    tls: dict[str, Any]  # boto3's `verify` and `client_cert`, where they are not the usual ones

    def __repr__(self) -> str:
        return f"Login({self.access_key!r}, ...)"  # secrets get into no message


def login_of(storage: str, address: str, access: Access) -> Login:
    """Keys as they were given, or as the environment has them for that storage; TLS as the address says."""
    access_key, secret_key, token = access.access_key, access.secret_key, access.token
    if storage in _KEYS:
        access_key = access_key or os.environ.get(_KEYS[storage].format("ACCESS"), "")
        secret_key = secret_key or os.environ.get(_KEYS[storage].format("SECRET"), "")
    if storage == "eos":
        token = token or os.environ.get("EOS_TOKEN", "")
    return Login(access_key, secret_key, token, _tls(address))


def _tls(address: str) -> dict[str, Any]:
    """What the generic keys of an address say of TLS, as boto3 wants to hear it."""
    query = s3_address.split_query(address)[1]
    told: dict[str, Any] = {}
    if query.get("tls-insecure-skip-verify", "").lower() in ("true", "1"):
        from urllib3 import disable_warnings
        from urllib3.exceptions import InsecureRequestWarning

        disable_warnings(InsecureRequestWarning)
        told["verify"] = False
    elif query.get("ca-certs"):
        told["verify"] = query["ca-certs"]
    if query.get("ssl-cert"):
        told["client_cert"] = (query["ssl-cert"], query.get("ssl-key", ""))
    return told


def new_client(place: S3Address, access: Access, login: Login) -> Any:
    """A client that all threads may share. BadBucket if boto3 does not like what was given."""
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError
    from botocore.handlers import add_expect_header

    for logger in ("boto3", "botocore", "urllib3"):
        silence(logger)
    anonymous = login.access_key == "anonymous"
    config = Config(
        region_name=place.region,
        signature_version=UNSIGNED if anonymous else "s3v4",
        connect_timeout=access.connect_timeout_s,
        read_timeout=access.timeout_s,
        max_pool_connections=access.connections,
        retries={"total_max_attempts": 1, "mode": "standard"},
        tcp_keepalive=True,
        client_cert=login.tls.get("client_cert"),
        s3={
            "addressing_style": "path" if place.path_style else "virtual",
            "payload_signing_enabled": False,
        },
        request_checksum_calculation=os.environ.get("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required").lower(),
        response_checksum_validation=os.environ.get("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required").lower(),
    )
    try:
        client = boto3.session.Session().client(
            "s3",
            endpoint_url=place.endpoint or None,
            use_ssl=place.https,
            verify=login.tls.get("verify"),
            aws_access_key_id=None if anonymous else login.access_key or None,
            aws_secret_access_key=None if anonymous else login.secret_key or None,
            aws_session_token=None if anonymous else login.token or None,
            config=config,
        )
    except (BotoCoreError, ValueError) as error:
        raise BadBucket(f"bucket {place.bucket}: {one_line(error)}") from None
    client.meta.events.unregister("before-call.s3", add_expect_header)  # a round trip more for every block
    client.meta.events.register("before-call.s3.HeadBucket", _ask_no_further)
    return client


def _ask_no_further(context: dict[str, Any], **_: object) -> None:
    """botocore looks for the bucket's region when it meets a redirection, for ever if it meets another one then."""
    context.setdefault("s3_redirect", {})["redirected"] = True
