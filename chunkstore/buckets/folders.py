"""What buckets on a tree of directories have in common: listings in bytewise order, one directory after the other.

Not the reading of one directory: a driver answers `_found` with the help of `walk`. Nor pages, which are `listing`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from typing import TypeVar

from chunkstore.bucket import LIST_PAGE, Bucket, Listing, ObjectInfo
from chunkstore.buckets.listing import fold
from chunkstore.errors import BadBucket

Entry = TypeVar("Entry")


class FolderBucket(Bucket):
    """Listings and copies for drivers whose keys are paths of files."""

    def _found(self, prefix: str, after: str, deep: bool) -> Iterator[ObjectInfo]:
        """Files whose keys begin with `prefix`, sorted; unless `deep`, directories stand for what is in them."""
        raise NotImplementedError

    def list(self, prefix: str = "", after: str = "", limit: int = LIST_PAGE, delimiter: str = "") -> Listing:
        if delimiter not in ("", "/"):
            raise BadBucket(f"{self.describe()} cannot list with the delimiter {delimiter!r}")
        return fold(self._found(prefix, after, deep=not delimiter), prefix, after, limit, delimiter)

    def list_all(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        return (info for info in self._found(prefix, after, deep=True) if info.key > after)

    def copy(self, target: str, source: str, tier: int = 0) -> None:
        self.put(target, self.get(source), tier)


def walk(
    read: Callable[[str], Iterable[tuple[str, Entry]]], prefix: str, after: str, deep: bool
) -> Iterator[tuple[str, Entry]]:
    """Paths that begin with `prefix`, in bytewise order, each with what `read` says of it.

    `read` gives the names in a directory (a path that ends with "/", or nothing), those of directories with "/" behind
    them. Unless `deep`, directories stand for what is in them. Those that lie wholly before `after` are not read.
    """
    return _walk(read, prefix[: prefix.rfind("/") + 1], prefix, after, deep)


def _walk(
    read: Callable[[str], Iterable[tuple[str, Entry]]], folder: str, prefix: str, after: str, deep: bool
) -> Iterator[tuple[str, Entry]]:
    for name, entry in sorted(read(folder), key=itemgetter(0)):
        path = folder + name
        if not path.startswith(prefix) and not prefix.startswith(path):
            continue
        if name.endswith("/") and (deep or not path.startswith(prefix)):
            if path > after or after.startswith(path):
                yield from _walk(read, path, prefix, after, deep)
        elif path.startswith(prefix):
            yield path, entry
