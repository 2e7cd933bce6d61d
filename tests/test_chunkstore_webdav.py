"""The WebDAV bucket: addresses and logins, answers of several servers, whole objects or none, and broken lines."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest
from full_disk import full_disk
from proxy import Proxy
from rclone_server import PASSWORD, USER, WebdavServer, access, shared_webdav
from redis_server import free_port, make_certificates

from chunkstore.bucket import Access, Bucket
from chunkstore.buckets import open_bucket
from chunkstore.buckets.webdav_xml import Found, read_answer
from chunkstore.errors import BadBucket, Denied, NotFound, StoreError, Timeout, Unavailable

KEY = "vol/chunks/0/0/1_0_4194304"
BLOCK = os.urandom(4 << 20)


@pytest.fixture
def line() -> Iterator[Proxy]:
    proxy = Proxy(shared_webdav().port)
    yield proxy
    proxy.close()


@pytest.fixture
def folder() -> str:
    return shared_webdav().new_folder()


@pytest.fixture
def bucket(line: Proxy, folder: str) -> Iterator[Bucket]:
    """One behind `line`."""
    made = open_bucket("webdav", f"http://127.0.0.1:{line.port}/{folder}", access(timeout_s=0.5))
    yield made
    made.close()


def files(folder: str) -> list[str]:
    """The files on the server, temporary ones included."""
    root = shared_webdav().root / folder
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


# addresses and logins


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("http://host/a/b/", "webdav://host/a/b/"),
        ("https://host:8443", "webdav://host:8443/"),
        ("host/a", "webdav://host/a/"),
        ("http://me:hidden@host/a%20b?tls-insecure-skip-verify=true", "webdav://host/a b/"),
        ("http://[::1]:80/a", "webdav://[::1]:80/a/"),
    ],
)
def test_addresses_are_urls_of_folders(address: str, name: str) -> None:
    bucket = open_bucket("webdav", address)
    assert bucket.describe() == name
    bucket.close()


@pytest.mark.parametrize("address", ["", "ftp://host/a", "http:///a", "http://me:hidden@host:port/a", "http://"])
def test_addresses_that_are_none_are_refused(address: str) -> None:
    with pytest.raises(BadBucket) as caught:
        open_bucket("webdav", address)
    assert "hidden" not in str(caught.value)


def test_user_and_password_come_with_the_keys_or_in_the_url(folder: str) -> None:
    server = shared_webdav()
    login = f"{USER}:{quote(PASSWORD, safe='')}"
    for address, keys in (
        (f"{server.url}/{folder}", access()),
        (f"http://{login}@127.0.0.1:{server.port}/{folder}", Access()),
        (f"http://me:wrong@127.0.0.1:{server.port}/{folder}", access()),
    ):
        bucket = open_bucket("webdav", address, keys)
        bucket.put("k", b"1")
        assert PASSWORD not in bucket.describe() and "wrong" not in bucket.describe()
        bucket.close()


@pytest.mark.parametrize("keys", [access(secret_key="hidden"), Access()])
def test_wrong_passwords_are_denied(keys: Access) -> None:
    bucket = open_bucket("webdav", f"{shared_webdav().url}/a", keys)
    calls: list[Callable[[], object]] = [
        lambda: bucket.get("k"), lambda: bucket.put("k", b""), lambda: bucket.delete("k"), bucket.list, bucket.create
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(Denied, match="does not accept this user and password; check --access-key") as caught:
            call()
        assert "hidden" not in str(caught.value)
    bucket.close()


# what servers say

APACHE = b"""<?xml version="1.0" encoding="utf-8"?>
<D:multistatus xmlns:D="DAV:" xmlns:ns0="DAV:">
<D:response xmlns:lp1="DAV:" xmlns:lp2="http://apache.org/dav/props/" xmlns:g0="DAV:">
<D:href>/dav/d/</D:href>
<D:propstat>
<D:prop>
<lp1:resourcetype><D:collection/></lp1:resourcetype>
<lp1:getlastmodified>Thu, 26 Nov 2026 06:07:30 GMT</lp1:getlastmodified>
</D:prop>
<D:status>HTTP/1.1 200 OK</D:status>
</D:propstat>
<D:propstat>
<D:prop>
<g0:getcontentlength/>
</D:prop>
<D:status>HTTP/1.1 404 Not Found</D:status>
</D:propstat>
</D:response>
<D:response xmlns:lp1="DAV:">
<D:href>/dav/d/1_0_3</D:href>
<D:propstat><D:prop><lp1:resourcetype/><lp1:getcontentlength>3</lp1:getcontentlength>
<lp1:getlastmodified>Thu, 26 Nov 2026 06:07:31 GMT</lp1:getlastmodified></D:prop>
<D:status>HTTP/1.1 200 OK</D:status></D:propstat>
</D:response>
</D:multistatus>
"""

RCLONE = (
    b'<?xml version="1.0" encoding="UTF-8"?><D:multistatus xmlns:D="DAV:"><D:response><D:href>/d/</D:href><D:propstat>'
    b'<D:prop><D:resourcetype><D:collection xmlns:D="DAV:"/></D:resourcetype><D:getlastmodified>Thu, 26 Nov 2026 '
    b"06:13:45 GMT</D:getlastmodified></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat><D:propstat><D:prop>"
    b"<D:getcontentlength></D:getcontentlength></D:prop><D:status>HTTP/1.1 404 Not Found</D:status></D:propstat>"
    b"</D:response><D:response><D:href>/d/a%20b%25%C3%BC.txt</D:href><D:propstat><D:prop><D:resourcetype>"
    b"</D:resourcetype><D:getcontentlength>3</D:getcontentlength><D:getlastmodified>Thu, 26 Nov 2026 06:13:45 GMT"
    b"</D:getlastmodified></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response></D:multistatus>"
)

# A default namespace, whole URLs, properties nobody asked for (one with a href of its own), one file that is not there.
CHATTY = b"""<?xml version="1.0"?>
<multistatus xmlns="DAV:"><response><href>https://cloud.example/remote.php/d</href><propstat><status>HTTP/1.1 200 OK
</status><prop><resourcetype><collection/></resourcetype><owner><href>/principals/me/</href></owner>
<getlastmodified>Thu, 26 Nov 2026 06:07:30 GMT</getlastmodified></prop></propstat></response>
<response><href>/d/gone</href><status>HTTP/1.1 404 Not Found</status></response>
<response><href> /d/x </href><propstat><prop><getcontentlength>7</getcontentlength>
<getlastmodified>some day</getlastmodified></prop><status>HTTP/1.1 200 OK</status></propstat></response></multistatus>
"""


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (APACHE, [Found("/dav/d", 0, 1795673250, True), Found("/dav/d/1_0_3", 3, 1795673251, False)]),
        (RCLONE, [Found("/d", 0, 1795673625, True), Found("/d/a b%ü.txt", 3, 1795673625, False)]),
        (CHATTY, [Found("/remote.php/d", 0, 1795673250, True), Found("/d/x", 7, 0, False)]),
    ],
    ids=["apache", "rclone", "chatty"],
)
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_answers_are_read_whoever_wrote_them(answer: bytes, found: list[Found], size: int) -> None:
    read = read_answer(answer[start : start + size] for start in range(0, len(answer), size))
    assert [each._replace(mtime=0) for each in read] == [each._replace(mtime=0) for each in found]
    now = time.time()
    for each, expected in zip(read, found, strict=True):
        assert each.mtime == expected.mtime or (not expected.mtime and abs(each.mtime - now) < 60)


BOMB = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><x>&b;</x>'
SPY = b'<?xml version="1.0"?><!DOCTYPE x SYSTEM "file:///etc/passwd"><x/>'
UTF16 = BOMB.replace(b"?>", b' encoding="utf-16"?>', 1).decode().encode("utf-16")


@pytest.mark.parametrize("answer", [BOMB, SPY, UTF16], ids=["bomb", "spy", "utf-16"])
def test_answers_with_a_document_type_are_refused(answer: bytes) -> None:
    with pytest.raises(Unavailable, match="declares a document type"):
        read_answer([answer])


@pytest.mark.parametrize("answer", [b"", b"hello", APACHE[:-20], APACHE.replace(b">3<", b">three<")])
def test_answers_that_make_no_sense_are_errors(answer: bytes) -> None:
    with pytest.raises(Unavailable, match="is not that of a WebDAV server"):
        read_answer([answer])


@contextmanager
def answering(status: int, headers: dict[str, str], body: bytes) -> Iterator[str]:
    """The URL of a server that gives one answer to everything."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), "Connection": "close", **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_PROPFIND = do_MOVE = do_DELETE = do_MKCOL = _answer

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/dav"
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


@pytest.mark.parametrize(
    ("status", "headers", "kind", "told"),
    [
        (200, {}, BadBucket, "does not speak WebDAV"),
        (501, {}, StoreError, "does not allow PROPFIND here: is the bucket the URL of a WebDAV folder?"),
        (302, {"Location": "https://other.example/login"}, Unavailable, "redirects to other.example"),
        (401, {"WWW-Authenticate": "Digest realm=x"}, Denied, "not take passwords by basic authentication"),
        (403, {}, Denied, "does not allow it to this user"),
        (423, {}, Unavailable, "somebody has locked it"),
        (429, {}, StoreError, "status 429"),
        (500, {}, Unavailable, "status 500"),
        (507, {}, StoreError, "no room left"),
    ],
)
def test_refusals_say_what_is_wrong(status: int, headers: dict[str, str], kind: type[StoreError], told: str) -> None:
    with answering(status, headers, b"<html>hidden</html>") as url:
        bucket = open_bucket("webdav", url, access())
        with pytest.raises(kind, match=told.replace("?", r"\?")) as caught:
            bucket.head("k")
        assert "\n" not in str(caught.value) and PASSWORD not in str(caught.value)
        bucket.close()


def test_a_server_that_lists_a_bomb_is_an_error_of_the_call() -> None:
    with answering(207, {"Content-Type": "application/xml"}, BOMB) as url:
        bucket = open_bucket("webdav", url, access())
        with pytest.raises(Unavailable, match=r"list objects in webdav://.*declares a document type"):
            bucket.list()
        bucket.close()


def test_a_body_without_a_length_is_read() -> None:
    with answering(200, {"Content-Length": ""}, b"0123456789") as url:
        bucket = open_bucket("webdav", url, access())
        assert bucket.get("k") == b"0123456789"
        assert bucket.get("k", 3, 4) == b"3456"
        bucket.close()


# whole objects, or none


def test_objects_are_moved_into_place(bucket: Bucket, folder: str) -> None:
    bucket.put(KEY, BLOCK)
    bucket.put(KEY, BLOCK[::-1])
    assert files(folder) == [KEY]
    assert bucket.get(KEY) == BLOCK[::-1]


def test_a_put_that_breaks_off_leaves_the_old_object(bucket: Bucket, line: Proxy, folder: str) -> None:
    bucket.put(KEY, b"old")
    for after in (300, 300_000, 4_000_000):
        for key in (KEY, "vol/new"):
            line.arm("up", after)
            with pytest.raises(Unavailable, match=f"write object .*{key}"):
                bucket.put(key, BLOCK)
            assert line.arm() == 1
            assert bucket.get(KEY) == b"old"
            with pytest.raises(NotFound):
                bucket.head("vol/new")
    left = set(files(folder)) - {KEY}
    assert all(Path(name).name.startswith((".jfs.new.tmp.", ".jfs.1_0_4194304.tmp.")) for name in left)
    bucket.put(KEY, BLOCK)
    assert bucket.get(KEY) == BLOCK


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    with full_disk(tmp_path / "disk", 1 << 20) as disk:
        server = WebdavServer()
        server.root.rmdir()
        server.root.symlink_to(disk)
        server.start()
        bucket = open_bucket("webdav", server.url, access())
        with pytest.raises(Unavailable, match="perhaps it has no room left"):
            bucket.put(KEY, BLOCK)
        assert not [path for path in disk.rglob("*") if path.is_file()]
        bucket.put(KEY, b"fits")
        assert bucket.get(KEY) == b"fits"
        bucket.close()
        server.stop()
        server.root.unlink()
        server.close()


@pytest.mark.parametrize("key", ["a b", "a%20b", "ä/ö#?", "a+b&c=d;e", "quote'\"", "." * 3 + "x", "n" * 255])
def test_keys_may_be_any_text(bucket: Bucket, folder: str, key: str) -> None:
    bucket.put(f"v/{key}", b"1")
    assert files(folder) == [f"v/{key}"]
    assert bucket.get(f"v/{key}") == b"1"
    assert [each.key for each in bucket.list_all()] == [f"v/{key}"]
    bucket.copy("v/copy", f"v/{key}")
    bucket.delete(f"v/{key}")
    assert files(folder) == ["v/copy"]


# folders


def test_folders(bucket: Bucket) -> None:
    with pytest.raises(NotFound):
        bucket.head("")
    assert bucket.list().objects == [] and list(bucket.list_all("x/y")) == []
    bucket.put("testing/", b"")
    assert bucket.head("").is_dir
    assert bucket.head("testing/") == bucket.head("testing") and bucket.head("testing").is_dir
    assert bucket.get("testing/") == b"" and bucket.get_into("testing/", 0, memoryview(bytearray(3))) == 0
    bucket.delete("testing/")
    bucket.delete("testing/")
    with pytest.raises(NotFound):
        bucket.get("testing/")


@pytest.mark.parametrize("key", ["vol/", "vol"])
def test_a_folder_that_holds_something_is_not_deleted(bucket: Bucket, key: str) -> None:
    bucket.put("vol/chunks/0/0/1_0_1", b"1")
    with pytest.raises(Unavailable, match="it is a folder, and not empty"):
        bucket.delete(key)
    assert bucket.get("vol/chunks/0/0/1_0_1") == b"1"


def test_copies_make_their_folders(bucket: Bucket) -> None:
    bucket.put("a", b"1")
    bucket.copy("x/y/z", "a")
    bucket.copy("x/y/z", "a")
    assert bucket.get("x/y/z") == b"1"
    with pytest.raises(NotFound):
        bucket.copy("b", "not/there")


def test_a_server_that_may_only_be_read_refuses() -> None:
    server = WebdavServer("--read-only")
    (server.root / "k").write_bytes(b"1")
    server.start()
    bucket = open_bucket("webdav", server.url, access())
    assert bucket.get("k") == b"1"
    for call in (lambda: bucket.put("a/k2", b"2"), lambda: bucket.delete("k")):
        with pytest.raises(StoreError, match=r"(write|delete) object"):
            call()
    assert [each.key for each in bucket.list_all()] == ["k"]
    bucket.close()
    server.close()


# lines and servers that fail


def test_a_lost_connection_is_an_error_of_one_call(bucket: Bucket, line: Proxy) -> None:
    bucket.put(KEY, BLOCK)
    for after in (10, 100_000, 3_000_000):
        line.arm("down", after)
        with pytest.raises(Unavailable, match="read object"):
            bucket.get(KEY)
        assert line.arm() == 1
        assert bucket.get(KEY) == BLOCK
    line.arm("down", 400)
    with pytest.raises(Unavailable, match="list objects in"):
        list(bucket.list_all())
    assert [each.key for each in bucket.list_all()] == [KEY]
    line.cut()
    time.sleep(0.1)  # until that is known here
    assert bucket.get(KEY, 5, 3) == BLOCK[5:8]


def test_a_server_that_says_nothing_more_is_a_timeout(bucket: Bucket, line: Proxy) -> None:
    bucket.put(KEY, BLOCK)
    calls: list[Callable[[], object]] = [
        lambda: bucket.get(KEY), lambda: bucket.put("b", BLOCK), lambda: bucket.delete(KEY), bucket.list
    ]  # fmt: skip
    for call in calls:
        assert bucket.get(KEY, 0, 3) == BLOCK[:3]
        line.black_hole = True
        began = time.monotonic()
        with pytest.raises(Timeout, match="did not answer in time"):
            call()
        assert 0.4 < time.monotonic() - began < 3
        line.black_hole = False
    assert bucket.get(KEY) == BLOCK


def test_nobody_there() -> None:
    for address, told in (
        (f"http://127.0.0.1:{free_port()}/a", "Connection refused"),
        ("http://nobody.invalid/a", "nobody.invalid"),
    ):
        bucket = open_bucket("webdav", address, access())
        with pytest.raises(Unavailable, match=told):
            bucket.get("k")
        bucket.close()


def test_tls_servers_are_trusted_by_the_authority_that_the_address_names(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    server = WebdavServer("--cert", f"{tmp_path}/server.crt", "--key", f"{tmp_path}/server.key").start()
    address = f"https://127.0.0.1:{server.port}/a"
    for query in (f"?ca-certs={tmp_path}/ca.crt", "?tls-insecure-skip-verify=true"):
        bucket = open_bucket("webdav", address + query, access())
        bucket.put("k", b"1")
        assert bucket.get("k") == b"1"
        bucket.close()
    bucket = open_bucket("webdav", address, access())
    with pytest.raises(Unavailable, match=r"(?i)certificate"):
        bucket.get("k")
    bucket.close()
    server.close()
