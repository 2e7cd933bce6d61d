"""A server that speaks the language of Alibaba OSS, and checks its signatures, versions 1 and 4.

`object_server` has the rest. It is also the metadata service of its cloud, which grants keys to machines with a role.
"""

from __future__ import annotations

import base64
import calendar
import hashlib
import hmac
import json
import re
import time
from email.utils import parsedate_to_datetime
from functools import cache
from urllib.parse import quote, unquote

from object_http import Answer, Refused, Request
from object_server import (
    ACCESS_KEY,
    SECRET_KEY,
    ObjectServer,
    Stored,
    iso,
    listed,
    node,
    page_of,
)

from chunkstore.bucket import Access, Bucket
from chunkstore.buckets import open_bucket

REGION = "cn-test"
SIGNED_QUERY = {"acl", "bucketInfo", "continuation-token", "delete", "partNumber", "tagging", "uploadId", "uploads"}
"""Of all that version 1 signs, what matters here."""
METADATA = "/latest/meta-data/ram/security-credentials/"
_SKEW_S = 15 * 60


class OssServer(ObjectServer):
    prefix = "x-oss-"
    classes = frozenset(("Standard", "IA", "Archive"))

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.roles: dict[str, tuple[str, str, str]] = {}  # of this machine, with their keys
        self.role_age_s, self.role_lasts_s = 0, 3600  # of its keys
        self.inner = False  # whether the inner endpoint can be reached
        self.homes: dict[str, str] = {}  # regions of buckets, where it is another one

    def address(self, bucket: str, version: int = 1) -> str:
        """By its path, for which version 1 has to do, or by the name of the cloud."""
        return (
            f"http://{bucket}.127.0.0.1:{self.port}" if version == 1 else f"http://{bucket}.oss-{REGION}.aliyuncs.com"
        )

    def open(self, bucket: str = "", address: str = "", version: int = 1, **changes: object) -> Bucket:
        """A bucket of this server, a new one unless it is named."""
        settings = {"access_key": ACCESS_KEY, "secret_key": SECRET_KEY, **changes}
        with self.proxied():
            address = address or self.address(bucket or self.new_name(), version)
            return open_bucket("oss", address, Access(**settings))  # type: ignore[arg-type]

    def serve(self, request: Request) -> Answer:
        if request.path.startswith(METADATA):
            return self._role(request.path.removeprefix(METADATA))
        if "-internal." in request.host and not self.inner:
            raise Refused(502, "BadGateway")
        return super().serve(request)

    def _role(self, name: str) -> Answer:
        if not self.roles or (name and name not in self.roles):
            return Answer(404, body=b"<html>404 - Not Found</html>")
        if not name:
            return Answer(body="\n".join(self.roles).encode())
        key, secret, token = self.roles[name]
        now = int(time.time())
        told = {
            "Code": "Success", "AccessKeyId": key, "AccessKeySecret": secret, "SecurityToken": token,
            "LastUpdated": _moment(now - self.role_age_s), "Expiration": _moment(now + self.role_lasts_s),
        }  # fmt: skip
        return Answer(body=json.dumps(told).encode())

    def authorize(self, request: Request) -> None:
        authorization = request.headers.get("authorization", "")
        if authorization.startswith("OSS4-HMAC-SHA256 "):
            self._check_4(request, dict(re.findall(r"(\w+)=([^,]+)", authorization)))
        else:
            self._check_1(request, authorization)
        home = self.homes.get(request.bucket, REGION)
        if _region(request.host) != home:
            message = "The bucket you are attempting to access must be addressed using the specified endpoint."
            raise Refused(403, "AccessDenied", message, Endpoint=f"oss-{home}.aliyuncs.com")

    def _secret(self, key: str) -> str:
        if key not in self.keys:
            raise Refused(
                403, "InvalidAccessKeyId", "The OSS Access Key Id you provided does not exist in our records."
            )
        return self.keys[key]

    def _check_time(self, moment: float) -> None:
        if abs(self.now() - moment) > _SKEW_S:
            raise Refused(
                403,
                "RequestTimeTooSkewed",
                "The difference between the request time and the current time is too large.",
            )

    def _check_1(self, request: Request, authorization: str) -> None:
        match = re.fullmatch(r"OSS ([^:]+):(\S+)", authorization)
        if match is None:
            raise Refused(403, "AccessDenied", "Anonymous access is forbidden for this operation.")
        secret = self._secret(match[1])
        headers = request.headers
        self._check_time(parsedate_to_datetime(headers["date"]).timestamp())
        ours = sorted((name, value) for name, value in headers.items() if name.startswith("x-oss-"))
        signed = sorted((name, value) for name, value in request.query.items() if name in SIGNED_QUERY)
        resource = f"/{request.bucket}/{request.key}" if request.bucket else "/"
        resource += "?" * bool(signed) + "&".join(f"{name}={value}" if value else name for name, value in signed)
        to_sign = "\n".join(
            (
                request.method,
                headers.get("content-md5", ""),
                headers.get("content-type", ""),
                headers["date"],
                "".join(f"{name}:{value}\n" for name, value in ours) + resource,
            )
        )
        wanted = base64.b64encode(hmac.new(secret.encode(), to_sign.encode(), hashlib.sha1).digest()).decode()
        self._compare(wanted, match[2], to_sign, match[1])

    def _check_4(self, request: Request, told: dict[str, str]) -> None:
        key, date, region, product, kind = told["Credential"].split("/")
        secret = self._secret(key)
        moment = request.headers["x-oss-date"]
        self._check_time(calendar.timegm(time.strptime(moment, "%Y%m%dT%H%M%SZ")))
        if (region, product, kind) != (_region(request.host), "oss", "aliyun_v4_request"):
            raise Refused(400, "InvalidArgument", "Invalid signing region in Authorization header.")
        query = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in request.query.items())
        signed = sorted(
            (name, value)
            for name, value in request.headers.items()
            if name in ("content-type", "content-md5") or name.startswith("x-oss-")
        )
        canonical = "\n".join(
            (
                request.method,
                quote(f"/{request.bucket}/{request.key}", safe="/-_.~"),
                "&".join(f"{name}={value}" if value else name for name, value in query),
                "".join(f"{name}:{value}\n" for name, value in signed),
                "",
                "UNSIGNED-PAYLOAD",
            )
        )
        scope = f"{date}/{region}/oss/aliyun_v4_request"
        to_sign = f"OSS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signing_key = f"aliyun_v4{secret}".encode()
        for each in (date, region, "oss", "aliyun_v4_request"):
            signing_key = hmac.new(signing_key, each.encode(), hashlib.sha256).digest()
        wanted = hmac.new(signing_key, to_sign.encode(), hashlib.sha256).hexdigest()
        self._compare(wanted, told["Signature"], f"{to_sign}\n{canonical}", key)

    def _compare(self, wanted: str, provided: str, to_sign: str, key: str) -> None:
        if wanted != provided:
            message = "The request signature we calculated does not match the signature you provided."
            more = {"OSSAccessKeyId": key, "SignatureProvided": provided, "StringToSign": to_sign}
            raise Refused(403, "SignatureDoesNotMatch", message, **more)

    def bad_token(self) -> Refused:
        return Refused(403, "InvalidSecurityToken", "The security token you provided is invalid.", Token=self.token)

    def refusal(self, error: Refused, request: Request) -> bytes:
        elements = {"Code": error.code, "Message": error.message, "RequestId": "5C3D9175B6FC201293AD4890", **error.more}
        inner = "".join(node(tag, text) for tag, text in {**elements, "HostId": request.host}.items())
        return f'<?xml version="1.0" encoding="UTF-8"?><Error>{inner}</Error>'.encode()

    def listing(self, request: Request, objects: dict[str, Stored]) -> Answer:
        query = request.query
        if query.get("list-type") != "2":
            raise Refused(400, "InvalidArgument")
        page = page_of(objects, query, query.get("continuation-token") or query.get("start-after", ""))
        encoded = query.get("encoding-type") == "url"
        rest = "<EncodingType>url</EncodingType>" if encoded else ""
        if page.truncated:
            rest += node("NextContinuationToken", quote(page.last) if encoded else page.last)
        return Answer(body=f"<ListBucketResult>{listed(page, encoded)}{rest}</ListBucketResult>".encode())

    def deletion(self, gone: list[str], kept: list[str], quiet: bool) -> bytes:
        told = "" if quiet else "".join(f"<Deleted>{node('Key', quote(key))}</Deleted>" for key in gone)
        return f"<DeleteResult><EncodingType>url</EncodingType>{told}</DeleteResult>".encode()

    def of_bucket(self, request: Request) -> Answer | None:
        if "bucketInfo" not in request.query:
            return None
        home = self.homes.get(request.bucket, REGION)
        told = {
            "Name": request.bucket, "CreationDate": iso(self.now()), "StorageClass": "Standard",
            "ExtranetEndpoint": f"oss-{home}.aliyuncs.com", "IntranetEndpoint": f"oss-{home}-internal.aliyuncs.com",
            "Location": f"oss-{home}",
        }  # fmt: skip
        inner = "".join(node(tag, text) for tag, text in told.items())
        owner = "<Owner><DisplayName>1</DisplayName><ID>1</ID></Owner>"
        grant = "<AccessControlList><Grant>private</Grant></AccessControlList>"
        return Answer(body=f"<BucketInfo><Bucket>{inner}{owner}{grant}</Bucket></BucketInfo>".encode())

    def unsatisfiable(self, request: Request) -> Answer | None:
        return None if request.headers.get("x-oss-range-behavior") == "standard" else Answer(200)

    def bad_class(self) -> Refused:
        return Refused(400, "InvalidArgument", "The value of x-oss-storage-class is invalid.")

    def copy_source(self, source: str) -> tuple[str, str]:
        bucket, _, key = unquote(source)[1:].partition("/")
        return bucket, key


def _region(host: str) -> str:
    """Whose servers answer under a name."""
    named = re.match(r"[^.]+\.oss-([^.]+?)(-internal|-vpc)?\.aliyuncs", host)
    return named[1] if named else REGION


def _moment(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


@cache
def shared_server() -> OssServer:
    """One for the whole run."""
    return OssServer()
