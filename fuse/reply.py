"""Results of operations turned into reply payloads: one function per reply kind.

Not here: the reply header (session) and the decisions which kind an opcode has (opcodes). A payload is `bytes`, or a
list of buffers that is gathered by writev without copying.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Sequence
from itertools import chain, repeat

from fuse import abi
from fuse.operations import Buffer, Entry, FileLock, Opened, Stat, StatFs

Payload = bytes | list[Buffer]

_pack_entry = abi.fuse_entry_out.pack
_pack_attr = abi.fuse_attr_out.pack
_pack_create = abi.fuse_create_out.pack
_pack_plus = abi.fuse_direntplus.pack
_pack_dirent = abi.fuse_dirent.pack
_PADDING = tuple(b"\0" * (-length % 8) for length in range(8))
_LONGEST_NAME = 1024  # that the kernel takes
_NAMED = tuple(  # an entry with its name and the padding, by the length of the name
    struct.Struct(f"{abi.fuse_dirent.format}{length + (-length & 7)}s") for length in range(_LONGEST_NAME + 1)
)
_PACK_NAMED = tuple(each.pack for each in _NAMED)
_RECORD_SIZE = tuple(each.size for each in _NAMED)
_PLUS_SIZE = tuple(abi.fuse_entry_out.size + each.size for each in _NAMED)
_GENERATION = Entry._field_defaults["generation"]
_UNKNOWN = bytes(abi.fuse_entry_out.size)  # before an entry without attributes


def nothing(_: None) -> bytes:
    """Only a header."""
    return b""


def entry(result: Entry) -> bytes:
    stat, entry_valid, attr_valid, generation, node = result
    return _pack_entry(node or stat[0], generation, *_validity(entry_valid, attr_valid), *stat)


def _validity(entry_s: float, attr_s: float) -> tuple[int, int, int, int]:
    """Seconds of both, then nanoseconds of both."""
    entry_whole, attr_whole = int(entry_s), int(attr_s)
    return entry_whole, attr_whole, int((entry_s - entry_whole) * 1e9), int((attr_s - attr_whole) * 1e9)


def attr(result: tuple[Stat, float]) -> bytes:
    stat, valid = result
    seconds = int(valid)
    return _pack_attr(seconds, int((valid - seconds) * 1e9), *stat)


def opened(result: Opened) -> bytes:
    return abi.fuse_open_out.pack(*result)


def created(result: tuple[Entry, Opened]) -> bytes:
    return entry(result[0]) + abi.fuse_open_out.pack(*result[1])


def data(result: Buffer | Sequence[Buffer]) -> Payload:
    """Bytes as they are: one buffer or several."""
    if isinstance(result, bytes | bytearray | memoryview):
        return [result]
    return list(result)


def raw(result: bytes) -> bytes:
    return result


def written(result: int) -> bytes:
    return abi.fuse_write_out.pack(result)


def statfs(result: StatFs) -> bytes:
    return abi.fuse_statfs_out.pack(*result)


def lock(result: FileLock) -> bytes:
    return abi.fuse_lk_out.pack(*result)


def ioctl(result: tuple[int, bytes]) -> Payload:
    return [abi.fuse_ioctl_out.pack(result[0], 0, 0, 0), result[1]]


def offset(result: int) -> bytes:
    return abi.fuse_lseek_out.pack(result)


def copied(result: int) -> bytes:
    return abi.fuse_copy_file_range_out.pack(result)


def sized(value: bytes, size: int) -> bytes:
    """An xattr answer: the length alone when `size` is 0, the value when it fits, else ERANGE."""
    if size == 0:
        return abi.fuse_getxattr_out.pack(len(value))
    if len(value) > size:
        raise OSError(errno.ERANGE, "extended attribute does not fit the caller's buffer")
    return value


class Listing:
    """A directory reply under construction: the DirSink that READDIR and READDIRPLUS fill.

    `plus` says which of the two it is. In a READDIRPLUS reply a plain `add` becomes an entry without attributes (node
    id 0), which the kernel lists without caching anything about it.
    """

    __slots__ = ("_plus", "_room", "_sizes", "_times", "_valid", "payload")

    def __init__(self, size: int, plus: bool) -> None:
        self.payload = bytearray()
        self._room = size
        self._plus = plus
        self._sizes = _PLUS_SIZE if plus else _RECORD_SIZE  # by the length of the name
        self._valid = (0.0, 0.0)  # of the last entry, and the same as the kernel wants it
        self._times = (0, 0, 0, 0)

    def add(self, name: bytes, ino: int, file_type: int, next_offset: int) -> bool:
        if self._plus:
            none = (0,) * 22
            return self._append(_pack_plus(*none, ino, next_offset, len(name), file_type >> 12), name)
        return self._append(_pack_dirent(ino, next_offset, len(name), file_type >> 12), name)

    def add_plus(self, name: bytes, entry: Entry, next_offset: int) -> bool:
        stat, entry_valid, attr_valid, generation, node = entry
        if not self._plus:
            return self.add(name, stat.ino, stat.mode, next_offset)
        if self._valid != (entry_valid, attr_valid):
            self._valid, self._times = (entry_valid, attr_valid), _validity(entry_valid, attr_valid)
        ino = stat[0]
        return self._append(
            _pack_plus(
                node or ino, generation, *self._times, *stat, ino, next_offset, len(name), (stat[9] & 0o170000) >> 12
            ),
            name,
        )

    def _append(self, record: bytes, name: bytes) -> bool:
        whole = record + name + _PADDING[len(name) & 7]
        if len(whole) > self._room:
            return False
        self._room -= len(whole)
        self.payload += whole
        return True

    @property
    def at_most(self) -> int:
        return self._room // self._sizes[1]

    def add_all(self, names: Sequence[bytes], inos: Sequence[int], types: Sequence[int], next_offset: int) -> int:
        return self._append_all(names, inos, types, next_offset, repeat(_UNKNOWN))

    def add_all_plus(
        self, names: Sequence[bytes], stats: Sequence[Sequence[int]], valid: Sequence[tuple[float, float]],
        next_offset: int,
    ) -> int:  # fmt: skip
        known = {pair: _validity(*pair) for pair in set(valid)}
        times = zip(*map(known.__getitem__, valid), strict=True)
        heads = map(_pack_entry, stats[0], repeat(_GENERATION), *times, *stats)
        return self._append_all(names, stats[0], stats[9], next_offset, heads)

    def _append_all(
        self, names: Sequence[bytes], inos: Sequence[int], modes: Sequence[int], next_offset: int,
        heads: Iterable[bytes],
    ) -> int:  # fmt: skip
        """As many entries as there is room for; `heads` stand before those of READDIRPLUS."""
        sizes, records, room, offset = self._sizes, [], self._room, next_offset
        for name, ino, mode in zip(names, inos, modes, strict=True):
            length = len(name)
            room -= sizes[length]
            if room < 0:
                break
            records.append(_PACK_NAMED[length](ino, offset, length, mode >> 12, name))
            offset += 1
        whole = b"".join(chain.from_iterable(zip(heads, records, strict=False)) if self._plus else records)
        self.payload += whole
        self._room -= len(whole)
        return offset - next_offset
