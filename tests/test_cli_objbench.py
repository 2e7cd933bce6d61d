"""`juicefs objbench`: what it finds out about good and bad storages, what it prints, and that nothing of it is left."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import s3_server
from faults import FaultyBucket
from mounts import PROGRAM, environment

from chunkstore.bucket import ObjectInfo
from chunkstore.buckets import open_bucket
from chunkstore.buckets.mem import MemBucket
from chunkstore.errors import Denied, NotFound, Unavailable
from juicefs_py.cli import app
from juicefs_py.cli.progress import Progress
from juicefs_py.objbench import table
from juicefs_py.objbench.functional import all_tests, try_out
from juicefs_py.objbench.outcome import Cell, Colour
from juicefs_py.objbench.speed import Load, Measured, Speed

KIB, MIB = 1 << 10, 1 << 20
PREFIX = "__test__/"
SMALL = ("--block-size", "64K", "--big-object-size", "1M", "--small-object-size", "4K", "--small-objects", "20")

TESTS = [
    ("basic", "create a bucket"), ("basic", "put an object"), ("basic", "get an object"), ("basic", "get non-exist"),
    ("basic", "get partial object"), ("basic", "head an object"), ("basic", "delete an object"),
    ("basic", "delete non-exist"), ("basic", "list objects"), ("sync", "special key"), ("sync", "put a big object"),
    ("sync", "put an empty object"), ("sync", "multipart upload"), ("sync", "change owner/group"),
    ("sync", "change permission"), ("sync", "change mtime"),
]  # fmt: skip
FILES_ONLY = ("change owner/group", "change permission", "change mtime")
ITEMS = [
    "upload objects", "download objects", "put small objects", "get small objects", "list objects", "head objects",
    "delete objects", "change permissions", "change owner/group", "update mtime",
]  # fmt: skip


def run(*words: str, answer: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """The command as a script runs it."""
    return subprocess.run(
        [*PROGRAM, "objbench", *words], env=environment() | variables, cwd="/", input=answer, text=True,
        capture_output=True, timeout=60,
    )  # fmt: skip


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the table that has this first word in its heading."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    starts = [at for at, cells in enumerate(lines) if cells[0] in ("CATEGORY", "ITEM")]
    (start,) = [at for at in starts if lines[at][0] == heading]
    return lines[start + 1 : next((at for at in starts if at > start), len(lines))]


def results(text: str) -> dict[str, str]:
    """Result by test; they are the right ones in the right order."""
    found = rows(text, "CATEGORY")
    assert [(category, title) for category, title, _ in found] == TESTS
    return {title: result for _, title, result in found}


def speeds(text: str) -> dict[str, tuple[str, str]]:
    """Value and cost by item; they are the right ones in the right order."""
    found = rows(text, "ITEM")
    assert [item for item, *_ in found] == ITEMS
    return {item: (value, cost) for item, value, cost in found}


def test_a_local_directory(tmp_path: Path) -> None:
    place = tmp_path / "bench"
    done = run(str(place), *SMALL, "-p", "2")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "Start Functional Testing ..."
    assert lines[lines.index("Start Performance Testing ...") - 1] == ""
    assert lines[lines.index("Start Performance Testing ...") + 1] == (
        "Benchmark finished! block-size: 64 KiB, big-object-size: 1.0 MiB, small-object-size: 4.0 KiB, "
        "small-objects: 20, NumThreads: 2"
    )
    root = os.getuid() == 0
    wanted = dict.fromkeys((title for _, title in TESTS), "pass") | {"multipart upload": "not support"}
    assert results(done.stdout) == wanted | ({} if root else {"change owner/group": "root required"})
    for item, (value, cost) in speeds(done.stdout).items():
        unit = r"MiB/s" if item in ("upload objects", "download objects") else r"objects/s"
        assert re.fullmatch(rf"\d+\.\d\d {unit}", value) or not root, (item, value)
        tail = r"ms/ 36 objects" if item == "list objects" else r"ms/object"
        assert re.fullmatch(rf"(\d+\.\d\d|0\.00\d+|\de-\d\d) {tail}", cost) or not root, (item, cost)
    assert not place.exists(), "it was not there before"


def test_what_lies_in_a_directory_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    assert run(str(tmp_path), *SMALL, "--skip-functional-tests").returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_memory_and_shards(tmp_path: Path) -> None:
    for words in (("--storage", "mem", "x"), (f"{tmp_path}/shard%d", "--shards", "3")):
        done = run(*words, *SMALL)
        assert (done.returncode, done.stderr) == (0, "")
        found, fast = results(done.stdout), speeds(done.stdout)
        assert [title for title, result in found.items() if result == "not support"] == [
            "multipart upload",
            *FILES_ONLY,
        ]
        assert set(found.values()) == {"pass", "not support"}
        assert [item for item, cells in fast.items() if cells == ("not support",) * 2] == ITEMS[-3:]
    assert not list(tmp_path.iterdir())


def test_s3(tmp_path: Path) -> None:
    server = s3_server.shared_server()
    name = server.new_bucket()  # not there yet: it is made
    keys = {"ACCESS_KEY": s3_server.ACCESS_KEY, "SECRET_KEY": s3_server.SECRET_KEY}
    done = run(server.address(name), "--storage", "S3", *SMALL, **keys)
    assert done.returncode == 0, done.stderr
    found, fast = results(done.stdout), speeds(done.stdout)
    assert all(found[title] == "not support" for title in FILES_ONLY)
    # This server keeps no parts that it could replace; a bucket of Amazon does.
    assert found.pop("multipart upload") in ("pass", "part 1 has already been streamed to the backe...")
    assert set(found.values()) == {"pass", "not support"}
    assert not any("failed" in cells for cells in fast.values())
    bucket = open_bucket("s3", server.address(name), s3_server.access())
    assert list(bucket.list_all()) == []
    bucket.close()


def test_wrong_keys_fail_everything_but_the_command(tmp_path: Path) -> None:
    server = s3_server.shared_server()
    address = server.address(server.new_bucket())
    done = run("--storage", "s3", address, *SMALL, "--access-key", s3_server.ACCESS_KEY, "--secret-key", "hush-hush")
    assert done.returncode == 0
    found, fast = results(done.stdout), speeds(done.stdout)
    assert found["put an object"] == "the secret key is wrong; check --secret-key (..."
    assert set(found.values()) == {found["put an object"], "not support"}
    assert set(fast.values()) == {("failed", "failed"), ("not support", "not support")}
    for name in ("smallput", "smallget", "put", "get", "list", "head", "delete", "create a bucket", "list objects"):
        assert f"<ERROR>: {name} test failed: " in done.stderr
    assert "hush-hush" not in done.stdout + done.stderr
    done = run(
        "--storage", "s3", address, *SMALL, "--access-key", "nobody", "--secret-key", "x", "--skip-functional-tests"
    )
    assert done.returncode == 1 and "<FATAL>: can't create bucket: " in done.stderr


@pytest.mark.parametrize(("words", "complaint"), [
    (("--threads", "0"), "threads should not be set to zero"),
    (("--small-objects", "0"), "small-objects should not be set to zero"),
    (("--block-size", "0"), "block-size, big-object-size and small-object-size should not be zero"),
    (("--big-object-size", "0B"), "block-size, big-object-size and small-object-size should not be zero"),
    (("--small-object-size", "0"), "block-size, big-object-size and small-object-size should not be zero"),
    (("--storage", "floppy"), "create storage failed: invalid storage: 'floppy'"),
    (("--shards", "2"), "a bucket of 2 shards needs one %d in its address"),
])  # fmt: skip
def test_what_makes_no_sense(
    words: tuple[str, ...], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["juicefs", "objbench", str(tmp_path / "x"), *words]) == 1
    assert f"<FATAL>: {complaint}" in (said := capsys.readouterr()).err or complaint in said.err
    assert not list(tmp_path.iterdir())


def test_an_address_for_a_directory_is_asked_about(tmp_path: Path) -> None:
    done = run(f"file://{tmp_path}/x", answer="no\n")
    assert done.returncode == 1 and "<FATAL>: Aborted [" in done.stderr
    assert done.stdout.count("\x1b[1;33mWARNING\x1b[0m: ") == 2 and done.stdout.endswith("Proceed anyway? [y/N]: ")
    done = run(f"file://{tmp_path}/x", *SMALL, "--skip-functional-tests", answer="y\n")
    assert done.returncode == 0 and "Benchmark finished!" in done.stdout


def test_no_more_threads_than_objects(tmp_path: Path) -> None:
    done = run(str(tmp_path), *SMALL, "--big-object-size", "100K", "--skip-functional-tests", "--threads", "64")
    assert "<WARNING>: The number of threads was set too large and has been reduced to 2 [" in done.stderr
    assert "NumThreads: 2" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_leaves_nothing(number: int, tmp_path: Path) -> None:
    command = [*PROGRAM, "objbench", str(tmp_path / "x"), "--small-objects", "200000", "--skip-functional-tests"]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # it may be ignored by whoever runs the tests
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 20
        while len(list(tmp_path.glob("x/*/*"))) < 100:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert process.returncode == -number and said == ""
    assert not list(tmp_path.iterdir())


def test_bars_and_colours_on_a_terminal(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [*PROGRAM, "objbench", str(tmp_path / "x"), *SMALL]
    process = subprocess.Popen(command, env=environment() | {"TERM": "xterm"}, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while data := os.read(ours, 1 << 16):
            shown += data
    except OSError:
        pass  # how a terminal ends
    os.close(ours)
    assert process.wait(20) == 0
    text = shown.decode()
    for title in (*ITEMS, "functional tests"):
        assert re.search(rf"{title}: \d+/\d+ \[=+\]  [\d.]+/s used: [\d.]+s", text), title
    assert "|        \x1b[1;32mpass\x1b[0m |" in text and "| \x1b[1;33mnot support\x1b[0m |" in text
    assert re.search(r"\x1b\[1;3\dm[\d.]+\x1b\[0m MiB/s \|", text)


# storages that fail


def tried(bucket: FaultyBucket, wanted: str = "") -> dict[str, str]:
    tests = [test for test in all_tests(bucket, PREFIX, None) if not wanted or test.title == wanted]
    return {test.title: try_out(test).cell.text for test in tests if test.title != "put a big object"}


def failing(methods: tuple[str, ...], error: Exception) -> Callable[[str, str], None]:
    def rule(method: str, key: str) -> None:
        if method in methods:
            raise error

    return rule


def test_a_storage_that_cannot_do_one_thing_fails_the_tests_of_that() -> None:
    bucket = FaultyBucket(MemBucket())
    good = {title: text for title, text in tried(bucket).items() if title not in FILES_ONLY}
    assert set(good.values()) == {"pass", "not support"}
    for method, titles in {
        "delete": {"delete an object", "delete non-exist", "special key"},
        "head": {"put an object", "head an object", "delete an object", "special key", "put an empty object"},
        "get": {"get an object", "get non-exist", "get partial object", "special key", "put an empty object"},
    }.items():
        bucket = FaultyBucket(MemBucket())
        bucket.fail = failing((method,), Unavailable("it is\nout of order"))
        found = tried(bucket)
        assert {title for title, text in found.items() if text not in ("pass", "not support")} == titles, method
        assert found[min(titles)].endswith("it is out of order")


def test_wrong_bytes_and_wrong_answers_are_found() -> None:
    bucket = FaultyBucket(MemBucket())
    bucket.flip = True
    assert tried(bucket, "get an object")["get an object"].endswith(" instead of b'hello'")
    bucket.flip, bucket.cut = False, 1
    assert tried(bucket, "get an object")["get an object"] == "the whole object: b'hell' instead of b'hello'"
    bucket = FaultyBucket(MemBucket())
    bucket.delete = lambda key: None  # type: ignore[method-assign]
    assert tried(bucket, "delete an object")["delete an object"] == "head of a deleted object does not fail"
    unsorted = FaultyBucket(MemBucket())
    real = unsorted.list_all
    unsorted.list_all = lambda *where: reversed(list(real(*where)))  # type: ignore[method-assign,assignment]
    assert tried(unsorted, "list objects")["list objects"] == "the keys of a list are not as expected"


def test_a_missing_object_that_is_denied_is_a_doubt(caplog: pytest.LogCaptureFixture) -> None:
    bucket = FaultyBucket(MemBucket())
    bucket.fail = failing(("get",), Denied("read object x: access is denied"))
    (test,) = [test for test in all_tests(bucket, PREFIX, None) if test.title == "get non-exist"]
    cell = try_out(test).cell
    assert cell.colour is Colour.YELLOW and cell.text == "access is denied"
    assert caplog.messages == [
        "get non-exist test: get of an object that is not there: read object x: access is denied"
    ]


def test_a_special_key_is_printable_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    bucket = FaultyBucket(MemBucket())
    bucket.fail = lambda method, key: (_ for _ in ()).throw(NotFound(f"write {key}"))
    tried(bucket, "special key")
    assert caplog.messages[0].isprintable() and r"\x1f" in caplog.messages[0]


def load(**changes: int) -> Load:
    return Load(64 * KIB, 10, KIB, 20, 3)._replace(**changes)


def measured(bucket: FaultyBucket, **changes: int) -> dict[str, Measured]:
    return {each.name: each for each in Speed(bucket, load(**changes), None, Progress(quiet=True)).run()}


def test_every_object_is_put_read_looked_at_and_deleted_once() -> None:
    bucket = FaultyBucket(MemBucket())
    found = measured(bucket)
    assert all(each.seconds > 0 for each in found.values() if each.instead is None)
    keys = sorted(map(str, range(30)))
    for method in ("put", "get", "head", "delete"):
        assert sorted(key for name, key in bucket.calls if name == method) == keys
    assert list(bucket.list_all()) == []


def test_after_a_failure_nothing_more_is_tried(caplog: pytest.LogCaptureFixture) -> None:
    bucket = FaultyBucket(MemBucket())
    bucket.fail = failing(("get",), Unavailable("read: it is out of order"))
    found = measured(bucket)
    assert [name for name, each in found.items() if each.instead and each.instead.text == "failed"] == [
        "smallget",
        "get",
    ]
    assert caplog.messages == [f"{name} test failed: read: it is out of order" for name in ("smallget", "get")]
    assert bucket.count("get") <= 2 * 3
    assert bucket.count("head") == 30, "what does not need it goes on"


def test_what_is_read_must_be_what_was_put() -> None:
    for change in ("flip", "cut"):
        bucket = FaultyBucket(MemBucket())
        setattr(bucket, change, 1)
        found = measured(bucket, block_size=20, small_size=10)
        assert found["get"].instead is not None and found["smallget"].instead is not None
    bucket = FaultyBucket(MemBucket())
    other, real = {"1": "2", "25": "26"}, bucket.get_into
    bucket.get_into = lambda key, at, view: real(other.get(key, key), at, view)  # type: ignore[method-assign]
    found = measured(bucket)
    assert found["get"].instead is not None and found["smallget"].instead is not None, "another object"
    bucket = FaultyBucket(MemBucket())
    bucket.head = lambda key: ObjectInfo(key, 1, 0.0)  # type: ignore[method-assign]
    assert measured(bucket)["head"].instead is not None
    bucket = FaultyBucket(MemBucket())
    bucket.list_all = lambda *where: iter(())  # type: ignore[method-assign,misc]
    assert measured(bucket)["list"].instead is not None


def test_threads_work_at_the_same_time() -> None:
    bucket = FaultyBucket(MemBucket())
    meeting = threading.Barrier(3)
    real = bucket.put

    def together(key: str, data: bytes, tier: int = 0) -> None:
        if key in ("0", "1", "2"):
            meeting.wait(10)
        real(key, data, tier)

    bucket.put = together  # type: ignore[method-assign,assignment]
    assert measured(bucket)["smallput"].instead is None


# what is printed


@pytest.mark.parametrize(("name", "seconds", "value", "cost"), [
    ("put", 0.005, Cell("125.00", Colour.YELLOW, " MiB/s"), Cell("1.50", Colour.GREEN, " ms/object")),
    ("get", 0.004, Cell("156.25", Colour.GREEN, " MiB/s"), Cell("1.20", Colour.GREEN, " ms/object")),
    ("put", 0.5, Cell("1.25", Colour.RED, " MiB/s"), Cell("150.00", Colour.RED, " ms/object")),
    ("smallput", 1.0, Cell("20.00", Colour.YELLOW, " objects/s"), Cell("150.00", Colour.RED, " ms/object")),
    ("smallget", 0.5, Cell("40.00", Colour.GREEN, " objects/s"), Cell("75.00", Colour.YELLOW, " ms/object")),
    ("list", 0.09, Cell("1000.00", Colour.RED, " objects/s"), Cell("90.00", Colour.GREEN, " ms/ 30 objects")),
    ("list", 0.008, Cell("11250.00", Colour.GREEN, " objects/s"), Cell("8.00", Colour.GREEN, " ms/ 30 objects")),
    ("head", 3.0, Cell("10.00", Colour.RED, " objects/s"), Cell("300.00", Colour.RED, " ms/object")),
    ("delete", 0.00001, Cell("3000000.00", Colour.GREEN, " objects/s"), Cell("0.001", Colour.GREEN, " ms/object")),
])  # fmt: skip
def test_values_costs_and_their_colours(name: str, seconds: float, value: Cell, cost: Cell) -> None:
    plain = table.of_speed([Measured(name, "title", seconds)], load(), False).splitlines()[3]
    assert plain.split("|")[2:4] == [f" {value.text}{value.unit} ", f" {cost.text}{cost.unit} "]
    coloured = table.of_speed([Measured(name, "title", seconds)], load(), True).splitlines()[3]
    for cell in (value, cost):
        assert f"\x1b[1;{cell.colour.value}m{cell.text}\x1b[0m{cell.unit} |" in coloured
    assert len(re.sub(r"\x1b\[[\d;]*m", "", coloured)) == len(plain)


def test_who_may_not_give_files_away_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert app.run(["juicefs", "objbench", str(tmp_path / "x"), *SMALL]) == 0
    shown = capsys.readouterr()
    assert results(shown.out)["change owner/group"] == "root required"
    assert speeds(shown.out)["change owner/group"] == ("skipped", "skipped")
    assert "<WARNING>: chown test is skipped: root required" in shown.err
