"""Connections to PD and TiKV by gRPC: one per address, shared by all threads. Not what is said over them.

gRPC speaks HTTP/2 in threads of its own, outside of the interpreter; a call blocks its thread without the interpreter's
lock.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
import threading
from typing import Any, Final, NamedTuple

from meta.errors import MetaError, Unavailable
from meta.tkv.tikv.errors import Lost
from meta.tkv.tikv.messages import message

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # its own chatter about connections says nothing to a user

try:
    import grpc
except ImportError:  # pragma: no cover - depends on what is installed
    raise MetaError("TiKV needs the packages grpcio and protobuf: pip install 'juicefs_py[tikv]'") from None

log = logging.getLogger(__name__)

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),  # not shared with other volumes of this process
)
_CHECK_S: Final = 5.0


class Tls(NamedTuple):
    """Files of certificates, and the names of which a server's certificate must carry one; empty: no TLS, any name."""

    ca: str = ""
    cert: str = ""
    key: str = ""
    names: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.ca)


class Channels:
    """Calls by address. Thread-safe."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._credentials = _credentials(tls) if tls else None
        self._channels: dict[str, Any] = {}
        self._calls: dict[tuple[str, str], Any] = {}
        self._lock = threading.Lock()

    def call(self, address: str, path: str, request: Any, reply: str, timeout_s: float) -> Any:
        """One request, one reply of that message class; `Lost` without one.

        A stream of one message each way is the same on the wire, so this serves for those calls, too.
        """
        call = self._calls.get((address, path)) or self._make(address, path, reply)
        try:
            return call(request, timeout=timeout_s)
        except grpc.RpcError as error:
            details = error.details() or ""
            raise Lost(address, f"{error.code().name}: {details}" if details else error.code().name) from None
        except ValueError as error:  # the channel was closed meanwhile
            raise Lost(address, str(error)) from None

    def _make(self, address: str, path: str, reply: str) -> Any:
        with self._lock:
            channel = self._channels.get(address)
            if channel is None:
                channel = self._channels[address] = self._open(address)
            call = channel.unary_unary(
                path,
                request_serializer=lambda request: request.SerializeToString(),
                response_deserializer=message(reply).FromString,
            )
            self._calls[address, path] = call
            return call

    def _open(self, address: str) -> Any:
        if self._credentials is None:
            return grpc.insecure_channel(address, _OPTIONS)
        if self._tls.names:
            _check_name(address, self._tls)
        return grpc.secure_channel(address, self._credentials, _OPTIONS)

    def close(self) -> None:
        """Calls that are under way fail."""
        with self._lock:
            channels, self._channels, self._calls = self._channels, {}, {}
        for channel in channels.values():
            channel.close()


def _credentials(tls: Tls) -> Any:
    def read(path: str) -> bytes | None:
        if not path:
            return None
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise MetaError(f"TiKV: certificate file {path}: {error.strerror}") from None

    if bool(tls.cert) != bool(tls.key):
        raise MetaError("TiKV: options cert and key must be given together")
    return grpc.ssl_channel_credentials(read(tls.ca), read(tls.key), read(tls.cert))


def _check_name(address: str, tls: Tls) -> None:
    """gRPC has no place for this check in Python, so it is made on a connection of its own, before the first call."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cafile=tls.ca)
    if tls.cert:
        context.load_cert_chain(tls.cert, tls.key)
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), _CHECK_S) as plain,
            context.wrap_socket(plain, server_hostname=host.strip("[]")) as wrapped,
        ):
            subject: Any = (wrapped.getpeercert() or {}).get("subject", ())
    except OSError as error:
        raise Lost(address, f"TLS: {error}") from None
    found = [value for parts in subject for name, value in parts if name == "commonName"]
    if not set(found) & set(tls.names):
        raise Unavailable(f"TiKV: the certificate of {address} is for {', '.join(found) or 'nobody'}, not verify-cn")
