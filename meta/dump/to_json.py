"""A dump as a JSON document: the tree of a volume, each entry where it lies. Not its reading (`from_json`).

The members and their order, the indentation, and what is left out when it is zero are the official client's. A file
with several names stands in full at each of them. An entry whose inode is gone has only a number and a type.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import IO, Any, Final

from meta.acl import Rule
from meta.attr import Attr
from meta.dump.copy import Copy, Progress, _nothing, signed, unsigned
from meta.dump.escape import escape
from meta.errors import Corrupt, Refused
from meta.setting import Setting
from meta.slices import decode_slices
from meta.types import DIRECTORY, FILE, ROOT, SYMLINK, TRASH

TYPES: Final = ("unknown", "regular", "directory", "symlink", "fifo", "blockdev", "chardev", "socket")
"""By the number of the type; what stands at `type` in the document."""

REMOVED: Final = "removed"


def shown(setting: Setting, keep_secrets: bool) -> Setting:
    """The setting as a dump has it: as it is stored, its secrets hidden or, unless they are wanted, taken out."""
    if keep_secrets:
        return setting
    return replace(
        setting,
        secret_key=REMOVED if setting.secret_key else "",
        session_token=REMOVED if setting.session_token else "",
    )


class JsonDump:
    """Writes one document."""

    def __init__(self, copy: Copy, out: IO[str], progress: Progress = _nothing) -> None:
        self._copy = copy
        self._out = out
        self._progress = progress

    def write(self, path: bytes = b"/", *, skip_trash: bool = False, keep_secrets: bool = False) -> None:
        """Write the volume, or the directory `path` of it. `Refused` if there is no such directory."""
        names = [name for name in path.split(b"/") if name]
        top = self._directory(names)
        setting = self._copy.setting
        assert setting is not None
        self._out.write("{\n  " + f'"Setting": {_indented(shown(setting, keep_secrets).to_json(2))},\n')
        self._out.write(f'  "Counters": {_indented(json.dumps(self._counters(), indent=2))},\n')
        self._list("Sustained", self._sustained())
        self._list("DelFiles", self._deleted())
        self._quotas(subdir=bool(names))
        self._tree("FSTree", top)
        if not names and not skip_trash and self._copy.attr(TRASH) is not None:
            self._out.write(",\n")
            self._tree("Trash", TRASH)
        self._out.write("\n}\n")

    def _directory(self, names: list[bytes]) -> int:
        ino = ROOT
        for name in names:
            found = self._copy.row("SELECT ino, type FROM edge WHERE parent = ? AND name = ?", signed(ino), name)
            if found is None or found[1] != DIRECTORY:
                raise Refused(20 if found else 2)  # ENOTDIR, ENOENT
            ino = unsigned(found[0])
        return ino

    # -- the head

    def _counters(self) -> dict[str, int]:
        found: dict[str, int] = dict(self._copy.rows("SELECT name, value FROM counter"))
        return {
            "usedSpace": found["usedSpace"], "usedInodes": found["totalInodes"], "nextInodes": found["nextInode"],
            "nextChunk": found["nextChunk"], "nextSession": found["nextSession"], "nextTrash": found["nextTrash"],
        }  # fmt: skip

    def _list(self, name: str, items: Iterator[str]) -> None:
        self._out.write(f'  "{name}": [')
        between = "\n"
        for item in items:
            self._out.write(f"{between}    {item}")
            between = ",\n"
        self._out.write("],\n" if between == "\n" else "\n  ],\n")

    def _sustained(self) -> Iterator[str]:
        for (sid,) in list(self._copy.rows("SELECT DISTINCT sid FROM sustained ORDER BY sid")):
            inos = [unsigned(ino) for (ino,) in self._copy.rows("SELECT ino FROM sustained WHERE sid = ?", sid)]
            yield _compact({"sid": sid, "inodes": inos})

    def _deleted(self) -> Iterator[str]:
        for ino, length, expire in self._copy.rows("SELECT ino, length, expire FROM deleted ORDER BY ino"):
            yield _compact({"inode": unsigned(ino), "length": unsigned(length), "expire": expire})

    def _quotas(self, subdir: bool) -> None:
        for kind, name in (("dir", "Quotas"), ("user", "UserQuotas"), ("group", "GroupQuotas")):
            if subdir and kind != "dir":
                continue
            limits = {
                str(unsigned(key)): {"maxSpace": space, "maxInodes": inodes}
                for key, space, inodes in self._copy.rows(
                    "SELECT key, max_space, max_inodes FROM quota WHERE kind = ? ORDER BY key", kind
                )
                if (space, inodes) != (-1, -1)
            }
            if limits:
                self._out.write(f'  "{name}": {_indented(json.dumps(limits, indent=2))},\n')

    # -- the tree

    def _tree(self, name: str, top: int) -> None:
        """A directory and all below, without recursion: trees may be deeper than stacks."""
        write = self._out.write
        write(f'  "{name}": {{\n')
        self._attributes(top, DIRECTORY, 4)
        write(',\n    "entries": {')
        levels: list[tuple[Iterator[tuple[Any, ...]], bool]] = [(self._entries(top), True)]
        done = 0
        while levels:
            entries, is_first = levels[-1]
            entry = next(entries, None)
            indent = 2 + 4 * len(levels)
            if entry is None:
                levels.pop()
                write("\n" + " " * (indent - 2) + "}\n" + " " * (indent - 4) + "}")
                continue
            levels[-1] = (entries, False)
            text, ino, kind = escape(entry[0]), unsigned(entry[1]), entry[2]
            write(("\n" if is_first else ",\n") + " " * indent + f'"{text}": {{\n')
            kind = self._attributes(ino, kind, indent + 2)
            if kind == DIRECTORY:
                write(",\n" + " " * (indent + 2) + '"entries": {')
                levels.append((self._entries(ino), True))
            else:
                write("\n" + " " * indent + "}")
            done += 1
            if done % 1000 == 0:
                self._progress("entries", 1000)
        self._progress("entries", done % 1000)

    def _entries(self, ino: int) -> Iterator[tuple[Any, ...]]:
        return self._copy.rows("SELECT name, ino, type FROM edge WHERE parent = ? ORDER BY name", signed(ino))

    def _attributes(self, ino: int, kind: int, indent: int) -> int:
        """Everything of an entry but what lies in it; the inode's type."""
        attr = self._copy.attr(ino)
        margin = " " * indent
        if attr is None:
            lost = Attr(kind, nlink=2 if kind == DIRECTORY else 1)
            self._out.write(f'{margin}"attr": {_compact(_attr(ino, lost))}')
            return kind
        parts = [f'"attr": {_compact(_attr(ino, attr))}']
        if attr.type == SYMLINK:
            target = self._copy.row("SELECT target FROM symlink WHERE ino = ?", signed(ino))
            parts.append(f'"symlink": "{escape(target[0]) if target else ""}"')
        xattrs = self._copy.rows("SELECT name, value FROM xattr WHERE ino = ? ORDER BY name", signed(ino))
        named = [{"name": name.decode(errors="replace"), "value": escape(value)} for name, value in xattrs]
        if named:
            parts.append(f'"xattrs": {_compact(named)}')
        for member, acl_id in (("posix_acl_access", attr.access_acl), ("posix_acl_default", attr.default_acl)):
            rule = self._copy.rule(acl_id) if acl_id else None
            if rule is not None:
                parts.append(f'"{member}": {_compact(_rule(rule))}')
        chunks = list(self._chunks(ino)) if attr.type == FILE else []
        if len(chunks) == 1:
            parts.append(f'"chunks": [{chunks[0]}]')
        elif chunks:
            lines = ",\n".join(f"{margin}  {chunk}" for chunk in chunks)
            parts.append(f'"chunks": [\n{lines}\n{margin}]')
        self._out.write(",\n".join(margin + part for part in parts))
        return attr.type

    def _chunks(self, ino: int) -> Iterator[str]:
        for indx, data in self._copy.rows("SELECT indx, data FROM chunk WHERE ino = ? ORDER BY indx", signed(ino)):
            try:
                records = decode_slices(data)
            except Corrupt as problem:
                raise Corrupt(f"chunk {indx} of inode {ino}: {problem}") from None
            yield _compact({"index": indx, "slices": [_slice(*record) for record in records]})


def _slice(pos: int, slice_id: int, size: int, off: int, length: int) -> dict[str, int]:
    found = {"id": slice_id}
    if pos:
        found["pos"] = pos
    found["size"] = size
    if off:
        found["off"] = off
    return {**found, "len": length}


def _attr(ino: int, attr: Attr) -> dict[str, object]:
    found: dict[str, object] = {"inode": ino}
    if attr.flags:
        found["flags"] = attr.flags
    found |= {
        "type": TYPES[attr.type] if attr.type < len(TYPES) else TYPES[0], "mode": attr.mode, "uid": attr.uid,
        "gid": attr.gid, "atime": attr.atime, "mtime": attr.mtime, "ctime": attr.ctime,
    }  # fmt: skip
    for name in ("atimensec", "mtimensec", "ctimensec"):
        if getattr(attr, name):
            found[name] = getattr(attr, name)
    found |= {"nlink": attr.nlink, "length": attr.length if attr.type == FILE else 0}
    for name in ("rdev", "tier"):
        if getattr(attr, name):
            found[name] = getattr(attr, name)
    return found


def _rule(rule: Rule) -> dict[str, object]:
    def named(pairs: Any) -> list[dict[str, int]] | None:
        return [{"id": number, "perm": perm} for number, perm in pairs] or None

    return {
        "owner": rule.owner, "group": rule.group, "other": rule.other, "mask": rule.mask,
        "users": named(rule.users), "groups": named(rule.groups),
    }  # fmt: skip


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _indented(text: str) -> str:
    """A document inside of the document."""
    return text.replace("\n", "\n  ")
