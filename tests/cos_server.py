"""A server that speaks the language of Tencent COS, and checks its signatures (`object_server` has the rest)."""

from __future__ import annotations

import hashlib
import hmac
from functools import cache
from urllib.parse import quote, unquote

from object_http import Answer, Refused, Request
from object_server import (
    ACCESS_KEY,
    SECRET_KEY,
    ObjectServer,
    Stored,
    listed,
    node,
    page_of,
)

from chunkstore.bucket import Access, Bucket
from chunkstore.buckets import open_bucket

REGION = "ap-test"


class CosServer(ObjectServer):
    prefix = "x-cos-"
    classes = frozenset(("STANDARD", "STANDARD_IA", "INTELLIGENT_TIERING", "ARCHIVE"))
    account = "service.cos.myqcloud.com"

    def address(self, bucket: str) -> str:
        return f"http://{bucket}.cos.{REGION}.myqcloud.com"

    def open(self, bucket: str = "", address: str = "", **changes: object) -> Bucket:
        """A bucket of this server, a new one unless it is named."""
        settings = {"access_key": ACCESS_KEY, "secret_key": SECRET_KEY, **changes}
        with self.proxied():
            return open_bucket("cos", address or self.address(bucket or self.new_name()), Access(**settings))  # type: ignore[arg-type]

    def authorize(self, request: Request) -> None:
        pairs = (each.partition("=") for each in request.headers.get("authorization", "").split("&"))
        told = {name: value for name, _, value in pairs}
        secret = self.keys.get(told.get("q-ak", ""))
        if told.get("q-sign-algorithm") != "sha1" or "host" not in told.get("q-header-list", "").split(";"):
            raise Refused(403, "AccessDenied", "Access Denied.")
        if secret is None:
            raise Refused(403, "InvalidAccessKeyId", "The Access Key Id you provided does not exist in our records.")
        begin, end = map(int, told["q-sign-time"].split(";"))
        if self.now() < begin:
            raise Refused(403, "RequestTimeTooSkewed", "The difference to the server's time is too large.")
        if self.now() > end:
            raise Refused(403, "AccessDenied", "Request has expired")
        signed = "\n".join(
            (
                request.method.lower(),
                unquote(request.path),
                _canonical(request.query, told["q-url-param-list"]),
                _canonical(request.headers, told["q-header-list"]),
                "",
            )
        )
        to_sign = f"sha1\n{told['q-sign-time']}\n{hashlib.sha1(signed.encode()).hexdigest()}\n"
        wanted = _hmac(_hmac(secret, told["q-key-time"]), to_sign)
        if wanted != told["q-signature"]:
            raise Refused(
                403, "SignatureDoesNotMatch", "The Signature you specified is invalid.",
                StringToSign=to_sign, FormatString=signed, SignatureProvided=told["q-signature"],
            )  # fmt: skip

    def refusal(self, error: Refused, request: Request) -> bytes:
        elements = {
            "Code": error.code, "Message": error.message, "Resource": f"{request.host}{request.path}", **error.more,
            "RequestId": "NTk0NTRjZjZfNTViMjM1XzlkMV9hZTZh", "TraceId": "OGVmYzZiMmQzYjA2OWNhODk0NTRkMTBiOWVmMDAxODc0",
        }  # fmt: skip
        inner = "".join(node(tag, text) for tag, text in elements.items())
        return f"<?xml version='1.0' encoding='utf-8' ?><Error>{inner}</Error>".encode()

    def listing(self, request: Request, objects: dict[str, Stored]) -> Answer:
        page = page_of(objects, request.query, request.query.get("marker", ""))
        encoded = request.query.get("encoding-type") == "url"
        rest = node("NextMarker", quote(page.last) if encoded else page.last) if page.truncated else ""
        return Answer(body=f"<ListBucketResult>{listed(page, encoded)}{rest}</ListBucketResult>".encode())

    def deletion(self, gone: list[str], kept: list[str], quiet: bool) -> bytes:
        told = "" if quiet else "".join(f"<Deleted>{node('Key', key)}</Deleted>" for key in gone)
        why = node("Code", "AccessDenied") + node("Message", "Access Denied.")
        told += "".join(f"<Error>{node('Key', key)}{why}</Error>" for key in kept)
        return f"<DeleteResult>{told}</DeleteResult>".encode()

    def of_account(self, request: Request) -> Answer:
        """The buckets, one a page: clients must turn pages."""
        names = sorted(name for name in self.buckets if name > request.query.get("marker", ""))
        inner = "".join(f"<Bucket>{node('Name', name)}{node('Location', REGION)}</Bucket>" for name in names[:1])
        more = f"<IsTruncated>true</IsTruncated>{node('NextMarker', names[0])}" if len(names) > 1 else ""
        return Answer(body=f"<Result><Buckets>{inner}</Buckets>{more}</Result>".encode())

    def bad_class(self) -> Refused:
        return Refused(400, "InvalidStorageClass", "The storage class you specified is not valid.")

    def copy_source(self, source: str) -> tuple[str, str]:
        host, _, key = source.partition("/")
        return host.partition(".")[0], unquote(key)


def _canonical(values: dict[str, str], names: str) -> str:
    lowered = {quote(name, safe="-_.~").lower(): value for name, value in values.items()}
    return "&".join(f"{name}={quote(lowered.get(name, ''), safe='-_.~')}" for name in names.split(";") if name)


def _hmac(key: str, text: str) -> str:
    return hmac.new(key.encode(), text.encode(), hashlib.sha1).hexdigest()


@cache
def shared_server() -> CosServer:
    """One for the whole run."""
    return CosServer()
