"""A TCP proxy between a client and a server, with which tests break, slow and count what goes over the wire.

Not for speed: one thread runs an asyncio loop. The knobs may be turned from any thread at any time; bytes are counted
over all connections from the last `arm` on. "Up" is from client to server.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from typing import Final, Literal

Way = Literal["up", "down"]

_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: on, no time - a close is a reset


class Proxy:
    """Listens on a loopback port of its own and forwards to `target`, a port on loopback or a socket's path."""

    def __init__(self, target: int | str) -> None:
        self.target = target
        self.delay_s = 0.0  # added in each direction
        self.black_hole = False  # swallow what comes, in both directions
        self.refuse = False  # end new connections at once
        self.reset = False  # cut with a reset instead of an orderly end
        self.up = self.down = 0  # bytes seen since `arm`
        self.rounds = 0  # times that a client has spoken after it had an answer, or first
        self.connections = 0
        self.cuts = 0
        self._cut: tuple[Way, int] | None = None
        self.pairs: set[_Pair] = set()
        self._loop = asyncio.new_event_loop()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._server: asyncio.Server | None = None
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), name="proxy", daemon=True)
        self._thread.start()
        started.wait()

    def _run(self, started: threading.Event) -> None:
        async def begin() -> None:
            self._server = await self._loop.create_server(lambda: _Client(self), sock=self._listener)

        self._loop.run_until_complete(begin())
        self._loop.call_soon(started.set)
        self._loop.run_forever()
        self._loop.close()

    def call(self, action: Callable[[], object]) -> None:
        """Do something in the proxy's thread, and wait until it is done."""
        done = threading.Event()

        def run() -> None:
            try:
                action()
            finally:
                done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(10)

    def arm(self, way: Way | None = None, after: int = 0) -> int:
        """Count from here on, and cut the connection in which `after` bytes of one direction have passed.

        Only once: what is connected then is not cut any more. Answers how often it was cut since the last call.
        """
        before: list[int] = []

        def set_to() -> None:
            before.append(self.cuts)
            self.up = self.down = self.rounds = self.cuts = 0
            self._cut = None if way is None else (way, after)
            if way == "up" and after == 0:
                self._cut = None
                self.cut_all()

        self.call(set_to)
        return before[0]

    def cut(self) -> None:
        """Cut all connections now."""
        self.call(self.cut_all)

    def cut_all(self) -> None:
        """In the proxy's thread: see `cut`."""
        for pair in list(self.pairs):
            pair.end()

    def hold(self) -> None:
        """Keep back what the connections of this moment send up, even when their clients have given them up."""

        def start() -> None:
            for pair in self.pairs:
                pair.held = b""

        self.call(start)

    @property
    def held(self) -> int:
        """Bytes that are kept back."""
        return sum(len(pair.held or b"") for pair in self.pairs)

    def release(self) -> None:
        """Send up what was kept back."""

        def send() -> None:
            for pair in list(self.pairs):
                data, pair.held = pair.held or b"", None
                pair.server.write(data)
                if pair.ended:
                    pair.end_server()

        self.call(send)

    def close(self) -> None:
        """Cut everything and end the thread."""

        def end() -> None:
            assert self._server is not None
            self._server.close()
            for pair in list(self.pairs):
                pair.held = None
                pair.end()
                pair.end_server()
            self._loop.call_later(0.05, self._loop.stop)

        self._loop.call_soon_threadsafe(end)
        self._thread.join(10)

    def take(self, way: Way, data: bytes) -> tuple[bytes, bool]:
        """What of `data` is passed on, and whether the connection is cut behind it."""
        before = self.up if way == "up" else self.down
        if way == "up":
            self.up += len(data)
        else:
            self.down += len(data)
        if self._cut is not None and self._cut[0] == way and before + len(data) >= self._cut[1]:
            allowed = self._cut[1] - before
            self._cut = None
            return data[:allowed], True
        return data, False


class _Pair:
    """A client's connection and the one to the server that belongs to it."""

    def __init__(self, proxy: Proxy, client: asyncio.Transport) -> None:
        self.proxy = proxy
        self.client = client
        self.server: _Server = _Server(self)
        self.answered = True
        self.ended = False  # for the client
        self.held: bytes | None = None

    def end(self) -> None:
        """Cut both sides; the server first gets what is on its way."""
        if not self.ended:
            self.ended = True
            self.proxy.cuts += 1
            _end(self.client, self.proxy.reset)
            self.end_server()

    def end_server(self) -> None:
        """The server's side ends, unless something is held for it."""
        if self.held is None:
            self.proxy.pairs.discard(self)
            self.server.end()


class _Client(asyncio.Protocol):
    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        proxy = self.proxy
        assert isinstance(transport, asyncio.Transport)
        proxy.connections += 1
        self.pair = _Pair(proxy, transport)
        if proxy.refuse:
            _end(transport, proxy.reset)
            return
        proxy.pairs.add(self.pair)
        proxy._loop.create_task(self.pair.server.connect())

    def data_received(self, data: bytes) -> None:
        proxy, pair = self.proxy, self.pair
        if pair.answered:
            pair.answered = False
            proxy.rounds += 1
        if pair.held is not None:
            pair.held += data
            return
        if proxy.black_hole:
            return
        data, last = proxy.take("up", data)
        _later(proxy, lambda: pair.server.write(data))
        if last:
            _later(proxy, pair.end)

    def connection_lost(self, exc: Exception | None) -> None:
        pair = self.pair
        if not pair.ended:
            pair.ended = True
            _later(self.proxy, pair.end_server)


class _Server(asyncio.Protocol):
    """The side of the server; keeps what comes before it is connected."""

    def __init__(self, pair: _Pair) -> None:
        self.pair = pair
        self._transport: asyncio.Transport | None = None
        self._early = b""
        self._over = False

    async def connect(self) -> None:
        loop, target = self.pair.proxy._loop, self.pair.proxy.target
        try:
            if isinstance(target, str):
                await loop.create_unix_connection(lambda: self, target)
            else:
                await loop.create_connection(lambda: self, "127.0.0.1", target)
        except OSError:
            self.pair.end()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._early)
        if self._over:
            transport.close()

    def write(self, data: bytes) -> None:
        if self._transport is None:
            self._early += data
        else:
            self._transport.write(data)

    def end(self) -> None:
        self._over = True
        if self._transport is not None:
            self._transport.close()  # what was written goes first

    def data_received(self, data: bytes) -> None:
        proxy, pair = self.pair.proxy, self.pair
        pair.answered = True
        if proxy.black_hole or pair.ended:
            return
        data, last = proxy.take("down", data)
        _later(proxy, lambda: pair.client.write(data))
        if last:
            _later(proxy, pair.end)

    def connection_lost(self, exc: Exception | None) -> None:
        pair = self.pair
        pair.proxy.pairs.discard(pair)
        if not pair.ended:
            pair.ended = True
            _later(pair.proxy, lambda: _end(pair.client, False))


def _later(proxy: Proxy, action: Callable[[], object]) -> None:
    """After the delay. Equal delays keep the order."""
    if proxy.delay_s:
        proxy._loop.call_later(proxy.delay_s, action)
    else:
        action()


def _end(transport: asyncio.Transport, reset: bool) -> None:
    if reset:
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        transport.abort()
    else:
        transport.close()
