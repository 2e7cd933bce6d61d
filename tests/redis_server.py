"""Redis servers for tests: each on a free loopback port, ended by its own pid. One is shared, a database per test.

Not what is stored there.
"""

from __future__ import annotations

import atexit
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path

from needs import need

_DATABASES = 4096
_READY_S = 10.0


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """A server process with a directory of its own; `options` are those of redis-server, without dashes."""

    def __init__(self, port: int | None = None, program: str = "redis-server", **options: str) -> None:
        need("redis-server")
        self.port = port or free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="redis-"))
        self.options = {"appendonly": "yes", "save": "", "databases": str(_DATABASES), **options}
        self.program = program
        self.process: subprocess.Popen[bytes] | None = None
        self._databases = itertools.count(1)
        atexit.register(self.close)

    def start(self) -> RedisServer:
        """Start it, or start it again with the data that it had."""
        arguments = [self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory)]
        for name, value in self.options.items():
            arguments += [f"--{name.replace('_', '-')}", *(value.split(" ") if value else [""])]
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(arguments, stdout=log, stderr=log, start_new_session=True)
        self.wait()
        return self

    def wait(self) -> None:
        """Return when it answers."""
        end = time.monotonic() + _READY_S
        while time.monotonic() < end:
            try:
                if b"PONG" in self.say(b"PING\r\n") or "requirepass" in self.options:
                    return
            except OSError:
                pass
            time.sleep(0.02)
        raise AssertionError(f"redis-server does not answer:\n{(self.directory / 'log').read_text()[-2000:]}")

    def say(self, line: bytes, timeout_s: float = 2.0) -> bytes:
        """What it first answers to an inline command."""
        with socket.create_connection(("127.0.0.1", self.port), timeout_s) as connection:
            connection.sendall(line)
            return connection.recv(65536)

    def send(self, number: int) -> None:
        """Send a signal to the process."""
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """End it as a crash would."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """End it in order."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait(20)
            self.process = None

    def close(self) -> None:
        """End it and remove its directory."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def url(self, database: int | None = None) -> str:
        """The URL of a database, by default one that no test has used."""
        number = next(self._databases) if database is None else database
        return f"redis://127.0.0.1:{self.port}/{number}"


@cache
def shared() -> RedisServer:
    """The server that tests share which do nothing to the server itself."""
    return RedisServer().start()
