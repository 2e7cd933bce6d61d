"""Facts and settings of this very process: its title, limits, priority, memory behaviour. Nothing about mounts."""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from juicefs_py.cli.errors import Fatal

_NOFILE = 100_000
_PR_SET_THP_DISABLE = 41
_PR_SET_IO_FLUSHER = 57
_M_ARENA_MAX, _M_TRIM_THRESHOLD = -8, -1
_GOOD, _BAD = b"+", b"-"
_IGNORED = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGPIPE)


def set_title(words: list[str]) -> None:
    """Make `/proc/PID/cmdline` one string, as `ps` and the tools that look for mounts expect. Cut if it does not fit.

    The kernel reads the command line from the memory where the process found it at its start, so that is overwritten.
    """
    try:
        with open("/proc/self/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
        start, end = int(fields[45]), int(fields[46])  # arg_start, arg_end
        title = os.fsencode(" ".join(words))[: end - start - 1]
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(start)
            memory.write(title.ljust(end - start, b"\0"))
    except (OSError, ValueError, IndexError):
        pass  # cosmetic; a hardened kernel may refuse


def ignore_stray_signals() -> None:
    """Python dies of signals that other programs send to a JuiceFS process without harm."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)


def raise_limits() -> None:
    """More descriptors than the usual 1024: cache files and connections need them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, _NOFILE)
    for limit in ((wanted, max(hard, wanted)), (hard, hard)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
            return
        except (OSError, ValueError):
            continue


def protect_from_oom_killer() -> None:
    """A mount that is killed for memory hangs everything that uses it. Not in a container, whose limit must hold."""
    if os.getuid() == 0 and not in_container():
        _write("/proc/self/oom_score_adj", "-1000")


def in_container() -> bool:
    """Whether this looks like the inside of a container."""
    if os.environ.get("KUBERNETES_SERVICE_HOST") or any(map(os.path.exists, ("/.dockerenv", "/run/.containerenv"))):
        return True
    try:
        with open("/proc/1/cgroup", encoding="ascii") as cgroup:
            text = cgroup.read()
        return any(word in text for word in ("docker", "kubepods", "containerd", "lxc"))
    except OSError:
        return False


def be_io_flusher() -> bool:
    """Tell the kernel that reclaiming memory must not wait for this process. False without CAP_SYS_RESOURCE."""
    return _prctl(_PR_SET_IO_FLUSHER, 1)


def disable_huge_pages() -> bool:
    """No transparent huge pages for this process and its children."""
    return _prctl(_PR_SET_THP_DISABLE, 1)


def prefer() -> None:
    """Raise the priority if allowed: every user of the mount waits for this process."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -19)
    except OSError:
        pass


def tune_memory() -> None:
    """Few malloc arenas and prompt return of freed memory: many threads would otherwise each keep their own heap."""
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 2)
        mallopt(_M_TRIM_THRESHOLD, 1 << 20)


def freeze_heap() -> None:
    """What start-up left behind lives as long as the process: take it out of garbage collection."""
    import gc

    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def end_with(work: Callable[[], int]) -> NoReturn:
    """End this process with the exit code that `work` returns, without waiting for threads, which may hang."""
    code = 1
    try:
        code = work()
    except BaseException as error:  # the outermost frame of this process
        from juicefs_py.cli.report import report

        report(error)
    finally:
        flush_streams()
        os._exit(code)


def in_a_child(work: Callable[[], bytes]) -> bytes:
    """What `work` returns, done in a forked child, so that the libraries it loads do not stay with this process.

    Raises Fatal with the words of whatever `work` raised. Call it while no other thread runs.
    """
    reading, writing, child = _fork_with_pipe()
    if not child:
        os.close(reading)
        answer = _answer(work)
        flush_streams()
        with open(writing, "wb") as pipe:
            pipe.write(answer)
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        answer = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if answer[:1] == _GOOD:
        return answer[1:]
    raise Fatal(os.fsdecode(answer[1:]) or f"a process that tried the volume out has ended with status {status}")


def _answer(work: Callable[[], bytes]) -> bytes:
    try:
        return _GOOD + work()
    except KeyboardInterrupt:
        os._exit(128 + signal.SIGINT)
    except Exception as error:
        from juicefs_py.cli.report import explain

        return _BAD + os.fsencode(explain(error))


def in_a_child_within(limit_s: float, work: Callable[[], bytes]) -> bytes | None:
    """The same for work that may hang for ever: None if it does, or fails. The child is then left behind, killed.

    It holds nothing of ours: with a descriptor of /dev/fuse, a child that waits for the mount would keep alive the very
    connection whose end would end its waiting.
    """
    reading, writing, child = _fork_with_pipe()
    if not child:
        os.closerange(3, writing)
        os.closerange(writing + 1, os.sysconf("SC_OPEN_MAX"))
        try:
            with open(writing, "wb") as pipe:
                pipe.write(_GOOD + work())
        except OSError:
            os._exit(1)
        os._exit(0)
    os.close(writing)
    deadline, answer = time.monotonic() + limit_s, b""
    with open(reading, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], max(deadline - time.monotonic(), 0))[0]:
            part = pipe.read(65536)
            if not part:
                os.waitpid(child, 0)
                return answer[1:] if answer[:1] == _GOOD else None
            answer += part
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, os.WNOHANG)  # it may be beyond reach in the kernel; init collects it then
    return None


def _fork_with_pipe() -> tuple[int, int, int]:
    """Both ends of a pipe, and the child's number, 0 in the child."""
    flush_streams()
    reading, writing = os.pipe()
    try:
        return reading, writing, os.fork()
    except OSError:
        os.close(reading)
        os.close(writing)
        raise


def flush_streams() -> None:
    """Before a fork or `os._exit`, so that nothing is printed twice or lost."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            pass


def _prctl(option: int, value: int) -> bool:
    import ctypes

    return int(ctypes.CDLL(None).prctl(option, value, 0, 0, 0)) == 0


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
    except OSError:
        pass
