"""An SSH agent with one Ed25519 key, for tests: it speaks the agents' protocol on a socket of its own.

Not the program `ssh-agent`, which is not everywhere where tests run.
"""

from __future__ import annotations

import socketserver
import struct
import threading
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

_REQUEST_IDENTITIES, _IDENTITIES_ANSWER, _SIGN_REQUEST, _SIGN_RESPONSE, _FAILURE = 11, 12, 13, 14, 5


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _first_strings(data: bytes, count: int) -> list[bytes]:
    found = []
    for _ in range(count):
        (length,) = struct.unpack_from(">I", data)
        found.append(data[4 : 4 + length])
        data = data[4 + length :]
    return found


class Agent:
    """Listens at `path` until it is closed. `signed` counts what it has signed."""

    def __init__(self, path: Path, key_file: Path) -> None:
        key = serialization.load_ssh_private_key(key_file.read_bytes(), None)
        assert isinstance(key, ed25519.Ed25519PrivateKey)
        self._key = key
        raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self._public = _string(b"ssh-ed25519") + _string(raw)
        self.signed = 0
        agent = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while head := self.rfile.read(4):
                    request = self.rfile.read(*struct.unpack(">I", head))
                    self.wfile.write(_string(agent.answer(request)))

        self._server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def answer(self, request: bytes) -> bytes:
        """The answer to one request."""
        if request[0] == _REQUEST_IDENTITIES:
            return bytes((_IDENTITIES_ANSWER,)) + struct.pack(">I", 1) + _string(self._public) + _string(b"test key")
        if request[0] == _SIGN_REQUEST:
            public, data = _first_strings(request[1:], 2)
            assert public == self._public
            self.signed += 1
            return bytes((_SIGN_RESPONSE,)) + _string(_string(b"ssh-ed25519") + _string(self._key.sign(data)))
        return bytes((_FAILURE,))

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()
