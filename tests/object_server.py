"""An object storage in the memory of the test, over real HTTP: what the servers of COS and OSS have in common.

Not a dialect: `cos_server` and `oss_server` say how requests are signed and spelled, and check it as the services do.

Buckets are named in hosts, and no such name resolves here. So the server is its own proxy: in `proxied()` the
environment names it as http_proxy, and clients opened there send it requests with the whole address in the first line,
and with the Host that they have signed. Addresses must be http then (it refuses tunnels). A Host that is an IP address
has the bucket in its path.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import os
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import NamedTuple
from unittest import mock
from urllib.parse import quote, unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from object_http import Answer, Faults, Listener, Refused, Request

ACCESS_KEY, SECRET_KEY = "test-access-key", "test-secret-key"
_IP = re.compile(r"\d+\.\d+\.\d+\.\d+")
_PROXIES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY")


class Stored(NamedTuple):
    """An object; `headers` are those that come back with it."""

    data: bytes
    headers: dict[str, str]
    mtime: float

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.data).hexdigest().upper()}"'


class ObjectServer(ABC):
    """A server on a loopback port. Settings may be changed at any time."""

    prefix: str  # of the service's own headers
    classes: frozenset[str]
    account = ""  # the host that stands for no bucket

    def __init__(self, certificates: Path | None = None) -> None:
        self.keys = {ACCESS_KEY: SECRET_KEY}
        self.token = ""  # which must come with every request, if there is one
        self.read_only = False
        self.locked: set[str] = set()  # keys that are not removed together with others
        self.clock_ahead_s = 0.0
        self.faults = Faults()
        self.requests: list[Request] = []
        self.connections = 0
        self.buckets: dict[str, dict[str, Stored]] = {}
        self.uploads: dict[str, tuple[Request, dict[int, bytes]]] = {}
        self.lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._listener = Listener(self, certificates)
        self.port = int(self._listener.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._listener.close()

    @contextmanager
    def proxied(self) -> Iterator[None]:
        """Whoever opens a bucket in here reaches this server, whatever host is named."""
        with mock.patch.dict(os.environ):
            for name in _PROXIES:
                os.environ.pop(name, None)
            os.environ["http_proxy"] = os.environ["https_proxy"] = self.url
            yield

    def new_name(self) -> str:
        """A bucket that nobody has used, and that is not there yet."""
        return f"bucket-{next(self._numbers)}-1250000000"

    def now(self) -> float:
        return time.time() + self.clock_ahead_s

    def object(self, key: str) -> Stored:
        """The object of that key in whatever bucket has it."""
        return next(objects[key] for objects in self.buckets.values() if key in objects)

    def damage(self, key: str, place: int) -> None:
        """Change a byte of an object where it lies."""
        objects = next(each for each in self.buckets.values() if key in each)
        data = bytearray(objects[key].data)
        data[place] ^= 1
        objects[key] = objects[key]._replace(data=bytes(data))

    # dialects

    @abstractmethod
    def authorize(self, request: Request) -> None:
        """Raise `Refused` unless the request is signed with a key of ours, in time."""

    @abstractmethod
    def refusal(self, error: Refused, request: Request) -> bytes:
        """The body that tells of an error."""

    @abstractmethod
    def listing(self, request: Request, objects: dict[str, Stored]) -> Answer:
        """A page of a bucket."""

    @abstractmethod
    def deletion(self, gone: list[str], kept: list[str], quiet: bool) -> bytes:
        """The body that tells of objects removed together, and of those that were not."""

    def unsatisfiable(self, request: Request) -> Answer | None:
        """What answers a range that reaches over the end; None: the part that there is."""
        return None

    def of_account(self, request: Request) -> Answer:
        raise Refused(400, "InvalidRequest")

    def of_bucket(self, request: Request) -> Answer | None:
        """Questions that only one of the services knows."""
        return None

    # requests

    def serve(self, request: Request) -> Answer:
        """Everything about a request but HTTP."""
        request.bucket, request.key = self._locate(request)
        self.authorize(request)
        if self.token and request.headers.get(f"{self.prefix}security-token") != self.token:
            raise self.bad_token()
        if self.read_only and request.method not in ("GET", "HEAD"):
            raise Refused(403, "AccessDenied", "Access Denied.")
        self._check_digest(request)
        if not request.bucket:
            return self.of_account(request)
        with self.lock:
            if request.method == "PUT" and not request.key:
                return self._create(request)
            objects = self.buckets.get(request.bucket)
            if objects is None:
                raise Refused(404, "NoSuchBucket", "The specified bucket does not exist.")
            return (self._of_object if request.key else self._of_bucket)(request, objects)

    def bad_token(self) -> Refused:
        return Refused(403, "InvalidToken", "The token is invalid.", Token=self.token)

    def _locate(self, request: Request) -> tuple[str, str]:
        host, path = request.host.partition(":")[0], unquote(request.path)[1:]
        if host == self.account:
            return "", ""
        if _IP.fullmatch(host) or ".privatelink." in host:
            bucket, _, key = path.partition("/")
            return bucket, key
        return host.partition(".")[0], path

    def _check_digest(self, request: Request) -> None:
        digest = request.headers.get("content-md5")
        if digest and base64.b64decode(digest) != hashlib.md5(request.body).digest():
            raise Refused(400, "BadDigest", "The Content-MD5 you specified did not match what we received.")

    def _create(self, request: Request) -> Answer:
        if request.bucket in self.buckets:
            raise Refused(409, "BucketAlreadyOwnedByYou")
        self.buckets[request.bucket] = {}
        return Answer()

    def _of_bucket(self, request: Request, objects: dict[str, Stored]) -> Answer:
        if request.method == "POST" and "delete" in request.query:
            wanted = ElementTree.fromstring(request.body)
            keys = [each.text or "" for each in wanted.iter("Key")]
            gone = [key for key in keys if key not in self.locked]
            for key in gone:
                objects.pop(key, None)
            kept = [key for key in keys if key in self.locked]
            return Answer(body=self.deletion(gone, kept, wanted.findtext("Quiet") == "true"))
        if request.method == "GET":
            return self.of_bucket(request) or self.listing(request, objects)
        raise Refused(405, "MethodNotAllowed")

    def _of_object(self, request: Request, objects: dict[str, Stored]) -> Answer:
        if "uploads" in request.query or "uploadId" in request.query:
            return self._in_parts(request, objects)
        match request.method:
            case "PUT":
                source = request.headers.get(f"{self.prefix}copy-source")
                stored = self._copied(request, objects, source) if source else self._stored(request)
                objects[request.key] = stored
                told = f"<ETag>{stored.etag}</ETag><LastModified>{iso(stored.mtime)}</LastModified>"
                body = f"<CopyObjectResult>{told}</CopyObjectResult>".encode() if source else b""
                return Answer(200, {"ETag": stored.etag}, body)
            case "GET" | "HEAD":
                return self._read(request, find(objects, request.key))
            case "DELETE":
                objects.pop(request.key, None)
                return Answer(204)
        raise Refused(405, "MethodNotAllowed")

    def _stored(self, request: Request, data: bytes | None = None) -> Stored:
        """The object that a request makes; what it says of it comes back with it."""
        kept = ("content-type", f"{self.prefix}storage-class", f"{self.prefix}tagging")
        headers = {
            name: value
            for name, value in request.headers.items()
            if name in kept or name.startswith(f"{self.prefix}meta-")
        }
        if headers.get(f"{self.prefix}storage-class", "") not in self.classes | {""}:
            raise self.bad_class()
        if "=" not in headers.get(f"{self.prefix}tagging", "="):
            raise Refused(400, "InvalidTag")
        return Stored(request.body if data is None else data, headers, self.now())

    @abstractmethod
    def bad_class(self) -> Refused:
        """What is said of a storage class that there is not."""

    @abstractmethod
    def copy_source(self, source: str) -> tuple[str, str]:
        """Bucket and key of a header that names an object to copy."""

    def _copied(self, request: Request, objects: dict[str, Stored], source: str) -> Stored:
        bucket, key = self.copy_source(source)
        old = find(self.buckets.get(bucket, {}), key)
        new = self._stored(request, old.data)
        headers = {name: value for name, value in old.headers.items() if not name.endswith("-class")}
        tags = new.headers.pop(f"{self.prefix}tagging", None)
        if request.headers.get(f"{self.prefix}tagging-directive", "Copy") != "Copy" and tags:
            headers[f"{self.prefix}tagging"] = tags
        return new._replace(headers=headers | new.headers)

    def _read(self, request: Request, stored: Stored) -> Answer:
        headers = {**stored.headers, "ETag": stored.etag, "Last-Modified": formatdate(stored.mtime, usegmt=True)}
        size = len(stored.data)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if asked is None or self.faults.whole:
            return Answer(200, headers, stored.data)
        start, end = int(asked[1]), int(asked[2] or size - 1) + 1
        if (start >= size or end > size) and (answer := self.unsatisfiable(request)) is not None:
            return answer._replace(headers=headers, body=stored.data)
        if start >= size:
            raise Refused(416, "InvalidRange", "The requested range cannot be satisfied.")
        data = stored.data[start:end]
        headers["Content-Range"] = f"bytes {start}-{start + len(data) - 1}/{size}"
        return Answer(206, headers, data)

    def _in_parts(self, request: Request, objects: dict[str, Stored]) -> Answer:
        if request.method == "POST" and "uploads" in request.query:
            self._stored(request, b"")
            upload = f"upload-{next(self._numbers)}"
            self.uploads[upload] = (request, {})
            told = node("Bucket", request.bucket) + node("Key", request.key) + node("UploadId", upload)
            return Answer(body=f"<InitiateMultipartUploadResult>{told}</InitiateMultipartUploadResult>".encode())
        if request.query["uploadId"] not in self.uploads:
            raise Refused(404, "NoSuchUpload", "The specified multipart upload does not exist.")
        begun, parts = self.uploads[request.query["uploadId"]]
        match request.method:
            case "PUT":
                parts[int(request.query["partNumber"])] = request.body
                return Answer(200, {"ETag": f'"{hashlib.md5(request.body).hexdigest()}"'})
            case "DELETE":
                del self.uploads[request.query["uploadId"]]
                return Answer(204)
        for each in ElementTree.fromstring(request.body).iter("Part"):
            part = parts.get(int(each.findtext("PartNumber") or 0), b"")
            if (each.findtext("ETag") or "").strip('"').lower() != hashlib.md5(part).hexdigest():
                raise Refused(400, "InvalidPart")
        stored = self._stored(begun, b"".join(parts[number] for number in sorted(parts)))
        objects[request.key] = stored
        del self.uploads[request.query["uploadId"]]
        told = node("Key", request.key) + node("ETag", stored.etag)
        return Answer(200, {"ETag": stored.etag}, f"<CompleteResult>{told}</CompleteResult>".encode())


def node(tag: str, text: object) -> str:
    """An element that holds text."""
    return f"<{tag}>{escape(str(text))}</{tag}>"


def iso(moment: float) -> str:
    """A time as listings tell it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(moment))


def find(objects: dict[str, Stored], key: str) -> Stored:
    if key not in objects:
        raise Refused(404, "NoSuchKey", "The specified key does not exist.")
    return objects[key]


class Page(NamedTuple):
    """A page of a listing."""

    objects: list[tuple[str, Stored]]
    folded: list[str]
    truncated: bool
    last: str


def page_of(objects: dict[str, Stored], query: Mapping[str, str], after: str) -> Page:
    """Keys behind `after`. A directory comes again if there are keys of it behind `after`, as some services have it."""
    prefix, delimiter, limit = query.get("prefix", ""), query.get("delimiter", ""), int(query.get("max-keys") or 1000)
    listed: list[tuple[str, Stored]] = []
    folded: list[str] = []
    last = ""
    for key in sorted(objects, key=str.encode):
        if not key.startswith(prefix) or key <= after:
            continue
        cut = key.find(delimiter, len(prefix)) if delimiter else -1
        name = key[: cut + len(delimiter)] if cut >= 0 else key
        if cut >= 0 and name in folded:
            continue
        if len(listed) + len(folded) == limit:
            return Page(listed, folded, True, last)
        last = name
        if cut >= 0:
            folded.append(name)
        else:
            listed.append((key, objects[key]))
    return Page(listed, folded, False, last)


def listed(page: Page, url_encoded: bool) -> str:
    """The elements that both services have for what a page holds."""
    name = quote if url_encoded else str
    contents = "".join(
        f"<Contents>{node('Key', name(key))}{node('LastModified', iso(each.mtime))}{node('ETag', each.etag)}"
        f"<Type>Normal</Type>{node('Size', len(each.data))}<StorageClass>Standard</StorageClass></Contents>"
        for key, each in page.objects
    )
    folded = "".join(f"<CommonPrefixes>{node('Prefix', name(each))}</CommonPrefixes>" for each in page.folded)
    return contents + folded + node("IsTruncated", str(page.truncated).lower())
