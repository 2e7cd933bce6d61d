"""Is a volume whole? Its database read as it is (SQLite, or Redis copied into the same tables), and its objects as
files, without a line of our client.

Not here: repair. `check_volume` fails with everything that it has found; a volume must not be mounted meanwhile.
"""

from __future__ import annotations

import json
import re
import sqlite3
import struct
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import redis
from mounts import Volume

RECORD = struct.Struct(">IQIII")  # position in the chunk, slice id, size of the slice, offset and length of the part
CHUNK = 64 << 20
FILE, DIRECTORY, SYMLINK = 1, 2, 3
ROOT, TRASH = 1, 0x7FFF_FFFF_1000_0000


def check_volume(volume: Volume, *, but: str = "", tidy: bool = False) -> None:
    """Fail unless names, inodes, slices and objects of the volume fit together; `but`: faults of another client.

    `tidy`: nor may there be an object that nothing explains. A client that was killed may leave some.
    """
    with closing(_database(volume)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        problems = [*names_and_inodes(database), *slices_and_references(database), *objects(database, volume)]
        if tidy:
            problems += leftovers(database, volume)
    if but:
        problems = [problem for problem in problems if not re.search(but, problem)]
    shown = "\n".join(problems[:40])
    assert not problems, f"{len(problems)} faults in {volume.directory}:\n{shown}"


def _database(volume: Volume) -> sqlite3.Connection:
    if volume.engine != "redis":
        return sqlite3.connect(volume.directory / "meta.db")
    database = sqlite3.connect(":memory:")
    database.executescript(TABLES)
    with closing(redis.Redis.from_url(volume.url)) as server:
        for table, rows in _records(server).items():
            database.executemany(f"INSERT INTO {table} VALUES ({','.join('?' * len(rows[0]))})", rows)
    return database


TABLES = """
CREATE TABLE jfs_node(inode, type, nlink, length);
CREATE TABLE jfs_edge(parent, name, inode, type);
CREATE TABLE jfs_symlink(inode);
CREATE TABLE jfs_chunk(inode, indx, slices);
CREATE TABLE jfs_chunk_ref(chunkid, size, refs);
CREATE TABLE jfs_delslices(slices);
CREATE TABLE jfs_sustained(inode);
CREATE TABLE jfs_detached_node(inode);
CREATE TABLE jfs_delfile(inode);
CREATE TABLE jfs_setting(name, value);
"""


def _records(server: redis.Redis) -> dict[str, list[tuple[object, ...]]]:
    """Rows for the tables above from the keys of a volume. Redis keeps one reference less, and none for the first."""
    rows: dict[str, list[tuple[object, ...]]] = defaultdict(list)
    used: set[tuple[int, int]] = set()
    for key in set(server.scan_iter(count=10_000)):
        match = re.fullmatch(rb"([a-z]+)(\d+)(?:_(\d+))?", key)
        if match is None:
            continue
        kind, number, rest = match.groups()
        if kind == b"i":
            record = server.get(key)
            nlink, length = struct.unpack_from(">IQ", record, 47)
            rows["jfs_node"].append((int(number), record[1] >> 4, nlink, length))
        elif kind == b"d":
            for name, entry in server.hgetall(key).items():
                rows["jfs_edge"].append((int(number), name, int.from_bytes(entry[1:], "big"), entry[0]))
        elif kind == b"s":
            rows["jfs_symlink"].append((int(number),))
        elif kind == b"c" and rest:
            blob = b"".join(server.lrange(key, 0, -1))
            rows["jfs_chunk"].append((int(number), int(rest), blob))
            used |= {(record[1], record[2]) for record in RECORD.iter_unpack(blob)}
        elif kind == b"session":
            rows["jfs_sustained"] += [(int(member),) for member in server.smembers(key)]
    rows["jfs_detached_node"] = [(int(member),) for member in server.zrange("detachedNodes", 0, -1)]
    rows["jfs_delfile"] = [(int(member.split(b":")[0]),) for member in server.zrange("delfiles", 0, -1)]
    rows["jfs_delslices"] = [(blob,) for blob in server.hvals("delSlices")]
    used |= {item for (blob,) in rows["jfs_delslices"] for item in struct.iter_unpack(">QI", blob)}
    counted = {
        tuple(map(int, key[1:].split(b"_"))): int(count) + 1 for key, count in server.hgetall("sliceRef").items()
    }
    rows["jfs_chunk_ref"] = [
        (*item, counted.get(item, 1)) for item in used | counted.keys() if item[0]  # slice 0: zeros
    ]  # fmt: skip
    rows["jfs_setting"] = [("format", server.get("setting"))]
    return {table: found for table, found in rows.items() if found}


def names_and_inodes(database: sqlite3.Connection) -> Iterator[str]:
    """Every name has its inode, every inode a name (or a session that holds it open), and link counts are true."""
    nodes = {row[0]: row[1:] for row in database.execute("SELECT inode, type, nlink, length FROM jfs_node")}
    held = {row[0] for row in database.execute("SELECT inode FROM jfs_sustained")}
    held |= {row[0] for row in database.execute("SELECT inode FROM jfs_detached_node")}
    links: Counter[int] = Counter()
    folders: Counter[int] = Counter()
    for parent, name, inode, kind in database.execute("SELECT parent, name, inode, type FROM jfs_edge"):
        links[inode] += 1
        folders[parent] += kind == DIRECTORY
        if inode not in nodes:
            yield f"name {name!r} in {parent} points to inode {inode}, which is not there"
        elif nodes[inode][0] != kind:
            yield f"name {name!r} in {parent} has type {kind}, its inode {inode} {nodes[inode][0]}"
        if parent not in nodes or nodes[parent][0] != DIRECTORY:
            yield f"name {name!r} lies in {parent}, which is no directory"
    for inode, (kind, nlink, _length) in nodes.items():
        if inode == ROOT or inode >= TRASH:
            continue
        if not links[inode] and inode not in held:
            yield f"inode {inode} (type {kind}) has no name"
        wanted = 2 + folders[inode] if kind == DIRECTORY else links[inode]
        if nlink != wanted:
            yield f"inode {inode} (type {kind}): link count {nlink}, should be {wanted}"
        if kind == DIRECTORY and links[inode] > 1:
            yield f"directory {inode} has {links[inode]} names"
    targets = {row[0] for row in database.execute("SELECT inode FROM jfs_symlink")}
    for inode, (kind, _nlink, _length) in nodes.items():
        if (kind == SYMLINK) != (inode in targets):
            yield f"inode {inode} (type {kind}): symlink target {'missing' if kind == SYMLINK else 'left behind'}"


def slices_and_references(database: sqlite3.Connection) -> Iterator[str]:
    """Chunks belong to files (living or being deleted); references count what refers."""
    files = {row[0] for row in database.execute("SELECT inode FROM jfs_node WHERE type = ?", (FILE,))}
    files |= {row[0] for row in database.execute("SELECT inode FROM jfs_delfile")}
    used: Counter[int] = Counter()
    sizes: dict[int, set[int]] = defaultdict(set)
    for inode, index, blob in database.execute("SELECT inode, indx, slices FROM jfs_chunk"):
        if inode not in files:
            yield f"chunk {index} belongs to inode {inode}, which is not there"
        if len(blob) % RECORD.size:
            yield f"chunk {index} of {inode}: {len(blob)} bytes are no whole number of records"
            continue
        for position, slice_id, size, offset, length in RECORD.iter_unpack(blob):
            if position + length > CHUNK or (slice_id and offset + length > size):
                yield f"chunk {index} of {inode}: record {(position, slice_id, size, offset, length)} is out of bounds"
            if slice_id:
                used[slice_id] += 1
                sizes[slice_id].add(size)
    counted = {row[0]: row[1:] for row in database.execute("SELECT chunkid, size, refs FROM jfs_chunk_ref")}
    delayed = Counter(slice_id for slice_id, _size in delayed_slices(database).elements())
    for slice_id in used.keys() | counted.keys():
        size, refs = counted.get(slice_id, (None, 0))
        if (refs > 0 and refs != used[slice_id] + delayed[slice_id]) or refs <= 0 < used[slice_id]:
            yield f"slice {slice_id}: {refs} references counted, {used[slice_id]} + {delayed[slice_id]} found"
        if sizes[slice_id] - {size}:
            yield f"slice {slice_id}: size {size} counted, {sizes[slice_id]} in records"


def delayed_slices(database: sqlite3.Connection) -> Counter[tuple[int, int]]:
    """References held by slices that wait in the trash (id and size)."""
    waiting: Counter[tuple[int, int]] = Counter()
    for (blob,) in database.execute("SELECT slices FROM jfs_delslices"):
        waiting.update(struct.iter_unpack(">QI", blob))
    return waiting


def objects(database: sqlite3.Connection, volume: Volume) -> Iterator[str]:
    """Every block that a record of a file needs is an object; uncompressed ones have the right length."""
    (text,) = database.execute("SELECT value FROM jfs_setting WHERE name = 'format'").fetchone()
    setting = json.loads(text)
    block = setting["BlockSize"] << 10
    root = volume.bucket / volume.name
    for inode, index, blob in database.execute("SELECT inode, indx, slices FROM jfs_chunk"):
        for _position, slice_id, size, offset, length in RECORD.iter_unpack(blob):
            if not slice_id or not length:
                continue
            for number in range(offset // block, (offset + length - 1) // block + 1):
                length_of_block = min(block, size - number * block)
                path = object_path(root, slice_id, number, length_of_block, setting.get("HashPrefix", False))
                if not path.exists():
                    yield f"inode {inode}, chunk {index}: object {path.name} is not there"
                elif not setting.get("Compression") and path.stat().st_size != length_of_block:
                    yield f"inode {inode}, chunk {index}: object {path.name} has {path.stat().st_size} bytes"


def leftovers(database: sqlite3.Connection, volume: Volume) -> Iterator[str]:
    """Objects of slices that no record refers to, and that do not wait to be deleted either."""
    (text,) = database.execute("SELECT value FROM jfs_setting WHERE name = 'format'").fetchone()
    block = json.loads(text)["BlockSize"] << 10
    slices = {
        record[1:3]
        for (blob,) in database.execute("SELECT slices FROM jfs_chunk")
        for record in RECORD.iter_unpack(blob)
    }
    slices |= delayed_slices(database).keys()
    slices |= set(database.execute("SELECT chunkid, size FROM jfs_chunk_ref WHERE refs <= 0"))
    wanted = {
        f"{number}_{k}_{min(block, size - k * block)}" for number, size in slices for k in range(-(-size // block))
    }
    for path in (volume.bucket / volume.name / "chunks").rglob("*_*_*"):
        if path.name not in wanted:
            yield f"object {path.name} belongs to nothing"


def object_path(root: Path, slice_id: int, number: int, size: int, hashed: bool) -> Path:
    """Where a block lies in a bucket of files."""
    million = str(slice_id // 1_000_000)
    folder = Path(f"{slice_id % 256:02X}", million) if hashed else Path(million, str(slice_id // 1000))
    return root / "chunks" / folder / f"{slice_id}_{number}_{size}"
