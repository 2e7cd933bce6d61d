"""What a test needs from the machine: root, /dev/fuse, a program. Missing is a skip that names it, and a failure in CI.

Not here: how things get installed (scripts/test does that).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

TOOLS = Path(os.environ.get("JFS_TEST_TOOLS", Path.home() / ".cache" / "juicefs_py-tools"))
"""Where scripts/test puts what no package manager has (pjdfstest, an official client) and what is downloaded once."""


def in_ci() -> bool:
    """True where everything must be present."""
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")


def missing(what: str) -> NoReturn:
    """End the running test: something that it needs is not there."""
    if in_ci():
        pytest.fail(f"needs {what}, and in CI that must be there (scripts/test installs it)", pytrace=False)
    pytest.skip(f"needs {what}")


def need(*programs: str) -> None:
    """The programs must be on the PATH or among our own tools."""
    for program in programs:
        if shutil.which(program) is None and not (TOOLS / "bin" / program).exists():
            missing(f"the program `{program}`")


def tool(program: str) -> str:
    """Path of a program that `need` has found."""
    need(program)
    return shutil.which(program) or str(TOOLS / "bin" / program)


def need_root() -> None:
    """The test must be root."""
    if os.geteuid() != 0:
        missing("root")


def need_fuse() -> None:
    """The test mounts a file system."""
    need_root()
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        missing("/dev/fuse")


def need_pyfuse3() -> None:
    """The test mounts through the second door, an extra that has to be compiled: where it cannot be, it is skipped."""
    if importlib.util.find_spec("pyfuse3") is None:
        pytest.skip("needs the Python package pyfuse3 (libfuse3-dev, pkg-config, python3-dev, a C compiler)")


def go_client() -> str:
    """The official client in Go that tests use as a peer: JFS_TEST_GO names one, else the old one of scripts/test."""
    return os.environ.get("JFS_TEST_GO") or tool("juicefs-go")


@cache
def bundled_tests(python: str) -> bool:
    """Whether that interpreter carries CPython's own test package."""
    probe = [python, "-c", "import test.test_os, test.libregrtest"]
    return subprocess.run(probe, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
