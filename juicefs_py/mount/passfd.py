"""Handing a FUSE descriptor from process to process, as official clients and the CSI driver do it.

Not here: when that is done (`supervisor`, `takeover`). A server owns a descriptor, or waits for one, behind a stream
socket in the file system. One exchange per connection:

1. The server speaks first: its *setting*, and as ancillary data a dummy descriptor, then the FUSE descriptor if it has
   one. Having sent that it closes its own copy.
2. The client may answer once: `CLOSE` with a dummy, which keeps nothing; or a setting and one descriptor, which the
   server adopts if it holds none. Or it just closes the connection.

The setting is opaque on the way: up to 120 bytes, at first `FUSE`, later the kernel's INIT request as far as it was
agreed to (`Setting`). Messages are small enough to come in one piece.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from fuse import abi
from fuse.handshake import Negotiated, read_init

MOST: Final = 120  # bytes of a setting that a receiver makes room for
CLOSE: Final = b"CLOSE"
UNKNOWN: Final = b"FUSE"
PATIENCE_S: Final = 2.0  # for a partner that answers at once
_INT: Final = struct.Struct("=i")


class Offer(NamedTuple):
    """What a server has sent. The descriptor, if there is one, belongs to the receiver."""

    setting: bytes
    fd: int | None


def send(connection: socket.socket, payload: bytes, fds: list[int]) -> None:
    """One message with descriptors."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
    connection.sendmsg([payload], ancillary)


def receive(connection: socket.socket, most: int) -> tuple[bytes, list[int]]:
    """One message and the descriptors that came with it, which are not inherited by programs."""
    room = socket.CMSG_SPACE(most * _INT.size)
    payload, ancillary, _, _ = connection.recvmsg(MOST, room, socket.MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds += [fd for (fd,) in _INT.iter_unpack(data[: len(data) - len(data) % _INT.size])]
    for fd in fds:
        os.set_inheritable(fd, False)
    return payload, fds


@contextlib.contextmanager
def dummy() -> Iterator[int]:
    """A descriptor that stands where one must be. Standard input may be closed, so it is one of /dev/null."""
    fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def connect(path: str) -> socket.socket | None:
    """A connection to a server; None if there is none. OSError if it does not listen in time."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    connection.settimeout(PATIENCE_S)
    try:
        connection.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except OSError:
        connection.close()
        raise
    return connection


def take(path: str) -> Offer | None:
    """Take what the server at `path` holds; None if nobody is there. OSError if the exchange breaks off."""
    connection = connect(path)
    if connection is None:
        return None
    with connection:
        offer = _accept(connection)
        if offer.fd is not None:
            with dummy() as standin, contextlib.suppress(OSError):  # it may have closed by now; what came is ours
                send(connection, CLOSE, [standin])
        return offer


def give(path: str, setting: bytes, fd: int) -> bool:
    """Give a copy of a descriptor to the server at `path`, which then holds it; False if nobody is there.

    OSError if the exchange breaks off: it may have it or not.
    """
    connection = connect(path)
    if connection is None:
        return False
    with connection:
        offer = _accept(connection)
        if offer.fd is not None:
            os.close(offer.fd)
        send(connection, setting, [fd])
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)  # the server has read it when it closes
    return True


def _accept(connection: socket.socket) -> Offer:
    setting, fds = receive(connection, 2)
    if not fds:
        raise ConnectionError("the partner sent no descriptor")
    os.close(fds[0])
    for fd in fds[2:]:
        os.close(fd)
    return Offer(setting, fds[1] if len(fds) > 1 else None)


def setting_of(negotiated: Negotiated) -> bytes:
    """104 bytes: the header of the INIT request (40), then major, minor, max_readahead, flags of both sides, flags2 of
    both sides, and 11 words of which the first is our max_write and the others are 0.

    Official clients read the first 56 bytes.
    """
    header = negotiated.request[: abi.fuse_in_header.size].ljust(abi.fuse_in_header.size, b"\0")
    flags = negotiated.flags
    return header + struct.pack(
        "=16I", abi.FUSE_KERNEL_VERSION, negotiated.minor, negotiated.max_readahead, flags & 0xFFFFFFFF, flags >> 32,
        negotiated.max_write, *(0,) * 10,
    )  # fmt: skip


def negotiated_of(setting: bytes, max_write: int) -> Negotiated | None:
    """What was agreed with the kernel (`max_write`: if the predecessor does not tell); None if it is no such thing."""
    size = abi.fuse_in_header.size + 16
    if len(setting) < size:
        return None
    whole = setting[:104].ljust(104, b"\0")
    major, minor, max_readahead, flags = read_init(whole)
    if major != abi.FUSE_KERNEL_VERSION:
        return None
    flags2, told = struct.unpack_from("=II", whole, size)
    return Negotiated(whole, minor, (flags & 0xFFFFFFFF) | flags2 << 32, max_readahead, told or max_write)
