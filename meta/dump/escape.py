"""Names, targets and values of attributes as text in a JSON dump: bytes that JSON or UTF-8 cannot have become `%XX`.

The form is the official client's, up to one thing that it does by mistake: U+FFFD stays what it is.
"""

from __future__ import annotations

import re
from typing import Final

_SPECIAL: Final = re.compile(r'[\x00-\x20%"\\\udc80-\udcff]')
_ESCAPED: Final = re.compile(rb"%([0-9A-F]{2})")


def escape(data: bytes) -> str:
    """Text for between two quotation marks of a JSON document."""
    return _SPECIAL.sub(lambda found: f"%{ord(found[0]) & 0xFF:02X}", data.decode(errors="surrogateescape"))


def unescape(text: str) -> bytes:
    """The bytes that a text stands for; a percent sign without two capital hexadecimal digits stands for itself."""
    data = text.encode(errors="surrogateescape")
    return _ESCAPED.sub(lambda found: bytes((int(found[1], 16),)), data) if b"%" in data else data
