"""What a WebDAV server says of files and directories: the question of a PROPFIND, and the reading of its answer.

Not the requests (`webdav`). Answers are read as they come, no tree is built. They need no document type, so one that
declares any is refused: that is where entities, which grow or name files, would come from.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from email.utils import parsedate_to_datetime
from typing import NamedTuple
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

from chunkstore.errors import Unavailable

QUESTION = (
    b'<?xml version="1.0" encoding="utf-8"?><D:propfind xmlns:D="DAV:"><D:prop>'
    b"<D:resourcetype/><D:getcontentlength/><D:getlastmodified/></D:prop></D:propfind>"
)
_RESPONSE, _HREF, _PROPSTAT, _STATUS, _PROP, _TYPE, _COLLECTION, _SIZE, _MTIME = (
    "{DAV:}" + name
    for name in (
        "response", "href", "propstat", "status", "prop", "resourcetype", "collection", "getcontentlength",
        "getlastmodified",
    )
)  # fmt: skip


class Found(NamedTuple):
    """A file or a directory. The path is the server's, without "/" at its end."""

    path: str
    size: int
    mtime: float  # now, where the server does not say
    is_dir: bool

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


def read_answer(pieces: Iterable[bytes]) -> list[Found]:
    """What a 207 response to `QUESTION` lists. `Unavailable` if it makes no sense."""
    reader = _Reader()
    parser = ElementTree.XMLParser(target=reader)
    try:
        for piece in pieces:
            parser.feed(piece)
        parser.close()
    except (ElementTree.ParseError, ValueError) as error:
        raise Unavailable(f"the answer is not that of a WebDAV server: {error}") from None
    return reader.found


class _Reader:
    """Gets the parser's events."""

    def __init__(self) -> None:
        self.found: list[Found] = []
        self._above: list[str] = []
        self._text: list[str] = []
        self._href = ""
        self._told: dict[str, str] | None = None  # of this response: properties that it has
        self._part: dict[str, str] = {}  # of this part of it, which may list properties that it lacks
        self._good = False

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise Unavailable("the answer is not that of a WebDAV server: it declares a document type")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._above.append(tag)
        self._text.clear()
        if tag == _RESPONSE:
            self._href, self._told = "", None
        elif tag == _PROPSTAT:
            self._part, self._good = {}, False
        elif tag == _COLLECTION and self._above[-2:-1] == [_TYPE]:
            self._part[tag] = ""

    def data(self, text: str) -> None:
        self._text.append(text)

    def end(self, tag: str) -> None:
        text = "".join(self._text).strip()
        self._text.clear()
        self._above.pop()
        above = self._above[-1] if self._above else ""
        if tag == _HREF and above == _RESPONSE:
            self._href = text
        elif tag in (_SIZE, _MTIME) and above == _PROP:
            self._part[tag] = text
        elif tag == _STATUS and above == _PROPSTAT:
            self._good = " 200" in text
        elif tag == _PROPSTAT and self._good:
            self._told = {**(self._told or {}), **self._part}
        elif tag == _RESPONSE and self._href and self._told is not None:
            self.found.append(_found(self._href, self._told))

    def close(self) -> None:
        return


def _found(href: str, told: dict[str, str]) -> Found:
    path = unquote(urlsplit(href).path, errors="surrogateescape").rstrip("/")
    return Found(path, int(told.get(_SIZE) or 0), _seconds(told.get(_MTIME, "")), _COLLECTION in told)


def _seconds(date: str) -> float:
    try:
        return parsedate_to_datetime(date).timestamp()
    except ValueError:
        return time.time()
