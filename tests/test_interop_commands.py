"""Commands of one client on mounts and volumes of the other: what an official client in Go and ours make of the same.

Not the file systems themselves (`test_interop_go`). The old client that scripts/test fetches knows `rmr`, `info` and
`status` only; the rest runs with JFS_TEST_GO=/path/to/juicefs, 1.4 or newer.
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from go_client import UNCACHED, GoMount, is_old, run, version
from mounts import PROGRAM, Mount, Volume, environment, juicefs
from needs import go_client, need_fuse
from test_interop_go import LATE_STATISTICS, make, mounted
from trees import differences, snapshot

from meta.engines import open_engine
from meta.rules.check import check

pytestmark = pytest.mark.battery

NOTICED_S = 20
OFFICIAL = rf"{LATE_STATISTICS}|(user|group) 0 has Quota"
"""What 1.4.1 leaves wrong with its own commands on its own mount: it counts statistics late, and owners nearly."""
LOG = re.compile(r"^\d{4}/\d\d/\d\d .*$", re.M)


def ours(*words: str) -> tuple[int, str]:
    done = juicefs(*words, check=False)
    return done.returncode, done.stdout + done.stderr


def go(*words: str) -> tuple[int, str]:
    return run(*words)


CLIENTS: dict[str, Callable[..., tuple[int, str]]] = {"ours": ours, "go": go}


def printed(client: str, *words: str) -> str:
    """What a command that goes well prints, without log lines."""
    status, said = CLIENTS[client](*words)
    assert status == 0, said
    return LOG.sub("", said).strip("\n")


@pytest.fixture(autouse=True)
def peer() -> str:
    need_fuse()
    return "Go {}.{}".format(*version())


@pytest.fixture
def newer() -> None:
    if version() < (1, 4):
        pytest.skip("the Go client is older than the command: JFS_TEST_GO names a newer one")


@pytest.fixture(params=["ours", "go"])
def place(request: pytest.FixtureRequest, scratch: Path) -> Iterator[tuple[Volume, Path]]:
    """A volume, and where one of the two has mounted it."""
    volume = make(Volume(scratch / "vol", "redis"), request.param)
    path = scratch / "mnt"
    options = (*UNCACHED, "--enable-xattr", "--heartbeat", "2")
    if request.param == "go" and is_old():
        options = options[:-2]
    with mounted(Mount(volume, path, options) if request.param == "ours" else GoMount(volume, path, options)):
        yield volume, path
    with closing(open_engine(volume.url)) as engine:
        wrong = [] if is_old() else [problem for problem in check(engine) if not re.search(OFFICIAL, problem)]
    assert wrong == [], wrong


def plant(top: Path, size: int = 9000) -> None:
    """A small tree: 3 directories, 4 files, a symlink."""
    (top / "a" / "b").mkdir(parents=True)
    for number, path in enumerate((top / "f", top / "a" / "f", top / "a" / "b" / "f", top / "a" / "b" / "empty")):
        path.write_bytes(b"x" * size * (number < 3))
    (top / "a" / "link").symlink_to("f")


def _old_waits_for_no_answer(client: str, request: pytest.FixtureRequest) -> None:
    """The old client's commands give up ("read size: 0 EOF") on any mount of a newer one, official or ours."""
    if client == "go" and is_old() and request.node.callspec.params["place"] == "ours":
        pytest.skip("this old client's commands need a mount as old as itself")


@pytest.mark.parametrize("client", CLIENTS)
def test_rmr(place: tuple[Volume, Path], client: str, request: pytest.FixtureRequest) -> None:
    _, path = place
    _old_waits_for_no_answer(client, request)
    plant(path / "t")
    assert printed(client, "rmr", str(path / "t")) == ""
    assert not (path / "t").exists()
    status, _ = CLIENTS[client]("rmr", str(path / "t"))
    assert status == 1 or (client == "go" and is_old())


def test_info_is_told_alike(place: tuple[Volume, Path], request: pytest.FixtureRequest) -> None:
    _, path = place
    _old_waits_for_no_answer("go", request)
    plant(path / "t")
    words = ("info", str(path / "t" / "f"))
    mine, theirs = printed("ours", *words), printed("go", *words)
    numbers = r"inode: (\d+)\s+files:\s+(\d+)\s+dirs:\s+(\d+)\s+length:\s"
    found = [re.search(numbers, text) for text in (mine, theirs)]
    assert found[0] and found[1], (mine, theirs)
    assert found[0].groups()[:3] == found[1].groups()[:3]
    if not is_old():
        assert mine == theirs


def test_status_has_the_same_shape(place: tuple[Volume, Path]) -> None:
    volume, path = place

    def document(client: str) -> dict[str, object]:
        said = printed(client, "status", volume.url)
        found = json.loads(said[said.index("{") : said.rindex("}") + 1])
        assert isinstance(found, dict)
        return found

    mine, theirs = document("ours"), document("go")
    if is_old():
        assert [session["MountPoint"] for session in mine["Sessions"]] == [str(path)]  # type: ignore[attr-defined]
        return
    assert list(mine) == list(theirs) and json.dumps(mine["Setting"]) == json.dumps(theirs["Setting"])
    assert mine["Stat"] == theirs["Stat"]
    for one, other in zip(mine["Sessions"], theirs["Sessions"], strict=True):  # type: ignore[call-overload]
        assert list(one) == list(other)
        assert {**one, "Expire": 0} == {**other, "Expire": 0}


@pytest.mark.usefixtures("newer")
def test_status_of_a_session_with_locks_and_open_files(place: tuple[Volume, Path]) -> None:
    import fcntl

    volume, path = place
    with (path / "f").open("wb") as file, (path / "g").open("wb") as other, (path / "gone").open("wb") as gone:
        fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.lockf(other, fcntl.LOCK_EX, 10, 5)
        gone.write(b"x")
        gone.flush()
        os.unlink(path / "gone")
        (record,) = json.loads(printed("ours", "status", volume.url))["Sessions"]
        words = ("status", volume.url, "--session", str(record["Sid"]))
        mine, theirs = json.loads(printed("ours", *words)), json.loads(printed("go", *words))
        assert list(mine) == list(theirs)
        assert {**mine, "Expire": 0} == {**theirs, "Expire": 0}
        assert mine["Sustained"] and mine["Flocks"] and mine["Plocks"]
    assert "session not found: 999" in ours("status", volume.url, "-s", "999")[1]


@pytest.mark.usefixtures("newer")
@pytest.mark.parametrize("client", CLIENTS)
def test_clone(place: tuple[Volume, Path], client: str) -> None:
    _, path = place
    plant(path / "t")
    os.chown(path / "t" / "f", 5, 6)
    assert printed(client, "clone", "-p", str(path / "t"), str(path / "u")) == ""
    assert not differences(snapshot(path / "t"), snapshot(path / "u"))
    status, said = CLIENTS[client]("clone", str(path / "t"), str(path / "u"))
    assert status == 1 and "u already exists" in said


@pytest.mark.usefixtures("newer")
@pytest.mark.parametrize("words", [("summary",), ("summary", "--csv", "--depth", "3"), ("summary", "--strict")])
def test_summary_is_told_alike(place: tuple[Volume, Path], words: tuple[str, ...]) -> None:
    _, path = place
    plant(path / "t")
    time.sleep(1.5)  # statistics of the official client come a second later
    assert printed("ours", *words, str(path / "t")) == printed("go", *words, str(path / "t"))


@pytest.mark.usefixtures("newer")
@pytest.mark.parametrize("client", CLIENTS)
def test_a_quota_of_one_binds_the_mount_of_the_other(place: tuple[Volume, Path], client: str) -> None:
    volume, path = place
    plant(path / "t")
    time.sleep(4)  # the official client writes totals down every few seconds
    printed(client, "quota", "set", volume.url, "--path", "/t", "--inodes", "10")
    printed(client, "quota", "set", volume.url, "--uid", "7", "--capacity", "64K")
    time.sleep(5)  # two heartbeats: what is done before is not counted
    refused = []
    for number in range(10):
        try:
            (path / "t" / f"more{number}").write_bytes(b"")
        except OSError as problem:
            refused.append(problem.errno)
    assert set(refused) == {errno.EDQUOT} and 7 <= len(refused) <= 8  # seven were there, three had room
    os.chown(path / "t", 7, 7)
    os.chmod(path / "t", 0o777)
    _settle(volume)
    tables = {name: printed(name, "quota", "list", volume.url) for name in CLIENTS}
    assert tables["ours"] == tables["go"] and "/t" in tables["ours"] and "uid:7" in tables["ours"]
    for name in CLIENTS:
        printed(name, "quota", "check", volume.url, "--path", "/t", "--strict")
    printed(client, "quota", "delete", volume.url, "--path", "/t")
    printed(client, "quota", "delete", volume.url, "--uid", "7")
    assert printed("ours", "quota", "list", volume.url) == printed("go", "quota", "list", volume.url) == ""


def _settle(volume: Volume) -> None:
    """Until nobody writes totals down any more."""
    with closing(open_engine(volume.url)) as engine:
        before = None
        for _ in range(NOTICED_S):
            now = [engine.reader.quotas(kind) for kind in ("dir", "user", "group")]
            if now == before:
                return
            before = now
            time.sleep(3.5)


@pytest.mark.usefixtures("newer")
def test_the_change_log_is_read_alike(scratch: Path) -> None:
    volume = make(Volume(scratch / "vol", "redis"), "go")
    printed("go", "config", volume.url, "--changelog")
    with mounted(GoMount(volume, scratch / "mnt", UNCACHED)):
        plant(scratch / "mnt" / "t")
        found = [tail(command, volume.url) for command in (PROGRAM, (go_client(),))]
    assert found[0] == found[1] and len(found[0]) > 10 and found[0][0].startswith("2: ")
    assert "the volume keeps a change log" in ours("quota", "set", volume.url, "--path", "/", "--inodes", "1")[1]


def tail(command: tuple[str, ...], url: str) -> list[str]:
    """What a `changelog` prints of what is there behind the first line."""
    process = subprocess.Popen(
        [*command, "changelog", url, "--from", "1"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=environment(), start_new_session=True,
    )  # fmt: skip
    time.sleep(3)
    os.kill(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=10)
    return out.splitlines()


@pytest.mark.usefixtures("newer")
@pytest.mark.parametrize("client", CLIENTS)
def test_destroy(scratch: Path, client: str) -> None:
    for maker in CLIENTS:
        volume = make(Volume(scratch / f"vol-{maker}", "redis"), maker)
        mount = Mount(volume, scratch / f"mnt-{maker}")
        with mounted(mount):
            plant(mount.path / "t")
            uuid = json.loads(printed("ours", "status", volume.url))["Setting"]["UUID"]
            status, said = CLIENTS[client]("destroy", volume.url, uuid, "--yes")
            assert status == 1 and "1 sessions are active, please disconnect them first" in said
        assert "The volume has been destroyed!" in CLIENTS[client]("destroy", volume.url, uuid, "--yes")[1]
        assert list(volume.bucket.rglob("*")) == []
        with closing(open_engine(volume.url)) as engine:
            assert engine.is_empty()


@pytest.mark.usefixtures("newer")
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("remover", CLIENTS)
def test_restore(scratch: Path, client: str, remover: str) -> None:
    volume = make(Volume(scratch / "vol", "redis", format_options=("--trash-days", "1")), "ours")
    path = scratch / "mnt"
    options = (*UNCACHED, "--enable-xattr")
    with mounted(Mount(volume, path, options) if remover == "ours" else GoMount(volume, path, options)):
        plant(path / "t")
        before = snapshot(path / "t")
        printed(remover, "rmr", str(path / "t"))
        hours = os.listdir(path / ".trash")
        said = CLIENTS[client]("restore", volume.url, *hours, "--put-back")
        assert said[0] == 0 and (client == "go" or "WARNING" not in said[1])
        assert not differences(before, snapshot(path / "t"))
    with closing(open_engine(volume.url)) as engine:
        assert [problem for problem in check(engine) if not re.search(OFFICIAL, problem)] == []
