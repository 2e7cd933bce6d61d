"""Content of files: random writes, truncations, copies, holes and compactions against a dumb model, on every engine."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from clients import ENGINES, Client, FakeStore, check_sound, new_engine

from meta.types import (
    CHUNK_SIZE,
    ROOT,
    SUPERUSER,
)

C = CHUNK_SIZE
PROBES = [o for base in (0, C, 2 * C, 3 * C) for o in range(max(base - 24, 0), base + 24, 3)] + [5000, C + 70_000]
KEEP, PUNCH, ZERO = 1, 2, 0x10


class Model:
    """What a file should show at the probes."""

    def __init__(self) -> None:
        self.length = 0
        self.bytes = dict.fromkeys(PROBES, 0)

    def fill(self, start: int, end: int, value: int) -> None:
        for probe in PROBES:
            if start <= probe < end:
                self.bytes[probe] = value

    def truncate(self, length: int) -> None:
        self.fill(min(length, self.length), max(length, self.length), 0)
        self.length = length


class Machine:
    """Applies the same operation to two files of a client and to their models."""

    def __init__(self, client: Client, rng: random.Random) -> None:
        self.client = client
        self.rng = rng
        self.files = {client.file(b"a"): Model(), client.file(b"b"): Model()}
        for ino in self.files:
            client.open(SUPERUSER, ino, 2)

    def point(self) -> int:
        return self.rng.choice((0, C, 2 * C, 3 * C - 30)) + self.rng.choice((0, 3, 17, 4096, -5, -20))

    def range(self) -> tuple[int, int]:
        start, end = sorted((max(self.point(), 0), max(self.point(), 0)))
        return start, max(end, start + self.rng.randrange(1, 30))

    def step(self) -> None:
        ino = self.rng.choice(list(self.files))
        operation = self.rng.choice(
            (
                self.write,
                self.write,
                self.write,
                self.truncate,
                self.punch,
                self.zero,
                self.reserve,
                self.copy,
                self.compact,
            )
        )
        operation(ino, self.files[ino])
        self.check(ino)

    def write(self, ino: int, model: Model) -> None:
        start, end = self.range()
        if self.rng.random() < 0.7:
            end = start + self.rng.randrange(1, 40)
        off = start
        while off < end:
            part = min(end, (off // C + 1) * C) - off
            slice_id = self.client.write(ino, off, part)
            for probe in PROBES:
                if off <= probe < off + part:
                    model.bytes[probe] = self.client.store.byte(slice_id, probe - off)
            off += part
        model.length = max(model.length, end)

    def truncate(self, ino: int, model: Model) -> None:
        length = self.range()[0]
        self.client.truncate(SUPERUSER, ino, length)
        model.truncate(length)

    def punch(self, ino: int, model: Model) -> None:
        start, end = self.range()
        self.client.fallocate(SUPERUSER, ino, PUNCH | KEEP, start, end - start)
        model.fill(start, min(end, model.length), 0)

    def zero(self, ino: int, model: Model) -> None:
        start, end = self.range()
        self.client.fallocate(SUPERUSER, ino, ZERO, start, end - start)
        model.fill(start, end, 0)
        model.length = max(model.length, end)

    def reserve(self, ino: int, model: Model) -> None:
        start, end = self.range()
        self.client.fallocate(SUPERUSER, ino, 0, start, end - start)
        model.length = max(model.length, end)

    def copy(self, ino: int, model: Model) -> None:
        other = self.rng.choice(list(self.files))
        source = self.files[other]
        start, end = self.range()
        to = start + self.rng.choice((C, -C, 2 * C, 0, 3))
        if to < 0 or (ino == other and abs(to - start) < end - start):
            return
        copied, _ = self.client.copy_file_range(SUPERUSER, other, start, ino, to, end - start)
        assert copied == max(min(end, source.length) - start, 0)
        seen = {probe: self.see(other, probe - to + start) for probe in PROBES if to <= probe < to + copied}
        if ino != other:  # where source and target offsets are both probes the model knows the answer itself
            for probe, value in seen.items():
                assert source.bytes.get(probe - to + start, value) == value
        model.bytes.update(seen)
        model.length = max(model.length, to + copied) if copied else model.length

    def compact(self, ino: int, model: Model) -> None:
        for indx in range(4):
            self.client.compact_chunk(ino, indx)

    def see(self, ino: int, off: int) -> int:
        return self.client.byte(ino, off)

    def check(self, ino: int) -> None:
        model = self.files[ino]
        assert self.client.getattr(ino).length == model.length
        shown = {probe: self.see(ino, probe) for probe in PROBES if probe < model.length}
        assert shown == {probe: value for probe, value in model.bytes.items() if probe < model.length}


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("trash_days", [0, 1])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_content_is_what_was_written(kind: str, trash_days: int, seed: int, tmp_path: Path) -> None:
    """Whatever is done to two files, both read as a dumb model says; references and totals are exact all the time."""
    print("seed", seed)
    engine = new_engine(kind, tmp_path, trash_days=trash_days, user_group_quota=True)
    client = Client(engine)
    machine = Machine(client, random.Random(seed))
    for _ in range(80):
        machine.step()
    client.compactor.close()
    assert client.deleter.drain(10)
    check_sound(engine, client.store.deleted)
    for ino, name in zip(machine.files, (b"a", b"b"), strict=True):
        client.close(ino)
        client.unlink(SUPERUSER, ROOT, name, skip_trash=True)
    client.close_session()
    check_sound(engine, client.store.deleted)
    left = {slice_id for slice_id, _, _ in engine.list_slice_refs()}
    assert bool(left) == bool(trash_days and engine.delayed_slices(1 << 40))
    client.shutdown()


@pytest.mark.parametrize("kind", ENGINES)
def test_compaction_changes_no_byte(kind: str, tmp_path: Path) -> None:
    """A compaction leaves the content, the inode and everything but the list as it was."""
    engine = new_engine(kind, tmp_path)
    client = Client(engine)
    ino = client.file(b"f")
    client.compactor.request = lambda ino, indx: None  # type: ignore[method-assign]  # only when told
    rng = random.Random(7)
    for _ in range(40):
        off = rng.randrange(0, 10_000)
        client.write(ino, off, rng.randrange(1, 3000))
    client.truncate(SUPERUSER, ino, 9000)
    client.truncate(SUPERUSER, ino, 14_000)
    before = [client.byte(ino, off) for off in range(0, 14_000, 7)]
    attr = client.getattr(ino)
    assert client.compact_chunk(ino, 0)
    assert len(engine.reader.chunk(ino, 0)) == 24
    assert [client.byte(ino, off) for off in range(0, 14_000, 7)] == before
    assert client.getattr(ino) == attr
    assert not client.compact_chunk(ino, 0)
    client.close_session()
    check_sound(engine, client.store.deleted)
    assert len(client.store.deleted) == 40
    client.shutdown()


@pytest.mark.parametrize("kind", ENGINES)
def test_compaction_of_a_chunk_that_has_changed_is_given_up(kind: str, tmp_path: Path) -> None:
    """Records appended while data is merged survive; a list replaced meanwhile makes the merged slice garbage."""
    engine = new_engine(kind, tmp_path)

    class Meddling(FakeStore):
        def compact_slice(self, *args: object) -> None:
            super().compact_slice(*args)  # type: ignore[arg-type]
            meddle()

    client = Client(engine, Meddling())
    other = Client(engine)
    ino = client.file(b"f")
    for n in range(4):
        client.write(ino, n * 10, 10)

    def meddle() -> None:
        client.write(ino, 5, 10)

    assert client.compact_chunk(ino, 0)
    assert len(engine.reader.chunk(ino, 0)) == 2 * 24

    def meddle() -> None:  # noqa: F811
        assert other.compact_chunk(ino, 0)

    assert not client.compact_chunk(ino, 0)
    client.write(ino, 40, 10)

    def meddle() -> None:  # noqa: F811
        assert other.compact_chunk(ino, 0)
        client.write(ino, 3, 10)  # as long as before, but not the same

    assert not client.compact_chunk(ino, 0)
    client.close_session()
    other.close_session()
    check_sound(engine, client.store.deleted + other.store.deleted)
    assert len(client.store.merged) == 3 and len(engine.reader.chunk(ino, 0)) == 2 * 24
    client.shutdown()
