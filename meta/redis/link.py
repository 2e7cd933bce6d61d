"""Connections to the server, and exchanges over them: one send, one round trip, whatever the number of commands.

Not what is said (reader, transaction) and not which server it is (`endpoint`). Connections come from redis-py
(authentication, TLS, database); on the hot path they are used directly, with commands packed by hiredis.

Who runs: any thread. A connection belongs to one exchange at a time; idle ones wait in `_idle`, newest last. A
connection that failed, or was interrupted between send and answer, is never used again. Sockets block without a
timeout, which would cost a poll(2) before every send and receive; instead one thread looks every second for exchanges
that take too long, and disconnects them. `list.append`, `list.pop` and changes of one item of a dict are atomic, so
there is no lock.
"""

from __future__ import annotations

import logging
import os
import random
import re
import threading
import time
import weakref
from collections.abc import Sequence
from time import monotonic
from typing import Any, Final

from hiredis import pack_command
from redis.connection import AbstractConnection
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from meta.errors import Corrupt, EngineError, OutOfSpace, Unavailable
from meta.redis.endpoint import MAY_BLOCK, Endpoint
from meta.redis.scripts import READING, Script

log = logging.getLogger(__name__)

Command = tuple[Any, ...]  # bytes, str and int

_PASSING: Final = (BusyLoadingError, ReadOnlyError, ClusterDownError, TryAgainError, AskError)  # MOVED is an ASK
_PASSING_WORDS: Final = re.compile(
    r"^(BUSY|NOREPLICAS|MASTERDOWN) |-(READONLY|LOADING|MASTERDOWN|CLUSTERDOWN) |attempted to access a non local key"
)
"""Answers that mean: not now, or not here. Nothing was done. Old servers quote what stopped a script behind a dash."""
_MAX_IDLE: Final = 64
_FIRST_PAUSE_S: Final = 0.02


class Lost(EngineError):
    """The connection broke after a command was sent: it may or may not have been done."""


class NotNow(EngineError):
    """The server could not be reached, or would not work now. Nothing was done."""


class Link:
    """All connections of one engine."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._idle: list[AbstractConnection] = []
        self._waiting: dict[AbstractConnection, float] = {}  # since when (monotonic)
        self._overseer: threading.Thread | None = None
        self._closed = False
        ref = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _forget_idle(ref))

    def __repr__(self) -> str:
        return f"Link({self.endpoint}, {len(self._idle)} idle)"

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands and read their answers once; answers that are errors are in the list. `Lost`, `NotNow`."""
        packed = [pack_command(command) for command in commands]
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect()
        answers: list[Any] = []
        self._waiting[connection] = monotonic()
        try:
            connection.send_packed_command(packed if len(packed) == 1 else [b"".join(packed)], False)
            for _ in commands:
                try:
                    answers.append(connection.read_response(disable_decoding=True))
                except ResponseError as e:
                    answers.append(e)
        except BusyLoadingError as e:
            connection.disconnect()
            self.forget()
            raise NotNow(f"{self.endpoint}: {e}") from e
        except Exception as e:  # whatever a connection makes of being disconnected by the overseer: the answer is lost
            connection.disconnect()
            self.forget()
            self.endpoint.refresh()  # it may not be the master any more
            raise Lost(f"connection to {self.endpoint} lost: {e}") from e
        except BaseException:
            connection.disconnect()
            raise
        finally:
            self._waiting.pop(connection, None)
        if self._closed or len(self._idle) >= _MAX_IDLE:
            connection.disconnect()
        else:
            self._idle.append(connection)
        return answers

    def ask(self, *commands: Command) -> list[Any]:
        """Commands that may be repeated (reads, and what does no harm twice): tried until the deadline.

        Calls of `READING` scripts may be among them.
        """
        patience: Patience | None = None
        while True:
            try:
                answers = self.exchange(commands)
                for answer in answers:
                    if isinstance(answer, RedisError):
                        break
                else:
                    return answers
                if any(isinstance(answer, NoScriptError) for answer in answers):
                    loads = [(b"SCRIPT", b"LOAD", script.source) for script in READING]
                    answers = self.exchange([*loads, *commands])[len(loads) :]
                return [self.checked(answer) for answer in answers]
            except (Lost, NotNow) as e:
                patience = patience or Patience(self.endpoint.deadline_s)
                patience.wait(e)

    def run_id(self) -> bytes:
        """Which run of which server answers now; empty if it does not let itself be asked."""
        try:
            lines = self.ask((b"INFO", b"server"))[0].splitlines()
        except Unavailable:
            return b""
        return next((line for line in lines if line.startswith(b"run_id:")), b"")

    def run_script(self, script: Script, keys: Sequence[bytes], arguments: Sequence[bytes | str | int]) -> Any:
        """The answer of a script, sent once; `Lost` if it may have run, `NotNow` if it has not."""
        answer = self.exchange([(b"EVALSHA", script.sha, len(keys), *keys, *arguments)])[0]
        if isinstance(answer, NoScriptError):  # a new server, or somebody has flushed its scripts
            answer = self.exchange([(b"EVAL", script.source, len(keys), *keys, *arguments)])[0]
        return self.checked(answer)

    def checked(self, answer: Any) -> Any:
        """The answer, or the error that it is, as one of ours."""
        if not isinstance(answer, RedisError):
            return answer
        text = str(answer)
        if isinstance(answer, NoScriptError):  # flushed again just now
            raise NotNow(f"{self.endpoint}: {text}")
        if _is_passing(answer):
            self.forget()
            self.endpoint.refresh()
            raise NotNow(f"{self.endpoint}: {text}")
        if isinstance(answer, OutOfMemoryError) or "-OOM " in text:
            raise OutOfSpace(f"{self.endpoint} is out of memory: {text}")
        if isinstance(answer, NoPermissionError):
            raise Unavailable(f"{self.endpoint}: the user lacks permissions: {text}")
        if "WRONGTYPE" in text:
            raise Corrupt(f"{self.endpoint}: a key holds something else than it should: {text}")
        raise Unavailable(f"{self.endpoint}: {text}")

    def forget(self) -> None:
        """Drop all idle connections: the server, or which server it is, has changed."""
        while self._idle:
            try:
                self._idle.pop().disconnect()
            except IndexError:
                return

    def reach(self) -> None:
        """Connect for the first time, and learn what kind of server it is. `Unavailable` at once if that fails."""
        try:
            if self.endpoint.options.mode == "single":
                probe = self._connect(probing=True)
                try:
                    self.endpoint.detect_cluster(probe)
                finally:
                    probe.disconnect()
            self._idle.append(self._connect())
        except NotNow as e:
            raise Unavailable(f"{e}{self.endpoint.explain(e)}") from e
        except (RedisError, OSError) as e:
            raise Unavailable(f"{self.endpoint}: {e}{self.endpoint.explain(e)}") from e

    def close(self) -> None:
        self._closed = True
        self.forget()

    def _connect(self, *, probing: bool = False) -> AbstractConnection:
        if self._closed:
            raise Unavailable(f"{self.endpoint}: closed")
        try:
            connection = self.endpoint.connection(probing=probing)
            try:
                connection.connect()
            except BaseException:
                connection.disconnect()
                raise
            if MAY_BLOCK:
                connection.update_current_socket_timeout(None)
                self._oversee()
            return connection
        except (AuthenticationError, AuthorizationError) as e:
            raise Unavailable(f"{self.endpoint} refuses the user or the password: {e}") from e
        except ResponseError as e:
            self.endpoint.refresh()
            if _is_passing(e):
                raise NotNow(f"{self.endpoint}: {e}") from e
            raise Unavailable(f"{self.endpoint}: {e}") from e
        except (RedisError, OSError) as e:
            self.endpoint.refresh()
            raise NotNow(f"cannot connect to {self.endpoint}: {e}") from e

    def _oversee(self) -> None:
        """Have somebody look for exchanges that take too long."""
        if self._overseer is None:
            arguments = (weakref.ref(self), self.endpoint.options.read_timeout_s)
            self._overseer = threading.Thread(target=_end_late_ones, args=arguments, name="redis-timeouts", daemon=True)
            self._overseer.start()


class Patience:
    """Pauses between attempts, longer and longer with jitter, until `deadline_s` after the first."""

    def __init__(self, deadline_s: float) -> None:
        self._end = monotonic() + deadline_s
        self._pause = _FIRST_PAUSE_S
        self._told = False

    def wait(self, trouble: EngineError) -> None:
        """Pause before the next attempt; `Unavailable` if there is no time for one."""
        left = self._end - monotonic()
        if left <= 0:
            raise Unavailable(str(trouble)) from trouble
        if not self._told:
            self._told = True
            log.warning("%s; trying again", trouble)
        time.sleep(min(left, self._pause * random.uniform(0.5, 1)))
        self._pause = min(self._pause * 2, 1.0)


def _is_passing(answer: RedisError) -> bool:
    return isinstance(answer, _PASSING) or _PASSING_WORDS.search(str(answer)) is not None


def _forget_idle(ref: weakref.ref[Link]) -> None:
    """In a forked child: the connections are the parent's, who goes on using them."""
    link = ref()
    if link is not None:
        link._idle, link._waiting, link._overseer = [], {}, None


def _end_late_ones(ref: weakref.ref[Link], timeout_s: float) -> None:
    """Disconnect exchanges that take longer than `timeout_s`, as long as there is the link."""
    while (link := ref()) is not None and not link._closed:
        now = monotonic()
        for connection, since in link._waiting.copy().items():
            if now - since > timeout_s:
                log.warning("%s does not answer: connection given up after %.0f s", link.endpoint, now - since)
                connection.disconnect()
        del link
        time.sleep(min(1.0, timeout_s))
