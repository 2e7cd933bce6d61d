"""Counting and repairing directories over every engine, also while others change them."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clients import ENGINES
from namespace import Namespace

from meta.errors import Refused
from meta.rules import repair
from meta.rules.check import check
from meta.rules.content import truncate
from meta.rules.repair import count_entries, inspect_links, inspect_stat, repair_links, sync_dir_stat, sync_usage
from meta.transaction import DirStat
from meta.types import ROOT, SUPERUSER


@pytest.fixture(params=ENGINES)
def fs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Namespace]:
    namespace = Namespace(request.param, tmp_path, trash_days=1)
    namespace.mkdir("d")
    namespace.mkdir("d/sub")
    namespace.create("d/f")
    resize(namespace, "d/f", 5000)
    namespace.link("d/f", "d/again")
    namespace.symlink("d/s")
    yield namespace
    namespace.engine.close()


def resize(fs: Namespace, path: str, length: int) -> None:
    ino = fs.ino(path)
    fs.vol.transact(lambda tx: truncate(tx, fs.vol, SUPERUSER, ino, length))


RIGHT = DirStat(10_000, 8192 * 2 + 4096 * 2, 4)


def test_what_entries_say(fs: Namespace) -> None:
    d = fs.ino("d")
    assert count_entries(fs.reader, d) == (3, RIGHT)
    assert inspect_links(fs.reader, d) == (fs.attr("d"), 3)
    assert inspect_stat(fs.reader, d) == (RIGHT, RIGHT)
    assert count_entries(fs.reader, fs.ino("d/sub")) == (2, DirStat(0, 0, 0))


@pytest.mark.parametrize("wrong", [1, 2, 100])
def test_link_counts_are_put_right(fs: Namespace, wrong: int) -> None:
    fs.change("d", nlink=wrong)
    before = fs.attr("d")
    fs.clock[0] += 5
    repair_links(fs.vol, fs.ino("d"), ROOT, 0o700)
    after = fs.attr("d")
    assert (after.nlink, after.mode, after.mtime) == (3, before.mode, before.mtime)
    assert after.ctime == before.ctime + 5
    assert check(fs.engine) == []


def test_a_lost_record_is_made_anew(fs: Namespace) -> None:
    d = fs.ino("d")
    fs.engine.transact(lambda tx: tx.delete_attr(d))
    assert inspect_links(fs.reader, d) == (None, 3)
    repair_links(fs.vol, d, ROOT, 0o750)
    attr = fs.attr("d")
    assert (attr.is_dir, attr.mode, attr.nlink, attr.parent, attr.uid) == (True, 0o750, 3, ROOT, 0)
    assert check(fs.engine) == []


@pytest.mark.parametrize("stored", [None, DirStat(-5, -5, -5), DirStat(1, 2, 3)])
def test_statistics_are_put_right(fs: Namespace, stored: DirStat | None) -> None:
    d = fs.ino("d")
    put_stat(fs, d, stored)
    sync_dir_stat(fs.vol, d)
    assert fs.reader.dir_stat(d) == RIGHT
    assert check(fs.engine) == []


def put_stat(fs: Namespace, ino: int, stat: DirStat | None) -> None:
    fs.engine.transact(lambda tx: tx.delete_dir_stat(ino) if stat is None else tx.put_dir_stat(ino, stat))


def test_a_directory_that_is_gone_gets_no_statistics(fs: Namespace) -> None:
    ino = fs.ino("d/sub")
    fs.rmdir("d/sub", skip_trash=True)
    sync_dir_stat(fs.vol, ino)
    assert fs.reader.dir_stat(ino) is None


def meanwhile(monkeypatch: pytest.MonkeyPatch, work: Callable[[int], None], times: int) -> None:
    """Have `work` done behind the first counts."""
    turns = iter(range(times))
    real = repair.count_entries

    def count(*arguments: Any) -> Any:
        found = real(*arguments)
        for turn in turns:
            work(turn)
            break
        return found

    monkeypatch.setattr(repair, "count_entries", count)


def test_what_changes_during_the_count_is_counted(fs: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    d = fs.ino("d")
    fs.change("d", nlink=7)
    put_stat(fs, d, None)

    def work(turn: int) -> None:
        fs.clock[0] += 1
        fs.mkdir(f"d/new{turn}")
        resize(fs, "d/f", 9000 + turn)

    meanwhile(monkeypatch, work, 3)
    repair_links(fs.vol, d, ROOT, 0o755)
    assert fs.attr("d").nlink == 6
    meanwhile(monkeypatch, lambda turn: work(turn + 3), 3)
    sync_dir_stat(fs.vol, d)
    monkeypatch.undo()
    assert fs.reader.dir_stat(d) == count_entries(fs.reader, d).stat
    assert check(fs.engine) == []


@pytest.mark.parametrize("changed", ["d/f", "d/more"])
def test_a_change_between_the_count_and_its_commit_is_noticed(
    fs: Namespace, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    """The count was right when it ended: the transaction must see that it is not any more."""
    d = fs.ino("d")
    fs.change("d", nlink=9)
    put_stat(fs, d, DirStat(1, 1, 1))
    for name in ("inspect_links", "inspect_stat"):
        real, left = getattr(repair, name), [2]

        def inspect(*arguments: Any, real: Any = real, left: Any = left) -> Any:
            found = real(*arguments)
            if left[0]:
                left[0] -= 1
                fs.clock[0] += 1
                if changed == "d/f":
                    resize(fs, changed, 20_000 * left[0])
                fs.mkdir(f"d/{left[0]}{real.__name__}")
            return found

        monkeypatch.setattr(repair, name, inspect)
    repair_links(fs.vol, d, ROOT, 0o755)
    sync_dir_stat(fs.vol, d)
    monkeypatch.undo()
    assert fs.attr("d").nlink == 7
    assert fs.reader.dir_stat(d) == count_entries(fs.reader, d).stat
    assert check(fs.engine) == []


def test_a_directory_that_never_rests_is_refused(fs: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    fs.change("d", nlink=9)

    def work(turn: int) -> None:
        fs.clock[0] += 1
        fs.mkdir(f"d/new{turn}")

    meanwhile(monkeypatch, work, 1000)
    with pytest.raises(Refused, match="changes faster", check=lambda e: e.errno == errno.EBUSY):
        repair_links(fs.vol, fs.ino("d"), ROOT, 0o755)
    with pytest.raises(Refused, match="changes faster"):
        sync_dir_stat(fs.vol, fs.ino("d"))


def test_totals_are_put_right(fs: Namespace) -> None:
    fs.create("gone")
    fs.unlink("gone")  # to the trash, which counts
    fs.hold("d/f")
    fs.unlink("d/f", skip_trash=True)
    fs.unlink("d/again", skip_trash=True)  # held open, and so does this
    fs.engine.flush()
    right = fs.reader.counter("usedSpace"), fs.reader.counter("totalInodes")
    fs.engine.transact(lambda tx: tx.add_usage(-40_960, 5))
    assert sync_usage(fs.vol) == right
    assert (fs.reader.counter("usedSpace"), fs.reader.counter("totalInodes")) == right
    assert check(fs.engine) == []
