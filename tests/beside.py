"""The same work on the mount and beside it on a local directory, and the two results compared.

Not here: the work.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from needs import TOOLS, missing
from trees import differences, snapshot


def beside(
    place: Path, local: Path, work: Callable[[Path], object], *, mtimes: bool = False, skip: tuple[str, ...] = ()
) -> None:
    """Do `work` in both directories; what it returns and what it leaves behind must be the same."""
    place.mkdir(exist_ok=True)
    local.mkdir(exist_ok=True)
    started = time.monotonic()
    wanted = work(local)
    halfway = time.monotonic()
    found = work(place)
    ended = time.monotonic()
    print(f"local {halfway - started:.2f} s, mount {ended - halfway:.2f} s")
    assert found == wanted
    wrong = differences(snapshot(local, mtimes=mtimes, skip=skip), snapshot(place, mtimes=mtimes, skip=skip))
    assert not wrong, "\n".join(wrong)


def run(*command: object, cwd: Path | None = None, timeout_s: float = 240, **settings: object) -> str:
    """Run a program to its good end; what it printed."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        **settings,  # type: ignore[call-overload]
    )
    if done.returncode:
        pytest.fail(f"{' '.join(words)}: exit {done.returncode}\n{done.stdout[-4000:]}", pytrace=False)
    return str(done.stdout)


def package(pattern: str) -> Path:
    """A source archive or wheel that scripts/test has downloaded."""
    found = sorted((TOOLS / "packages").glob(pattern))
    if not found:
        missing(f"{pattern} in {TOOLS / 'packages'}")
    return found[-1]
