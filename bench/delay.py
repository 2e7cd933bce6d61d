"""A TCP proxy that makes a server on this machine as far away as another data centre: `python -m bench.delay`.

Every message waits half of the round trip on its way, in a process of its own so that it takes nothing from the
subjects. Not for throughput: a thread per direction and connection, which holds one message at a time.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator


def pump(source: socket.socket, sink: socket.socket, delay_s: float) -> None:
    """Forward one direction until it ends, each message late by `delay_s`."""
    try:
        while data := source.recv(1 << 16):
            time.sleep(delay_s)
            sink.sendall(data)
    except OSError:
        pass
    finally:
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def serve(listener: socket.socket, target: tuple[str, int], round_trip_s: float) -> None:
    """Accept and forward for ever."""
    while True:
        client, _ = listener.accept()
        server = socket.create_connection(target)
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for source, sink in ((client, server), (server, client)):
            threading.Thread(target=pump, args=(source, sink, round_trip_s / 2), daemon=True).start()


@contextlib.contextmanager
def delayed(port: int, round_trip_ms: float) -> Iterator[int]:
    """A port of this machine that leads to `port`, farther away by `round_trip_ms`."""
    command = [sys.executable, "-m", "bench.delay", str(port), str(round_trip_ms)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


def main() -> None:
    """Listen on a free port, print it, forward."""
    parser = argparse.ArgumentParser(prog="python -m bench.delay", description=__doc__.splitlines()[0])
    parser.add_argument("port", type=int)
    parser.add_argument("round_trip_ms", type=float)
    options = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        print(listener.getsockname()[1], flush=True)
        serve(listener, ("127.0.0.1", options.port), options.round_trip_ms / 1000)


if __name__ == "__main__":
    main()
