"""Pages out of sorted objects: limit, start and delimiter, for stores that have to do it themselves."""

from __future__ import annotations

from collections.abc import Iterable

from chunkstore.bucket import Listing, ObjectInfo


def fold(found: Iterable[ObjectInfo], prefix: str, after: str, limit: int, delimiter: str) -> Listing:
    """The first `limit` of sorted `found` that come after `after`, those behind a delimiter folded into directories."""
    objects: list[ObjectInfo] = []
    last_directory = ""
    for info in found:
        key = info.key
        if delimiter and (cut := key.find(delimiter, len(prefix))) >= 0:
            key = key[: cut + len(delimiter)]
            if key == last_directory:
                continue
            last_directory = key
            if key != info.key:
                info = ObjectInfo(key, 0, info.mtime, is_dir=True)
        if key <= after:
            continue
        if len(objects) == limit:
            return Listing(objects, more=True)
        objects.append(info)
    return Listing(objects, more=False)
