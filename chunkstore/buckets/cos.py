"""Buckets of Tencent Cloud Object Storage, through the SDK `qcloud_cos`.

Not ranges and checksums (`remote`), nor connections (`sdk`). A bucket is a host, `BUCKET-APPID.cos.REGION.myqcloud.com`
or another one that leads there; a bare name is looked for among the buckets of the account.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

from chunkstore.bucket import LIST_PAGE, Access, Data, Listing, ObjectInfo, Part
from chunkstore.buckets import sdk
from chunkstore.buckets.remote import Response, refused
from chunkstore.buckets.sdk import Place, SdkBucket
from chunkstore.errors import BadBucket, Denied, StoreError

_EXAMPLE = "https://BUCKET-APPID.cos.REGION.myqcloud.com"
_ACCOUNT = "service.cos.myqcloud.com"  # lists the buckets of all regions
_EXISTS = ("BucketAlreadyOwnedByYou", "BucketAlreadyExists")


def open_cos(address: str, access: Access) -> CosBucket:
    """The bucket at an address. Keys that are not given come from COS_SECRETID and COS_SECRETKEY."""
    place = sdk.parse(address, _EXAMPLE)
    key, secret = access.access_key, access.secret_key
    if not key:
        key, secret = os.environ.get("COS_SECRETID", ""), os.environ.get("COS_SECRETKEY", "")
    if not key or not secret:
        raise Denied(
            f"bucket {place.host}: no access key was given; "
            "give --access-key and --secret-key, or set COS_SECRETID and COS_SECRETKEY"
        )
    return CosBucket(place, access, (key, secret, access.token))


class CosBucket(SdkBucket):
    """One bucket. The client is shared by all threads: it keeps nothing between calls but its connections."""

    prefix = "x-cos-"
    min_part_size = 1 << 20

    def __init__(self, place: Place, access: Access, keys: tuple[str, str, str]) -> None:
        super().__init__(place, access)
        self._keys = keys
        if "." not in place.host:
            self._place = place._replace(host=self._find(place.host))
        self._bucket, _, self._domain = self._place.host.partition(".")
        self._client = self._new_client(self._place.host)

    def describe(self) -> str:
        return f"cos://{self._place.host}/"

    def _new_client(self, host: str) -> Any:
        from qcloud_cos import CosConfig, CosS3Client
        from qcloud_cos.cos_exception import CosClientError

        sdk.silence("qcloud_cos")
        key, secret, token = self._keys
        port = urlsplit(f"//{host}").port
        try:
            config = CosConfig(
                Domain=host,
                # Without these the host is signed without its port, which the server knows to be there.
                IP=host.rpartition(":")[0] if port else None,
                Port=port,
                Scheme=self._place.scheme,
                SecretId=key,
                SecretKey=secret,
                Token=token or None,
                Timeout=self._timeouts,
                UA=sdk.USER_AGENT,
            )
        except CosClientError as error:
            raise Denied(f"bucket {host}: {sdk.one_line(error)}") from None
        return CosS3Client(config, retry=0, session=self._session)

    def _find(self, name: str) -> str:
        """The host of a bucket of the account."""
        client = self._new_client(_ACCOUNT)
        marker, more = "", True
        while more:
            answer = self._call(f"find bucket {name}", client.list_buckets, Marker=marker)
            for each in (answer.get("Buckets") or {}).get("Bucket", ()):
                if each["Name"] == name:
                    return f"{name}.cos.{each['Location']}.myqcloud.com"
            marker = answer.get("NextMarker") or ""
            more = answer.get("IsTruncated") == "true" and bool(marker)
        raise BadBucket(f"this account has no bucket {name}; write its whole address, for example {_EXAMPLE}")

    # one object

    def put(self, key: str, data: Data, tier: int = 0) -> None:
        self._call(
            f"write object {self.describe()}{key}", self._client.put_object, Bucket=self._bucket, Key=key,
            Body=sdk.outgoing(data), Metadata=self._of_object(data, tier),
        )  # fmt: skip

    def _open(self, key: str, start: int, end: int | None) -> Response:
        asked = {} if start == 0 and end is None else {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
        what = f"read object {self.describe()}{key}"
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=key, **asked)
        except Exception as error:
            if _status(error) == 416:
                return Response(start, start, start, {}, BytesIO())
            raise self._failed(error, what) from error
        body = answer.pop("Body")
        return self._response(answer, body.get_raw_stream(), what)

    def delete(self, key: str) -> None:
        self._call(f"delete object {self.describe()}{key}", self._client.delete_object, Bucket=self._bucket, Key=key)

    def _delete_batch(self, keys: list[str], what: str) -> dict[str, Exception]:
        wanted = {"Quiet": "true", "Object": [{"Key": key} for key in keys]}
        answer = self._call(what, self._client.delete_objects, Bucket=self._bucket, Delete=wanted)
        return {
            each["Key"]: refused(
                0, each.get("Code") or "", each.get("Message") or "", f"delete object {self.describe()}{each['Key']}"
            )
            for each in answer.get("Error", ())
            if each.get("Code") != "NoSuchKey"
        }

    def head(self, key: str) -> ObjectInfo:
        what = f"look at object {self.describe()}{key}"
        told = sdk.lowered(self._call(what, self._client.head_object, Bucket=self._bucket, Key=key))
        mtime = parsedate_to_datetime(told["last-modified"]).timestamp()
        stored = told.get("x-cos-storage-class", "STANDARD")
        return ObjectInfo(key, int(told["content-length"]), mtime, key.endswith("/"), stored)

    def copy(self, target: str, source: str, tier: int = 0) -> None:
        headers = self._of_tier(tier)
        if "x-cos-tagging" in headers:
            headers["x-cos-tagging-directive"] = "Replaced"
        self._call(
            f"copy object {self.describe()}{source}", self._client.copy_object, Bucket=self._bucket, Key=target,
            CopySource={"Bucket": self._bucket, "Endpoint": self._domain, "Key": source}, Metadata=headers,
        )  # fmt: skip

    # many

    def list(self, prefix: str = "", after: str = "", limit: int = LIST_PAGE, delimiter: str = "") -> Listing:
        what = f"list objects of {self.describe()}{prefix}"
        answer = self._call(
            what, self._client.list_objects, Bucket=self._bucket, Prefix=prefix, Delimiter=delimiter,
            Marker=sdk.list_from(after, delimiter), MaxKeys=min(limit, LIST_PAGE),
        )  # fmt: skip
        found = [_info(each) for each in answer.get("Contents", ())]
        found += [ObjectInfo(each["Prefix"], 0, 0.0, is_dir=True) for each in answer.get("CommonPrefixes", ())]
        return sdk.page(found, answer.get("IsTruncated") == "true", after, what)

    def create(self) -> None:
        try:
            self._client.create_bucket(Bucket=self._bucket)
        except Exception as error:
            if _told(error).get("code") not in _EXISTS:
                raise self._failed(error, f"create bucket {self._place.host}") from error

    # large objects in parts

    def start_upload(self, key: str, tier: int = 0) -> str:
        answer = self._call(
            f"begin to write object {self.describe()}{key}", self._client.create_multipart_upload, Bucket=self._bucket,
            Key=key, Metadata=self._of_tier(tier),
        )  # fmt: skip
        return str(answer["UploadId"])

    def upload_part(self, key: str, upload_id: str, number: int, data: Data) -> Part:
        answer = self._call(
            f"write part {number} of object {self.describe()}{key}", self._client.upload_part, Bucket=self._bucket,
            Key=key, UploadId=upload_id, PartNumber=number, Body=sdk.outgoing(data),
        )  # fmt: skip
        return Part(number, sdk.lowered(answer)["etag"], len(data))

    def complete_upload(self, key: str, upload_id: str, parts: Iterable[Part]) -> None:
        listed = [{"PartNumber": each.number, "ETag": each.etag} for each in parts]
        self._call(
            f"finish object {self.describe()}{key}", self._client.complete_multipart_upload, Bucket=self._bucket,
            Key=key, UploadId=upload_id, MultipartUpload={"Part": listed},
        )  # fmt: skip

    def abort_upload(self, key: str, upload_id: str) -> None:
        what = f"give up object {self.describe()}{key}"
        self._call(what, self._client.abort_multipart_upload, Bucket=self._bucket, Key=key, UploadId=upload_id)

    # failures

    def _failed(self, error: Exception, what: str) -> StoreError:
        from qcloud_cos.cos_exception import CosClientError, CosServiceError

        if isinstance(error, CosServiceError):
            told = _told(error)
            status, code, message = _status(error), told.get("code") or "", told.get("message") or ""
            if code == "AccessDenied" and "expired" in message:  # it says so of a signature that came too late
                code = "RequestTimeTooSkewed"
            return refused(status if status >= 400 else 0, code, message, what)
        if isinstance(error, CosClientError) and error.__context__ is None:  # the SDK refuses the call itself
            return BadBucket(f"{what}: {sdk.one_line(error)}")
        return sdk.unreachable(error, self._place.host, what)


def _info(told: Mapping[str, str]) -> ObjectInfo:
    key = told["Key"]
    return ObjectInfo(
        key, int(told["Size"]), datetime.fromisoformat(told["LastModified"]).timestamp(), key.endswith("/")
    )


def _status(error: Any) -> int:
    return int(error.get_status_code()) if hasattr(error, "get_status_code") else 0


def _told(error: Any) -> Mapping[str, str]:
    """The elements of a refusal, in lower case. The SDK's own reading gives up when one of five is missing."""
    if not hasattr(error, "get_digest_msg"):
        return {}
    digest = error.get_digest_msg()
    if isinstance(digest, Mapping):
        return digest
    try:
        return {each.tag.lower(): each.text or "" for each in ElementTree.fromstring(error.get_origin_msg())}
    except ElementTree.ParseError:
        return {}
