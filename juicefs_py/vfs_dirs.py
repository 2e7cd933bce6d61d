"""Listing directories, page by page, with offsets that stay valid while entries come and go.

Not here: names one by one (`vfs_names`), what an open directory remembers (`dir_handle`). A listing is a sequence of
rows: internal files (in the root), `.`, `..`, then the entries in the engine's order, or by name (`--sort-dir`: an
engine that has no such order then lists all at once). Offsets count rows. A handle keeps the page it is at; the next
page begins at the engine's cursor behind it, so entries removed meanwhile neither shift nor hide others.

Attributes in a page are believed for a second, and not if the inode was changed through this mount since: then the
entry goes out without attributes, and the kernel asks when it needs them. A name removed through this mount is not
listed any more.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Sequence
from stat import S_ISDIR

from fuse.abi import FOPEN_CACHE_DIR, FOPEN_KEEP_CACHE
from fuse.operations import Caller, DirSink, Opened, Stat
from juicefs_py.dir_handle import DirHandle, Page
from juicefs_py.errors import refuse
from juicefs_py.vfs_base import VFSBase, is_special
from juicefs_py.vfs_trace import traced
from meta.errors import Refused
from meta.transaction import Cursor, DirPage
from meta.types import DIRECTORY, ROOT, TRASH, TYPE_TO_MODE

FIRST_PAGE = 256
PAGE = 4096
PLUS_PAGE = 1024  # with attributes; smaller, because those age
BELIEVED_S = 1.0
MODE = Stat._fields.index("mode")
S_IFREG, S_IFDIR = TYPE_TO_MODE[1], TYPE_TO_MODE[DIRECTORY]


class DirOperations(VFSBase):
    """Listings."""

    _open_dirs: dict[int, list[DirHandle]]
    _dirs_lock: threading.Lock

    @traced(lambda result, ino, flags: f"({ino})" + (f" [fh:{result.fh}]" if result else ""))
    def opendir(self, caller: Caller, ino: int, flags: int) -> Opened:
        attr = self.attr(ino)[0]
        if attr.type != DIRECTORY:
            raise refuse(errno.ENOTDIR)
        who = self.who(caller)
        if not who.checked:
            self.meta.access(who, ino, 4)
        fh = self.handles.add(self._new_dir(ino, attr.parent))
        if self.config.readdir_cache and not is_special(ino):
            return Opened(fh, FOPEN_CACHE_DIR | FOPEN_KEEP_CACHE)
        return Opened(fh)

    def _new_dir(self, ino: int, parent: int) -> DirHandle:
        head = [(name, node, S_IFDIR if node == TRASH else S_IFREG) for name, node in self.internal.listing(ino)]
        up = ROOT if ino == ROOT else parent
        handle = DirHandle(ino, [*head, (b".", ino, S_IFDIR), (b"..", up, S_IFDIR)])
        with self._dirs_lock:
            self._open_dirs.setdefault(ino, []).append(handle)
        return handle

    def _dir(self, fh: int, ino: int) -> DirHandle:
        handle = self.handles.other(fh)
        if handle is None and fh & 1:  # of our predecessor, and of as many rows: offsets count them
            with self.reopening:
                handle = self.handles.other(fh)
                if handle is None:
                    handle = self._new_dir(ino, self.attr(ino)[0].parent)
                    self.handles.add(handle, fh)
        if not isinstance(handle, DirHandle) or handle.ino != ino:
            raise refuse(errno.EBADF)
        return handle

    @traced(lambda result, ino, fh, offset, sink: f"({ino},{fh},{offset},false)")
    def readdir(self, caller: Caller, ino: int, fh: int, offset: int, sink: DirSink) -> None:
        self._list(caller, self._dir(fh, ino), offset, sink, plus=False)

    @traced(lambda result, ino, fh, offset, sink: f"({ino},{fh},{offset},true)")
    def readdirplus(self, caller: Caller, ino: int, fh: int, offset: int, sink: DirSink) -> None:
        self._list(caller, self._dir(fh, ino), offset, sink, plus=True)

    def _list(self, caller: Caller, handle: DirHandle, row: int, sink: DirSink, plus: bool) -> None:
        with handle.lock:
            if row == 0:
                handle.restart()
            while row < len(handle.head):
                name, ino, kind = handle.head[row]
                if not sink.add(name, ino, kind, row + 1):
                    return
                row += 1
            while True:
                page = self._page_of(caller, handle, row, plus)
                if page is None:
                    return
                took = self._add_page(handle, page, row, sink, plus)
                row += took
                if row < page.first + len(page.items) or page.last:
                    return

    def _add_page(self, handle: DirHandle, page: Page, row: int, sink: DirSink, plus: bool) -> int:
        """Put what follows from `row` on into the reply; how many rows were taken, all of the page if there is room."""
        believed = plus and time.monotonic() - page.read_at < BELIEVED_S
        rows = slice(row - page.first, row - page.first + sink.at_most)
        names, inos = page.names[rows], page.inos[rows]
        if handle.gone.isdisjoint(names):
            if not believed:
                return sink.add_all(names, inos, page.types[rows], row + 1)
            if page.stats and not self._knows_better(inos, page.read_at):
                stats = [column[rows] for column in page.stats]
                return sink.add_all_plus(names, stats, self._valid(stats[MODE]), row + 1)
        items = page.items[row - page.first :]
        changed, read_at, gone, entry = self._changed, page.read_at, handle.gone, self.entry
        for took, (name, ino, kind, attr) in enumerate(items, 1):
            if name in gone:
                continue
            if attr is not None and believed and changed.get(ino, 0.0) < read_at:
                try:
                    added = sink.add_plus(name, entry(ino, attr), row + took)  # of an open file: what it is like now
                except Refused as problem:
                    if problem.errno != errno.ENOENT:
                        raise
                    added = sink.add(name, ino, TYPE_TO_MODE[kind], row + took)
            else:
                added = sink.add(name, ino, TYPE_TO_MODE[kind], row + took)
            if not added:
                return took - 1
        return len(items)

    def _knows_better(self, inos: Sequence[int], read_at: float) -> bool:
        """Whether this mount knows more of any of these inodes than what was read then."""
        changed, passthrough = self._changed, self.passthrough
        if any(changed[ino] >= read_at for ino in changed.keys() & inos) or self.handles.any_open(inos):
            return True
        return passthrough is not None and passthrough.knows_any(inos)

    def _valid(self, modes: Sequence[int]) -> list[tuple[float, float]]:
        """For how long the kernel may keep names and attributes, as in `entry`."""
        config = self.config
        of_file = config.entry_timeout_s, config.attr_timeout_s
        of_dir = config.dir_entry_timeout_s, config.attr_timeout_s
        return [of_dir if S_ISDIR(mode) else of_file for mode in modes]

    def _page_of(self, caller: Caller, handle: DirHandle, row: int, plus: bool) -> Page | None:
        """The page that holds `row`, None behind the end."""
        page = handle.page
        if page is not None and page.first <= row < page.first + len(page.items):
            return page
        if page is not None and row == page.first + len(page.items):
            if page.last:
                return None
            page = self._read_page(caller, handle, row, page.next, plus)
        else:
            first, cursor = handle.before(row)
            page = self._read_page(caller, handle, first, cursor, plus)
        while row >= page.first + len(page.items):
            if page.last:
                return None
            page = self._read_page(caller, handle, page.first + len(page.items), page.next, plus)
        return page

    def _read_page(self, caller: Caller, handle: DirHandle, first: int, cursor: Cursor, plus: bool) -> Page:
        limit = FIRST_PAGE if cursor is None else (PLUS_PAGE if plus else PAGE)
        read_at = time.monotonic()
        found = self._read_entries(caller, handle.ino, plus, cursor, limit)
        if self.meta.config.sort_dir and not isinstance(found.next, bytes):  # not by name, or the last page
            if found.next is not None:
                found = self._read_entries(caller, handle.ino, plus, cursor, -1)
            by_name = {item.name: item for item in found.items}
            found = DirPage([by_name[name] for name in sorted(by_name)], None)
        page = Page(first, handle.unlisted(first, found, cursor), found.next, read_at)
        handle.page = page
        if page.items and not page.last:
            handle.remember(first + len(page.items), page.next)
        return page

    def _read_entries(self, caller: Caller, ino: int, plus: bool, cursor: Cursor, limit: int) -> DirPage:
        """Without attributes if only those may not be read."""
        who = self.who(caller)
        try:
            return self.meta.list_dir(who, ino, plus, cursor, limit)
        except Refused as problem:
            if not plus or problem.errno != errno.EACCES:
                raise
            return self.meta.list_dir(who, ino, False, cursor, limit)

    @traced(lambda result, ino, fh: f"({ino})")
    def releasedir(self, caller: Caller, ino: int, fh: int) -> None:
        handle = self.handles.remove(fh)
        if isinstance(handle, DirHandle):
            with self._dirs_lock:
                others = self._open_dirs.get(ino, [])
                if handle in others:
                    others.remove(handle)
                if not others:
                    self._open_dirs.pop(ino, None)

    @traced(lambda result, ino, fh, datasync: f"({ino},{int(datasync)})")
    def fsyncdir(self, caller: Caller, ino: int, fh: int, datasync: bool) -> None:
        self.meta.sync()

    def dir_changed(self, parent: int, name: bytes, there: bool) -> None:
        """A name came or went through this mount: listings under way must not bring it back."""
        self.touch(parent)
        self.look_ahead.changed(parent, name)
        if parent not in self._open_dirs:
            return
        with self._dirs_lock:
            for handle in self._open_dirs.get(parent, ()):
                if there:
                    handle.gone.discard(name)
                else:
                    handle.gone.add(name)
