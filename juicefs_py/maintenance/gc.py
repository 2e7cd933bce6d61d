"""Finding objects that no slice explains, and deleting them. Not what else `gc` cleans (`cleanup`).

What makes a deletion safe. A slice's objects are stored before the metadata that names it is committed, so an object
without a slice may be one that is about to get it; nothing in the object or in the metadata tells the two apart. A
writer commits within seconds, minutes at the most; after an hour (`youngest`) it will not any more, and numbers of
slices come once. So an object is garbage if it is old and a look at the metadata that *began after it was listed*
finds no slice for it. Hence three steps, each of which must be complete, or nothing is garbage:

1. Read what slices there are, so that most objects are explained when they are listed.
2. List the objects. Old ones that nothing explains are suspects; their names go to the temporary database.
3. If there are suspects, look at the metadata again, for them alone: at what refers to slices, then at what is counted
   as referred to. What has turned up since is no garbage. The others are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import chain

from chunkstore.bucket import Bucket, ObjectInfo
from chunkstore.errors import NotFound, StoreError
from chunkstore.naming import Block, parse
from juicefs_py.cli.progress import Progress
from juicefs_py.maintenance.columns import column
from juicefs_py.maintenance.objects import list_blocks, patiently
from juicefs_py.maintenance.parallel import results
from juicefs_py.maintenance.slices import HIGHEST_ID, SliceTable, counted, referred, temporary_database
from meta.client import MetaClient

log = logging.getLogger(__name__)

_TOGETHER = 100  # objects that one request deletes, where a storage can do that

_SCHEMA = """
CREATE TABLE suspect(key TEXT, bytes INT, id INT, indx INT, size INT);
CREATE TABLE wanted(id INTEGER PRIMARY KEY);
CREATE TABLE leaked(key TEXT);
"""


class ObjectScan:
    """One comparison of all objects with all slices: `learn`, `run`; then `leaked_keys` tells what is garbage."""

    def __init__(self, meta: MetaClient, bucket: Bucket, block_size: int, youngest: float, progress: Progress) -> None:
        """`youngest`: objects written after that moment (Unix seconds) are left alone."""
        self._meta = meta
        self._bucket = bucket
        self._block_size = block_size
        self._youngest = youngest
        self._db = temporary_database(_SCHEMA)
        self._slices = SliceTable()
        self._listed = progress.spinner("Listed slices")
        self.scanned = progress.bar("Scanned objects", 0)
        self.valid = column(progress, "Valid")
        self.pending = column(progress, "Pending delete")
        self.compacted = column(progress, "Compacted")
        self.leaked = column(progress, "Leaked")
        self.skipped = column(progress, "Skipped")
        self._columns = (self.valid, self.compacted, self.pending)  # by the kind of the slice

    def close(self) -> None:
        self._slices.close()
        self._db.close()

    def learn(self) -> tuple[int, int]:
        """Read what slices there are: how many, and their bytes."""
        self._slices.add(referred(self._meta, self._listed.advance))
        self.scanned.total = self._slices.blocks(self._block_size)
        return self._slices.used()

    def run(self) -> None:
        """Sort all objects into the columns. Raises `StoreError` or `MetaError` if any part could not be read."""
        for info in list_blocks(self._bucket):
            self.scanned.advance()
            known = self._dated(info)
            if known is None or known.mtime > self._youngest:
                self.skipped.add(info.size)
                continue
            block = _block(known.key)
            kind = self._slices.explain(block, self._block_size) if block is not None else None
            if kind is None:
                self._suspect(known, block)
            else:
                self._columns[kind].add(known.size)
        self.scanned.total = self.scanned.count
        self._look_again()

    def _dated(self, info: ObjectInfo) -> ObjectInfo | None:
        """The object with its age, which not all storages list; None if it is not to be had."""
        if info.mtime:
            return info
        try:
            return patiently(lambda: self._bucket.head(info.key))
        except NotFound:
            return None
        except StoreError as error:
            log.warning("head %s: %s", info.key, error)
            return None

    def _suspect(self, info: ObjectInfo, block: Block | None) -> None:
        self._db.execute("INSERT INTO suspect VALUES(?, ?, ?, ?, ?)", (info.key, info.size, *(block or (None,) * 3)))

    def _look_again(self) -> None:
        """Find out what explains the suspects by now, and sort them as well."""
        self._db.execute("INSERT OR IGNORE INTO wanted SELECT id FROM suspect WHERE id IS NOT NULL")
        (wanted,) = self._db.execute("SELECT count(*) FROM wanted").fetchone()
        slices = SliceTable()
        try:
            if wanted:
                slices.add(self._of_suspects(chain(referred(self._meta), counted(self._meta))))
            for key, size, *fields in self._db.execute("SELECT * FROM suspect"):
                block = Block(*fields) if fields[0] is not None else None
                kind = slices.explain(block, self._block_size) if block is not None else None
                if kind is None:
                    log.debug("find leaked object: %s, size: %d", key, size)
                    self.leaked.add(size)
                    self._db.execute("INSERT INTO leaked VALUES(?)", (key,))
                else:
                    self._columns[kind].add(size)
        finally:
            slices.close()

    def _of_suspects(self, references: Iterable[tuple[int, int, int]]) -> Iterator[tuple[int, int, int]]:
        is_wanted = "SELECT 1 FROM wanted WHERE id = ?"
        return (each for each in references if self._db.execute(is_wanted, each[:1]).fetchone())

    def leaked_keys(self) -> Iterator[list[str]]:
        """Keys of garbage, some at a time."""
        rows = self._db.execute("SELECT key FROM leaked")
        while keys := [key for (key,) in rows.fetchmany(_TOGETHER)]:
            yield keys


def delete_leaked(bucket: Bucket, scan: ObjectScan, threads: int) -> None:
    """Delete the garbage that a scan has found. What fails is logged, and found again by the next one."""

    def delete(keys: list[str]) -> dict[str, Exception]:
        try:
            return bucket.delete_many(keys)
        except StoreError as error:
            return dict.fromkeys(keys, error)

    for failed in results(delete, scan.leaked_keys(), threads):
        for key, error in failed.items():
            log.warning("delete %s: %s", key, error)


def _block(key: str) -> Block | None:
    """The block that a key names; None if it names none that could be."""
    block = parse(key)
    return block if block is not None and max(block) <= HIGHEST_ID else None
