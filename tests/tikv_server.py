"""A TiKV cluster for tests: the one that `JFS_TIKV_PD` names, or a stand-in of it in a process of its own.

Not the stand-in (`tikv_standin`); tests that disturb the cluster have one of those for themselves.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

from mounts import environment

_numbers = itertools.count()


@functools.cache
def address() -> str:
    """PD's addresses, separated by commas. The stand-in lives as long as this process."""
    named = os.environ.get("JFS_TIKV_PD")
    if named:
        return named
    program = Path(__file__).resolve().parent / "tikv_standin.py"
    process = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True, env=environment())
    atexit.register(process.kill)
    assert process.stdout is not None
    return process.stdout.readline().strip().removeprefix("tikv://").rstrip("/")


def fresh_url() -> str:
    """A place in the cluster where nothing is."""
    return f"tikv://{address()}/test-{os.getpid()}-{time.time_ns()}-{next(_numbers)}"
