"""Files and trees in storage tiers: their objects copied onto themselves in another class, or asked out of an archive.

Not what a tier is (the setting), nor which class new objects get (the buckets). What is interrupted may be run again:
a file counts as moved only when all its objects are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import NamedTuple

from chunkstore.errors import StoreError
from chunkstore.naming import blocks_of
from juicefs_py.cli.errors import Fatal
from juicefs_py.maintenance.objects import patiently
from juicefs_py.maintenance.opening import Opened
from juicefs_py.maintenance.parallel import results
from meta.errors import MetaError
from meta.rules.lookup import entries
from meta.rules.setattr import Changes
from meta.rules.waiting import Directories
from meta.slices import decode_slices
from meta.types import DIRECTORY, FILE, SET_TIER, SUPERUSER

log = logging.getLogger(__name__)

THREADS = 10


class File(NamedTuple):
    """A file to work on."""

    ino: int
    length: int
    tier: int


class Tiering:
    """One action on objects, over a file or a tree. `act` is given each object's key."""

    def __init__(self, volume: Opened, act: Callable[[str], object], tier: int | None, force: bool) -> None:
        self._volume = volume
        self._act = act
        self._tier = tier  # that inodes get afterwards
        self._force = force
        self.files = 0

    def file(self, file: File) -> None:
        """Work on one file, on several objects at a time."""
        if self._due(file):
            for _ in results(lambda key: self._apply(file.ino, key), self._keys(file), THREADS):
                pass
            self._mark(file.ino)
            self.files += 1

    def tree(self, top: int, recursive: bool) -> None:
        """Work on a directory, with all files in it if `recursive`: several of them at a time."""
        if self._tier is None or recursive:
            for done in results(self._one, self._files(top, recursive), THREADS):
                self.files += done
        self._mark(top)

    def _one(self, file: File) -> bool:
        if not self._due(file):
            return False
        for key in self._keys(file):
            self._apply(file.ino, key)
        self._mark(file.ino)
        return True

    def _due(self, file: File) -> bool:
        return self._tier is None or self._force or file.tier != self._tier

    def _files(self, top: int, recursive: bool) -> Iterator[File]:
        """The files below a directory; directories are marked on the way, so that new files are born in the tier."""
        with Directories(top) as waiting:
            while (directory := waiting.pop()) is not None:
                if directory != top:
                    self._mark(directory)
                for page in entries(self._volume.meta.reader, directory, plus=True):
                    if recursive:
                        waiting.add(item.ino for item in page if item.type == DIRECTORY)
                    for item in page:
                        if item.type == FILE and item.attr is not None:
                            yield File(item.ino, item.attr.length, item.attr.tier)

    def _keys(self, file: File) -> Iterator[str]:
        """Every object of a file's slices; one that several records refer to may come again."""
        config = self._volume.store.config
        for records in self._volume.meta.reader.chunks(file.ino, file.length).values():
            slices = dict.fromkeys((record.id, record.size) for record in decode_slices(records) if record.id)
            for slice_id, size in slices:
                for block in blocks_of(slice_id, size, config.block_size):
                    yield block.key(config.hash_prefix)

    def _apply(self, ino: int, key: str) -> None:
        try:
            patiently(lambda: self._act(key))
        except StoreError as error:
            raise Fatal(f"apply object action failed in inode:{ino} key:{key}: err:{error}") from None

    def _mark(self, ino: int) -> None:
        if self._tier is None:
            return
        try:
            self._volume.meta.setattr(SUPERUSER, ino, Changes(SET_TIER, tier=self._tier))
        except MetaError as error:
            raise Fatal(f"set tier for inode {ino} failed: {error}") from None


def changing(volume: Opened, tier: int, force: bool) -> Tiering:
    """Move to a tier. Objects that have its class already are left alone, unless `force`."""
    bucket = volume.bucket
    wanted = volume.meta.setting.tiers[tier]

    def act(key: str) -> None:
        same = wanted.storage_class and bucket.head(key).storage_class == wanted.storage_class
        if force or not same or wanted.tag:
            bucket.copy(key, key, tier)

    if bucket.has_classes:
        return Tiering(volume, act, tier, force)
    log.warning("%s has no storage classes: only the tier in the metadata is set", bucket.describe())
    return Tiering(volume, lambda key: None, tier, force)


def thawing(volume: Opened, days: int) -> Tiering:
    """Ask for archived objects to be readable for some days."""
    return Tiering(volume, lambda key: volume.bucket.thaw(key, days), None, True)
