"""The client side of a mount's control file: how `info`, `rmr` and others ask the serving process to work for them.

Works against any JuiceFS mount, ours or the official one. The server side is in the VFS. Messages, big endian: request
u32 opcode, u32 body length, body; replies 0xFE u64 u64 (progress), 0xFF u32 length JSON (result), or one last byte, an
errno.
"""

from __future__ import annotations

import errno
import json
import os
import struct
import time
from collections.abc import Callable
from typing import Any

from juicefs_py.cli.errors import Fatal

RMR, LEGACY_INFO, FILL_CACHE, INFO, CLONE, SUMMARY, COMPACT = range(1002, 1009)
_HEADER = struct.Struct(">II")
_PROGRESS = struct.Struct(">QQ")
_LENGTH = struct.Struct(">I")
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.001, 0.3

Progress = Callable[[int, int], None]


class Control:
    """An open control file. One request at a time; closing it cancels what runs."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._buffer = bytearray()

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def call(self, opcode: int, body: bytes, progress: Progress) -> tuple[int, Any]:
        """Run a request to its end: (errno, None) or (0, decoded JSON)."""
        self._send(opcode, body)
        while True:
            kind = self._take(1)[0]
            if kind == 0xFE:
                progress(*_PROGRESS.unpack(self._take(_PROGRESS.size)))
            elif kind == 0xFF:
                (length,) = _LENGTH.unpack(self._take(_LENGTH.size))
                return 0, json.loads(self._take(length))
            else:
                return kind, None

    def legacy_text(self, opcode: int, body: bytes) -> str:
        """Run a request of the protocol before 1.1, whose answer is text."""
        self._send(opcode, body)
        (length,) = _LENGTH.unpack(self._take(_LENGTH.size))
        return self._take(length).decode(errors="replace")

    def _send(self, opcode: int, body: bytes) -> None:
        request = memoryview(_HEADER.pack(opcode, len(body)) + body)
        while request:
            request = request[os.write(self._fd, request) :]

    def _take(self, count: int) -> bytes:
        wait = _FIRST_WAIT_S
        while len(self._buffer) < count:
            data = self._read()
            self._buffer += data
            if not data:
                time.sleep(wait)
                wait = min(wait * 2, _LONGEST_WAIT_S)
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _read(self) -> bytes:
        try:
            return os.read(self._fd, 64 << 10)
        except OSError as error:
            if error.errno in (errno.EBADF, errno.ENOTCONN):
                raise Fatal("JuiceFS client was restarted, please run the command again") from None
            raise


def open_control(directory: str) -> Control:
    """Open the control file of the mount that holds a directory. OSError where there is none.

    Every directory has it; in mounts of clients before 1.0 only the root does.
    """
    at = os.path.abspath(directory)
    device = os.stat(at).st_dev
    while os.stat(at).st_dev == device:
        for name in (".jfs.control", ".control"):
            try:
                return Control(os.open(os.path.join(at, name), os.O_RDWR | os.O_CLOEXEC))
            except FileNotFoundError:
                continue
        if at == "/":
            break
        at = os.path.dirname(at)
    raise FileNotFoundError(errno.ENOENT, "not inside a JuiceFS mount", directory)


def strerror(number: int) -> str:
    """An errno in the lower-case words that scripts match."""
    return os.strerror(number).lower()
