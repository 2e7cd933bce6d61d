"""A JSON dump, read piece by piece into a `Copy`, and what it does not say worked out. Not its writing (`to_json`).

Of the head only what is restored is taken. What follows from the tree is counted in it, not believed: link counts,
parents, references to slices, statistics, use of quotas, totals, the next numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any, Final

from meta.acl import Rule
from meta.attr import Attr
from meta.dump.copy import DAMAGE, Copy, Progress, _nothing, signed
from meta.dump.escape import unescape
from meta.dump.to_json import TYPES
from meta.errors import Corrupt, MetaError
from meta.setting import Setting
from meta.slices import Slice, encode_slices
from meta.types import DIR_LENGTH, DIRECTORY, FILE, ROOT, TRASH

Event = tuple[str, Any]
"""What stands next in the document: start_map, map_key NAME, end_map, start_array, end_array, or a value."""

_BATCH: Final = 500


def read_json(source: IO[bytes], copy: Copy, progress: Progress = _nothing) -> None:
    """Read a whole document. `Corrupt` if it is not a dump, or ends too early."""
    try:
        import ijson
    except ImportError:
        raise MetaError("reading a JSON dump needs the package ijson: pip install ijson") from None
    try:
        _Reader(iter(ijson.basic_parse(source, use_float=False)), copy, progress).document()
        _work_out(copy)
    except (ijson.JSONError, StopIteration) as problem:
        raise Corrupt(f"not a dump, or cut short: {' '.join(str(problem).split())}".rstrip(": ")) from None
    except DAMAGE as problem:
        raise Corrupt(f"not a dump: {type(problem).__name__}: {problem}") from None


class _Reader:
    """One document."""

    def __init__(self, events: Iterator[Event], copy: Copy, progress: Progress) -> None:
        self._events = events
        self._copy = copy
        self._progress = progress
        self._rules: dict[Rule, int] = {}
        self._nodes: list[tuple[int, Attr]] = []
        self._rows: dict[str, list[tuple[Any, ...]]] = {
            name: [] for name in ("edge", "chunk", "symlink", "xattr", "acl", "deleted", "quota")
        }

    def document(self) -> None:
        kind, _ = next(self._events)
        if kind != "start_map":
            raise Corrupt("not a dump: the document is no object")
        seen = set()
        for name in self._members():
            seen.add(name)
            if name == "Setting":
                self._copy.setting = Setting.parse(json.dumps(self._value(), default=int))
            elif name == "Counters":
                self._value()
            elif name == "DelFiles":
                for file in self._value() or ():
                    self._add("deleted", signed(file["inode"]), signed(file["length"]), file["expire"])
            elif name in ("Quotas", "UserQuotas", "GroupQuotas"):
                kinds = {"Quotas": "dir", "UserQuotas": "user", "GroupQuotas": "group"}
                for key, limits in (self._value() or {}).items():
                    self._add("quota", kinds[name], signed(int(key)), limits["maxSpace"], limits["maxInodes"], 0, 0)
            elif name in ("FSTree", "Trash"):
                self._tree(ROOT if name == "FSTree" else TRASH)
            else:
                self._value()
        self._flush()
        for name in ("Setting", "Counters", "FSTree"):
            if name not in seen:
                raise Corrupt(f"not a dump: no {name}")

    # -- JSON

    def _members(self) -> Iterator[str]:
        """Names of the members of the object that has begun; whoever takes one must take its value as well."""
        while True:
            kind, value = next(self._events)
            if kind == "end_map":
                return
            yield value

    def _value(self) -> Any:
        """The value that comes next, whole."""
        kind, value = next(self._events)
        if kind == "start_map":
            return {name: self._value() for name in self._members()}
        if kind == "start_array":
            items = []
            while (event := next(self._events))[0] != "end_array":
                items.append(self._rest(event))
            return items
        return value

    def _rest(self, event: Event) -> Any:
        kind, value = event
        if kind == "start_map":
            return {name: self._value() for name in self._members()}
        return value

    # -- the tree

    def _tree(self, top: int) -> None:
        """A directory and all below, without recursion."""
        if next(self._events)[0] != "start_map":
            raise Corrupt("not a dump: a tree that is no object")
        levels: list[tuple[int, Iterator[str]]] = []  # directory, and the names that are left in it
        ino, entries = self._entry(self._members(), 0, b"", top)
        if entries is not None:
            levels.append((ino, entries))
        while levels:
            parent, names = levels[-1]
            name = next(names, None)
            if name is None:
                levels.pop()
                self._close_entry()
                continue
            if next(self._events)[0] != "start_map":
                raise Corrupt(f"not a dump: entry {name!r} is no object")
            ino, entries = self._entry(self._members(), parent, unescape(name))
            if entries is not None:
                levels.append((ino, entries))

    def _close_entry(self) -> None:
        """Behind the entries of a directory nothing else may come but its end."""
        for name in self._members():
            raise Corrupt(f"not a dump: {name} behind entries")

    def _entry(
        self, members: Iterator[str], parent: int, name: bytes, top: int = 0
    ) -> tuple[int, Iterator[str] | None]:
        """Take an entry in; its inode, and, if it has entries, their names."""
        found: dict[str, Any] = {}
        entries: Iterator[str] | None = None
        for member in members:
            if member == "entries":
                kind, _ = next(self._events)
                if kind == "null":
                    continue
                entries = self._members()
                break
            found[member] = self._value()
        ino, attr = self._node(found, top)
        if not top:
            attr.parent = parent
            self._add("edge", signed(parent), name, signed(ino), attr.type)
        self._nodes.append((ino, attr))
        if len(self._nodes) >= _BATCH:
            self._flush()
        return ino, entries

    def _node(self, found: dict[str, Any], top: int) -> tuple[int, Attr]:
        said = found["attr"]
        ino, kind = top or said["inode"], TYPES.index(said["type"])
        attr = Attr(
            kind, said.get("mode", 0), said.get("uid", 0), said.get("gid", 0), flags=said.get("flags", 0),
            atime=said.get("atime", 0), atimensec=said.get("atimensec", 0), mtime=said.get("mtime", 0),
            mtimensec=said.get("mtimensec", 0), ctime=said.get("ctime", 0), ctimensec=said.get("ctimensec", 0),
            nlink=said.get("nlink", 1), length=said.get("length", 0), rdev=said.get("rdev", 0),
            tier=said.get("tier", 0), parent=ROOT if top else 0,
        )  # fmt: skip
        if kind == DIRECTORY:
            attr.length = DIR_LENGTH
        if "symlink" in found:
            target = unescape(found["symlink"])
            attr.length = len(target)
            self._add("symlink", signed(ino), target)
        for each in found.get("xattrs") or ():
            self._add("xattr", signed(ino), each["name"].encode(), unescape(each["value"]))
        attr.access_acl = self._rule(found.get("posix_acl_access"))
        attr.default_acl = self._rule(found.get("posix_acl_default"))
        for chunk in found.get("chunks") or ():
            records = [
                Slice(
                    each.get("pos", 0), each["id"] if "id" in each else each["chunkid"], each.get("size", 0),
                    each.get("off", 0), each.get("len", 0),
                )
                for each in chunk["slices"]
            ]  # fmt: skip
            self._add("chunk", signed(ino), chunk["index"], encode_slices(records))
        return ino, attr

    def _rule(self, said: dict[str, Any] | None) -> int:
        if said is None:
            return 0

        def named(items: list[dict[str, int]] | None) -> tuple[tuple[int, int], ...]:
            return tuple((each["id"], each["perm"]) for each in items or ())

        rule = Rule(
            said["owner"], said["group"], said["mask"], said["other"], named(said["users"]), named(said["groups"])
        )
        number = self._rules.get(rule)
        if number is None:
            number = self._rules[rule] = len(self._rules) + 1
            self._add("acl", number, rule.encode())
        return number

    def _add(self, table: str, *values: Any) -> None:
        rows = self._rows[table]
        rows.append(values)
        if len(rows) >= _BATCH:
            self._copy.put(table, rows, self._progress)
            rows.clear()

    def _flush(self) -> None:
        self._copy.put_nodes(self._nodes, self._progress)
        self._nodes.clear()
        for table, rows in self._rows.items():
            self._copy.put(table, rows, self._progress)
            rows.clear()


def _work_out(copy: Copy) -> None:
    """Everything that follows from the tree."""
    db = copy.db
    db.execute("CREATE INDEX edge_ino ON edge(ino)")
    db.execute(
        "UPDATE node SET nlink = (SELECT count(*) FROM edge e WHERE e.ino = node.ino),"
        " parent = (SELECT iif(count(*) = 1, max(parent), 0) FROM edge e WHERE e.ino = node.ino) WHERE type <> ?",
        (DIRECTORY,),
    )
    db.execute(
        "UPDATE node SET nlink = 2 + iif(ino >= ?1, 0,"
        " (SELECT count(*) FROM edge e WHERE e.parent = node.ino AND e.type = ?2)) WHERE type = ?2",
        (TRASH, DIRECTORY),
    )
    copy.count_references()
    db.execute(
        "INSERT INTO stat SELECT d.ino, coalesce(sum(iif(n.type = ?, n.length, 0)), 0), coalesce(sum(n.space), 0),"
        " count(e.ino) FROM node d LEFT JOIN edge e ON e.parent = d.ino LEFT JOIN node n ON n.ino = e.ino"
        " WHERE d.type = ? AND d.ino <> ? GROUP BY d.ino",
        (FILE, DIRECTORY, TRASH),
    )
    _use_of_quotas(copy)
    _totals(copy)


def _use_of_quotas(copy: Copy) -> None:
    for (ino,) in list(copy.rows("SELECT key FROM quota WHERE kind = 'dir'")):
        copy.db.execute(
            "UPDATE quota SET (used_space, used_inodes) = (WITH RECURSIVE below(ino, type) AS (SELECT ino, type FROM"
            " edge WHERE parent = ?1 UNION ALL SELECT e.ino, e.type FROM below b JOIN edge e ON e.parent = b.ino"
            " WHERE b.type = ?2) SELECT coalesce(sum(n.space), 0), count(*) FROM below JOIN node n USING (ino))"
            " WHERE kind = 'dir' AND key = ?1",
            (ino, DIRECTORY),
        )
    setting = copy.setting
    if setting is None or not setting.user_group_quota:
        return
    for kind, column in (("user", "uid"), ("group", "gid")):
        copy.db.execute(
            f"INSERT INTO quota SELECT '{kind}', {column}, -1, -1, sum(space), count(*) FROM node WHERE ino NOT IN"
            f" (?, ?) GROUP BY {column} ON CONFLICT DO UPDATE SET used_space = excluded.used_space,"
            " used_inodes = excluded.used_inodes",
            (ROOT, TRASH),
        )


def _totals(copy: Copy) -> None:
    space, inodes = copy.row("SELECT coalesce(sum(space), 0), count(*) FROM node WHERE ino NOT IN (?, ?)", ROOT, TRASH)
    (newest,) = copy.row("SELECT coalesce(max(ino), 1) FROM node WHERE ino < ?", TRASH)
    (last_slice,) = copy.row("SELECT coalesce(max(id), 0) FROM ref")
    (hours,) = copy.row("SELECT coalesce(max(ino), ?1) - ?1 FROM node WHERE ino >= ?1", TRASH)
    copy.put("counter", [
        ("usedSpace", space), ("totalInodes", inodes), ("nextInode", newest + 1), ("nextChunk", last_slice + 1),
        ("nextSession", 0), ("nextTrash", hours),
    ])  # fmt: skip
