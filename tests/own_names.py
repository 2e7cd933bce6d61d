"""Names that one worker has to itself in directories that it shares with others, and a model that says what they are.

Every call is made through a mount picked at random, and what another mount then shows must be what the model says:
closed files are the same everywhere at once where nothing is cached (close-to-open). Not here: names that several
workers fight for (contended).
"""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

DIRECTORIES = ("d0", "d1", "d2", "d3")
CHUNK = 64 << 20
_NAMES = 10
_LARGEST = 150_000
_MODES = (0o600, 0o640, 0o644, 0o755)


@dataclass(eq=False)
class Item:
    """What one inode of ours must be. A file is a hole of `base` bytes and then `data`."""

    kind: str  # "file", "symlink", "dir"
    mode: int = 0o644
    base: int = 0
    data: bytearray = field(default_factory=bytearray)
    target: str = ""
    xattrs: dict[str, bytes] = field(default_factory=dict)
    mtime_ns: int | None = None  # as utime has set it, until the next change

    @property
    def size(self) -> int:
        return self.base + len(self.data)


class OwnNames:
    """One worker's names below `roots`, which are several mounts of one directory.

    Those that are also in `old` are of JuiceFS 0.14, and its faults are walked around: a file that it shrinks shows its
    old bytes when it grows again; a rename over one of several links destroys the data of the others, unlinking one of
    them the xattrs; a directory that replaces another leaves the parent's link count too high.
    """

    def __init__(self, roots: Sequence[Path], worker: int, chance: random.Random, old: tuple[Path, ...] = ()) -> None:
        self.roots = roots
        self.sound = [root for root in roots if root not in old]
        self.worker = worker
        self.random = chance
        self.items: dict[str, Item] = {}
        self.actions: list[tuple[Callable[[], str], int]] = [
            (self.create, 18), (self.append, 14), (self.overwrite, 12), (self.truncate, 12), (self.unlink, 8),
            (self.rename, 12), (self.link, 8), (self.symlink, 3), (self.mkdir, 5), (self.rmdir, 3), (self.xattr, 5),
            (self.chmod, 3), (self.utime, 3), (self.look, 20), (self.list, 5),
        ]  # fmt: skip

    # What is picked

    def at(self, name: str) -> Path:
        """The name below one of the mounts."""
        return self.below(self.random.choice(self.roots), name)

    def below(self, root: Path, name: str) -> Path:
        """The name below that mount. A directory is shown to it first.

        Linux notes only then that it is not where the mount last saw it, needs a lock that any rename holds for it, and
        fails with ESTALE without (d_splice_alias; true of every network file system).
        """
        path = root / name
        if name in self.items and self.items[name].kind == "dir":
            for _ in range(1000):
                try:
                    os.lstat(path)
                    break
                except OSError as e:
                    if e.errno != errno.ESTALE:
                        raise
        return path

    def a_name(self) -> str:
        """Some name of ours, there or not."""
        return f"{self.random.choice(DIRECTORIES)}/own{self.worker}-{self.random.randrange(_NAMES)}"

    def an_item(self, *kinds: str) -> str | None:
        """A name that is there, of one of these kinds."""
        names = [name for name, item in self.items.items() if item.kind in kinds]
        return self.random.choice(names) if names else None

    def some_bytes(self, most: int = 60_000) -> bytes:
        return self.random.randbytes(int(self.random.random() ** 3 * most) + 1)

    def names_of(self, item: Item) -> list[str]:
        return [name for name, other in self.items.items() if other is item]

    # What is done

    def create(self) -> str:
        name = self.a_name()
        path = self.at(name)
        try:
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            assert name in self.items, f"{path} exists, but should not"
            return f"create {path}: exists"
        assert name not in self.items, f"{path} was created, but existed"
        # Now and then over the edge of two chunks.
        item = Item("file", base=CHUNK - 20_000 if self.random.random() < 0.01 else 0)
        data = b"" if self.random.random() < 0.1 else self.some_bytes()
        try:
            assert os.pwrite(fd, data, item.base) == len(data)
        finally:
            os.close(fd)
        if not data:
            item.base = 0
        item.data = bytearray(data)
        self.items[name] = item
        return f"create {path} {item.base}+{len(data)}"

    def append(self) -> str:
        name = self.an_item("file")
        if name is None:
            return "append to nothing"
        item, path, data = self.items[name], self.at(name), self.some_bytes(20_000)
        if len(item.data) + len(data) > _LARGEST:
            return "append too much"
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        try:
            assert os.write(fd, data) == len(data)
        finally:
            os.close(fd)
        item.data += data
        item.mtime_ns = None
        return f"append {path} {len(data)}"

    def overwrite(self) -> str:
        name = self.an_item("file")
        if name is None:
            return "overwrite nothing"
        item, path, data = self.items[name], self.at(name), self.some_bytes(30_000)
        offset = self.random.randrange(len(item.data) + 5000)
        fd = os.open(path, os.O_RDWR)
        try:
            assert os.pwrite(fd, data, item.base + offset) == len(data)
        finally:
            os.close(fd)
        item.data.extend(bytes(max(offset - len(item.data), 0)))
        item.data[offset : offset + len(data)] = data
        item.mtime_ns = None
        return f"overwrite {path} {item.base + offset}+{len(data)}"

    def truncate(self) -> str:
        name = self.an_item("file")
        if name is None:
            return "truncate nothing"
        item, root = self.items[name], self.random.choice(self.roots)
        path = root / name
        size = self.random.choice((0, self.random.randrange(_LARGEST), self.random.randrange(len(item.data) + 1)))
        if item.size == item.base + size:
            return "truncate to the same"
        if size < len(item.data) and root not in self.sound:
            for length in (size, len(item.data)):  # growing writes the zeros that shrinking should have
                os.truncate(path, item.base + length)
        os.truncate(path, item.base + size)
        del item.data[size:]
        item.data.extend(bytes(size - len(item.data)))
        item.mtime_ns = None
        return f"truncate {path} {item.base + size}"

    def unlink(self) -> str:
        name = self.an_item("file", "symlink")
        if name is None:
            return "unlink nothing"
        bare = not self.items[name].xattrs or len(self.names_of(self.items[name])) == 1
        path = self.random.choice(self.roots if bare else self.sound) / name
        path.unlink()
        del self.items[name]
        return f"unlink {path}"

    def rename(self) -> str:
        name, target = self.an_item("file", "symlink", "dir"), self.a_name()
        if name is None:
            return "rename nothing"
        there, replaced = self.items[name], self.items.get(target)
        safe = replaced is None or (replaced.kind != "dir" and len(self.names_of(replaced)) == 1)
        root = self.random.choice(self.roots if safe else self.sound)
        path, place, wanted = self.below(root, name), self.below(root, target), 0
        if replaced is not None and replaced is not there and (replaced.kind == "dir") != (there.kind == "dir"):
            wanted = errno.EISDIR if replaced.kind == "dir" else errno.ENOTDIR
        try:
            os.rename(path, place)
        except OSError as e:
            assert e.errno == wanted, f"rename {path} {target}: {e}"
            return f"rename {path} {target}: refused"
        assert not wanted, f"rename {path} {target} should fail with {errno.errorcode[wanted]}"
        if replaced is not there:  # two names of one inode: nothing happens
            del self.items[name]
            self.items[target] = there
        return f"rename {path} {target}"

    def link(self) -> str:
        name, target = self.an_item("file"), self.a_name()
        if name is None:
            return "link nothing"
        root = self.random.choice(self.roots)
        try:
            os.link(root / name, self.below(root, target))
        except FileExistsError:
            assert target in self.items, f"link {root / name} {target}: exists"
            return f"link {root / name} {target}: exists"
        assert target not in self.items, f"link {root / name} {target}: existed"
        self.items[target] = self.items[name]
        return f"link {root / name} {target}"

    def symlink(self) -> str:
        name = self.a_name()
        if name in self.items:
            return "symlink exists"
        path, target = self.at(name), "../" * self.random.randrange(3) + "x" * self.random.randrange(1, 300)
        os.symlink(target, path)
        self.items[name] = Item("symlink", target=target)
        return f"symlink {path}"

    def mkdir(self) -> str:
        name = self.a_name()
        if name in self.items:
            return "mkdir exists"
        path = self.at(name)
        path.mkdir(0o755)
        self.items[name] = Item("dir", mode=0o755)
        return f"mkdir {path}"

    def rmdir(self) -> str:
        name = self.an_item("dir")
        if name is None:
            return "rmdir nothing"
        path = self.at(name)
        path.rmdir()
        del self.items[name]
        return f"rmdir {path}"

    def xattr(self) -> str:
        name = self.an_item("file", "dir")
        if name is None:
            return "xattr of nothing"
        item, path, key = self.items[name], self.at(name), f"user.{self.random.randrange(3)}"
        if key in item.xattrs and self.random.random() < 0.4:
            os.removexattr(path, key)
            del item.xattrs[key]
            return f"removexattr {path} {key}"
        item.xattrs[key] = self.some_bytes(500)
        os.setxattr(path, key, item.xattrs[key])
        return f"setxattr {path} {key}"

    def chmod(self) -> str:
        name = self.an_item("file", "dir")
        if name is None:
            return "chmod nothing"
        item, path = self.items[name], self.at(name)
        item.mode = self.random.choice(_MODES)
        path.chmod(item.mode)
        return f"chmod {path} {item.mode:o}"

    def utime(self) -> str:
        name = self.an_item("file")
        if name is None:
            return "utime of nothing"
        item, path = self.items[name], self.at(name)
        item.mtime_ns = self.random.randrange(1_000_000_000 * 10**9, 1_700_000_000 * 10**9)
        os.utime(path, ns=(item.mtime_ns, item.mtime_ns))
        return f"utime {path}"

    # What must be so

    def look(self) -> str:
        name = self.an_item("file", "symlink", "dir")
        if name is None:
            return "look at nothing"
        path = self.at(name)
        self.compare(name, path)
        return f"look {path}"

    def list(self) -> str:
        directory = self.random.choice(DIRECTORIES)
        path = self.at(directory)
        mine = f"own{self.worker}-"
        found = sorted(name for name in os.listdir(path) if name.startswith(mine))
        wanted = sorted(name.split("/")[1] for name in self.items if name.startswith(f"{directory}/"))
        assert found == wanted, f"{path} lists {found}, should list {wanted}"
        return f"list {path}"

    def compare(self, name: str, path: Path) -> None:
        """The name as `path` shows it must be what the model says."""
        item, info = self.items[name], os.lstat(path)
        if item.kind == "symlink":
            assert os.readlink(path) == item.target, f"{path}: another target"
            return
        assert stat.S_IMODE(info.st_mode) == item.mode, f"{path}: mode {info.st_mode:o}, should be {item.mode:o}"
        keys = [key for key in os.listxattr(path) if key.startswith("user.")]
        xattrs = {key: os.getxattr(path, key) for key in keys}
        assert xattrs == item.xattrs, f"{path}: xattrs {xattrs}, should be {item.xattrs}"
        if item.kind == "dir":
            assert stat.S_ISDIR(info.st_mode), f"{path} is no directory"
            assert os.listdir(path) == [], f"{path} is not empty"
            return
        found = info.st_size, info.st_nlink
        wanted = item.size, len(self.names_of(item))
        assert found == wanted, f"{path}: (size, links) {found}, should be {wanted}"
        if item.mtime_ns is not None:
            assert info.st_mtime_ns == item.mtime_ns, f"{path}: mtime {info.st_mtime_ns}, should be {item.mtime_ns}"
        fd = os.open(path, os.O_RDONLY)
        try:
            data = _read(fd, item.base, item.size + 1 - item.base)
        finally:
            os.close(fd)
        if data != item.data:
            at = next((i for i, (a, b) in enumerate(zip(data, item.data, strict=False)) if a != b), len(data))
            raise AssertionError(f"{path}: {len(data)} bytes, should be {len(item.data)}; the first wrong one is {at}")

    def compare_all(self) -> None:
        """Every name, through every mount."""
        for root in self.roots:
            for name in self.items:
                self.compare(name, self.below(root, name))


def _read(fd: int, offset: int, most: int) -> bytes:
    parts = []
    while most > 0 and (part := os.pread(fd, most, offset)):
        parts.append(part)
        offset, most = offset + len(part), most - len(part)
    return b"".join(parts)
