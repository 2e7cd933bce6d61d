"""Dumps: from every engine, in both formats, into every engine, and nothing is different afterwards."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis_server
from clients import ENGINES, Client, fresh_url
from go_client import is_old, run
from hypothesis import given
from hypothesis import strategies as st
from mounts import PROGRAM, environment, juicefs

from meta.acl import Rule
from meta.attr import Attr
from meta.dump import binary, wire
from meta.dump.binary import read_binary, segments, write_binary
from meta.dump.copy import Copy
from meta.dump.escape import escape, unescape
from meta.dump.from_json import read_json
from meta.dump.restore import restore
from meta.dump.to_json import JsonDump
from meta.engine import Engine
from meta.engines import open_engine
from meta.errors import Corrupt, MetaError
from meta.rules.check import check
from meta.rules.format import init_volume
from meta.rules.limits import set_limit
from meta.setting import Setting
from meta.slices import Slice, encode_slices
from meta.types import CHARDEV, DIRECTORY, FILE, ROOT, SUPERUSER, SYMLINK

SEED = int(os.environ.get("JFS_TEST_SEED", random.randrange(1 << 30)))


def fill(engine: Engine, target: bytes = b"to/%41/\xff") -> None:
    """A volume with a bit of everything, on top of which random things were done."""
    print(f"JFS_TEST_SEED={SEED}")
    rng = random.Random(SEED)
    client = Client(engine)
    dirs = [ROOT]
    files = []
    for number in range(60):
        parent = rng.choice(dirs)
        name = rng.choice((b"plain%d", b"a b%%%d", "中文%d".encode(), b"\xff\xfe%d", b'"\\%d')) % number
        kind = rng.choice((DIRECTORY, FILE, FILE, SYMLINK, CHARDEV))
        ino, _ = client.mknod(
            SUPERUSER, parent, name, kind, 0o750, 0, 77 if kind == CHARDEV else 0, target if kind == SYMLINK else b""
        )
        if kind == DIRECTORY:
            dirs.append(ino)
        if kind == FILE:
            files.append((parent, name, ino))
            for _ in range(rng.randrange(4)):
                client.write(ino, rng.randrange(200 << 20), rng.randrange(1, 100_000))
        if rng.random() < 0.3:
            client.setxattr(SUPERUSER, ino, b"user.%d" % number, bytes(rng.randrange(256) for _ in range(20)))
    for parent, name, ino in files:
        if rng.random() < 0.3:
            client.link(SUPERUSER, ino, rng.choice(dirs), b"link of " + name)
        if rng.random() < 0.3:
            client.unlink(SUPERUSER, parent, name)
    client.set_acl(SUPERUSER, dirs[-1], "default", Rule(7, 5, 5, 0, ((1000, 6),), ((5, 4), (6, 1))))
    client.set_acl(SUPERUSER, dirs[-1], "access", Rule(7, 5, 7, 1, ((3, 2),), ()))
    src, dst = client.file(b"src"), client.file(b"dst")
    client.write(src, 0, 300_000)
    client.copy_file_range(SUPERUSER, src, 0, dst, 5000, 200_000)
    set_limit(client.vol, "dir", dirs[min(1, len(dirs) - 1)], 1 << 30, 1000)
    set_limit(client.vol, "user", 0, 1 << 40, None)
    client.deleter.drain(20)
    client.shutdown()


@pytest.fixture(params=ENGINES)
def filled(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    url = fresh_url(request.param, tmp_path)
    engine = open_engine(url)
    setting = Setting(
        name="test", uuid="5a1ade", trash_days=1, dir_stats=True, enable_acl=True, user_group_quota=True,
        access_key="key", secret_key="s3cret",
    )  # fmt: skip
    init_volume(engine, setting.encrypted())
    keeper = open_engine(url)  # a store in memory lives as long as somebody holds it
    fill(engine)
    engine = open_engine(url)
    assert check(engine) == []
    yield engine
    engine.close()
    keeper.close()


def copied(engine: Engine) -> Copy:
    copy = Copy()
    copy.fill(engine)
    return copy


def as_json(engine: Engine, path: bytes = b"/", **options: bool) -> bytes:
    text = io.StringIO()
    copy = copied(engine)
    JsonDump(copy, text).write(path, **options)
    copy.close()
    return text.getvalue().encode()


def as_binary(engine: Engine, **options: bool) -> bytes:
    out = io.BytesIO()
    copy = copied(engine)
    write_binary(copy, out, **options)
    copy.close()
    return out.getvalue()


def loaded(dump: bytes, read: Callable[..., None], url: str) -> Engine:
    copy = Copy()
    read(io.BytesIO(dump), copy)
    engine = open_engine(url)
    restore(copy, engine)
    copy.close()
    return engine


def without_numbers(dump: bytes) -> dict[str, Any]:
    """A document without what a load works out anew: numbers that were never used."""
    document: dict[str, Any] = json.loads(dump)
    for name in ("nextInodes", "nextChunk", "nextSession", "nextTrash"):
        del document["Counters"][name]
    return document


@pytest.mark.parametrize("kind", ENGINES)
def test_json_goes_from_any_engine_into_any(filled: Engine, kind: str, tmp_path: Path) -> None:
    dump = as_json(filled, keep_secrets=True)
    new = tmp_path / f"new-{tmp_path.name}"
    new.mkdir()
    engine = loaded(dump, read_json, fresh_url(kind, new))
    try:
        assert check(engine) == []
        assert without_numbers(as_json(engine, keep_secrets=True)) == without_numbers(dump)
        assert engine.next_number("nextInode") > max(ino for ino, _ in engine.list_nodes() if ino < 1 << 60)
        assert engine.next_number("nextChunk") > max((number for number, _, _ in engine.list_slice_refs()), default=0)
    finally:
        engine.close()


@pytest.mark.parametrize("kind", ENGINES)
def test_binary_goes_from_any_engine_into_any(filled: Engine, kind: str, tmp_path: Path) -> None:
    """Numbers are kept as well."""
    dump = as_binary(filled, keep_secrets=True)
    new = tmp_path / f"new-{tmp_path.name}"
    new.mkdir()
    engine = loaded(dump, read_binary, fresh_url(kind, new))
    try:
        assert check(engine) == []
        assert as_json(engine, keep_secrets=True) == as_json(filled, keep_secrets=True)
        assert dict(engine.list_dir_stats()) == dict(filled.list_dir_stats())
        assert engine.reader.quotas("user") == filled.reader.quotas("user")
        assert engine.reader.quotas("dir") == filled.reader.quotas("dir")
    finally:
        engine.close()


def test_the_volume_goes_on_after_a_load(filled: Engine, tmp_path: Path) -> None:
    """New inodes, slices and names do not meet old ones."""
    new = tmp_path / f"new-{tmp_path.name}"
    new.mkdir()
    engine = loaded(as_json(filled, keep_secrets=True), read_json, fresh_url("sqlite3", new))
    client = Client(engine)
    for number in range(20):
        ino = client.file(b"new%d" % number)
        client.write(ino, 0, 1000)
    client.unlink(SUPERUSER, ROOT, b"new3")
    assert client.deleter.drain(20)
    assert check(engine) == []
    client.shutdown()


def test_secrets_are_left_out_unless_they_are_wanted(filled: Engine) -> None:
    for dump in (as_json(filled), as_binary(filled)):
        assert json.loads(re.search(rb'"SecretKey": ("[^"]*")', dump)[1]) == "removed"  # type: ignore[index]
    for dump in (as_json(filled, keep_secrets=True), as_binary(filled, keep_secrets=True)):
        assert b"s3cret" not in dump and b'"removed"' not in dump  # hidden, as in the database


def test_secrets_come_with_the_dump_if_wanted(filled: Engine, tmp_path: Path) -> None:
    new = tmp_path / f"new-{tmp_path.name}"
    new.mkdir()
    engine = loaded(as_json(filled, keep_secrets=True), read_json, fresh_url("sqlite3", new))
    assert Setting.parse(engine.reader.setting() or b"").decrypted().secret_key == "s3cret"
    engine.close()


def test_a_part_and_no_trash(filled: Engine, tmp_path: Path) -> None:
    whole = json.loads(as_json(filled))
    assert "Trash" in whole and "Trash" not in json.loads(as_json(filled, skip_trash=True))
    name, entry = next((n, e) for n, e in whole["FSTree"]["entries"].items() if e["attr"]["type"] == "directory")
    part = as_json(filled, unescape(name))
    document = json.loads(part)
    assert document["FSTree"] == entry and "Trash" not in document and "UserQuotas" not in document
    new = tmp_path / f"new-{tmp_path.name}"
    new.mkdir()
    engine = loaded(part, read_json, fresh_url("sqlite3", new))
    root = engine.reader.attr(ROOT)
    assert root is not None and root.type == DIRECTORY
    assert set(json.loads(as_json(engine))["FSTree"]["entries"]) == set(entry["entries"])
    assert [problem for problem in check(engine) if "quota" not in problem] == []
    engine.close()


# Bad input


@pytest.fixture
def volume(tmp_path: Path) -> Engine:
    engine = open_engine(fresh_url("sqlite3", tmp_path))
    init_volume(engine, Setting(name="test", uuid="5a1ade", trash_days=1, enable_acl=True, user_group_quota=True))
    fill(engine)
    return open_engine(fresh_url("sqlite3", tmp_path))


def test_a_dump_that_is_cut_short_is_refused(volume: Engine) -> None:
    rng = random.Random(SEED)
    for dump, read in ((as_json(volume), read_json), (as_binary(volume), read_binary)):
        for _ in range(60):
            copy = Copy()
            with pytest.raises((Corrupt, MetaError)):
                read(io.BytesIO(dump[: rng.randrange(len(dump) - 2)]), copy)
                raise AssertionError("it was not noticed")
            copy.close()


def test_damage_never_ends_in_anything_but_an_error_of_ours(volume: Engine) -> None:
    rng = random.Random(SEED)
    for dump, read in ((as_json(volume), read_json), (as_binary(volume), read_binary)):
        for _ in range(150):
            damaged = bytearray(dump)
            for _ in range(rng.randrange(1, 4)):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            copy = Copy()
            try:
                read(io.BytesIO(bytes(damaged)), copy)
            except MetaError:
                pass
            copy.close()


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"nonsense", b'{"Setting": {}}', b'{"Counters": {}, "FSTree": 1}'])
def test_what_is_no_dump(text: bytes) -> None:
    for read in (read_json, read_binary):
        copy = Copy()
        with pytest.raises(MetaError, match=r"dump|setting|format|cut short"):
            read(io.BytesIO(text), copy)
        copy.close()


def test_a_used_database_is_left_alone(volume: Engine, tmp_path: Path) -> None:
    with pytest.raises(MetaError, match="used by volume test"):
        loaded(as_json(volume), read_json, fresh_url("sqlite3", tmp_path))
    assert check(volume) == []


@pytest.mark.parametrize("kind", ENGINES)
def test_a_load_that_fails_leaves_nothing(volume: Engine, kind: str, tmp_path: Path) -> None:
    new = tmp_path / f"new-{tmp_path.name}"
    new.mkdir()
    copy = copied(volume)
    copy.setting = replace(copy.setting, name="new") if copy.setting else None
    engine = open_engine(fresh_url(kind, new))
    calls = 0

    def fail(_: str, __: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise OSError(errno.EIO, "enough")

    with pytest.raises(OSError, match="enough"):
        restore(copy, engine, fail)
    assert engine.reader.setting() is None
    restore(copy, engine)
    assert check(engine) == []
    engine.close()


def test_a_file_that_only_its_user_kept_is_removed(volume: Engine, tmp_path: Path) -> None:
    """Whoever had it open is not there in another database."""
    client = Client(volume)
    ino = client.create(SUPERUSER, ROOT, b"held", 0o644, 0, 0)[0]
    client.write(ino, 0, 5000)
    client.unlink(SUPERUSER, ROOT, b"held", skip_trash=True)
    assert volume.reader.sustained(client.sid) == [ino]
    dump = as_binary(volume)
    new = tmp_path / f"new-{tmp_path.name}"
    new.mkdir()
    engine = loaded(dump, read_binary, fresh_url("sqlite3", new))
    assert check(engine) == [] and engine.reader.attr(ino) is None
    assert [(file.ino, file.length) for file in engine.list_deleted_files()] == [(ino, 5000)]
    engine.close()
    client.shutdown()


# Text and numbers


@given(st.binary(max_size=40))
def test_any_bytes_come_back(data: bytes) -> None:
    text = escape(data)
    assert unescape(text) == data
    assert json.loads(f'"{text}"') == text


def test_escapes_of_the_official_client() -> None:
    assert escape(b'a b%"\\\x01\xff\xe4\xb8\xad') == "a%20b%25%22%5C%01%FF中"
    assert unescape("%41") == b"A" and unescape("%4") == b"%4" and unescape("%4g") == b"%4g" and unescape("%") == b"%"


@given(st.lists(st.integers(0, (1 << 64) - 1)))
def test_numbers_come_back(values: list[int]) -> None:
    assert wire.numbers(b"".join(map(wire.number, values))) == values


def test_messages() -> None:
    assert wire.message(150, b"testing") == bytes.fromhex("089601120774657374696e67")
    assert wire.row(wire.message(5, -7, b"x"), "u", "i", "b") == (5, -7, b"x")
    assert wire.row(b"", "u", "i", "b") == (0, 0, b"")
    for broken in (b"\x08", b"\x12\x05ab", b"\x0d\0\0\0\0"):
        with pytest.raises(Corrupt):
            list(wire.fields(broken))


# The commands


def test_commands(tmp_path: Path) -> None:
    url = f"sqlite3://{tmp_path}/meta.db"
    juicefs("format", url, "vol", "--storage", "file", "--bucket", f"{tmp_path}/objects/")
    for name, options in (("a.json", ()), ("a.json.gz", ()), ("a.zstd", ()), ("a.bin", ("--binary",)),
                          ("b.bin.gz", ("--binary",))):  # fmt: skip
        said = juicefs("dump", url, str(tmp_path / name), *options).stderr
        assert f'Dump metadata into "{tmp_path / name}" succeed' in said
        assert os.stat(tmp_path / name).st_mode & 0o077 == 0
        new = f"sqlite3://{tmp_path}/{name}.db"
        said = juicefs("load", new, str(tmp_path / name), *options).stderr
        assert f'load metadata from "{tmp_path / name}" succeed' in said
        assert json.loads(juicefs("status", new).stdout)["Setting"]["Name"] == "vol"
        again = juicefs("load", new, str(tmp_path / name), *options, check=False)
        assert again.returncode == 1 and "database is used by volume vol" in again.stderr
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]
    assert gzip.decompress((tmp_path / "a.json.gz").read_bytes()) == (tmp_path / "a.json").read_bytes()
    shown = juicefs("load", str(tmp_path / "a.bin"), "--binary", "--stat").stdout
    assert "Backup Version: 1" in shown and "\nnode      | 2         |" in shown
    with (tmp_path / "a.bin").open("rb") as file:
        _, places = binary.footer(file)
    offset = places["node"][0][0]
    shown = juicefs("load", str(tmp_path / "a.bin"), "--binary", "--stat", "--offset", str(offset)).stdout
    assert shown.startswith("Segment: node\nValue: ")


def test_by_pipe(tmp_path: Path) -> None:
    url = f"sqlite3://{tmp_path}/meta.db"
    juicefs("format", url, "vol", "--storage", "file", "--bucket", f"{tmp_path}/objects/")
    first = subprocess.run([*PROGRAM, "dump", url], capture_output=True, env=environment(), check=True)
    second = subprocess.run(
        [*PROGRAM, "load", f"sqlite3://{tmp_path}/new.db"], input=first.stdout, capture_output=True,
        env=environment(), check=True,
    )  # fmt: skip
    assert b'Dump metadata into "STDOUT" succeed' in first.stderr
    assert b'load metadata from "STDIN" succeed' in second.stderr


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("dump", "{0}/none.db", "{0}/out"), "not formatted"),
        (("load", "{0}/new.db", "{0}/none"), "read {0}/none: no such file"),
        (("load", "{0}/new.db", "{0}/bad"), "not a dump"),
        (("load", "{0}/new.db", "{0}/bad", "--binary"), "not a binary dump"),
        (("load", "{0}/new.db", "{0}/bad.gz"), "read {0}/bad.gz"),
        (("load", "--binary", "--stat", "{0}/bad"), "not a binary dump"),
    ],
)
def test_what_goes_wrong_is_said_in_one_line(tmp_path: Path, words: tuple[str, ...], problem: str) -> None:
    (tmp_path / "bad").write_text("nonsense, and more than a few bytes of it")
    (tmp_path / "bad.gz").write_text("nonsense")
    said = juicefs(
        *(("sqlite3://" if word.endswith(".db") else "") + word.format(tmp_path) for word in words), check=False
    )
    lines = [line for line in said.stderr.splitlines() if "<INFO>" not in line]
    assert said.returncode == 1 and len(lines) == 1 and problem.format(tmp_path) in lines[0], said.stderr
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.tmp").exists()


def test_segments_are_named() -> None:
    assert sorted(kind.number for kind in binary.SEGMENTS.values()) == list(range(1, 16))
    assert list(segments(io.BytesIO(bytes.fromhex("00747083") + bytes(8)))) == []
    assert sys.byteorder == "little"


# The official client


@pytest.mark.battery
@pytest.mark.parametrize("options", [(), ("--binary",)])
def test_the_official_client_loads_and_dumps_the_same(tmp_path: Path, options: tuple[str, ...]) -> None:
    """What one client dumps, the other one loads. 1.4.1 does not count all that an owner has, and takes `%41` in the
    target of a link for a letter if it comes in a binary dump."""
    if is_old():
        pytest.skip("0.14 has no such commands: JFS_TEST_GO=/path/to/juicefs, 1.4 or newer")
    ours, theirs, back = (redis_server.shared().url() for _ in range(3))
    engine = open_engine(ours)
    setting = Setting(name="test-vol", uuid="5a1ade", storage="file", bucket=f"{tmp_path}/o/", trash_days=1,
                      enable_acl=True, user_group_quota=True)  # fmt: skip
    init_volume(engine, setting)
    fill(engine, target=b"to/\xff")
    juicefs("dump", ours, str(tmp_path / "dump"), *options)
    status, said = run("load", theirs, str(tmp_path / "dump"), *options)
    assert status == 0, said
    status, said = run("dump", theirs, str(tmp_path / "theirs"), *options)
    assert status == 0, said
    juicefs("load", back, str(tmp_path / "theirs"), *options)
    trees = []
    for url in (ours, theirs, back):
        with closing(open_engine(url)) as each:
            assert [problem for problem in check(each) if not re.match("(user|group) 0 has", problem)] == []
            trees.append(json.loads(as_json(each))["FSTree"])
    assert trees[0] == trees[1] == trees[2]


EXPECTED = """{
  "Setting": %s,
  "Counters": {
    "usedSpace": 12288,
    "usedInodes": 3,
    "nextInodes": 10,
    "nextChunk": 20,
    "nextSession": 1,
    "nextTrash": 0
  },
  "Sustained": [
    {"sid":4,"inodes":[9]}
  ],
  "DelFiles": [
    {"inode":8,"length":77,"expire":1700000000}
  ],
  "Quotas": {
    "2": {
      "maxSpace": 1073741824,
      "maxInodes": -1
    }
  },
  "FSTree": {
    "attr": {"inode":1,"type":"directory","mode":511,"uid":0,"gid":0,"atime":1,"mtime":2,"ctime":3,"nlink":3,"length":0},
    "entries": {
      "a%%20b": {
        "attr": {"inode":2,"type":"directory","mode":493,"uid":5,"gid":6,"atime":1,"mtime":2,"ctime":3,"mtimensec":7,"nlink":2,"length":0},
        "posix_acl_default": {"owner":7,"group":5,"other":0,"mask":5,"users":[{"id":1000,"perm":6}],"groups":null},
        "entries": {
        }
      },
      "f": {
        "attr": {"inode":3,"flags":1,"type":"regular","mode":420,"uid":0,"gid":0,"atime":1,"mtime":2,"ctime":3,"nlink":1,"length":5000,"tier":2},
        "xattrs": [{"name":"user.k","value":"%%00v"}],
        "chunks": [{"index":0,"slices":[{"id":1,"size":5000,"len":4000},{"id":2,"pos":4000,"size":3000,"off":9,"len":1000}]}]
      },
      "lost": {
        "attr": {"inode":5,"type":"regular","mode":0,"uid":0,"gid":0,"atime":0,"mtime":0,"ctime":0,"nlink":1,"length":0}
      },
      "sym": {
        "attr": {"inode":4,"type":"symlink","mode":511,"uid":0,"gid":0,"atime":1,"mtime":2,"ctime":3,"nlink":1,"length":0},
        "symlink": "%%2541"
      }
    }
  }
}
"""  # noqa: E501 - as official clients write it


def test_the_document_word_by_word() -> None:
    copy = Copy()
    copy.setting = Setting(name="vol", uuid="5a1ade")
    times = {"atime": 1, "mtime": 2, "ctime": 3}
    copy.put_nodes([
        (1, Attr(DIRECTORY, 0o777, nlink=3, **times)),
        (2, Attr(DIRECTORY, 0o755, 5, 6, mtimensec=7, nlink=2, default_acl=1, length=4096, **times)),
        (3, Attr(FILE, 0o644, flags=1, length=5000, tier=2, **times)),
        (4, Attr(SYMLINK, 0o777, length=3, **times)),
    ])  # fmt: skip
    copy.put("edge", [(1, b"sym", 4, SYMLINK), (1, b"a b", 2, DIRECTORY), (1, b"f", 3, FILE), (1, b"lost", 5, FILE)])
    copy.put("chunk", [(3, 0, encode_slices([Slice(0, 1, 5000, 0, 4000), Slice(4000, 2, 3000, 9, 1000)]))])
    copy.put("symlink", [(4, b"%41")])
    copy.put("xattr", [(3, b"user.k", b"\0v")])
    copy.put("acl", [(1, Rule(7, 5, 5, 0, ((1000, 6),), ()).encode())])
    copy.put("deleted", [(8, 77, 1_700_000_000)])
    copy.put("sustained", [(4, 9)])
    copy.put("quota", [("dir", 2, 1 << 30, -1, 0, 0), ("user", 7, -1, -1, 5, 5)])
    numbers = {"usedSpace": 12288, "totalInodes": 3, "nextInode": 10, "nextChunk": 20, "nextSession": 1, "nextTrash": 0}
    copy.put("counter", list(numbers.items()))
    text = io.StringIO()
    JsonDump(copy, text).write()
    copy.close()
    assert text.getvalue() == EXPECTED % Setting(name="vol", uuid="5a1ade").to_json(2).replace("\n", "\n  ")


@pytest.mark.parametrize("name", ["dump-1.4.1.json.gz", "dump-1.4.1.bin.gz"])
@pytest.mark.parametrize("kind", ENGINES)
def test_dumps_that_the_official_client_wrote(kind: str, name: str, tmp_path: Path) -> None:
    """Both are of one volume, made by a client of ours in SQLite."""
    data = Path(__file__).resolve().parent / "data"
    new = tmp_path / f"new-{tmp_path.name}"
    new.mkdir()
    read = read_json if ".json" in name else read_binary
    engine = loaded(gzip.decompress((data / name).read_bytes()), read, fresh_url(kind, new))
    assert check(engine) == []
    written = gzip.decompress((data / "dump-1.4.1.json.gz").read_bytes())
    assert without_numbers(as_json(engine, keep_secrets=True))["FSTree"] == without_numbers(written)["FSTree"]
    engine.close()
