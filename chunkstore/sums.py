"""Checksums that travel with an object: of the whole of it, and of its parts. Not where a storage keeps them.

`Crc32c`, as official clients write and verify it in the metadata of S3-like objects: the CRC32C of the stored bytes,
unsigned and decimal. It proves whole objects only. So ours carry a second value that others leave alone,
`Crc32c-Parts`: `{unit}-{base64 of one u32 BE CRC32C per unit bytes}`, and a read of a part is proven as well when its
range is widened to whole units. The unit is 32 KiB, and more for objects over 4 MiB: S3 grants 2 KiB of metadata.
"""

from __future__ import annotations

import binascii
import struct
from collections.abc import Mapping
from typing import NamedTuple

from chunkstore.bucket import Data
from chunkstore.checksum import crc
from chunkstore.errors import ChecksumMismatch

WHOLE = "Crc32c"
PARTS = "Crc32c-Parts"

_WHOLE, _PARTS = WHOLE.lower(), PARTS.lower()
_UNIT = 32 << 10
_MOST_PARTS = 128


def unit_for(block_size: int) -> int:
    """Bytes per part sum in a volume of that block size."""
    return max(_UNIT, block_size // _MOST_PARTS)


def of(data: Data, unit: int) -> dict[str, str]:
    """The sums of an object's bytes, by their names. Without part sums if `unit` is 0 or one unit holds it all."""
    crc32c = crc()
    sums = {WHOLE: str(crc32c(data))}
    if unit and unit < len(data) <= unit * _MOST_PARTS:
        with memoryview(data) as view:
            parts = [crc32c(view[start : start + unit]) for start in range(0, len(data), unit)]
        packed = struct.pack(f">{len(parts)}I", *parts)
        sums[PARTS] = f"{unit}-{binascii.b2a_base64(packed, newline=False).decode()}"
    return sums


class Span(NamedTuple):
    """A range of an object's bytes."""

    start: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start

    def widened(self, unit: int) -> Span:
        """To whole units, so that it can be verified; the object's end may come before its own."""
        return Span(self.start // unit * unit, -(-self.end // unit) * unit) if unit else self


def verify(data: Data, start: int, total: int, sums: Mapping[str, str], unit: int, what: str) -> None:
    """`ChecksumMismatch` if `data`, from `start` of an object of `total` bytes, is not what its sums were taken of.

    Names of `sums` are in lower case. A range that is neither the whole nor of whole units passes, and so does an
    object that has no sums. `what` names it.
    """
    if start == 0 and len(data) == total:
        wanted = sums.get(_WHOLE)
        good = wanted is None or wanted == str(crc()(data))
    else:
        good = _parts_match(data, start, total, sums.get(_PARTS, ""), unit)
    if not good:
        raise ChecksumMismatch(f"{what} is damaged: its content does not match its checksum")


def _parts_match(data: Data, start: int, total: int, stored: str, unit: int) -> bool:
    size, _, encoded = stored.partition("-")
    if not unit or size != str(unit) or start % unit or (len(data) % unit and start + len(data) != total):
        return True
    try:
        packed = binascii.a2b_base64(encoded)
    except ValueError:
        return False
    if len(packed) != -(-total // unit) * 4:
        return False
    wanted = struct.unpack_from(f">{-(-len(data) // unit)}I", packed, start // unit * 4)
    crc32c = crc()
    with memoryview(data) as view:
        return all(crc32c(view[at * unit : (at + 1) * unit]) == each for at, each in enumerate(wanted))
