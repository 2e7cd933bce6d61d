"""Object names and shard hashes, byte for byte as the Go client writes them."""

from __future__ import annotations

import pytest

from chunkstore.buckets.sharded import fnv1a, shard_addresses
from chunkstore.errors import BadBucket
from chunkstore.naming import Block, block_at, blocks_of, parse

MIB = 1 << 20


def test_block_keys_of_a_slice() -> None:
    keys = [block.key() for block in blocks_of(12345678, 10 * MIB, 4 * MIB)]
    assert keys == [
        "chunks/12/12345/12345678_0_4194304",
        "chunks/12/12345/12345678_1_4194304",
        "chunks/12/12345/12345678_2_2097152",
    ]


def test_hash_prefix_is_upper_case_and_skips_the_thousands() -> None:
    assert Block(12345678, 0, 4194304).key(True) == "chunks/4E/12/12345678_0_4194304"
    assert Block(5, 1, 1).key(True) == "chunks/05/0/5_1_1"


@pytest.mark.parametrize(
    ("size", "sizes"), [(0, []), (1, [1]), (65536, [65536]), (65537, [65536, 1]), (131072, [65536, 65536])]
)
def test_only_the_last_block_is_shorter(size: int, sizes: list[int]) -> None:
    assert [block.size for block in blocks_of(1, size, 65536)] == sizes


def test_block_at_counts_from_the_slice() -> None:
    assert block_at(9, 10 * MIB, 9 * MIB, 4 * MIB) == Block(9, 2, 2 * MIB)


@pytest.mark.parametrize("hash_prefix", [False, True])
def test_parse_reverses_key(hash_prefix: bool) -> None:
    block = Block((1 << 63) + 7, 1023, 65536)
    assert parse(block.key(hash_prefix)) == block


@pytest.mark.parametrize("name", ["", "1_2", "a_1_2", "1_2_3.tmp", "1_2_-3", ".jfs.1_2_3.tmp.99", "1_2_3_4"])
def test_other_names_are_no_blocks(name: str) -> None:
    assert parse(name) is None
    assert parse("chunks/0/0/" + name) is None


def test_shard_hash_includes_the_volume_name() -> None:
    assert fnv1a(b"myjfs/chunks/0/0/1_0_4194304") == 0x964A9AA8


def test_shard_addresses() -> None:
    assert shard_addresses("/data/s%d/", 2) == ["/data/s0/", "/data/s1/"]
    for bad in ("/data/", "/data/%d/%d", "/data/%s"):
        with pytest.raises(BadBucket):
            shard_addresses(bad, 2)
