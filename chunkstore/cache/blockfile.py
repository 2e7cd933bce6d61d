"""The file of one cached block: plain data, then checksums, then perhaps a footer that staging wrote.

Not the directory around it. Layout: `data(size) [u32 BE CRC32C per 32 KiB of data] [footer]`. What is there follows
from the file's length alone, so nothing else may ever be appended. A footer is `0x4653, u16 BE n, msgpack(n)`, the map
`{"tier": uint8, "pad": bin8}`, padded so that a length that is a multiple of 4 means checksums; only staged blocks of a
tier have one. Files appear by rename of `{final}.tmp`, and are never forced to disk: a cached
block that a crash damaged fails its checksum and is fetched again.
"""

from __future__ import annotations

import logging
import os
import re
import struct
from array import array

from chunkstore.checksum import crc
from chunkstore.errors import ChecksumMismatch, Damaged

_log = logging.getLogger(__name__)

UNIT = 32 << 10
_MAGIC = 0x4653
_TIER = re.compile(rb"\xa4tier\xcc(.)", re.DOTALL)
_MOST_TIERS = 3
_DROP_OS_CACHE = bool(os.environ.get("JFS_DROP_OSCACHE"))


def checksums(data: memoryview) -> bytes:
    """One CRC32C per unit, big endian."""
    crc32c = crc()
    sums = [crc32c(data[start : start + UNIT]) for start in range(0, len(data), UNIT)]
    return struct.pack(f">{len(sums)}I", *sums)


def footer(tier: int, with_checksums: bool) -> bytes:
    """What stands at the end of a staged block's file; nothing for tier 0."""
    if not tier:
        return b""
    pad = bytes(2 if with_checksums else 0)
    packed = b"\x82\xa4tier\xcc" + bytes([tier]) + b"\xa3pad\xc4" + bytes([len(pad)]) + pad
    return struct.pack(">HH", _MAGIC, len(packed)) + packed


def write(path: str, data: memoryview, mode: int, with_checksums: bool, tier: int = 0) -> None:
    """Write a block's file under its final name; its directory must exist. OSError as it comes.

    `mode` is what the file gets, whatever the umask: others are meant to read a shared cache.
    """
    temporary = path + ".tmp"
    parts = [data, memoryview(checksums(data))] if with_checksums else [data]
    if tier:
        parts.append(memoryview(footer(tier, with_checksums)))
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        try:
            if mode & 0o077:
                os.fchmod(fd, mode)
            written = os.writev(fd, parts)
            if written != sum(map(len, parts)):  # a nearly full disk, or a signal: the plain way finds out
                rest = memoryview(b"".join(parts))
                while written < len(rest):
                    written += os.write(fd, rest[written:])
            if _DROP_OS_CACHE:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        try:
            os.unlink(temporary)
        except OSError:
            pass
        raise


class BlockFile:
    """An open cached block. The descriptor closes with the last reference, so that no reader loses it midway."""

    __slots__ = ("_fd", "_size", "_sums")

    def __init__(self, path: str, size: int) -> None:
        """Open; `Damaged` if the file cannot be a block of `size` bytes."""
        self._size = size
        self._sums: array[int] | None = None
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        extra = os.fstat(self._fd).st_size - size
        length = (size + UNIT - 1) // UNIT * 4
        if extra < 0 or (extra % 4 == 0 and 0 < extra < length):
            raise Damaged(f"{path}: {size + extra} bytes, expected {size} and {length} of checksums")
        if extra and extra % 4 == 0:
            stored = os.pread(self._fd, length, size)
            if len(stored) != length:
                raise Damaged(f"{path}: checksums are cut off")
            self._sums = array("I", struct.unpack(f">{length // 4}I", stored))

    def __del__(self) -> None:
        fd = getattr(self, "_fd", -1)
        if fd >= 0:
            os.close(fd)

    def read_into(self, offset: int, view: memoryview, level: str) -> None:
        """Fill `view` from `offset` on, verifying as `level` says. `Damaged` when they are not what was written."""
        if self._sums is None or level == "none" or (level == "full" and len(view) != self._size):
            self._read([view], offset, len(view))
        elif level == "extend":
            self._read_extended(offset, view, self._sums)
        else:
            self._read([view], offset, len(view))
            end = offset + len(view)
            first = -(-offset // UNIT)
            whole_end = end if end == self._size else end // UNIT * UNIT
            if first * UNIT < whole_end:
                self._verify(view[first * UNIT - offset : whole_end - offset], first, self._sums)
        if _DROP_OS_CACHE:
            os.posix_fadvise(self._fd, offset, len(view), os.POSIX_FADV_DONTNEED)

    def tier(self) -> int:
        """The tier in the footer; 0 without one, or when it makes no sense."""
        sums = len(self._sums) * 4 if self._sums is not None else 0
        stored = os.pread(self._fd, 64, self._size + sums)
        if len(stored) < 4:
            return 0
        magic, length = struct.unpack_from(">HH", stored)
        found = _TIER.search(stored, 4)
        if magic != _MAGIC or length != len(stored) - 4 or found is None or found[1][0] > _MOST_TIERS:
            _log.warning("a staged block has a footer that makes no sense: %s", stored.hex())
            return 0
        return found[1][0]

    def _read(self, parts: list[memoryview], offset: int, length: int) -> None:
        got = os.preadv(self._fd, parts, offset)
        if got != length:
            raise Damaged(f"cached block is too short: {got} of {length} bytes at {offset}")

    def _read_extended(self, offset: int, view: memoryview, sums: array[int]) -> None:
        """Read whole units around what is asked for, and verify them all, without copying the middle."""
        crc32c = crc()
        length = len(view)
        end = offset + length
        low = offset // UNIT * UNIT
        high = min(self._size, -(-end // UNIT) * UNIT)
        before, after = offset - low, high - end
        if high - low <= UNIT:
            data = os.pread(self._fd, high - low, low)
            if len(data) != high - low or crc32c(data) != sums[low // UNIT]:
                raise ChecksumMismatch(f"cached block is damaged at {low}")
            view[:] = memoryview(data)[before : before + length]
            return
        head, tail = bytearray(before), bytearray(after)
        self._read([memoryview(head), view, memoryview(tail)], low, high - low)
        first = low // UNIT
        start, stop = 0, length
        if before:
            start = UNIT - before
            if crc32c(view[:start], crc32c(head)) != sums[first]:
                raise ChecksumMismatch(f"cached block is damaged at {low}")
            first += 1
        if after:
            last = (high - 1) // UNIT
            stop = last * UNIT - offset
            if crc32c(tail, crc32c(view[stop:])) != sums[last]:
                raise ChecksumMismatch(f"cached block is damaged at {last * UNIT}")
        self._verify(view[start:stop], first, sums)

    @staticmethod
    def _verify(data: memoryview, unit: int, sums: array[int]) -> None:
        crc32c = crc()
        for start in range(0, len(data), UNIT):
            if crc32c(data[start : start + UNIT]) != sums[unit]:
                raise ChecksumMismatch(f"cached block is damaged at {unit * UNIT}")
            unit += 1
