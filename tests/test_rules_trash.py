"""The trash: where removed things go, under which names, and what does not go there."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import ENGINES
from namespace import SID, START_S, Namespace, user

from meta.errors import Refused
from meta.rules.check import check
from meta.rules.context import Volume
from meta.rules.remove import unlink
from meta.rules.trash import TrashName, entry_name, hour_name, is_due, parse_entry, parse_hour
from meta.rules.tree import remove_tree
from meta.types import DIRECTORY, FLAG_IMMUTABLE, FLAG_SKIP_TRASH, ROOT, SUPERUSER, TRASH

HOUR = ".trash/2023-11-14-22"


@pytest.fixture(params=ENGINES)
def fs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Namespace]:
    namespace = Namespace(request.param, tmp_path, trash_days=1)
    yield namespace
    assert check(namespace.engine) == []
    namespace.engine.close()


def test_names_of_hours_and_entries() -> None:
    assert hour_name(START_S) == b"2023-11-14-22"
    assert parse_hour(b"2023-11-14-22") == START_S - 13 * 60 - 20
    assert parse_hour(b"keep") is None and parse_hour(b"\xff") is None
    assert entry_name(1, 23, b"a-b") == b"1-23-a-b"
    assert parse_entry(b"1-23-a-b") == TrashName(1, 23, b"a-b")
    assert parse_entry(b"1-b") is None and parse_entry(b"x-1-b") is None
    assert len(entry_name(1, 2, b"n" * 255)) == 255


def test_an_hour_is_due_two_hours_after_the_days_are_over() -> None:
    began = START_S - 13 * 60 - 20
    assert not is_due(b"2023-11-14-22", began + 26 * 3600, 1)
    assert is_due(b"2023-11-14-22", began + 26 * 3600 + 1, 1)
    assert not is_due(b"not an hour", began + 10**9, 1)


def test_a_removed_file_keeps_everything_but_its_place(fs: Namespace) -> None:
    ino = fs.create("f")
    fs.clock[0] += 5
    removed = fs.unlink("f")
    assert removed.trashed and removed.deleted is None
    attr = fs.attr(f"{HOUR}/1-{ino}-f")
    assert (attr.nlink, attr.parent, attr.mtime, attr.ctime) == (1, fs.ino(HOUR), START_S, START_S + 5)
    hour = fs.attr(HOUR)
    assert (fs.ino(HOUR), hour.mode, hour.uid, hour.nlink, hour.parent) == (TRASH + 1, 0o555, 0, 2, TRASH)
    assert fs.reader.counter("totalInodes") == 2  # the hour is one
    assert fs.reader.dir_stat(fs.ino(HOUR)).inodes == 1


def test_directories_go_there_too_and_lose_statistics_and_quota(fs: Namespace) -> None:
    ino = fs.mkdir("d")
    fs.set_quota("d")
    fs.rmdir("d")
    assert fs.attr(f"{HOUR}/1-{ino}-d").nlink == 2
    assert fs.attr(HOUR).nlink == 2 and fs.attr("").nlink == 2
    assert fs.reader.dir_stat(ino) is None and fs.reader.quota("dir", ino) is None


def test_every_hour_has_its_directory(fs: Namespace) -> None:
    for name in ("a", "b"):
        fs.create(name)
        fs.unlink(name)
        fs.clock[0] += 3600
    assert fs.names(".trash") == [b"2023-11-14-22", b"2023-11-14-23"]


def test_two_clients_use_one_directory(fs: Namespace) -> None:
    fs.create("a")
    fs.create("b")
    fs.unlink("a")
    other = Volume(fs.engine, fs.vol.setting, fs.vol.config)
    other.now = fs.vol.now  # type: ignore[method-assign]
    other.transact(lambda tx: unlink(tx, other, SUPERUSER, ROOT, b"b"))
    assert len(fs.names(HOUR)) == 2


def test_an_hour_that_somebody_removed_is_made_again(fs: Namespace) -> None:
    fs.create("a")
    fs.unlink("a")
    remove_tree(fs.vol, SUPERUSER, TRASH, b"2023-11-14-22")
    assert fs.names(".trash") == []
    fs.create("b")
    assert fs.unlink("b").trashed
    assert len(fs.names(HOUR)) == 1 and fs.ino(HOUR) == TRASH + 2


def test_the_trash_root_is_made_if_it_is_missing(fs: Namespace) -> None:
    fs.engine.transact(lambda tx: tx.delete_attr(TRASH))
    fs.create("a")
    assert fs.unlink("a").trashed


def test_a_name_removed_twice_in_an_hour_is_kept_once(fs: Namespace) -> None:
    fs.create("f")
    fs.link("f", "g")
    ino = fs.ino("g")
    assert fs.unlink("f").trashed
    fs.link("g", "f")
    removed = fs.unlink("f")
    assert not removed.trashed and removed.deleted is None
    assert fs.reader.attr(ino).nlink == 2
    assert fs.reader.parents(ino) == {ROOT: 1, fs.ino(HOUR): 1}


def test_what_does_not_go_there(fs: Namespace) -> None:
    fs.mkdir("d")
    fs.change("d", flags=FLAG_SKIP_TRASH)
    inherited = fs.create("d/f")
    assert fs.reader.attr(inherited).flags == FLAG_SKIP_TRASH
    assert not fs.unlink("d/f").trashed
    fs.create("g")
    removed = fs.unlink("g", skip_trash=True)
    assert removed.deleted is not None and not removed.trashed
    assert not fs.engine.reader.list_entries(TRASH).items


def test_the_trash_is_roots_to_empty(fs: Namespace) -> None:
    ino = fs.create("f")
    fs.unlink("f")
    gone = f"{HOUR}/1-{ino}-f"
    fs.caller = user(1000)
    for call in (lambda: fs.unlink(gone), lambda: fs.rmdir(HOUR), lambda: fs.create(f"{HOUR}/x")):
        with pytest.raises(Refused) as refused:
            call()
        assert refused.value.errno == errno.EPERM
    fs.caller = SUPERUSER
    assert fs.unlink(gone).deleted is not None
    fs.rmdir(HOUR)
    assert fs.reader.counter("totalInodes") == 0


def test_nothing_new_in_a_trashed_directory(fs: Namespace) -> None:
    ino = fs.mkdir("d")
    fs.rmdir("d")
    for call in (lambda: fs.create(f"{HOUR}/1-{ino}-d/x"), lambda: fs.mkdir(f"{HOUR}/1-{ino}-d/x")):
        with pytest.raises(Refused) as refused:
            call()
        assert refused.value.errno == errno.ENOENT


def test_open_files_outlive_their_last_name(fs: Namespace) -> None:
    fs.create("f")
    ino = fs.hold("f")
    assert fs.unlink("f", skip_trash=True).deleted is None
    assert fs.reader.attr(ino).nlink == 0 and fs.reader.sustained(SID) == [ino]
    assert fs.reader.counter("totalInodes") == 1
    fs.let_go(ino)
    assert fs.reader.attr(ino) is None
    assert [file.ino for file in fs.engine.deleted_files(START_S * 2, 10)] == [ino]


def test_a_damaged_entry_can_be_removed(fs: Namespace) -> None:
    ino = fs.create("f")
    fs.mkdir("d")
    fs.engine.transact(lambda tx: (tx.delete_attr(ino), tx.delete_attr(fs.ino("d")), tx.add_usage(-8192, -2)))
    for removed in (fs.unlink("f"), fs.rmdir("d")):
        assert removed.attr is None and not removed.trashed
    assert fs.names() == []
    assert check(fs.engine) == [check(fs.engine)[0]]  # the root's statistics still count both
    fs.engine.transact(lambda tx: tx.delete_dir_stat(ROOT))


def test_flags_protect(fs: Namespace) -> None:
    fs.create("f")
    fs.mkdir("d")
    fs.change("f", flags=FLAG_IMMUTABLE)
    fs.change("d", flags=FLAG_IMMUTABLE)
    for call in (lambda: fs.unlink("f"), lambda: fs.rmdir("d"), lambda: fs.create("d/x"), lambda: fs.link("f", "g")):
        with pytest.raises(Refused) as refused:
            call()
        assert refused.value.errno == errno.EPERM
    assert fs.attr("d").type == DIRECTORY
