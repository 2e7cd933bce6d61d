"""The program that runs, as a file that may be replaced while it does: a supervisor then starts the new one.

Not here: when a serving process is started (`supervisor`).
"""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

from juicefs_py.ledger import Ledger
from juicefs_py.mount import passfd

LEDGER_FD = "_JFS_LEDGER_FD"
_CONNECTION = "_JFS_CONNECTION"  # descriptor and setting (hexadecimal)
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class _Stamp(NamedTuple):
    inode: int
    modified_ns: int
    size: int


class Program:
    """How this process was started, and whether the same command would start something else by now."""

    def __init__(self) -> None:
        self._directory = os.getcwd()
        self._files = [os.path.abspath(sys.argv[0]), os.path.join(_PACKAGE, "__init__.py")]
        self._stamps = self._look()

    def _look(self) -> list[_Stamp | None]:
        stamps: list[_Stamp | None] = []
        for path in self._files:
            try:
                found = os.stat(path)
            except OSError:  # a module inside of an archive
                stamps.append(None)
            else:
                stamps.append(_Stamp(found.st_ino, found.st_mtime_ns, found.st_size))
        return stamps

    def is_replaced(self) -> bool:
        """Whether another file has taken the place of the program or of its package. A missing one has not, yet."""
        now = self._look()
        return now != self._stamps and all(
            new is not None for new, old in zip(now, self._stamps, strict=True) if old is not None
        )

    def become(self, supervisor: int, comm_path: str, ledger: Ledger, kept: passfd.Offer | None) -> None:
        """Be what the command starts now, as a serving process of this supervisor. OSError if that cannot be.

        The connection is inherited, as the notes are: over the socket it would be nobody's for a moment.
        """
        os.chdir(self._directory)
        os.set_inheritable(ledger.fd, True)
        environment = os.environ | {
            "JFS_SUPERVISOR": str(supervisor), "_FUSE_FD_COMM": comm_path, LEDGER_FD: str(ledger.fd),
        }  # fmt: skip
        if kept is not None and kept.fd is not None:
            os.set_inheritable(kept.fd, True)
            environment[_CONNECTION] = f"{kept.fd}:{kept.setting.hex()}"
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def inherited_connection() -> passfd.Offer | None:
    """What `become` has passed on; it is not to be inherited any further."""
    fd, _, setting = os.environ.pop(_CONNECTION, "").partition(":")
    if not fd:
        return None
    os.set_inheritable(int(fd), False)
    return passfd.Offer(bytes.fromhex(setting), int(fd))
