"""Many threads on one VFS: no wrong bytes, no lost writes, no deadlock, whatever the interleaving.

Seeds are printed; a thread that does not end in time fails the test.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from vfs_harness import BLOCK, CALLER, changes, world

SECONDS = 2.0


def together(*bodies: Callable[[], None]) -> None:
    """Run all bodies at once; fail with the first error, or if one hangs."""
    errors: list[BaseException] = []

    def guarded(body: Callable[[], None]) -> None:
        try:
            body()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(body,), daemon=True) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


def test_writers_of_disjoint_ranges_and_readers(tmp_path: Path) -> None:
    """Each writer owns every fourth record and counts it up; a reader never sees a count go back or a torn record."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    with world("sqlite", tmp_path) as made:
        client = made.client()
        file = client.create(b"a")
        records, size = 64, 1000  # records straddle blocks
        file.write(0, bytes(records * size))
        stop = time.monotonic() + SECONDS
        latest = [0] * records

        def writer(lane: int) -> None:
            rng, handle = random.Random(seed + lane), client.open(file.ino)
            count = 0
            while time.monotonic() < stop:
                count += 1
                index = rng.randrange(records // 4) * 4 + lane
                handle.write(index * size, count.to_bytes(8, "big") * (size // 8))
                latest[index] = count
                if rng.random() < 0.1:
                    handle.flush()
            handle.close()

        def reader(lane: int) -> None:
            rng, handle = random.Random(seed - lane), client.open(file.ino, os.O_RDONLY)
            seen = [0] * records
            while time.monotonic() < stop:
                index = rng.randrange(records)
                floor = latest[index]
                data = handle.read(index * size, size)
                counts = {data[k : k + 8] for k in range(0, size, 8)}
                low, high = (int.from_bytes(f(counts), "big") for f in (min, max))
                assert len(data) == size and low >= min(seen[index], floor)
                seen[index] = max(seen[index], low if len(counts) == 1 else seen[index])
                assert high <= latest[index] + 1
            handle.close()

        together(*(lambda k=k: writer(k) for k in range(4)), *(lambda k=k: reader(k) for k in range(2)))  # type: ignore[misc]
        for index in range(records):
            assert file.read(index * size, size) == latest[index].to_bytes(8, "big") * (size // 8), index
        file.close()
        other = made.client()
        again = other.open(file.ino, os.O_RDONLY)
        for index in range(records):
            assert again.read(index * size, 8) == latest[index].to_bytes(8, "big"), index
        again.close()


def test_truncate_among_writers_never_brings_old_bytes_back(tmp_path: Path) -> None:
    """Bytes written before a truncation to nothing are gone for every later read."""
    with world("mem", tmp_path) as made:
        client = made.client()
        file = client.create(b"a")
        stop = time.monotonic() + SECONDS
        era = [1]

        def writer() -> None:
            handle = client.open(file.ino)
            while time.monotonic() < stop:
                handle.write(random.randrange(4) * BLOCK, bytes([era[0]]) * 5000)
            handle.close()

        def truncater() -> None:
            handle = client.open(file.ino)
            while time.monotonic() < stop:
                era[0] = era[0] % 250 + 1
                time.sleep(0.01)  # longer than any write under way
                handle.truncate(0)
                now = era[0]
                seen = set(handle.read(0, 5 * BLOCK)) - {0}
                assert seen <= {now}, (seen, now)
            handle.close()

        together(writer, writer, truncater)
        file.close()


def test_open_write_close_stat_unlink_by_many(tmp_path: Path) -> None:
    with world("sqlite", tmp_path) as made:
        client = made.client()

        def life(lane: int) -> None:
            for k in range(40):
                name = b"%d-%d" % (lane, k)
                file = client.create(name)
                data = os.urandom(random.randrange(1, 3 * BLOCK))
                file.write(0, data)
                client.vfs.setattr(CALLER, file.ino, changes(mode=0o600))
                file.close()
                assert client.lookup(name).stat.size == len(data)
                again = client.open(file.ino, os.O_RDONLY)
                assert again.read(0, len(data) + 5) == data
                again.close()
                if k % 2:
                    client.unlink(name)

        together(*(lambda k=k: life(k) for k in range(6)))  # type: ignore[misc]
        assert len(client.names()) == 6 + 6 * 20


@pytest.mark.parametrize("kind", ["mem", "sqlite"])
def test_flushes_of_one_file_by_many_handles(tmp_path: Path, kind: str) -> None:
    """What a flush has acknowledged is in the metadata, for another client to see."""
    with world(kind, tmp_path) as made:
        one, two = made.client(), made.client()
        file = one.create(b"a")

        def appender(lane: int) -> None:
            handle = one.open(file.ino)
            for k in range(30):
                handle.write((lane * 30 + k) * 100, bytes([lane + 1]) * 100)
                handle.flush()
                assert two.lookup(b"a").stat.size >= (lane * 30 + k + 1) * 100
            handle.close()

        together(*(lambda k=k: appender(k) for k in range(5)))  # type: ignore[misc]
        reader = two.open(two.ino(b"a"), os.O_RDONLY)
        assert reader.read(0, 20_000) == b"".join(bytes([lane + 1]) * 3000 for lane in range(5))
        reader.close()
        file.close()


def test_listings_among_changes(tmp_path: Path) -> None:
    """Entries that stay are listed exactly once, however others come and go."""
    with world("sqlite", tmp_path) as made:
        client = made.client()
        folder = client.mkdir(b"d")
        stay = {b"stay-%03d" % k for k in range(300)}
        for name in stay:
            client.create(name, folder).close()
        stop = time.monotonic() + SECONDS

        def churn(lane: int) -> None:
            while time.monotonic() < stop:
                name = b"%d-%d" % (lane, random.randrange(20))
                client.create(name, folder).close()
                client.unlink(name, folder)

        def lister() -> None:
            while time.monotonic() < stop:
                names = client.names(folder, plus=random.random() < 0.5, room=37)
                assert sorted(name for name in names if name in stay) == sorted(stay)
                assert len(names) == len(set(names))

        together(lambda: churn(1), lambda: churn(2), lister, lister)
