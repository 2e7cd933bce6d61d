"""The command channel `.control` and the texts of `.stats` and `.config`, as the official tools read them."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from vfs_harness import BLOCK, CALLER, ROOT, Client, errno_from, joined, world

from fuse.operations import Caller, FileLock
from juicefs_py.metrics import Histogram, Registry, exponential
from juicefs_py.volume import open_volume
from meta.client import Changes
from meta.config import MetaConfig
from meta.setting import Setting
from meta.types import SET_MODE, SUPERUSER


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with world("sqlite", tmp_path) as made:
        yield made.client(meta=MetaConfig())


def ask(client: Client, command: int, payload: bytes, *, split: bool = False) -> tuple[list[tuple[int, int]], bytes]:
    """Send a request as the official client does; progress pairs, and what ended the answer."""
    file = client.open(client.ino(b".control"))
    request = struct.pack(">II", command, len(payload)) + payload
    if split:
        file.write(0, request[:8])
        file.write(8, request[8:])
    else:
        file.write(0, request)
    offset, got, progress = len(request), b"", []
    deadline = time.monotonic() + 20
    while True:
        assert time.monotonic() < deadline
        more = file.read(offset, 4096)
        offset, got = offset + len(more), got + more
        while got[:1] == b"\xfe" and len(got) >= 17:
            progress.append(struct.unpack_from(">QQ", got, 1))
            got = got[17:]
        if got[:1] == b"\xff" and len(got) >= 5 and len(got) >= 5 + struct.unpack_from(">I", got, 1)[0]:
            break
        if got and got[0] < 0xFE and not more:
            break
        time.sleep(0.01)
    file.close()
    return progress, got  # type: ignore[return-value]


def document(end: bytes) -> dict[str, object]:
    assert end[0] == 0xFF and len(end) == 5 + struct.unpack_from(">I", end, 1)[0]
    return json.loads(end[5:])  # type: ignore[no-any-return]


def make_file(client: Client, name: bytes, size: int, parent: int = ROOT) -> int:
    file = client.create(name, parent)
    file.write(0, os.urandom(size))
    file.close()
    return file.ino


@pytest.mark.parametrize("split", [False, True])
def test_info(client: Client, split: bool) -> None:
    ino = make_file(client, b"a", BLOCK + 10)
    _, end = ask(client, 1005, struct.pack(">QBBB", ino, 0, 0, 0), split=split)
    info = document(end)
    assert info["Ino"] == ino and not info["Failed"] and info["Paths"] == ["/a"]
    assert info["Summary"] == {"Length": BLOCK + 10, "Size": 69632, "Files": 1, "Dirs": 0}
    objects = info["Objects"]
    assert isinstance(objects, list)
    assert [(row["ChunkIndex"], row["Off"], row["Len"]) for row in objects] == [(0, 0, BLOCK), (0, 0, 10)]
    assert objects[0]["Key"].startswith("vol/chunks/0/0/") and objects[1]["Key"].endswith("_1_10")
    assert list(info) == [
        "Ino", "Failed", "Reason", "Summary", "Paths", "Chunks", "Objects", "PLocks", "FLocks", "Tier", "RestoreStatus"
    ]  # fmt: skip
    raw = document(ask(client, 1005, struct.pack(">QBBB", ino, 0, 1, 0))[1])
    chunks = raw["Chunks"]
    assert isinstance(chunks, list) and chunks[0]["Len"] == BLOCK + 10
    assert document(ask(client, 1005, struct.pack(">Q", 987654))[1])["Failed"] is True


def test_info_shows_who_holds_locks(client: Client) -> None:
    file = client.create(b"a")
    client.vfs.flock(CALLER, file.ino, file.fh, 7, fcntl.F_WRLCK, False)
    client.vfs.setlk(CALLER, file.ino, file.fh, 9, FileLock(5, 14, fcntl.F_RDLCK, 4321), False)
    info = document(ask(client, 1005, struct.pack(">QBBB", file.ino, 0, 0, 0))[1])
    sid = client.vfs.meta.sid
    assert info["FLocks"] == [{"Sid": sid, "Owner": 7 ^ file.fh, "Type": "W"}]
    assert info["PLocks"] == [{"Sid": sid, "Owner": 9, "Type": fcntl.F_RDLCK, "Pid": 4321, "Start": 5, "End": 14}]
    file.close()
    info = document(ask(client, 1005, struct.pack(">QBBB", file.ino, 0, 0, 0))[1])
    assert info["FLocks"] is None and info["PLocks"] is None


def test_old_info_is_text(client: Client) -> None:
    ino = make_file(client, b"a", 10)
    _, end = ask(client, 1003, struct.pack(">QBB", ino, 1, 0))
    (length,) = struct.unpack_from(">I", end)
    assert len(end) == 4 + length
    assert end[4:].decode().splitlines()[:2] == [f"  inode: {ino}", "  files: 1"]


def test_summary_rmr_and_clone(client: Client) -> None:
    folder = client.mkdir(b"d")
    for k in range(5):
        make_file(client, b"%d" % k, 1000, folder)
    summary = document(ask(client, 1007, struct.pack(">QBBB", folder, 2, 3, 1))[1])
    tree = summary["Tree"]
    assert isinstance(tree, dict) and (summary["Errno"], tree["Files"], tree["Dirs"]) == (0, 5, 1)
    _, end = ask(client, 1006, struct.pack(">QQQB", folder, ROOT, ROOT, 1) + b"e" + struct.pack(">HBB", 0o22, 0, 4))
    assert end == b"\0"
    copied = client.open(client.ino(b"e", b"3"), os.O_RDONLY)
    original = client.open(client.ino(b"d", b"3"), os.O_RDONLY)
    assert copied.all() == original.all() and copied.ino != original.ino
    copied.close()
    original.close()
    progress, end = ask(client, 1002, struct.pack(">QB", ROOT, 1) + b"d" + bytes((1, 4)))
    assert end == b"\0" and progress[-1][0] == 6
    assert errno_from(lambda: client.lookup(b"d")) == errno.ENOENT
    assert ask(client, 1002, struct.pack(">QB", ROOT, 1) + b"d" + bytes((1, 4)))[1] == bytes((errno.ENOENT,))


def test_warm_up_and_check(tmp_path: Path) -> None:
    with world("sqlite", tmp_path) as made:
        client = made.client(cache_dirs=("memory",), cache_size=100 << 20)
        folder = client.mkdir(b"d")
        make_file(client, b"a", 3 * BLOCK, folder)
        make_file(client, b"b", 10, folder)

        def run(action: int) -> dict[str, object]:
            paths = b"/d"
            end = ask(client, 1004, struct.pack(">I", len(paths)) + paths + struct.pack(">HBB", 4, 0, action))[1]
            return document(end)

        assert run(1)["FileCount"] == 2
        cold = run(2)
        assert (cold["FileCount"], cold["SliceCount"], cold["TotalBytes"]) == (2, 2, 3 * BLOCK + 10)


def test_limits_of_a_changed_setting_pass_by_those_of_the_mount(tmp_path: Path) -> None:
    with world("mem", tmp_path) as made:
        volume = open_volume(
            made.url, MetaConfig(no_bgjob=True), limits=lambda setting: (5.0, setting.download_limit or 7.0)
        )
        stored = Setting.parse(volume.meta.reader.setting() or b"")
        told: list[tuple[float, float]] = []
        volume.store.update_limits = lambda *pair: told.append(pair)  # type: ignore[method-assign]
        changed = replace(stored, upload_limit=100, download_limit=200)
        volume.meta.engine.transact(lambda tx: tx.put_setting(changed.to_json().encode()))
        volume.meta.refresh_session()
        assert told == [(5.0, 200)]
        volume.close()


def test_a_volume_that_cannot_be_opened_leaves_no_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with world("sqlite", tmp_path) as made:
        other = made.client()
        before = len(other.vfs.meta.engine.sessions())
        monkeypatch.setattr("juicefs_py.volume.VFS", lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            open_volume(made.url, MetaConfig(no_bgjob=True))
        assert len(other.vfs.meta.engine.sessions()) == before


def test_a_successor_that_cannot_begin_leaves_the_session_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its locks and removed files belong to programs that have them open."""
    with world("sqlite", tmp_path) as made:
        volume = open_volume(made.url, MetaConfig(no_bgjob=True))
        meta = volume.meta
        sid = meta.sid
        ino, _ = meta.create(SUPERUSER, ROOT, b"held", 0o644, 0, os.O_EXCL)
        meta.flock(SUPERUSER, ino, 7, fcntl.F_WRLCK)
        meta.unlink(SUPERUSER, ROOT, b"held")
        volume.leave()
        reader = made.client().vfs.meta.engine.reader
        assert reader.sustained(sid) == [ino]
        with monkeypatch.context() as patch:
            patch.setattr("juicefs_py.volume.VFS", lambda *_: 1 // 0)
            with pytest.raises(ZeroDivisionError):
                open_volume(made.url, MetaConfig(no_bgjob=True), sid=sid)
        assert reader.sustained(sid) == [ino] and reader.attr(ino) is not None
        assert list(reader.flocks(ino)) == [(sid, 7)]
        assert reader.session(sid) is not None


def test_unknown_commands_and_bad_requests(client: Client) -> None:
    assert ask(client, 4711, b"")[1] == bytes((errno.EINVAL,))
    assert ask(client, 1005, b"abc")[1] == bytes((errno.EINVAL,))
    file = client.open(client.ino(b".control"))
    assert errno_from(lambda: file.write(0, b"short")) == errno.EINVAL
    file.write(0, struct.pack(">II", 1005, 1) + b"too long")
    assert file.read(16, 10) == bytes((errno.EIO,))
    file.close()


def test_stats_text(client: Client) -> None:
    make_file(client, b"a", 10)
    errno_from(lambda: client.lookup(b"missing"))
    file = client.open(client.ino(b".stats"), os.O_RDONLY)
    lines = dict(line.split() for line in file.read(0, 1 << 20).decode().splitlines())
    file.close()
    assert lines["juicefs_fuse_ops_total_write"] == "1"
    assert lines["juicefs_fuse_ops_io_errors_ENOENT"] == "1"
    assert lines["juicefs_fuse_written_size_bytes_total"] == "1"
    assert lines["juicefs_fuse_written_size_bytes_sum"] == "10"
    assert int(lines["juicefs_object_request_data_bytes_PUT"]) == 10
    assert float(lines["juicefs_fuse_ops_durations_seconds_create"]) > 0
    assert {"juicefs_memory", "juicefs_uptime", "juicefs_used_space", "juicefs_blockcache_hits"} <= set(lines)
    kept = {each.name for each in dataclasses.fields(client.vfs.store.metrics) if each.type in ("int", "float")}
    assert "blockcache_damaged" in kept and {f"juicefs_{name}" for name in kept} <= set(lines)


def test_config_text(client: Client) -> None:
    file = client.open(client.ino(b".config"), os.O_RDONLY)
    text = file.read(0, 1 << 20).decode()
    file.close()
    config = json.loads(text)
    assert list(config)[:5] == ["Meta", "Format", "Chunk", "Security", "Port"]
    assert config["Format"]["Name"] == "vol" and config["Pid"] == os.getpid() and config["UMask"] == 65535
    assert config["BackupMeta"] == 0, "nothing is backed up"
    assert config["Meta"]["Sid"] > 0 and config["EntryTimeout"] == 1_000_000_000
    assert text.startswith('{\n "Meta": {\n  "Retries"')


def test_metrics_are_prometheus_text(client: Client) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    client.vfs.stats.registry.histogram("test_seconds", "A test.", Histogram(exponential(1, 2, 3)).distribution)
    families = {family.name: family for family in text_string_to_metric_families(client.vfs.metrics.render().decode())}
    assert families["juicefs_fuse_ops_durations_histogram_seconds"].type == "histogram"
    assert families["juicefs_used_space"].type == "gauge"
    buckets = [sample for sample in families["juicefs_test_seconds"].samples if sample.name.endswith("_bucket")]
    assert [sample.labels["le"] for sample in buckets] == ["1.0", "2.0", "4.0", "+Inf"]


def test_constant_labels_are_escaped() -> None:
    registry = Registry({"mp": 'a"b\\c'})
    registry.number("x", "gauge", "X.", lambda: 1.5)
    assert b'juicefs_x{mp="a\\"b\\\\c"} 1.5\n' in registry.render()
    assert registry.stats() == b"juicefs_x 1.5\n"


def test_control_reads_nothing_before_the_answer(client: Client) -> None:
    file = client.open(client.ino(b".control"))
    assert joined(client.vfs.read(CALLER, file.ino, file.fh, 0, 100)) == b""
    file.close()


def test_the_control_file_gives_nobody_more_rights(client: Client) -> None:
    """Everybody may open it, and the kernel checks nothing of what is asked through it."""
    folder = client.mkdir(b"d")
    make_file(client, b"f", 10, folder)
    secret = client.ino(b"d", b"f")
    client.vfs.meta.setattr(SUPERUSER, secret, Changes(valid=SET_MODE, mode=0o666))  # but nobody gets there
    client.vfs.meta.setattr(SUPERUSER, folder, Changes(valid=SET_MODE, mode=0o700))
    for command, payload in (
        (1002, struct.pack(">QB", ROOT, 1) + b"d" + bytes((1, 4))),
        (1006, struct.pack(">QQQB", folder, ROOT, ROOT, 1) + b"e" + struct.pack(">HBB", 0o22, 0, 4)),
        (1006, struct.pack(">QQQB", secret, ROOT, ROOT, 1) + b"e" + struct.pack(">HBB", 0o22, 0, 4)),
        (1007, struct.pack(">QBBB", folder, 2, 3, 1)),
        (1007, struct.pack(">QBBB", secret, 2, 3, 1)),
        (1008, struct.pack(">Q", folder)),
        (1008, struct.pack(">Q", secret)),
        (1004, struct.pack(">I", 4) + b"/d/f" + struct.pack(">HBB", 1, 0, 0)),
    ):
        assert asked_by_anybody(client, command, payload)[-1:] == bytes((errno.EACCES,)), (command, payload)
    hidden = document(asked_by_anybody(client, 1005, struct.pack(">QBBB", secret, 0, 0, 0)))
    assert hidden["Failed"] and hidden["Reason"] == "Permission denied" and "Paths" not in hidden
    number = b"inode:%d" % secret
    evicted = struct.pack(">I", len(number)) + number + struct.pack(">HBB", 1, 0, 1)
    assert asked_by_anybody(client, 1004, evicted) == bytes((errno.EACCES,))
    assert client.ino(b"d", b"f")
    assert errno_from(lambda: client.ino(b"e")) == errno.ENOENT


def test_whoever_may_read_and_write_may_ask(client: Client) -> None:
    ino = make_file(client, b"f", 10)
    client.vfs.meta.setattr(SUPERUSER, ino, Changes(valid=SET_MODE, mode=0o606))
    assert document(asked_by_anybody(client, 1005, struct.pack(">QBBB", ino, 0, 0, 0)))["Paths"] == ["/f"]
    assert asked_by_anybody(client, 1008, struct.pack(">Q", ino))[-1:] == b"\0"
    make_file(client, b"g", 10)  # mode 0644: read, not written
    evict = struct.pack(">I", 2) + b"/g" + struct.pack(">HBB", 1, 0, 1)
    assert asked_by_anybody(client, 1004, evict) == bytes((errno.EACCES,))
    check = struct.pack(">I", 2) + b"/g" + struct.pack(">HBB", 1, 0, 2)
    assert document(asked_by_anybody(client, 1004, check))["FileCount"] == 1


def asked_by_anybody(client: Client, command: int, payload: bytes) -> bytes:
    """The end of the answer to a user without special rights."""
    anybody, ino = Caller(1000, 1000, 0), client.ino(b".control")
    fh = client.vfs.open(anybody, ino, os.O_RDWR).fh
    request = struct.pack(">II", command, len(payload)) + payload
    client.vfs.write(anybody, ino, fh, 0, memoryview(request), 0)
    deadline, got, end = time.monotonic() + 10, b"", b""
    while not end:  # a slow command tells of its progress first
        assert time.monotonic() < deadline
        got += joined(client.vfs.read(anybody, ino, fh, len(request) + len(got), 10_000))
        end = got
        while end[:1] == b"\xfe":
            end = end[17:]
    client.vfs.release(anybody, ino, fh, 0, False)
    return end
