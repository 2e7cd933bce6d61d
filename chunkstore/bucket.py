"""What an object storage offers to a volume: the `Bucket` interface.

Not an implementation: those are in `chunkstore.buckets`. Keys are text, plain paths such as
`myjfs/chunks/0/0/1_0_4194304`; every operation may be repeated without harm. Methods may be called from many threads
at once and raise `chunkstore.errors.StoreError`. A bucket does not retry by itself and must bound the time of every
single request. Uploads are retried by `chunkstore.transfer`, reads of files by whoever reads, who can look for newer
slices; a compaction, a warm-up or a deletion that fails is reported, and is done again when it is next asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

from chunkstore.errors import Unsupported

Data: TypeAlias = bytes | bytearray | memoryview

LIST_PAGE = 1000  # the page size that every S3-like service grants


class Tier(NamedTuple):
    """What the objects of one tier are stored as; empty is what the storage does by itself."""

    storage_class: str = ""
    tag: str = ""  # key=value


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach a storage, besides its address. Secrets in clear, and so never shown."""

    access_key: str = ""
    secret_key: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    tiers: Mapping[int, Tier] = field(default_factory=dict)
    connections: int = 64  # requests at once
    connect_timeout_s: float = 10.0
    timeout_s: float = 60.0  # without any progress
    block_size: int = 0  # bytes of the largest object that is read whole; 0: unknown
    sum_unit: int = 0  # bytes per part sum of an object (`chunkstore.sums`); 0: nobody reads parts

    def tier(self, number: int) -> Tier:
        """The tier of that number; an unknown one is tier 0."""
        return self.tiers.get(number) or self.tiers.get(0) or Tier()


class ObjectInfo(NamedTuple):
    """One listed object."""

    key: str
    size: int
    mtime: float  # seconds since the epoch
    is_dir: bool = False  # a directory of a file-like store, or a common prefix; its key ends with "/"
    storage_class: str = ""  # as `head` tells it, where the storage has classes


class Listing(NamedTuple):
    """One page of a listing, in bytewise order of keys. `more`: there are keys after the last one of this page."""

    objects: list[ObjectInfo]
    more: bool


class Bucket(Protocol):
    """A flat space of immutable objects."""

    @property
    def has_classes(self) -> bool:
        """Whether tiers make a difference here."""
        return False

    def describe(self) -> str:
        """Its address for people, secrets left out, such as `file:///var/jfs/myjfs/`."""
        ...

    def put(self, key: str, data: Data, tier: int = 0) -> None:
        """Store an object whole, or not at all. An existing one is replaced. `tier` chooses a storage class."""
        ...

    def get_into(self, key: str, offset: int, view: memoryview) -> int:
        """Fill `view` with the object's bytes from `offset` on; returns how many there were (fewer at its end)."""
        ...

    def get(self, key: str, offset: int = 0, length: int = -1) -> bytes:
        """At most `length` bytes from `offset` on; everything to the end when `length` is negative."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there counts as removed."""
        ...

    def head(self, key: str) -> ObjectInfo:
        """What is known of one object; `NotFound` if it is not there."""
        ...

    def list(self, prefix: str = "", after: str = "", limit: int = LIST_PAGE, delimiter: str = "") -> Listing:
        """Objects whose keys begin with `prefix` and sort after `after`.

        With a delimiter "/", keys that hold it behind the prefix are folded into one directory entry each.
        """
        ...

    def delete_many(self, keys: Iterable[str]) -> dict[str, Exception]:
        """Remove many objects; returns what could not be removed, and why."""
        failed: dict[str, Exception] = {}
        for key in keys:
            try:
                self.delete(key)
            except Exception as error:  # each key's trouble is reported, whatever the driver raised
                failed[key] = error
        return failed

    def list_all(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        """Every object under `prefix` after `after`, page by page, in bytewise order."""
        while True:
            objects, more = self.list(prefix, after)
            yield from objects
            if not more or not objects:
                return
            after = objects[-1].key

    def copy(self, target: str, source: str, tier: int = 0) -> None:
        """Copy an object inside of the storage, without moving its bytes through this machine."""
        raise Unsupported(f"{self.describe()} cannot copy objects")

    def thaw(self, key: str, days: int) -> bool:
        """Ask for an archived object to be readable for some days, in minutes or hours. False if it is not archived."""
        raise Unsupported(f"{self.describe()} cannot restore archived objects")

    def create(self) -> None:
        """Create the bucket itself, if it is not there."""
        return

    def sync(self) -> None:
        """Return when everything put before this call survives a loss of power. Remote ones promise that in `put`."""
        return

    def close(self) -> None:
        """Give up connections. The bucket is not used afterwards."""
        return


class Part(NamedTuple):
    """One uploaded part of a multipart upload."""

    number: int  # from 1
    etag: str
    size: int


@runtime_checkable
class Multipart(Protocol):
    """What buckets that take large objects in parts offer besides; test with isinstance."""

    min_part_size: int

    def start_upload(self, key: str, tier: int = 0) -> str:
        """Begin; returns the upload's id."""
        ...

    def upload_part(self, key: str, upload_id: str, number: int, data: Data) -> Part: ...

    def complete_upload(self, key: str, upload_id: str, parts: Iterable[Part]) -> None: ...

    def abort_upload(self, key: str, upload_id: str) -> None: ...
