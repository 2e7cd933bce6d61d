"""What metadata costs when no rule is followed: the floor below anything that is served from Python.

A peer for ours, in a process of its own: our FUSE session over a file system in memory that waits for Redis once for
every change and for every name that it is asked for, as ours does, with commands of the same kind: one read, or one
script that writes what a `create` writes. What is between it and ours are the rules, their transactions, and the
file system around them; what is between it and an official client is Python's own price.

Ours may be below this floor where it does not ask at all: names that were read ahead.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.machine import MIB, wait_for
from bench.measure import OURS, Row
from bench.memfs import MemFS
from bench.meta import Names, rows
from bench.peers import Client, unmount
from bench.setting import Bench, redis_server
from fuse.config import SessionConfig
from fuse.mount import MountOptions, mount
from fuse.session import Session

_CHANGE = """
redis.call('SET', KEYS[1], ARGV[1]) redis.call('SET', KEYS[2], ARGV[1]) redis.call('HSET', KEYS[3], ARGV[2], ARGV[3])
redis.call('INCRBY', KEYS[4], 4096) redis.call('INCR', KEYS[5]) redis.call('HINCRBY', KEYS[6], '1', 1)
return 1
"""
_RECORD = b"\x01" * 73  # the size of an inode's
_KEYS = (b"i1", b"i2", b"d1", b"usedSpace", b"totalInodes", b"dirUsedInodes")


class Bare(MemFS):
    """A file system in memory that keeps nothing in Redis, and talks to it all the same."""

    def __init__(self, port: int) -> None:
        super().__init__(valid_s=1.0)
        self._port = port
        self._local = threading.local()
        self._script = str(self._ask("SCRIPT", "LOAD", _CHANGE).decode())

    def _ask(self, *command: Any) -> Any:
        import hiredis

        if not hasattr(self._local, "link"):
            link = socket.create_connection(("127.0.0.1", self._port))
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._local.link, self._local.reader = link, hiredis.Reader()
        link, reader = self._local.link, self._local.reader
        link.sendall(hiredis.pack_command(command))
        while (answer := reader.gets()) is False:
            reader.feed(link.recv(65536))
        return answer

    def _change(self) -> None:
        self._ask("EVALSHA", self._script, len(_KEYS), *_KEYS, _RECORD, b"name", b"\x01" * 9)

    def lookup(self, caller: Any, parent: int, name: bytes) -> Any:
        self._ask("GET", b"i1")
        return super().lookup(caller, parent, name)

    def open(self, *arguments: Any) -> Any:
        self._ask("GET", b"i1")
        return super().open(*arguments)

    def create(self, *arguments: Any) -> Any:
        self._change()
        return super().create(*arguments)

    def mkdir(self, *arguments: Any) -> Any:
        self._change()
        return super().mkdir(*arguments)

    def rename(self, *arguments: Any) -> Any:
        self._change()
        return super().rename(*arguments)

    def unlink(self, *arguments: Any) -> Any:
        self._change()
        return super().unlink(*arguments)

    def write(self, *arguments: Any) -> Any:
        self._change()  # what the flush of the written data commits
        return super().write(*arguments)


def below_the_rules(bench: Bench) -> Iterator[Row]:
    """The rows of metadata with one caller, Redis next door: ours beside the floor."""
    base = bench.folder("floor")
    with redis_server(base / "redis") as port, contextlib.ExitStack() as stack:
        url, client = f"redis://127.0.0.1:{port}/1", Client(OURS)
        client.format(url, "floor", base / "objects")
        works = {
            OURS: Names(stack.enter_context(client.mounted(url, base / "ours")), bench.scale),
            "no rules": Names(stack.enter_context(_bare(base / "bare", port)), bench.scale),
        }
        yield from rows("metadata without rules, Redis next door, 1 caller", works, 1, bench.scale, {})


@contextlib.contextmanager
def _bare(mountpoint: Path, port: int) -> Iterator[Path]:
    mountpoint.mkdir()
    process = subprocess.Popen([sys.executable, "-m", "bench.floor", str(mountpoint), str(port)])
    try:
        wait_for(mountpoint.is_mount, "the file system without rules does not mount")
        yield mountpoint
    finally:
        unmount(mountpoint)
        process.wait(20)


def serve(mountpoint: str, port: int) -> None:
    """Until it is unmounted."""
    fd = mount(mountpoint, MountOptions("bench", "bare", allow_other=True, max_read=MIB))
    Session(Bare(port), fd, SessionConfig(max_write=MIB)).run()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
