"""Around every operation of the VFS: its duration and errno in the metrics, a line in the access log if somebody reads
it, and one in the log if it was not the caller's fault that it failed.

Not here: where lines go (`control.accesslog`), what is measured besides (`control.stats`).
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable
from functools import update_wrapper
from time import perf_counter
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from fuse.operations import Caller, Stat
from juicefs_py.control.internal import ACCESSLOG
from juicefs_py.errors import errno_of
from juicefs_py.vfs_recovery import answer_again

if TYPE_CHECKING:
    from juicefs_py.vfs_base import VFSBase

P = ParamSpec("P")
R = TypeVar("R")
V = TypeVar("V", bound="VFSBase")
Method = Callable[Concatenate[V, Caller, P], R]

_TYPE_LETTERS = {
    stat.S_IFREG: "-", stat.S_IFDIR: "d", stat.S_IFLNK: "l", stat.S_IFSOCK: "s", stat.S_IFBLK: "b",
    stat.S_IFCHR: "c", stat.S_IFIFO: "f",
}  # fmt: skip


def traced(describe: Callable[..., str]) -> Callable[[Method[V, P, R]], Method[V, P, R]]:
    """Measure a method that implements an operation of its own name.

    `describe(result, *args)` gives the log's text behind the operation's name; the result is None when it failed.
    """

    def decorate(method: Method[V, P, R]) -> Method[V, P, R]:
        op = method.__name__

        def measured(self: V, caller: Caller, /, *args: P.args, **kwargs: P.kwargs) -> R:
            began = perf_counter()
            result: R | None = None
            error = 0
            try:
                try:
                    result = method(self, caller, *args, **kwargs)
                except Exception as problem:
                    if not caller.resent:
                        raise
                    result = answer_again(self, op, caller, args, problem)  # type: ignore[arg-type]
                return result
            except BaseException as problem:
                error = errno_of(problem) or errno.EIO
                self.stats.failed(error)
                self.troubles.tell(op, problem)
                raise
            finally:
                took = perf_counter() - began
                self.stats.timers[op].observe(took)
                if self.accesslog.active and not (args and args[0] == ACCESSLOG):  # reading it is no news for it
                    who = (caller.uid, caller.gid, caller.pid)
                    self.accesslog.add(who, f"{op} {describe(result, *args)}", error, took)

        update_wrapper(measured, method)
        return measured

    return decorate


def text(name: bytes) -> str:
    """A name for the log: as it is, or escaped where it would break the line."""
    shown = name.decode(errors="surrogateescape")
    return shown if shown.isprintable() and "`" not in shown else repr(name)[2:-1]


def entry(attr: Stat | None) -> str:
    """` (ino,[type and mode,nlink,uid,gid,atime,mtime,ctime,length])`, or nothing."""
    if attr is None:
        return ""
    return (
        f" ({attr.ino},[{mode(attr.mode)},{attr.nlink},{attr.uid},{attr.gid},"
        f"{attr.atime},{attr.mtime},{attr.ctime},{attr.size}])"
    )


def entry_of(result: Any) -> str:
    """The same for what lookup, mknod and the like answer."""
    return entry(result.stat if result is not None else None)


def mode(value: int) -> str:
    """`-rw-r--r--:0100644`."""
    letter = _TYPE_LETTERS.get(stat.S_IFMT(value), "?")
    bits = "".join(char if value >> (8 - k) & 1 else "-" for k, char in enumerate("rwxrwxrwx"))
    return f"{letter}{bits}:0{value:06o}"
