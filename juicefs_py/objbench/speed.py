"""How fast is a storage? Objects are put, read, listed, looked at and deleted by several threads, and each is timed.

Not whether it does the right thing (`functional`), though what is read is compared with what was put. Small objects
have the keys 0, 1, 2 ..., big ones the keys behind them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from chunkstore.bucket import LIST_PAGE, Bucket
from juicefs_py.cli import log
from juicefs_py.cli.progress import Meter, Progress
from juicefs_py.objbench.cases import Wrong
from juicefs_py.objbench.local import LocalFiles, may_chown
from juicefs_py.objbench.outcome import BROKEN, LEFT_OUT, MISSING, Cell
from juicefs_py.objbench.stopping import Stopping

_MARK = 16  # bytes at the beginning of each object that are its own
_LET_GO_S = 10.0  # for requests under way when it is interrupted: one may still put an object
_LOOK_S = 0.1


class Load(NamedTuple):
    """What is done, how often."""

    block_size: int
    blocks: int
    small_size: int
    smalls: int
    threads: int

    @property
    def objects(self) -> int:
        return self.smalls + self.blocks

    @property
    def listed(self) -> int:
        """Objects of one list."""
        return min(self.objects, LIST_PAGE)


class Item(NamedTuple):
    """One measurement: its name in errors, its title, and what is done for each number of a range."""

    name: str
    title: str
    numbers: range
    work: Callable[[int], object]
    counts: int = 1  # objects that each of them stands for


class Measured(NamedTuple):
    """What came out: seconds, or what stands in their place."""

    name: str
    title: str
    seconds: float
    instead: Cell | None = None


class Content:
    """What objects of one size hold: each something of its own, all the same behind it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._rest = os.urandom(size)[_MARK:]
        self._own = threading.local()

    def of(self, number: int) -> bytes:
        return self._mark(number) + self._rest

    def _mark(self, number: int) -> bytes:
        return number.to_bytes(_MARK, "little")[: self.size]

    def read(self, bucket: Bucket, number: int) -> None:
        """Read an object as a mount does, into memory that is used again. Wrong unless it holds what was put."""
        data: bytearray | None = getattr(self._own, "buffer", None)
        if data is None:
            data = self._own.buffer = bytearray(self.size)
        with memoryview(data) as view:
            got = bucket.get_into(str(number), 0, view)
        if got != self.size or not data.startswith(self._mark(number)) or not data.endswith(self._rest):
            raise Wrong(f"object {number} was read back different from what was put")


class Speed:
    """The measurements over a bucket. `files`: the same objects as files, where they are some."""

    def __init__(
        self, bucket: Bucket, load: Load, files: LocalFiles | None, progress: Progress, stop: Stopping | None = None
    ) -> None:
        self._stop = stop or Stopping()
        self._bucket = bucket
        self._load = load
        self._files = files
        self._progress = progress
        self._small = Content(load.small_size)
        self._big = Content(load.block_size)

    def run(self) -> Iterator[Measured]:
        """All measurements, in the order in which one needs the other."""
        for item in self._items():
            instead = self._not_now(item.name)
            if instead is not None:
                yield Measured(item.name, item.title, 0.0, instead)
                continue
            bar = self._progress.bar(item.title, len(item.numbers) * item.counts)
            try:
                yield Measured(item.name, item.title, _timed(item, self._load.threads, bar, self._stop))
            except Exception as problem:  # whatever the driver raised: it is what is being measured
                log.LOG.error("%s test failed: %s", item.name, problem)
                bar.advance(0, errors=1)
                yield Measured(item.name, item.title, 0.0, BROKEN)
            finally:
                bar.finish()

    def _items(self) -> Iterator[Item]:
        smalls, every = range(self._load.smalls), range(self._load.objects)
        blocks = range(self._load.smalls, self._load.objects)
        yield Item("smallput", "put small objects", smalls, lambda n: self._put(n, self._small))
        yield Item("smallget", "get small objects", smalls, lambda n: self._small.read(self._bucket, n))
        yield Item("put", "upload objects", blocks, lambda n: self._put(n, self._big))
        yield Item("get", "download objects", blocks, lambda n: self._big.read(self._bucket, n))
        yield Item("list", "list objects", range(self._load.threads), self._list, self._load.listed)
        yield Item("head", "head objects", every, self._head)
        yield Item("chtimes", "update mtime", every, lambda n: self._local.set_mtime(str(n)))
        yield Item("chmod", "change permissions", every, lambda n: self._local.chmod(str(n)))
        yield Item("chown", "change owner/group", every, lambda n: self._local.chown(str(n)))
        yield Item("delete", "delete objects", every, lambda n: self._bucket.delete(str(n)))

    def _not_now(self, name: str) -> Cell | None:
        if name not in ("chtimes", "chmod", "chown"):
            return None
        if self._files is None:
            return MISSING
        if name == "chown" and (reason := may_chown()):
            log.LOG.warning("chown test is skipped: %s", reason)
            return LEFT_OUT
        return None

    @property
    def _local(self) -> LocalFiles:
        assert self._files is not None
        return self._files

    def _put(self, number: int, content: Content) -> None:
        self._bucket.put(str(number), content.of(number))

    def _list(self, _: int) -> None:
        found = sum(1 for _ in islice(self._bucket.list_all(), self._load.listed))
        if found != self._load.listed:
            raise Wrong(f"a list shows {found} of {self._load.listed} objects")

    def _head(self, number: int) -> None:
        size = self._load.small_size if number < self._load.smalls else self._load.block_size
        info = self._bucket.head(str(number))
        if info.size != size:
            raise Wrong(f"object {number} has {info.size} bytes instead of {size}")


def _timed(item: Item, threads: int, bar: Meter, interrupted: Stopping) -> float:
    """Seconds that all of it takes by so many threads. Raises the first failure; nothing is begun after it."""
    numbers, turn = iter(item.numbers), threading.Lock()
    failures: list[Exception] = []

    def work() -> None:
        while not interrupted.asked and not failures:
            with turn:
                number = next(numbers, None)
            if number is None:
                return
            try:
                item.work(number)
            except Exception as problem:
                failures.append(problem)
                return
            bar.advance(item.counts)

    workers = [threading.Thread(target=work, name=f"objbench-{number}", daemon=True) for number in range(threads)]
    began = time.perf_counter()
    for each in workers:
        each.start()
    _wait_for(workers, interrupted)
    interrupted.check()
    if failures:
        raise failures[0]
    return time.perf_counter() - began


def _wait_for(workers: Sequence[threading.Thread], interrupted: Stopping) -> None:
    """Until they have ended; when interrupted, not for ever, as a request under way may hang."""
    deadline = 0.0
    for each in workers:
        while each.is_alive():
            each.join(_LOOK_S)
            if interrupted.asked:
                deadline = deadline or time.monotonic() + _LET_GO_S
                if time.monotonic() > deadline:
                    return
