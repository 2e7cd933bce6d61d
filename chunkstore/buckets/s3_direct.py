"""GET and PUT of one object, the two requests of every block, past the client that boto3 makes.

That client spends more time on a request than signing and sending it takes: endpoints are looked up, arguments checked,
hooks called, answers parsed. Measured for an object of 4 KiB: 2.3 ms of processor time with it, 1.1 ms without. What
signs (`RequestSigner`) and what sends (its HTTP session: connections, proxies, TLS) are botocore's all the same.

Where requests go and how they are signed is learned from the first one that succeeds, which the client makes; so all
that it knows of addresses, regions and credentials holds here. Not here: any answer but success and a service that is
busy. `s3` then asks once more through the client, which knows what to make of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from xml.etree import ElementTree

from chunkstore.buckets.s3_body import Outgoing

_PLAIN_KEY = re.compile(r"(?:[\w-][\w.-]*/)*[\w-][\w.-]*", re.ASCII)  # spelt alike in a URL and in what is signed
_META = "x-amz-meta-"


class _Known(NamedTuple):
    """What the client has shown: the URL before the key, and what `RequestSigner.sign` must be told."""

    base: str
    agent: str
    signer: Any
    context: dict[str, Any]


class Direct:
    """The short way to the bucket of a boto3 client, once the client has made a request of its own."""

    def __init__(self, client: Any) -> None:
        # Not among what botocore documents, so without it everything goes through the client.
        self._session = getattr(getattr(client, "_endpoint", None), "http_session", None)
        self._known: _Known | None = None
        self._shown: _Known | None = None  # by a request that is under way
        self._asked = ""  # the key of that request
        for operation in ("GetObject", "PutObject"):
            client.meta.events.register(f"before-sign.s3.{operation}", self._learn)

    def learn_from(self, key: str) -> None:
        """The client is about to make a request for this key."""
        if self._known is None and _PLAIN_KEY.fullmatch(key):
            self._asked = key

    def _learn(self, request: Any, request_signer: Any, **_: Any) -> None:
        key = self._asked
        if self._known is None and key and request.url.endswith(f"/{key}") and not urlsplit(request.url).query:
            base = request.url[: -len(key)]
            agent = request.headers.get("User-Agent", "")
            kept = {name: request.context[name] for name in _CONTEXT if name in request.context}
            self._shown = _Known(base, agent, request_signer, kept)

    def learned(self) -> None:
        """The request from which to learn has succeeded."""
        if self._known is None:
            self._known = self._shown

    def get(self, key: str, span: str) -> dict[str, Any] | None:
        """The answer as `get_object` gives it; None if the client is to be asked. `span`: the range header or empty."""
        response = self._send("GetObject", "GET", key, {"Range": span} if span else {}, None)
        if response is None:
            return None
        if response.status_code not in (200, 206):
            _ = response.content  # to its end, so that the connection can be used again
            return None
        from botocore.response import StreamingBody

        headers = response.headers
        length = headers.get("Content-Length", "")
        if not length.isdecimal():
            response.raw.close()
            return None
        metadata = {name[len(_META) :]: value for name, value in headers.items() if name.lower().startswith(_META)}
        return {
            "Body": StreamingBody(response.raw, length), "ContentLength": int(length),
            "ContentRange": headers.get("Content-Range"), "Metadata": metadata,
        }  # fmt: skip

    def put(self, key: str, body: Outgoing, headers: Mapping[str, str], metadata: Mapping[str, str]) -> bool:
        """Whether the object is stored; if not, the client is to try."""
        told = {**headers, **{_META + name: value for name, value in metadata.items()}}
        response = self._send("PutObject", "PUT", key, told, body)
        if response is None:
            return False
        _ = response.content
        return bool(response.status_code == 200)

    def _send(self, operation: str, method: str, key: str, headers: dict[str, str], body: Outgoing | None) -> Any:
        known = self._known
        if known is None or self._session is None or not _PLAIN_KEY.fullmatch(key):
            return None
        from botocore.awsrequest import AWSRequest

        headers["User-Agent"] = known.agent
        request = AWSRequest(method, known.base + key, headers, body, stream_output=body is None)
        request.context.update(known.context)
        known.signer.sign(operation, request)
        response = self._session.send(request.prepare())
        if response.status_code >= 500 or response.status_code == 429:
            raise _busy(response, operation)
        return response


_CONTEXT = ("client_config", "client_region", "signing", "auth_type", "has_streaming_input")
"""What signing looks at, of what a request of the client carries along."""


def _busy(response: Any, operation: str) -> Any:
    """As the client raises it. Asking once more would be what a busy service needs least."""
    from botocore.exceptions import ClientError

    code, message = str(response.status_code), ""
    try:
        told = {each.tag.rpartition("}")[2]: each.text or "" for each in ElementTree.fromstring(response.content)}
        code, message = told.get("Code") or code, told.get("Message", "")
    except ElementTree.ParseError:
        pass
    metadata = {"HTTPStatusCode": response.status_code, "HTTPHeaders": dict(response.headers)}
    return ClientError({"Error": {"Code": code, "Message": message}, "ResponseMetadata": metadata}, operation)
