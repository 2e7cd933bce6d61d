"""The other side of a control file for tests of commands: answers by script, and keeps what it was asked.

Not a mount, and no work is done.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from typing import Any

from juicefs_py.cli.control_client import Control

PROGRESS = b"\xfe" + struct.pack(">QQ", 3, 4096)


def result(document: dict[str, Any]) -> bytes:
    data = json.dumps(document).encode()
    return b"\xff" + struct.pack(">I", len(data)) + data


class Server:
    """Answers requests with the given bytes, in pieces of `piece` bytes; keeps what it was asked."""

    def __init__(self, answers: list[bytes], piece: int = 1 << 20) -> None:
        self.asked: list[tuple[int, bytes]] = []
        self._ours, self._theirs = socket.socketpair()
        self._answers, self._piece = answers, piece
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def open(self, directory: str = "") -> Control:
        return Control(os.dup(self._theirs.fileno()))

    def _serve(self) -> None:
        for answer in self._answers:
            opcode, length = struct.unpack(">II", self._ours.recv(8, socket.MSG_WAITALL))
            self.asked.append((opcode, self._ours.recv(length, socket.MSG_WAITALL) if length else b""))
            for at in range(0, len(answer), self._piece):
                self._ours.send(answer[at : at + self._piece])

    def close(self) -> None:
        self._thread.join(5)
        self._ours.close()
        self._theirs.close()
