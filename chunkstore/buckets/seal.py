"""The checksum of a local object: an extended attribute of its file. Not the file itself (`file`).

Official clients keep the same number, the CRC32C of the stored bytes in decimal, with the objects of S3-like stores,
and none with files. So an object without one is as good as any; theirs have none, and some file systems keep none.
Only whole objects can be verified, which is how blocks are read into a cache. It costs 0.2 ms for 4 MiB; without it, a
bit that the disk changed comes back as data.
"""

from __future__ import annotations

import os

from chunkstore.bucket import Data
from chunkstore.checksum import crc
from chunkstore.errors import ChecksumMismatch

NAME = "user.crc32c"


def seal(fd: int, data: Data) -> None:
    """Keep the sum of a file's whole content with it, if its file system can."""
    try:
        os.setxattr(fd, NAME, b"%d" % crc()(data))
    except OSError:
        pass


def verify(fd: int, path: str, data: Data) -> None:
    """`ChecksumMismatch` unless `data`, the file's whole content, is what was sealed. A file without a sum passes."""
    try:
        wanted = os.getxattr(fd, NAME)
    except OSError:
        return
    if wanted != b"%d" % crc()(data):
        raise ChecksumMismatch(f"object {path} is damaged: its content does not match its checksum; check its disk")
