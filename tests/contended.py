"""Names that several workers fight for, and what must be true whoever wins.

Each action is one that a file system must make safe, and is written so that a lost update shows: at once, or in the
account that the worker gives at its end (`claims`), which the harness (together) adds up. Not here: names that a worker
has to itself (own_names).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from own_names import DIRECTORIES

T = TypeVar("T")

TARGETS = 4
TOKENS = 6
POOL = 5
EMPTY = 3  # directories that come and go
ROUNDS_PER_S = 5  # of O_EXCL


def sealed(text: str, filler: bytes) -> bytes:
    """A file that tells whether it is whole: checksum of the rest in the first line."""
    rest = text.encode() + b"\n" + filler
    return hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest


def is_sealed(data: bytes) -> bool:
    checksum, _, rest = data.partition(b"\n")
    return hashlib.sha256(rest).hexdigest().encode() == checksum


def prepare(root: Path) -> None:
    """What the actions expect to find."""
    for name in DIRECTORIES:
        (root / name).mkdir()
    for number in range(TARGETS):
        (root / f"d0/target{number}").write_bytes(sealed("first", b""))
    for number in range(TOKENS):
        (root / f"d{number % 4}/token{number}.0").write_text(f"token {number}")
    for name in ("counter-flock", "counter-fcntl"):
        (root / name).write_text("0")
    for name in ("lines", "lock-flock", "lock-fcntl"):
        (root / name).write_text("")


def _read_sealed(path: Path) -> tuple[int, str]:
    """The inode that was read (0: there was none to open, -1: it is gone) and what is wrong with its content."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError as e:  # ESTALE: what the name led to was replaced, and again when the kernel asked once more
        return (-1 if e.errno == errno.ESTALE else 0), str(e)
    ino = -1
    with open(fd, "rb") as file:
        try:
            ino = os.fstat(fd).st_ino
            data = file.read()
        except OSError as e:
            return ino, str(e)
    return ino, "" if is_sealed(data) else f"{len(data)} bytes, torn"


class Contended:
    """One worker's part in the fights below `roots`, which are several mounts of one directory.

    Through those that are also in `official`, of a client in Go, a name that is being replaced may seem to be missing:
    it was looked up, and what it led to is gone when it is opened. `old` are as in OwnNames.
    """

    def __init__(
        self, roots: Sequence[Path], worker: int, chance: random.Random,
        official: tuple[Path, ...] = (), old: tuple[Path, ...] = (),
    ) -> None:  # fmt: skip
        self.roots = roots
        self.official = official
        self.sound = [root for root in roots if root not in old]
        self.worker = worker
        self.random = chance
        self.count = 0
        self.round = 0
        self.won: list[str] = []  # names that O_EXCL made
        self.links: set[str] = set()  # names of ours for inodes of the pool
        self.done: Counter[str] = Counter()
        self.actions: list[tuple[Callable[[], str], int]] = [
            (self.add_one, 3), (self.add_line, 3), (self.replace, 8), (self.look, 6), (self.move_token, 8),
            (self.win, 6), (self.put_in_pool, 5), (self.take_from_pool, 5), (self.rename_in_pool, 4),
            (self.link_to_pool, 6), (self.unlink_own_link, 4), (self.use_directory, 6),
        ]  # fmt: skip

    def claims(self) -> dict[str, Any]:
        """What the volume must hold because of this worker."""
        return {"won": self.won, "links": sorted(self.links), **self.done}

    def root(self) -> Path:
        return self.random.choice(self.roots)

    def fresh(self) -> str:
        """A number that nobody else uses."""
        self.count += 1
        return f"{self.worker}.{self.count}"

    # Locks

    @contextmanager
    def locked(self, root: Path, kind: str) -> Iterator[None]:
        """Hold the lock of that kind; while it is held nobody else is inside."""
        fd = os.open(root / f"lock-{kind}", os.O_RDWR)
        inside = root / f"inside-{kind}"
        try:
            (fcntl.flock if kind == "flock" else fcntl.lockf)(fd, fcntl.LOCK_EX)
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL, 0o600))
            yield
            inside.unlink()
        finally:
            os.close(fd)

    def add_one(self) -> str:
        root, kind = self.root(), self.random.choice(("flock", "fcntl"))
        with self.locked(root, kind):
            counter = root / f"counter-{kind}"
            value = int(counter.read_text()) + 1
            with counter.open("r+") as file:
                file.write(str(value))
        self.done[f"counter-{kind}"] += 1
        return f"count {counter} {value}"

    def add_line(self) -> str:
        root, line = self.root(), f"line {self.fresh()} {'.' * self.random.randrange(200)}\n"
        with self.locked(root, "flock"), (root / "lines").open("a") as file:
            file.write(line)
        self.done["lines"] += 1
        return f"line {root}"

    # Replacing

    def replace(self) -> str:
        """Rename over a name that always exists."""
        root, number = self.root(), self.random.randrange(TARGETS)
        new = root / f"{self.random.choice(DIRECTORIES)}/new{self.worker}"
        new.write_bytes(sealed(self.fresh(), self.random.randbytes(int(self.random.random() ** 3 * 100_000))))
        self.insist(root, lambda: os.rename(new, root / f"d0/target{number}"), there=True)
        return f"replace {root} target{number}"

    def insist(self, root: Path, call: Callable[[], T], *, there: bool = False) -> T:
        """Make a call. Official clients give up with EAGAIN when others change the same name, and a rename fails with
        ENOENT if what it replaces is replaced meanwhile (`there`: that cannot be true).
        """
        while True:
            try:
                return call()
            except OSError as e:
                again = e.errno == errno.EAGAIN or (there and e.errno == errno.ENOENT)
                if root not in self.official or not again:
                    raise

    def look(self) -> str:
        """Such a name always exists and is whole. What was replaced while it was read may be gone, in JuiceFS."""
        root = self.root()
        path = root / f"d0/target{self.random.randrange(TARGETS)}"
        for _ in range(100):
            ino, trouble = _read_sealed(path)
            if not trouble:
                return f"look {path}"
            assert ino == -1 or self._is_replaced(root, path, ino), f"{path} (inode {ino}): {trouble}"
        return f"look {path}: always replaced"

    def _is_replaced(self, root: Path, path: Path, ino: int) -> bool:
        """Whether a name leads to another inode by now (0: it seemed to be missing)."""
        if ino == 0:
            return root in self.official
        try:
            return os.stat(path).st_ino != ino
        except OSError as e:
            return e.errno == errno.ESTALE or root in self.official

    # Moving

    def move_token(self) -> str:
        """Each token has one name, whoever moves it where."""
        root, number = self.root(), self.random.randrange(TOKENS)
        directories = self.random.sample(DIRECTORIES, 2)
        prefix = f"token{number}."
        for name in os.listdir(root / directories[0]):
            if name.startswith(prefix):
                source, target = root / directories[0] / name, root / directories[1] / f"{prefix}{self.fresh()}"
                try:
                    self.insist(root, partial(os.rename, source, target))
                except FileNotFoundError:
                    return f"move {name}: gone"
                return f"move {source} {target}"
        return f"move token{number}: not here"

    # Creating

    def win(self) -> str:
        """All workers try to create the same name at about the same time."""
        number = int(time.time() * ROUNDS_PER_S)
        if number == self.round:
            return "win: not yet"
        self.round = number
        root, name = self.root(), f"d1/excl{number}"
        try:
            fd = os.open(root / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            return f"win {root} {name}: lost"
        os.write(fd, b"%d" % self.worker)
        os.close(fd)
        self.won.append(name)
        return f"win {root} {name}"

    # Links come and go

    def pool(self) -> str:
        return f"d{self.random.randrange(4)}/pool{self.random.randrange(POOL)}"

    def put_in_pool(self) -> str:
        path = self.root() / self.pool()
        try:
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return f"put {path}: exists"
        try:
            os.write(fd, sealed(self.fresh(), b""))
            os.close(fd)
        except OSError as e:  # whoever has it open does not protect it from other clients, who may remove it already
            assert e.errno in (errno.ENOENT, errno.ESTALE, errno.EBADF), f"put {path}: {e}"
        return f"put {path}"

    def take_from_pool(self) -> str:
        root = self.root()
        path = root / self.pool()
        try:
            self.insist(root, path.unlink)
        except FileNotFoundError:
            return f"take {path}: gone"
        return f"take {path}"

    def rename_in_pool(self) -> str:
        root, source, target = self.random.choice(self.sound), self.pool(), self.pool()  # what is there may have links
        try:
            self.insist(root, lambda: os.rename(root / source, root / target))
        except FileNotFoundError:
            return f"rename {root} {source}: gone"
        return f"rename {root} {source} {target}"

    def link_to_pool(self) -> str:
        """A link that was made stays until it is unlinked, and keeps the inode."""
        root, source, target = self.root(), self.pool(), f"d2/link{self.fresh()}"
        if len(self.links) >= 20:
            return "link: enough"
        try:
            self.insist(root, lambda: os.link(root / source, root / target))
        except FileNotFoundError:
            return f"link {root} {source}: gone"
        self.links.add(target)
        return f"link {root} {source} {target}"

    def unlink_own_link(self) -> str:
        if not self.links:
            return "unlink no link"
        root, name = self.root(), self.random.choice(sorted(self.links))
        assert os.stat(root / name).st_nlink >= 1
        self.insist(root, (root / name).unlink)
        self.links.discard(name)
        return f"unlink {root} {name}"

    # Directories come and go

    def use_directory(self) -> str:
        """Nobody can remove a directory in which somebody has just made a file."""
        root = self.root()
        directory = root / f"d3/empty{self.random.randrange(EMPTY)}"
        if self.random.random() < 0.3:
            try:
                self.insist(root, directory.rmdir)
            except OSError as e:  # FileNotFoundError, or not empty
                return f"rmdir {directory}: {e.strerror}"
            return f"rmdir {directory}"
        try:
            directory.mkdir()
        except FileExistsError:
            pass
        file = directory / f"in{self.worker}"
        try:
            file.touch(exist_ok=False)
        except FileNotFoundError:
            return f"use {directory}: removed"
        other = self.root() / file.relative_to(root)
        assert other.stat().st_size == 0
        other.unlink()
        return f"use {directory}"
