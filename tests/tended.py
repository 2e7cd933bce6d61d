"""Volumes on any engine with objects in a directory, clients without a mount, and the commands that look after them.

Not what is expected of them. Commands run in this process, so that volumes in memory take part.
"""

from __future__ import annotations

import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from clients import fresh_url
from vfs_harness import CALLER, Client

from chunkstore.naming import Block, blocks_of
from chunkstore.writer import SliceWriter
from juicefs_py.cli import app
from juicefs_py.storage import volume_bucket
from juicefs_py.volume import OpenVolume, open_volume
from meta.config import MetaConfig
from meta.engines import open_engine
from meta.rules.format import init_volume
from meta.setting import Setting
from meta.types import SUPERUSER

BLOCK = 64 << 10
HOURS_S = 7200
FORMATS: dict[str, dict[str, Any]] = {
    "plain": {},
    "hash prefix": {"hash_prefix": True},
    "lz4": {"compression": "lz4"},
    "zstd": {"compression": "zstd"},
    "shards": {"shards": 3},
}
"""Settings that give objects other names, places or contents."""
_LINE = re.compile(r"<([A-Z]+)>: (.*?)(?: \[\w+@[\w<>]+\.py:\d+\])?$")


class Said(NamedTuple):
    """How a command ended: its exit code, and its log lines as level and text."""

    code: int
    lines: list[tuple[str, str]]

    def texts(self, level: str) -> list[str]:
        """Lines of that level."""
        return [text for name, text in self.lines if name == level]

    def last(self) -> str:
        """What comes last, whatever its level; a text of several lines in one piece."""
        return self.lines[-1][1]

    def complaints(self) -> list[str]:
        """Everything from WARNING on."""
        return [text for name, text in self.lines if name not in ("INFO", "DEBUG")]


class Tended:
    """One formatted volume. Kept open, so that one in memory lives."""

    def __init__(self, kind: str, directory: Path, capsys: pytest.CaptureFixture[str], **setting: Any) -> None:
        self.kind = kind
        self.url = fresh_url(kind, directory)
        self.directory = directory
        self.bucket_directory = directory / "data"
        self._capsys = capsys
        self.engine = open_engine(self.url)
        self.engine.prepare()
        bucket = f"{self.bucket_directory}/" + ("%d/" if setting.get("shards") else "")
        fields = {"storage": "file", "bucket": bucket, "trash_days": 0, "block_size": BLOCK >> 10, **setting}
        self.setting = Setting(name="vol", uuid=str(uuid.uuid4()), **fields)
        init_volume(self.engine, self.setting)
        with closing(volume_bucket(self.setting)) as created:
            created.create()

    def close(self) -> None:
        self.engine.close()

    @contextmanager
    def client(self, **config: Any) -> Iterator[Client]:
        """A file system over the volume, for the length of a `with`."""
        with self.opened(**config) as volume:
            yield Client(volume.vfs)

    @contextmanager
    def opened(self, **config: Any) -> Iterator[OpenVolume]:
        volume = open_volume(self.url, MetaConfig(no_bgjob=True, **config))
        try:
            yield volume
        finally:
            assert volume.meta.deleter.drain(20) and volume.meta.compactor.drain(20)
            volume.close()

    def run(self, command: str, *words: str) -> Said:
        """Run a command on the volume, which has nothing to print."""
        said, out = self.call(command, self.url, *words)
        assert out == ""
        return said

    def call(self, *words: str) -> tuple[Said, str]:
        """Run a whole command line; how it ended, and what it printed on stdout."""
        self._capsys.readouterr()
        code = app.run(["juicefs", *words])
        printed = self._capsys.readouterr()
        assert "Traceback" not in printed.err and "internal error" not in printed.err, printed.err
        return Said(code, _parsed(printed.err)), printed.out

    def keys(self) -> list[str]:
        """All objects below `chunks/`."""
        with closing(volume_bucket(self.setting)) as objects:
            return sorted(info.key for info in objects.list_all("chunks/"))

    def path(self, key: str) -> Path:
        """Where an object lies."""
        (found,) = [path for path in self.bucket_directory.rglob("*") if str(path).endswith(f"/vol/{key}")]
        return found

    def age(self, seconds: float = HOURS_S) -> None:
        """Make all objects older."""
        then = time.time() - seconds
        for path in self.bucket_directory.rglob("*"):
            if path.is_file():
                os.utime(path, (then, then))

    def leak(self, size: int = BLOCK + 10) -> list[str]:
        """Store a slice that is never committed; its keys."""
        with self.opened() as volume:
            slice_id = volume.meta.new_slice_id()
            store_slice(volume, slice_id, size)
        return [self.key(block) for block in blocks_of(slice_id, size, BLOCK)]

    def key(self, block: Block) -> str:
        return block.key(self.setting.hash_prefix)


Maker = Callable[..., Tended]
"""Makes volumes: of an engine, with fields of the setting."""


@contextmanager
def making(directory: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Maker]:
    """Volumes for the length of a `with`."""
    made: list[Tended] = []

    def make(kind: str, **setting: Any) -> Tended:
        made.append(Tended(kind, directory, capsys, **setting))
        return made[-1]

    try:
        yield make
    finally:
        for volume in made:
            volume.close()


COLUMNS = ("objects", "valid", "pending delete", "compacted", "leaked", "delslices", "delfiles", "skipped")


def gc_counts(said: Said) -> dict[str, int]:
    """The numbers of gc's last line by what they count. It must have gone well."""
    assert said.code == 0, said
    (text,) = [text for text in said.texts("INFO") if text.startswith("scanned ")]
    found: dict[str, int] = {}
    for part in text.removeprefix("scanned ").split(", "):
        number, _, rest = part.partition(" ")
        found[rest.partition(" (")[0]] = int(number)
    assert tuple(found) == COLUMNS
    return found


def store_slice(volume: OpenVolume, slice_id: int, size: int) -> None:
    """Store the data of a slice, without its metadata."""
    writer: SliceWriter = volume.store.new_writer()
    writer.set_id(slice_id)
    writer.write_at(0, os.urandom(size))
    writer.finish(size)


def _parsed(err: str) -> list[tuple[str, str]]:
    """Log lines as level and text; what follows without a level belongs to the line before."""
    records: list[str] = []
    for line in err.splitlines():
        if re.match(r"\d{4}/\d\d/\d\d ", line):
            records.append(line)
        else:
            records[-1] += "\n" + line
    found = [re.search(_LINE.pattern, record, re.S) for record in records]
    return [(match[1], match[2]) for match in found if match]


def fill(client: Client) -> dict[bytes, bytes]:
    """Files of several blocks, several chunks' worth of records, holes, links and a clone; contents by name."""
    top = client.mkdir(b"dir")
    client.mkdir(b"below", top)
    contents = {}
    for number in range(3):
        name, data = b"f%d" % number, os.urandom(BLOCK * number + 1000)
        file = client.create(name, top)
        file.write(0, data)
        file.close()
        contents[name] = data
    scattered = client.create(b"scattered", top)
    data = bytearray(40 * 4096)
    for number in range(12):
        at = number * 7919 % (36 * 4096)
        part = os.urandom(4096)
        scattered.write(at, part)
        scattered.flush()
        data[at : at + 4096] = part
    scattered.truncate(len(data))
    scattered.close()
    contents[b"scattered"] = bytes(data)
    client.vfs.meta.link(SUPERUSER, client.ino(b"dir", b"f1"), top, b"linked")
    client.vfs.symlink(CALLER, top, b"symlink", b"f1")
    client.vfs.meta.clone(SUPERUSER, client.ino(b"dir", b"f2"), top, b"cloned", 0, 0)
    contents |= {b"linked": contents[b"f1"], b"cloned": contents[b"f2"]}
    return contents


def read_all(client: Client, contents: dict[bytes, bytes]) -> None:
    """Every file has its content."""
    for name, data in contents.items():
        file = client.open(client.ino(b"dir", name), os.O_RDONLY)
        assert file.all() == data, name
        file.close()


class Background:
    """A thread that does something again and again while a `with` lasts; its failure is raised at the end."""

    def __init__(self, work: Any) -> None:
        self._work = work
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="background")
        self._failure: BaseException | None = None
        self.rounds = 0

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._work(self.rounds)
                self.rounds += 1
        except BaseException as failure:  # raised by whoever waits
            self._failure = failure

    def __enter__(self) -> Background:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)
        if self._failure is not None:
            raise self._failure
