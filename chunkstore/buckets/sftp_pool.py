"""The connections to an SFTP server that a bucket's threads share.

Not how one is made (`sftp_login`). A connection serves one thread at a time; there are as many as threads were at work
at once, up to `_MOST`. One that failed in any other way than by the server's refusal is not used again, and nothing is
repeated: that is for the caller, who then gets a new one.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from getpass import getuser
from typing import Any
from urllib.parse import unquote_plus

from chunkstore.bucket import Access
from chunkstore.buckets.sftp_login import Connection, connect, require_paramiko, trouble
from chunkstore.buckets.within import within
from chunkstore.errors import StoreError

_MOST = 16  # each is a thread here and a process there; encryption keeps the processors busy with fewer
_LOGINS = 4  # at once: sshd turns newcomers away at random while ten are not logged in yet (MaxStartups)


class Pool:
    """Thread-safe."""

    def __init__(self, host: str, port: int, access: Access) -> None:
        require_paramiko()
        self._host, self._port = host, port
        self._access = access
        self.user = _unescaped(access.access_key) or getuser()
        self._most = min(_MOST, max(access.connections, 1))
        self._places = threading.BoundedSemaphore(self._most)
        self._logins = threading.BoundedSemaphore(_LOGINS)
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._closed = False

    @contextmanager
    def one(self, what: str) -> Iterator[Any]:
        """The SFTPClient of a connection, for the time being. Errors come out as StoreError that begin with `what`."""
        with within(self._access.timeout_s, self._places, f"{what}: all {self._most} connections were busy"):
            connection = self._take(what)
            try:
                yield connection.files
            except BaseException as error:
                if isinstance(error, Exception) and connection.goes_on_after(error):
                    self._give_back(connection)
                else:
                    connection.close()
                if isinstance(error, StoreError) or not isinstance(error, Exception):
                    raise
                raise trouble(error, what) from error
            self._give_back(connection)

    def close(self) -> None:
        """Close what is idle; others are closed when they are given back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _take(self, what: str) -> Connection:
        while True:
            with self._lock:
                if not self._idle:
                    break
                connection = self._idle.pop()
            if connection.alive:
                return connection
            connection.close()
        access = self._access
        with within(access.timeout_s, self._logins, f"{what}: others were logging in"):
            password = _unescaped(access.secret_key)
            return connect(self._host, self._port, self.user, password, access.connect_timeout_s, access.timeout_s)

    def _give_back(self, connection: Connection) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()


def _unescaped(text: str) -> str:
    """Users and passwords come as in a URL. One with a "%" that begins no escape is taken as it is."""
    return text if re.search("%(?![0-9a-fA-F]{2})", text) else unquote_plus(text)
