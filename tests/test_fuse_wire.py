"""Annotated kernel bytes: one literal per opcode, decoded and answered without a mount, and its truncated twin.

Not here: the kernel. A recording file system stands behind the handlers; the literals are little-endian.
"""

from __future__ import annotations

import errno
import os
import random
import socket
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fuse import abi, opcodes, reply
from fuse.config import SessionConfig
from fuse.errors import UnsupportedKernel
from fuse.handshake import negotiate, read_init
from fuse.operations import Caller, DirSink, Entry, FileLock, Opened, Operations, SetAttr, Stat, StatFs
from fuse.pool import Pool, Worker
from fuse.session import Session

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="the literals are little-endian")

STAT = Stat(7, 5, 1, 1700000001, -2, 1700000003, 11, 12, 13, 0o100644, 1, 1000, 1001, 0, 4096)
STAT_BYTES = bytes.fromhex(
    "0700000000000000"  # ino 7
    "0500000000000000"  # size 5
    "0100000000000000"  # blocks 1
    "01f1536500000000"  # atime 1700000001
    "feffffffffffffff"  # mtime -2: before 1970
    "03f1536500000000"  # ctime 1700000003
    "0b000000" "0c000000" "0d000000"  # nanoseconds
    "a4810000"  # mode 0100644
    "01000000"  # nlink
    "e8030000" "e9030000"  # uid 1000, gid 1001
    "00000000"  # rdev
    "00100000"  # blksize 4096
    "00000000"  # flags
)  # fmt: skip
ENTRY = Entry(STAT, 1.5, 2.0, 9)
ENTRY_BYTES = (
    bytes.fromhex(
        "0700000000000000"  # nodeid 7
        "0900000000000000"  # generation 9
        "0100000000000000"  # entry_valid 1 s
        "0200000000000000"  # attr_valid 2 s
        "0065cd1d"  # entry_valid_nsec 500000000
        "00000000"  # attr_valid_nsec
    )
    + STAT_BYTES
)
ATTR_BYTES = bytes.fromhex("0200000000000000" "00000000" "00000000") + STAT_BYTES  # attr_valid 2 s  # fmt: skip
OPEN_BYTES = bytes.fromhex("2a00000000000000" "02000000" "00000000")  # fh 42, FOPEN_KEEP_CACHE, no backing  # fmt: skip
U64_42 = "2a00000000000000"
OWNER = "1122334455667788"


class Recorder(Operations):
    """Notes each call and answers a fixed value."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_") or name in ("calls", "readdir", "readdirplus"):
            return object.__getattribute__(self, name)

        def call(*arguments: Any) -> Any:
            plain = [bytes(a) if isinstance(a, memoryview) else a for a in arguments if not isinstance(a, Caller)]
            self.calls.append((name, *plain))
            return ANSWERS.get(name)

        return call

    def readdir(self, caller: Caller, ino: int, fh: int, offset: int, sink: DirSink) -> None:
        self.calls.append(("readdir", ino, fh, offset))
        assert sink.add(b"abc", 7, stat.S_IFDIR, 1)
        assert not sink.add(b"x" * 300, 8, stat.S_IFREG, 2)

    def readdirplus(self, caller: Caller, ino: int, fh: int, offset: int, sink: DirSink) -> None:
        self.calls.append(("readdirplus", ino, fh, offset))
        assert sink.add_plus(b"abc", ENTRY, 1)


ANSWERS: dict[str, Any] = {
    **dict.fromkeys(("lookup", "symlink", "mknod", "mkdir", "link"), ENTRY),
    **dict.fromkeys(("getattr", "setattr"), (STAT, 2.0)),
    **dict.fromkeys(("open", "opendir"), Opened(42, abi.FOPEN_KEEP_CACHE)),
    **dict.fromkeys(("create", "tmpfile"), (ENTRY, Opened(42, abi.FOPEN_KEEP_CACHE))),
    "readlink": b"target",
    "read": [b"he", memoryview(b"llo")],
    "write": 3,
    "statfs": StatFs(1, 2, 3, 4, 5, 6, 7, 8),
    "getxattr": b"value",
    "listxattr": b"user.a\0user.b\0",
    "getlk": FileLock(1, 2, 1, 3),
    "ioctl": (5, b"out"),
    "lseek": 77,
    "copy_file_range": 4096,
}

LOCK = U64_42 + OWNER + "0100000000000000ffffffffffffff7f0100000005000000"  # fh, owner, 1..max, F_WRLCK, pid 5
A_LOCK = FileLock(1, 2**63 - 1, 1, 5)
OWNER_NUMBER = int.from_bytes(bytes.fromhex(OWNER), "little")
READ = (
    U64_42  # fh
    + "0010000000000000"  # offset 4096
    "00010000"  # size 256
    "00000000"  # read_flags
    "0000000000000000"  # lock_owner
    "00000000" "00000000"  # flags, padding
)  # fmt: skip
COPY = (
    U64_42 + "0100000000000000"  # fh_in, off_in 1
    "0800000000000000" "2b00000000000000"  # nodeid_out 8, fh_out 43
    "0200000000000000" "0010000000000000"  # off_out 2, len 4096
    "0000000000000000"  # flags
)  # fmt: skip

# opcode: (what follows the header, the call it becomes, the reply's payload)
CASES: dict[str, tuple[str, tuple[Any, ...] | None, bytes | int | None]] = {
    "LOOKUP": (b"name\0".hex(), ("lookup", 7, b"name"), ENTRY_BYTES),
    "FORGET": ("0300000000000000", ("forget", ((7, 3),)), None),
    "GETATTR": (
        "01000000" "00000000" + U64_42,  # FUSE_GETATTR_FH, dummy, fh
        ("getattr", 7, 42), ATTR_BYTES,
    ),
    "SETATTR": (
        "69020000" "00000000"  # valid: MODE SIZE MTIME FH LOCKOWNER; padding
        + U64_42 + "6400000000000000" + OWNER  # fh, size 100, lock_owner
        + "0100000000000000" "feffffffffffffff" "0300000000000000"  # atime 1, mtime -2, ctime 3
        "04000000" "05000000" "06000000"  # nanoseconds
        "a4810000" "00000000"  # mode, unused4
        "e8030000" "e9030000" "00000000",  # uid, gid, unused5
        ("setattr", 7, SetAttr(0x269, 100, 0o100644, 1000, 1001, 1, 4, -2, 5, 3, 6, 42, OWNER_NUMBER)), ATTR_BYTES,
    ),
    "READLINK": ("", ("readlink", 7), b"target"),
    "SYMLINK": (b"name\0to\0".hex(), ("symlink", 7, b"name", b"to"), ENTRY_BYTES),
    "MKNOD": (
        "a4110000" "05010000" "12000000" "00000000" + b"n\0".hex(),  # mode 010644, rdev, umask 022, padding
        ("mknod", 7, b"n", 0o10644, 0x105, 0o22), ENTRY_BYTES,
    ),
    "MKDIR": ("ed010000" "12000000" + b"n\0".hex(), ("mkdir", 7, b"n", 0o755, 0o22), ENTRY_BYTES),
    "UNLINK": (b"n\0".hex(), ("unlink", 7, b"n"), b""),
    "RMDIR": (b"n\0".hex(), ("rmdir", 7, b"n"), b""),
    "RENAME": ("0800000000000000" + b"a\0b\0".hex(), ("rename", 7, b"a", 8, b"b", 0), b""),
    "LINK": ("0800000000000000" + b"n\0".hex(), ("link", 8, 7, b"n"), ENTRY_BYTES),
    "OPEN": ("02800000" "00000000", ("open", 7, os.O_RDWR | 0x8000), OPEN_BYTES),
    "READ": (READ, ("read", 7, 42, 4096, 256), b"hello"),
    "WRITE": (
        U64_42 + "0010000000000000" "03000000" "01000000" + OWNER + "00000000" "00000000" + b"abc".hex(),
        ("write", 7, 42, 4096, b"abc", abi.FUSE_WRITE_CACHE), bytes.fromhex("03000000" "00000000"),
    ),
    "STATFS": (
        "", ("statfs", 7),
        b"".join(n.to_bytes(8, "little") for n in (1, 2, 3, 4, 5))
        + bytes.fromhex("06000000" "07000000" "08000000") + bytes(28),
    ),
    "RELEASE": (
        U64_42 + "02800000" "02000000" + OWNER,  # fh, flags, FUSE_RELEASE_FLOCK_UNLOCK, lock_owner
        ("release", 7, 42, OWNER_NUMBER, True), b"",
    ),
    "FSYNC": (U64_42 + "01000000" "00000000", ("fsync", 7, 42, True), b""),
    "SETXATTR": ("03000000" "01000000" + b"user.a\0v\0w".hex(), ("setxattr", 7, b"user.a", b"v\0w", 1), b""),
    "GETXATTR": ("05000000" "00000000" + b"user.a\0".hex(), ("getxattr", 7, b"user.a", 5), b"value"),
    "LISTXATTR": ("00000000" "00000000", ("listxattr", 7, 0), bytes.fromhex("0e000000" "00000000")),
    "REMOVEXATTR": (b"user.a\0".hex(), ("removexattr", 7, b"user.a"), b""),
    "FLUSH": (U64_42 + "00000000" "00000000" + OWNER, ("flush", 7, 42, OWNER_NUMBER), b""),
    "INIT": ("07000000" "1f000000" "00000200" "00000000", None, errno.ENOSYS),  # a second INIT is refused
    "OPENDIR": ("00800100" "00000000", ("opendir", 7, 0x18000), OPEN_BYTES),
    "READDIR": (
        READ, ("readdir", 7, 42, 4096),
        bytes.fromhex("0700000000000000" "0100000000000000" "03000000" "04000000") + b"abc" + bytes(5),
    ),
    "RELEASEDIR": (U64_42 + "00000000" "00000000" + OWNER, ("releasedir", 7, 42), b""),
    "FSYNCDIR": (U64_42 + "00000000" "00000000", ("fsyncdir", 7, 42, False), b""),
    "GETLK": (
        LOCK + "00000000" "00000000", ("getlk", 7, 42, OWNER_NUMBER, A_LOCK),
        bytes.fromhex("0100000000000000" "0200000000000000" "01000000" "03000000"),
    ),
    "SETLK": (LOCK + "01000000" "00000000", ("flock", 7, 42, OWNER_NUMBER, 1, False), b""),  # FUSE_LK_FLOCK
    "SETLKW": (LOCK + "00000000" "00000000", ("setlk", 7, 42, OWNER_NUMBER, A_LOCK, True), b""),
    "ACCESS": ("04000000" "00000000", ("access", 7, 4), b""),
    "CREATE": (
        "41800000" "b4810000" "02000000" "00000000" + b"n\0".hex(),  # flags, mode, umask, open_flags
        ("create", 7, b"n", 0o100664, 2, 0x8041), ENTRY_BYTES + OPEN_BYTES,
    ),
    "INTERRUPT": ("3930000000000000", None, errno.EAGAIN),  # of request 12345, which nobody serves
    "BMAP": ("0000000000000000" "00100000" "00000000", None, errno.ENOSYS),
    "DESTROY": ("", None, b""),
    "IOCTL": (
        U64_42 + "00000000" "01660880" "0000000000000000" "02000000" "08000000" + b"in".hex(),
        ("ioctl", 7, 42, 0x80086601, 0, b"in", 8, 0),
        bytes.fromhex("05000000" "00000000" "00000000" "00000000") + b"out",
    ),
    "POLL": (U64_42 + U64_42 + "00000000" "00000000", None, errno.ENOSYS),
    "NOTIFY_REPLY": (bytes(40).hex(), None, None),
    "BATCH_FORGET": (
        "02000000" "00000000"  # count, dummy
        "0700000000000000" "0100000000000000"  # nodeid 7, nlookup 1
        "0800000000000000" "0200000000000000",
        ("forget", [(7, 1), (8, 2)]), None,
    ),
    "FALLOCATE": (
        U64_42 + "0100000000000000" "0200000000000000" "03000000" "00000000", ("fallocate", 7, 42, 1, 2, 3), b"",
    ),
    "READDIRPLUS": (
        READ, ("readdirplus", 7, 42, 4096),
        ENTRY_BYTES + bytes.fromhex("0700000000000000" "0100000000000000" "03000000" "08000000") + b"abc" + bytes(5),
    ),
    "RENAME2": ("0800000000000000" "02000000" "00000000" + b"a\0b\0".hex(), ("rename", 7, b"a", 8, b"b", 2), b""),
    "LSEEK": (U64_42 + "0100000000000000" "04000000" "00000000", ("lseek", 7, 42, 1, 4), (77).to_bytes(8, "little")),
    "COPY_FILE_RANGE": (COPY, ("copy_file_range", 7, 42, 1, 8, 43, 2, 4096, 0), bytes.fromhex("00100000" "00000000")),
    "SYNCFS": ("0000000000000000", ("syncfs", 7), b""),
    "TMPFILE": (
        "41800000" "b4810000" "02000000" "00000000" + b"#1\0".hex(),
        ("tmpfile", 7, b"#1", 0o100664, 2, 0x8041), ENTRY_BYTES + OPEN_BYTES,
    ),
    "STATX": (bytes(24).hex(), None, errno.ENOSYS),
    "COPY_FILE_RANGE_64": (COPY, ("copy_file_range", 7, 42, 1, 8, 43, 2, 4096, 0), bytes.fromhex("0010000000000000")),
}  # fmt: skip


class Wire:
    """A session on one end of a socket pair: `ask` gives it a message and returns the reply, header checked."""

    def __init__(self, fs: Operations) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours, self.theirs = ours, theirs
        ours.setblocking(False)
        self.session = Session(fs, theirs.fileno())
        self.pool = self.session._pool = Pool(lambda worker: None, SessionConfig(), 0)
        self.worker = Worker(1 << 17, -1)

    def ask(self, message: bytes, unique: int = 99) -> bytes | int | None:
        """The payload, or the errno, or None if nothing was answered."""
        self.worker.view[: len(message)] = message
        self.session._answer(self.pool, self.worker, len(message))
        try:
            answer = self.ours.recv(1 << 17)
        except BlockingIOError:
            return None
        length, error, number = abi.fuse_out_header.unpack_from(answer)
        assert (length, number) == (len(answer), unique)
        if error:
            assert length == 16
            return -int(error)
        return answer[16:]


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire(Recorder())
    yield wire
    wire.session.device.close()
    wire.ours.close()
    wire.theirs.close()


def message(opcode: int, body: bytes, extension: bytes = b"") -> bytes:
    """len, opcode, unique 99, node 7, uid 1000, gid 1001, pid 55, total_extlen, padding."""
    length = 40 + len(body) + len(extension)
    return abi.fuse_in_header.pack(length, opcode, 99, 7, 1000, 1001, 55, len(extension) // 8, 0) + body + extension


def test_every_opcode_has_a_literal() -> None:
    assert set(CASES) == {row.name for row in opcodes.ROWS}
    assert len({row.opcode for row in opcodes.ROWS}) == len(opcodes.ROWS)


@pytest.mark.parametrize("row", opcodes.ROWS, ids=lambda row: row.name)
def test_request_and_reply(row: opcodes.Row, wire: Wire) -> None:
    body, call, answer = CASES[row.name]
    assert wire.ask(message(row.opcode, bytes.fromhex(body))) == answer
    assert wire.session.operations.calls == ([call] if call else [])  # type: ignore[attr-defined]


CARRIERS = [row for row in opcodes.ROWS if row.implemented and CASES[row.name][0] and row.name != "NOTIFY_REPLY"]


@pytest.mark.parametrize("row", CARRIERS, ids=lambda row: row.name)
def test_truncated_twin(row: opcodes.Row, wire: Wire) -> None:
    """Without its last byte a request is refused, unless that byte is optional; stale bytes behind it are not read."""
    body = bytes.fromhex(CASES[row.name][0])
    wire.worker.view[:4096] = b"\x01" * 4096
    expected = errno.EINVAL if row.encode is not None else None
    assert wire.ask(message(row.opcode, body[:-1])) == expected
    assert wire.session.operations.calls == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("row", opcodes.ROWS, ids=lambda row: row.name)
def test_struct_survives_a_round_trip(row: opcodes.Row) -> None:
    body = bytes.fromhex(CASES[row.name][0])[: row.struct.size]
    assert row.struct.pack(*row.struct.unpack(body)) == body


def test_extension_is_not_part_of_the_request(wire: Wire) -> None:
    assert wire.ask(message(1, b"name\0", bytes(16))) == ENTRY_BYTES
    assert wire.session.operations.calls == [("lookup", 7, b"name")]  # type: ignore[attr-defined]


def test_xattr_sizes(wire: Wire) -> None:
    assert wire.ask(message(22, bytes(8) + b"user.a\0")) == bytes.fromhex("0500000000000000")
    assert wire.ask(message(22, bytes.fromhex("0400000000000000") + b"user.a\0")) == errno.ERANGE


def test_unknown_opcode(wire: Wire) -> None:
    assert wire.ask(message(54, bytes(100))) == errno.ENOSYS


def test_random_requests_never_break_the_session(wire: Wire) -> None:
    """Any bytes behind any header give an answer (or none, where none is due), never an exception."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    rows = {row.opcode: row for row in opcodes.ROWS}
    for _ in range(5000):
        opcode = rng.choice([*rows, rng.randrange(1 << 32)])
        body = rng.randbytes(rng.randrange(200))
        if rng.random() < 0.5 and opcode in rows:  # a valid one with a few bytes changed
            mutable = bytearray.fromhex(CASES[rows[opcode].name][0])
            for _ in range(rng.randrange(4)):
                if mutable:
                    mutable[rng.randrange(len(mutable))] = rng.randrange(256)
            body = bytes(mutable)
        answer = wire.ask(message(opcode, body))
        if opcode in rows and rows[opcode].encode is None:
            assert answer is None or opcode == opcodes.FUSE_INTERRUPT
        else:
            assert answer is not None


class Failing(Operations):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def getattr(self, caller: Caller, ino: int, fh: int | None) -> tuple[Stat, float]:
        raise self.error


@pytest.mark.parametrize(
    ("error", "expected", "logged"),
    [
        (PermissionError(errno.EPERM, "no"), errno.EPERM, False),
        (KeyError("own"), errno.ESTALE, False),
        (FileNotFoundError(errno.ENOENT, "the inode is gone"), errno.ESTALE, False),
        (ValueError("bug"), errno.EIO, True),
        (OSError("without a number"), errno.EIO, True),
        (OSError(512, "not an errno of user space"), errno.EIO, True),
        (KeyboardInterrupt(), errno.EIO, True),
    ],
)
def test_exceptions(error: BaseException, expected: int, logged: bool, caplog: pytest.LogCaptureFixture) -> None:
    wire = Wire(Failing(error))
    wire.session._errno_of = lambda error: errno.ESTALE if isinstance(error, KeyError) else None
    assert wire.ask(message(3, bytes(16))) == expected
    assert bool([r for r in caplog.records if r.exc_info]) is logged
    wire.session.device.close()
    wire.ours.close()
    wire.theirs.close()


def test_a_missing_name_is_no_stale_inode() -> None:
    """The kernel follows a path again on ESTALE: right for an inode that is gone, pointless for a name that is."""
    missing = FileNotFoundError(errno.ENOENT, "no such name")
    wire = Wire(Failing(missing))
    wire.session.operations.lookup = wire.session.operations.unlink = _raise(missing)  # type: ignore[method-assign]
    assert wire.ask(message(1, b"name\0")) == errno.ENOENT
    assert wire.ask(message(10, b"name\0")) == errno.ENOENT
    wire.session.device.close()
    wire.ours.close()
    wire.theirs.close()


def _raise(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise error

    return fail


INIT_5_4 = bytes.fromhex(
    "38000000" "1a000000" "0100000000000000" "0000000000000000"  # len 56, INIT, unique 1, node 0
    "00000000" "00000000" "00000000" "00000000"  # uid gid pid padding
    "07000000" "1f000000"  # 7.31
    "00000200"  # max_readahead 128 KiB
    "fbffff03"  # what Linux 5.4 offers
)  # fmt: skip


def test_init_with_an_old_kernel() -> None:
    agreed, reply = negotiate(INIT_5_4, SessionConfig(max_write=1 << 20, posix_acl=True, dont_mask=True))
    assert agreed.minor == 31 and agreed.request == INIT_5_4 and agreed.max_write == 1 << 20
    assert agreed.flags == (
        abi.FUSE_ASYNC_READ | abi.FUSE_POSIX_LOCKS | abi.FUSE_EXPORT_SUPPORT | abi.FUSE_BIG_WRITES | abi.FUSE_DONT_MASK
        | abi.FUSE_FLOCK_LOCKS | abi.FUSE_HAS_IOCTL_DIR | abi.FUSE_AUTO_INVAL_DATA | abi.FUSE_DO_READDIRPLUS
        | abi.FUSE_READDIRPLUS_AUTO | abi.FUSE_PARALLEL_DIROPS | abi.FUSE_POSIX_ACL | abi.FUSE_MAX_PAGES
        | abi.FUSE_CACHE_SYMLINKS
    )  # fmt: skip
    major, minor, readahead, flags, background, congestion, max_write, gran, pages, *rest = abi.fuse_init_out.unpack(
        reply
    )
    assert (major, minor, readahead, flags) == (7, 31, 0x20000, agreed.flags)
    assert (background, congestion, max_write, gran, pages) == (50, 37, 1 << 20, 1, 256)
    assert rest == [0, 0, 0, 0] and len(reply) == 64


def test_init_with_flags2() -> None:
    offered = abi.FUSE_INIT_EXT | abi.FUSE_PASSTHROUGH | abi.FUSE_MAX_PAGES
    body = abi.fuse_init_in_ext.pack(7, 60, 1 << 20, offered & 0xFFFFFFFF, offered >> 32)
    init = abi.fuse_in_header.pack(104, 26, 2, 0, 0, 0, 0, 0, 0) + body
    assert read_init(init) == (7, 60, 1 << 20, offered)
    agreed, reply = negotiate(init, SessionConfig(passthrough_depth=1))
    assert agreed.flags == offered and agreed.minor == abi.FUSE_KERNEL_MINOR_VERSION
    assert abi.fuse_init_out.unpack(reply)[10:12] == (abi.FUSE_PASSTHROUGH >> 32, 1)


def test_init_of_a_too_old_kernel() -> None:
    with pytest.raises(UnsupportedKernel, match=r"7\.30"):
        negotiate(INIT_5_4[:44] + b"\x1e" + INIT_5_4[45:], SessionConfig())


def test_list_for_the_docs() -> None:
    lines = opcodes.listing().splitlines()
    assert len(lines) == len(opcodes.ROWS)
    assert [line.split()[1] for line in lines if line.endswith("ENOSYS")] == ["BMAP", "POLL", "STATX"]


def test_a_wait_for_a_lock_makes_room_for_a_reader() -> None:
    """At the bound nobody reads; a request that turns out to wait for a lock no longer counts, so somebody must."""
    hold = threading.Event()
    pool = Pool(lambda worker: hold.wait(10) and None, SessionConfig(max_threads=2), 4096)
    pool.start()
    for _ in range(2):
        leader = pool.leader
        assert leader is not None
        pool.hand_over(leader)
    assert pool.leader is None and pool.threads == 2
    assert pool.begin_lock_wait(Caller(0, 0, 1))
    assert pool.leader is not None and pool.threads == 3
    hold.set()
    pool.stop()
    pool.join()


@pytest.mark.parametrize("room", [0, 31, 32, 40, 4096, 65536])
def test_many_entries_at_once_are_those_one_by_one(room: int) -> None:
    """Same bytes, and the reply is full at the same entry."""
    rng = random.Random(room)
    names = [rng.randbytes(rng.choice((1, 7, 8, 9, 16, 200, 255))).replace(b"\0", b"x") for _ in range(400)]
    inos = [rng.randrange(1, 1 << 64) for _ in names]
    types = [rng.choice((stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO)) for _ in names]
    for plus in (False, True):
        one_by_one, together = reply.Listing(room, plus), reply.Listing(room, plus)
        took = 0
        while took < len(names) and one_by_one.add(names[took], inos[took], types[took], 77 + took):
            took += 1
        rows = slice(0, together.at_most)
        assert together.add_all(names[rows], inos[rows], types[rows], 77) == took
        assert together.payload == one_by_one.payload
        assert together.at_most <= (room - len(together.payload)) // 32


@pytest.mark.parametrize("room", [0, 159, 160, 400, 4096, 65536])
def test_many_entries_with_attributes_at_once_are_those_one_by_one(room: int) -> None:
    rng = random.Random(room)
    names = [rng.randbytes(rng.choice((1, 7, 8, 9, 16, 200, 255))).replace(b"\0", b"x") for _ in range(400)]
    kinds = [rng.choice((stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)) for _ in names]
    stats = [
        Stat(*[rng.getrandbits(64) for _ in range(3)], *[rng.getrandbits(63) for _ in range(3)],
             *[rng.getrandbits(32) for _ in range(3)], kind | 0o640, *[rng.getrandbits(32) for _ in range(5)])
        for kind in kinds
    ]  # fmt: skip
    valid = [rng.choice(((1.0, 0.5), (0.25, 3600.0), (0.0, 0.0))) for _ in names]
    for plus in (False, True):
        one_by_one, together = reply.Listing(room, plus), reply.Listing(room, plus)
        took = 0
        while took < len(names) and one_by_one.add_plus(names[took], Entry(stats[took], *valid[took]), 77 + took):
            took += 1
        rows = slice(0, together.at_most)
        columns = [column[rows] for column in zip(*stats, strict=True)]
        assert together.add_all_plus(names[rows], columns, valid[rows], 77) == took
        assert together.payload == one_by_one.payload
        assert together.add_all_plus([], [()] * len(Stat._fields), [], 1) == 0
