"""Protobuf's encoding, as far as binary dumps need it: numbers and byte strings. Not which field means what (`binary`).

A message is a row of fields, each a key (number << 3 | kind), then a number of 7 bits per byte (kind 0), or a length
and so many bytes (kind 2). Numbers below zero are those of 64 bits. (Protocol Buffers, "Encoding".)
"""

from __future__ import annotations

from collections.abc import Iterator

from meta.errors import Corrupt

Fields = dict[int, list[int | bytes]]


def number(value: int) -> bytes:
    """A number alone."""
    value &= 0xFFFFFFFFFFFFFFFF
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def field(key: int, value: int | bytes) -> bytes:
    """A field; nothing for a zero or an empty string, which a reader takes for absent ones."""
    if not value:
        return b""
    if isinstance(value, int):
        return number(key << 3) + number(value)
    return number(key << 3 | 2) + number(len(value)) + value


def item(key: int, value: bytes) -> bytes:
    """One of several values of a field, which may be empty."""
    return number(key << 3 | 2) + number(len(value)) + value


def message(*values: int | bytes) -> bytes:
    """A message whose fields are numbered from 1."""
    return b"".join(field(key, value) for key, value in enumerate(values, 1))


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message: number and value. `Corrupt` if it is none."""
    at = 0
    while at < len(data):
        key, at = _number(data, at)
        if key & 7 == 0:
            value, at = _number(data, at)
            yield key >> 3, value
        elif key & 7 == 2:
            length, at = _number(data, at)
            if at + length > len(data):
                raise Corrupt("a field is longer than its message")
            yield key >> 3, data[at : at + length]
            at += length
        else:
            raise Corrupt(f"a field of kind {key & 7}")


def _number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise Corrupt("a number without an end")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7


def row(data: bytes, *kinds: str) -> tuple[int | bytes, ...]:
    """The values of a message whose fields are numbered from 1; kinds: u (no sign), i (signed, 64 bits), b (bytes)."""
    found: list[int | bytes] = [b"" if kind == "b" else 0 for kind in kinds]
    for key, value in fields(data):
        if 1 <= key <= len(kinds):
            if isinstance(value, bytes) != (kinds[key - 1] == "b"):
                raise Corrupt(f"field {key} of a message is of the wrong kind")
            if kinds[key - 1] == "i" and isinstance(value, int) and value >= 1 << 63:
                value -= 1 << 64
            found[key - 1] = value
    return tuple(found)


def numbers(data: bytes) -> list[int]:
    """Numbers one behind the other, as a field of many numbers holds them."""
    found, at = [], 0
    while at < len(data):
        value, at = _number(data, at)
        found.append(value)
    return found
