"""How the bytes of a block become those of its object: nothing, LZ4 or Zstandard.

Not encryption, which is a layer around buckets. Formats: LZ4 is one raw block without frame or size header; zstd is one
frame, level 1, with the content size in its header, no checksum and no dictionary. A compressed volume compresses
every block, even if it grows.
"""

from __future__ import annotations

from typing import Protocol

from chunkstore.bucket import Data
from chunkstore.errors import BadBucket, Damaged

_ZSTD_LEVEL = 1


class Codec(Protocol):
    """One way of compression."""

    name: str

    def bound(self, size: int) -> int:
        """The most bytes that `size` plain bytes can become."""
        ...

    def compress(self, data: Data) -> Data: ...

    def decompress(self, stored: Data, view: memoryview) -> None:
        """Fill `view` exactly. `Damaged` when the stored bytes do not decode to just that many."""
        ...


class Lz4:
    """One raw LZ4 block."""

    name = "lz4"

    def __init__(self) -> None:
        import lz4.block

        self._lz4 = lz4.block

    def bound(self, size: int) -> int:
        return size + size // 255 + 16

    def compress(self, data: Data) -> Data:
        compressed: bytes = self._lz4.compress(data, mode="default", store_size=False)
        return compressed

    def decompress(self, stored: Data, view: memoryview) -> None:
        try:
            plain = self._lz4.decompress(stored, uncompressed_size=len(view))
        except (self._lz4.LZ4BlockError, ValueError) as error:
            raise Damaged(f"not an LZ4 block of {len(view)} bytes: {error}") from None
        _fill(view, plain)


class Zstd:
    """One Zstandard frame."""

    name = "zstd"

    def __init__(self) -> None:
        import zstandard

        self._zstd = zstandard

    def bound(self, size: int) -> int:
        margin = (131072 - size) >> 11 if size < 131072 else 0
        return size + (size >> 8) + margin

    def compress(self, data: Data) -> Data:
        # A compressor object may not be shared by threads; making one costs little beside its work.
        compressor = self._zstd.ZstdCompressor(level=_ZSTD_LEVEL, write_content_size=True, write_checksum=False)
        return compressor.compress(data)

    def decompress(self, stored: Data, view: memoryview) -> None:
        try:
            # A frame may claim any content size: refuse before it is allocated.
            claimed = self._zstd.frame_content_size(stored)
            if claimed not in (-1, len(view)):
                raise Damaged(f"compressed block holds {claimed} bytes instead of {len(view)}")
            plain = self._zstd.ZstdDecompressor().decompress(stored, max_output_size=len(view))
        except self._zstd.ZstdError as error:
            raise Damaged(f"not a zstd frame of {len(view)} bytes: {error}") from None
        _fill(view, plain)


def _fill(view: memoryview, plain: bytes) -> None:
    if len(plain) != len(view):
        raise Damaged(f"compressed block holds {len(plain)} bytes instead of {len(view)}")
    view[:] = plain


def new_codec(name: str) -> Codec | None:
    """The codec of a volume's setting; None when blocks are stored as they are."""
    match name.lower():
        case "" | "none":
            return None
        case "lz4":
            return Lz4()
        case "zstd":
            return Zstd()
    raise BadBucket(f"unknown compress algorithm: {name}")
