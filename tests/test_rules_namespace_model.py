"""Random operations on names against a dumb model of a tree, on every engine, with and without trash.

After every step the tree must look like the model, and the volume must pass every invariant of `meta.rules.check`.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from namespace import Namespace

from meta.errors import Refused
from meta.rules.check import check
from meta.rules.lookup import paths
from meta.types import DIRECTORY, FILE, SYMLINK

NOREPLACE, EXCHANGE = 1, 2
NAMES = st.sampled_from("abc")
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
OLD = st.integers(0, 1 << 16) | PATHS
"""A path that exists, by its number in the model (mostly), or any."""
NEW = st.tuples(st.integers(0, 1 << 16), NAMES) | OLD
"""A name in a directory that exists, or as above."""
Old = int | str
New = tuple[int, str] | int | str


class Node:
    """An inode of the model. `links` counts names in the tree, `trash` those in the trash (parent node, name)."""

    def __init__(self, type: int) -> None:
        self.type = type
        self.entries: dict[str, Node] = {}
        self.links = 0
        self.trash: set[tuple[Node, str]] = set()

    @property
    def is_dir(self) -> bool:
        return self.type == DIRECTORY

    @property
    def nlink(self) -> int:
        if self.is_dir:
            return 2 + sum(child.is_dir for child in self.entries.values())
        return self.links + len(self.trash)

    def contains(self, other: Node) -> bool:
        return self is other or any(child.contains(other) for child in self.entries.values())


class Fails(Exception):
    """The model says that the operation is refused."""

    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode[number])
        self.errno = number


class Model:
    """The tree, told as plainly as possible. Methods raise `Fails` in the order in which Linux finds faults."""

    def __init__(self, trash: bool) -> None:
        self.root = Node(DIRECTORY)
        self.trash = trash

    def find(self, path: str) -> Node:
        node = self.root
        for name in path.split("/") if path else []:
            if not node.is_dir:
                raise Fails(errno.ENOTDIR)
            if name not in node.entries:
                raise Fails(errno.ENOENT)
            node = node.entries[name]
        return node

    def walk(self) -> list[tuple[str, Node]]:
        """Every name with its path, the root's own excepted."""
        found, waiting = [], [("", self.root)]
        while waiting:
            above, node = waiting.pop()
            below = [(f"{above}/{name}".lstrip("/"), child) for name, child in sorted(node.entries.items())]
            found += below
            waiting += below
        return found

    def parent(self, path: str) -> tuple[Node, str]:
        above, _, name = path.rpartition("/")
        node = self.find(above)
        if not node.is_dir:
            raise Fails(errno.ENOTDIR)
        return node, name

    def enter(self, directory: Node, name: str, node: Node) -> None:
        directory.entries[name] = node
        node.links += 1

    def leave(self, directory: Node, name: str, trash: bool) -> None:
        node = directory.entries.pop(name)
        if trash and (node.is_dir or node.nlink == 1 or (directory, name) not in node.trash):
            node.trash.add((directory, name))
        node.links -= 1

    def create(self, path: str, type: int) -> None:
        directory, name = self.parent(path)
        if name in directory.entries:
            raise Fails(errno.EEXIST)
        self.enter(directory, name, Node(type))

    def unlink(self, path: str, skip: bool) -> None:
        directory, name = self.parent(path)
        if self.find(path).is_dir:
            raise Fails(errno.EPERM)
        self.leave(directory, name, self.trash and not skip)

    def rmdir(self, path: str, skip: bool) -> None:
        directory, name = self.parent(path)
        node = self.find(path)
        if not node.is_dir:
            raise Fails(errno.ENOTDIR)
        if node.entries:
            raise Fails(errno.ENOTEMPTY)
        self.leave(directory, name, self.trash and not skip)

    def link(self, old: str, new: str) -> None:
        node = self.find(old)
        directory, name = self.parent(new)
        if name in directory.entries:
            raise Fails(errno.EEXIST)
        if node.is_dir:
            raise Fails(errno.EPERM)
        self.enter(directory, name, node)

    def rename(self, old: str, new: str, flags: int) -> None:
        src_dir, src_name = self.parent(old)
        dst_dir, dst_name = self.parent(new)
        node = self.find(old)
        if old == new:
            return
        other = dst_dir.entries.get(dst_name)
        if other is not None and flags == NOREPLACE:
            raise Fails(errno.EEXIST)
        if other is None and flags == EXCHANGE:
            raise Fails(errno.ENOENT)
        if other is node:
            return
        if other is not None and flags == EXCHANGE:
            if node.contains(dst_dir) or other.contains(src_dir):
                raise Fails(errno.EINVAL)
            src_dir.entries[src_name], dst_dir.entries[dst_name] = other, node
            return
        if other is not None:
            if node.is_dir != other.is_dir:
                raise Fails(errno.ENOTDIR if node.is_dir else errno.EISDIR)
            if other.entries:
                raise Fails(errno.ENOTEMPTY)
        if node.contains(dst_dir):
            raise Fails(errno.EINVAL)
        if other is not None:
            self.leave(dst_dir, dst_name, self.trash)
        del src_dir.entries[src_name]
        dst_dir.entries[dst_name] = node

    def clone(self, old: str, new: str) -> None:
        node = self.find(old)
        directory, name = self.parent(new)
        if name in directory.entries:
            raise Fails(errno.EEXIST)
        self.enter(directory, name, self.copy(node))

    def copy(self, node: Node) -> Node:
        other = Node(node.type)
        for name, child in node.entries.items():
            self.enter(other, name, self.copy(child))
        return other

    def remove_tree(self, path: str, skip: bool) -> None:
        directory, name = self.parent(path)
        self.clear(self.find(path), skip)
        self.leave(directory, name, self.trash and not skip)

    def clear(self, node: Node, skip: bool) -> None:
        for name, child in list(node.entries.items()):
            self.clear(child, skip)
            self.leave(node, name, self.trash and not skip)


class Names(RuleBasedStateMachine):
    """One volume and its model, doing the same."""

    kind: str
    trash_days: int

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="names-"))
        self.fs = Namespace(self.kind, self.directory, trash_days=self.trash_days, user_group_quota=True)
        self.model = Model(self.trash_days > 0)

    def teardown(self) -> None:
        for ino in list(self.fs.held):
            self.fs.let_go(ino)
        assert check(self.fs.engine) == []
        self.fs.engine.close()
        shutil.rmtree(self.directory)

    def old(self, choice: Old, dirs: bool = False) -> str:
        """The path that a drawn value means."""
        if isinstance(choice, str):
            return choice
        found = [path for path, node in self.model.walk() if node.is_dir or not dirs]
        return found[choice % len(found)] if found else "a"

    def new(self, choice: New) -> str:
        if not isinstance(choice, tuple):
            return self.old(choice)
        above = ["", *(path for path, node in self.model.walk() if node.is_dir and path.count("/") < 2)]
        return f"{above[choice[0] % len(above)]}/{choice[1]}".lstrip("/")

    def both(self, expected: Callable[[], Any], actual: Callable[[], Any]) -> bool:
        """Do the same to the model and to the volume; whether both allowed it."""
        self.fs.clock[1] += 1000
        wanted = found = 0
        try:
            expected()
        except Fails as e:
            wanted = e.errno
        try:
            actual()
        except Refused as e:
            found = e.errno
        assert found == wanted, f"{errno.errorcode.get(found)}, expected {errno.errorcode.get(wanted)}"
        return not wanted

    @initialize()
    def start(self) -> None:
        for path, type in (("a", DIRECTORY), ("b", DIRECTORY), ("a/a", DIRECTORY), ("a/b", FILE), ("c", FILE)):
            self.both(partial(self.model.create, path, type), partial(self.fs.mknod, path, type))

    @rule(path=NEW, type=st.sampled_from([FILE, DIRECTORY, DIRECTORY, SYMLINK]))
    def create(self, path: New, type: int) -> None:
        name, target = self.new(path), b"somewhere" if type == SYMLINK else b""
        self.both(lambda: self.model.create(name, type), lambda: self.fs.mknod(name, type, target=target))

    @rule(path=OLD, skip=st.booleans())
    def unlink(self, path: Old, skip: bool) -> None:
        name = self.old(path)
        self.both(lambda: self.model.unlink(name, skip), lambda: self.fs.unlink(name, skip_trash=skip))

    @rule(path=OLD, skip=st.booleans())
    def rmdir(self, path: Old, skip: bool) -> None:
        name = self.old(path, dirs=True)
        self.both(lambda: self.model.rmdir(name, skip), lambda: self.fs.rmdir(name, skip_trash=skip))

    @rule(old=OLD, new=NEW)
    def link(self, old: Old, new: New) -> None:
        src, dst = self.old(old), self.new(new)
        self.both(lambda: self.model.link(src, dst), lambda: self.fs.link(src, dst))

    @rule(old=OLD, new=NEW, flags=st.sampled_from([0, 0, NOREPLACE, EXCHANGE]))
    def rename(self, old: Old, new: New, flags: int) -> None:
        src, dst = self.old(old), self.new(new)
        self.both(lambda: self.model.rename(src, dst, flags), lambda: self.fs.rename(src, dst, flags))

    @rule(old=OLD, new=NEW)
    def clone(self, old: Old, new: New) -> None:
        src, dst = self.old(old), self.new(new)
        self.both(lambda: self.model.clone(src, dst), lambda: self.fs.clone(src, dst))

    @rule(path=PATHS, skip=st.booleans(), threads=st.sampled_from([1, 1, 3]))
    def remove_tree(self, path: str, skip: bool, threads: int) -> None:
        self.both(
            lambda: self.model.remove_tree(path, skip),
            lambda: self.fs.remove_tree(path, skip_trash=skip, threads=threads),
        )

    @rule(path=OLD)
    def hold(self, path: Old) -> None:
        name = self.old(path)
        try:
            if self.model.find(name).type == FILE:
                self.fs.hold(name)
        except Fails:
            pass

    @rule()
    def let_go(self) -> None:
        for ino in list(self.fs.held):
            self.fs.let_go(ino)

    @rule(path=OLD)
    def set_quota(self, path: Old) -> None:
        name = self.old(path, dirs=True)
        try:
            if self.model.find(name).is_dir:
                self.fs.set_quota(name)
        except Fails:
            pass

    @invariant()
    def volume_is_sound(self) -> None:
        assert check(self.fs.engine) == []

    @invariant()
    def tree_is_the_models(self) -> None:
        inos: dict[int, Node] = {}
        names: dict[int, list[bytes]] = {}
        self.compare(1, self.model.root, b"", inos, names)
        assert len(set(map(id, inos.values()))) == len(inos)
        for ino, expected in names.items():
            found = [path for path in paths(self.fs.reader, self.fs.vol, ino) if not path.startswith(b"/.trash/")]
            assert sorted(found) == sorted(expected)

    def compare(self, ino: int, node: Node, path: bytes, inos: dict[int, Node], names: dict[int, list[bytes]]) -> None:
        attr = self.fs.reader.attr(ino)
        assert (attr.type, attr.nlink) == (node.type, node.nlink), path
        assert inos.setdefault(ino, node) is node, path
        names.setdefault(ino, []).append(path or b"/")
        items = {item.name: item for item in self.fs.reader.list_entries(ino).items} if node.is_dir else {}
        assert sorted(items) == sorted(name.encode() for name in node.entries), path
        for name, child in node.entries.items():
            item = items[name.encode()]
            assert item.type == child.type
            self.compare(item.ino, child, path + b"/" + item.name, inos, names)


@pytest.mark.parametrize("trash_days", [0, 1])
@pytest.mark.parametrize("kind", ["memkv", "sqlite3"])
def test_names_behave_like_a_dumb_tree(kind: str, trash_days: int, long_run: bool) -> None:
    machine = type("Names", (Names,), {"kind": kind, "trash_days": trash_days})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=400 if long_run else 30, stateful_step_count=60 if long_run else 30, deadline=None,
            suppress_health_check=list(HealthCheck), print_blob=True,
        ),
    )  # fmt: skip
