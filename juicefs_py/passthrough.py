"""Which inodes the kernel reads past us: each open and close decides, and changes reach the copies in its hands.

Not what is known of one inode (`inode_modes`), who makes the copies (`assembling`), where they lie
(`chunkstore.cache.assembled`), how the kernel is told (`fuse.device`).

**Version.** A copy belongs to an inode with this length, mtime and ctime, to the nanosecond (`version_of`). Every
change of content gives a file a new mtime, and where a program sets that back, the ctime tells. A compaction changes
neither, nor the content. A chmod costs the copy, no more.

**The kernel's rule.** An inode is in one mode as long as any file is open on it: all by the same backing file, or none;
any other answer fails the open. So an inode in passthrough mode that must be opened otherwise (for writing, or in a
newer version) becomes a new one for the kernel: its node id is an alias from now on (`fuse.nodes`), the open of the old
one is refused with ESTALE, the kernel follows the path once more and finds the alias. Handles of the old one stay as
they are. A node id is current until no handle has been open for a while; then the first open decides.

**Changes.** What is changed through this mount is changed in the copies too, before the answer: their readers, and
programs that have them mapped, see it like everybody else. Such a copy is nobody's version any more. A change by
another client is brought in when attributes tell of it; where the file is only mapped, with its next open. A copy is
kept up to date until nobody has it open *or mapped*, which may be long after the last close.

`_locks`: an inode's state is guarded by one of them, held over what is done to its copies on the local disk on purpose:
no copy may be given back while it is written.
"""

from __future__ import annotations

import errno
import logging
import random
import threading
import time
from collections.abc import Callable, Iterable
from itertools import count
from typing import TYPE_CHECKING, Protocol

from chunkstore.cache.assembled import Assembled, Copy, only_mine
from fuse import nodes
from juicefs_py.errors import refuse
from juicefs_py.inode_modes import STEADY_S, Buffer, Live, Mode, mtime_of, version_of
from meta.attr import Attr

if TYPE_CHECKING:
    from juicefs_py.assembling import Assembler
    from juicefs_py.handles import FileHandle

log = logging.getLogger(__name__)

_LOCKS = 64
_LET_PASS_S = 0.01
"""Before ESTALE: a lookup that was answered before would lead the kernel to the old node id once more."""
_AGAIN_S = 5.0
_ALIASED = 100_000  # inodes whose pages the kernel is not trusted with; with more, no page is kept


class Backing(Protocol):
    """How the kernel is told of backing files (`fuse.device`)."""

    def open_backing(self, fd: int, /) -> int: ...

    def close_backing(self, number: int, /) -> None: ...


class Passthrough:
    """All inodes of a mount. `tag` is this mount's alone on this machine; `told(node)`: its attributes have changed."""

    def __init__(self, backing: Backing, assembled: Assembled | None, tag: str, told: Callable[[int], object]) -> None:
        self.assembler: Assembler | None = None
        self.rebuild: Callable[[int], None] = lambda ino: None  # has `wrote` called for all of an outdated copy, later
        self.wake: Callable[[], None] = lambda: None  # has `round` called
        self._backing = backing
        self._assembled = assembled
        self._tag = tag
        self._told = told
        self._locks = [threading.Lock() for _ in range(_LOCKS)]
        self._modes: dict[int, Mode] = {}
        self._left: set[int] = set()  # inodes to look at again (`round`)
        self._behind: dict[int, float] = {}  # inodes that could not be rebuilt, and when to try again
        self._aliased: set[int] = set()
        self._numbers = count(random.randrange(nodes.NUMBERS))  # those of a predecessor are others

    def _lock(self, ino: int) -> threading.Lock:
        return self._locks[ino % _LOCKS]

    # opens and closes

    def node_of(self, ino: int) -> int:
        """By which node id the kernel is to know an inode; 0 if by its own number."""
        if ino not in self._modes:
            return 0
        with self._lock(ino):
            mode = self._modes.get(ino)
            return mode.node if mode is not None and mode.node != ino and mode.is_settled else 0

    def knows_any(self, inos: Iterable[int]) -> bool:
        """Whether any of these inodes may have another node id."""
        return not self._modes.keys().isdisjoint(inos)

    def keeps_pages(self, ino: int) -> bool:
        """Whether the kernel's pages of an inode may be believed: there never was another node id of it."""
        return not self._had_alias(ino)

    def _had_alias(self, ino: int) -> bool:
        return ino in self._aliased or len(self._aliased) >= _ALIASED

    def _note_alias(self, ino: int) -> None:
        if len(self._aliased) < _ALIASED:
            self._aliased.add(ino)

    def expect(self, ino: int, node: int) -> None:
        """ESTALE if a request that a path led to is about a node id that is not the current one."""
        with self._lock(ino):
            mode = self._modes.get(ino)
            if mode is not None and mode.is_settled and mode.node != node:
                raise refuse(errno.ESTALE)

    def open(
        self, ino: int, node: int, attr: Attr, fresh: Callable[[], bool] | None, foreign: int = 0
    ) -> tuple[int, int]:
        """Node id and backing id (0: through us) of a new handle, which is to be released.

        `node`: as the kernel asked; 0 if it takes what it is told. `fresh`, of one that only reads: nothing of the
        file is pending, and it was not changed here since `attr` was read, nor by others since `foreign` was.
        ESTALE: the kernel has to ask with another node id.
        """
        granted = self._open(ino, node, attr, fresh, foreign)
        if granted is None:
            time.sleep(_LET_PASS_S)
            raise refuse(errno.ESTALE)
        return granted

    def _open(
        self, ino: int, node: int, attr: Attr, fresh: Callable[[], bool] | None, foreign: int
    ) -> tuple[int, int] | None:
        with self._lock(ino):
            mode = self._modes.get(ino)
            if mode is None:
                mode = self._modes[ino] = Mode(node or ino)
            elif not mode.is_settled:
                mode.begin(node or ino)
            if mode.node != ino:
                self._note_alias(ino)
            asked = node or mode.node
            version = version_of(attr) if fresh is not None and fresh() else ""
            live = mode.lives.get(asked)
            if live is not None and live.handles and version and live.version == version:
                live.handles += 1
                return asked, live.number
            if asked != mode.node:
                return None
            if live is not None and live.handles:
                self._renew(ino, mode)
                if node:
                    return None
            elif version and not mode.ordinary[mode.node] and mode.is_ripe:
                live = self._begin(ino, mode, version)
                if live is not None:
                    live.handles, live.foreign = 1, foreign
                    return mode.node, live.number
            mode.ordinary[mode.node] += 1
            return mode.node, 0

    def _renew(self, ino: int, mode: Mode) -> None:
        """Give the inode a node id that it never had."""
        while mode.node in mode.lives or mode.node in mode.ordinary:
            mode.node = nodes.alias(ino, next(self._numbers))
        mode.renewed_at = time.monotonic()
        self._note_alias(ino)

    def _begin(self, ino: int, mode: Mode, version: str) -> Live | None:
        """Passthrough mode for the current node id; None if there is no copy of this version."""
        node, live = mode.node, mode.lives.get(mode.node)
        if live is not None:  # only mapped
            if live.version and live.version != version:
                live.version, live.outdated = "", True  # whoever has it mapped is to see what others have changed
                self.rebuild(ino)
            if live.version != version or live.copy is None:
                return None
            live.number = self._given(live.copy)
            return live if live.number else None
        owner = str(ino)
        place = self._assembled.of(owner) if self._assembled is not None and nodes.can_alias(ino) else None
        if place is None or not place.has(owner, version):
            return None
        copy = place.take(owner, version, self._tag_of(node))
        if copy is None:
            return None
        number = self._given(copy)
        if not number:
            place.give_back(copy)
            return None
        live = mode.lives[node] = Live(node, place, copy, number)
        return live

    def _given(self, copy: Copy) -> int:
        try:
            return self._backing.open_backing(copy.fd)
        except OSError as error:
            log.warning("no more passthrough: the kernel refuses the backing file %s: %s", copy.name, error.strerror)
            self._assembled = None
            return 0

    def _tag_of(self, node: int) -> str:
        return f"{self._tag}-{node:x}"

    def release(self, ino: int, node: int, number: int) -> None:
        """The end of a handle."""
        with self._lock(ino):
            mode = self._modes[ino]
            if number:
                live = mode.lives[node]
                live.handles -= 1
                if not live.handles:
                    self._close(ino, mode, live)
            else:
                mode.ordinary[node] -= 1
                if not mode.ordinary[node]:
                    del mode.ordinary[node]
            if self._had_alias(ino) and not mode.is_open:
                mode.steady = time.monotonic() + STEADY_S
            self._tidy(ino, mode)

    def _close(self, ino: int, mode: Mode, live: Live) -> None:
        try:
            self._backing.close_backing(live.number)
        except OSError as error:
            log.debug("backing id %d: %s", live.number, error)  # the connection is over
        live.number = 0
        if not self._give_back(mode, live):
            self._left.add(ino)
            self.wake()

    def _give_back(self, mode: Mode, live: Live) -> bool:
        """False if somebody still has the copy mapped."""
        if live.copy is not None:
            if not only_mine(live.copy.fd):
                return False
            assert live.place is not None
            live.place.give_back(live.copy)
        del mode.lives[live.node]
        return True

    def _tidy(self, ino: int, mode: Mode) -> None:
        if mode.is_open:
            return
        if mode.is_settled:
            self._left.add(ino)
            self.wake()
        elif not mode.lives:
            del self._modes[ino]

    def round(self, now: float) -> bool:
        """Look after what stayed after the last close: mapped copies, node ids. True while there is such."""
        for ino in tuple(self._left):
            with self._lock(ino):
                self._left.discard(ino)
                mode = self._modes.get(ino)
                if mode is None:
                    continue
                for live in [live for live in mode.lives.values() if not live.handles]:
                    if not self._give_back(mode, live):
                        self._left.add(ino)
                self._tidy(ino, mode)
        for ino in [ino for ino, due in tuple(self._behind.items()) if due <= now]:
            del self._behind[ino]
            self.rebuild(ino)
        return bool(self._left or self._behind)

    # changes

    def wrote(self, ino: int, offset: int, data: Buffer, outdated: bool = False) -> None:
        """These bytes were written through this mount; or all that is `outdated` is brought up to date."""
        if ino in self._modes:
            self._change(ino, lambda live: live.write(data, offset), outdated)

    def resized(self, ino: int, length: int, outdated: bool = False) -> None:
        """The file has this length now."""
        if ino in self._modes:
            self._change(ino, lambda live: live.resize(length), outdated)

    def uses(self, ino: int) -> bool:
        """Whether there are copies of the inode to be changed with it."""
        mode = self._modes.get(ino)
        return mode is not None and bool(mode.lives)

    def _change(self, ino: int, change: Callable[[Live], object], outdated: bool) -> None:
        changed = []
        with self._lock(ino):
            mode = self._modes.get(ino)
            for live in mode.lives.values() if mode is not None else ():
                if live.copy is None or live.place is None or (outdated and not live.outdated):
                    continue
                live.version = ""
                try:
                    if not live.copy.altered:
                        live.place.alter(live.copy)
                    change(live)
                except OSError as error:
                    log.error(
                        "inode %d: those who have its assembled copy open do not see a change: %s", ino, error.strerror
                    )
                changed.append(live.node)
        for node in changed:
            self._told(node)

    def outdated(self, ino: int, foreign: int) -> None:
        """The content was changed; by others if `foreign` (`OpenFiles.foreign`) is not what it was."""
        if not self.uses(ino):
            return
        with self._lock(ino):
            mode = self._modes.get(ino)
            lives = [live for live in mode.lives.values() if live.foreign != foreign] if mode is not None else []
            for live in lives:
                live.version, live.outdated, live.foreign = "", True, foreign
        if lives:
            self.rebuild(ino)

    def spoiled(self, ino: int) -> None:
        """The content was changed here, and the copies could not be changed with it."""
        with self._lock(ino):
            mode = self._modes.get(ino)
            for live in mode.lives.values() if mode is not None else ():
                live.version, live.outdated = "", True
        self.rebuild(ino)

    def changes(self, ino: int) -> dict[int, int]:
        """What others have changed of each copy so far, for `rebuilt`."""
        with self._lock(ino):
            mode = self._modes.get(ino)
            return {node: live.foreign for node, live in mode.lives.items()} if mode is not None else {}

    def rebuilt(self, ino: int, seen: dict[int, int]) -> None:
        """What was outdated is up to date with `changes` that were seen; what others changed since then is not."""
        with self._lock(ino):
            mode = self._modes.get(ino)
            for live in mode.lives.values() if mode is not None else ():
                if live.foreign == seen.get(live.node):
                    live.outdated = False

    def try_again(self, ino: int) -> None:
        """A rebuild has failed: later."""
        self._behind[ino] = time.monotonic() + _AGAIN_S
        self.wake()

    # hand-over

    def resume(self, handles: Iterable[FileHandle]) -> None:
        """Go on with a predecessor's copies and handles, before any request is served."""
        for place, copy in self._assembled.adopt(f"{self._tag}-") if self._assembled is not None else ():
            node = int(copy.tag.rpartition("-")[2], 16)
            ino = nodes.inode_of(node)
            self._modes.setdefault(ino, Mode(node)).lives[node] = Live(node, place, copy, 0)
            self._left.add(ino)  # unless a handle turns up it is only mapped, if that
        for handle in sorted(handles, key=lambda handle: handle.fh):
            node = handle.node = handle.node or handle.ino
            mode = self._modes.setdefault(handle.ino, Mode(node))
            mode.node = node  # that of the handle opened last
            if node != handle.ino:
                self._note_alias(handle.ino)
            if not handle.backing:
                mode.ordinary[node] += 1
                continue
            live = mode.lives.get(node)
            if live is None:
                live = mode.lives[node] = Live(node, None, None, 0)
                log.warning("the assembled copy of inode %d is not to be found: readers see no change", handle.ino)
            live.number = handle.backing
            live.handles += 1
            mtime = mtime_of(live.version)
            if mtime is not None:  # what others have changed since, the predecessor may not have noticed
                handle.inode.expect(mtime)
        if self._left:
            self.wake()
        for ino in [ino for ino, mode in self._modes.items() if any(live.outdated for live in mode.lives.values())]:
            self.rebuild(ino)
