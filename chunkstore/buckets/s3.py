"""Buckets of Amazon S3 and of services that speak its language, through boto3.

Not the reading of addresses (`s3_address`), the client and its keys (`s3_client`), ranges and checksums (`remote`).
As with official clients, sums are in the object's metadata.
"""

from __future__ import annotations

import binascii
import hashlib
import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from typing import Any
from urllib.parse import urlencode

from chunkstore import sums
from chunkstore.bucket import LIST_PAGE, Access, Data, Listing, ObjectInfo, Part
from chunkstore.buckets import s3_address, s3_client
from chunkstore.buckets.remote import PATIENCE, RemoteBucket, Response, content_range, refused
from chunkstore.buckets.s3_address import DEFAULT_REGION, S3Address
from chunkstore.buckets.s3_body import Nothing, Outgoing
from chunkstore.buckets.s3_direct import Direct
from chunkstore.buckets.s3_errors import code_of, status_of, translated
from chunkstore.errors import BadBucket, Denied, NotFound, StoreError, Unavailable

_BATCH = 1000  # keys per deletion
_OLD_REGIONS = {"EU": "eu-west-1"}  # as buckets from before 2014 call theirs
_AFTER_ALL = "\U0010ffff"  # sorts behind every name
_PLAIN = "STANDARD"  # the class that is meant where none is told
_ARCHIVES = ("GLACIER", "DEEP_ARCHIVE")  # classes whose objects cannot be read before they are restored
_HEADERS = {
    "ContentType": "Content-Type", "ContentMD5": "Content-MD5", "StorageClass": "x-amz-storage-class",
    "Tagging": "x-amz-tagging",
}  # fmt: skip


def open_s3(storage: str, address: str, access: Access) -> S3Bucket:
    """The bucket at an address of that storage: s3, minio, wasabi, scw, space, oos or eos."""
    address = s3_address.without_user(address)
    if storage == "s3":
        place = s3_address.parse_s3(address)
    elif storage == "minio":
        place = s3_address.parse_minio(address)
    else:
        place = s3_address.parse_labelled(storage, address)
    return S3Bucket(place, access, s3_client.login_of(storage, address, access))


class S3Bucket(RemoteBucket):
    """One bucket of one service. The client is shared by all threads, as boto3 allows."""

    min_part_size = 5 << 20

    def __init__(
        self,
        place: S3Address,
        access: Access,
        login: s3_client.Login,
    ) -> None:
        super().__init__(access)
        self._place = place
        self._bucket = place.bucket
        self._login = login
        if not place.region:
            self._place = place = place._replace(region=self._find_region())
        self._client = s3_client.new_client(place, access, login)
        self._direct = Direct(self._client)

    def describe(self) -> str:
        host = self._place.endpoint or f"https://s3.{self._place.region}.amazonaws.com"
        return f"s3://{host.partition('://')[2]}/{self._bucket}/"

    def _find_region(self) -> str:
        """Of a bucket that was given by its bare name."""
        given = os.environ.get("AWS_DEFAULT_REGION")
        failure: StoreError | None = None
        for region in [given] if given else [DEFAULT_REGION, "cn-north-1"]:
            self._place = self._place._replace(region=region)
            client = s3_client.new_client(self._place, self.access, self._login)
            try:
                found = str(client.get_bucket_location(Bucket=self._bucket).get("LocationConstraint") or DEFAULT_REGION)
                return _OLD_REGIONS.get(found, found)
            except Exception as error:
                failure = failure or self._failed(error, f"find the region of bucket {self._bucket}")
            finally:
                client.close()
        assert failure is not None
        raise failure

    # one object

    def put(self, key: str, data: Data, tier: int = 0) -> None:
        extra = self._class_of(tier) | {"ContentType": "application/octet-stream"}
        metadata = sums.of(data, self.access.sum_unit) if self._place.checksums else {}
        if self._place.checksums and not self._place.https:  # nothing else tells the server of bytes changed on the way
            digest = hashlib.md5(data, usedforsecurity=False).digest()
            extra["ContentMD5"] = binascii.b2a_base64(digest, newline=False).decode()
        what = f"write object {self.describe()}{key}"
        headers = {_HEADERS[name]: value for name, value in extra.items()}
        if self._call(what, self._direct.put, key, self._outgoing(data, what), headers, metadata):
            return
        self._direct.learn_from(key)
        self._call(
            what, self._client.put_object, Bucket=self._bucket, Key=key, Body=self._outgoing(data, what),
            Metadata=metadata, **extra,
        )  # fmt: skip
        self._direct.learned()

    def _outgoing(self, data: Data, what: str) -> Outgoing:
        return Outgoing(data, PATIENCE * self.access.timeout_s, what)

    def _class_of(self, tier: int) -> dict[str, Any]:
        wanted = self.access.tier(tier)
        extra: dict[str, Any] = {}
        if wanted.storage_class:
            extra["StorageClass"] = wanted.storage_class
        if wanted.tag:
            name, _, value = wanted.tag.partition("=")
            extra["Tagging"] = urlencode({name: value})
        return extra

    def _open(self, key: str, start: int, end: int | None) -> Response:
        span = "" if start == 0 and end is None else f"bytes={start}-{'' if end is None else end - 1}"
        what = f"read object {self.describe()}{key}"
        try:
            answer = self._direct.get(key, span)
            if answer is None:
                self._direct.learn_from(key)
                answer = self._client.get_object(Bucket=self._bucket, Key=key, **({"Range": span} if span else {}))
                self._direct.learned()
        except Exception as error:
            if status_of(error) == 416:
                return Response(start, start, start, {}, Nothing())
            raise self._failed(error, what) from error
        body = answer["Body"]
        try:
            first, last, total = content_range(answer.get("ContentRange"), answer["ContentLength"])
        except (KeyError, StoreError):
            body.close()
            raise Unavailable(f"{what}: the answer does not say which bytes it holds") from None
        metadata: dict[str, str] = {}
        if self._place.checksums:
            metadata = {name.lower(): value for name, value in answer.get("Metadata", {}).items()}
        return Response(first, last, total, metadata, body)

    def delete(self, key: str) -> None:
        what = f"delete object {self.describe()}{key}"
        try:
            self._call(what, self._client.delete_object, Bucket=self._bucket, Key=key)
        except NotFound:
            return

    def delete_many(self, keys: Iterable[str]) -> dict[str, Exception]:
        failed: dict[str, Exception] = {}
        rest = iter(keys)
        while batch := list(islice(rest, _BATCH)):
            if len(batch) < 3:  # as many requests, and no body to sign
                failed.update(super().delete_many(batch))
                continue
            what = f"delete {len(batch)} objects of {self.describe()}"
            wanted = {"Objects": [{"Key": key} for key in batch], "Quiet": True}
            try:
                answer = self._call(what, self._client.delete_objects, Bucket=self._bucket, Delete=wanted)
            except StoreError as error:
                if not error.final or isinstance(error, Denied | BadBucket):
                    failed.update(dict.fromkeys(batch, error))
                else:  # a service without batches
                    failed.update(super().delete_many(batch))
                continue
            for each in answer.get("Errors", ()):
                if each.get("Code") != "NoSuchKey":
                    what = f"delete object {self.describe()}{each['Key']}"
                    failed[each["Key"]] = refused(0, each.get("Code", ""), each.get("Message", ""), what)
        return failed

    def head(self, key: str) -> ObjectInfo:
        what = f"look at object {self.describe()}{key}"
        answer = self._call(what, self._client.head_object, Bucket=self._bucket, Key=key)
        stored = answer.get("StorageClass", _PLAIN)  # not told where it is the ordinary one
        return ObjectInfo(key, answer["ContentLength"], _seconds(answer["LastModified"]), key.endswith("/"), stored)

    @property
    def has_classes(self) -> bool:
        return True

    def thaw(self, key: str, days: int) -> bool:
        what = f"restore object {self.describe()}{key}"
        if self.head(key).storage_class not in _ARCHIVES:
            return False
        try:
            self._client.restore_object(Bucket=self._bucket, Key=key, RestoreRequest={"Days": days})
        except Exception as error:
            if code_of(error) != "RestoreAlreadyInProgress":
                raise self._failed(error, what) from error
        return True

    def copy(self, target: str, source: str, tier: int = 0) -> None:
        extra = self._class_of(tier)
        if target == source:
            extra.setdefault("StorageClass", _PLAIN)  # S3 refuses a copy onto itself that changes nothing
        if "Tagging" in extra:
            extra["TaggingDirective"] = "REPLACE"
        what = f"copy object {self.describe()}{source}"
        origin = {"Bucket": self._bucket, "Key": source}
        self._call(what, self._client.copy_object, Bucket=self._bucket, Key=target, CopySource=origin, **extra)

    # many

    def list(self, prefix: str = "", after: str = "", limit: int = LIST_PAGE, delimiter: str = "") -> Listing:
        start = after + _AFTER_ALL if delimiter and after.endswith(delimiter) else after
        answer = self._call(
            f"list objects of {self.describe()}{prefix}", self._client.list_objects_v2, Bucket=self._bucket,
            Prefix=prefix, MaxKeys=min(limit, LIST_PAGE), **({"StartAfter": start} if start else {}),
            **({"Delimiter": delimiter} if delimiter else {}),
        )  # fmt: skip
        return self._page(answer, after)

    def list_all(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        """By the service's own tokens, which some know better than keys to start from."""
        place: dict[str, str] = {"StartAfter": after} if after else {}
        last = after
        while True:
            answer = self._call(
                f"list objects of {self.describe()}{prefix}", self._client.list_objects_v2, Bucket=self._bucket,
                Prefix=prefix, MaxKeys=LIST_PAGE, **place,
            )  # fmt: skip
            objects, more = self._page(answer, last)
            yield from objects
            if not more:
                return
            last = objects[-1].key if objects else last
            token = answer.get("NextContinuationToken")
            if not token and not objects:
                raise Unavailable(
                    f"list objects of {self.describe()}{prefix}: the storage promises more and gives none"
                )
            place = {"ContinuationToken": token} if token else {"StartAfter": last}

    def _page(self, answer: dict[str, Any], after: str) -> Listing:
        found = [
            ObjectInfo(each["Key"], each["Size"], _seconds(each["LastModified"]), each["Key"].endswith("/"))
            for each in answer.get("Contents", ())
        ]
        found += [ObjectInfo(each["Prefix"], 0, 0.0, is_dir=True) for each in answer.get("CommonPrefixes", ())]
        found = [each for each in found if each.key > after]
        found.sort(key=lambda each: each.key.encode())
        return Listing(found, bool(answer.get("IsTruncated")))

    def create(self) -> None:
        region = self._place.region
        extra: dict[str, Any] = {}
        if region and region != DEFAULT_REGION:
            extra["CreateBucketConfiguration"] = {"LocationConstraint": region}
        try:
            self._client.create_bucket(Bucket=self._bucket, **extra)
        except Exception as error:
            if code_of(error) not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise self._failed(error, f"create bucket {self._bucket}") from error

    def close(self) -> None:
        self._client.close()

    # large objects in parts

    def start_upload(self, key: str, tier: int = 0) -> str:
        what = f"begin to write object {self.describe()}{key}"
        extra = self._class_of(tier)
        answer = self._call(what, self._client.create_multipart_upload, Bucket=self._bucket, Key=key, **extra)
        return str(answer["UploadId"])

    def upload_part(self, key: str, upload_id: str, number: int, data: Data) -> Part:
        what = f"write part {number} of object {self.describe()}{key}"
        answer = self._call(
            what, self._client.upload_part, Bucket=self._bucket, Key=key, UploadId=upload_id, PartNumber=number,
            Body=self._outgoing(data, what),
        )  # fmt: skip
        return Part(number, answer["ETag"], len(data))

    def complete_upload(self, key: str, upload_id: str, parts: Iterable[Part]) -> None:
        listed = [{"PartNumber": each.number, "ETag": each.etag} for each in parts]
        self._call(
            f"finish object {self.describe()}{key}", self._client.complete_multipart_upload, Bucket=self._bucket,
            Key=key, UploadId=upload_id, MultipartUpload={"Parts": listed},
        )  # fmt: skip

    def abort_upload(self, key: str, upload_id: str) -> None:
        what = f"give up object {self.describe()}{key}"
        self._call(what, self._client.abort_multipart_upload, Bucket=self._bucket, Key=key, UploadId=upload_id)

    # failures

    def _call(self, what: str, request: Any, *words: Any, **arguments: Any) -> Any:
        try:
            return request(*words, **arguments)
        except Exception as error:
            raise self._failed(error, what) from error

    def _failed(self, error: Exception, what: str) -> StoreError:
        return translated(error, what, self._place.endpoint or "the storage")


def _seconds(moment: datetime) -> float:
    return moment.timestamp()
