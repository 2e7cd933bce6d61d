"""What the data path needs of the metadata client and of the chunk store.

Not an implementation: `meta.client.MetaClient` and `chunkstore.store.ChunkStore` fit these interfaces, and so do the
tests' fakes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from chunkstore.buffers import BufferPool
from meta.slices import Piece

Buffer = bytes | bytearray | memoryview


class SliceMeta(Protocol):
    """Slices of files, in the metadata."""

    def new_slice_id(self) -> int: ...

    def write_slice(
        self, ino: int, indx: int, pos: int, slice_id: int, length: int, mtime: tuple[int, int]
    ) -> object: ...

    def read_chunk(self, ino: int, indx: int) -> Sequence[Piece]: ...

    def invalidate_chunk(self, ino: int, indx: int | None) -> None: ...


class BlockWriter(Protocol):
    """One slice on its way to the object store."""

    def set_id(self, slice_id: int) -> None: ...

    def write_at(self, off: int, data: memoryview) -> None:
        """Take bytes, all of them or (if it raises) none."""
        ...

    def flush_to(self, off: int) -> None:
        """Start the upload of every complete block below `off`."""
        ...

    def seal(self, length: int) -> None:
        """Start the upload of everything, the tail included."""
        ...

    def finish(self, length: int, *, give_up: Callable[[], bool] | None = None) -> bool:
        """Return when all blocks are stored; raises `StoreError` if one could not be.

        False if `give_up` said so before: the uploads go on, and it can be called again.
        """
        ...

    def abort(self) -> None:
        """Remove what was uploaded."""
        ...


class BlockStore(Protocol):
    """Blocks of slices, in the object store and its caches."""

    @property
    def buffers(self) -> BufferPool: ...

    def new_writer(self, tier: int = 0) -> BlockWriter: ...

    def read(self, slice_id: int, size: int, off: int, length: int) -> Buffer: ...
