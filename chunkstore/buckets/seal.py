"""The checksums of a local object: extended attributes of its file. Not the file itself (`file`).

Official clients keep the same sum, the CRC32C of the stored bytes in decimal, with the objects of S3-like stores, and
none with files. So an object without any is as good as any; theirs have none, and some file systems keep none. Which
sums there are, and of what, is `chunkstore.sums`. They cost 0.4 ms for 4 MiB; without them, a bit that the disk changed
comes back as data.
"""

from __future__ import annotations

import os

from chunkstore import sums
from chunkstore.bucket import Data

_PREFIX = "user."


def seal(fd: int, data: Data, unit: int) -> None:
    """Keep the sums of a file's whole content with it, if its file system can."""
    try:
        for name, value in sums.of(data, unit).items():
            os.setxattr(fd, _PREFIX + name.lower(), value.encode())
    except OSError:
        pass


def verify(fd: int, path: str, data: Data, start: int, total: int, unit: int) -> None:
    """`ChecksumMismatch` unless `data`, read from `start` of the file's `total` bytes, is what was sealed."""
    name = (sums.WHOLE if start == 0 and len(data) == total else sums.PARTS).lower()
    try:
        stored = os.getxattr(fd, _PREFIX + name).decode("ascii", "replace")
    except OSError:
        return
    sums.verify(data, start, total, {name: stored}, unit, f"object {path}")
