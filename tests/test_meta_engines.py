"""What every engine must do, asked of each: records, transactions, counters, sessions, scans."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import ALL_ENGINES, fresh_url

from meta.acl import Rule
from meta.attr import Attr
from meta.engine import Engine
from meta.engines import open_engine
from meta.errors import Refused
from meta.slices import Slice, encode_slices
from meta.transaction import Cursor, Delayed, DeletedFile, DirItem, DirStat, Quota, SessionRecord, Transaction
from meta.types import DIRECTORY, FILE, SYMLINK, TRASH, Dirent

RULE = Rule(7, 5, 7, 0, ((1000, 6),), ((2000, 4),))
RECORD_A = encode_slices([Slice(0, 5, 100, 0, 100)])
RECORD_B = encode_slices([Slice(50, 6, 10, 0, 10)])


@pytest.fixture(params=ALL_ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    engine = open_engine(fresh_url(request.param, tmp_path))
    engine.prepare()
    engine.init_counters({"nextInode": 2, "nextChunk": 1})
    yield engine
    engine.close()


def a_file(**changes: int) -> Attr:
    values = {
        "uid": 1000, "gid": 4294967294, "mode": 0o4644, "atime": 1_700_000_000, "atimensec": 111111111,
        "mtime": 1_700_000_001, "mtimensec": 222222222, "ctime": 1_700_000_002, "ctimensec": 333333333,
        "length": 1 << 40, "rdev": 0xFFFFFFFF, "parent": 1,
    }  # fmt: skip
    return Attr(FILE, **{**values, **changes})


# Records


@pytest.mark.parametrize(
    "attr",
    [
        a_file(),
        Attr(DIRECTORY, 0o1777, nlink=2, length=4096, parent=TRASH),
        a_file(access_acl=7, default_acl=9, tier=3, flags=0x3F, nlink=0, parent=0),
        a_file(atime=-1, atimensec=999_999_999, mtime=-62135596800, mtimensec=1, ctime=-1, ctimensec=0),
        a_file(atime=-2, atimensec=1001, mtime=-3, mtimensec=999),
    ],
)
def test_attr_comes_back_as_it_was_put(engine: Engine, attr: Attr) -> None:
    engine.transact(lambda tx: tx.put_attr(5, attr))
    assert engine.reader.attr(5) == attr
    assert engine.view(lambda reader: reader.attr(5)) == attr
    assert engine.reader.attr(6) is None


def test_attr_objects_are_the_callers_own(engine: Engine) -> None:
    engine.transact(lambda tx: tx.put_attr(5, a_file()))
    first = engine.reader.attr(5)
    assert first is not None
    first.mode = 0
    assert engine.reader.attr(5) == a_file()


def test_attrs_gives_what_there_is(engine: Engine) -> None:
    engine.transact(lambda tx: [tx.put_attr(ino, a_file(length=ino)) for ino in range(2, 1300)])
    found = engine.reader.attrs([*range(1, 1500), 7, 7])
    assert sorted(found) == list(range(2, 1300))
    assert all(attr.length == ino for ino, attr in found.items())
    assert engine.reader.attrs([]) == {}


def test_put_attr_replaces_and_delete_removes(engine: Engine) -> None:
    engine.transact(lambda tx: tx.put_attr(5, a_file()))
    engine.transact(lambda tx: tx.put_attr(5, a_file(length=7)))
    assert engine.reader.attr(5) == a_file(length=7)
    engine.transact(lambda tx: tx.delete_attr(5))
    assert engine.reader.attr(5) is None


def test_entries(engine: Engine) -> None:
    name = b"\xff\x00\xfe not UTF-8 '\""

    def body(tx: Transaction) -> None:
        tx.put_entry(1, name, Dirent(FILE, 1 << 62))
        tx.put_entry(1, b"gone", Dirent(DIRECTORY, 77))
        tx.put_attr(1 << 62, a_file())

    engine.transact(body)
    reader = engine.reader
    assert reader.entry(1, name) == Dirent(FILE, 1 << 62)
    assert reader.entry(2, name) is None
    assert reader.target(1, name) == (Dirent(FILE, 1 << 62), a_file())
    assert reader.target(1, b"gone") == (Dirent(DIRECTORY, 77), None)
    assert reader.target(1, b"never") is None
    assert reader.has_entries(1) and not reader.has_entries(2)
    engine.transact(lambda tx: tx.put_entry(1, name, Dirent(SYMLINK, 9)))
    assert reader.entry(1, name) == Dirent(SYMLINK, 9)
    engine.transact(lambda tx: tx.delete_entry(1, name))
    assert reader.entry(1, name) is None


def test_listing_goes_on_behind_a_name(engine: Engine) -> None:
    names = [b"n%04d" % n for n in range(1000)] + [b"\xff", b"\xff\xff", b"N"]

    def body(tx: Transaction) -> None:
        for number, name in enumerate(names):
            tx.put_entry(3, name, Dirent(FILE, 100 + number))
            if number % 2:
                tx.put_attr(100 + number, a_file(length=number))
        tx.put_entry(4, b"other", Dirent(FILE, 5))

    engine.transact(body)
    everything = engine.reader.list_entries(3).items
    assert sorted(item.name for item in everything) == sorted(names)
    assert all(item.attr is None for item in everything)
    pages: list[DirItem] = []
    cursor: Cursor = None
    while not pages or cursor is not None:
        page, cursor = engine.reader.list_entries(3, plus=True, cursor=cursor, limit=300)
        pages += page
    assert [item.name for item in pages] == [item.name for item in everything]
    assert {item.ino: item.attr and item.attr.length for item in pages} == {
        100 + number: number if number % 2 else None for number in range(len(names))
    }
    assert engine.reader.list_entries(9) == ([], None)


def test_parents_count_names(engine: Engine) -> None:
    def body(tx: Transaction) -> None:
        for parent, name in ((1, b"a"), (1, b"b"), (TRASH + 1, b"c")):
            tx.put_entry(parent, name, Dirent(FILE, 9))
            tx.add_parent(9, parent, 1)

    engine.transact(body)
    assert engine.reader.parents(9) == {1: 2, TRASH + 1: 1}
    assert engine.reader.parents(8) == {}

    def unlink(tx: Transaction) -> None:
        tx.delete_entry(TRASH + 1, b"c")
        tx.add_parent(9, TRASH + 1, -1)

    engine.transact(unlink)
    assert engine.reader.parents(9) == {1: 2}

    def forget(tx: Transaction) -> None:
        tx.delete_entry(1, b"a")
        tx.delete_entry(1, b"b")
        tx.delete_parents(9)

    engine.transact(forget)
    assert engine.reader.parents(9) == {}


def test_symlinks(engine: Engine) -> None:
    engine.transact(lambda tx: tx.put_symlink(5, b"../\xff"))
    assert engine.reader.symlink(5) == b"../\xff"
    engine.transact(lambda tx: tx.delete_symlink(5))
    assert engine.reader.symlink(5) is None


def test_xattrs(engine: Engine) -> None:
    binary = bytes(range(256))
    empty = b"-" if engine.name == "tikv" else b""  # which its clients take for a missing one

    def body(tx: Transaction) -> None:
        tx.put_xattr(5, b"user.a", b"1")
        tx.put_xattr(5, b"user.A", empty)
        tx.put_xattr(5, b"user.\xff\xfe", binary)
        tx.put_xattr(6, b"user.a", b"other")
        tx.put_xattr(5, b"user.a", b"2")

    engine.transact(body)
    assert engine.reader.xattrs(5) == {b"user.a": b"2", b"user.A": empty, b"user.\xff\xfe": binary}
    assert engine.reader.xattr(5, b"user.\xff\xfe") == binary
    assert engine.reader.xattr(5, b"user.A") == empty
    assert engine.reader.xattr(5, b"user.none") is None
    engine.transact(lambda tx: tx.delete_xattr(5, b"user.a"))
    assert engine.reader.xattr(5, b"user.a") is None
    engine.transact(lambda tx: tx.delete_xattrs(5))
    assert engine.reader.xattrs(5) == {}
    assert engine.reader.xattrs(6) == {b"user.a": b"other"}


def test_chunks_append_and_count(engine: Engine) -> None:
    first = engine.transact(lambda tx: tx.append_slices(5, 0, RECORD_A))
    assert first.count == 1
    second = engine.transact(lambda tx: tx.append_slices(5, 0, RECORD_B + RECORD_A))
    assert second.count == 3
    engine.transact(lambda tx: tx.append_slices(5, 0x7FFFFFFF, RECORD_B))
    reader = engine.reader
    assert reader.chunk(5, 0) == RECORD_A + RECORD_B + RECORD_A
    assert reader.chunk(5, 1) == b""
    assert reader.chunks(5, 1 << 57) == {0: RECORD_A + RECORD_B + RECORD_A, 0x7FFFFFFF: RECORD_B}
    engine.transact(lambda tx: tx.put_chunk(5, 0, RECORD_B))
    assert reader.chunk(5, 0) == RECORD_B
    engine.transact(lambda tx: tx.append_slices(5, 0, RECORD_A))
    engine.transact(lambda tx: tx.delete_chunk(5, 0x7FFFFFFF))
    assert reader.chunks(5, 1 << 57) == {0: RECORD_B + RECORD_A}
    assert list(engine.list_slices()) == [(5, 0, RECORD_B + RECORD_A)]


def test_slice_references(engine: Engine) -> None:
    engine.transact(lambda tx: tx.new_slice(10, 100))
    assert engine.reader.slice_refs(10, 100) == 1
    engine.transact(lambda tx: tx.add_slice_refs(10, 100, 2))
    assert engine.reader.slice_refs(10, 100) == 3
    engine.transact(lambda tx: tx.add_slice_refs(10, 100, -2))
    engine.transact(lambda tx: tx.add_slice_refs(11, 200, 0))  # the tracking count of a compaction
    assert engine.reader.slice_refs(11, 200) == 1
    assert (11, 200, 1) in list(engine.list_slice_refs())
    assert list(engine.dead_slices()) == []
    engine.transact(lambda tx: tx.add_slice_refs(10, 100, -1))
    assert engine.reader.slice_refs(10, 100) == 0
    assert list(engine.dead_slices()) == [(10, 100)]
    engine.transact(lambda tx: tx.delete_slice(10, 100))
    assert list(engine.dead_slices()) == []


def test_delayed_slices(engine: Engine) -> None:
    old = Delayed(7, 1000, ((1, 4096), (2, 10), (1, 4096)))
    new = Delayed(8, 2000, ((3, 1),))
    engine.transact(lambda tx: [tx.put_delayed(entry) for entry in (new, old)])
    assert engine.reader.delayed(7, 1000) == old
    assert engine.reader.delayed(7, 1001) is None
    assert engine.delayed_slices(2000) == [old]
    assert sorted(engine.delayed_slices(2001)) == [old, new]
    assert engine.delayed_slices(2001, 1) in ([old], [new])
    assert sorted(engine.list_delayed()) == [old, new]
    engine.transact(lambda tx: tx.delete_delayed(7, 1000))
    assert engine.delayed_slices(9999) == [new]


def test_deleted_files(engine: Engine) -> None:
    files = [DeletedFile(5, 1 << 40, 1000), DeletedFile(6, 0, 900), DeletedFile(7, 10, 2000)]
    engine.transact(lambda tx: [tx.put_deleted_file(file) for file in files])
    assert engine.deleted_files(2000, 10) == [files[1], files[0]]
    assert engine.deleted_files(2000, 1) == [files[1]]
    assert sorted(engine.list_deleted_files()) == files
    engine.transact(lambda tx: tx.delete_deleted_file(6, 0))
    assert engine.deleted_files(3000, 10) == engine.deleted_files(3000, -1) == [files[0], files[2]]


def test_locks_belong_to_sessions(engine: Engine) -> None:
    high = (1 << 64) - 5  # owners use all 64 bits

    def body(tx: Transaction) -> None:
        tx.put_flock(5, (1, high), b"R")
        tx.put_flock(5, (2, 3), b"R")
        tx.put_flock(6, (2, 3), b"W")
        tx.put_plock(5, (1, high), b"x" * 24)
        tx.put_plock(5, (2, 4), b"y" * 48)

    engine.transact(body)
    reader = engine.reader
    assert reader.flocks(5) == {(1, high): b"R", (2, 3): b"R"}
    assert reader.plocks(5) == {(1, high): b"x" * 24, (2, 4): b"y" * 48}
    assert engine.session_locks(1) == ({5: {high: b"R"}}, {5: {high: b"x" * 24}})
    assert engine.session_locks(2) == ({5: {3: b"R"}, 6: {3: b"W"}}, {5: {4: b"y" * 48}})
    engine.transact(lambda tx: tx.put_flock(5, (1, high), b"W"))
    assert reader.flocks(5)[1, high] == b"W"
    engine.transact(lambda tx: (tx.put_flock(5, (1, high), None), tx.put_plock(5, (1, high), None)))
    assert reader.flocks(5) == {(2, 3): b"R"} and reader.plocks(5) == {(2, 4): b"y" * 48}
    engine.drop_locks(2)
    assert (reader.flocks(5), reader.flocks(6), reader.plocks(5)) == ({}, {}, {})
    assert engine.session_locks(2) == ({}, {})


def test_dir_stats(engine: Engine) -> None:
    engine.transact(lambda tx: tx.add_dir_stat(5, DirStat(1, 2, 3)))
    engine.flush()
    assert engine.reader.dir_stat(5) is None
    engine.transact(lambda tx: tx.put_dir_stat(5, DirStat(10, 4096, 1)))
    engine.transact(lambda tx: tx.add_dir_stat(5, DirStat(-20, 8192, 2)))
    engine.flush()
    assert engine.reader.dir_stat(5) == DirStat(-10, 12288, 3)
    engine.transact(lambda tx: tx.put_dir_stat(6, DirStat(0, 0, 0)))
    engine.transact(lambda tx: tx.delete_dir_stat(5))
    assert engine.reader.dir_stat(5) is None
    engine.clear_dir_stats()
    assert engine.reader.dir_stat(6) is None


def test_quotas(engine: Engine) -> None:
    def body(tx: Transaction) -> None:
        tx.put_quota("dir", 5, Quota(1 << 40, -1, 10, 1))
        tx.add_quota("dir", 5, 4096, 1)
        tx.add_quota("dir", 6, 4096, 1)  # no record: ignored
        tx.add_quota("user", 0xFFFFFFFF, 4096, 1)  # no record: made
        tx.add_quota("user", 0xFFFFFFFF, 4096, 1)
        tx.put_quota("group", 5, Quota(1, 2, 3, 4))

    engine.transact(body)
    reader = engine.reader
    assert reader.quotas("dir") == {5: Quota(1 << 40, -1, 4106, 2)}
    assert reader.quotas("user") == {0xFFFFFFFF: Quota(-1, -1, 8192, 2)}
    assert reader.quota("group", 5) == Quota(1, 2, 3, 4)
    assert reader.quota("user", 5) is None and reader.quota("dir", 6) is None
    engine.transact(lambda tx: tx.delete_quota("dir", 5))
    assert reader.quota("dir", 5) is None
    engine.clear_quotas(["user"])
    assert reader.quotas("user") == {} and reader.quotas("group") == {5: Quota(1, 2, 3, 4)}
    engine.clear_quotas(["dir", "group"])
    assert reader.quotas("group") == {}


def test_setting_and_emptiness(engine: Engine) -> None:
    document = '{\n"Name": "ü\\u003c"\n}'.encode()
    assert engine.reader.setting() is None
    engine.transact(lambda tx: tx.put_setting(b"{}"))
    engine.transact(lambda tx: tx.put_setting(document))
    assert engine.reader.setting() == document
    assert not engine.is_empty()
    engine.reset()
    assert engine.is_empty()
    assert engine.reader.setting() is None and engine.reader.attr(1) is None


def test_changelog_takes_lines(engine: Engine) -> None:
    engine.transact(lambda tx: [tx.append_changelog(f"line {n}") for n in range(3)])
    engine.transact(lambda tx: tx.append_changelog("x" * 1000))


# Transactions


def test_changelog_is_read_by_numbers(engine: Engine) -> None:
    assert engine.last_change() == 0 and engine.changes(0, 10) == []
    lines = [f"1700000000.{number:09}|ACCESS({number})|(1,{number})" for number in range(1, 8)]
    for line in lines:
        engine.transact(lambda tx, text=line: tx.append_changelog(text))  # type: ignore[misc]
    found = engine.changes(0, 100)
    numbers = [number for number, _ in found]
    assert [line for _, line in found] == lines and numbers == sorted(set(numbers))
    assert engine.last_change() == numbers[-1]
    assert engine.changes(numbers[2], 2) == found[3:5]
    assert engine.changes(numbers[-1], 10) == engine.changes(numbers[-1] + 5, 10) == []


def test_a_transaction_reads_its_own_writes(engine: Engine) -> None:
    def body(tx: Transaction) -> None:
        tx.prefetch(("attr", 5), ("target", 1, b"x"), ("chunk", 5, 0), ("xattr", 5, b"user.a"), ("list_entries", 1))
        assert tx.attr(5) is None
        tx.put_attr(5, a_file())
        tx.put_entry(1, b"x", Dirent(FILE, 5))
        tx.put_entry(1, b"y", Dirent(FILE, 6))
        tx.append_slices(5, 0, RECORD_A)
        tx.append_slices(5, 0, RECORD_B)
        tx.put_xattr(5, b"user.a", b"v")
        tx.put_counter("nextTrash", 3)
        tx.add_usage(4096, 1)
        tx.put_symlink(9, b"t")
        tx.put_sustained(1, 5)
        assert tx.target(1, b"x") == (Dirent(FILE, 5), a_file())
        assert tx.chunk(5, 0) == RECORD_A + RECORD_B
        assert tx.xattrs(5) == {b"user.a": b"v"}
        assert tx.counter("nextTrash") == 3
        assert tx.counter("usedSpace") == (0 if engine.name == "tikv" else 4096)  # which adds them later
        assert tx.symlink(9) == b"t"
        assert tx.sustained(1) == [5]
        assert [item.name for item in tx.list_entries(1).items] == [b"x", b"y"]
        tx.delete_entry(1, b"x")
        assert [item.name for item in tx.list_entries(1, limit=1).items] == [b"y"]
        assert tx.has_entries(1)
        tx.delete_entry(1, b"y")
        assert not tx.has_entries(1)
        assert engine.reader.attr(5) is None  # nobody else sees anything yet

    engine.transact(body)
    assert engine.reader.attr(5) == a_file()


@pytest.mark.parametrize("error", [Refused(2), ValueError("bug"), KeyboardInterrupt()])
def test_a_body_that_raises_changes_nothing(engine: Engine, error: BaseException) -> None:
    def body(tx: Transaction) -> None:
        tx.put_attr(5, a_file())
        tx.add_usage(1, 1)
        raise error

    with pytest.raises(type(error)):
        engine.transact(body)
    assert engine.reader.attr(5) is None
    assert engine.reader.counter("usedSpace") == 0
    engine.transact(lambda tx: tx.put_attr(6, a_file()))  # and the engine goes on
    assert engine.reader.attr(6) == a_file()


def test_a_view_sees_one_state(engine: Engine) -> None:
    engine.transact(lambda tx: tx.put_attr(5, a_file(length=1)))

    def body(reader: object) -> None:
        assert reader.attr(5).length == 1
        writer = threading.Thread(target=lambda: engine.transact(lambda tx: tx.put_attr(5, a_file(length=2))))
        writer.start()
        writer.join()
        assert reader.attr(5).length == 1
        assert engine.reader.attr(5).length == 2

    engine.view(body)


def test_a_transaction_inside_a_transaction_is_a_mistake_that_is_told(engine: Engine) -> None:
    with pytest.raises(RuntimeError):
        engine.transact(lambda tx: engine.allocate("nextInode", 1))
    with pytest.raises(RuntimeError):
        engine.transact(lambda tx: engine.increment("nextTrash"))


def test_no_update_is_lost(engine: Engine) -> None:
    threads, rounds = 6, 40
    engine.transact(lambda tx: tx.put_attr(5, a_file(length=0)))

    def body(tx: Transaction) -> None:
        attr = tx.attr(5)
        attr.length += 1
        tx.put_attr(5, attr)
        tx.append_slices(5, 0, RECORD_A)
        tx.add_usage(4096, 1)

    def work() -> None:
        for _ in range(rounds):
            engine.transact(body)

    run(work, threads)
    total = threads * rounds
    assert engine.reader.attr(5).length == total
    assert len(engine.reader.chunk(5, 0)) == 24 * total
    engine.flush()
    assert (engine.reader.counter("usedSpace"), engine.reader.counter("totalInodes")) == (4096 * total, total)


def test_one_name_is_created_once(engine: Engine) -> None:
    winners = []

    def work() -> None:
        me = threading.get_ident()

        def body(tx: Transaction) -> bool:
            if tx.entry(1, b"name") is not None:
                return False
            tx.put_entry(1, b"name", Dirent(FILE, me))
            return True

        if engine.transact(body):
            winners.append(me)

    run(work, 8)
    assert len(winners) == 1
    assert engine.reader.entry(1, b"name") == Dirent(FILE, winners[0])


# Counters


def test_allocations_never_overlap(engine: Engine) -> None:
    first = engine.allocate("nextInode", 1024)
    assert first == (range(1, 1025) if engine.name == "redis" else range(2, 1026))  # 1 is never taken (`IdPool`)
    assert engine.allocate("nextInode", 1) == range(first.stop, first.stop + 1)
    assert engine.allocate("nextChunk", 4096) == range(1, 4097)
    taken: list[int] = []
    lock = threading.Lock()

    def work() -> None:
        for _ in range(20):
            mine = engine.allocate("nextChunk", 7)
            with lock:
                taken.extend(mine)

    run(work, 4)
    assert sorted(taken) == list(range(4097, 4097 + 4 * 20 * 7))


def test_increment(engine: Engine) -> None:
    assert engine.increment("nextSession") == 1
    assert engine.increment("nextSession") == 2
    assert engine.increment("nextTrash") == 1
    assert engine.increment("usedSpace", -5) == -5
    assert engine.reader.counter("usedSpace") == -5
    assert engine.reader.counter("neverHeardOf") == 0


@pytest.mark.parametrize("name", ["lastCleanupFiles", "nextCleanupSlices"])
def test_a_gate_opens_once_per_period(engine: Engine, name: str) -> None:
    now = 1_700_000_000
    assert engine.gate(name, now, 3240)
    assert not engine.gate(name, now, 3240)
    assert not engine.gate(name, now + 3239, 3240)
    assert engine.gate(name, now + 3240, 3240)
    assert engine.reader.counter(name) == now + 3240


def test_acl_rules_are_shared(engine: Engine) -> None:
    first = engine.intern_acl(RULE)
    assert first == 1
    minimal = Rule(7, 5, 0xFFFF, 0)
    second = engine.intern_acl(minimal)
    assert second == 2
    assert engine.intern_acl(RULE) == first
    assert engine.reader.acl(first) == RULE
    assert engine.reader.acl(second) == minimal
    assert engine.reader.acl(99) is None


# Sessions and scans


def test_sessions(engine: Engine) -> None:
    records = [SessionRecord(3, 1000, b'{"HostName": "a"}'), SessionRecord(4, 2000, b"{}")]
    engine.transact(lambda tx: [tx.put_session(record) for record in records])
    assert sorted(engine.sessions()) == records
    assert engine.reader.session(3) == records[0]
    assert engine.reader.session(5) is None
    assert engine.stale_sessions(1000, 10) == []
    assert engine.stale_sessions(1001, 10) == [3]
    assert sorted(engine.stale_sessions(9999, 10)) == [3, 4]
    assert len(engine.stale_sessions(9999, 1)) == 1
    engine.transact(lambda tx: tx.put_session(records[0]._replace(expire=5000)))
    assert engine.stale_sessions(1001, 10) == []
    engine.transact(lambda tx: tx.delete_session(3))
    assert engine.sessions() == [records[1]]


def test_sustained_inodes(engine: Engine) -> None:
    engine.transact(lambda tx: [tx.put_sustained(3, ino) for ino in (300, 5, 5)])
    engine.transact(lambda tx: tx.put_sustained(4, 6))
    assert engine.reader.sustained(3) == [5, 300]
    engine.transact(lambda tx: tx.delete_sustained(3, 5))
    assert engine.reader.sustained(3) == [300]
    assert engine.reader.sustained(4) == [6]


def test_detached_directories(engine: Engine) -> None:
    engine.transact(lambda tx: (tx.put_detached(5, 1000), tx.put_detached(6, 2000)))
    assert engine.detached(2000) == [5]
    engine.transact(lambda tx: tx.delete_detached(5))
    assert engine.detached(3000) == [6]


def test_scans_see_everything_once(engine: Engine) -> None:
    count = 4500  # more than two pages of a scan

    def body(tx: Transaction) -> None:
        for ino in range(2, count + 2):
            tx.put_attr(ino, a_file(length=ino))
            tx.put_entry(1, b"%d" % ino, Dirent(FILE, ino))
        for ino in range(2, 50):
            tx.put_chunk(ino, 3, RECORD_A)
            tx.new_slice(ino, 10)
            tx.add_slice_refs(ino, 10, 1)

    engine.transact(body)
    nodes = list(engine.list_nodes())
    assert sorted((ino, attr.length) for ino, attr in nodes) == [(ino, ino) for ino in range(2, count + 2)]
    edges = list(engine.list_edges())
    assert sorted(edges) == sorted((1, b"%d" % ino, Dirent(FILE, ino)) for ino in range(2, count + 2))
    assert sorted(engine.list_slices()) == [(ino, 3, RECORD_A) for ino in range(2, 50)]
    assert sorted(engine.list_slice_refs()) == [(ino, 10, 2) for ino in range(2, 50)]


def test_a_scan_goes_on_while_its_rows_are_deleted(engine: Engine) -> None:
    engine.transact(lambda tx: [tx.put_attr(ino, a_file()) for ino in range(2, 3000)])
    seen = 0
    for ino, _ in engine.list_nodes():
        engine.transact(lambda tx, ino=ino: tx.delete_attr(ino))
        seen += 1
    assert seen == 2998 and list(engine.list_nodes()) == []


def test_sync_flush_and_prepare_may_be_called_any_time(engine: Engine) -> None:
    engine.sync()
    engine.transact(lambda tx: tx.put_attr(5, a_file()))
    engine.sync()
    engine.flush()
    engine.prepare()
    assert engine.reader.attr(5) == a_file()


def run(work: object, threads: int) -> None:
    """Run `work` in several threads; an exception in any fails the test."""
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as e:
            errors.append(e)

    workers = [threading.Thread(target=guarded) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert errors == []
