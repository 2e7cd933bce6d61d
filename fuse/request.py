"""A request's bytes taken apart: what follows an opcode's fixed struct.

Not here: the structs (abi) and which opcode carries what (opcodes). Names are NUL-terminated byte strings; a request
that lacks a NUL or is too short is refused with MalformedRequest.
"""

from __future__ import annotations

from fuse.errors import MalformedRequest


def nothing(body: memoryview) -> None:
    """Carried by most opcodes. More bytes than expected are a newer kernel's business."""


def data(body: memoryview) -> memoryview:
    """Raw bytes, not copied: valid until the handler returns."""
    return body


def name(body: memoryview) -> bytes:
    """One name."""
    text, nul, _ = bytes(body).partition(b"\0")
    if not nul:
        raise MalformedRequest("name without a NUL")
    return text


def two_names(body: memoryview) -> tuple[bytes, bytes]:
    parts = bytes(body).split(b"\0", 2)
    if len(parts) != 3:
        raise MalformedRequest("two names expected")
    return parts[0], parts[1]


def name_and_data(body: memoryview) -> tuple[bytes, bytes]:
    """A name, then a value of which the fixed struct tells the size."""
    text, nul, value = bytes(body).partition(b"\0")
    if not nul:
        raise MalformedRequest("name without a NUL")
    return text, value
