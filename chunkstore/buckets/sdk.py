"""What buckets behind an SDK over `requests` share: addresses, connections, headers, and what goes wrong on the way.

Not a protocol: those are `cos` and `oss`. Their SDKs sign and spell requests. What they would also decide by themselves
is decided here: one attempt per call, no redirects, no look at .netrc, no checksums but ours, no lines in our log.
"""

from __future__ import annotations

import binascii
import hashlib
import logging
import os
import socket
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from chunkstore import sums
from chunkstore.bucket import Access, Data, Listing, ObjectInfo
from chunkstore.buckets.remote import RemoteBucket, Response, Stream, content_range
from chunkstore.buckets.s3_address import split_query
from chunkstore.errors import BadBucket, NotFound, StoreError, Timeout, Unavailable

USER_AGENT = "JuiceFS-1.4.1"  # of the official client whose formats these are

_BATCH = 1000  # keys per deletion
_HOSTS = 4  # that one bucket may talk to
_PIECE = 128 << 10
_AFTER_ALL = "\U0010ffff"  # sorts behind every name
_SOCKET_OPTIONS = ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1))
_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


class Place(NamedTuple):
    """Where a bucket is: the parts of its address."""

    scheme: str
    host: str  # with the port, if one was given
    query: Mapping[str, str] = {}

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    @property
    def checksums(self) -> bool:
        """Whether more than our own sums is wanted, which come in any case."""
        return self.query.get("disable-checksum", "").lower() != "true"


def parse(address: str, example: str) -> Place:
    """Read an address; without a scheme it is https. `BadBucket` if it is none, with an example of what is."""
    bare, query = split_query(address)
    uri = urlsplit(bare if "://" in bare else f"https://{bare}")
    if "@" in uri.netloc:
        raise BadBucket(f"a bucket address holds no keys; give --access-key and --secret-key, and write {example}")
    try:
        uri.port  # noqa: B018 - raises if it is no number
    except ValueError as error:
        raise BadBucket(f"invalid bucket address {address}: {error}") from None
    if uri.scheme not in ("http", "https") or not uri.hostname:
        raise BadBucket(f"invalid bucket address {address}; write for example {example}")
    return Place(uri.scheme, uri.netloc, query)


def silence(logger: str) -> None:
    """Keep an SDK's own lines out of every log: they hold headers, with tokens, and tracebacks of each failure."""
    logging.getLogger(logger).setLevel(logging.CRITICAL + 1)


def new_session(place: Place, access: Access) -> Any:
    """Connections to a place, of many threads. The environment is asked for proxies now, not at each request."""
    import requests
    from requests.utils import get_environ_proxies

    session = requests.Session()
    session.trust_env = False
    session.proxies = get_environ_proxies(place.url)
    session.headers.clear()  # above all, no Accept-Encoding: objects come as they are
    session.headers["User-Agent"] = USER_AGENT
    session.hooks["response"] = [_refuse_redirect]
    for scheme in ("http://", "https://"):
        session.mount(scheme, _adapter(access.connections))
    _secure(session, place.query)
    return session


def _adapter(connections: int) -> Any:
    from requests.adapters import HTTPAdapter

    class Adapter(HTTPAdapter):
        """With the same sockets to a proxy: there, the library would have each body wait for an acknowledgement."""

        def init_poolmanager(self, *args: Any, **named: Any) -> None:
            super().init_poolmanager(*args, socket_options=_SOCKET_OPTIONS, **named)

        def proxy_manager_for(self, proxy: str, **named: Any) -> Any:
            return super().proxy_manager_for(proxy, socket_options=_SOCKET_OPTIONS, **named)

    return Adapter(pool_connections=_HOSTS, pool_maxsize=connections)


def _secure(session: Any, query: Mapping[str, str]) -> None:
    """What the generic keys of an address, and the environment, say of TLS."""
    for name in ("ca-certs", "ssl-cert", "ssl-key"):
        if query.get(name) and not os.path.exists(query[name]):
            raise BadBucket(f"{name} in the bucket's address: there is no file {query[name]}")
    bundles = (query.get("ca-certs"), *map(os.environ.get, _CA_VARIABLES))
    session.verify = next(filter(None, bundles), True)
    if query.get("tls-insecure-skip-verify", "").lower() in ("true", "1"):
        from urllib3 import disable_warnings
        from urllib3.exceptions import InsecureRequestWarning

        disable_warnings(InsecureRequestWarning)
        session.verify = False
    if query.get("ssl-cert"):
        session.cert = (query["ssl-cert"], query["ssl-key"]) if query.get("ssl-key") else query["ssl-cert"]


def _refuse_redirect(response: Any, *_: object, **__: object) -> None:
    """An SDK takes every status below 400 for success, and the page of a portal for an object."""
    from requests import RequestException

    if 300 <= response.status_code < 400:
        response.close()
        target = urlsplit(response.headers.get("Location", "")).netloc or "another place"
        raise RequestException(f"it redirects to {target} (status {response.status_code})")


class Pieces:
    """A body on its way out: a socket's time limit is for one send, and a whole block may well take longer."""

    def __init__(self, data: Data) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __iter__(self) -> Iterator[memoryview]:
        view = memoryview(self._data)
        return (view[start : start + _PIECE] for start in range(0, len(view), _PIECE))


def outgoing(data: Data) -> Pieces | bytes:
    """`data` as `requests` sends it with its length, uncopied."""
    return Pieces(data) if len(data) else b""


def lowered(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers by their names in lower case."""
    return {name.lower(): value for name, value in headers.items()}


def unreachable(error: BaseException, host: str, what: str) -> StoreError:
    """The error for a request that failed on its way, out of what the libraries wrapped it in."""
    import requests
    from urllib3.exceptions import ReadTimeoutError

    chain = list(_causes(error))
    if any(isinstance(each, requests.Timeout | ReadTimeoutError | TimeoutError) for each in chain):
        return Timeout(f"{what}: {host} did not answer in time")
    told = (each.strerror for each in chain if isinstance(each, OSError) and each.strerror)
    reason = next(told, "") or str(chain[-1]) or type(chain[-1]).__name__
    return Unavailable(f"{what}: no sound answer from {host}: {one_line(reason)}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def one_line(reason: object) -> str:
    return " ".join(str(reason).split())


class SdkBucket(RemoteBucket):
    """One bucket of a service; `prefix` is what the names of the service's own headers begin with."""

    prefix: str

    def __init__(self, place: Place, access: Access) -> None:
        super().__init__(access)
        self._place = place
        self._session = new_session(place, access)

    @abstractmethod
    def _delete_batch(self, keys: list[str], what: str) -> dict[str, Exception]:
        """One request for up to 1000 keys; what was not removed, and why."""

    @property
    def _timeouts(self) -> tuple[float, float]:
        return self.access.connect_timeout_s, self.access.timeout_s

    def close(self) -> None:
        self._session.close()

    def delete_many(self, keys: Iterable[str]) -> dict[str, Exception]:
        failed: dict[str, Exception] = {}
        rest = iter(keys)
        while batch := list(islice(rest, _BATCH)):
            if len(batch) < 3:  # as many requests, and no body to sign
                failed.update(super().delete_many(batch))
                continue
            what = f"delete {len(batch)} objects of {self.describe()}"
            try:
                failed.update(self._delete_batch(batch, what))
            except StoreError as error:
                failed.update(dict.fromkeys(batch, error))
        return {key: error for key, error in failed.items() if not isinstance(error, NotFound)}

    def _call(self, what: str, request: Any, *args: Any, **named: Any) -> Any:
        try:
            return request(*args, **named)
        except Exception as error:
            raise self._failed(error, what) from error

    @property
    def has_classes(self) -> bool:
        return True

    def _of_tier(self, tier: int) -> dict[str, str]:
        """Headers for the storage class and the tag of a tier."""
        wanted = self.access.tier(tier)
        headers = {}
        if wanted.storage_class:
            headers[f"{self.prefix}storage-class"] = wanted.storage_class
        if wanted.tag:
            name, _, value = wanted.tag.partition("=")
            headers[f"{self.prefix}tagging"] = urlencode({name: value})
        return headers

    def _of_object(self, data: Data, tier: int) -> dict[str, str]:
        """Headers of an object that is put."""
        headers = {"Content-Type": "application/octet-stream", **self._of_tier(tier)}
        headers |= {f"{self.prefix}meta-{name}": value for name, value in sums.of(data, self.access.sum_unit).items()}
        if self._place.scheme == "http" and self._place.checksums:  # nothing else tells of bytes changed on their way
            digest = hashlib.md5(data, usedforsecurity=False).digest()
            headers["Content-MD5"] = binascii.b2a_base64(digest, newline=False).decode()
        return headers

    def _response(self, headers: Mapping[str, str], stream: Stream, what: str) -> Response:
        """A GET that succeeded, by its headers."""
        told = lowered(headers)
        meta = f"{self.prefix}meta-"
        try:
            start, end, total = content_range(told.get("content-range"), int(told["content-length"]))
        except (KeyError, ValueError, StoreError):
            stream.close()
            raise Unavailable(f"{what}: the answer does not say which bytes it holds") from None
        metadata = {name.removeprefix(meta): value for name, value in told.items() if name.startswith(meta)}
        return Response(start, end, total, metadata, stream)


def list_from(after: str, delimiter: str) -> str:
    """Where a page begins: behind everything that was folded into the directory `after`."""
    return after + _AFTER_ALL if delimiter and after.endswith(delimiter) else after


def page(found: Iterable[ObjectInfo], more: bool, after: str, what: str) -> Listing:
    """A page of what a service has listed, in order."""
    objects = sorted((each for each in found if each.key > after), key=lambda each: each.key.encode())
    if more and not objects:
        raise Unavailable(f"{what}: the storage promises more and gives none")
    return Listing(objects, more)
