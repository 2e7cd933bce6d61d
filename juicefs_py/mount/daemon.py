"""Go into the background: the caller's process stays to report, a copy of it becomes the supervisor.

Must run before any thread is started and while no database is open. Not here: what the supervisor does.
"""

from __future__ import annotations

import os

from juicefs_py.cli.errors import Fatal
from juicefs_py.mount.process import flush_streams


def detach(log_path: str) -> bool:
    """Fork twice. False in the caller's process, which stays as it is; True in the daemon, whose parent is init.

    The daemon has its own session, `/` as directory, /dev/null as stdin, the log file as stdout and stderr. It keeps
    the umask, so that objects in a local bucket are as private as those of a mount in the foreground, and in no case
    may be written by everybody.
    """
    log_fd = _open_log(log_path)
    flush_streams()
    first = os.fork()
    if first:
        os.close(log_fd)
        os.waitpid(first, 0)
        return False
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    os.umask(os.umask(0o077) | 0o002)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log_fd, 1), (log_fd, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(log_fd)
    return True


def _open_log(path: str) -> int:
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise Fatal(f"open log file {path}: {error.strerror}; choose another one with --log") from None
