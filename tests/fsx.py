"""Random operations on one file beside a bytearray that says what it must hold (the idea of Apple's fsx, our code).

Not here: mounting. Run alone as `python tests/fsx.py FILE --seed 7 --ops 10000 [--trace]`: a failure names the seed,
the operation and the first wrong byte, and the same seed does the same operations again.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import mmap
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16  # fallocate(2)
PAGE = mmap.PAGESIZE

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class Mismatch(AssertionError):
    """The file does not hold what was written."""


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2)."""
    while _libc.fallocate(fd, mode, offset, length):
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


class Exerciser:
    """One file, its model, and a stream of random operations on both.

    All of it happens in the `largest` bytes from `base` on (a multiple of the page size; below lies a hole), so that a
    base just below 64 MiB works over the edge of two chunks.
    """

    def __init__(self, path: Path, seed: int, *, largest: int = 256 * 1024, base: int = 0, trace: bool = False) -> None:
        self.path = path
        self.seed = seed
        self.random = random.Random(seed)
        self.largest = largest
        self.base = base
        self.trace = trace
        self.model = bytearray()
        self.count = 0
        self.last: list[str] = []
        self.noise = self.random.randbytes(largest)
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.ftruncate(self.fd, base)
        self.actions: list[tuple[Callable[[], str], int]] = [
            (self.write, 24), (self.read, 24), (self.append, 6), (self.truncate, 8), (self.punch, 6), (self.zero, 6),
            (self.allocate, 3), (self.copy_range, 6), (self.map_read, 5), (self.map_write, 5), (self.reopen, 3),
            (self.drop_caches, 2), (self.fsync, 2),
        ]  # fmt: skip

    def run(self, operations: int) -> None:
        """Do that many operations; the whole file is compared now and then, and at the end."""
        actions, weights = zip(*self.actions, strict=True)
        for action in self.random.choices(actions, weights, k=operations):
            self.count += 1
            told = action()
            self.last = [*self.last[-19:], f"{self.count}: {told}"]
            if self.trace:
                print(self.last[-1])
            if self.count % 500 == 0:
                self.check_all()
        self.check_all()

    def close(self) -> None:
        os.close(self.fd)

    def range(self, limit: int | None = None) -> tuple[int, int]:
        """A random (offset, length); most are small, many touch page and 64 KiB edges."""
        limit = self.largest if limit is None else limit
        if limit <= 0:
            return 0, 0
        offset = self.random.randrange(limit)
        if self.random.random() < 0.3:
            edge = self.random.choice((PAGE, 65536))
            offset = min(max(offset // edge * edge + self.random.randint(-2, 2), 0), limit - 1)
        length = int(self.random.random() ** 3 * 64 * 1024) + 1
        return offset, min(length, limit - offset)

    def data(self, length: int) -> bytes:
        start = self.random.randrange(len(self.noise) - length + 1)
        return self.noise[start : start + length]

    def put(self, offset: int, data: bytes) -> None:
        """Write into the model, with zeros up to `offset` where the file is shorter."""
        if offset > len(self.model):
            self.model.extend(bytes(offset - len(self.model)))
        self.model[offset : offset + len(data)] = data

    def expect(self, found: bytes, offset: int, length: int) -> None:
        """`found` must be the model's bytes at `offset`."""
        wanted = bytes(self.model[offset : offset + length])
        if found == wanted:
            return
        wrong = next(
            (i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), min(len(found), len(wanted))
        )
        history = "\n".join(self.last)
        raise Mismatch(
            f"seed {self.seed}, operation {self.count}: at {offset + wrong} found {found[wrong : wrong + 8].hex()} "
            f"({len(found)} bytes), wanted {wanted[wrong : wrong + 8].hex()} ({len(wanted)} bytes at {offset}), "
            f"file size {os.fstat(self.fd).st_size}, model {len(self.model)}\n{history}"
        )

    def check_all(self) -> None:
        size = os.fstat(self.fd).st_size - self.base
        assert size == len(self.model), (
            f"seed {self.seed}, operation {self.count}: size {size}, model {len(self.model)}"
        )
        self.expect(os.pread(self.fd, size + 1, self.base), 0, size + 1)

    def write(self) -> str:
        offset, length = self.range()
        data = self.data(length)
        done = os.pwrite(self.fd, data, self.base + offset)
        assert done == length, f"short write: {done} of {length}"
        self.put(offset, data)
        return f"write {offset}+{length}"

    def append(self) -> str:
        length = min(self.range()[1], self.largest - len(self.model))
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            data = self.data(length)
            assert os.write(fd, data) == length
        finally:
            os.close(fd)
        self.put(len(self.model), data)
        return f"append {length}"

    def read(self) -> str:
        offset, length = self.range(len(self.model) + PAGE)
        self.expect(os.pread(self.fd, length, self.base + offset), offset, length)
        return f"read {offset}+{length}"

    def truncate(self) -> str:
        size = self.random.randrange(self.largest)
        if self.random.random() < 0.1:
            size = 0
        if self.random.random() < 0.5:
            os.ftruncate(self.fd, self.base + size)
        else:
            os.truncate(self.path, self.base + size)
        if size < len(self.model):
            del self.model[size:]
        else:
            self.put(size, b"")
        return f"truncate {size}"

    def punch(self) -> str:
        offset, length = self.range()
        fallocate(self.fd, PUNCH_HOLE | KEEP_SIZE, self.base + offset, length)
        inside = self.model[offset : offset + length]
        self.model[offset : offset + length] = bytes(len(inside))
        return f"punch {offset}+{length}"

    def zero(self) -> str:
        offset, length = self.range()
        keep = self.random.random() < 0.5
        fallocate(self.fd, ZERO_RANGE | (KEEP_SIZE if keep else 0), self.base + offset, length)
        inside = len(self.model[offset : offset + length]) if keep else length
        if inside:
            self.put(offset, bytes(inside))
        return f"zero {offset}+{length} keep={keep}"

    def allocate(self) -> str:
        offset, length = self.range()
        keep = self.random.random() < 0.5
        fallocate(self.fd, KEEP_SIZE if keep else 0, self.base + offset, length)
        if not keep and offset + length > len(self.model):
            self.put(offset + length, b"")
        return f"allocate {offset}+{length} keep={keep}"

    def copy_range(self) -> str:
        """copy_file_range(2) within the file; the ranges may not overlap, and the kernel may copy less than asked."""
        source, length = self.range(len(self.model))
        target, _ = self.range()
        length = min(length, self.largest - target, abs(source - target))
        if not length:
            return "copy nothing"
        done = 0
        while done < length:
            step = os.copy_file_range(
                self.fd, self.fd, length - done, self.base + source + done, self.base + target + done
            )
            assert step > 0, f"copy_file_range from {source + done} gave {step}"
            done += step
        self.put(target, bytes(self.model[source : source + length]))
        return f"copy {source}->{target}+{length}"

    def map_read(self) -> str:
        if not self.model:
            return "map nothing"
        offset, length = self.range(len(self.model))
        start = offset // PAGE * PAGE
        with mmap.mmap(
            self.fd, offset + length - start, mmap.MAP_SHARED, mmap.PROT_READ, offset=self.base + start
        ) as view:
            self.expect(view[offset - start :], offset, length)
        return f"map read {offset}+{length}"

    def map_write(self) -> str:
        if not self.model:
            return "map nothing"
        offset, length = self.range(len(self.model))
        start = offset // PAGE * PAGE
        data = self.data(length)
        with mmap.mmap(self.fd, offset + length - start, mmap.MAP_SHARED, offset=self.base + start) as view:
            view[offset - start :] = data
            if self.random.random() < 0.3:
                view.flush()
        self.put(offset, data)
        return f"map write {offset}+{length}"

    def reopen(self) -> str:
        os.close(self.fd)
        self.fd = os.open(self.path, os.O_RDWR)
        return "reopen"

    def drop_caches(self) -> str:
        """Make the kernel forget the clean pages of this file, so that reads reach the file system."""
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return "drop caches"

    def fsync(self) -> str:
        os.fsync(self.fd)
        return "fsync"


def main() -> None:
    """Command line: one file, one seed."""
    parser = argparse.ArgumentParser(description="Random operations on one file beside a model of it.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--ops", type=int, default=10_000)
    parser.add_argument("--largest", type=int, default=256 * 1024)
    parser.add_argument("--base", type=int, default=0)
    parser.add_argument("--trace", action="store_true")
    options = parser.parse_args()
    exerciser = Exerciser(options.file, options.seed, largest=options.largest, base=options.base, trace=options.trace)
    started = time.monotonic()
    try:
        exerciser.run(options.ops)
    except Mismatch as error:
        sys.exit(str(error))
    print(f"seed {options.seed}: {options.ops} operations in {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()
