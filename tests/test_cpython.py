"""CPython's own tests of files, with TMPDIR on a mount and beside it: whatever passes there must pass here.

Needs an interpreter with its `test` package (Debian: libpython3.11-testsuite); PYTHON_WITH_TESTS names one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from needs import bundled_tests, missing

pytestmark = pytest.mark.battery

MODULES = (
    "test_bufio", "test_dbm_dumb", "test_fcntl", "test_file", "test_fileinput", "test_fileio", "test_filecmp",
    "test_glob", "test_io", "test_largefile", "test_lzma", "test_mailbox", "test_mmap", "test_os", "test_pathlib",
    "test_posix", "test_posixpath", "test_shelve", "test_shutil", "test_stat", "test_tarfile", "test_tempfile",
    "test_univnewlines", "test_zipfile", "test_zipimport", "test_sqlite3",
)  # fmt: skip
CASE = re.compile(
    r"^(\w+) \(([\w.]+)(?: .*)?\)(?:\n.*)? \.\.\. (ok|FAIL|ERROR|skipped .*|expected failure)$", re.MULTILINE
)


def interpreter() -> str:
    """One that carries the tests: named, ours, or the one that our environment was made from."""
    candidates = (os.environ.get("PYTHON_WITH_TESTS", ""), sys.executable, "python3", "/usr/bin/python3")
    found = next((name for name in candidates if name and bundled_tests(name)), None)
    return found or missing("an interpreter with CPython's test package (Debian: libpython3.11-testsuite)")


def run_tests(python: str, folder: Path) -> dict[str, str]:
    """Result of every case with all temporary files below `folder`."""
    environment = {**os.environ, "TMPDIR": str(folder), "HOME": str(folder)}
    environment.pop("PYTHONPATH", None)
    known = subprocess.run(
        [python, "-c", f"import importlib.util as u; print(*[m for m in {MODULES!r} if u.find_spec('test.' + m)])"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    command = [python, "-m", "test", "-v", "-j2", "--timeout=200", f"--tempdir={folder}", "-u", "largefile", *known]
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=550
    )
    results = {f"{case}.{name}": result.split()[0] for name, case, result in CASE.findall(done.stdout)}
    assert len(results) > 1000, f"exit {done.returncode}, {len(results)} cases:\n{done.stdout[-4000:]}"
    return results


@pytest.mark.timeout(1200)
def test_cpythons_own_file_tests(place: Path, tmp_path: Path) -> None:
    python = interpreter()
    started = time.monotonic()
    wanted = run_tests(python, tmp_path)
    halfway = time.monotonic()
    found = run_tests(python, place)
    ended = time.monotonic()
    good = sorted(name for name, result in wanted.items() if result == "ok")
    worse = [name for name in good if found.get(name) in ("FAIL", "ERROR")]
    lost = [name for name in good if found.get(name) not in ("ok", "FAIL", "ERROR")]
    passed = sum(result == "ok" for result in found.values())
    print(f"{passed} of {len(found)} cases pass; local {halfway - started:.0f} s, mount {ended - halfway:.0f} s")
    assert not worse, f"{len(worse)} cases fail on the mount only: {worse}"
    assert not lost, f"{len(lost)} cases are skipped on the mount only: {lost}"
