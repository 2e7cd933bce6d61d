"""Finding inodes: by name, by path, the entries of a directory, and the paths that lead to an inode.

Nothing is changed here, so these rules take a `Reader`: the engine's own, or a transaction.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterator
from operator import itemgetter

from meta.attr import Attr
from meta.errors import Refused
from meta.rules.access import EXECUTE, READ, require
from meta.rules.context import Volume
from meta.rules.directory import searchable
from meta.transaction import Cursor, DirItem, DirPage, Reader
from meta.types import MAX_NAME, ROOT, TRASH, TRASH_NAME, Caller

PAGE = 4096  # entries listed at a time
_REMEMBERED = 8  # pages; where a name can come twice, the second time follows closely


def lookup(reader: Reader, vol: Volume, caller: Caller, parent: int, name: bytes) -> tuple[int, Attr]:
    """The inode under a name. An entry whose inode record is missing is answered with its type alone."""
    if name in (b".", b".."):
        return _dots(reader, vol, caller, parent, name)
    if len(name) > MAX_NAME:
        raise Refused(errno.ENAMETOOLONG)
    if not caller.checked:
        searchable(reader, caller, parent)
    if parent == ROOT and vol.root == ROOT and name == TRASH_NAME:
        return TRASH, _attr(reader, TRASH)
    found = reader.target(parent, name)
    if found is None:
        raise Refused(errno.ENOENT)
    entry, attr = found
    return entry.ino, attr or Attr(entry.type)


def _dots(reader: Reader, vol: Volume, caller: Caller, parent: int, name: bytes) -> tuple[int, Attr]:
    directory = searchable(reader, caller, parent)
    if name == b".." and parent != vol.root:
        return directory.parent, _attr(reader, directory.parent)
    return parent, directory


def _attr(reader: Reader, ino: int) -> Attr:
    attr = reader.attr(ino)
    if attr is None:
        raise Refused(errno.ENOENT)
    return attr


def resolve(reader: Reader, vol: Volume, caller: Caller, start: int, path: bytes) -> tuple[int, Attr]:
    """Walk a path from the directory `start` (from the client's root, if the path begins with a slash).

    Symlinks are not followed: one in the middle is ENOTDIR.
    """
    ino = vol.root if path.startswith(b"/") else start
    attr = _attr(reader, ino)
    names = [name for name in path.split(b"/") if name]
    plain = ino != ROOT or names[:1] != [TRASH_NAME]
    if plain and not any(name in (b".", b"..") or len(name) > MAX_NAME for name in names):
        return _descend(reader, caller, ino, attr, names)
    for name in names:
        if not attr.is_dir:
            raise Refused(errno.ENOTDIR)
        ino, attr = lookup(reader, vol, caller, ino, name)
    return ino, attr


def _descend(reader: Reader, caller: Caller, ino: int, attr: Attr, names: list[bytes]) -> tuple[int, Attr]:
    """Follow ordinary names, all read at once, with the checks that `lookup` makes at each."""
    found = reader.targets(ino, names) if names else []
    for at in range(len(names)):
        if not attr.is_dir:
            raise Refused(errno.ENOTDIR)
        require(reader, caller, attr, EXECUTE)
        if at == len(found):
            raise Refused(errno.ENOENT)
        entry, record = found[at]
        ino, attr = entry.ino, record or Attr(entry.type)
    return ino, attr


def list_dir(
    reader: Reader, vol: Volume, caller: Caller, ino: int, plus: bool, cursor: Cursor = None, limit: int = -1
) -> DirPage:
    """Entries of a directory from `cursor` on, without "." and ".."; with attributes if `plus`."""
    if not caller.checked:
        attr = _attr(reader, ino)
        if not attr.is_dir:
            raise Refused(errno.ENOTDIR)
        require(reader, caller, attr, READ | EXECUTE if plus else READ)
    page = reader.list_entries(ino, plus=plus, cursor=cursor, limit=limit)
    if all(map(itemgetter(0), page.items)):
        return page
    return page._replace(items=[item for item in page.items if item.name])


def entries(reader: Reader, ino: int, *, plus: bool = False) -> Iterator[list[DirItem]]:
    """All entries of a directory once, page by page. Entries that come or go meanwhile may be seen or not.

    An engine whose cursors are no names may list one again: where a table was cut down under it, it goes back by a slot
    of the new table, which is less than a page.
    """
    cursor: Cursor = None
    seen: deque[set[bytes]] = deque(maxlen=_REMEMBERED)
    while True:
        items, cursor = reader.list_entries(ino, plus=plus, cursor=cursor, limit=PAGE)
        if seen:
            items = [item for item in items if not any(item.name in names for names in seen)]
        if isinstance(cursor, int):
            seen.append({item.name for item in items})
        if items:
            yield items
        if cursor is None:
            return


def paths(reader: Reader, vol: Volume, ino: int) -> list[bytes]:
    """Every path from the client's root to an inode: one for each link; none if it lies outside."""
    if ino == vol.root:
        return [b"/"]
    if ino == TRASH:
        return [b"/" + TRASH_NAME] if vol.root == ROOT else []
    attr = reader.attr(ino)
    if attr is None:
        return []
    found = []
    known: dict[int, bytes | None] = {}
    for parent in [attr.parent] if attr.parent else reader.parents(ino):
        above = _path(reader, vol, parent, known)
        if above is not None:
            found += [above + b"/" + name for name in _names(reader, parent, ino)]
    return found


def _path(reader: Reader, vol: Volume, ino: int, known: dict[int, bytes | None]) -> bytes | None:
    """The path of a directory ("" is the client's root), None if it lies outside. `known` keeps what was found."""
    known[vol.root] = b""
    known[TRASH] = b"/" + TRASH_NAME if vol.root == ROOT else None
    climbed: list[tuple[int, bytes]] = []
    while ino not in known:
        known[ino] = None  # what a circle in a damaged volume finds
        attr = reader.attr(ino)
        name = next(iter(_names(reader, attr.parent, ino)), None) if attr is not None and ino != ROOT else None
        if attr is None or name is None:
            break
        climbed.append((ino, name))
        ino = attr.parent
    path = known[ino]
    for below, name in reversed(climbed):
        path = known[below] = None if path is None else path + b"/" + name
    return path


def _names(reader: Reader, parent: int, ino: int) -> list[bytes]:
    return [item.name for page in entries(reader, parent) for item in page if item.ino == ino]
