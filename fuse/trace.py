"""The debug lines of a session: one `rx` when a request is decoded, one `tx` when it is answered.

Not here: when to log; without `SessionConfig.debug` nothing of this runs.
"""

from __future__ import annotations

import errno
from typing import Any

from fuse.opcodes import Row
from fuse.operations import Caller

_LONGEST = 80  # characters of a carried name or value


def _short(value: object) -> str:
    if isinstance(value, memoryview | bytearray):
        return f"<{len(value)} bytes>"
    if isinstance(value, list):
        return f"<{sum(map(len, value))} bytes>"
    return f"<{len(value)} bytes>" if isinstance(value, bytes) and len(value) > _LONGEST else repr(value)


def received(row: Row, caller: Caller, node: int, fields: tuple[Any, ...], carried: object) -> str:
    words = [f"rx {caller.unique} {row.name} node={node} uid={caller.uid} gid={caller.gid} pid={caller.pid}"]
    if fields:
        words.append(repr(fields))
    if carried is not None:
        words.append(_short(carried))
    return " ".join(words)


def answered(row: Row, caller: Caller, result: object) -> str:
    return f"tx {caller.unique} {row.name} ok {'' if result is None else _short(result)}".rstrip()


def failed(row: Row, caller: Caller, number: int, error: BaseException) -> str:
    return f"tx {caller.unique} {row.name} {errno.errorcode.get(number, number)} ({error})"
