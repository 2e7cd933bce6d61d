"""What the tests of a storage share: an object for the length of a test, and what they raise.

`Doubt` is for what is unusual but can be lived with, `Unsupported` (`chunkstore.errors`) for what the storage does not
offer, anything else for what is wrong.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from chunkstore.bucket import Bucket
from chunkstore.buckets import with_prefix
from chunkstore.errors import NotFound, StoreError
from juicefs_py.objbench.local import LocalFiles

KEY, MISSING_KEY = "put_test_file", "not_exists_file"
DATA = b"hello"


class Wrong(Exception):
    """The storage did something else than was expected."""


class Doubt(Exception):
    """It is unusual, and not everything may work."""


class Cases:
    """Tests over `whole`, all below `prefix`. `files`: the same objects as files, where they are some."""

    def __init__(self, whole: Bucket, prefix: str, files: LocalFiles | None) -> None:
        self.whole = whole
        self.prefix = prefix
        self.bucket = with_prefix(whole, prefix)
        self.files = files

    @contextlib.contextmanager
    def put(self, key: str = KEY, data: bytes = DATA) -> Iterator[None]:
        """An object for the length of a test."""
        try:
            self.bucket.put(key, data)
            yield
        finally:
            with contextlib.suppress(StoreError):
                self.bucket.delete(key)


def ensure(bucket: Bucket) -> None:
    """Create the bucket if nothing can be put into it. Raises StoreError if that does not help."""
    try:
        bucket.put(KEY, b"1")
    except StoreError:
        bucket.create()
        bucket.put(KEY, b"1")
    with contextlib.suppress(StoreError):
        bucket.delete(KEY)


def same(got: object, wanted: object, what: str) -> None:
    """Wrong, with both values, unless they are equal."""
    if got != wanted:
        raise Wrong(f"{what}: {got!r} instead of {wanted!r}")


def right(as_wanted: bool, what: str) -> None:
    """Wrong unless something is as wanted; for values too large to show."""
    if not as_wanted:
        raise Wrong(f"{what} not as expected")


def not_found(call: Callable[[], object], what: str) -> None:
    """The call must say that there is no such object."""
    try:
        call()
    except NotFound:
        return
    except StoreError as error:
        raise Doubt(f"{what}: {error}") from None
    raise Wrong(f"{what} does not fail")
