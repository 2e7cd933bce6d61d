"""One volume on Redis, an official client in Go and ours: what one writes the other reads, and both work at once.

Run with the old client that scripts/test fetches (0.14.2), or with JFS_TEST_GO=/path/to/juicefs another one. What the
peer does wrong, found out with it alone, is told where it is walked around: here, `OwnNames`, `Contended`, `go_fsck`.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from conftest import end_all
from go_client import UNCACHED, GoMount, go_format, go_fsck, is_old, version
from mounts import Mount, Volume, juicefs
from needs import need_fuse
from together import INTERNAL, same_everywhere, work_together
from trees import Node, differences, snapshot
from varied_tree import attributes, fill
from volumes import check_volume

from meta.engines import open_engine
from meta.rules.check import check
from meta.slices import decode_slices

pytestmark = pytest.mark.battery

MISREAD_HOLES = r"contents/holes: content"
"""Of a zstd volume, read by 1.4.1: its decoder uses the memory behind a short block for its own purposes, and a hole
that is read together with the block shows that instead of zeros. What it has written itself it misreads as well.
"""
LEFT_CHUNKS = r"chunks? (of|\d+ belongs to) inode"
"""A deleted file loses the chunks that its last length tells of: if it was truncated before, some stay for `gc`."""
LATE_STATISTICS = r"has DirStat"
"""Directory statistics are added a second after the change, to the directories where the file has its names by then."""
NO_PARENTS = r"has several links, but parent|has parent \d+, but a name in|has parents \{"
"""0.14 has no map of the parents of linked files, and does not keep that of others."""

XATTR = ("--enable-xattr",)
TREE, FILES = "tree", 2000
LONG_AGO_NS = 1_700_000_000 * 10**9
MIXED_S, LONG_MIXED_S = 6.0, 300.0  # for each of two volumes


@pytest.fixture(autouse=True)
def peer() -> str:
    """Name of the other client, for what is printed."""
    need_fuse()
    return "Go {}.{}".format(*version())


@contextmanager
def mounted(*mounts: Mount | GoMount) -> Iterator[None]:
    """Start mounts; at the end stop them all, whatever happens."""
    started: list[Mount | GoMount] = []
    try:
        started += (mount.start() for mount in mounts)
        yield
    finally:
        end_all(started)


def make(volume: Volume, maker: str, *options: str) -> Volume:
    """Let one of the two clients make a volume that the other can use as well."""
    if maker == "go":
        return go_format(volume, *options)
    volume.format_options += options
    volume.format()
    if is_old():
        juicefs("config", volume.url, "--dir-stats=false")
    return volume


def check_sound(volume: Volume) -> None:
    """Both checkers are content, and a third one that shares no code with either: names, links, slices, totals."""
    faults = "|".join((LEFT_CHUNKS, LATE_STATISTICS, NO_PARENTS) if is_old() else (LEFT_CHUNKS, LATE_STATISTICS))
    with closing(open_engine(volume.url)) as engine:
        wrong = [problem for problem in check(engine) if not re.search(faults, problem)]
        slices = (record for _, _, records in engine.list_slices() for record in decode_slices(records))
        empty = {record.id for record in slices if record.id and not record.size}
    assert not wrong, "\n".join(wrong[:40])
    check_volume(volume, but=LEFT_CHUNKS)
    go_fsck(volume, empty)  # last: it deletes chunks that were left


def same_to_the_kernel(ours: Path, go: Path) -> None:
    """Both mounts give the same attributes and totals. statfs counts blocks, of 64 KiB with the old client."""
    assert attributes(ours, INTERNAL) == attributes(go, INTERNAL)
    one, other = os.statvfs(ours), os.statvfs(go)
    assert one.f_files - one.f_ffree == other.f_files - other.f_ffree
    spaces = [(info.f_blocks - info.f_bfree) * info.f_frsize for info in (one, other)]
    assert abs(spaces[0] - spaces[1]) <= max(one.f_frsize, other.f_frsize), spaces


@pytest.mark.parametrize(
    ("filler", "compression"),
    [
        ("go", "lz4"), ("ours", "none"),
        *[pytest.param(*case, marks=pytest.mark.long) for case in
          [("go", "none"), ("ours", "lz4"), ("go", "zstd"), ("ours", "zstd")]],
    ],
)  # fmt: skip
def test_what_one_client_fills_the_other_reads(scratch: Path, peer: str, filler: str, compression: str) -> None:
    """Every byte, attribute and link."""
    volume = make(Volume(scratch / "vol", "redis"), filler, "--compress", compression)
    local, ours, go = scratch / "local", Mount(volume, scratch / "ours", XATTR), GoMount(volume, scratch / "go", XATTR)
    local.mkdir()
    fill(local, FILES)
    wanted = snapshot(local, mtimes=True)
    first, second = (go, ours) if filler == "go" else (ours, go)
    started = time.monotonic()
    with mounted(first):
        (first.path / TREE).mkdir()
        fill(first.path / TREE, FILES)
    filled = time.monotonic()
    with mounted(ours, go):
        begun = time.monotonic()
        wrong = differences(comparable(wanted), comparable(snapshot(second.path / TREE, mtimes=True)))
        if second is go and compression == "zstd" and not is_old():
            wrong = [line for line in wrong if not re.match(MISREAD_HOLES, line)]
        assert not wrong, "\n".join(wrong)
        times = f"{filler} fills {filled - started:.1f} s, the other reads {time.monotonic() - begun:.1f} s"
        print(f"{peer}: {len(wanted)} names, {compression}: {times}")
        same_to_the_kernel(ours.path, go.path)
    check_sound(volume)


def comparable(tree: dict[str, Node]) -> dict[str, Node]:
    """Without times that nobody has set (those of `fill` are long past), and modes of symlinks, which nobody has."""
    return {
        name: node._replace(
            mode=0 if node.kind == "l" else node.mode, mtime_ns=node.mtime_ns if node.mtime_ns < LONG_AGO_NS else 0
        )
        for name, node in tree.items()
    }


@pytest.mark.timeout(900)
@pytest.mark.parametrize("maker", ["go", "ours"])
def test_both_work_in_the_same_directories(scratch: Path, peer: str, maker: str, long_run: bool) -> None:
    """Four processes, each through both mounts by turns: no update is lost, and in the end everything is exact."""
    seed = int(os.environ.get("TOGETHER_SEED", time.time()))
    seconds = LONG_MIXED_S if long_run else MIXED_S
    volume = make(Volume(scratch / "vol", "redis"), maker)
    ours, go = (kind(volume, scratch / kind.__name__, (*XATTR, *UNCACHED)) for kind in (Mount, GoMount))
    ours.expected.append(r"is lost: No such file")  # what was written to a file that was removed elsewhere meanwhile
    with mounted(ours, go):
        roots = [ours.path, go.path]
        old = (go.path,) if is_old() else ()
        done = work_together([roots] * 4, seconds, seed, official=(go.path,), old=old)
        names = same_everywhere(roots)
        print(
            f"{peer}: volume of {maker}, seed {seed}: {done.total()} operations in {seconds:.0f} s, {names} names left"
        )
        same_to_the_kernel(ours.path, go.path)
    check_sound(volume)


@pytest.mark.parametrize("kind", ["flock", "fcntl"])
def test_locks_of_one_exclude_the_other(scratch: Path, kind: str) -> None:
    lock: Callable[[int, int], object] = fcntl.flock if kind == "flock" else fcntl.lockf
    volume = make(Volume(scratch / "vol", "redis"), "go")
    ours, go = (kind(volume, scratch / kind.__name__, (*XATTR, *UNCACHED)) for kind in (Mount, GoMount))
    with mounted(ours, go):
        (ours.path / "file").touch()
        for holder, other in ((ours, go), (go, ours)):
            with open(holder.path / "file", "r+") as held, open(other.path / "file", "r+") as wanted:
                lock(held.fileno(), fcntl.LOCK_EX)
                for mode in (fcntl.LOCK_EX, fcntl.LOCK_SH):
                    with pytest.raises(BlockingIOError):
                        lock(wanted.fileno(), mode | fcntl.LOCK_NB)
                if is_old() and holder is go:  # 0.14 is in its own way when a flock becomes a shared one
                    lock(held.fileno(), fcntl.LOCK_UN)
                lock(held.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
                lock(wanted.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
                lock(held.fileno(), fcntl.LOCK_UN)
                lock(wanted.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                with pytest.raises(BlockingIOError):
                    lock(held.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    check_sound(volume)
