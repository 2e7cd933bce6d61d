"""A dump in the binary format: segments of records of one kind, and a footer that says where they are.

A segment is its kind (u32, big endian), the length of what follows (u64), and a message; behind the last one the number
0x747083 stands in place of a kind, then the footer, then the footer's length (u64). Records are as in key/value
engines. Written and read as official clients from 1.3 on do, except that entries with several parents always come with
them, and that the gates of background jobs are left out.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import IO, Any, Final, NamedTuple

from meta.attr import Attr
from meta.dump import wire
from meta.dump.copy import COUNTERS, DAMAGE, KINDS, Copy, Progress, _nothing, signed
from meta.dump.to_json import shown
from meta.errors import Corrupt
from meta.setting import Setting

MAGIC: Final = 0x747083
VERSION: Final = 1
_HEAD: Final = struct.Struct(">IQ")
_END: Final = struct.Struct(">I")
_LENGTH: Final = struct.Struct(">Q")
_RECORDS: Final = 4096
_LARGEST: Final = 1 << 30  # of a segment; official ones have a few megabytes


class Kind(NamedTuple):
    """A kind of segment: its number, the field of a batch that holds its records, and what those fields are."""

    number: int
    field: int
    layout: tuple[str, ...]


SEGMENTS: Final = {
    "format": Kind(1, 0, ("b",)),
    "counter": Kind(2, 13, ("b", "i")),
    "node": Kind(3, 1, ("u", "b")),
    "edge": Kind(4, 2, ("u", "u", "b", "u")),
    "chunk": Kind(5, 3, ("u", "u", "b")),
    "sliceRef": Kind(6, 4, ("u", "u", "i")),
    "symlink": Kind(7, 7, ("u", "b")),
    "sustained": Kind(8, 8, ()),
    "delFile": Kind(9, 9, ("u", "u", "i")),
    "xattr": Kind(10, 5, ("u", "b", "b")),
    "acl": Kind(11, 12, ("u", "b")),
    "stat": Kind(12, 10, ("u", "i", "i", "i")),
    "quota": Kind(13, 11, ("u", "i", "i", "i", "i", "u")),
    "parent": Kind(14, 6, ("u", "u", "i")),
    "changeLog": Kind(15, 14, ("i", "b")),
}
_QUOTA_FIELDS: Final = {"dir": 11, "user": 15, "group": 16}
_QUOTA_OF: Final = {field: kind for kind, field in _QUOTA_FIELDS.items()}
_NAME_OF: Final = {kind.number: name for name, kind in SEGMENTS.items()}


# -- writing


def write_binary(copy: Copy, out: IO[bytes], *, keep_secrets: bool = False, progress: Progress = _nothing) -> None:
    """Write all that a copy holds."""
    assert copy.setting is not None
    writer = _Writer(out, progress)
    document = shown(copy.setting, keep_secrets).to_json(2).encode()
    writer.segment("format", wire.message(document), 1)
    for name, records in _records(copy):
        writer.records(name, records)
    writer.end()


def _records(copy: Copy) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Kinds of records in the official order, each as a field of a batch."""

    def rows(name: str, query: str) -> tuple[str, Iterator[bytes]]:
        field = SEGMENTS[name].field
        return name, (wire.item(field, wire.message(*row)) for row in copy.rows(query))

    counters = ((name, copy.row("SELECT value FROM counter WHERE name = ?", name)) for name in COUNTERS)
    yield "counter", (wire.item(13, wire.message(name.encode(), value[0])) for name, value in counters if value)
    yield rows("node", "SELECT ino, data FROM node ORDER BY ino")
    yield rows("edge", "SELECT parent, ino, name, type FROM edge ORDER BY parent, name")
    yield rows("chunk", "SELECT ino, indx, data FROM chunk ORDER BY ino, indx")
    yield rows("sliceRef", "SELECT id, size, n FROM ref WHERE n <> 1 ORDER BY id")
    yield rows("symlink", "SELECT ino, target FROM symlink ORDER BY ino")
    yield "sustained", _sustained(copy)
    yield rows("delFile", "SELECT ino, length, expire FROM deleted ORDER BY ino")
    yield rows("xattr", "SELECT ino, name, value FROM xattr ORDER BY ino, name")
    yield rows("acl", "SELECT id, data FROM acl ORDER BY id")
    yield rows("stat", "SELECT ino, length, space, inodes FROM stat ORDER BY ino")
    yield "quota", _quotas(copy)
    yield rows(
        "parent",
        "SELECT e.ino, e.parent, count(*) FROM edge e JOIN node n USING (ino)"
        f" WHERE n.parent = 0 AND n.type <> {2} GROUP BY e.ino, e.parent",
    )


def _sustained(copy: Copy) -> Iterator[bytes]:
    for (sid,) in list(copy.rows("SELECT DISTINCT sid FROM sustained ORDER BY sid")):
        inos = b"".join(wire.number(ino) for (ino,) in copy.rows("SELECT ino FROM sustained WHERE sid = ?", sid))
        yield wire.item(8, wire.message(sid, inos))


def _quotas(copy: Copy) -> Iterator[bytes]:
    for number, kind in enumerate(KINDS):
        query = "SELECT key, max_space, max_inodes, used_space, used_inodes FROM quota WHERE kind = ? ORDER BY key"
        for row in copy.rows(query, kind):
            yield wire.item(_QUOTA_FIELDS[kind], wire.message(*row, number))


class _Writer:
    """Segments one behind the other, and where they are."""

    def __init__(self, out: IO[bytes], progress: Progress) -> None:
        self._out = out
        self._at = 0
        self._progress = progress
        self._infos: dict[str, tuple[list[int], int]] = {}

    def records(self, name: str, items: Iterator[bytes]) -> None:
        """Records of a kind, in segments of a bounded size."""
        self._infos.setdefault(name, ([], 0))
        while batch := list(islice(items, _RECORDS)):
            self.segment(name, b"".join(batch), len(batch))

    def segment(self, name: str, payload: bytes, count: int) -> None:
        offsets, known = self._infos.get(name, ([], 0))
        self._infos[name] = ([*offsets, self._at], known + count)
        self._write(_HEAD.pack(SEGMENTS[name].number, len(payload)) + payload)
        self._progress(name, count)

    def end(self) -> None:
        infos = b"".join(
            wire.item(3, wire.message(name.encode(), self._info(offsets, count)))
            for name, (offsets, count) in self._infos.items()
        )
        footer = wire.message(MAGIC, VERSION) + infos
        self._write(_END.pack(MAGIC) + footer + _LENGTH.pack(len(footer)))

    @staticmethod
    def _info(offsets: Iterable[int], count: int) -> bytes:
        return wire.field(1, b"".join(map(wire.number, offsets))) + wire.field(2, count)

    def _write(self, data: bytes) -> None:
        self._out.write(data)
        self._at += len(data)


# -- reading


def segments(source: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Kinds and contents of the segments of a dump, in the order of the file. `Corrupt` if it is none, or cut short."""
    while True:
        head = source.read(_END.size)
        if len(head) < _END.size:
            raise Corrupt("not a binary dump, or cut short")
        (kind,) = _END.unpack(head)
        if kind == MAGIC:
            _check_footer(source.read(_LARGEST))
            return
        name = _NAME_OF.get(kind)
        if name is None:
            raise Corrupt(f"not a binary dump: a segment of kind {kind}")
        (length,) = _LENGTH.unpack(_exactly(source, _LENGTH.size))
        if length > _LARGEST:
            raise Corrupt(f"a segment of {length} bytes")
        yield name, _exactly(source, length)


def _check_footer(rest: bytes) -> None:
    """`Corrupt` unless this is a whole footer: only then is the dump complete."""
    if len(rest) < _LENGTH.size or _LENGTH.unpack(rest[-_LENGTH.size :])[0] != len(rest) - _LENGTH.size:
        raise Corrupt("the dump is cut short")


def _exactly(source: IO[bytes], size: int) -> bytes:
    data = source.read(size)
    if len(data) < size:
        raise Corrupt("the dump is cut short")
    return data


def read_binary(source: IO[bytes], copy: Copy, progress: Progress = _nothing) -> None:
    """Read a whole dump. `Corrupt` if it is none, or cut short."""
    try:
        _read(source, copy, progress)
    except DAMAGE as problem:
        raise Corrupt(f"not a binary dump: {type(problem).__name__}: {problem}") from None


def _read(source: IO[bytes], copy: Copy, progress: Progress) -> None:
    for name, payload in segments(source):
        if name == "format":
            (document,) = wire.row(payload, "b")
            assert isinstance(document, bytes)
            copy.setting = Setting.parse(document)
        elif name in _READERS:
            table, read = _READERS[name]
            rows = [read(field, value) for field, value in wire.fields(payload) if isinstance(value, bytes)]
            if table == "node":
                copy.put_nodes(rows)
            else:
                copy.put(table, rows)
            progress(name, len(rows))
        elif name == "sustained":
            copy.put("sustained", (pair for _, value in wire.fields(payload) for pair in _held(value)))
    if copy.setting is None:
        raise Corrupt("not a binary dump: it has no format")
    stored = list(copy.rows("SELECT id, size, n FROM ref"))
    copy.count_references()
    copy.db.executemany("INSERT INTO ref VALUES(?, ?, ?) ON CONFLICT DO UPDATE SET n = excluded.n", stored)
    _remove_held(copy)


def _remove_held(copy: Copy) -> None:
    """Files without a name that somebody had open: nobody has any more. Their data waits for its removal."""
    files = list(
        copy.rows("SELECT DISTINCT ino, length, space, uid, gid FROM sustained JOIN node USING (ino) WHERE nlink = 0")
    )
    now = int(time.time())
    copy.put("deleted", ((ino, length, now) for ino, length, *_ in files))
    for ino, _, space, uid, gid in files:
        copy.db.execute("DELETE FROM node WHERE ino = ?", (ino,))
        copy.db.execute(
            "UPDATE quota SET used_space = used_space - ?, used_inodes = used_inodes - 1"
            " WHERE (kind = 'user' AND key = ?) OR (kind = 'group' AND key = ?)",
            (space, uid, gid),
        )
        copy.db.execute("UPDATE counter SET value = value - ? WHERE name = 'usedSpace'", (space,))
        copy.db.execute("UPDATE counter SET value = value - 1 WHERE name = 'totalInodes'")
    copy.db.execute("DELETE FROM sustained")


def _held(value: int | bytes) -> Iterator[tuple[int, int]]:
    sid, inos = 0, []
    for key, each in wire.fields(value if isinstance(value, bytes) else b""):
        if key == 1 and isinstance(each, int):
            sid = each
        elif isinstance(each, int):
            inos.append(each)
        else:
            inos += wire.numbers(each)
    return ((sid, signed(ino)) for ino in inos)


def _plain(name: str, arrange: Callable[..., Any]) -> Callable[[int, bytes], Any]:
    layout = SEGMENTS[name].layout
    return lambda field, value: arrange(*wire.row(value, *layout))


def _quota(field: int, value: bytes) -> tuple[Any, ...]:
    key, *limits, _ = wire.row(value, *SEGMENTS["quota"].layout)
    assert isinstance(key, int)
    return (_QUOTA_OF.get(field, "dir"), signed(key), *limits)


_READERS: Final[dict[str, tuple[str, Callable[[int, bytes], Any]]]] = {
    "counter": ("counter", _plain("counter", lambda name, value: (name.decode(), value))),
    "node": ("node", _plain("node", lambda ino, data: (ino, Attr.decode(data)))),
    "edge": ("edge", _plain("edge", lambda parent, ino, name, kind: (signed(parent), name, signed(ino), kind))),
    "chunk": ("chunk", _plain("chunk", lambda ino, indx, data: (signed(ino), indx, data))),
    "sliceRef": ("ref", _plain("sliceRef", lambda number, size, n: (signed(number), size, n))),
    "symlink": ("symlink", _plain("symlink", lambda ino, target: (signed(ino), target))),
    "delFile": ("deleted", _plain("delFile", lambda ino, length, expire: (signed(ino), signed(length), expire))),
    "xattr": ("xattr", _plain("xattr", lambda ino, name, value: (signed(ino), name, value))),
    "acl": ("acl", _plain("acl", lambda number, data: (number, data))),
    "stat": ("stat", _plain("stat", lambda ino, *totals: (signed(ino), *totals))),
    "quota": ("quota", _quota),
}


# -- looking at it


def footer(source: IO[bytes]) -> tuple[int, dict[str, tuple[list[int], int]]]:
    """Version of a dump in a file, and for each kind the places of its segments and the number of records."""
    source.seek(-_LENGTH.size, 2)
    (length,) = _LENGTH.unpack(source.read(_LENGTH.size))
    end = source.tell() - _LENGTH.size
    if length > end:
        raise Corrupt("not a binary dump, or cut short")
    source.seek(end - length)
    version, infos = 0, {}
    for key, value in wire.fields(source.read(length)):
        if key == 1 and value != MAGIC:
            raise Corrupt("not a binary dump: wrong magic number")
        if key == 2 and isinstance(value, int):
            version = value
        if key == 3 and isinstance(value, bytes):
            name, info = wire.row(value, "b", "b")
            assert isinstance(name, bytes) and isinstance(info, bytes)
            infos[name.decode()] = _places(info)
    return version, infos


def _places(info: bytes) -> tuple[list[int], int]:
    offsets, count = [], 0
    for key, value in wire.fields(info):
        if key == 2 and isinstance(value, int):
            count = value
        elif isinstance(value, bytes):
            offsets += wire.numbers(value)
        else:
            offsets.append(value)
    return offsets, count
