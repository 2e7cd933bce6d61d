"""One open file of an SFTP server: many reads or writes of it on their way at once.

Below this are the requests of paramiko's SFTPClient. Its SFTPFile is not used: that starts a thread to read ahead,
which dies noisily when the connection breaks, and keeps to itself what the server says to a write or a close that
failed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from chunkstore.bucket import Data

_PIECE = 32 << 10  # what every server takes and gives in one packet
_AHEAD = 64  # requests on their way, as with OpenSSH's own client


class RemoteFile:
    """A file, opened on `files`, an SFTPClient that nobody else uses meanwhile. A context manager.

    Raises what paramiko raises: OSError for what the server refuses, TimeoutError, EOFError, SSHException.
    """

    def __init__(self, files: Any, path: str, *, new: bool = False) -> None:
        """Open it to be read, or make a `new` one to be written."""
        from paramiko.sftp import CMD_OPEN, SFTP_FLAG_CREATE, SFTP_FLAG_EXCL, SFTP_FLAG_READ, SFTP_FLAG_WRITE
        from paramiko.sftp_attr import SFTPAttributes

        self._files = files
        flags = SFTP_FLAG_WRITE | SFTP_FLAG_CREATE | SFTP_FLAG_EXCL if new else SFTP_FLAG_READ
        _, answer = files._request(CMD_OPEN, path, flags, SFTPAttributes())
        self._handle = answer.get_binary()

    def __enter__(self) -> RemoteFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not isinstance(error, TimeoutError):  # then nobody would answer
                self._close()
        except OSError:  # servers that write behind tell the reason only now
            if error is None or isinstance(error, OSError):
                raise

    def _close(self) -> None:
        """What the server could not write shows here at the latest."""
        from paramiko.sftp import CMD_CLOSE

        self._files._request(CMD_CLOSE, self._handle)

    def size(self) -> int:
        """How long the file is."""
        from paramiko.sftp import CMD_FSTAT
        from paramiko.sftp_attr import SFTPAttributes

        _, answer = self._files._request(CMD_FSTAT, self._handle)
        return int(SFTPAttributes._from_msg(answer).st_size or 0)

    def read_into(self, offset: int, view: memoryview, deadline: float) -> int:
        """Fill `view` with what is at `offset`; returns how much there was. `deadline`: of the monotonic clock."""
        from paramiko.sftp import CMD_READ, int64

        end = len(view)
        pieces = _pieces(end)
        for piece, data in _ahead(
            self._files, pieces, lambda each: (CMD_READ, self._handle, int64(offset + each.start), len(each)), deadline
        ):
            if not data:
                end = min(end, piece.start)
                pieces.clear()
                continue
            view[piece.start : piece.start + len(data)] = data
            if len(data) < len(piece):  # servers may give less than was asked for
                pieces.appendleft(piece[len(data) :])
        return end

    def write_all(self, data: Data, deadline: float) -> None:
        """Write `data` to the beginning of the file."""
        from paramiko.sftp import CMD_WRITE, int64

        with memoryview(data) as view:
            for _ in _ahead(
                self._files,
                _pieces(len(view)),
                lambda each: (CMD_WRITE, self._handle, int64(each.start), bytes(view[each.start : each.stop])),
                deadline,
            ):
                pass


def _pieces(length: int) -> deque[range]:
    return deque(range(start, min(start + _PIECE, length)) for start in range(0, length, _PIECE))


def _ahead(
    files: Any, pieces: deque[range], message: Callable[[range], tuple[Any, ...]], deadline: float
) -> Iterator[tuple[range, bytes]]:
    """Ask for `pieces`, to which more may be added meanwhile. Gives each with its data as answers come."""
    answers = _Answers(files)
    waiting: dict[int, range] = {}
    try:
        while pieces or waiting:
            while pieces and len(waiting) < _AHEAD:
                piece = pieces.popleft()
                waiting[files._async_request(answers, *message(piece))] = piece
            if time.monotonic() > deadline:
                raise TimeoutError("bytes came and went, but hardly any")
            files._read_response()
            while answers.came:
                number, data = answers.came.popleft()
                yield waiting.pop(number), data
    finally:
        answers.wanted = False


class _Answers:
    """Where an SFTPClient delivers the answers to its `_async_request`."""

    def __init__(self, files: Any) -> None:
        self._files = files
        self.came: deque[tuple[int, bytes]] = deque()
        self.wanted = True  # after a failure, others may still come while something else is waited for

    def _async_response(self, kind: int, message: Any, number: int) -> None:
        """Take one: its data, or none at the end of the file and for what was written. Raises what is refused."""
        from paramiko.sftp import CMD_DATA

        if not self.wanted:
            return
        data = b""
        if kind == CMD_DATA:
            data = message.get_string()
        else:
            try:
                self._files._convert_status(message)
            except EOFError:
                pass
        self.came.append((number, data))
