"""What buckets that are reached over HTTP have in common: ranges, checksums of what comes, failures by status.

Not a protocol: a driver answers `_open` with one response, and everything that is asked of it is here. A server may
give more than was asked for (some ignore ranges): what counts is what the response says that it holds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from chunkstore import sums
from chunkstore.bucket import Access, Bucket
from chunkstore.errors import (
    BadBucket,
    Denied,
    NoSpace,
    NotFound,
    StoreError,
    Throttled,
    Timeout,
    Unavailable,
    Unsupported,
)
from chunkstore.sums import Span

_PIECE = 120 << 10  # read at once: below what malloc maps apart, which costs a fault per page
PATIENCE = 10  # times the timeout: a transfer that moves, but hardly, ends after that


class Stream(Protocol):
    """The body of a response."""

    def readinto(self, buffer: memoryview, /) -> int: ...

    def close(self) -> None: ...


class Response(NamedTuple):
    """A successful GET: bytes from `start` of an object of `total` bytes, up to `end`."""

    start: int
    end: int
    total: int
    metadata: Mapping[str, str]
    stream: Stream


class RemoteBucket(Bucket):
    """Reads for drivers that can open one range of an object."""

    def __init__(self, access: Access) -> None:
        self.access = access

    def _open(self, key: str, start: int, end: int | None) -> Response:
        """One GET of [start, end), to the end when `end` is None. Raises StoreError; past the end: an empty one."""
        raise NotImplementedError

    def _failed(self, error: Exception, what: str) -> StoreError:
        """The error of this room for one of the driver's library."""
        raise NotImplementedError

    def get_into(self, key: str, offset: int, view: memoryview) -> int:
        wanted = Span(offset, offset + len(view))
        asked = wanted.widened(self.access.sum_unit)
        answer = self._open_at(key, asked.start, asked.end)
        length = answer.end - answer.start
        if answer.start == offset and length <= len(view):
            self._fill(key, answer, view[:length])
            return length
        data = memoryview(bytearray(length))
        self._fill(key, answer, data)
        part = data[max(0, offset - answer.start) : max(0, wanted.end - answer.start)]
        view[: len(part)] = part
        return len(part)

    def get(self, key: str, offset: int = 0, length: int = -1) -> bytes:
        answer = self._open_at(key, offset, None if length < 0 else offset + length)
        data = bytearray(answer.end - answer.start)
        with memoryview(data) as view:
            self._fill(key, answer, view)
        skip = offset - answer.start
        if skip > 0 or 0 <= length < len(data):
            return bytes(data[skip : skip + length] if length >= 0 else data[skip:])
        return bytes(data)

    def _open_at(self, key: str, start: int, end: int | None) -> Response:
        """As `_open`. An answer may hold more than was asked for, but not begin later.

        A whole block is asked for without a range, as official clients do: not every server, cache or proxy on the way
        treats both alike.
        """
        if start == 0 and end is not None and 0 < self.access.block_size <= end:
            end = None
        answer = self._open(key, start, end)
        if answer.start > start:
            answer.stream.close()
            raise Unavailable(f"object {self.describe()}{key}: asked for bytes from {start}, got others")
        return answer

    def _fill(self, key: str, answer: Response, view: memoryview) -> None:
        """The whole body into `view`, verified."""
        what = f"object {self.describe()}{key}"
        deadline = time.monotonic() + PATIENCE * self.access.timeout_s
        got = 0
        try:
            while got < len(view):
                count = answer.stream.readinto(view[got : got + _PIECE])
                if not count:
                    raise Unavailable(f"{what}: the connection ended after {got} of {len(view)} bytes")
                got += count
                if time.monotonic() > deadline:
                    raise Timeout(f"{what}: {got} of {len(view)} bytes came in {PATIENCE * self.access.timeout_s:g} s")
        except StoreError:
            raise
        except Exception as error:
            raise self._failed(error, f"read {what}") from error
        finally:
            answer.stream.close()
        sums.verify(view, answer.start, answer.total, answer.metadata, self.access.sum_unit, what)


def content_range(header: str | None, length: int) -> tuple[int, int, int]:
    """Start, end and total of a body of `length` bytes. Without the header, it is the whole object."""
    if not header:
        return 0, length, length
    span, _, total = header.removeprefix("bytes").strip().partition("/")
    first, _, last = span.partition("-")
    try:
        start, end = int(first), int(last) + 1
        known = int(total) if total.isdecimal() else max(end, 1 << 62)
        if not 0 <= start <= end <= known:
            raise ValueError
        return start, end, known
    except ValueError:
        raise Unavailable(f"the storage answered with a range that makes no sense: {header}") from None


_BY_STATUS: dict[int, type[StoreError]] = {
    301: BadBucket,
    302: Unavailable,
    307: Unavailable,
    308: BadBucket,
    401: Denied,
    403: Denied,
    404: NotFound,
    408: Timeout,
    429: Throttled,
    501: Unsupported,
    503: Throttled,
    504: Timeout,
    507: NoSpace,
}

_BY_CODE: dict[str, type[StoreError]] = {
    "NoSuchBucket": BadBucket,
    "InvalidBucketName": BadBucket,
    "PermanentRedirect": BadBucket,
    "AuthorizationHeaderMalformed": BadBucket,
    "IllegalLocationConstraintException": BadBucket,
    "InvalidStorageClass": BadBucket,
    "AccessDenied": Denied,
    "InvalidAccessKeyId": Denied,
    "SignatureDoesNotMatch": Denied,
    "ExpiredToken": Denied,
    "InvalidToken": Denied,
    "InvalidSecurityToken": Denied,
    "SecurityTokenExpired": Denied,
    "RequestTimeTooSkewed": Denied,
    "RequestIsExpired": Denied,
    "BadDigest": Unavailable,
    "InvalidDigest": Unavailable,
    "XAmzContentSHA256Mismatch": Unavailable,
    "IncompleteBody": Unavailable,
    "OperationAborted": Unavailable,
    "TemporaryRedirect": Unavailable,
    "NotImplemented": Unsupported,
    "UserNetworkTooSlow": Timeout,
    "RequestTimeout": Timeout,
    "SlowDown": Throttled,
    "RequestLimitExceeded": Throttled,
    "QuotaExceeded": NoSpace,
    "XMinioStorageFull": NoSpace,
}

_ADVICE = {
    "NoSuchBucket": "there is no such bucket",
    "PermanentRedirect": "the bucket lives in another region; name its own endpoint",
    "AuthorizationHeaderMalformed": "the region is wrong; name the bucket's own, in its address or in AWS_REGION",
    "IllegalLocationConstraintException": "the region is wrong; name the bucket's own, in its address or in AWS_REGION",
    "InvalidStorageClass": "the storage knows no such storage class; check --storage-class",
    "InvalidAccessKeyId": "it does not know this access key; check --access-key",
    "SignatureDoesNotMatch": "the secret key is wrong; check --secret-key",
    "ExpiredToken": "the session token has expired; get a new one and set it with `juicefs config --session-token`",
    "InvalidToken": "the session token is wrong; check --session-token",
    "InvalidSecurityToken": "the session token is wrong; check --session-token",
    "SecurityTokenExpired": "the session token has expired; get a new one and set it with "
    "`juicefs config --session-token`",
    "RequestTimeTooSkewed": "the clock of this machine is wrong; set it",
    "RequestIsExpired": "the clock of this machine is wrong; set it",
    "BadDigest": "its bytes were changed on their way",
    "InvalidDigest": "its bytes were changed on their way",
    "XAmzContentSHA256Mismatch": "its bytes were changed on their way",
    "AccessDenied": "access is denied; check the permissions of this access key",
    "InvalidObjectState": "it lies in an archive, and has to be restored first",
    "NoSuchResource": "it is not there",
}


_UNTOLD = {301: _ADVICE["PermanentRedirect"], 403: _ADVICE["AccessDenied"], 404: "it is not there"}
"""For answers without a body, such as those to HEAD."""


def refused(status: int, code: str, message: str, what: str) -> StoreError:
    """The error for a response that is a failure. `what` names the action and its object."""
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status) or (Unavailable if status >= 500 or not status else StoreError)
    said = message.strip().rstrip(".")
    told = "" if code == str(status) else said  # an answer without a body: the library has made both up
    advice = _ADVICE.get(code) or told or _UNTOLD.get(status) or said or "no reason was given"
    shown = code or f"status {status}"
    error = kind(f"{what}: {advice} ({shown})")
    if kind is StoreError:  # the request itself was wrong: again would be wrong again
        error.final = True
    return error
