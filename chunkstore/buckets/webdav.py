"""A bucket in a folder of a WebDAV server: an object is a file, its key the path below the folder's URL.

Not the reading of what the server lists (`webdav_xml`), nor connections (`sdk`) and ranges (`remote`). An object is put
under a temporary name, `.jfs.{base}.tmp.{random}`, and moved, so that its name never shows half of it, whatever becomes
of the upload; when the server does not answer any more the temporary file may stay. That much WebDAV can promise. It
does not promise that replacing is one step: servers may remove the old object before they move the new one. Nor has it
checksums. User and password are --access-key and --secret-key, or stand in the URL; they are sent as they are: use
https.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from chunkstore.bucket import Access, Data, ObjectInfo
from chunkstore.buckets import sdk
from chunkstore.buckets.folders import FolderBucket, walk
from chunkstore.buckets.remote import RemoteBucket, Response, content_range, refused
from chunkstore.buckets.s3_address import split_query
from chunkstore.buckets.sdk import Place
from chunkstore.buckets.webdav_xml import QUESTION, Found, read_answer
from chunkstore.buckets.within import within
from chunkstore.errors import BadBucket, NotFound, StoreError, Timeout, Unavailable

_NO_PARENT = (404, 409)  # the answer should be 409
_THERE = 405  # what MKCOL is answered by a folder that exists
_PIECE = 64 << 10
_REMEMBERED = 10_000  # folders, some 100 bytes each
_EXAMPLE = "https://HOST/FOLDER/"
_REASONS = {
    401: "the server does not accept this user and password; check --access-key and --secret-key",
    403: "the server does not allow it to this user",
    404: "not found",
    409: "its folder is not there, and the server does not make it",
    423: "somebody has locked it",
    507: "the server has no room left",
}


def open_webdav(address: str, access: Access) -> WebdavBucket:
    """The bucket at a URL; without a scheme it is http, as with official clients."""
    bare, query = split_query(address)
    uri = urlsplit(bare if "://" in bare else f"http://{bare}")
    host = uri.netloc.rpartition("@")[2]
    try:
        uri.port  # noqa: B018 - raises if it is no number
    except ValueError as error:
        raise BadBucket(f"invalid bucket address at {host}: {error}") from None
    if uri.scheme not in ("http", "https") or not uri.hostname:
        raise BadBucket(f"the bucket of a webdav storage is the URL of a folder, for example {_EXAMPLE}")
    user = access.access_key or unquote(uri.username or "")
    password = access.secret_key if access.access_key else unquote(uri.password or "")
    folder = quote(uri.path, safe="/%").rstrip("/") + "/"
    return WebdavBucket(Place(uri.scheme, host, query), folder, access, (user, password))


class WebdavBucket(FolderBucket, RemoteBucket):
    """The files below `folder`, a path of a URL that ends with "/"."""

    def __init__(self, place: Place, folder: str, access: Access, login: tuple[str, str] = ("", "")) -> None:
        super().__init__(access)
        self._place = place
        self._folder = folder
        self._making = threading.Lock()  # servers answer 423 to the second who makes the same folder
        self._made: set[str] = set()  # a whole block must not be sent where no folder is: many hang up in its middle
        self._session = sdk.new_session(place, access)
        if login[0]:
            self._session.auth = (login[0].encode(), login[1].encode())

    def describe(self) -> str:
        return f"webdav://{self._place.host}{unquote(self._folder)}"

    # one object

    def put(self, key: str, data: Data, tier: int = 0) -> None:
        what = f"write object {self.describe()}{key}"
        path = self._path(key)
        if path.endswith("/"):
            self._make_folders(path, what)
            return
        folder = _above(path)
        temporary = f"{folder}.jfs.{_quoted(key.rpartition('/')[2][:200])}.tmp.{secrets.token_hex(8)}"
        if folder not in self._made:
            self._make_folders(folder, what)
        try:
            if self._ask("PUT", temporary, what, data=data, but=_NO_PARENT).status_code in _NO_PARENT:
                self._make_folders(folder, what)
                self._ask("PUT", temporary, what, data=data)
            self._ask("MOVE", temporary, what, self._onto(path))
        except StoreError as error:
            self._made.discard(folder)
            if not isinstance(error, Timeout):
                self._remove_quietly(temporary)
            raise

    def _open(self, key: str, start: int, end: int | None) -> Response:
        if key.endswith("/"):
            self.head(key)
            return Response(start, start, start, {}, BytesIO())
        asked = {} if start == 0 and end is None else {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
        what = f"read object {self.describe()}{key}"
        answer = self._ask("GET", self._path(key), what, asked, stream=True, but=(416,))
        if answer.status_code == 416:
            answer.close()
            return Response(start, start, start, {}, BytesIO())
        told = sdk.lowered(answer.headers)
        length = told.get("content-length", "")
        if not length.isdigit():
            return self._unmeasured(answer, what)
        ranged = told.get("content-range") if answer.status_code == 206 else None
        return Response(*content_range(ranged, int(length)), {}, answer.raw)

    def _unmeasured(self, answer: Any, what: str) -> Response:
        """A body whose length shows only at its end."""
        try:
            data = answer.content
        except Exception as error:
            raise self._failed(error, what) from error
        ranged = answer.headers.get("Content-Range") if answer.status_code == 206 else None
        return Response(*content_range(ranged, len(data)), {}, BytesIO(data))

    def delete(self, key: str) -> None:
        """DELETE would remove a folder with all that is in it, so it has to be known what the key is."""
        what = f"delete object {self.describe()}{key}"
        path = self._path(key)
        try:
            if self._look(path, 0, what)[0].is_dir and len(self._look(path, 1, what)) > 1:
                raise Unavailable(f"{what}: it is a folder, and not empty")
            self._ask("DELETE", path, what)
        except NotFound:
            return

    def head(self, key: str) -> ObjectInfo:
        found = self._look(self._path(key), 0, f"look at object {self.describe()}{key}")[0]
        if found.is_dir:
            return ObjectInfo(key.rstrip("/") + "/" if key else "", 0, found.mtime, is_dir=True)
        return ObjectInfo(key, found.size, found.mtime)

    def copy(self, target: str, source: str, tier: int = 0) -> None:
        what = f"copy object {self.describe()}{source}"
        path, headers = self._path(source), self._onto(self._path(target))
        if self._ask("COPY", path, what, headers, but=(409,)).status_code == 409:
            self._make_folders(self._path(_above(target)), what)
            self._ask("COPY", path, what, headers)

    # folders

    def _found(self, prefix: str, after: str, deep: bool) -> Iterator[ObjectInfo]:
        for key, found in walk(self._read_folder, prefix, after, deep):
            yield ObjectInfo(key, 0 if found.is_dir else found.size, found.mtime, found.is_dir)

    def _read_folder(self, folder: str) -> list[tuple[str, Found]]:
        try:
            found = self._look(self._path(folder), 1, f"list objects in {self.describe()}{folder}")
        except NotFound:
            return []
        own = min(found, key=lambda each: len(each.path))  # the folder itself is among them
        return [(each.name + "/" * each.is_dir, each) for each in found if each is not own]

    def create(self) -> None:
        self._make_folders(self._folder, f"create {self.describe()}")

    def _make_folders(self, path: str, what: str) -> None:
        """Create a folder and the missing ones above it."""
        with within(self.access.timeout_s, self._making, f"{what}: other folders were made"):
            self._make_folder(path, what)
            if len(self._made) >= _REMEMBERED:
                self._made.clear()
            self._made.add(path)

    def _make_folder(self, path: str, what: str) -> None:
        above = _above(path.rstrip("/"))
        if self._ask("MKCOL", path, what, but=(_THERE, *_NO_PARENT)).status_code in _NO_PARENT and above:
            self._make_folder(above, what)
            self._ask("MKCOL", path, what, but=(_THERE,))

    def _look(self, path: str, depth: int, what: str) -> list[Found]:
        """What the server says of a path, and with depth 1 of what is in it."""
        headers = {"Depth": str(depth), "Content-Type": "application/xml; charset=utf-8"}
        with self._ask("PROPFIND", path, what, headers, data=QUESTION, stream=True) as answer:
            if answer.status_code != 207:
                raise BadBucket(f"{what}: {self._place.host} does not speak WebDAV; write for example {_EXAMPLE}")
            try:
                found = read_answer(answer.iter_content(_PIECE))
            except StoreError as error:
                raise type(error)(f"{what}: {error}") from None
            except Exception as error:
                raise self._failed(error, what) from error
        if not found:
            raise NotFound(f"{what}: not found")
        return found

    def close(self) -> None:
        self._session.close()

    # requests

    def _path(self, key: str) -> str:
        return self._folder + _quoted(key)

    def _onto(self, path: str) -> dict[str, str]:
        return {"Destination": self._place.url + path, "Overwrite": "T"}

    def _ask(
        self, method: str, path: str, what: str, headers: Mapping[str, str] | None = None, *, data: Data | None = None,
        stream: bool = False, but: tuple[int, ...] = (),
    ) -> Any:  # fmt: skip
        """One request. Raises StoreError unless it succeeds or ends with one of the statuses `but`."""
        try:
            answer = self._session.request(
                method, self._place.url + path, headers=dict(headers or {}), stream=stream, allow_redirects=False,
                data=None if data is None else sdk.outgoing(data),
                timeout=(self.access.connect_timeout_s, self.access.timeout_s),
            )  # fmt: skip
        except Exception as error:
            raise self._failed(error, what) from error
        partly = answer.status_code == 207 and method != "PROPFIND"  # something failed
        if answer.status_code in but or (answer.status_code < 300 and not partly):
            return answer
        answer.close()
        raise self._refused(method, answer, what)

    def _refused(self, method: str, answer: Any, what: str) -> StoreError:
        status, reason = answer.status_code, _REASONS.get(answer.status_code) or answer.reason or ""
        if status == 401 and "basic" not in answer.headers.get("WWW-Authenticate", "basic").lower():
            reason = "the server does not take passwords by basic authentication, which is all that is supported"
        if status in (405, 501):
            reason = f"the server does not allow {method} here: is the bucket the URL of a WebDAV folder?"
        if status == 405 and method == "PUT":  # what Go's servers say to every write that fails
            reason = "the server could not write it; perhaps it has no room left, or allows no PUT"
        elif status != 423:
            return refused(status, "", reason, what)
        return Unavailable(f"{what}: {reason} (status {status})")

    def _failed(self, error: Exception, what: str) -> StoreError:
        return sdk.unreachable(error, self._place.host, what)

    def _remove_quietly(self, path: str) -> None:
        try:
            self._ask("DELETE", path, "clean up")
        except StoreError:
            pass


def _quoted(key: str) -> str:
    return quote(key, safe="/", errors="surrogateescape")


def _above(key: str) -> str:
    """The folder of a key, with "/" at its end; nothing if it has none."""
    return key[: key.rfind("/") + 1]
