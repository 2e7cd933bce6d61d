"""The commands of `.control`: payloads decoded, work done in the mount, results as the official tools read them.

Not here: the stream around them (`channel`), warm-up (`warmup`), compaction (`compact`).
"""

from __future__ import annotations

import errno
import json
import logging
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from chunkstore.errors import StoreError
from chunkstore.naming import blocks_of
from juicefs_py.control.channel import Job, framed
from juicefs_py.control.compact import Compaction
from juicefs_py.control.rights import READ, SEARCH, Rights
from juicefs_py.control.warmup import FillCache
from meta.errors import MetaError
from meta.plock import decode_plocks
from meta.rules.summary import TreeSummary
from meta.types import CHUNK_SHIFT, FILE, Caller

if TYPE_CHECKING:
    from juicefs_py.vfs import VFS

log = logging.getLogger(__name__)

RMR, LEGACY_INFO, FILL_CACHE, INFO, CLONE, SUMMARY, COMPACT = range(1002, 1009)
DONE = b"\0"


class Payload:
    """Reads the fields of a request one after the other; trailing ones may be missing."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, code: str, default: int | None = None) -> int:
        """A big endian number (struct code); `default` at the end of the data."""
        field = struct.Struct(">" + code)
        if self._at + field.size > len(self._data):
            if default is None:
                raise OSError(errno.EINVAL, "control request is too short")
            return default
        (value,) = field.unpack_from(self._data, self._at)
        self._at += field.size
        return int(value)

    def bytes(self, count: int) -> bytes:
        """The next `count` bytes."""
        if self._at + count > len(self._data):
            raise OSError(errno.EINVAL, "control request is too short")
        self._at += count
        return self._data[self._at - count : self._at]


class ControlCommands:
    """The commands, on behalf of whoever opened the control file."""

    def __init__(self, vfs: VFS, caller: Caller) -> None:
        self._vfs = vfs
        self._meta = vfs.meta
        self._caller = caller
        self._rights = Rights(vfs.meta, caller)
        self._table: dict[int, Callable[[Payload, Job], bytes]] = {
            RMR: self._rmr, LEGACY_INFO: self._legacy_info, FILL_CACHE: FillCache(vfs, caller).run, INFO: self._info,
            CLONE: self._clone, SUMMARY: self._summary, COMPACT: self._compact,
        }  # fmt: skip

    def run(self, command: int, payload: bytes, job: Job) -> bytes:
        """The end of the answer. Errors are raised."""
        handler = self._table.get(command)
        if handler is None:
            return bytes((errno.EINVAL,))
        return handler(Payload(payload), job)

    def _rmr(self, payload: Payload, job: Job) -> bytes:
        parent = payload.take("Q")
        name = payload.bytes(payload.take("B"))
        flags, threads = payload.take("B", 0), payload.take("B", 50)
        self._rights.reach(parent)
        self._meta.remove_tree(
            self._caller,
            parent,
            name,
            skip_trash=bool(flags & 1),
            threads=threads,
            progress=lambda removed: job.progress(1),
        )
        self._vfs.dir_changed(parent, name, there=False)
        if self._vfs.notifier is not None:
            self._vfs.notifier.inval_entry(parent, name)
        return DONE

    def _clone(self, payload: Payload, job: Job) -> bytes:
        source, _, parent = payload.take("Q"), payload.take("Q"), payload.take("Q")
        name = payload.bytes(payload.take("B"))
        umask, mode = payload.take("H"), payload.take("B")
        self._rights.require(source, READ)
        self._rights.reach(parent)
        self._vfs.writers.commit_all()
        total = self._meta.summary(source)
        job.total = total.files + total.dirs
        self._meta.clone(self._caller, source, parent, name, mode, umask, progress=lambda n: job.progress(n))
        self._vfs.dir_changed(parent, name, there=True)
        if self._vfs.notifier is not None:
            self._vfs.notifier.inval_entry(parent, name)
        return DONE

    def _summary(self, payload: Payload, job: Job) -> bytes:
        ino, depth = payload.take("Q"), payload.take("B", 3)
        top, strict = payload.take("B", 10), payload.take("B", 0)
        self._rights.require(ino, READ | SEARCH if self._meta.getattr(ino).is_dir else READ)
        tree = self._meta.tree_summary(ino, depth, top, bool(strict))
        job.done, job.total = tree.total.files + tree.total.dirs, tree.total.size
        return framed(json.dumps({"Errno": 0, "Tree": _tree(tree, "")}).encode())

    def _compact(self, payload: Payload, job: Job) -> bytes:
        Compaction(self._vfs, self._caller).run(payload, job)
        return DONE

    def _info(self, payload: Payload, job: Job) -> bytes:
        ino, recursive = payload.take("Q"), bool(payload.take("B", 1))
        raw, strict = bool(payload.take("B", 0)), bool(payload.take("B", 0))
        try:
            document = self.info(ino, recursive, raw, strict, job)
        except MetaError as problem:
            document = {"Ino": ino, "Failed": True, "Reason": str(problem)}
        return framed(json.dumps(document).encode())

    def info(self, ino: int, recursive: bool, raw: bool, strict: bool, job: Job) -> dict[str, object]:
        """What `juicefs info` shows of an inode."""
        meta = self._meta
        self._rights.require(ino, READ)
        file = self._vfs.writers.get(ino)
        if file is not None:
            file.commit_all()
        attr = meta.getattr(ino)
        total = meta.summary(ino, recursive=recursive, strict=strict)
        job.done, job.total = total.files + total.dirs, total.size
        chunks, objects = self._pieces(ino, attr.length) if attr.type == FILE else ([], [])
        return {
            "Ino": ino, "Failed": False, "Reason": "",
            "Summary": {"Length": total.length, "Size": total.size, "Files": total.files, "Dirs": total.dirs},
            "Paths": [path.decode(errors="surrogateescape") for path in meta.paths(ino)],
            "Chunks": chunks if raw else None, "Objects": None if raw else objects, **self._locks(ino),
            "Tier": self._tier(attr.tier, objects),
            "RestoreStatus": "",
        }  # fmt: skip

    def _tier(self, number: int, objects: list[dict[str, object]]) -> dict[str, object]:
        """The tier and its class; where that says nothing, or is not what the last object has, the object's own."""
        tier = self._meta.setting.tiers.get(number)
        wanted, tag = (tier.storage_class, tier.tag) if tier else ("", "")
        last = next((str(piece["Key"]) for piece in reversed(objects) if piece["Key"]), "")
        shown = wanted
        if last:
            try:
                actual = self._vfs.store.bucket.head(last.partition("/")[2]).storage_class
            except StoreError as problem:
                log.warning("the storage class of %s is not to be had: %s", last, problem)
            else:
                if not number and not wanted:
                    shown = f"actual({actual})"
                elif actual != wanted:
                    shown = f"expected({wanted}),actual({actual})"
        return {"ID": number, "StorageClass": shown, "Tag": tag}

    def _pieces(self, ino: int, length: int) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
        """Slices and objects of a file, as official tools list them; a hole has no key."""
        chunks: list[dict[str, object]] = []
        objects: list[dict[str, object]] = []
        config = self._vfs.store.config
        prefix = self._meta.setting.name + "/"
        for indx in range((length + (1 << CHUNK_SHIFT) - 1) >> CHUNK_SHIFT):
            for piece in self._meta.read_chunk(ino, indx):
                chunks.append({
                    "ChunkIndex": indx, "Id": piece.id, "Size": piece.size, "Off": piece.off, "Len": piece.len
                })  # fmt: skip
                if not piece.id:
                    objects.append({
                        "ChunkIndex": indx, "Key": "", "Size": piece.size, "Off": piece.off, "Len": piece.len
                    })  # fmt: skip
                    continue
                for block in blocks_of(piece.id, piece.size, config.block_size):
                    start = block.indx * config.block_size
                    first, last = max(piece.off, start), min(piece.off + piece.len, start + block.size)
                    if first < last:
                        objects.append({
                            "ChunkIndex": indx, "Key": prefix + block.key(config.hash_prefix), "Size": block.size,
                            "Off": first - start, "Len": last - first,
                        })  # fmt: skip
        return chunks, objects

    def _locks(self, ino: int) -> dict[str, object]:
        """The locks that any client holds on the file."""
        reader = self._meta.reader
        records = [
            {"Sid": sid, "Owner": owner, "Type": lock.type, "Pid": lock.pid, "Start": lock.start, "End": lock.end}
            for (sid, owner), stored in sorted(reader.plocks(ino).items()) for lock in decode_plocks(stored)
        ]  # fmt: skip
        whole = [
            {"Sid": sid, "Owner": owner, "Type": kind.decode()}
            for (sid, owner), kind in sorted(reader.flocks(ino).items())
        ]
        return {"PLocks": records or None, "FLocks": whole or None}

    def _legacy_info(self, payload: Payload, job: Job) -> bytes:
        ino, recursive, raw = payload.take("Q"), bool(payload.take("B", 1)), bool(payload.take("B", 0))
        try:
            text = _legacy_text(self.info(ino, recursive, raw, False, job), raw)
        except MetaError as problem:
            text = str(problem)
        job.done = job.total = 0  # this answer has no frames
        data = text.encode(errors="surrogateescape")
        return struct.pack(">I", len(data)) + data


def _legacy_text(info: dict[str, object], raw: bool) -> str:
    total = info["Summary"]
    assert isinstance(total, dict)
    lines = [
        f"  inode: {info['Ino']}", f"  files: {total['Files']}", f"   dirs: {total['Dirs']}",
        f" length: {total['Length']}", f"   size: {total['Size']}",
    ]  # fmt: skip
    paths = info["Paths"]
    assert isinstance(paths, list)
    lines += [f"   path: {paths[0]}"] if len(paths) == 1 else ["  paths:", *(f"\t{path}" for path in paths)]
    rows = info["Chunks"] if raw else info["Objects"]
    if isinstance(rows, list) and rows:
        lines.append(" chunks:" if raw else "objects:")
        name = "Id" if raw else "Key"
        lines += [f"\t{r['ChunkIndex']}:\t{r[name]}\t{r['Size']}\t{r['Off']}\t{r['Len']}" for r in rows]
    return "\n".join(lines) + "\n"


def _tree(tree: TreeSummary, parent: str) -> dict[str, object]:
    name = tree.name.decode(errors="surrogateescape")
    path = f"{parent}/{name}" if parent else name
    document: dict[str, object] = {
        "Inode": tree.ino, "Path": path, "Type": tree.type, "Size": tree.total.size, "Files": tree.total.files,
        "Dirs": tree.total.dirs,
    }  # fmt: skip
    if tree.children:
        document["Children"] = [_tree(child, path) for child in tree.children]
    return document
