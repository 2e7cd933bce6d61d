"""An HTTP proxy in front of an object storage that errs in chosen ways, by shares and a seed.

Not for sockets as such (`proxy`). Requests and answers pass whole: it knows what a body is, so that it can cut one
short under its full Content-Length, change a byte of it, or lose the answer to a request that was carried out.
"""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
INTERNAL = b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"
_HOP = {"connection", "transfer-encoding", "keep-alive"}


@dataclass
class Faults:
    """Shares are of all requests, from 0 to 1. Change them at any time."""

    error: float = 0.0  # answered with 500, not carried out
    slow_down: float = 0.0  # answered with 503 SlowDown, not carried out
    lost_answer: float = 0.0  # carried out, then the connection is reset
    reset: float = 0.0  # reset before anything is carried out
    cut: float = 0.0  # of answers with a body: it ends too early
    flip: float = 0.0  # of answers with a body: one byte is another
    flip_up: float = 0.0  # of requests with a body: one byte is another
    stall: float = 0.0  # carried out, answered after `stall_s`
    stall_s: float = 30.0
    outage: bool = False  # connections are ended at once
    bytes_per_s: float = 0.0  # both directions together; 0: as fast as it goes


@dataclass
class Counts:
    """What has happened so far."""

    requests: int = 0
    by_method: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    at_once: int = 0
    most_at_once: int = 0


class FaultyHTTP:
    """Listens on a loopback port and passes requests on to `target`, another one."""

    def __init__(self, target: int, seed: int = 1) -> None:
        self.target = target
        self.faults = Faults()
        self.counts = Counts()
        self._random = random.Random(seed)
        self.lock = threading.Lock()
        self._free_at = 0.0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: _Handler(self, *args))
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()

    def strikes(self, name: str) -> bool:
        """Whether this request suffers from the fault."""
        share = getattr(self.faults, name)
        with self.lock:
            struck = share > 0 and self._random.random() < share
            if struck:
                self.counts.faults[name] = self.counts.faults.get(name, 0) + 1
        return struck

    def place(self, length: int) -> int:
        """Where in `length` bytes a fault happens."""
        with self.lock:
            return self._random.randrange(length)

    def pace(self, size: int) -> None:
        """Take as long as `size` bytes take on the line that all share."""
        rate = self.faults.bytes_per_s
        if rate:
            with self.lock:
                now = time.monotonic()
                self._free_at = max(self._free_at, now) + size / rate
                wait = self._free_at - now
            time.sleep(wait)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, proxy: FaultyHTTP, *args: object) -> None:
        self.proxy = proxy
        super().__init__(*args)  # type: ignore[arg-type]

    def log_message(self, *_: object) -> None:
        return

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:  # the client has gone, or was made to
            self.close_connection = True

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def handle_expect_100(self) -> bool:
        return True if self.proxy.faults.outage else super().handle_expect_100()

    def _serve(self) -> None:
        proxy = self.proxy
        with proxy.lock:
            proxy.counts.requests += 1
            proxy.counts.by_method[self.command] = proxy.counts.by_method.get(self.command, 0) + 1
            proxy.counts.at_once += 1
            proxy.counts.most_at_once = max(proxy.counts.most_at_once, proxy.counts.at_once)
        try:
            self._pass_on()
        finally:
            with proxy.lock:
                proxy.counts.at_once -= 1

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

    def _pass_on(self) -> None:
        proxy = self.proxy
        if proxy.faults.outage or proxy.strikes("reset"):
            return self._reset()
        body = bytearray(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        proxy.pace(len(body))
        if proxy.strikes("slow_down"):
            return self._answer(503, {}, SLOW_DOWN)
        if proxy.strikes("error"):
            return self._answer(500, {}, INTERNAL)
        if body and proxy.strikes("flip_up"):
            body[proxy.place(len(body))] ^= 0x10
        status, headers, data = self._ask(bytes(body))
        if proxy.strikes("lost_answer"):
            return self._reset()
        if proxy.strikes("stall"):
            time.sleep(proxy.faults.stall_s)
        proxy.pace(len(data))
        if len(data) > 1 and status < 300 and self.command == "GET":
            if proxy.strikes("flip"):
                changed = bytearray(data)
                changed[proxy.place(len(data))] ^= 0x01
                data = bytes(changed)
            if proxy.strikes("cut"):
                self._head(status, headers, len(data))
                self.wfile.write(data[: proxy.place(len(data))])
                self.close_connection = True
                return None
        return self._answer(status, headers, data)

    def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        upstream = http.client.HTTPConnection("127.0.0.1", self.proxy.target, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _HOP | {"expect"}:
                    upstream.putheader(name, value)
            upstream.putheader("Connection", "close")
            upstream.endheaders(body or None)
            answer = upstream.getresponse()
            data = answer.read()
            return answer.status, {name: value for name, value in answer.getheaders() if name.lower() not in _HOP}, data
        finally:
            upstream.close()

    def _head(self, status: int, headers: dict[str, str], length: int) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() != "content-length":
                self.send_header(name, value)
        if self.command == "HEAD":
            length = int(next((value for name, value in headers.items() if name.lower() == "content-length"), length))
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def _answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self._head(status, headers, len(data))
        if self.command != "HEAD":
            self.wfile.write(data)
