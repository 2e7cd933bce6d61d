"""Blocks to and from the bucket: compression, limits, retries, and the rule that wrong bytes never pass.

Not who asks for them when: that is `chunkstore.writer` and `chunkstore.fetch`.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from itertools import count

from chunkstore.bucket import Bucket, Data
from chunkstore.buffers import BufferPool, Page
from chunkstore.compress import Codec, new_codec
from chunkstore.config import StoreConfig
from chunkstore.errors import Cancelled, Damaged, NotFound, StoreError, Timeout
from chunkstore.limit import RateLimit
from chunkstore.metrics import Counters
from chunkstore.naming import Block

log = logging.getLogger(__name__)

_PAUSE_POLL_S = 0.25


@dataclass(slots=True)
class Transfer:
    """The way between pages and objects. One for a store."""

    bucket: Bucket
    config: StoreConfig
    pool: BufferPool
    counters: Counters
    closing: threading.Event = field(default_factory=threading.Event)
    codec: Codec | None = field(init=False)
    upload_limit: RateLimit = field(init=False)
    download_limit: RateLimit = field(init=False)
    _uploads: threading.Semaphore = field(init=False)
    _downloads: threading.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        config = self.config
        self.codec = new_codec(config.compress)
        self.upload_limit = RateLimit(config.upload_limit)
        self.download_limit = RateLimit(config.download_limit)
        self._uploads = threading.Semaphore(config.max_uploads)
        self._downloads = threading.Semaphore(config.max_downloads)

    @property
    def seekable(self) -> bool:
        """Whether a part of a block can be fetched alone."""
        return self.codec is None

    def key(self, block: Block) -> str:
        return block.key(self.config.hash_prefix)

    # upload

    def upload(
        self, block: Block, data: memoryview, tier: int, given_up: threading.Event | None = None, first: int = 0
    ) -> None:  # fmt: skip
        """Put a block, trying again after 1, 4, 9 ... seconds, as often as `max_retries` says; at least one attempt.

        `first` counts the attempts that were made before (`upload_at_once`).
        """
        stored = self._stored(data)
        with self._uploads, self._counted_as_uploading():
            for attempt in count(first):
                if not self._pause(attempt * attempt, given_up):
                    raise Cancelled(f"upload of {self.key(block)} was given up")
                self.upload_limit.wait(len(stored), given_up or self.closing)
                if self._put(block, stored, tier, attempt):
                    return

    def upload_at_once(self, block: Block, data: memoryview, tier: int) -> int | None:
        """Put a block by a single attempt without any waiting, for callers who must not be held up by retries.

        None when that has worked, else what `upload` is to be given as `first`.
        """
        if self.upload_limit.limited or not self._uploads.acquire(blocking=False):
            return 0
        try:
            with self._counted_as_uploading():
                return None if self._put(block, self._stored(data), tier, 0) else 1
        finally:
            self._uploads.release()

    def _stored(self, data: memoryview) -> Data:
        return self.codec.compress(data) if self.codec is not None else data

    def _pause(self, seconds: float, given_up: threading.Event | None) -> bool:
        """Sleep before another attempt. False when nobody wants it any more, or the store closes meanwhile."""
        deadline = time.monotonic() + seconds
        while not (given_up and given_up.is_set()):
            left = deadline - time.monotonic()
            if left <= 0:
                return True
            if self.closing.wait(min(left, _PAUSE_POLL_S)):
                return False
        return False

    def _put(self, block: Block, stored: Data, tier: int, attempt: int) -> bool:
        """One attempt. False if it failed and another may help; raises if not, or if this was the last."""
        start = time.monotonic()
        try:
            self.bucket.put(self.key(block), stored, tier)
        except StoreError as error:
            self.counters.add(object_request_errors=1)
            if error.final or attempt >= self.config.max_retries:
                raise
            if attempt:  # one failure alone is not worth a word
                log.warning("%s; tried %d times of %d", error, attempt + 1, self.config.max_retries + 1)
            return False
        self.counters.request("PUT", time.monotonic() - start, len(stored))
        return True

    def _counted_as_uploading(self) -> _Uploading:
        return _Uploading(self.counters)

    def delete(self, blocks: list[Block]) -> None:
        """Remove objects; those that are not there count as removed. Tries all, then raises the first other failure."""
        start = time.monotonic()
        failed = self.bucket.delete_many([self.key(block) for block in blocks])
        self.counters.request("DELETE", time.monotonic() - start)
        errors = [error for error in failed.values() if not isinstance(error, NotFound)]
        if errors:
            self.counters.add(object_request_errors=len(errors))
            raise errors[0]

    # download

    def download(self, block: Block) -> Page:
        """The whole block in a page of its own. `Damaged` when the object is shorter or cannot be decoded."""
        page = self.pool.take(block.size, cancelled=self.closing.is_set)
        try:
            self.download_into(block, page.data)
        except BaseException:
            page.release()
            raise
        return page

    def download_into(self, block: Block, view: memoryview) -> None:
        """The whole block into `view`, which has its size."""
        if self.codec is None:
            return self.download_range(block, 0, view)
        stored = self._get(block, self.codec.bound(block.size))
        self.download_limit.wait(len(stored), self.closing)
        try:
            self.codec.decompress(stored, view)
        except Damaged as error:
            raise Damaged(f"{self.bucket.describe()}{self.key(block)}: {error}") from None

    def download_range(self, block: Block, offset: int, view: memoryview) -> None:
        """A part of an uncompressed block into `view`."""
        self.download_limit.wait(len(view), self.closing)
        start = time.monotonic()
        with self._download_slot():
            try:
                got = self.bucket.get_into(self.key(block), offset, view)
            except StoreError:
                self.counters.add(object_request_errors=1)
                raise
        self.counters.request("GET", time.monotonic() - start, got)
        if got != len(view):
            raise Damaged(
                f"{self.bucket.describe()}{self.key(block)} is too short: "
                f"{got} of {len(view)} bytes at offset {offset} were there"
            )

    def _get(self, block: Block, length: int) -> bytes:
        start = time.monotonic()
        with self._download_slot():
            try:
                stored = self.bucket.get(self.key(block), 0, length)
            except StoreError:
                self.counters.add(object_request_errors=1)
                raise
        self.counters.request("GET", time.monotonic() - start, len(stored))
        return stored

    def _download_slot(self) -> _Slot:
        return _Slot(self._downloads, self.config.get_timeout_s)


class _Slot:
    """A semaphore entered with a timeout."""

    __slots__ = ("_semaphore", "_timeout_s")

    def __init__(self, semaphore: threading.Semaphore, timeout_s: float) -> None:
        self._semaphore = semaphore
        self._timeout_s = timeout_s

    def __enter__(self) -> None:
        if not self._semaphore.acquire(timeout=self._timeout_s):
            raise Timeout(f"no download slot came free in {self._timeout_s:g} s")

    def __exit__(self, *_: object) -> None:
        self._semaphore.release()


class _Uploading:
    """Counts an upload while it goes on."""

    __slots__ = ("_counters",)

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    def __enter__(self) -> None:
        self._counters.add(object_request_uploading=1)

    def __exit__(self, *_: object) -> None:
        self._counters.add(object_request_uploading=-1)
