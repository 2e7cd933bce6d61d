"""One connection to an SFTP server: dialled, the host's key looked at, logged in.

Host keys: the environment variable SSH_KNOWN_HOSTS names a file of those that are trusted. Without it any is, as with
official clients: whoever stands between can then read and change everything. Logging in: the password if there is one,
then the key in SSH_PRIVATE_KEY_PATH or else those in ~/.ssh, then those of the agent at SSH_AUTH_SOCK. Nobody is asked
for a password.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from chunkstore.errors import BadBucket, Denied, NoSpace, StoreError, Timeout, Unavailable, from_os_error

_KEEPALIVE_S = 30  # routers forget a silent connection after some minutes
_KEYS = ("rsa", "ecdsa", "ed25519", "dsa")


def require_paramiko() -> None:
    """BadBucket if the library is not installed. It tells of every connection, and of what it raises as well: hush."""
    try:
        import paramiko  # noqa: F401
    except ImportError:
        raise BadBucket(
            "storage 'sftp' needs the package paramiko; install it with: pip install 'juicefs-py[sftp]'"
        ) from None
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)


class Connection:
    """A connection that is logged in, for one thread at a time. `files` is its SFTPClient."""

    def __init__(self, client: Any, line: socket.socket, timeout_s: float) -> None:
        self._client = client
        self._line = line
        self._transport = client.get_transport()
        self._transport.set_keepalive(_KEEPALIVE_S)
        self.files = client.open_sftp()
        self.files.get_channel().settimeout(timeout_s)

    @property
    def alive(self) -> bool:
        """False when it is known to be broken."""
        return bool(self._transport.is_active())

    def goes_on_after(self, error: Exception) -> bool:
        """Whether the error is only what the server answered to the last request."""
        answered = isinstance(error, OSError) and not isinstance(error, TimeoutError | ConnectionError)
        return (answered or isinstance(error, StoreError)) and self.alive

    def close(self) -> None:
        """Hang up."""
        self._client.close()
        self._line.close()


def connect(host: str, port: int, user: str, password: str, wait_s: float, timeout_s: float) -> Connection:
    """A new connection. All steps of the login together get `wait_s`: paramiko has no limit for some of them."""
    import paramiko

    what = f"connect to {host}, port {port}"
    client = paramiko.SSHClient()
    _trust(client, what)
    try:
        line = _dial(host, port, wait_s, timeout_s)
    except OSError as error:
        raise trouble(error, what) from error
    late = threading.Event()
    watchdog = threading.Timer(wait_s, _hang_up, (line, late))
    watchdog.daemon = True
    watchdog.start()
    later_s = 2 * wait_s  # than the watchdog, which tells timeouts from other troubles
    try:
        client.connect(
            host, port, username=user, sock=line, auth_strategy=_Login(user, password, what), banner_timeout=later_s,
            auth_timeout=later_s, channel_timeout=later_s,
        )  # fmt: skip
        return Connection(client, line, timeout_s)
    except BaseException as error:
        client.close()
        line.close()
        if late.is_set():
            raise Timeout(f"{what}: the server did not answer within {wait_s:g} s") from error
        if isinstance(error, StoreError) or not isinstance(error, Exception):
            raise
        raise trouble(error, what) from error
    finally:
        watchdog.cancel()


def _dial(host: str, port: int, wait_s: float, timeout_s: float) -> socket.socket:
    line = socket.create_connection((host, port), wait_s)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # paramiko tries for ever to send to a host that takes nothing
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(timeout_s * 1000))
    return line


def _hang_up(line: socket.socket, late: threading.Event) -> None:
    late.set()
    try:
        line.shutdown(socket.SHUT_RDWR)
    except OSError:  # it is closed already
        pass


def _trust(client: Any, what: str) -> None:
    """Tell the client which host keys are good."""
    import paramiko

    known = os.environ.get("SSH_KNOWN_HOSTS", "")
    if known:
        try:
            client.load_system_host_keys(known)
        except (OSError, paramiko.SSHException) as error:
            raise BadBucket(f"cannot read SSH_KNOWN_HOSTS={known}: {error}") from None
    client.set_missing_host_key_policy(_Unknown(known, what))


class _Unknown:
    """What becomes of a host whose key is not known."""

    def __init__(self, known_hosts: str, what: str) -> None:
        self._known_hosts = known_hosts
        self._what = what

    def missing_host_key(self, client: Any, host: str, key: Any) -> None:
        """Called by paramiko; returns if the key is taken as it is."""
        if self._known_hosts:
            raise Denied(
                f"{self._what}: {self._known_hosts} (SSH_KNOWN_HOSTS) has no key of {host}; "
                f"if {key.get_name()} {key.fingerprint} is right, add it there"
            )


class _Login:
    """The ways to log in, one after the other."""

    def __init__(self, user: str, password: str, what: str) -> None:
        self._user = user
        self._password = password
        self._what = what

    def authenticate(self, transport: Any) -> None:
        """Called by paramiko when the line is encrypted. Returns when logged in."""
        import paramiko

        tried: list[str] = []
        for name, attempt in self._ways(transport):
            try:
                if not attempt():  # else it lists what is wanted besides
                    return
            except paramiko.AuthenticationException:
                if not transport.is_active() and not tried:
                    raise Unavailable(f"{self._what}: the server hung up while logging in") from None
            tried.append(name)
            if not transport.is_active():
                break
        raise Denied(
            f"{self._what}: user {self._user} cannot log in by {', '.join(tried)}; check --access-key (the user), "
            "--secret-key (the password), SSH_PRIVATE_KEY_PATH and the keys that the server trusts"
        )

    def _ways(self, transport: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
        if self._password:
            yield "password", partial(transport.auth_password, self._user, self._password)
        for name, key in _keys():
            yield name, partial(transport.auth_publickey, self._user, key)
        if not self._password:
            yield "no password", partial(transport.auth_none, self._user)


def _keys() -> Iterator[tuple[str, Any]]:
    """Names and keys: of files, then of the agent."""
    import paramiko

    chosen = os.environ.get("SSH_PRIVATE_KEY_PATH", "")
    for path in [Path(chosen)] if chosen else [Path.home() / ".ssh" / f"id_{each}" for each in _KEYS]:
        try:
            key = paramiko.PKey.from_path(path)
        except Exception as error:  # it has a passphrase, or is of no kind that is known, or is no key
            if chosen:
                raise BadBucket(f"cannot use the key SSH_PRIVATE_KEY_PATH={path}: {error}") from None
            continue
        yield f"key {path}", key
    if os.environ.get("SSH_AUTH_SOCK"):
        agent = paramiko.Agent()
        try:
            for key in agent.get_keys():
                yield "the agent's key", key
        finally:
            agent.close()


def trouble(error: Exception, what: str) -> StoreError:
    """The error of this room for one of paramiko. `what` names the action and its object."""
    import paramiko

    if isinstance(error, paramiko.BadHostKeyException):
        return Denied(f"{what}: its host key is not the one in SSH_KNOWN_HOSTS; is it the right server?")
    if isinstance(error, TimeoutError):
        return Timeout(f"{what}: {str(error) or 'the server did not answer in time'}")
    if isinstance(error, OSError):
        text = str(error)
        if error.errno is None and re.search("no space|quota", text, re.IGNORECASE):  # the protocol has no code for it
            return NoSpace(f"{what}: {text}")
        if text == "Failure":
            return Unavailable(f"{what}: the server failed and does not say why; perhaps it has no room left")
        return from_os_error(error, what)
    if isinstance(error, EOFError):
        return Unavailable(f"{what}: the connection was lost")
    text = " ".join(str(error).split())
    if "protocol banner" in text:
        text = "nobody there greets as an SSH server does"
    return Unavailable(f"{what}: {text}")
