"""The one file `juicefs` that deploy/image/build_pyz.py makes: how it starts, unpacks, and is replaced while it runs.

Without the packages of others, which the interpreter of the tests has; with them it is tried in test_image.
"""

from __future__ import annotations

import importlib.util
import io
import os
import resource
import shutil
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import mounts
import pytest
from mounts import REPOSITORY, Mount, Volume
from needs import need_fuse
from test_handover import config_of, served_by, wait_until

from juicefs_py import VERSION

START_S = 0.15
"""What `juicefs version` may take; a third of it is usual."""


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / f"deploy/image/{name}.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


build_pyz = module("build_pyz")


def packages(**modules: str) -> bytes:
    """An archive as `build_pyz.fetch` makes it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, source in modules.items():
            file.writestr(f"{name}.py", source)
    return stream.getvalue()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[bytes]:
    """The file. It unpacks to a place of the test, not of the machine."""
    place, here = tmp_path_factory.mktemp("unpacked"), build_pyz.HERE
    text = (here / "start.py").read_text()
    assert "/usr/local/lib/juicefs" in text
    (place / "start.py").write_text(text.replace("/usr/local/lib/juicefs", f"{place}/packages"))
    build_pyz.HERE = place
    yield bytes(build_pyz.FIRST_LINE + build_pyz.program(packages(of_others="IT = 'unpacked'\n")))
    build_pyz.HERE = here


@pytest.fixture
def program(built: bytes, scratch: Path) -> Path:
    """The file as it is installed."""
    path = scratch / "bin/juicefs"
    build_pyz.write(path, built, 0o755)
    return path


def test_the_same_sources_give_the_same_bytes(built: bytes) -> None:
    again = build_pyz.FIRST_LINE + build_pyz.program(packages(of_others="IT = 'unpacked'\n"))
    names = zipfile.ZipFile(io.BytesIO(built)).namelist()
    assert "juicefs_py/mount/serve.pyc" in names and "packages.zip" in names
    for name in names:  # archives of the test's own packages have a date
        if name not in ("packages.zip", "bundled.py", "bundled.pyc"):
            both = (zipfile.ZipFile(io.BytesIO(one)).read(name) for one in (built, again))
            assert next(both) == next(both), name


def test_it_starts_quickly(program: Path) -> None:
    """Processor time, which others on the machine hardly change."""
    taken = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-IS", str(program), "version"], capture_output=True, text=True, cwd="/")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert (done.stdout, done.stderr, done.returncode) == (f"juicefs version {VERSION}\n", "", 0)
    print(f"juicefs version: {min(taken) * 1000:.0f} ms")
    assert min(taken) < START_S


def test_a_name_of_mount_8_is_heard_through_a_link(program: Path) -> None:
    link = program.with_name("mount.juicefs")
    link.symlink_to(program)
    url = f"sqlite3://{program.parent}/none.db"
    done = subprocess.run(
        [sys.executable, str(link), url, "/mnt/x", "-o", "cache-size"], capture_output=True, text=True, cwd="/"
    )
    assert done.returncode == 1 and "option cache-size requires a value" in done.stderr


# -- unpacking


@pytest.fixture
def start(built: bytes, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The start module of a program whose two places for packages are below `scratch`."""
    bundled = ModuleType("bundled")
    exec(zipfile.ZipFile(io.BytesIO(built)).read("bundled.py"), bundled.__dict__)
    monkeypatch.setitem(sys.modules, "bundled", bundled)
    made = module("start")
    monkeypatch.setattr(made, "roots", lambda: [str(scratch / "first"), str(scratch / "second")])
    yield made


def content(directory: str) -> str:
    return (Path(directory) / "of_others.py").read_text()


def test_packages_are_unpacked_once(start: Any, program: Path, scratch: Path) -> None:
    found = start.packages(str(program))
    assert Path(found).parent == scratch / "first" and "unpacked" in content(found)
    assert stat.S_IMODE(os.stat(found).st_mode) == 0o755
    shutil.rmtree(program.parent)
    assert start.packages(str(program)) == found  # nothing is read any more


def test_many_start_at_once(start: Any, program: Path, scratch: Path) -> None:
    children = []
    for _ in range(8):
        child = os.fork()
        if not child:
            os._exit(0 if "unpacked" in content(start.packages(str(program))) else 1)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 8
    assert len(os.listdir(scratch / "first")) == 1


def test_a_read_only_place_is_passed_by(start: Any, program: Path, scratch: Path) -> None:
    (scratch / "first").write_text("not a directory: nobody can write to it, not even root")
    assert Path(start.packages(str(program))).parent == scratch / "second"


@pytest.mark.parametrize("wrong", ["mode", "owner", "link"])
def test_what_others_may_have_put_there_is_not_used(start: Any, program: Path, scratch: Path, wrong: str) -> None:
    if os.geteuid():
        pytest.skip("needs root")
    planted = scratch / "first" / sys.modules["bundled"].NAME
    planted.mkdir(parents=True)
    (planted / "of_others.py").write_text("IT = 'planted'\n")
    if wrong == "mode":
        planted.parent.chmod(0o777)
    elif wrong == "owner":
        os.chown(planted, 65534, 65534)
    else:
        planted.rename(scratch / "elsewhere")
        planted.symlink_to(scratch / "elsewhere")
    found = start.packages(str(program))
    assert Path(found).parent == scratch / "second" and "unpacked" in content(found)


def test_another_interpreter_takes_what_fits_it(start: Any, program: Path, scratch: Path) -> None:
    """A new file in an old image: packages of the old program, for its Python, serve."""
    sys.modules["bundled"].NAME = "cpython-399-x86_64-linux-gnu-0123456789ab"
    for age, name in enumerate((f"{start.tag()}-newer", f"{start.tag()}-older", "cpython-398-newest")):
        (scratch / "second" / name).mkdir(parents=True)
        os.utime(scratch / "second" / name, (10_000 - age, 10_000 - age))
    assert start.packages(str(program)) == str(scratch / "second" / f"{start.tag()}-newer")
    assert not (scratch / "first").exists()


def test_without_any_the_interpreter_may_have_them(
    start: Any, program: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[bool] = []
    monkeypatch.setattr("site.main", lambda: called.append(True))
    sys.modules["bundled"].NAME = "cpython-399-x86_64-linux-gnu-0123456789ab"
    start.packages(str(program))
    assert called and "are for cpython-399-x86_64-linux-gnu, this Python is" in capsys.readouterr().err


# -- replaced while it runs


@pytest.fixture
def running(program: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mount]:
    """A mount by the file."""
    need_fuse()
    monkeypatch.setattr(mounts, "PROGRAM", (sys.executable, str(program)))
    made = Mount(Volume(scratch / "vol").format(), scratch / "mnt", expected=["will restart"])
    made.more_environment = {"PYTHONPATH": ""}
    made.start()
    wait_until(lambda: "is ready at" in made.read_log(), "the supervisor has the connection as well")
    yield made
    if made.process is not None and made.process.poll() is None:
        made.kill()


def replace(program: Path, data: bytes) -> None:
    """As the driver does in a running container: removed, then moved."""
    new = program.with_name("new")
    build_pyz.write(new, data, 0o755)
    program.unlink()
    new.rename(program)


def newer(built: bytes) -> bytes:
    """The same program with another version."""
    stream = io.BytesIO(build_pyz.FIRST_LINE)
    stream.seek(0, io.SEEK_END)
    with zipfile.ZipFile(io.BytesIO(built)) as old, zipfile.ZipFile(stream, "a") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename == "juicefs_py/__init__.py":
                data = data.replace(b'OWN_VERSION = "', b'OWN_VERSION = "9.')
            if info.filename != "juicefs_py/__init__.pyc":
                new.writestr(info, data)
    return stream.getvalue()


def test_another_file_goes_on_with_the_mount(running: Mount, program: Path, built: bytes) -> None:
    """HUP, and the version of the new file serves; whoever has a file open goes on."""
    before = config_of(running.path)
    holder = subprocess.Popen(["sh", "-c", f"exec 3>{running.path}/f; sleep 4; echo kept >&3"])
    time.sleep(0.5)
    replace(program, newer(built))
    os.kill(before["Pid"], 1)
    wait_until(lambda: served_by(running.path) not in (None, before["Pid"]), "another process serves")
    after = config_of(running.path)
    assert ".py9" in after["Version"] and ".py9" not in before["Version"]
    assert (after["PPid"], after["Meta"]["Sid"]) == (before["PPid"], before["Meta"]["Sid"])
    assert holder.wait(20) == 0 and (running.path / "f").read_text() == "kept\n"
    running.stop()


def test_a_worker_dies_while_the_file_is_away(running: Mount, program: Path) -> None:
    """Until the new one arrives. The supervisor needs no file to start another process, which imports
    what it needs from the one that it had."""
    pid = config_of(running.path)["Pid"]
    program.unlink()
    os.kill(pid, 9)
    wait_until(lambda: served_by(running.path) not in (None, pid), "another process serves")
    (running.path / "f").write_text("x")
    subprocess.run(["umount", str(running.path)], check=True)
    assert running.process is not None and running.process.wait(20) == 0
    running._forget()
    running.check_log()
