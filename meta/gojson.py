"""JSON as the official client writes it: Go's indentation and escapes, and objects whose members keep their exact text.

Not a JSON library: only what the volume's setting and a few documents that other programs read need.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()
_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


class Member(NamedTuple):
    """A member of an object: its key, its value, and the text that the value was written as."""

    key: str
    value: Any
    raw: str


def go_dumps(document: Mapping[str, Any], indent: int = 0, raw: Mapping[str, str] | None = None) -> str:
    """Go's `MarshalIndent`: a member per line, `indent` spaces per level, `<`, `>`, `&` escaped.

    `raw` members follow, their values as they are.
    """
    text = json.dumps(document, indent=indent, ensure_ascii=False).translate(_ESCAPES)
    if raw:
        pad = " " * indent
        lines = [f"{pad}{_string(key)}: {value}" for key, value in raw.items()]
        head = text[:-2] + ",\n" if document else "{\n"
        text = head + ",\n".join(lines) + "\n}"
    return text


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).translate(_ESCAPES)


def object_members(text: str) -> list[Member]:
    """The members of the object that `text` is, in order, repeated keys included. ValueError if it is none."""
    found: list[Member] = []
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        raise ValueError("not a JSON object")
    at = _skip(text, at + 1)
    while text[at : at + 1] != "}":
        if found:
            at = _skip(text, _expect(text, at, ","))
        key, at = _DECODER.raw_decode(text, at)
        if not isinstance(key, str):
            raise ValueError(f"a key that is no string: {key!r}")
        start = _skip(text, _expect(text, _skip(text, at), ":"))
        value, end = _DECODER.raw_decode(text, start)
        found.append(Member(key, value, text[start:end]))
        at = _skip(text, end)
    if _skip(text, at + 1) != len(text):
        raise ValueError("text behind the JSON object")
    return found


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _expect(text: str, at: int, mark: str) -> int:
    if text[at : at + 1] != mark:
        raise ValueError(f"expected {mark!r} at character {at}")
    return at + 1
