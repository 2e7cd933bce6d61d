"""Four mounts of ours on one Redis, or one TiKV: they work in the same directories, fight for names and locks, and one
dies.

Not here: the server's troubles (test_redis_mount_faults.py), and the same work beside a Go client (test_interop_go.py).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import random
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import IO

import pytest
import tikv_server
from conftest import end_all
from go_client import UNCACHED
from mounts import Mount, Volume
from needs import need_fuse
from together import INTERNAL, same_everywhere, work_together
from varied_tree import attributes
from volumes import check_volume

from meta.engines import open_engine
from meta.rules.check import check

pytestmark = pytest.mark.battery

MOUNTS = 4
BELIEVED_S = 1.0  # --attr-cache and --entry-cache
HEARTBEAT_S = 1
STALE_S = 5 * HEARTBEAT_S
EXCHANGE = 2  # renameat2(2)
GONE_ELSEWHERE = r"is lost: No such file"  # what was written to a file that another mount removed

LOCKS: dict[str, Callable[[IO[str], int], object]] = {"flock": fcntl.flock, "fcntl": fcntl.lockf}

_libc = ctypes.CDLL(None, use_errno=True)


def mount_all(directory: Path, *options: str, engine: str = "redis") -> list[Mount]:
    """Four mounts of a fresh volume, each with a cache of its own."""
    need_fuse()
    url = tikv_server.fresh_url() if engine == "tikv" else ""
    volume = Volume(directory / "vol", engine, url=url).format()
    mounts = []
    for number in range(MOUNTS):
        cache = ("--cache-dir", str(directory / f"cache{number}"))
        mounts.append(Mount(volume, directory / f"mnt{number}", ("--enable-xattr", *cache, *options)))
        mounts[-1].expected.append(GONE_ELSEWHERE)
    started: list[Mount] = []
    try:
        started += (mount.start() for mount in mounts)
    except BaseException:
        end_all(started)
        raise
    return mounts


def check_sound(volume: Volume, *, tidy: bool = True) -> None:
    """Nothing in the records contradicts anything else, in the eyes of our checker and of one that shares no code."""
    with closing(open_engine(volume.url)) as engine:
        wrong = check(engine)
    assert not wrong, "\n".join(wrong[:40])
    if volume.engine != "tikv":  # of whose keys the other one knows nothing
        check_volume(volume, tidy=tidy)


@pytest.fixture(scope="module", params=["uncached", "cached", "tikv"])
def mounts(request: pytest.FixtureRequest) -> Iterator[list[Mount]]:
    """The mounts for all tests that leave them alone; once with the kernel's caches off, once with those by default."""
    directory = Path(tempfile.mkdtemp(prefix="jfs-four-"))
    engine = "tikv" if request.param == "tikv" else "redis"
    made = mount_all(directory, *(() if request.param == "cached" else UNCACHED), engine=engine)
    yield made
    end_all(made)
    check_sound(made[0].volume)
    shutil.rmtree(directory, ignore_errors=True)


def believed_s(mounts: list[Mount]) -> float:
    """How old what a mount shows may be."""
    return 0.0 if "--attr-cache" in mounts[0].options else BELIEVED_S + 0.2


def together(*calls: Callable[[], object]) -> None:
    """Make calls at the same time, each in a thread; raises what they raise."""
    with ThreadPoolExecutor(len(calls)) as pool:
        for future in [pool.submit(call) for call in calls]:
            future.result()


@pytest.mark.timeout(900)
def test_same_directories(mounts: list[Mount], long_run: bool) -> None:
    """The work of test_interop_go.py. Without caches each process uses all mounts by turns, else one."""
    seed = int(os.environ.get("TOGETHER_SEED", time.time()))
    old_s = believed_s(mounts)
    seconds = 300.0 if long_run else 6.0
    roots = [mount.path for mount in mounts]
    done = work_together([[root] for root in roots] if old_s else [roots] * MOUNTS, seconds, seed, believed_s=old_s)
    names = same_everywhere(roots)
    assert len({str(attributes(root, INTERNAL)) for root in roots}) == 1
    print(f"seed {seed}: {done.total()} operations in {seconds:.0f} s, {names} names left")


def test_a_name_that_is_replaced_elsewhere_is_always_found(mounts: list[Mount]) -> None:
    """The kernel may still know the inode that was replaced, which is gone: ESTALE makes it ask again, once."""
    name, stop = "always", threading.Event()
    (mounts[0].path / name).write_bytes(b"0" * 100)
    seen: Counter[str] = Counter()

    def replace() -> None:
        try:
            for number in range(100):
                mount = mounts[number % 2]
                (mount.path / "fresh").write_bytes(b"%d" % (number % 10) * 100)
                os.rename(mount.path / "fresh", mount.path / name)
                time.sleep(0.01)
        finally:
            stop.set()

    def look(path: Path) -> None:
        while not stop.is_set():
            try:
                os.stat(path)
                fd = os.open(path, os.O_RDONLY)
            except OSError as e:
                assert e.errno == errno.ESTALE, e
                seen["replaced twice"] += 1
                continue
            try:
                data = os.read(fd, 101)
                assert len(data) == 100 and len(set(data)) == 1
                seen["read"] += 1
            except OSError as e:  # holding it open keeps it from this client's removals only
                assert e.errno in (errno.ESTALE, errno.EBADF, errno.EIO), e
                seen["gone while open"] += 1
            finally:
                os.close(fd)

    together(replace, *[partial(look, mount.path / name) for mount in mounts[2:]])
    print(dict(seen))
    assert seen["read"] > 50 and seen["replaced twice"] <= seen["read"] // 10


CREATE: dict[str, Callable[[Path], object]] = {
    "open": lambda path: os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)),
    "mkdir": os.mkdir,
    "symlink": lambda path: os.symlink("target", path),
    "link": lambda path: os.link(path.with_name("linked"), path),
    "mkfifo": os.mkfifo,
}


def test_exclusive_creation_has_one_winner(mounts: list[Mount]) -> None:
    """Two threads on each of four mounts, the same name at the same moment."""
    place = "exclusive"
    (mounts[0].path / place).mkdir()
    (mounts[0].path / place / "linked").touch()
    rounds = 20
    barrier = threading.Barrier(2 * MOUNTS)
    winners: Counter[str] = Counter()

    def create(mount: Mount) -> None:
        for kind, call in CREATE.items():
            for number in range(rounds):
                name = f"{kind}{number}"
                barrier.wait(60)
                try:
                    call(mount.path / place / name)
                    winners[name] += 1
                except FileExistsError:
                    pass

    together(*[partial(create, mount) for mount in mounts * 2])
    assert winners == Counter(f"{kind}{number}" for kind in CREATE for number in range(rounds))
    for mount in mounts:
        assert len(os.listdir(mount.path / place)) == 1 + rounds * len(CREATE)
        assert os.stat(mount.path / place / "linked").st_nlink == 1 + rounds


_FEW = 5  # renames of each kind that make a storm


def test_rename_storm_loses_no_directory(mounts: list[Mount], long_run: bool) -> None:
    """Directories go into one another, over one another and change places: a tree stays a tree, and complete."""
    seed, number, place = int(time.time()), 14, "storm"
    top = mounts[0].path / place
    top.mkdir()
    for ino in range(number):
        (top / f"n{ino}").mkdir()
        (top / f"n{ino}" / "here").write_text(str(ino))
    begun = time.monotonic()
    done: Counter[str] = Counter()

    def goes_on() -> bool:
        """For some time, and on an engine or a machine that is slow until enough was done for a storm."""
        took_s = time.monotonic() - begun
        return took_s < (60 if long_run else 3) or (took_s < 60 and min(done["moved"], done["exchanged"]) <= _FEW)

    def rename(mount: Mount, chance: random.Random) -> None:
        while goes_on():
            paths = list(places(mount.path / place).values())
            for _ in range(8):
                source, target = chance.choice(paths), chance.choice(paths)
                try:
                    if chance.random() < 0.3:
                        _exchange(source, target)
                        done["exchanged"] += 1
                    else:
                        os.rename(source, target / source.name)
                        done["moved"] += 1
                except OSError as e:
                    done[errno.errorcode[e.errno or 0]] += 1

    together(*[partial(rename, mount, random.Random(seed + k)) for k, mount in enumerate(mounts * 2)])
    print(f"seed {seed}: {dict(done)}")
    assert done["moved"] > _FEW and done["exchanged"] > _FEW
    # ELOOP, ESTALE: what the kernel believes, a second old, cannot be brought together with what it is told.
    assert not done.keys() - {"moved", "exchanged", "EINVAL", "ENOENT", "EEXIST", "ENOTEMPTY", "ESTALE", "ELOOP"}, done
    time.sleep(believed_s(mounts))
    for mount in mounts:
        assert sorted(places(mount.path / place)) == list(range(number)), mount.path
    with closing(open_engine(mounts[0].volume.url)) as engine:
        assert check(engine) == []


def places(top: Path) -> dict[int, Path]:
    """Where each directory of the storm is, told by the file in it."""
    found: dict[int, Path] = {}
    for directory, folders, files in os.walk(top):
        assert len(Path(directory).parts) < 100, "a loop"
        if "here" in files:
            try:
                number = int(Path(directory, "here").read_text())
            except OSError:  # moved meanwhile
                continue
            found[number] = Path(directory)
        folders.sort()
    return found


def _exchange(source: Path, target: Path) -> None:
    if _libc.renameat2(-100, os.fsencode(source), -100, os.fsencode(target), EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@pytest.mark.parametrize("kind", LOCKS)
def test_appends_under_a_lock_lose_no_line(mounts: list[Mount], kind: str) -> None:
    """An open after the lock sees all that was written before it was released, whatever the kernel believed."""
    lock = LOCKS[kind]
    (mounts[0].path / f"lines-{kind}").touch()
    lines = 25

    def append(number: int, mount: Mount) -> None:
        with open(mount.path / f"lock-{kind}", "a") as guard:
            for line in range(lines):
                lock(guard, fcntl.LOCK_EX)
                with open(mount.path / f"lines-{kind}", "a") as file:
                    file.write(f"{number} {line} {'.' * (line * 7)}\n")
                lock(guard, fcntl.LOCK_UN)

    together(*[partial(append, k, mount) for k, mount in enumerate(mounts)])
    for mount in mounts:
        found = (mount.path / f"lines-{kind}").read_text().splitlines()
        assert sorted(found) == sorted(f"{k} {n} {'.' * (n * 7)}" for k in range(MOUNTS) for n in range(lines))


def test_an_unlinked_file_stays_with_those_who_hold_it(mounts: list[Mount]) -> None:
    """Its own client goes on reading and writing; the others do not see it; with the last close it is gone for good."""
    path = mounts[1].path / "held"
    with open(path, "wb+", buffering=0) as file:
        file.write(b"before " * 1000)
        path.unlink()
        file.write(b"after")
        assert os.fstat(file.fileno()).st_nlink == 0
        time.sleep(believed_s(mounts))
        for mount in mounts:
            assert not (mount.path / "held").exists()
        file.seek(0)
        assert file.read() == b"before " * 1000 + b"after"
        ino = os.fstat(file.fileno()).st_ino
    with closing(open_engine(mounts[0].volume.url)) as engine:
        deadline = time.monotonic() + 10
        while engine.reader.attr(ino) is not None:  # the kernel waits for nobody's answer to the last close
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.parametrize("kind", LOCKS)
def test_locks_exclude_across_mounts(mounts: list[Mount], kind: str) -> None:
    """Whole files, shared and exclusive; and the lock passes on to who waits for it."""
    lock = LOCKS[kind]
    files = [open(mount.path / f"locked-{kind}", "a+") for mount in mounts]  # noqa: SIM115
    try:
        for holder in files:
            lock(holder, fcntl.LOCK_EX)
            for other in files:
                if other is not holder:
                    with pytest.raises(BlockingIOError):
                        lock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
            lock(holder, fcntl.LOCK_UN)
        for file in files:
            lock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        with pytest.raises(BlockingIOError):
            lock(files[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        for file in files[1:]:
            lock(file, fcntl.LOCK_UN)
        lock(files[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        inside: list[int] = []

        def enter(number: int) -> None:
            lock(files[number], fcntl.LOCK_EX)
            inside.append(number)
            time.sleep(0.05)
            assert inside.pop() == number and not inside
            lock(files[number], fcntl.LOCK_UN)

        threading.Timer(0.3, lambda: lock(files[0], fcntl.LOCK_UN)).start()
        together(*[partial(enter, k) for k in range(1, MOUNTS)])
    finally:
        for file in files:
            file.close()


def test_a_dead_client_leaves_nothing_behind(scratch: Path) -> None:
    """kill -9 of the mount and its supervisor: others get its locks when it has missed five heartbeats, not before;
    what it held open after the last link was gone is deleted."""
    made = mount_all(scratch, "--heartbeat", str(HEARTBEAT_S))
    dying, living = made[0], made[1:]
    files: list[IO[str]] = []
    waiting: list[tuple[Callable[[IO[str], int], object], IO[str]]] = []
    try:
        unlinked = open(dying.path / "unlinked", "w")  # noqa: SIM115
        files.append(unlinked)
        unlinked.write("x" * 10_000)
        unlinked.flush()
        os.fsync(unlinked.fileno())
        os.unlink(dying.path / "unlinked")
        for number, (kind, lock) in enumerate(LOCKS.items()):
            for mode in (fcntl.LOCK_EX, fcntl.LOCK_SH):
                for mount in (dying, living[number]):
                    files.append(open(mount.path / f"{kind} {mode}", "a+"))  # noqa: SIM115
                lock(files[-2], mode)
                waiting.append((lock, files[-1]))
        time.sleep(STALE_S + 1)  # a living client keeps what it has
        for lock, file in waiting:
            with pytest.raises(BlockingIOError):
                lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        died = time.monotonic()
        dying.kill()
        together(*[partial(lock, file, fcntl.LOCK_EX) for lock, file in waiting])
        took = time.monotonic() - died
        print(f"the locks of a dead client were free after {took:.1f} s")
        assert STALE_S - 1.5 * HEARTBEAT_S < took < STALE_S + 10 * HEARTBEAT_S
    finally:
        for file in files:
            with suppress(OSError):  # those of the dead mount
                file.close()
        end_all(living)
    with closing(open_engine(made[0].volume.url)) as engine:
        assert engine.reader.counter("totalInodes") == len(waiting)
        assert not engine.sessions()
    check_sound(made[0].volume, tidy=False)
