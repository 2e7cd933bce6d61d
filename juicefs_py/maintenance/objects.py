"""The objects of a volume as maintenance sees them: all that there are, or one, with patience for passing failures.

Not retries of transfers (`chunkstore.transfer`). A listing of many millions takes hours and thousands of requests, of
which a few fail; it goes on behind what it had. What it cannot get is an error, never the end of the listing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from chunkstore.bucket import Bucket, ObjectInfo
from chunkstore.errors import StoreError

BLOCKS = "chunks/"
_PAUSES_S = (0.1, 0.5, 2.0)  # before each further attempt

R = TypeVar("R")


def list_blocks(bucket: Bucket) -> Iterator[ObjectInfo]:
    """Everything below `chunks/` but directories, in bytewise order of keys."""
    after, failures = "", 0
    while True:
        try:
            for info in bucket.list_all(BLOCKS, after):
                after, failures = info.key, 0
                if not info.is_dir:
                    yield info
            return
        except StoreError as error:
            if error.final or failures == len(_PAUSES_S):
                raise
        time.sleep(_PAUSES_S[failures])
        failures += 1


def patiently(request: Callable[[], R]) -> R:
    """The answer of a request that may be repeated; its error if that does not pass."""
    for pause in _PAUSES_S:
        try:
            return request()
        except StoreError as error:
            if error.final:
                raise
        time.sleep(pause)
    return request()
