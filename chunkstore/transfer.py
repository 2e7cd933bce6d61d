"""Blocks to and from the bucket: compression, limits, retries, and the rule that wrong bytes never pass.

Not who asks for them when: that is `chunkstore.writer` and `chunkstore.fetch`.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

from chunkstore.bucket import Bucket, Data
from chunkstore.buffers import BufferPool, Page
from chunkstore.compress import Codec, new_codec
from chunkstore.config import StoreConfig
from chunkstore.errors import Cancelled, Damaged, NotFound, StoreError
from chunkstore.gate import Gate
from chunkstore.limit import RateLimit
from chunkstore.metrics import Counters
from chunkstore.naming import Block

log = logging.getLogger(__name__)

_PAUSE_POLL_S = 0.25
_GET_RETRIES = 2
_GET_PAUSE_S = 0.1

_T = TypeVar("_T")


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
    uploads: Gate = field(init=False)
    downloads: Gate = field(init=False)

    def __post_init__(self) -> None:
        config = self.config
        self.codec = new_codec(config.compress)
        self.upload_limit = RateLimit(config.upload_limit)
        self.download_limit = RateLimit(config.download_limit)
        self.uploads = Gate(config.max_uploads)
        self.downloads = Gate(config.max_downloads)

    @property
    def seekable(self) -> bool:
        """Whether a part of a block can be fetched alone."""
        return self.codec is None

    def key(self, block: Block) -> str:
        return block.key(self.config.hash_prefix)

    # upload

    def upload(
        self,
        block: Block,
        data: memoryview,
        tier: int,
        given_up: threading.Event | None = None,
        first: int = 0,
        attempts: int = 0,
    ) -> None:
        """Put a block, trying again after 1, 4, 9 ... seconds, as often as `max_retries` says; at least one attempt.

        `first` counts the attempts that were made before (`upload_at_once`); `attempts` is another bound for all.
        """
        last = attempts - 1 if attempts else self.config.max_retries
        stored = self._stored(data)
        with self._counted_as_uploading():
            for attempt in count(first):
                if not self._pause(attempt * attempt, given_up):
                    raise Cancelled(f"upload of {self.key(block)} was given up")
                self.upload_limit.wait(len(stored), given_up or self.closing)
                while not self.uploads.enter(_PAUSE_POLL_S):
                    if self.closing.is_set() or (given_up and given_up.is_set()):
                        raise Cancelled(f"upload of {self.key(block)} was given up")
                failure = self._put(block, stored, tier, attempt, last)
                if failure is None:
                    return
                if attempt and not attempts:  # one alone is not worth a word, and who bounds them has words of its own
                    log.warning("%s; tried %d times of %d", failure, attempt + 1, last + 1)

    def upload_at_once(self, block: Block, data: memoryview, tier: int) -> int | None:
        """Put a block by a single attempt without any waiting, for callers who must not be held up by retries.

        None when that has worked, else what `upload` is to be given as `first`.
        """
        if self.upload_limit.limited:
            return 0
        with self._counted_as_uploading():
            stored = self._stored(data)
            if not self.uploads.enter(0):
                return 0
            return None if self._put(block, stored, tier, 0, self.config.max_retries) is None else 1

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

    def _put(self, block: Block, stored: Data, tier: int, attempt: int, last: int) -> StoreError | None:
        """One attempt, from within the gate, which it leaves. A failure is returned if another may help, or raised."""
        start = time.monotonic()
        failure: BaseException | None = None
        bucket = self.bucket
        try:
            bucket.put(self.key(block), stored, tier)
            if bucket is not self.bucket:  # replaced meanwhile: nobody syncs the old one any more
                bucket.sync()
        except StoreError as error:
            failure = error
            self.counters.add(object_request_errors=1)
            if error.final or attempt >= last:
                raise
            return error
        except BaseException as error:
            failure = error
            raise
        finally:
            self.uploads.leave(failure)
        self.counters.request("PUT", time.monotonic() - start, len(stored))
        return None

    def _counted_as_uploading(self) -> _Uploading:
        return _Uploading(self.counters)

    def sync(self) -> None:
        """Return when every block uploaded before this call survives a loss of power."""
        self.bucket.sync()

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
        stored = self._tried_again(lambda: self._get(block))
        self.download_limit.wait(len(stored), self.closing)
        try:
            self.codec.decompress(stored, view)
        except Damaged as error:
            raise Damaged(f"{self.bucket.describe()}{self.key(block)}: {error}") from None
        return None

    def download_range(self, block: Block, offset: int, view: memoryview) -> None:
        """A part of an uncompressed block into `view`."""
        self.download_limit.wait(len(view), self.closing)
        self._tried_again(lambda: self._get_into(block, offset, view))

    def _tried_again(self, request: Callable[[], _T]) -> _T:
        """What a GET brings. One that fails is made again soon, twice at most.

        Whoever reads a file tries for much longer, and looks for newer slices meanwhile; but a warm-up, a compaction or
        a prefetch has nobody behind it, and a single lost connection should not end them.
        """
        for attempt in count(1):
            start = time.monotonic()
            try:
                with self.downloads.pass_through(self.config.get_timeout_s, self.closing):
                    return request()
            except StoreError as error:
                self.counters.add(object_request_errors=1)
                slow = time.monotonic() - start >= self.config.get_timeout_s / 2
                if error.final or slow or attempt > min(_GET_RETRIES, self.config.max_retries):
                    raise
            if self.closing.wait(random.uniform(0.5, 1.0) * _GET_PAUSE_S * 4 ** (attempt - 1)):
                raise Cancelled("the store is closing")
        raise AssertionError("count() has no end")

    def _get_into(self, block: Block, offset: int, view: memoryview) -> None:
        start = time.monotonic()
        got = self.bucket.get_into(self.key(block), offset, view)
        self.counters.request("GET", time.monotonic() - start, got)
        if got != len(view):
            raise Damaged(
                f"{self.bucket.describe()}{self.key(block)} is too short: "
                f"{got} of {len(view)} bytes at offset {offset} were there"
            )

    def _get(self, block: Block) -> bytes:
        assert self.codec is not None
        start = time.monotonic()
        stored = self.bucket.get(self.key(block), 0, self.codec.bound(block.size))
        self.counters.request("GET", time.monotonic() - start, len(stored))
        return stored


class _Uploading:
    """Counts an upload while it goes on."""

    __slots__ = ("_counters",)

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    def __enter__(self) -> None:
        self._counters.add(object_request_uploading=1)

    def __exit__(self, *_: object) -> None:
        self._counters.add(object_request_uploading=-1)
