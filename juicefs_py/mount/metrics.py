"""The metrics endpoint: `GET /metrics` over plain HTTP, for Prometheus. What the numbers are is not known here."""

from __future__ import annotations

from collections.abc import Callable

import trio

from juicefs_py.cli import log

_REQUEST_LIMIT = 8192
_REQUEST_TIMEOUT_S = 10
_TYPE = "text/plain; version=0.0.4; charset=utf-8"


async def listen(host: str, port: int, explicit: bool) -> list[trio.SocketListener]:
    """Open the endpoint. A default address that is taken is replaced by a free port; an explicit one is given up."""
    for candidate in (port,) if explicit else (port, 0):
        try:
            listeners = await trio.open_tcp_listeners(candidate, host=host)
        except OSError as error:
            problem = error
            continue
        actual = listeners[0].socket.getsockname()[1]
        log.LOG.info('Prometheus metrics listening on "%s:%d"', host, actual)
        return listeners
    log.LOG.error("listen on %s:%d for metrics: %s; there will be no metrics", host, port, problem.strerror or problem)
    return []


def address_of(listeners: list[trio.SocketListener]) -> str:
    """HOST:PORT that is really listened on; empty without an endpoint."""
    if not listeners:
        return ""
    host, port, *_ = listeners[0].socket.getsockname()
    return f"{host}:{port}"


async def serve(listeners: list[trio.SocketListener], render: Callable[[], bytes]) -> None:
    """Answer requests until cancelled."""

    async def answer(stream: trio.SocketStream) -> None:
        try:
            with trio.move_on_after(_REQUEST_TIMEOUT_S):
                head = await _head(stream)
                await stream.send_all(_reply(head, await trio.to_thread.run_sync(render)))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the scraper went away
        finally:
            await trio.aclose_forcefully(stream)

    await trio.serve_listeners(answer, listeners)


async def _head(stream: trio.SocketStream) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head and len(head) < _REQUEST_LIMIT:
        data = await stream.receive_some(4096)
        if not data:
            break
        head += data
    return head


def _reply(head: bytes, body: bytes) -> bytes:
    words = head.split(b" ", 2)
    found = len(words) > 2 and words[0] == b"GET" and words[1].partition(b"?")[0] == b"/metrics"
    status, content = ("200 OK", body) if found else ("404 Not Found", b"only GET /metrics is served here\n")
    header = (
        f"HTTP/1.1 {status}\r\nContent-Type: {_TYPE}\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    return header.encode() + content
