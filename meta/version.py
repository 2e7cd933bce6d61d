"""Client versions: how official clients order them, and which one we count as. Not the program's own version."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from meta.errors import SettingError

COMPATIBLE_VERSION: Final = "1.4.1"
"""The official release whose formats and features this client has; volume gates are checked against it."""

META_VERSION: Final = 1
"""The newest layout of metadata that this client understands."""

_SYNTAX = re.compile(r"v?(\d+)\.(\d+)\.(\d+)(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?")


class Version(NamedTuple):
    """An ordered version. A pre-release comes before its release; two compare as text ("A" before "beta1")."""

    major: int
    minor: int
    patch: int
    released: bool
    pre_release: str

    @classmethod
    def parse(cls, text: str) -> Version:
        """Read `1.2.3`, `1.2.3-beta1`, with or without `+build`, which does not count."""
        match = _SYNTAX.fullmatch(text.strip())
        if match is None:
            raise SettingError(f"Invalid version string: {text}")
        major, minor, patch, pre_release = match.groups()
        return cls(int(major), int(minor), int(patch), pre_release is None, pre_release or "")
