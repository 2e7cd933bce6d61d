"""Slices of one file that are written but not yet committed, and which of them takes the next write.

Not here: uploads, commits, locks (`juicefs_py.data.writer`). Plain state, changed under the lock of its `FileWriter`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from juicefs_py.data.ports import BlockWriter
from meta.types import CHUNK_SHIFT

MAX_LIFE_S = 5.0  # older slices are committed, so that other clients see the data
IDLE_S = 1.0  # a slice that is at least this old and was not touched for as long is committed
OPEN_PER_CHUNK = 4  # only this many of the newest slices of a chunk take writes


class PendingSlice:
    """A contiguous run of bytes inside one chunk. `frozen`: takes no more writes."""

    __slots__ = ("blocks", "born", "frozen", "id", "indx", "length", "mtime_ns", "off", "seq", "touched")

    def __init__(self, seq: int, indx: int, off: int, slice_id: int, blocks: BlockWriter, now: float) -> None:
        self.seq = seq  # position in the file's order of commits
        self.indx = indx
        self.off = off  # inside the chunk
        self.id = slice_id
        self.blocks = blocks
        self.length = 0
        self.frozen = False
        self.born = self.touched = now  # time.monotonic()
        self.mtime_ns = 0

    def __repr__(self) -> str:
        return f"PendingSlice(id={self.id}, chunk={self.indx}, off={self.off}, length={self.length})"

    @property
    def start(self) -> int:
        """Offset in the file."""
        return (self.indx << CHUNK_SHIFT) + self.off

    @property
    def end(self) -> int:
        return (self.indx << CHUNK_SHIFT) + self.off + self.length

    def takes(self, pos: int, block_size: int) -> bool:
        """Whether a write at `pos` of the chunk may go here: an append, or inside the block that is not full yet."""
        fixed = self.length - self.length % block_size
        return self.off + fixed <= pos <= self.off + self.length

    def due(self, now: float) -> bool:
        """Whether the slice should be committed without being asked."""
        age = now - self.born
        return age > MAX_LIFE_S or (age > IDLE_S and now - self.touched > IDLE_S)


class PendingSlices:
    """The uncommitted slices of a file in the order in which they will be committed, which is that of their creation.

    One order for all chunks: a later slice may overlay an earlier one, and a commit that grows the file must not
    overtake the one that grew it before (others would see a hole that was never there).
    """

    __slots__ = ("_by_chunk", "_queue", "block_size", "end", "next_seq")

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.next_seq = 0
        self.end = 0  # largest offset behind any pending byte
        self._queue: deque[PendingSlice] = deque()
        self._by_chunk: dict[int, list[PendingSlice]] = {}

    def __len__(self) -> int:
        return len(self._queue)

    def __iter__(self) -> Iterator[PendingSlice]:
        return iter(self._queue)

    @property
    def first(self) -> PendingSlice:
        return self._queue[0]

    @property
    def last(self) -> PendingSlice:
        return self._queue[-1]

    def find(self, indx: int, pos: int, size: int) -> tuple[PendingSlice | None, list[PendingSlice]]:
        """The slice that takes a write of `size` bytes at `pos` of a chunk, and slices to freeze as passed by.

        From the newest to the oldest, because a write may not go below a slice that it overlaps.
        """
        passed: list[PendingSlice] = []
        for depth, item in enumerate(reversed(self._by_chunk.get(indx, ()))):
            if not item.frozen:
                if item.takes(pos, self.block_size):
                    return item, passed
                if depth >= OPEN_PER_CHUNK:
                    passed.append(item)
            if pos < item.off + item.length and item.off < pos + size:
                break
        return None, passed

    def add(self, indx: int, off: int, slice_id: int, blocks: BlockWriter, now: float) -> PendingSlice:
        """A new slice at the end of the order."""
        item = PendingSlice(self.next_seq, indx, off, slice_id, blocks, now)
        self.next_seq += 1
        self._queue.append(item)
        self._by_chunk.setdefault(indx, []).append(item)
        return item

    def wrote(self, item: PendingSlice, pos: int, size: int, now: float, mtime_ns: int) -> None:
        """Bytes went to `pos` of the chunk of `item`."""
        item.length = max(item.length, pos - item.off + size)
        item.touched = now
        item.mtime_ns = mtime_ns
        self.end = max(self.end, item.end)

    def pop_first(self) -> None:
        """The first slice is committed or given up."""
        item = self._queue.popleft()
        rest = self._by_chunk[item.indx]
        rest.remove(item)
        if not rest:
            del self._by_chunk[item.indx]
        if not self._queue:
            self.end = 0

    def overlaps(self, off: int, size: int) -> bool:
        """Whether any pending byte lies in a range of the file."""
        last = off + size - 1 >> CHUNK_SHIFT
        for indx in range(off >> CHUNK_SHIFT, last + 1):
            for item in self._by_chunk.get(indx, ()):
                if item.start < off + size and off < item.end:
                    return True
        return False
