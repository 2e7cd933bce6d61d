"""pjdfstest (its Rust edition) over a mount: every engine, kernel write-back cache off and on.

Not here: our own POSIX cases (the other test_posix_*.py). Nothing may fail, no case is excused.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from mounts import Mount
from needs import need_pyfuse3, need_root, tool

pytestmark = pytest.mark.battery

# naptime: clients leave the times of a directory alone that were set less than 0.1 s ago (--skip-dir-mtime).
CONFIG = """
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}

[settings]
naptime = 0.12
allow_remount = false

[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"""
RESULT = re.compile(r"^(\S+::\S+)\s+(ok|FAILED|skipped)$", re.MULTILINE)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
SKIPPED = re.compile(r"::erofs_|link::link_count_max")
"""What may be skipped: EROFS by remounting (test_posix_readonly.py mounts read-only instead), and reaching a link limit
that fuse file systems do not announce."""
LEAST = 380
"""Cases that must have passed, so that a run that silently does little is seen."""


def run_pjdfstest(directory: Path, patterns: tuple[str, ...] = (), fallocate: bool = True) -> dict[str, str]:
    """Run the suite in `directory`, with or without posix_fallocate(3); result by test name."""
    need_root()
    program = tool("pjdfstest")
    # A second file system for the EXDEV cases: anything that is not the one under test.
    elsewhere = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    config = elsewhere / "pjdfstest.toml"
    config.write_text(CONFIG if fallocate else CONFIG.replace("posix_fallocate = {}\n", ""))
    try:
        done = subprocess.run(
            [program, "-c", str(config), "-p", str(directory), "-s", str(elsewhere), *patterns],
            capture_output=True, text=True, timeout=240,
        )  # fmt: skip
    finally:
        shutil.rmtree(elsewhere)
    text = COLOUR.sub("", done.stdout)
    results = dict(RESULT.findall(text))
    assert results, f"pjdfstest ran nothing: exit {done.returncode}\n{text[-3000:]}\n{done.stderr[-3000:]}"
    failed = [name for name, result in results.items() if result == "FAILED"]
    if failed:
        details = [_detail(text, name) for name in failed[:20]]
        pytest.fail(f"{len(failed)} of {len(results)} failed: {failed}\n" + "\n".join(details), pytrace=False)
    return results


def _detail(text: str, name: str) -> str:
    """The first lines that the runner prints below a failed case."""
    start = text.index(f"{name} ")
    return "\n".join(text[start : start + 1200].splitlines()[:6])


WRITEBACK = ("-o", "writeback_cache")


@pytest.mark.parametrize(
    ("engine", "options"),
    [
        pytest.param("sqlite", (), id="sqlite-plain"),
        pytest.param("sqlite", WRITEBACK, id="sqlite-writeback_cache"),
        pytest.param("memkv", (), id="memkv-plain"),
        pytest.param("memkv", WRITEBACK, id="memkv-writeback_cache"),
        pytest.param("redis", (), id="redis-plain"),
        pytest.param("redis", WRITEBACK, id="redis-writeback_cache", marks=pytest.mark.long),
    ],
)
def test_pjdfstest(
    engine: str, options: tuple[str, ...], new_mount: Callable[..., Mount], pytestconfig: pytest.Config
) -> None:
    local = pytestconfig.getoption("--local")
    root = Path(local) if local else new_mount(engine, options).path
    results = run_pjdfstest(root)
    passed = sum(result == "ok" for result in results.values())
    skipped = [name for name, result in results.items() if result == "skipped" and not SKIPPED.search(name)]
    print(f"pjdfstest on {engine} {' '.join(options)}: {passed} passed of {len(results)}")
    assert passed >= LEAST
    assert not skipped


def test_pjdfstest_behind_pyfuse3(new_mount: Callable[..., Mount]) -> None:
    """The C library stands in for FALLOCATE, which pyfuse3 does not have; it leaves ctime alone where nothing grows."""
    need_pyfuse3()
    results = run_pjdfstest(new_mount(options=("--fuse", "pyfuse3")).path, fallocate=False)
    skipped = [name for name, result in results.items() if result == "skipped" and not SKIPPED.search(name)]
    left_out = [name for name in skipped if name.startswith("posix_fallocate::")]
    assert skipped == left_out
    assert sum(result == "ok" for result in results.values()) >= LEAST - len(left_out)
