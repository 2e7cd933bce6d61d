"""A tree with everything that a volume's formats must carry: the same work on any file system, from a seed.

Not here: comparing (trees, and `attributes` below for what only two mounts of one volume have in common).
"""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path

CHUNK = 64 << 20
_LEVELS = ("a", "ü b", "c" * 200, "d")
_TIME_NS = 1_600_000_000 * 10**9


def fill(root: Path, files: int, seed: int = 1) -> None:
    """Make about that many files below `root`, and what else there is."""
    chance = random.Random(seed)
    folders = _folders(root, max(files // 50, 4))
    names = [folders[number % len(folders)] / f"{number:04} {'é' * (number % 40)}" for number in range(files)]
    for number, path in enumerate(names):
        fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
        os.write(fd, chance.randbytes(int(chance.random() ** 4 * 20_000) if number % 10 else 0))
        os.close(fd)
        if number % 7 == 0:
            path.chmod(chance.choice((0o400, 0o4755, 0o2711, 0o666, 0)))
        if number % 11 == 0:
            os.chown(path, chance.randrange(70_000), chance.randrange(1 << 31))
        if number % 5 == 0:
            os.utime(path, ns=(_TIME_NS + number, _TIME_NS + 7 * number))
        if number % 13 == 0:
            for key in range(3):
                os.setxattr(path, f"user.{'k' * key}{key}", chance.randbytes(chance.randrange(600)) if key else b"")
        if number % 17 == 0:
            path.with_name(f"link {number}").symlink_to("../" * (number % 5) + "x" * (number % 3000 + 1))
    _links(chance, folders, names)
    _contents(root / "contents", chance)
    for folder in folders[1:4]:
        os.setxattr(folder, "user.directory", b"\0binary\xff")
    os.mkfifo(root / "pipe", 0o640)
    os.mknod(root / "device", stat.S_IFCHR | 0o620, os.makedev(5, 300))
    (root / ("n" * 255)).write_text("the longest name")
    (root / os.fsdecode(b"\xff\xfe no UTF-8 \n")).write_text("bytes")


def _folders(root: Path, number: int) -> list[Path]:
    folders = [root]
    while len(folders) < number:
        above = folders[len(folders) // 7]
        folder = above / f"{_LEVELS[len(folders) % 4]} {len(folders)}"
        folder.mkdir(mode=(0o755, 0o2775, 0o1777, 0o700)[len(folders) % 4])
        folders.append(folder)
    return folders


def _links(chance: random.Random, folders: list[Path], names: list[Path]) -> None:
    """Hard links within and across directories; names that moved, and some that went."""
    for number in range(0, len(names), 20):
        for copy in range(number % 3 + 1):
            os.link(names[number], chance.choice(folders) / f"hard {number}.{copy}")
    for number in range(3, len(names), 40):
        os.rename(names[number], chance.choice(folders) / f"moved {number}")
    for number in range(6, len(names), 40):
        names[number].unlink()


def _contents(place: Path, chance: random.Random) -> None:
    """Files that were changed in every way after they were written."""
    place.mkdir()
    noise = chance.randbytes(1 << 20)
    with open(place / "overwritten", "wb", buffering=0) as file:
        file.write(noise[:300_000])
        for _ in range(150):
            at = chance.randrange(320_000)
            os.pwrite(file.fileno(), noise[at : at + chance.randrange(1, 9000)], at)
            if chance.random() < 0.3:
                os.fsync(file.fileno())
    for _ in range(130):
        with open(place / "appended", "ab") as file:
            file.write(noise[: chance.randrange(1, 3000)])
    with open(place / "holes", "wb") as file:
        for at in (1 << 20, 5 << 20, (5 << 20) + 4096, 12 << 20):
            file.seek(at)
            file.write(noise[:5000])
        file.truncate(15 << 20)
    for name, sizes in {"shorter": (90_000,), "longer": (400_000,), "again": (100, 250_000), "empty": (0,)}.items():
        (place / name).write_bytes(noise[:200_000])
        for size in sizes:
            os.truncate(place / name, size)
    with open(place / "large", "wb") as file:  # more than a chunk, and changed across its edge
        for number in range(70):
            file.write(noise if number % 2 else b"%07d\n" % number * (1 << 17))
        file.seek(CHUNK - 70_000)
        file.write(noise[:200_000])
    os.truncate(place / "large", (69 << 20) + 17)
    with open(place / "sparse", "wb") as file:  # chunks without any record
        file.seek(3 * CHUNK + 100)
        file.write(b"the end")


def attributes(root: Path, skip: tuple[str, ...] = ()) -> dict[str, tuple[int, ...]]:
    """All that lstat says of each name: two mounts of one volume must agree in everything, inode numbers included."""
    found: dict[str, tuple[int, ...]] = {}
    for directory, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in skip]
        for name in [".", *folders, *files]:
            if name not in skip:
                path = Path(directory, name)
                info = os.lstat(path)
                found[str(path.relative_to(root))] = (
                    info.st_ino, info.st_mode, info.st_nlink, info.st_uid, info.st_gid, info.st_rdev, info.st_size,
                    info.st_blocks, info.st_atime_ns, info.st_mtime_ns, info.st_ctime_ns,
                )  # fmt: skip
    return found
