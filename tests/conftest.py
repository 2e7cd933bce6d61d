"""Options, markers and the mounts that test modules share.

`--long` runs the long versions of the batteries; `--local DIR` runs the batteries of mounts on a plain directory:
a battery that fails there says nothing about us.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Before they are imported: a failure must say what it has found.
pytest.register_assert_rewrite(
    "clients", "contended", "go_client", "mounts", "own_names", "redis_work", "together", "trees", "varied_tree"
)

import mounts  # noqa: E402
from go_client import GoMount  # noqa: E402
from mounts import Mount, Volume  # noqa: E402
from needs import need_fuse, need_pyfuse3  # noqa: E402

WATCHDOG_S = 20.0
"""A hanging mount is aborted this long before pytest-timeout would give up, so that the test ends with an error."""
ABORTED = pytest.StashKey[list[str]]()
"""The mounts that the watchdog of a test has aborted."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("juicefs_py")
    group.addoption("--long", action="store_true", help="run the long versions of the batteries")
    group.addoption("--quick", action="store_true", help="leave out the batteries over real mounts")
    group.addoption("--local", metavar="DIR", help="run the batteries of mounts on this directory instead of a mount")


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # of jobs in the background; programs under test must hear it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "long: runs only with --long")
    config.addinivalue_line("markers", "battery: many operations on a real mount; --quick leaves it out")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="runs with --long"))
    if config.getoption("--quick"):
        left_out = [item for item in items if item.get_closest_marker("battery")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Abort living mounts when a test hangs: a thread that waits in the kernel hears no signal of pytest-timeout."""
    marker = item.get_closest_marker("timeout")
    limit_s = float(marker.args[0] if marker and marker.args else item.config.getini("timeout") or 300)

    def abort() -> None:
        item.stash[ABORTED] = mounts.abort_all()

    watchdog = threading.Timer(max(limit_s - WATCHDOG_S, 1), abort)
    watchdog.daemon = True
    watchdog.start()
    try:
        return (yield)
    finally:
        watchdog.cancel()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Whose mounts were aborted has failed, even if it did not notice."""
    yield
    if aborted := item.stash.get(ABORTED, None):
        pytest.fail(f"took too long, so these mounts were aborted: {', '.join(aborted)}", pytrace=False)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Tell at once what has failed: a run that is ended before its summary must not keep it to itself."""
    if report.failed and os.environ.get("CI"):
        print(
            f"\n{report.nodeid} failed in {report.when}:\n{report.longreprtext[-6000:]}",
            file=sys.__stderr__,
            flush=True,
        )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what the batteries printed: counts, seeds, speeds."""
    lines = [
        f"{report.nodeid.removeprefix('tests/')}: {line}"
        for report in terminalreporter.stats.get("passed", [])
        if report.when == "call" and "battery" in report.keywords
        for line in report.capstdout.splitlines()
    ]
    if lines:
        terminalreporter.section("what the batteries measured")
        for line in lines:
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def long_run(pytestconfig: pytest.Config) -> bool:
    """Whether --long was given."""
    return bool(pytestconfig.getoption("--long"))


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A local directory that any user may enter (pytest's tmp_path lies below a private one), removed afterwards."""
    path = Path(tempfile.mkdtemp(prefix="jfs-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def new_mount(scratch: Path) -> Iterator[Callable[..., Mount]]:
    """Makes mounts: new_mount(engine="sqlite", options=(), format_options=...). Each ends with the test.

    `volume=` mounts a volume that is formatted already, perhaps mounted elsewhere.
    """
    need_fuse()
    made: list[Mount] = []

    def make(
        engine: str = "sqlite", options: tuple[str, ...] = (), volume: Volume | None = None, **settings: Any
    ) -> Mount:
        number = len(made) + 1
        if volume is None:
            volume = Volume(scratch / f"vol{number}", engine, **settings).format()
        made.append(Mount(volume, scratch / f"mnt{number}", options))
        return made[-1].start()

    yield make
    end_all(made)


@pytest.fixture(scope="session")
def shared_mount(pytestconfig: pytest.Config) -> Iterator[Path]:
    """The root of one SQLite volume mounted for the whole run, or the directory of --local."""
    local = pytestconfig.getoption("--local")
    if local:
        yield Path(local)
        return
    need_fuse()
    directory = Path(tempfile.mkdtemp(prefix="jfs-shared-"))
    directory.chmod(0o755)
    mount = Mount(Volume(directory / "vol").format(), directory / "mnt", ("--enable-xattr",)).start()
    yield mount.path
    end_all([mount])
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def pyfuse3_mount() -> Iterator[Path]:
    """The root of another one, behind the second door."""
    need_fuse()
    need_pyfuse3()
    directory = Path(tempfile.mkdtemp(prefix="jfs-shared-"))
    directory.chmod(0o755)
    options = ("--enable-xattr", "--fuse", "pyfuse3")
    mount = Mount(Volume(directory / "vol").format(), directory / "mnt", options).start()
    yield mount.path
    end_all([mount])
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def place(shared_mount: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A fresh directory of this test on the shared mount."""
    yield from place_on(shared_mount, request)


def place_on(shared_mount: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A fresh directory below a mount that many tests share; a complaint in its log fails the test."""
    assert shared_mount.is_dir(), f"an earlier test has lost the shared mount {shared_mount}"
    path = Path(tempfile.mkdtemp(prefix=f"{request.node.name[:40].replace('/', '_')}-", dir=shared_mount))
    path.chmod(0o755)
    yield path
    # What is in it goes with the volume: removing it now would only move it to the trash.
    for mount in list(mounts.live):
        if mount.path == shared_mount:
            mount.check_log()


def end_all(made: Iterable[Mount | GoMount]) -> None:
    """Stop what still runs; raise the first complaint when all have ended."""
    complaint: BaseException | None = None
    for mount in made:
        try:
            if not isinstance(mount, Mount) or mount in mounts.live:
                mount.stop()
            else:
                mount.check_log()
        except BaseException as error:  # every mount must end, whatever another one does
            complaint = complaint or error
    if complaint is not None:
        raise complaint
