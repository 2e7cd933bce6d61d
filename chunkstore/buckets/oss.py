"""Buckets of Alibaba Cloud Object Storage Service, through the SDK `oss2`.

Not ranges and checksums (`remote`), connections (`sdk`), or where keys come from (`oss_keys`). A bucket is addressed as
`BUCKET.oss-REGION.aliyuncs.com`; a bare name is looked for, and reached from inside of the cloud if possible.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from io import BytesIO
from typing import Any

from chunkstore.bucket import LIST_PAGE, Access, Data, Listing, ObjectInfo, Part
from chunkstore.buckets import oss_keys, sdk
from chunkstore.buckets.remote import Response, refused
from chunkstore.buckets.sdk import Place, SdkBucket
from chunkstore.errors import BadBucket, StoreError, Unavailable

log = logging.getLogger(__name__)

_EXAMPLE = "https://BUCKET.oss-REGION.aliyuncs.com"
_CLOUD = ".aliyuncs.com"
_PRIVATE = ".privatelink."
_REGION = "ALICLOUD_REGION_ID"
_DEFAULT_REGION = "cn-hangzhou"
_PROBE_S = 2.0  # for the inner endpoint, which is near or unreachable
_EXISTS = ("BucketAlreadyOwnedByYou", "BucketAlreadyExists")
_STANDARD_RANGES = {"x-oss-range-behavior": "standard"}  # without, a range over the end gets the whole object


def open_oss(address: str, access: Access) -> OssBucket:
    """The bucket at an address."""
    return OssBucket(sdk.parse(address, _EXAMPLE), access, oss_keys.provider(access))


def region_of(endpoint: str) -> str:
    """The region whose name a signature of version 4 holds. Empty: it is not known, and version 1 has to do.

    Hosts of the cloud are named after theirs, but for those of its accelerator, and there ALICLOUD_REGION_ID tells.
    """
    host = endpoint.partition(":")[0]
    if not host.endswith(_CLOUD):
        return ""
    labels = host.split(".")
    if _PRIVATE in host:
        return labels[2]
    if not labels[0].startswith("oss-"):
        return ""
    if labels[0].startswith("oss-accelerate"):
        return os.environ.get(_REGION, "")
    return labels[0].removeprefix("oss-").removesuffix("-internal").removesuffix("-vpc")


class OssBucket(SdkBucket):
    """One bucket. The client is shared by all threads: it keeps nothing between calls but its connections."""

    prefix = "x-oss-"
    min_part_size = 100 << 10

    def __init__(self, place: Place, access: Access, keys: Any) -> None:
        super().__init__(place, access)
        self._keys = keys
        self._bucket, _, endpoint = place.host.partition(".")
        if not endpoint:
            self._place = self._find()
            endpoint = self._place.host.partition(".")[2]
        self._client = self._new_client(self._place.scheme, endpoint, self._timeouts)

    def describe(self) -> str:
        return f"oss://{self._place.host.partition('.')[2]}/{self._bucket}/"

    def _new_client(self, scheme: str, endpoint: str, timeouts: tuple[float, float]) -> Any:
        import oss2

        sdk.silence("oss2")
        region = region_of(endpoint)
        session = oss2.Session()
        session.session = self._session
        try:
            return oss2.Bucket(
                oss2.ProviderAuthV4(self._keys) if region else oss2.ProviderAuth(self._keys),
                f"{scheme}://{endpoint}",
                self._bucket,
                session=session,
                connect_timeout=timeouts,
                app_name=sdk.USER_AGENT,
                enable_crc=False,
                region=region or None,
                is_path_style=_PRIVATE in endpoint,
            )
        except oss2.exceptions.ClientError as error:
            raise BadBucket(f"bucket {self._bucket} at {endpoint}: {_said(error)}") from None

    def _find(self) -> Place:
        """Where a bucket is that was given by its bare name."""
        scheme, outer = self._place.scheme, f"oss-{os.environ.get(_REGION) or _DEFAULT_REGION}{_CLOUD}"
        try:
            info = self._new_client(scheme, outer, self._timeouts).get_bucket_info()
        except Exception as error:
            if endpoint := _elsewhere(error):
                return self._place._replace(host=f"{self._bucket}.{endpoint}")
            raise self._failed(error, f"find bucket {self._bucket}") from error
        endpoint = info.extranet_endpoint
        try:
            self._new_client("http", info.intranet_endpoint, (_PROBE_S, self._timeouts[1])).get_bucket_info()
            scheme, endpoint = "http", info.intranet_endpoint
        except Exception as error:
            log.debug("bucket %s: not reached from inside of the cloud: %s", self._bucket, type(error).__name__)
        return self._place._replace(scheme=scheme, host=f"{self._bucket}.{endpoint}")

    # one object

    def put(self, key: str, data: Data, tier: int = 0) -> None:
        what = f"write object {self.describe()}{key}"
        self._call(what, self._client.put_object, key, sdk.outgoing(data), headers=self._of_object(data, tier))

    def _open(self, key: str, start: int, end: int | None) -> Response:
        asked = None if start == 0 and end is None else (start, None if end is None else end - 1)
        what = f"read object {self.describe()}{key}"
        try:
            answer = self._client.get_object(key, asked, headers=_STANDARD_RANGES)
        except Exception as error:
            if getattr(error, "status", 0) == 416:
                return Response(start, start, start, {}, BytesIO())
            raise self._failed(error, what) from error
        return self._response(answer.headers, answer.resp.response.raw, what)

    def delete(self, key: str) -> None:
        self._call(f"delete object {self.describe()}{key}", self._client.delete_object, key)

    def _delete_batch(self, keys: list[str], what: str) -> dict[str, Exception]:
        answer = self._call(what, self._client.batch_delete_objects, keys)
        kept = set(keys).difference(answer.deleted_keys)
        return {
            key: Unavailable(f"delete object {self.describe()}{key}: the storage kept it, and does not say why")
            for key in kept
        }

    def head(self, key: str) -> ObjectInfo:
        what = f"look at object {self.describe()}{key}"
        answer = self._call(what, self._client.head_object, key)
        stored = answer.headers.get("x-oss-storage-class", "")
        return ObjectInfo(key, answer.content_length, float(answer.last_modified), key.endswith("/"), stored)

    def copy(self, target: str, source: str, tier: int = 0) -> None:
        headers = self._of_tier(tier)
        if "x-oss-tagging" in headers:
            headers["x-oss-tagging-directive"] = "Replace"
        what = f"copy object {self.describe()}{source}"
        self._call(what, self._client.copy_object, self._bucket, source, target, headers=headers)

    # many

    def list(self, prefix: str = "", after: str = "", limit: int = LIST_PAGE, delimiter: str = "") -> Listing:
        what = f"list objects of {self.describe()}{prefix}"
        answer = self._call(
            what, self._client.list_objects_v2, prefix, delimiter, start_after=sdk.list_from(after, delimiter),
            max_keys=min(limit, LIST_PAGE),
        )  # fmt: skip
        found = [
            ObjectInfo(each.key, each.size, float(each.last_modified), each.key.endswith("/"))
            for each in answer.object_list
        ]
        found += [ObjectInfo(name, 0, 0.0, is_dir=True) for name in answer.prefix_list]
        return sdk.page(found, answer.is_truncated, after, what)

    def create(self) -> None:
        from oss2.models import BucketCreateConfig

        wanted = self.access.tier(0).storage_class
        try:
            self._call(
                f"create bucket {self._bucket}", self._client.create_bucket,
                input=BucketCreateConfig(storage_class=wanted) if wanted else None,
            )  # fmt: skip
        except StoreError as error:
            if _code(error.__cause__) not in _EXISTS:
                raise

    # large objects in parts

    def start_upload(self, key: str, tier: int = 0) -> str:
        what = f"begin to write object {self.describe()}{key}"
        return str(self._call(what, self._client.init_multipart_upload, key, headers=self._of_tier(tier)).upload_id)

    def upload_part(self, key: str, upload_id: str, number: int, data: Data) -> Part:
        what = f"write part {number} of object {self.describe()}{key}"
        answer = self._call(what, self._client.upload_part, key, upload_id, number, sdk.outgoing(data))
        return Part(number, answer.etag, len(data))

    def complete_upload(self, key: str, upload_id: str, parts: Iterable[Part]) -> None:
        from oss2.models import PartInfo

        listed = [PartInfo(each.number, each.etag, each.size) for each in parts]
        what = f"finish object {self.describe()}{key}"
        self._call(what, self._client.complete_multipart_upload, key, upload_id, listed)

    def abort_upload(self, key: str, upload_id: str) -> None:
        what = f"give up object {self.describe()}{key}"
        self._call(what, self._client.abort_multipart_upload, key, upload_id)

    # failures

    def _call(self, what: str, request: Any, *args: Any, **named: Any) -> Any:
        answer = super()._call(what, request, *args, **named)
        super()._call(what, answer.resp.read)  # to its end, or the connection is not used again
        return answer

    def _failed(self, error: Exception, what: str) -> StoreError:
        from oss2.exceptions import ClientError, ServerError

        if isinstance(error, StoreError):  # there are no keys
            return type(error)(f"{what}: {error}")
        if isinstance(error, ServerError):
            if endpoint := _elsewhere(error):
                return BadBucket(f"{what}: the bucket lives elsewhere; write https://{self._bucket}.{endpoint}")
            code, message = error.code or "", error.message or ""
            if code == "InvalidArgument" and "storage-class" in message:
                code = "InvalidStorageClass"
            return refused(error.status, code, message, what)
        if isinstance(error, ClientError):  # the SDK refuses the call itself
            return BadBucket(f"{what}: {_said(error)}")
        return sdk.unreachable(error, self._place.host, what)


def _elsewhere(error: Exception) -> str:
    """The endpoint that a bucket should be asked at, if that is what is wrong."""
    return str((getattr(error, "details", None) or {}).get("Endpoint") or "")


def _code(error: BaseException | None) -> str:
    return str(getattr(error, "code", ""))


def _said(error: Any) -> str:
    """The message of an error of the SDK itself."""
    return sdk.one_line(error.body).removeprefix("ClientError: ")
