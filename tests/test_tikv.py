"""The TiKV client where things go wrong: regions that move, answers that are lost, clients that died, others' locks.

Over a stand-in that does as it is told; that the protocol is TiKV's is shown by the conformance suite over real servers
(`JFS_TIKV_PD`, see docs/development.md).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import redis_server
from hypothesis import given
from hypothesis import strategies as st
from tikv_standin import KeyLock, KeyRefused, StandIn

from meta.acl import Rule
from meta.attr import Attr
from meta.engines import open_engine
from meta.errors import BadURL, Conflict, EngineError, OutcomeUnknown, Unavailable
from meta.slices import Slice
from meta.tkv.engine import TkvEngine
from meta.tkv.memory import MemoryStore
from meta.tkv.tikv import commit, patience
from meta.tkv.tikv.engine import open_url
from meta.tkv.tikv.gc import collect, interval
from meta.tkv.tikv.messages import PUT, message
from meta.tkv.tikv.pd import at, decode_key, encode_key
from meta.tkv.tikv.store import TikvStore, parse
from meta.transaction import Delayed, DeletedFile, DirStat, Quota, SessionRecord
from meta.types import DIRECTORY, FILE, TRASH, Dirent


@pytest.fixture
def cluster() -> Iterator[StandIn]:
    made = StandIn(stores=3, members=2)
    yield made
    made.close()


@pytest.fixture(params=["one step", "two phases"])
def store(request: pytest.FixtureRequest, cluster: StandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[TikvStore]:
    if request.param == "two phases":
        monkeypatch.setenv(commit.TWO_PHASES, "1")
    made = TikvStore(parse(cluster.url + "t"))
    yield made
    made.close()


def put(store: TikvStore, **values: str) -> None:
    tx = store.begin()
    for key, value in values.items():
        tx.set(key.encode(), value.encode())
    tx.commit()


def settled(store: TikvStore, cluster: StandIn) -> None:
    """What is done in the background is done."""
    deadline = time.monotonic() + 10
    while any(row.lock for row in cluster.rows.values()):
        assert time.monotonic() < deadline, {key: row.lock for key, row in cluster.rows.items() if row.lock}
        time.sleep(0.02)


# Round trips


def test_a_change_is_a_batch_get_and_a_commit(cluster: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(commit.TWO_PHASES, raising=False)
    store = TikvStore(parse(cluster.url + "t"))
    put(store, a="1", b="2")
    cluster.calls.clear()
    tx = store.begin()
    assert tx.batch_get([b"a", b"b", b"c"]) == {b"a": b"1", b"b": b"2"}
    assert (tx.get(b"a"), tx.get(b"c")) == (b"1", None)
    tx.set(b"a", b"3")
    tx.commit()
    assert cluster.calls == ["KvBatchGet", "KvPrewrite"]
    cluster.calls.clear()
    assert store.latest.get(b"a") == b"3"
    assert cluster.calls == ["KvGet"]
    store.close()


# Regions and leaders


def test_two_phases_in_one_region_are_two_requests_and_leave_no_lock(
    store: TikvStore, cluster: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next transaction would find the locks, and ask what became of ours."""
    monkeypatch.setenv(commit.TWO_PHASES, "1")
    put(store, a="1", b="1", c="1")
    cluster.calls.clear()
    put(store, a="2", b="2", c="2")
    assert not [key for key, row in cluster.rows.items() if row.lock is not None]
    assert cluster.calls == ["KvPrewrite", "KvCommit"]
    cluster.split(store.prefix + b"b")
    put(store, a="3", b="3", c="3")
    settled(store, cluster)
    assert cluster.calls.count("KvCommit") == 3
    assert dict(store.begin().scan(b"", b"\xff")) == {b"a": b"3", b"b": b"3", b"c": b"3"}


def test_regions_split_and_leaders_move_while_transactions_run(store: TikvStore, cluster: StandIn) -> None:
    keys = [b"%02d" % number for number in range(20)]
    tx = store.begin()
    for key in keys:
        tx.set(key, b"100")
    tx.commit()
    problems: list[BaseException] = []
    stop = threading.Event()

    def move_money() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            first, second = keys[number * 7 % 20], keys[(number * 3 + 1) % 20]
            if first == second:
                continue
            try:
                tx = store.begin()
                held = tx.batch_get([first, second])
                tx.set(first, b"%d" % (int(held[first]) - 1))
                tx.set(second, b"%d" % (int(held[second]) + 1))
                tx.commit()
            except Conflict:
                continue
            except BaseException as problem:
                problems.append(problem)
                return

    threads = [threading.Thread(target=move_money) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(8):
        time.sleep(0.1)
        cluster.split(store.prefix + b"%02d" % (number * 2 + 1)) if number % 2 else cluster.move_leaders()
        found = dict(store.begin().scan(b"", b"\xff"))
        assert sum(map(int, found.values())) == 2000 and list(found) == keys
    cluster.pd_leader = 1
    time.sleep(0.3)
    stop.set()
    for thread in threads:
        thread.join(30)
    assert not problems, problems
    assert sum(int(value) for _, value in store.begin().scan(b"", b"\xff")) == 2000


def test_a_scan_goes_through_all_regions(store: TikvStore, cluster: StandIn) -> None:
    put(store, **{f"k{number:04}": "v" for number in range(300)})
    settled(store, cluster)
    for number in (50, 51, 200):
        cluster.split(store.prefix + b"k%04d" % number)
    assert [key for key, _ in store.latest.scan(b"k", b"l")] == [b"k%04d" % number for number in range(300)]
    assert [key for key, _ in store.begin().scan(b"k0040", b"k0210", 100)] == [b"k%04d" % n for n in range(40, 140)]
    assert len(list(store.latest.scan(b"k0049", b"k0052"))) == 3


def test_a_store_that_pauses_is_waited_for(store: TikvStore, cluster: StandIn) -> None:
    put(store, a="1")
    cluster.stopped |= {1, 2, 3}
    threading.Timer(1.0, cluster.stopped.clear).start()
    began = time.monotonic()
    put(store, a="2")
    assert time.monotonic() - began > 0.8 and store.latest.get(b"a") == b"2"


def test_nobody_there() -> None:
    store = TikvStore(parse("tikv://127.0.0.1:1/t"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patience.Patience.__init__, "__defaults__", (0.3,))
        with pytest.raises(Unavailable, match=r"TiKV: PD 127.0.0.1:1: UNAVAILABLE"):
            store.latest.get(b"a")
    store.close()


# Lost answers


@pytest.mark.parametrize("method", ["KvPrewrite", "KvCommit", "KvGet", "KvBatchGet"])
def test_an_answer_that_is_lost_is_asked_for_again(store: TikvStore, cluster: StandIn, method: str) -> None:
    """Done once, whether the work was done before the answer was lost or not."""
    put(store, n="0")
    engine = TkvEngine(store)
    for _ in range(5):
        cluster.lose[method] = 1
        engine.increment("usedSpace")
    assert engine.reader.counter("usedSpace") == 5


def test_an_outcome_that_nobody_tells_is_read_back(
    store: TikvStore, cluster: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All answers to the commit are lost until patience ends; the primary then says what became of it."""
    put(store, a="1")
    settled(store, cluster)
    monkeypatch.setattr(patience.Patience.__init__, "__defaults__", (0.3,))
    cluster.lose["KvPrewrite"] = cluster.lose["KvCommit"] = 1000
    tx = store.begin()
    tx.set(b"a", b"2")
    if "KvCommit" in _methods(store):
        cluster.lose["KvPrewrite"] = 0
    tx.commit()
    cluster.lose.clear()
    assert store.latest.get(b"a") == b"2"


def test_an_outcome_that_cannot_be_known(store: TikvStore, cluster: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, a="1")
    settled(store, cluster)
    monkeypatch.setattr(patience.Patience.__init__, "__defaults__", (0.3,))
    monkeypatch.setattr(commit, "_ASK_AGAIN_S", 0.3)
    for method in ("KvPrewrite", "KvCommit", "KvCheckTxnStatus"):
        cluster.lose[method] = 1000
    if "KvCommit" in _methods(store):
        cluster.lose["KvPrewrite"] = 0
    tx = store.begin()
    tx.set(b"a", b"2")
    with pytest.raises(OutcomeUnknown, match="whether the change was made is not known"):
        tx.commit()


def test_a_commit_that_arrives_late_is_refused(cluster: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was told that nothing was changed must not be contradicted afterwards."""
    monkeypatch.setenv(commit.TWO_PHASES, "1")
    store = TikvStore(parse(cluster.url + "t"))
    put(store, a="1")
    settled(store, cluster)
    monkeypatch.setattr(patience.Patience.__init__, "__defaults__", (0.3,))
    monkeypatch.setattr(store.cluster, "later", lambda work: None)  # nor is the lock taken away
    cluster.drop["KvCommit"] = late = []
    tx = store.begin()
    tx.set(b"a", b"2")
    with pytest.raises(Unavailable):
        tx.commit()
    for request in late:
        with pytest.raises(KeyRefused):
            cluster._commit(request, message("CommitResponse")())
    assert store.latest.get(b"a") == b"1"
    store.close()


@pytest.mark.parametrize("problem", ["no time is left", "the disk is full", "a conflict"])
def test_what_was_applied_unanswered_is_not_called_a_failure(
    cluster: StandIn, monkeypatch: pytest.MonkeyPatch, problem: str
) -> None:
    """In one step, with its answer lost; and then nobody waits for another answer. The writer would delete its data."""
    monkeypatch.delenv(commit.TWO_PHASES, raising=False)
    store = TikvStore(parse(cluster.url + "t"))
    put(store, a="1")
    refused, asked = cluster._region_problem, [0]

    def full(server: object, request: Any) -> Any:
        if request.DESCRIPTOR.name == "PrewriteRequest":
            asked[0] += 1
            if asked[0] > 1:
                problem = message("RegionError")(message="disk full")
                problem.disk_full.reason = "of a store"
                return problem
        return refused(server, request)

    if problem == "no time is left":
        monkeypatch.setattr(patience.Patience.__init__, "__defaults__", (0.0,))
    elif problem == "the disk is full":
        monkeypatch.setattr(cluster, "_region_problem", full)
    else:
        monkeypatch.setattr(commit.Commit, "_ask_prewrite", _then_conflict(commit.Commit._ask_prewrite))
    cluster.lose["KvPrewrite"] = 1
    tx = store.begin()
    tx.set(b"a", b"2")
    tx.commit()
    assert store.latest.get(b"a") == b"2"
    store.close()


def _then_conflict(ask: Any) -> Any:
    """The first time as it is, then as if the key had been changed."""
    asked = [0]

    def again(self: commit.Commit, *words: Any) -> Any:
        asked[0] += 1
        if asked[0] > 1:
            raise Conflict("as if it had been changed")
        return ask(self, *words)

    return again


def _methods(store: TikvStore) -> set[str]:
    import os

    return {"KvCommit"} if os.environ.get(commit.TWO_PHASES) else set()


def test_a_prewrite_that_nobody_answers_changes_nothing(cluster: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(commit.TWO_PHASES, "1")
    store = TikvStore(parse(cluster.url + "t"))
    put(store, a="1")
    settled(store, cluster)
    monkeypatch.setattr(patience.Patience.__init__, "__defaults__", (0.3,))
    cluster.lose["KvPrewrite"] = 1000
    tx = store.begin()
    tx.set(b"a", b"2")
    with pytest.raises(Unavailable):
        tx.commit()
    cluster.lose.clear()
    settled(store, cluster)  # it takes its lock away
    assert store.latest.get(b"a") == b"1"
    store.close()


# Locks of others


def lock(cluster: StandIn, store: TikvStore, key: bytes, primary: bytes, age_s: float, **more: object) -> int:
    """A lock of a client that died so long ago; its time is 3 s."""
    start = at(time.time() - age_s) + len(cluster.rows)
    values: dict[str, object] = {"op": PUT, "value": b"theirs", "ttl": 3000, "min_commit": start + 1, **more}
    row = cluster.rows[store.prefix + key]
    row.lock = KeyLock(start, store.prefix + primary, **values)  # type: ignore[arg-type]
    return start


def test_a_lock_whose_client_is_dead_is_rolled_back(store: TikvStore, cluster: StandIn) -> None:
    put(store, a="1", b="1")
    settled(store, cluster)
    start = lock(cluster, store, b"a", b"a", 60)
    cluster.rows[store.prefix + b"b"].lock = KeyLock(start, store.prefix + b"a", PUT, b"theirs", 3000, start + 1)
    assert store.latest.batch_get([b"a", b"b"]) == {b"a": b"1", b"b": b"1"}
    put(store, a="2")
    assert store.latest.get(b"a") == b"2"


def test_a_lock_whose_client_lives_is_left_alone(
    store: TikvStore, cluster: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client renews the primary's lock only; and one key may have come without asynchronous commit."""
    put(store, a="1", b="1")
    settled(store, cluster)
    second = store.prefix + b"b"
    start = lock(cluster, store, b"a", b"a", 10, ttl=60_000, is_async=True, secondaries=[second])
    cluster.rows[second].lock = KeyLock(start, store.prefix + b"a", PUT, b"theirs", 3000, 0)
    monkeypatch.setattr(patience.Patience.__init__, "__defaults__", (0.3,))
    tx = store.begin()
    tx.set(b"b", b"2")
    with pytest.raises(Unavailable, match="another client holds"):
        tx.commit()
    assert all(cluster.rows[store.prefix + key].lock is not None for key in (b"a", b"b"))
    for key in (b"a", b"b"):
        cluster.rows[store.prefix + key].lock = None


def test_a_lock_whose_transaction_was_committed_is_committed(store: TikvStore, cluster: StandIn) -> None:
    put(store, a="1", b="1")
    settled(store, cluster)
    start = lock(cluster, store, b"b", b"a", 60)
    from tikv_standin import Version

    cluster.rows[store.prefix + b"a"].add(Version(cluster.timestamp(), start, PUT, b"theirs"))
    assert store.latest.get(b"b") == b"theirs"
    assert cluster.rows[store.prefix + b"b"].lock is None


def test_a_reader_looks_through_a_living_lock_and_a_writer_waits(store: TikvStore, cluster: StandIn) -> None:
    put(store, a="1")
    settled(store, cluster)
    lock(cluster, store, b"a", b"a", 0, ttl=1500)
    began = time.monotonic()
    assert store.begin().get(b"a") == b"1"
    assert time.monotonic() - began < 1.4
    put(store, a="2")
    assert time.monotonic() - began > 1
    assert store.latest.get(b"a") == b"2"


@pytest.mark.parametrize("whole", [True, False])
def test_an_asynchronous_commit_of_a_dead_client(store: TikvStore, cluster: StandIn, whole: bool) -> None:
    """It is committed if all of its locks are there, at the greatest of their times; otherwise it never is."""
    put(store, a="1", b="1", c="1")
    settled(store, cluster)
    others = [store.prefix + b"b", store.prefix + b"c"]
    start = lock(cluster, store, b"a", b"a", 0, is_async=True, secondaries=others, ttl=1)
    for key in (b"b", b"c") if whole else (b"b",):
        cluster.rows[store.prefix + key].lock = KeyLock(start, store.prefix + b"a", PUT, b"theirs", 1, start + 5, True)
    time.sleep(0.05)
    value = b"theirs" if whole else b"1"
    assert store.latest.batch_get([b"a", b"b", b"c"]) == {b"a": value, b"b": value, b"c": value}
    if whole:
        versions = {cluster.rows[store.prefix + key].versions[0].commit for key in (b"a", b"b", b"c")}
        assert versions == {start + 5}


# Conflicts


def test_whoever_commits_second_conflicts(store: TikvStore) -> None:
    first, second = store.begin(), store.begin()
    for tx in (first, second):
        assert tx.get(b"k") is None
        tx.set(b"k", b"v")
    first.commit()
    with pytest.raises(Conflict):
        second.commit()


def test_what_is_held_must_not_change(store: TikvStore, cluster: StandIn) -> None:
    put(store, held="1")
    tx, other = store.begin(), store.begin()
    assert tx.get(b"held") == b"1"
    tx.hold(b"held")
    tx.set(b"k", b"v")
    other.set(b"held", b"2")
    other.commit()
    with pytest.raises(Conflict):
        tx.commit()
    settled(store, cluster)
    assert store.latest.batch_get([b"held", b"k"]) == {b"held": b"2"}


def engines(cluster: StandIn) -> list[Callable[[], TkvEngine]]:
    memory = MemoryStore()
    return [lambda: TkvEngine(memory), lambda: open_url(cluster.url + "skew")]


@pytest.mark.parametrize("number", [0, 1])
def test_a_name_is_not_made_in_a_directory_that_goes(cluster: StandIn, number: int) -> None:
    engine = engines(cluster)[number]()
    engine.transact(lambda tx: [tx.put_attr(ino, Attr(DIRECTORY, nlink=2)) for ino in (1, 2)])
    engine.transact(lambda tx: tx.put_entry(1, b"d", Dirent(DIRECTORY, 2)))
    runs = []

    def create(tx: object) -> bool:
        there = tx.attr(2) is not None  # type: ignore[attr-defined]
        runs.append(there)
        if len(runs) == 1:
            remove()
        if there:
            tx.put_entry(2, b"f", Dirent(FILE, 3))  # type: ignore[attr-defined]
        return there

    def remove() -> None:
        def body(tx: object) -> None:
            assert not tx.has_entries(2)  # type: ignore[attr-defined]
            tx.delete_entry(1, b"d")  # type: ignore[attr-defined]
            tx.delete_attr(2)  # type: ignore[attr-defined]

        other = threading.Thread(target=lambda: engine.transact(body))
        other.start()
        other.join()

    assert engine.transact(create) is False and runs == [True, False]
    assert engine.reader.entry(2, b"f") is None
    engine.close()


@pytest.mark.parametrize("number", [0, 1])
def test_two_directories_are_not_moved_below_each_other(cluster: StandIn, number: int) -> None:
    engine = engines(cluster)[number]()

    def begin(tx: object) -> None:
        for ino in (1, 2, 3):
            tx.put_attr(ino, Attr(DIRECTORY, nlink=2, parent=1))  # type: ignore[attr-defined]
        for name, ino in ((b"a", 2), (b"b", 3)):
            tx.put_entry(1, name, Dirent(DIRECTORY, ino))  # type: ignore[attr-defined]

    engine.transact(begin)
    runs = []

    def move(tx: object, name: bytes, ino: int, below: int, then: Callable[[], None]) -> bool:
        attr, target = tx.attr(ino), tx.attr(below)  # type: ignore[attr-defined]
        runs.append(name)
        if len(runs) == 1:
            then()
        if target.parent == ino:
            return False
        tx.delete_entry(1, name)  # type: ignore[attr-defined]
        tx.put_entry(below, name, Dirent(DIRECTORY, ino))  # type: ignore[attr-defined]
        attr.parent = below
        tx.put_attr(ino, attr)  # type: ignore[attr-defined]
        return True

    def other() -> None:
        thread = threading.Thread(target=lambda: engine.transact(lambda tx: move(tx, b"b", 3, 2, lambda: None)))
        thread.start()
        thread.join()

    assert engine.transact(lambda tx: move(tx, b"a", 2, 3, other)) is False
    assert engine.reader.entry(2, b"b") is not None and engine.reader.entry(1, b"a") is not None
    engine.close()


# Large ones


def test_a_transaction_larger_than_a_request(store: TikvStore, cluster: StandIn) -> None:
    cluster.split(store.prefix + b"m")
    tx = store.begin()
    for number in range(400):
        tx.set(b"%c%03d" % (b"az"[number % 2], number), b"x" * 10_000)
    tx.commit()
    assert len(list(store.latest.scan(b"", b"\xff"))) == 400
    settled(store, cluster)
    assert cluster.calls.count("KvPrewrite") >= 4


# Old versions


def test_old_versions_may_go(store: TikvStore, cluster: StandIn) -> None:
    put(store, a="1")
    settled(store, cluster)
    lock(cluster, store, b"a", b"a", 3 * 3600)
    point = collect(store.cluster, store.locks, 7200)
    assert cluster.safe_point == point and abs(point - at(time.time() - 7200)) < at(5)
    assert cluster.rows[store.prefix + b"a"].lock is None and store.latest.get(b"a") == b"1"
    with pytest.raises(EngineError, match="GC too early"):
        store.snapshot(point - 1).get(store.prefix + b"a")


@pytest.mark.parametrize(
    ("text", "seconds"), [("3h", 10800), ("0", 0), ("0s", 0), ("1h30m", 5400), ("10m", 3600), ("", 0), ("1.5h", 5400)]
)
def test_intervals(text: str, seconds: float) -> None:
    assert interval(text) == seconds


# Addresses and bytes


def test_addresses() -> None:
    found = parse("tikv://pd1,pd2:1234,[::1]:5/jfs?ca=/ca&cert=/c&key=/k&verify-cn=a,b&gc-interval=5h")
    assert found.endpoints == ["pd1:2379", "pd2:1234", "[::1]:5"] and found.prefix == b"jfs\xfd"
    assert found.tls == ("/ca", "/c", "/k", ("a", "b")) and found.gc_interval_s == 18000
    assert parse("tikv://pd1").prefix == b"\xfd" and not parse("tikv://pd1/a/b").tls
    assert parse("tikv://pd1/a/b").prefix == b"a/b\xfd"


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("tikv:///x", "needs the addresses of PD"),
        ("tikv://pd/x?colour=red", "no option colour"),
        ("tikv://pd/x?gc-interval=soon", "gc-interval=soon"),
        ("tikv://pd/x?ca=/none", "certificate file /none"),
        ("tikv://pd/x?ca=/dev/null&cert=/dev/null", "cert and key must be given together"),
    ],
)
def test_bad_addresses(url: str, problem: str) -> None:
    with pytest.raises((BadURL, Exception), match=problem):
        open_engine(url).close()


def test_keys_as_pd_orders_them() -> None:
    assert encode_key(b"abc").hex() == "6162630000000000fa"
    assert encode_key(b"12345678").hex() == "3132333435363738ff0000000000000000f7"
    assert encode_key(b"").hex() == "0000000000000000f7" and decode_key(b"") == b""


@given(st.binary(max_size=30), st.binary(max_size=30))
def test_encoded_keys_keep_their_order(first: bytes, second: bytes) -> None:
    assert decode_key(encode_key(first)) == first
    assert (encode_key(first) < encode_key(second)) == (first < second)


def test_messages_on_the_wire() -> None:
    """Field numbers of the published interface, byte by byte."""
    request = message("PrewriteRequest")(
        mutations=[message("Mutation")(op=1, key=b"k")], primary_lock=b"k", start_version=5, lock_ttl=7, txn_size=1,
        min_commit_ts=6, try_one_pc=True,
    )  # fmt: skip
    assert request.SerializeToString().hex() == "120508011201" + "6b" + "1a016b20052807400150066801"
    stamp = message("TsoResponse").FromString(bytes.fromhex("0a0208071001" + "1a0408051006"))
    assert (stamp.header.cluster_id, stamp.count, stamp.timestamp.physical, stamp.timestamp.logical) == (7, 1, 5, 6)


# TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    redis_server.make_certificates(folder)
    return folder


@pytest.fixture
def secure(certificates: Path) -> Iterator[StandIn]:
    """A cluster that talks TLS and wants to see a certificate as well."""
    ca, cert, key = ((certificates / name).read_bytes() for name in ("ca.crt", "server.crt", "server.key"))
    made = StandIn(credentials=grpc.ssl_server_credentials([(key, cert)], ca, require_client_auth=True))
    yield made
    made.close()


def test_tls(secure: StandIn, certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = f"cert={certificates}/server.crt&key={certificates}/server.key"
    engine = open_url(f"{secure.url}t?ca={certificates}/ca.crt&{own}")
    assert engine.increment("usedSpace", 5) == 5
    engine.close()
    name = _common_name(certificates / "server.crt")
    engine = open_url(f"{secure.url}t?ca={certificates}/ca.crt&{own}&verify-cn=other,{name}")
    assert engine.increment("usedSpace", 5) == 10
    engine.close()
    monkeypatch.setattr(patience.Patience.__init__, "__defaults__", (0.5,))
    for options, problem in (
        (f"ca={certificates}/ca.crt&{own}&verify-cn=somebody", rf"is for {name}, not verify-cn"),
        (f"ca={certificates}/ca.crt", "TiKV: PD"),
        ("", "TiKV: PD"),
    ):
        engine = open_url(f"{secure.url}t?{options}")
        with pytest.raises(Unavailable, match=problem):
            engine.reader.counter("usedSpace")
        engine.close()


def _common_name(path: Path) -> str:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    subject = x509.load_pem_x509_certificate(path.read_bytes()).subject
    return str(subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


# Byte for byte


def test_every_record_lies_where_official_clients_have_it(cluster: StandIn) -> None:  # long: one record of each kind
    """What a filled volume is in the store of `tikv://.../jfs`, key by key."""
    engine = open_url(cluster.url + "jfs")
    attr = Attr(
        FILE, 0o644, 1000, 1001, flags=0x21, atime=1700000000, atimensec=111111111, mtime=1700000001,
        mtimensec=222222222, ctime=1700000002, ctimensec=333333333, nlink=1, length=0x0102030405, parent=1,
    )  # fmt: skip

    def fill(tx: Any) -> None:
        tx.put_setting(b"{}")
        tx.put_attr(1, attr)
        tx.put_attr(TRASH, attr)
        tx.put_entry(1, b"foo", Dirent(FILE, 2))
        tx.put_chunk(2, 3, Slice(0x100000, 0x123456789, 4194304, 8, 4194296).encode())
        tx.put_symlink(5, b"target")
        tx.put_xattr(2, b"user.a", b"value")
        tx.add_parent(9, 1, 2)
        tx.put_deleted_file(DeletedFile(2, 4096, 1700000000))
        tx.add_slice_refs(5, 4096, 2)
        tx.put_delayed(Delayed(7, 1700000000, [(5, 4096)]))
        tx.put_session(SessionRecord(3, 1700000000, b"{}"))
        tx.put_sustained(3, 2)
        tx.put_dir_stat(2, DirStat(1, 2, 3))
        tx.put_quota("dir", 2, Quota(1, 2, 3, 4))
        tx.put_quota("user", 1000, Quota(1, 2, 3, 4))
        tx.put_quota("group", 1001, Quota(1, 2, 3, 4))
        tx.put_acl(7, Rule(7, 5, 7, 0, ((1000, 6),), ((2000, 4),)).encode())
        tx.put_flock(2, (3, 5), b"W")
        tx.put_plock(2, (3, 5), bytes.fromhex("00000001000010e100000000000000007fffffffffffffff"))
        tx.put_detached(6, 1700000000)
        tx.put_counter("nextInode", 1026)
        tx.put_counter("lastCleanupFiles", 1700000000)

    engine.transact(fill)
    record = (
        "2111a4000003e8000003e9000000006553f100069f6bc7000000006553f1010d3ed78e000000006553f10213de4355"
        "00000001000000010203040500000000000000000000000100"
    )
    quota = "0000000000000001000000000000000200000000000000030000000000000004"
    expected = {
        "73657474696e67": "7b7d",
        "41010000000000000049": record,
        "4100000010ffffff7f49": record,
        "41010000000000000044666f6f": "010000000000000002",
        "4102000000000000004300000003": "00100000000000012345678900400000000000080" + "03ffff8",
        "41050000000000000053": "746172676574",
        "41020000000000000058757365722e61": "76616c7565",
        "410900000000000000500100000000000000": "0200000000000000",
        "4402000000000000000000000000001000": "000000006553f100",
        "4b000000000000000500001000": "0200000000000000",
        "4c000000006553f1000000000000000007": "000000000000000500001000",
        "53450000000000000003": "000000006553f100",
        "53490000000000000003": "7b7d",
        "535300000000000000030200000000000000": "01",
        "550200000000000000": "000000000000000100000000000000020000000000000003",
        "51440200000000000000": quota,
        "515500000000000003e8": quota,
        "514700000000000003e9": quota,
        "5200000007": "000700050007000000000001000003e8000600000001000007d00004",
        "460200000000000000": "0000000000000003000000000000000557",
        "500200000000000000": "0000000000000003000000000000000500000018"
        "00000001000010e100000000000000007fffffffffffffff",
        "4e0600000000000000": "000000006553f100",
        "436e657874496e6f6465": "0204000000000000",
        "436c617374436c65616e757046696c6573": "000000006553f100",
    }
    prefix = b"jfs\xfd"
    found = {key.removeprefix(prefix).hex(): row.versions[0].value.hex() for key, row in cluster.rows.items()}
    assert all(key.startswith(prefix) for key in cluster.rows)
    assert found == expected
    engine.close()
