"""Stored bytes of the metadata room against vectors made by the official encoders: records, ACL, locks, keys."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta.acl import EMPTY, UNSET, Rule
from meta.attr import Attr
from meta.errors import Corrupt, Refused
from meta.plock import (
    END_OF_FILE,
    READ,
    UNLOCK,
    WRITE,
    Plock,
    decode_plocks,
    encode_plocks,
    find_conflict,
    update_plocks,
)
from meta.slices import (
    Piece,
    Plan,
    Slice,
    decode_delayed,
    decode_slices,
    encode_delayed,
    encode_slices,
    merge,
    plan_compaction,
    resolve,
)  # fmt: skip
from meta.tkv import keys, values
from meta.transaction import DirStat, Quota
from meta.types import DIRECTORY, FILE, TRASH, Dirent, align4k

MIB = 1 << 20

# Inode records

HEAD = (
    "21"  # flags
    "11a4"  # regular file, 0644 -- the type nibble is part of the mode field
    "000003e8" "000003e9"  # uid, gid
    "000000006553f100" "069f6bc7"  # atime
    "000000006553f101" "0d3ed78e"  # mtime
    "000000006553f102" "13de4355"  # ctime
    "00000001"  # nlink
    "0000000102030405"  # length
    "00000000"  # rdev
    "0000000000000001"  # parent
)  # fmt: skip


def sample(**changes: int) -> Attr:
    return Attr(
        FILE, 0o644, 1000, 1001, flags=0x21, atime=1_700_000_000, atimensec=111111111, mtime=1_700_000_001,
        mtimensec=222222222, ctime=1_700_000_002, ctimensec=333333333, nlink=1, length=0x0102030405, parent=1,
        **changes,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("attr", "stored", "length"),
    [
        (sample(), HEAD + "00", 72),
        (sample(access_acl=7), HEAD + "000000070000000000", 80),
        (sample(access_acl=7, tier=2), HEAD + "00000007000000000200", 81),
        (sample(tier=2), HEAD + "0200", 73),
    ],
)
def test_attr(attr: Attr, stored: str, length: int) -> None:
    data = bytes.fromhex(stored)
    assert len(data) == length
    assert attr.encode() == data
    assert Attr.decode(data) == attr
    assert Attr.decode(data[:-1]) == attr  # a writer without the pad byte


def test_root_attr() -> None:
    stored = (
        "0021ff0000000000000000000000006553f10000000000000000006553f10000000000000000006553f100"
        "0000000000000002000000000000100000000000000000000000000100"
    )
    now = 1_700_000_000
    root = Attr(DIRECTORY, 0o777, nlink=2, length=4096, parent=1, atime=now, mtime=now, ctime=now)
    assert root.encode().hex() == stored
    assert Attr.decode(bytes.fromhex(stored)) == root


def test_attr_of_the_oldest_clients_has_no_parent() -> None:
    data = bytes.fromhex(HEAD)[:63] + b"\0"
    assert Attr.decode(data).parent == 0
    with pytest.raises(Corrupt):
        Attr.decode(data[:62])


@pytest.mark.parametrize(("length", "space"), [(0, 4096), (1, 4096), (4096, 4096), (4097, 8192)])
def test_align4k(length: int, space: int) -> None:
    assert align4k(length) == space


# Slices


def test_slice_record() -> None:
    record = Slice(0x100000, 0x123456789, 4194304, 8, 4194296)
    data = bytes.fromhex(
        "00100000"  # pos
        "0000000123456789"  # id
        "00400000"  # size
        "00000008"  # off
        "003ffff8"  # len
    )
    assert record.encode() == data
    assert decode_slices(data * 2) == [record, record]
    assert encode_slices([record, record]) == data * 2
    for bad in (data[:-1], data + b"\0"):
        with pytest.raises(Corrupt):
            decode_slices(bad)
        with pytest.raises(Corrupt):
            resolve(bad)


def test_delayed_slices() -> None:
    data = bytes.fromhex("0000000000000007" "00001000")  # fmt: skip
    assert encode_delayed([(7, 4096)]) == data
    assert decode_delayed(data * 2) == ((7, 4096), (7, 4096))
    with pytest.raises(Corrupt):
        decode_delayed(data[:-1])


@pytest.mark.parametrize(
    ("records", "pieces"),
    [
        ([], []),
        ([(0, 10, 100, 0, 100), (50, 11, 100, 0, 100)], [(10, 100, 0, 50), (11, 100, 0, 100)]),
        (
            [(100, 10, 100, 0, 100), (300, 11, 50, 0, 50)],
            [(0, 100, 0, 100), (10, 100, 0, 100), (0, 0, 0, 100), (11, 50, 0, 50)],
        ),
        (
            [(0, 10, 300, 0, 300), (100, 11, 50, 0, 50), (120, 0, 0, 0, 10)],
            [(10, 300, 0, 100), (11, 50, 0, 20), (0, 0, 0, 10), (11, 50, 30, 20), (10, 300, 150, 150)],
        ),
    ],
)
def test_resolve_samples(records: list[tuple[int, ...]], pieces: list[tuple[int, ...]]) -> None:
    slices = [Slice(*record) for record in records]
    assert resolve(slices) == [Piece(*piece) for piece in pieces]
    assert resolve(encode_slices(slices)) == [Piece(*piece) for piece in pieces]


def record_lists(span: int = 40) -> st.SearchStrategy[list[Slice]]:
    record = st.builds(
        lambda pos, slice_id, off, length: Slice(pos, slice_id, 100 if slice_id else 0, off if slice_id else 0, length),
        st.integers(0, span), st.integers(0, 3), st.integers(0, 5), st.integers(1, span),
    )  # fmt: skip
    return st.lists(record, max_size=12)


def paint(records: list[Slice]) -> list[tuple[int, int]]:
    """The dumb model: for each byte, the slice id and offset that it comes from; (0, 0) for zeros."""
    chunk: list[tuple[int, int]] = []
    for pos, slice_id, _, off, length in records:
        chunk += [(0, 0)] * (pos + length - len(chunk))
        for n in range(length):
            chunk[pos + n] = (slice_id, off + n) if slice_id else (0, 0)
    return chunk


def spread(pieces: list[Piece]) -> list[tuple[int, int]]:
    return [(p.id, p.off + n) if p.id else (0, 0) for p in pieces for n in range(p.len)]


@given(record_lists())
def test_resolve_is_what_painting_bytes_gives(records: list[Slice]) -> None:
    pieces = resolve(records)
    assert spread(pieces) == paint(records)
    assert all(piece.len > 0 for piece in pieces)
    sizes = {record.id: record.size for record in records}
    assert all(piece.size == sizes[piece.id] for piece in pieces if piece.id)


@given(record_lists())
def test_merge_shows_the_same_bytes(records: list[Slice]) -> None:
    if not records:
        assert merge(records).size == 0
        return
    merged = merge(records)
    shown = paint(records)
    behind = [(0, 0)] * merged.pos + spread(merged.pieces)
    assert merged.size == sum(piece.len for piece in merged.pieces)
    assert behind == shown[: len(behind)]
    assert all(byte == (0, 0) for byte in shown[len(behind) :])


@given(record_lists())
def test_a_compaction_changes_nothing_that_is_read(records: list[Slice]) -> None:
    plan = plan_compaction(records)
    if plan is None:
        return
    new = Slice(plan.pos, 99, plan.size, 0, plan.size)
    after = [*records[: plan.skipped], new, *records[plan.considered :]]
    content = spread(plan.pieces)
    got = [content[off] if slice_id == 99 else (slice_id, off) for slice_id, off in spread(resolve(after))]
    want = paint(records)
    got += [(0, 0)] * (len(want) - len(got))
    assert got == want


def test_resolve_is_fast_for_thousands_of_records() -> None:
    rng = random.Random(7)
    records = [Slice(rng.randrange(1 << 26), n + 1, 4096, 0, rng.randrange(1, 4096)) for n in range(5000)]
    pieces = resolve(encode_slices(records))
    assert sum(piece.len for piece in pieces) == max(record.pos + record.len for record in records)


@pytest.mark.parametrize(
    ("records", "pos", "size"),
    [
        ([(0, 0, 0, 0, 1000)], 0, 1),
        ([(0, 10, 300, 0, 300), (100, 0, 0, 0, 200)], 0, 100),
        ([(100, 10, 100, 0, 100), (300, 11, 50, 0, 50)], 100, 250),
    ],
)
def test_merge_samples(records: list[tuple[int, ...]], pos: int, size: int) -> None:
    merged = merge([Slice(*record) for record in records])
    assert (merged.pos, merged.size) == (pos, size)


def test_compaction_keeps_a_large_first_record() -> None:
    big = Slice(0, 1, 4 * MIB, 0, 4 * MIB)
    small = [Slice(4 * MIB, 2, 10, 0, 10), Slice(4 * MIB + 10, 3, 10, 0, 10)]
    plan = plan_compaction([big, *small])
    assert plan == Plan(3, 1, 4 * MIB, 20, [Piece(2, 10, 0, 10), Piece(3, 10, 0, 10)])
    repeated = plan_compaction([big, *small, big])
    assert repeated is not None and repeated.skipped == 0
    covered = plan_compaction([big, Slice(5, 2, 10, 0, 10)])
    assert covered is not None and covered.skipped == 0
    far = plan_compaction([Slice(0, 1, MIB, 0, MIB), Slice(5 * MIB, 2, 10, 0, 10)])
    assert far is not None and far.skipped == 0  # less than a fifth of the whole
    assert plan_compaction([big]) is None
    assert plan_compaction([big, small[0]]) is None
    assert plan_compaction([]) is None


def test_compaction_looks_at_a_thousand_records() -> None:
    plan = plan_compaction([Slice(n * 10, n + 1, 10, 0, 10) for n in range(1500)])
    assert plan is not None
    assert (plan.considered, plan.size) == (1000, 10000)


# Access control lists

ACL = bytes.fromhex(
    "0007" "0005" "0007" "0000"  # owner, group, mask, other
    "00000001" "000003e8" "0006"  # user 1000: rw
    "00000001" "000007d0" "0004"  # group 2000: r
)  # fmt: skip
RULE = Rule(7, 5, 7, 0, ((1000, 6),), ((2000, 4),))


@pytest.mark.parametrize(
    ("rule", "data"), [(RULE, ACL), (Rule(7, 5, UNSET, 0), bytes.fromhex("00070005ffff00000000000000000000"))]
)
def test_acl_record(rule: Rule, data: bytes) -> None:
    assert rule.encode() == data
    assert Rule.decode(data) == rule
    for bad in (data[:-1], data + b"\0", b""):
        with pytest.raises(Corrupt):
            Rule.decode(bad)


def test_acl_xattr() -> None:
    blob = bytes.fromhex(
        "02000000"  # version
        "0100" "0700" "ffffffff"  # owner
        "0200" "0600" "e8030000"  # user 1000
        "0400" "0500" "ffffffff"  # group
        "0800" "0400" "d0070000"  # group 2000
        "1000" "0700" "ffffffff"  # mask
        "2000" "0000" "ffffffff"  # other
    )  # fmt: skip
    assert RULE.to_xattr() == blob
    assert Rule.from_xattr(blob) == RULE
    assert Rule.from_xattr(b"") == EMPTY and Rule.from_xattr(blob[:4]) == EMPTY
    owner_twice = blob[:12] + blob[4:]
    without_mask = blob[:36] + blob[44:]
    unknown = blob[:4] + b"\x40" + blob[5:]
    other_version = b"\x03" + blob[1:]
    for bad in (blob[:-1], blob[:3], owner_twice, without_mask, unknown, other_version):
        with pytest.raises(Refused) as caught:
            Rule.from_xattr(bad)
        assert caught.value.errno == 22


def test_acl_modes() -> None:
    assert EMPTY.is_empty and EMPTY.is_minimal
    assert not RULE.is_minimal and RULE.mode == 0o770
    assert Rule(6, 4, UNSET, 0).mode == 0o640
    assert RULE.with_mode(0o4641) == RULE._replace(owner=6, mask=4, other=1)
    assert Rule(7, 7, UNSET, 7).with_mode(0o640) == Rule(6, 4, UNSET, 0)
    assert Rule(mask=5, users=((1, 7),)).filled(0o754) == Rule(7, 5, 5, 4, ((1, 7),))


@pytest.mark.parametrize(
    ("uid", "gids", "wanted", "allowed"),
    [
        (10, (99,), 7, True),  # owner: the mask does not apply
        (1000, (99,), 4, True), (1000, (99,), 2, False),  # named user: 6 under mask 5
        (1000, (20,), 2, False),  # the first match decides, the group is not asked
        (50, (20,), 1, True), (50, (20,), 2, False),  # owning group: 7 under mask 5
        (50, (2000,), 4, True), (50, (2000,), 1, False),
        (50, (2000, 20), 1, True),  # any group that grants it
        (50, (2000,), 3, False),  # a group matched, so others are not asked
        (50, (99,), 3, True), (50, (99,), 4, False),
    ],
)  # fmt: skip
def test_acl_permission(uid: int, gids: tuple[int, ...], wanted: int, allowed: bool) -> None:
    rule = Rule(7, 7, 5, 3, ((1000, 6),), ((2000, 4),))
    assert rule.allows(uid, gids, 10, 20, wanted) is allowed


def test_acl_inheritance() -> None:
    assert Rule(7, 5, UNSET, 0).inherit(0o2777) == (None, 0o2750)
    child, mode = Rule(7, 7, 5, 5, ((1000, 6),)).inherit(0o1664)
    assert child == Rule(6, 7, 4, 4, ((1000, 6),))
    assert mode == 0o1644


# Record locks


def test_plock_record() -> None:
    data = bytes.fromhex("00000001" "000010e1" "0000000000000000" "7fffffffffffffff")  # fmt: skip
    lock = Plock(WRITE, 4321, 0, END_OF_FILE)
    assert encode_plocks([lock]) == data
    assert decode_plocks(data) == [lock]
    with pytest.raises(Corrupt):
        decode_plocks(data[:-1])


def test_plock_samples() -> None:
    whole = [Plock(READ, 1, 0, 99)]
    split = update_plocks(whole, Plock(WRITE, 1, 50, 59))
    assert split == [Plock(READ, 1, 0, 49), Plock(WRITE, 1, 50, 59), Plock(READ, 1, 60, 99)]
    assert update_plocks(split, Plock(READ, 1, 50, 59)) == whole
    # Official clients leave [0, 59] and [60, 99]: the same lock, and it goes on as ours does.
    apart = [Plock(READ, 1, 0, 59), Plock(READ, 1, 60, 99)]
    assert update_plocks(apart, Plock(UNLOCK, 1, 20, 29)) == [Plock(READ, 1, 0, 19), Plock(READ, 1, 30, 99)]


locks = st.builds(
    lambda kind, pid, start, length: Plock(kind, pid, start, start + length),
    st.sampled_from([READ, WRITE, UNLOCK]), st.integers(1, 2), st.integers(0, 20), st.integers(0, 10),
)  # fmt: skip


@given(st.lists(locks, max_size=12))
def test_plocks_are_what_locking_bytes_gives(changes: list[Plock]) -> None:
    model: dict[int, tuple[int, int]] = {}
    held: list[Plock] = []
    for change in changes:
        held = update_plocks(held, change)
        for byte in range(change.start, change.end + 1):
            model[byte] = change[:2]
    assert {b: lock[:2] for lock in held for b in range(lock.start, lock.end + 1)} == {
        byte: state for byte, state in model.items() if state[0] != UNLOCK
    }
    assert held == sorted(held, key=lambda lock: lock.start)
    for before, after in itertools.pairwise(held):
        assert before.end < after.start
        assert before.end + 1 < after.start or before[:2] != after[:2]


@given(st.lists(locks, max_size=6), locks)
def test_a_conflict_is_an_overlap_with_a_writer(changes: list[Plock], wanted: Plock) -> None:
    held: list[Plock] = []
    for change in changes:
        held = update_plocks(held, change)
    writes = {b for lock in held if lock.type == WRITE for b in range(lock.start, lock.end + 1)}
    reads = {b for lock in held if lock.type == READ for b in range(lock.start, lock.end + 1)}
    mine = set(range(wanted.start, wanted.end + 1))
    in_the_way = {READ: writes, WRITE: writes | reads, UNLOCK: set()}[wanted.type]
    found = find_conflict(held, wanted)
    assert (found is not None) == bool(mine & in_the_way)
    assert found is None or found in held


# Keys and values of key/value stores


@pytest.mark.parametrize(
    ("key", "stored"),
    [
        (keys.SETTING, "73657474696e67"),
        (keys.attr_key(1), "41 0100000000000000 49"),
        (keys.attr_key(TRASH), "41 00000010ffffff7f 49"),
        (keys.entry_key(1, b"foo"), "41 0100000000000000 44 666f6f"),
        (keys.chunk_key(2, 3), "41 0200000000000000 43 00000003"),
        (keys.symlink_key(5), "41 0500000000000000 53"),
        (keys.xattr_key(2, b"user.a"), "41 0200000000000000 58 757365722e61"),
        (keys.parent_key(9, 1), "41 0900000000000000 50 0100000000000000"),
        (keys.deleted_file_key(2, 4096), "44 0200000000000000 0000000000001000"),
        (keys.slice_key(5, 4096), "4b 0000000000000005 00001000"),
        (keys.delayed_key(1_700_000_000, 7), "4c 000000006553f100 0000000000000007"),
        (keys.session_key(b"SE", 3), "5345 0000000000000003"),
        (keys.session_key(b"SI", 3), "5349 0000000000000003"),
        (keys.sustained_key(3, 2), "5353 0000000000000003 0200000000000000"),
        (keys.dir_stat_key(2), "55 0200000000000000"),
        (keys.quota_key("dir", 2), "5144 0200000000000000"),
        (keys.quota_key("user", 1000), "5155 00000000000003e8"),
        (keys.quota_key("group", 1000), "5147 00000000000003e8"),
        (keys.counter_key("usedSpace"), "43 757365645370616365"),
        (keys.flock_key(2), "46 0200000000000000"),
        (keys.plock_key(2), "50 0200000000000000"),
        (keys.detached_key(2), "4e 0200000000000000"),
        (keys.acl_key(2), "52 00000002"),
    ],
)
def test_keys(key: bytes, stored: str) -> None:
    assert (keys.tikv_prefix("/jfs") + key).hex() == "6a6673fd" + stored.replace(" ", "")


def test_key_helpers() -> None:
    assert keys.tikv_prefix("") == b"\xfd"
    assert keys.prefix_end(b"A\x01\xff\xff") == b"A\x02"
    assert keys.changelog_shard(450000000000000001) == 58


def test_values() -> None:
    assert values.encode_counter("nextInode", 1026).hex() == "0204000000000000"
    assert values.encode_counter("lastCleanupTrash", 1_700_000_000).hex() == "000000006553f100"
    assert values.decode_counter("nextCleanupSlices", bytes.fromhex("000000006553f100")) == 1_700_000_000
    assert values.encode_entry(Dirent(FILE, 2)).hex() == "010000000000000002"
    assert values.decode_entry(bytes.fromhex("010000000000000002")) == Dirent(FILE, 2)
    assert values.encode_dir_stat(DirStat(-1, 4096, 1)).hex() == "ffffffffffffffff00000000000010000000000000000001"
    assert values.encode_quota(Quota(-1, 2, 3, 4)).hex() == "f" * 16 + "".join(f"{n:016x}" for n in (2, 3, 4))
    flocks = {(3, 0xFFFFFFFFFFFFFFFF): b"W"}
    assert values.encode_flocks(flocks).hex() == "0000000000000003" + "f" * 16 + "57"
    assert values.decode_flocks(values.encode_flocks(flocks)) == flocks
    plocks = {(3, 9): b"x" * 24, (4, 1): b"y" * 48}
    assert values.encode_plocks({(3, 9): b"xy"}).hex() == "00000000000000030000000000000009000000027879"
    assert values.decode_plocks(values.encode_plocks(plocks)) == plocks


@pytest.mark.parametrize(
    "call",
    [
        lambda: values.decode_counter("usedSpace", b"1"),
        lambda: values.decode_entry(b"\1" * 8),
        lambda: values.decode_flocks(b"x" * 18),
        lambda: values.decode_plocks(b"x" * 19),
        lambda: values.decode_plocks(values.encode_plocks({(1, 1): b"xy"})[:-1]),
    ],
)
def test_damaged_values_are_told(call: object) -> None:
    with pytest.raises(Corrupt):
        call()
