"""The engine of `tikv://` URLs: `TkvEngine` over a `TikvStore`. Not the records, and not the store."""

from __future__ import annotations

import os
from typing import Final

from meta.tkv.engine import TkvEngine
from meta.tkv.tikv.store import TikvStore, parse

SHARDS: Final = "JFS_TKV_CHANGELOG_SHARDS"
"""Environment: into how many pieces the change log is cut (1 to 256). All clients of a volume must agree."""


def open_url(url: str, read_only: bool = False) -> TkvEngine:
    """The engine of a metadata URL. Totals are added once per flush: nobody could share a counter."""
    shards = int(os.environ.get(SHARDS) or 64)
    return TkvEngine(TikvStore(parse(url)), read_only, defer_totals=True, changelog_shards=shards)
