"""What a review of the data path found: servers that answer oddly, storages that change, and checks before a mount."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from faults import FaultyBucket, failing_first

from chunkstore.bucket import Access, Data
from chunkstore.buckets import open_bucket, s3_address
from chunkstore.buckets.mem import MemBucket
from chunkstore.buckets.remote import RemoteBucket, Response, content_range, refused
from chunkstore.compress import Lz4
from chunkstore.config import StoreConfig
from chunkstore.errors import BadBucket, Denied, NotFound, StoreError, Throttled, Timeout, Unavailable, Unsupported
from chunkstore.gate import Gate
from chunkstore.store import ChunkStore, opened
from juicefs_py import storage_check
from juicefs_py.cli.args import Values, parse
from juicefs_py.cli.errors import Fatal
from juicefs_py.commands import umount
from juicefs_py.commands.mount import COMMAND as MOUNT
from juicefs_py.data.slice_store import StoredSlices
from juicefs_py.mount import store_options
from juicefs_py.volume import _Reopener
from meta.setting import Setting
from meta.slices import Piece

BLOCK = 64 << 10


def config(**changes: object) -> StoreConfig:
    return StoreConfig(**{"block_size": BLOCK, "cache_size": 0, **changes})  # type: ignore[arg-type]


def write(store: ChunkStore, slice_id: int, data: bytes) -> None:
    writer = store.new_writer()
    writer.set_id(slice_id)
    writer.write_at(0, data)
    writer.finish(len(data))


# answers that are not what was asked for


class Odd(RemoteBucket):
    """Answers every GET with the same part of an object of 1000 bytes."""

    def __init__(self, start: int, end: int) -> None:
        super().__init__(Access())
        self.start, self.end = start, end

    def describe(self) -> str:
        return "odd://"

    def _open(self, key: str, start: int, end: int | None) -> Response:
        return Response(self.start, self.end, 1000, {}, self)

    def readinto(self, buffer: memoryview, /) -> int:
        buffer[:] = bytes(len(buffer))
        return len(buffer)


def test_an_answer_that_begins_too_late_is_refused() -> None:
    view = memoryview(bytearray(50))
    for act in (lambda: Odd(100, 200).get_into("k", 50, view), lambda: Odd(100, 200).get("k", 50, 10)):
        with pytest.raises(Unavailable, match="asked for bytes from 50, got others"):
            act()
    assert Odd(0, 1000).get_into("k", 50, view) == 50 and Odd(0, 1000).get("k", 50, 10) == bytes(10)


@pytest.mark.parametrize("header", ["bytes 5-2/10", "bytes 0-9/5", "bytes x-y/z", "bytes */10", "bytes -1-5/10"])
def test_ranges_that_make_no_sense(header: str) -> None:
    with pytest.raises(Unavailable, match="makes no sense"):
        content_range(header, 10)


@contextmanager
def http_server(handle: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """`handle` answers whatever is asked."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            return

        def do_GET(self) -> None:
            handle(self)

        do_PUT = do_POST = do_DELETE = do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def s3(url: str, **changes: object) -> FaultyBucket:
    access = Access(**{"access_key": "key", "secret_key": "secret", **changes})  # type: ignore[arg-type]
    return open_bucket("s3", f"{url}/bucket", access)  # type: ignore[return-value]


def answer(handler: BaseHTTPRequestHandler, status: int, code: str = "", **headers: str) -> None:
    handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode() if code else b""
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


def test_an_answer_without_its_length_is_an_error_of_ours() -> None:
    def chunked(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"3\r\nabc\r\n0\r\n\r\n")

    with http_server(chunked) as url:
        bucket = s3(url)
        with pytest.raises(Unavailable, match="does not say which bytes it holds"):
            bucket.get("k")
        bucket.close()


def test_a_service_without_batches_is_asked_one_by_one() -> None:
    seen: list[str] = []

    def service(handler: BaseHTTPRequestHandler) -> None:
        seen.append(handler.command)
        answer(handler, 501, "NotImplemented") if handler.command == "POST" else answer(handler, 204)

    with http_server(service) as url:
        bucket = s3(url)
        assert bucket.delete_many(["a", "b", "c", "d"]) == {}
        bucket.close()
    assert seen == ["POST", *["DELETE"] * 4]


@pytest.mark.parametrize("status", [301, 400, 403])
def test_a_mount_is_refused_when_its_storage_says_no_for_good(status: int) -> None:
    with http_server(lambda handler: answer(handler, status)) as url:
        bucket = s3(url)
        with pytest.raises(Fatal, match="cannot be used: read object"):
            storage_check.refuse_unusable(bucket)
        bucket.close()


@pytest.mark.parametrize(
    ("status", "kind"), [(301, BadBucket), (302, Unavailable), (307, Unavailable), (308, BadBucket)]
)
def test_redirects_are_told_and_not_followed(status: int, kind: type[StoreError]) -> None:
    seen: list[str] = []

    def elsewhere(handler: BaseHTTPRequestHandler) -> None:
        seen.append(handler.path)
        answer(handler, status, Location="https://user:SECRET@elsewhere.example.com/bucket/k")

    with http_server(elsewhere) as url:
        bucket = s3(url)
        for act in (bucket.head, bucket.get, lambda key: bucket.put(key, b"x")):
            with pytest.raises(StoreError, match=r"redirects to elsewhere\.example\.com") as caught:
                act("k")
            assert type(caught.value) is kind and "SECRET" not in str(caught.value)
        bucket.close()
    assert len(seen) <= 6, "the library asks once more for the bucket's region, and leaves it at that"


@pytest.mark.parametrize(
    ("status", "code", "kind", "final"),
    [
        (409, "OperationAborted", Unavailable, False),
        (400, "XAmzContentSHA256Mismatch", Unavailable, False),
        (307, "TemporaryRedirect", Unavailable, False),
        (0, "AccessDenied", Denied, True),
        (501, "NotImplemented", Unsupported, True),
        (400, "SomethingElse", StoreError, True),
        (500, "SomethingElse", Unavailable, False),
        (301, "301", BadBucket, True),
    ],
)
def test_what_is_worth_another_attempt(status: int, code: str, kind: type[StoreError], final: bool) -> None:
    error = refused(status, code, "words", "write object k")
    assert type(error) is kind and error.final is final


def test_a_put_that_hardly_moves_ends() -> None:
    """Each piece goes out in time, but all of them would take an hour."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        ended = threading.Event()

        def trickle() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(5)
                while not ended.wait(0.02):
                    if not connection.recv(1024):
                        return

        thread = threading.Thread(target=trickle)
        thread.start()
        bucket = s3(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_s=0.2)
        start = time.monotonic()
        with pytest.raises(Timeout, match=r"write object .* of 8388608 bytes went out in 2 s|did not answer in time"):
            bucket.put("k", bytes(8 << 20))
        assert time.monotonic() - start < 10
        ended.set()
        thread.join()
        bucket.close()


@pytest.mark.parametrize("storage", ["s3", "minio", "wasabi"])
def test_keys_in_an_address_are_never_shown(storage: str) -> None:
    shown: list[str] = []
    for address in ("http://me:SECRET@bucket.s3.example.com/b", "me:SECRET@x", "http://me:SECRET@bucket.h.r.com:x/"):
        try:
            bucket = open_bucket(storage, address, Access(access_key="key", secret_key="secret"))
            shown.append(bucket.describe())
            bucket.close()
        except StoreError as error:
            shown.append(str(error))
    assert len(shown) == 3 and "SECRET" not in " ".join(shown)


def test_addresses_without_their_user() -> None:
    for address, bare in {
        "http://a:b@host/bucket": "http://host/bucket", "a:b@host/bucket": "host/bucket", "host/b@d": "host/b@d",
        "https://bucket.host/?x=a@b": "https://bucket.host/?x=a@b", "bucket": "bucket",
    }.items():  # fmt: skip
        assert s3_address.without_user(address) == bare


def test_secrets_of_a_setting_are_not_shown() -> None:
    setting = Setting(name="vol", secret_key="SECRET-1", session_token="SECRET-2", encrypt_key="SECRET-3")
    assert "SECRET" not in repr(setting) and "vol" in repr(setting)


def test_no_library_writes_a_token_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(1)
    with http_server(lambda handler: answer(handler, 200)) as url:
        bucket = s3(url, token="SECRET-TOKEN")
        bucket.put("k", b"x")
        bucket.close()
    assert "SECRET" not in caplog.text and "Signature=" not in caplog.text


# the gate


def test_a_failure_before_the_attempt_leaves_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Lz4, data: memoryview) -> bytes:
        raise MemoryError

    with opened(MemBucket(), config(compress="lz4", max_uploads=1)) as store:
        with monkeypatch.context() as patch:
            patch.setattr(Lz4, "compress", fail)
            for number in (1, 2):
                with pytest.raises(StoreError, match="MemoryError"):
                    write(store, number, b"x")
        write(store, 3, b"x")
        assert store._transfer.uploads._inside == 0 and store.metrics.object_request_uploading == 0


def test_every_place_in_the_gate_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chunkstore.gate._LONGEST_PAUSE_S", 0.01)
    gate, lock = Gate(5), threading.Lock()
    inside = most = passed = 0

    def ask(number: int) -> None:
        nonlocal inside, most, passed
        failures: list[Exception | None] = [None, Throttled("slower"), Timeout("late"), NotFound("no"), ValueError()]
        for turn in range(20):
            with contextlib.suppress(StoreError, ValueError), gate.pass_through(5.0, threading.Event()):
                with lock:
                    inside, passed = inside + 1, passed + 1
                    most = max(most, inside)
                time.sleep(0.0005)
                with lock:
                    inside -= 1
                if (failure := failures[(number + turn) % 5]) is not None:
                    raise failure

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert passed == 240 and most <= 5 and gate._inside == 0
    for _ in range(8):
        with gate.pass_through(1.0):
            pass
    assert gate.allowed == 5


def test_whoever_waits_at_the_gate_can_be_told_to_stop() -> None:
    gate, stop = Gate(1), threading.Event()
    assert gate.enter()
    threading.Timer(0.1, stop.set).start()
    start = time.monotonic()
    assert not gate.enter(30.0, stop) and time.monotonic() - start < 2
    with pytest.raises(Timeout), gate.pass_through(0.05):
        pytest.fail("there was no place")
    gate.leave()
    assert gate.enter(0) and gate._inside == 1


# a storage that changes while it is used


class Lazy(MemBucket):
    """Keeps in mind until `sync`, as local directories do."""

    def __init__(self) -> None:
        super().__init__()
        self.unsynced: set[str] = set()
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def put(self, key: str, data: Data, tier: int = 0) -> None:
        self.entered.set()
        assert self.go_on.wait(10)
        super().put(key, data, tier)
        self.unsynced.add(key)

    def sync(self) -> None:
        self.unsynced.clear()


def test_what_went_to_the_old_storage_is_synced_as_well() -> None:
    old, new = Lazy(), Lazy()
    with opened(old, config()) as store:
        write(store, 1, b"x")
        old.go_on.clear()
        old.entered.clear()
        late = threading.Thread(target=write, args=(store, 2, b"x"))
        late.start()
        assert old.entered.wait(10)
        store.use_bucket(new)
        assert not old.unsynced, "before the change"
        old.go_on.set()
        late.join()
        store.sync()
        assert not old.unsynced, "under way during the change"
        assert len(list(old.list_all())) == 2


@pytest.mark.parametrize("error", [Unavailable("not there"), ModuleNotFoundError("no such library")])
def test_a_new_storage_that_cannot_be_opened_ends_no_mount(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(setting: Setting, config: StoreConfig) -> None:
        raise error

    monkeypatch.setattr("juicefs_py.volume.volume_bucket", fail)
    setting = Setting(name="vol", bucket="/a/")
    with opened(MemBucket(), config()) as store:
        old = store.bucket
        _Reopener(store, lambda given: given, setting).changed(replace(setting, bucket="/b/"))
        assert store.bucket is old
    assert "the old one stays in use" in caplog.text and str(error) in caplog.text


def test_a_compacted_slice_is_durable_before_it_replaces_others() -> None:
    bucket = Lazy()
    with opened(bucket, config()) as store:
        write(store, 1, b"abc")
        StoredSlices(store).compact_slice([Piece(1, 3, 0, 3)], 2, 3, 0)
        assert not bucket.unsynced
        assert store.read(2, 3, 0, 3) == b"abc"


# before a volume is made or mounted


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_check, "_WAITS_S", (0, 0, 0))


class Uncreatable(FaultyBucket):
    """A bucket whose user may not create any."""

    def create(self) -> None:
        raise Denied("create bucket b: access is denied")


@pytest.mark.usefixtures("quick")
def test_a_storage_that_fails_for_a_moment_is_tried_again() -> None:
    bucket = Uncreatable(MemBucket())
    bucket.fail = failing_first(2)
    storage_check.check_storage(bucket)
    bucket.fail = failing_first(9)
    with pytest.raises(Fatal, match="fault in put"):
        storage_check.check_storage(bucket)
    bucket.fail = failing_first(1, error=BadBucket("there is no such bucket"))
    with pytest.raises(Fatal, match="create bucket b: access is denied"):
        storage_check.check_storage(bucket)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("fault", ["get", "changed"])
def test_a_failed_check_leaves_no_test_object(fault: str) -> None:
    bucket = FaultyBucket(MemBucket())
    if fault == "get":
        bucket.fail = failing_first(9, "get")
    else:
        bucket.flip = True
    with pytest.raises(Fatal):
        storage_check.check_storage(bucket)
    assert list(bucket.list_all()) == []


# options


@pytest.mark.parametrize(("words", "drains"), [((), True), (("--read-only",), False), (("-o", "ro"), False)])
def test_a_mount_that_may_not_write_uploads_nothing(words: tuple[str, ...], drains: bool) -> None:
    values = Values(MOUNT.options)
    parse([*words, "sqlite3://m.db", "/mnt"], values)
    assert store_options.store_config(values, Setting(name="vol", uuid="u")).drain_staged is drains


@pytest.mark.parametrize("text", ["\u00b2-3", "25-3", "3", "a-b", "-1-3", "1-2-3"])
def test_hours_that_are_none(text: str) -> None:
    with pytest.raises(Fatal, match="invalid --upload-hours"):
        store_options.upload_hours(text)


def test_umount_waits_for_blocks_in_directories_given_by_a_pattern(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    staged = tmp_path / "ssd1/uuid/rawstaging/chunks/0/0/7_0_3"
    staged.parent.mkdir(parents=True)
    staged.write_bytes(b"abc")
    (staged.parent / "7_0_3.tmp").write_bytes(b"half")
    (staged.parent / ".nfs0001").write_bytes(b"removed by somebody who has it open")
    (tmp_path / "mnt").mkdir()
    (tmp_path / "mnt/.config").write_text(f'{{"Chunk": {{"Writeback": true, "CacheDir": "{tmp_path}/ssd*/uuid"}}}}')
    sleeps: list[float] = []
    monkeypatch.setattr(umount, "time", SimpleNamespace(sleep=lambda s: (sleeps.append(s), os.unlink(staged))))
    umount._wait_for_uploads(str(tmp_path / "mnt"))
    assert len(sleeps) == 1 and "All staging chunks are flushed" in capsys.readouterr().out
