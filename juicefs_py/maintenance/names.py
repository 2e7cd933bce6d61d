"""Paths as people see them. Names are bytes and need be no text; a line break in one must not look like a new line."""

from __future__ import annotations

_CONTROLS = {number: f"\\x{number:02x}" for number in (*range(32), 127)}


def shown(path: bytes) -> str:
    """The path with everything escaped that cannot be printed in a line."""
    return path.decode(errors="backslashreplace").translate(_CONTROLS)
