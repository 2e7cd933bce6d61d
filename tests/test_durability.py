"""What fsync acknowledged survives `kill -9` of the mount process, and the volume is whole afterwards.

Not here: losing the machine itself. Each round writes from several threads, notes outside the mount what fsync has
acknowledged, kills all processes of the mount at a random moment, mounts again and compares.
"""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from mounts import Mount, wait_for_uploads
from volumes import check_volume

pytestmark = pytest.mark.battery

SEED = int(os.environ.get("DURABILITY_SEED", "4711"))
KILLS = 50
WRITERS = 3


@dataclass
class Acknowledged:
    """What the file system has promised to keep: the content of each file up to its last fsync, by name."""

    files: dict[str, bytes] = field(default_factory=dict)
    unsure: dict[str, list[bytes]] = field(default_factory=dict)  # contents that a broken call may have left
    removed: set[str] = field(default_factory=set)
    calls: int = 0


class Writer(threading.Thread):
    """Changes files until the mount breaks under it: append, rewrite in place, replace by rename, remove."""

    def __init__(self, root: Path, name: str, seed: int, kept: Acknowledged) -> None:
        super().__init__(name=name, daemon=True)
        self.root = root
        self.random = random.Random(seed)
        self.kept = kept
        self.stopped = threading.Event()

    def run(self) -> None:
        actions = (self.append, self.append, self.rewrite, self.replace, self.remove)
        try:
            while not self.stopped.is_set():
                self.random.choice(actions)(f"{self.name}-{self.random.randrange(6)}")
                self.kept.calls += 1
        except OSError:
            pass  # the mount was killed; what was not acknowledged is in `unsure`

    def payload(self) -> bytes:
        length = self.random.choice((10, 700, 5000, 70_000, 400_000))
        return self.random.randbytes(self.random.randrange(1, length))

    def commit(self, name: str, content: bytes, change: Callable[[Path], None]) -> None:
        """Do `change`, which ends with fsync; then `content` is what `name` must hold."""
        self.kept.unsure[name] = [self.kept.files.get(name, b""), content]
        change(self.root / name)
        self.kept.files[name] = content
        self.kept.removed.discard(name)
        del self.kept.unsure[name]

    def append(self, name: str) -> None:
        data = self.payload()
        self.commit(name, self.kept.files.get(name, b"") + data, lambda path: write_synced(path, data, os.O_APPEND))

    def rewrite(self, name: str) -> None:
        """Overwrite the front of the file in place."""
        before = self.kept.files.get(name, b"")
        data = self.payload()
        self.commit(name, data + before[len(data) :], lambda path: write_synced(path, data, 0))

    def replace(self, name: str) -> None:
        """The editors' way: a new file, fsync, rename over the old one, fsync of the directory."""
        data = self.payload()

        def change(path: Path) -> None:
            fresh = path.with_name(f".{name}.new")
            write_synced(fresh, data, os.O_TRUNC)
            fresh.rename(path)
            sync_directory(path.parent)

        self.commit(name, data, change)

    def remove(self, name: str) -> None:
        if name not in self.kept.files:
            return
        self.kept.unsure[name] = [self.kept.files.pop(name)]
        (self.root / name).unlink()
        sync_directory(self.root)
        self.kept.removed.add(name)
        del self.kept.unsure[name]


def write_synced(path: Path, data: bytes, flags: int) -> None:
    """Write and fsync; the file may be new, its name is made durable as well."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def verify(root: Path, kept: Acknowledged) -> list[str]:
    """What is not as promised."""
    wrong = []
    for name, content in kept.files.items():
        if name in kept.unsure:
            continue
        try:
            found = (root / name).read_bytes()
        except OSError as error:
            wrong.append(f"{name}: {error}")
            continue
        if found != content:
            first = next((i for i, (a, b) in enumerate(zip(found, content, strict=False)) if a != b), "the shorter end")
            wrong.append(f"{name}: {len(found)} bytes, acknowledged {len(content)}, first difference at {first}")
    gone = kept.removed - kept.unsure.keys()
    wrong += [f"{name}: removed and synced, but there again" for name in gone if (root / name).exists()]
    for name, possible in kept.unsure.items():
        wrong += _broken_off(root / name, possible)
    return wrong


def _broken_off(path: Path, possible: list[bytes]) -> list[str]:
    """A call that never returned may have done all, nothing or a part; bytes that come from nowhere are wrong."""
    if not path.exists():
        return [] if len(possible) == 1 or not possible[0] else [f"{path.name}: lost while it was being rewritten"]
    found = path.read_bytes()
    if found in possible:
        return []
    before = possible[0]
    if len(found) < min(map(len, possible)):
        return [f"{path.name}: {len(found)} bytes left of {[len(content) for content in possible]}"]
    for at, byte in enumerate(found):
        if any(content[at : at + 1] == found[at : at + 1] for content in possible):
            continue
        if byte or at < len(before):  # a hole is right only where a later part of an append came first
            return [f"{path.name}: byte {at} of a broken-off write was never written"]
    return []


def settle(root: Path, kept: Acknowledged) -> None:
    """Take what broken-off calls have left as the state from here on."""
    for name in list(kept.unsure):
        del kept.unsure[name]
        kept.files.pop(name, None)
        kept.removed.discard(name)
        if (root / name).exists():
            kept.files[name] = (root / name).read_bytes()


def one_round(mount: Mount, moment: random.Random, kept: list[Acknowledged], number: int) -> int:
    """Write, kill, mount again, verify; the number of calls acknowledged."""
    # Through a descriptor: by path, what is written after the kill would land in the directory below the mountpoint.
    folder = os.open(mount.path, os.O_RDONLY | os.O_DIRECTORY)
    root = Path(f"/proc/self/fd/{folder}")
    writers = [Writer(root, f"w{n}", SEED * 1000 + number * 10 + n, state) for n, state in enumerate(kept)]
    for writer in writers:
        writer.start()
    time.sleep(moment.uniform(0.02, 0.6))
    mount.kill()
    for writer in writers:
        writer.stopped.set()
        writer.join(60)
        assert not writer.is_alive(), "a writer still waits for a mount that is gone"
    os.close(folder)
    assert not os.listdir(mount.path), "something was written beside the mount"
    mount.start()
    wrong = [line for state in kept for line in verify(mount.path, state)]
    assert not wrong, f"seed {SEED}, kill {number}:\n" + "\n".join(wrong)
    for state in kept:
        settle(mount.path, state)
    return sum(state.calls for state in kept)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "options",
    [(), ("-o", "writeback_cache"), ("--writeback", "--upload-delay", "1s")],
    ids=["plain", "writeback_cache", "staged"],
)
def test_kill_9_loses_nothing_acknowledged(
    options: tuple[str, ...], new_mount: Callable[..., Mount], long_run: bool
) -> None:
    print(f"seed {SEED}")
    mount = new_mount("sqlite", options)
    moment = random.Random(SEED)
    kept = [Acknowledged() for _ in range(WRITERS)]
    staged = "--writeback" in options
    kills = KILLS if staged else KILLS // 2  # the two variants of the kernel make KILLS together
    kills *= 4 if long_run else 1
    done = 0
    for number in range(kills):
        done = one_round(mount, moment, kept, number)
        if number % 10 == 9 or number == kills - 1:
            if staged:
                wait_for_uploads(mount.volume.cache)
            mount.stop()
            check_volume(mount.volume)
            mount.start()
    print(f"{kills} kills, {done} acknowledged calls, {sum(len(state.files) for state in kept)} files in the end")
    assert done > kills, "the writers hardly wrote: the kills proved nothing"


@pytest.mark.timeout(300)
def test_sync_keeps_what_was_closed(new_mount: Callable[..., Mount]) -> None:
    """sync(2) makes durable what was closed before it, without an fsync of the file."""
    mount = new_mount()
    data = random.Random(SEED).randbytes(9 << 20)
    (mount.path / "closed").write_bytes(data)
    os.sync()
    mount.kill()
    mount.start()
    assert hashlib.sha256((mount.path / "closed").read_bytes()).digest() == hashlib.sha256(data).digest()
    mount.stop()
    check_volume(mount.volume)
    mount.start()


def test_verify_sees_a_lost_byte(tmp_path: Path) -> None:
    kept = Acknowledged(files={"a": b"0123"}, removed={"b"})
    (tmp_path / "a").write_bytes(b"0113")
    (tmp_path / "b").write_bytes(b"")
    assert len(verify(tmp_path, kept)) == 2
    (tmp_path / "b").unlink()
    (tmp_path / "a").write_bytes(b"0123")
    assert verify(tmp_path, kept) == []
