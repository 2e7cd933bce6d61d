"""Block formats: what is in an object, and that nothing else is taken for one."""

from __future__ import annotations

import random

import lz4.block
import pytest
import zstandard

from chunkstore.compress import Lz4, Zstd, new_codec
from chunkstore.errors import BadBucket, Damaged

LZ4_OF_AS = bytes.fromhex(
    "1f61"  # token: 1 literal "a", match length 15+
    "0100"  # match offset 1, little endian
    "4b"  # 75 more: 19 + 75 = 94 bytes matched
    "50"  # token: 5 literals, nothing matched: the end
    "6161616161"
)  # fmt: skip
ZSTD_OF_AS = bytes.fromhex(
    "28b52ffd"  # magic
    "20"  # descriptor: single segment, content size in one byte, no checksum, no dictionary
    "64"  # content size 100
    "4500001061610100a32b80"  # one compressed block
)  # fmt: skip


def _decode(codec: Lz4 | Zstd, stored: bytes, size: int) -> bytes:
    plain = bytearray(size)
    codec.decompress(stored, memoryview(plain))
    return bytes(plain)


def test_lz4_block_has_no_frame_and_no_size() -> None:
    assert bytes(Lz4().compress(b"a" * 100)) == LZ4_OF_AS
    assert _decode(Lz4(), LZ4_OF_AS, 100) == b"a" * 100


def test_zstd_is_one_frame_with_its_content_size() -> None:
    stored = bytes(Zstd().compress(b"a" * 100))
    parameters = zstandard.get_frame_parameters(stored)
    assert (parameters.content_size, parameters.has_checksum, parameters.dict_id) == (100, False, 0)
    assert stored[:6] == ZSTD_OF_AS[:6]
    assert _decode(Zstd(), stored, 100) == b"a" * 100


@pytest.mark.parametrize("codec", [Lz4(), Zstd()], ids=lambda codec: codec.name)
def test_bounds_and_round_trip(codec: Lz4 | Zstd) -> None:
    chance = random.Random(11)
    for size in (1, 100, 4096, 65536, 131071, 131072, 200_000):
        for data in (bytes(size), chance.randbytes(size)):
            stored = bytes(codec.compress(memoryview(data)))
            assert len(stored) <= codec.bound(size)
            assert _decode(codec, stored, size) == data


def test_bounds_are_those_of_the_go_client() -> None:
    assert (Lz4().bound(0), Lz4().bound(4 << 20)) == (16, 4194304 + 16448 + 16)
    assert (Zstd().bound(0), Zstd().bound(4 << 20), Zstd().bound(131071)) == (64, 4194304 + 16384, 131071 + 511)


@pytest.mark.parametrize("codec", [Lz4(), Zstd()], ids=lambda codec: codec.name)
def test_wrong_objects_are_refused(codec: Lz4 | Zstd) -> None:
    data = random.Random(12).randbytes(3000) * 3
    stored = bytes(codec.compress(data))
    for bad, size in ((stored[:-5], 9000), (stored, 8999), (stored, 9001), (b"", 9000), (b"\0" * 50, 9000)):
        with pytest.raises(Damaged):
            _decode(codec, bad, size)


def test_zstd_without_content_size_is_read_when_it_fits() -> None:
    stored = zstandard.ZstdCompressor(level=1, write_content_size=False).compress(b"abc" * 100)
    assert _decode(Zstd(), stored, 300) == b"abc" * 100
    with pytest.raises(Damaged):
        _decode(Zstd(), stored, 299)


def test_lz4_frames_are_not_blocks() -> None:
    sized = lz4.block.compress(b"abc" * 100, store_size=True)
    with pytest.raises(Damaged):
        _decode(Lz4(), sized, 300)


def test_names() -> None:
    assert new_codec("") is None and new_codec("None") is None
    assert isinstance(new_codec("LZ4"), Lz4) and isinstance(new_codec("zstd"), Zstd)
    with pytest.raises(BadBucket, match="gzip"):
        new_codec("gzip")
