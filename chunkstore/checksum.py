"""CRC32C (Castagnoli), the checksum of cached blocks and of objects. Where sums are kept is not known here."""

from __future__ import annotations

from typing import Protocol


class _Crc32c(Protocol):
    def __call__(self, data: bytes | bytearray | memoryview, value: int = 0) -> int: ...


def _load() -> _Crc32c:
    import crc32c

    return crc32c.crc32c


_crc32c: _Crc32c | None = None


def crc() -> _Crc32c:
    """The function, loaded when first needed."""
    global _crc32c
    if _crc32c is None:
        _crc32c = _load()
    return _crc32c
