"""Assembled files of a cache directory: whole contents, put together from cached blocks, that others may read directly.

Not who puts them together, nor what an owner or a version is: both are words of the caller's, without dots. A copy
belongs to one version and has no checksums of its own: it is forced to disk before it gets its name, and whoever makes
it must have proven each byte.

Names in `{dir}/assembled`: `OWNER.VERSION` is free to be taken; `OWNER.VERSION.TAG` is taken by whoever chose the tag,
and nobody else's (a rename decides); `OWNER.altered.TAG` was changed by him and is nobody's version any more;
`OWNER.VERSION.PID.tmp` is being made. What is here counts in the directory's used bytes, also for other mounts. Free
copies are evicted like blocks, the one that was not used for longest first; taken ones stay until they are given back.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from zlib import crc32

from chunkstore.cache.folders import make_dirs, unlink_quietly
from chunkstore.cache.health import State
from chunkstore.cache.index import ENTRY_COST

if TYPE_CHECKING:
    from chunkstore.cache.directory import CacheDir

log = logging.getLogger(__name__)

ALTERED: Final = "altered"
_STALE_S = 3600.0  # no copy takes longer to make
_SETTLED_S = 60.0  # who takes a copy has it open by then


def only_mine(fd: int) -> bool:
    """Whether nobody else has this file open or mapped.

    Asked by trying to take a write lease, which the kernel grants on such files only. SIGIO must be ignored: another
    open in this very moment sends it.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without leases
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return True


class Copy:
    """A taken copy, open for reading and writing. To be given back, once, by whoever took it."""

    __slots__ = ("fd", "name", "owner", "size", "tag", "version")

    def __init__(self, fd: int, owner: str, version: str, tag: str, size: int) -> None:
        self.fd = fd
        self.owner = owner
        self.version = version
        self.tag = tag
        self.name = f"{owner}.{version}.{tag}"
        self.size = size  # as it is accounted

    @property
    def altered(self) -> bool:
        return self.version == ALTERED


def write_all(fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write all of it at `offset`: a disk that runs full takes a part first. OSError as it comes."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


class Draft:
    """A copy in the making: to be filled through `fd`. It gets its name only if it is declared `right`."""

    __slots__ = ("fd", "right")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.right = False


@dataclass(slots=True)
class _Known:
    size: int
    used_at: float
    free: bool
    mine: bool = False


class AssembledDir:
    """Those of one cache directory. Its tables are guarded by the directory's lock, never held over I/O."""

    def __init__(self, directory: CacheDir) -> None:
        self._dir = directory
        self._known: dict[str, _Known] = {}
        self._latest: dict[str, str] = {}  # of an owner, the free copy that was registered last
        self.path = f"{directory.path}/assembled"
        self._maker = secrets.token_hex(8)  # of drafts: another container may have our process number

    # making

    @contextlib.contextmanager
    def draft(self, owner: str, version: str, size: int) -> Iterator[Draft | None]:
        """Room for a new copy; None if there is none, or if it is here or being made already. OSError as it comes."""
        name = f"{owner}.{version}"
        temporary = f"{name}.{self._maker}.tmp"
        if not self._reserve(name, temporary, size):
            yield None
            return
        path = f"{self.path}/{temporary}"
        done = False
        try:
            make_dirs(self.path, self._dir.config.cache_mode)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, self._dir.config.cache_mode)
            try:
                os.ftruncate(fd, size)
                made = Draft(fd)
                yield made
                if made.right:
                    os.fsync(fd)
                    os.rename(path, f"{self.path}/{name}")
                    done = True
            finally:
                os.close(fd)
        except OSError as error:
            self._dir.room.note_full(error)
            raise
        finally:
            if not done:
                unlink_quietly(path)
            self._forget(temporary)
            if done:
                self._register(name, size, time.time(), free=True)
                self.drop_older(owner, version)

    def _reserve(self, name: str, temporary: str, size: int) -> bool:
        with self._dir.lock:
            if name in self._known or temporary in self._known or not self._dir.room.fits(size, self._dir.index):
                return False
            self._dir.index.hold(size + ENTRY_COST)
            self._known[temporary] = _Known(size, time.time(), free=False)
        if self._dir.room.exceeded(self._dir.index):
            self._dir.keeper.evict()
        return True

    def _register(self, name: str, size: int, used_at: float, free: bool, mine: bool = False) -> None:
        with self._dir.lock:
            self._discard(name)
            self._known[name] = _Known(size, used_at, free, mine)
            if free:
                self._latest[name.partition(".")[0]] = name
            self._dir.index.hold(size + ENTRY_COST)

    def _forget(self, name: str) -> None:
        with self._dir.lock:
            self._discard(name)

    def _discard(self, name: str) -> _Known | None:
        known = self._known.pop(name, None)
        if known is not None:
            self._dir.index.hold(-known.size - ENTRY_COST)
            owner = name.partition(".")[0]
            if self._latest.get(owner) == name:
                del self._latest[owner]
        return known

    # using

    def has(self, owner: str, version: str) -> bool:
        """Whether a copy of this version is free to be taken. Costs one look into a table."""
        return self._latest.get(owner) == f"{owner}.{version}"

    def take(self, owner: str, version: str, tag: str) -> Copy | None:
        """The copy, now under this tag and nobody else's; None if it is not to be had."""
        name = f"{owner}.{version}"
        with self._dir.lock:
            known = self._known.get(name)
            if known is None or not known.free:
                return None
            self._discard(name)
        try:
            os.rename(f"{self.path}/{name}", f"{self.path}/{name}.{tag}")
        except OSError:  # another mount was quicker, or it is gone
            return None
        return self._opened(owner, version, tag, known.size)

    def adopt(self, prefix: str) -> list[Copy]:
        """What a predecessor has taken under tags that begin so."""
        try:
            names = [name.split(".") for name in os.listdir(self.path)]
        except OSError:
            return []
        found = [words for words in names if len(words) == 3 and words[2].startswith(prefix)]
        copies = [self._opened(owner, version, tag, None) for owner, version, tag in found]
        return [copy for copy in copies if copy is not None]

    def _opened(self, owner: str, version: str, tag: str, size: int | None) -> Copy | None:
        path = f"{self.path}/{owner}.{version}.{tag}"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            log.warning("the assembled copy %s cannot be opened: %s", path, error.strerror)
            return None
        length = os.fstat(fd).st_size
        if size not in (None, length):
            os.close(fd)
            unlink_quietly(path)
            return None
        copy = Copy(fd, owner, version, tag, length)
        self._register(copy.name, length, time.time(), free=False, mine=True)
        return copy

    def alter(self, copy: Copy) -> None:
        """To be called before a taken copy is changed. OSError if it cannot be marked; it must not be changed then."""
        name = f"{copy.owner}.{ALTERED}.{copy.tag}"
        with contextlib.suppress(FileNotFoundError):  # what has lost its name nobody can take for a version
            os.rename(f"{self.path}/{copy.name}", f"{self.path}/{name}")
        with self._dir.lock:
            known = self._known.pop(copy.name, None)
            if known is not None:
                self._known[name] = known
        copy.name, copy.version = name, ALTERED

    def give_back(self, copy: Copy) -> None:
        """The end of `take`. A copy that was changed is removed; another one is free again."""
        os.close(copy.fd)
        self._forget(copy.name)
        path = f"{self.path}/{copy.name}"
        if copy.altered:
            unlink_quietly(path)
            return
        name = f"{copy.owner}.{copy.version}"
        try:
            os.rename(path, f"{self.path}/{name}")
        except OSError:
            unlink_quietly(path)
            return
        self._register(name, copy.size, time.time(), free=True)

    # removing

    def oldest(self) -> tuple[str, float] | None:
        """The free copy that was not used for longest, and when it was. The directory's lock is held."""
        free = ((known.used_at, name) for name, known in self._known.items() if known.free)
        found = min(free, default=None)
        return None if found is None else (found[1], found[0])

    def evict(self, name: str) -> int:
        """Forget a free copy; its size. The directory's lock is held, and the caller then removes the file."""
        known = self._discard(name)
        return known.size if known is not None else 0

    def drop_older(self, owner: str, version: str) -> None:
        """Remove the free copies of other versions."""
        with self._dir.lock:
            mine = [name for name, known in self._known.items() if known.free and name.partition(".")[0] == owner]
            old = [name for name in mine if name != f"{owner}.{version}"]
            for name in old:
                self._discard(name)
        for name in old:
            unlink_quietly(f"{self.path}/{name}")

    def scan(self) -> None:
        """Learn what is on the disk. What a process has left that died with its mount is removed."""
        try:
            names = os.listdir(self.path)
        except OSError:
            return
        for name in names:
            with contextlib.suppress(OSError):  # it has just gone
                self._look_at(name, os.lstat(f"{self.path}/{name}"))
        with self._dir.lock:
            for name in [name for name in self._known if not name.endswith(".tmp")]:
                if not os.path.exists(f"{self.path}/{name}"):
                    self._discard(name)

    def _look_at(self, name: str, status: os.stat_result) -> None:
        words = name.count(".") + 1
        if name.endswith(".tmp"):
            left = time.time() - status.st_mtime > _STALE_S
        else:
            left = words == 3 and time.time() - status.st_ctime > _SETTLED_S and self._is_left(name)
        if left:
            unlink_quietly(f"{self.path}/{name}")
        elif words in (2, 3) and name not in self._known:
            self._register(name, status.st_size, max(status.st_atime, status.st_mtime), free=words == 2)

    def _is_left(self, name: str) -> bool:
        """Whether nobody uses a taken copy: the kernel holds those of a mount that lives, whoever serves it."""
        known = self._known.get(name)
        if known is not None and known.mine:
            return False
        try:
            fd = os.open(f"{self.path}/{name}", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return False
        try:
            return only_mine(fd)
        finally:
            os.close(fd)


class Assembled:
    """Those of all cache directories; an owner's are in one of them."""

    def __init__(self, dirs: list[CacheDir]) -> None:
        self._dirs = dirs

    def of(self, owner: str) -> AssembledDir | None:
        """Where the copies of an owner are; None while that disk is not well."""
        found = self._dirs[crc32(owner.encode()) % len(self._dirs)]
        return found.assembled if found.health.state is State.NORMAL else None

    def adopt(self, prefix: str) -> list[tuple[AssembledDir, Copy]]:
        """What a predecessor has taken in any of them under tags that begin so."""
        return [(each.assembled, copy) for each in self._dirs for copy in each.assembled.adopt(prefix)]

    def paths(self) -> list[str]:
        """The cache directories."""
        return [each.path for each in self._dirs]
