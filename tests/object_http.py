"""The HTTP side of an object storage for tests: connections, requests, answers, and faults of both.

Not what is stored, nor how requests are signed: that is `object_server`.
"""

from __future__ import annotations

import socket
import ssl
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qsl, urlsplit


class Refused(Exception):
    """A request that is answered with an error. `more`: elements of the answer besides code and message."""

    def __init__(self, status: int, code: str, message: str = "", **more: str) -> None:
        super().__init__(code)
        self.status, self.code, self.message, self.more = status, code, message or f"{code}.", more


@dataclass
class Request:
    """What came in. Names of headers are in lower case."""

    method: str
    host: str
    path: str  # as it was sent, percent-encoded
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""
    bucket: str = ""
    key: str = ""


class Answer(NamedTuple):
    """What goes out."""

    status: int = 200
    headers: Mapping[str, str] = {}
    body: bytes = b""


@dataclass
class Faults:
    """How the server errs; change it at any time."""

    refuse: list[tuple[int, str]] = field(default_factory=list)  # the next requests: status and code
    cut: int | None = None  # bodies of GETs end after so many bytes
    flip_up: bool = False  # the bodies of PUTs lose a bit on their way
    slow_read_s: float = 0.0  # for each MiB of a body that comes in
    stall_s: float = 0.0  # before any answer
    hang_up: bool = False  # instead of any answer
    whole: bool = False  # ranges are ignored
    redirect: str = ""  # where everything is to be found


class Service(Protocol):
    """What requests are brought to."""

    faults: Faults
    requests: list[Request]
    connections: int

    def serve(self, request: Request) -> Answer:
        """Raises `Refused`."""
        ...

    def refusal(self, error: Refused, request: Request) -> bytes:
        """The body that tells of an error."""
        ...


class Listener(ThreadingHTTPServer):
    """Listens on a free loopback port; with a directory of certificates (`redis_server`), for TLS."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, service: Service, certificates: Path | None = None) -> None:
        self.service = service
        self._open: set[Any] = set()
        super().__init__(("127.0.0.1", 0), _Handler)
        if certificates is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificates / "server.crt", certificates / "server.key")
            context.load_verify_locations(certificates / "ca.crt")
            context.verify_mode = ssl.CERT_OPTIONAL
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Nobody listens any more, and connections end."""
        self.shutdown()
        self._thread.join(10)
        self.server_close()
        for each in list(self._open):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # the client was first

    def process_request(self, request: Any, client_address: Any) -> None:
        self.service.connections += 1
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # that would be a client that has gone, or does not trust us
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Listener

    def log_message(self, *_: object) -> None:
        return

    def _serve(self) -> None:
        service, faults = self.server.service, self.server.service.faults
        request = self._request()
        service.requests.append(request)
        if faults.flip_up and request.method == "PUT" and request.body:
            request.body = bytes((request.body[0] ^ 1,)) + request.body[1:]
        time.sleep(faults.stall_s)
        if faults.hang_up:
            self.close_connection = True
            return
        if faults.redirect:
            self._send(Answer(307, {"Location": faults.redirect}, b"<html>this way</html>"))
            return
        try:
            if faults.refuse:
                raise Refused(*faults.refuse.pop(0))
            answer = service.serve(request)
        except Refused as error:
            body = service.refusal(error, request)
            answer = Answer(error.status, {"Content-Type": "application/xml"}, body)
        self._send(answer)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

    def _request(self) -> Request:
        url = urlsplit(self.path)
        return Request(
            self.command,
            url.netloc or self.headers["Host"],
            url.path,
            dict(parse_qsl(url.query, keep_blank_values=True)),
            {name.lower(): value for name, value in self.headers.items()},
            self._body(),
        )

    def _body(self) -> bytes:
        left = int(self.headers.get("Content-Length") or 0)
        body = bytearray()
        while left and (piece := self.rfile.read(min(left, 1 << 20))):
            body += piece
            left -= len(piece)
            time.sleep(self.server.service.faults.slow_read_s)
        return bytes(body)

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.status != 204:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command == "HEAD" or answer.status == 204:
            return
        cut = self.server.service.faults.cut
        if cut is not None and self.command == "GET":
            self.wfile.write(answer.body[:cut])
            self.close_connection = True
        else:
            self.wfile.write(answer.body)
