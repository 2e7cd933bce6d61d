"""Whether every block of every file is there: the slices that files need, held against the objects in the bucket.

Not names and inodes (`fsck_tree`), and not what blocks contain. Slices are read before objects are looked for, because
objects are stored first; and nothing is called lost before its chunk has been read again and still needs it. Only
blocks that a mount with `--writeback` has not uploaded yet look as if they were lost.

A whole volume is checked by one listing, a part of it by asking for each object. What is needed is kept in a temporary
database on disk, so memory does not grow with the volume.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from chunkstore.bucket import Bucket, ObjectInfo
from chunkstore.errors import NotFound
from chunkstore.naming import Block, blocks_of, parse
from juicefs_py.cli.progress import Progress
from juicefs_py.maintenance.columns import column
from juicefs_py.maintenance.names import shown
from juicefs_py.maintenance.objects import BLOCKS, list_blocks, patiently
from juicefs_py.maintenance.parallel import results
from juicefs_py.maintenance.slices import HIGHEST_ID, fits, slices_of, temporary_database
from meta.client import MetaClient

log = logging.getLogger(__name__)

_THREADS = 20  # requests for single objects

_SCHEMA = """
CREATE TABLE need(id INT, size INT, ino INT, indx INT, PRIMARY KEY(id, size, ino, indx)) WITHOUT ROWID;
CREATE TABLE whole(id INT, size INT, PRIMARY KEY(id, size)) WITHOUT ROWID;
CREATE TABLE broken(ino INTEGER PRIMARY KEY, path TEXT);
"""

Chunk = tuple[int, int, bytes]
"""Inode, index and records."""


class Look(NamedTuple):
    """What there is of a slice in the bucket, and what is not, with the reason."""

    slice_id: int
    size: int
    found: list[int]  # sizes of objects
    missing: list[tuple[Block, str]]


class BlockCheck:
    """One check. Say what is needed (`need`), then `find` it all by a listing if it is the whole volume, then `check`.

    The methods belong to one thread.
    """

    def __init__(self, meta: MetaClient, bucket: Bucket, block_size: int, progress: Progress) -> None:
        setting = meta.setting
        self._meta = meta
        self._bucket = bucket
        self._block_size = block_size
        self._hash_prefix = setting.hash_prefix
        self._exact = setting.compression.lower() in ("", "none") and not setting.encrypt_key
        self._db = temporary_database(_SCHEMA)
        self._listed = progress.spinner("Listed slices")
        self.found = column(progress, "Found", "blocks")
        self._scanned = progress.bar("Scanned slices", 0)
        self.lost = column(progress, "Lost", "blocks")
        self._by_listing = False

    def close(self) -> None:
        self._db.close()

    def need(self, chunks: Iterable[Chunk]) -> None:
        """These chunks are to be readable."""
        rows = ((*each, ino, indx) for ino, indx, records in chunks for each in slices_of(ino, indx, records))
        self._db.executemany("INSERT OR IGNORE INTO need VALUES(?, ?, ?, ?)", self._counted(rows))

    def _counted(self, rows: Iterable[tuple[int, ...]]) -> Iterator[tuple[int, ...]]:
        for row in rows:
            self._listed.advance()
            yield row

    def need_all(self) -> None:
        """Every chunk of the volume is to be readable."""
        self.need(self._meta.engine.list_slices())
        self._meta.reload()  # raises if the volume has gone: a database that was taken away reads as an empty one

    def used(self) -> tuple[int, int]:
        """How many slices are needed, and their bytes."""
        query = "SELECT count(*), coalesce(sum(size), 0) FROM (SELECT DISTINCT id, size FROM need)"
        count, size = self._db.execute(query).fetchone()
        return int(count), int(size)

    def find(self) -> None:
        """List all objects, and note which slices are whole."""
        self._by_listing = True
        self._scanned.total = self.used()[0]
        for slice_id, blocks in groupby(self._stored_blocks(), lambda block: block.slice_id):
            there = list(blocks)
            for (size,) in self._db.execute("SELECT DISTINCT size FROM need WHERE id = ?", (slice_id,)).fetchall():
                count = sum(fits(block, size, self._block_size) for block in there)
                if count == -(-size // self._block_size):
                    self._db.execute("INSERT OR IGNORE INTO whole VALUES(?, ?)", (slice_id, size))
                    self._scanned.advance()

    def _stored_blocks(self) -> Iterator[Block]:
        """The blocks that lie where readers look for them. Those of one slice come one after the other."""
        for info in list_blocks(self._bucket):
            self.found.add(info.size)
            block = parse(info.key)
            if block is None or max(block) > HIGHEST_ID or info.key != self._key(block):
                continue
            if self._flaw(block, info) is None:
                yield block

    def _key(self, block: Block) -> str:
        return block.key(self._hash_prefix)

    def _flaw(self, block: Block, info: ObjectInfo) -> str | None:
        """What is wrong with a stored block, as far as its size tells."""
        least = block.size if self._exact else 1
        return None if info.size >= least else f"the object has {info.size} bytes, and not {block.size}"

    def check(self) -> None:
        """Ask for all objects of the slices that are not known to be whole; log those that are lost."""
        self._scanned.total = self.used()[0]
        for look in results(self._look, self._doubtful(), _THREADS):
            self._scanned.advance()
            if not self._by_listing:
                for size in look.found:
                    self.found.add(size)
            if look.missing:
                self._settle(look)

    def _doubtful(self) -> Iterator[tuple[int, int]]:
        return self._db.execute(
            "SELECT DISTINCT id, size FROM need n WHERE NOT EXISTS"
            " (SELECT 1 FROM whole w WHERE w.id = n.id AND w.size = n.size)"
        )

    def _look(self, needed: tuple[int, int]) -> Look:
        """In one of the threads."""
        look = Look(*needed, [], [])
        for block in blocks_of(*needed, self._block_size):
            key = self._key(block)
            try:
                info = patiently(lambda: self._bucket.head(key))  # noqa: B023 - called at once
            except NotFound as error:
                look.missing.append((block, str(error)))
                continue
            flaw = self._flaw(block, info)
            if flaw is None:
                look.found.append(info.size)
            else:
                look.missing.append((block, flaw))
        return look

    def _settle(self, look: Look) -> None:
        """Missing blocks are lost if a file still needs the slice: it may have been deleted or compacted meanwhile."""
        users = self._db.execute(
            "SELECT ino, indx FROM need WHERE id = ? AND size = ?", (look.slice_id, look.size)
        ).fetchall()
        broken = {ino for ino, indx in users if self._still_needs(ino, indx, look.slice_id)}
        for ino in sorted(broken):
            path = self._path(ino)
            for block, reason in look.missing:
                log.error("can't find block %s for file %s: %s", self._key(block).removeprefix(BLOCKS), path, reason)
        if broken:
            for block, _ in look.missing:
                self.lost.add(block.size)

    def _still_needs(self, ino: int, indx: int, slice_id: int) -> bool:
        """A chunk whose file is gone is only waiting to be deleted."""
        reader = self._meta.reader
        if reader.attr(ino) is None:
            return False
        return any(each == slice_id for each, _ in slices_of(ino, indx, reader.chunk(ino, indx)))

    def _path(self, ino: int) -> str:
        """A path of a broken file, which is remembered as broken."""
        row = self._db.execute("SELECT path FROM broken WHERE ino = ?", (ino,)).fetchone()
        if row is None:
            paths = self._meta.paths(ino)
            row = (shown(paths[0]) if paths else f"inode:{ino}",)
            self._db.execute("INSERT INTO broken VALUES(?, ?)", (ino, *row))
        return str(row[0])

    def verdict(self) -> str:
        """What is lost and in which files, for people and scripts; empty if nothing is."""
        if not self.lost.objects.count:
            return ""
        files = [f"{ino:13}: {path}" for ino, path in self._db.execute("SELECT ino, path FROM broken ORDER BY ino")]
        lost = f"{self.lost.objects.count} objects are lost ({self.lost.data.count} bytes)"
        return "\n".join([f"{lost}, {len(files)} broken files:", f"{'INODE':>13}: PATH", *files])
