"""Stage 0 of `juicefs mount`: everything that can fail is tried in the caller's process, then the mount is started.

Foreground: this process becomes the supervisor. Background: a detached copy does, and this one waits until the mount
answers. No database stays open and no thread runs when processes are forked.
"""

from __future__ import annotations

import os
import signal
import time
from typing import NamedTuple

from juicefs_py import storage_check
from juicefs_py.cli import log
from juicefs_py.cli.args import Values
from juicefs_py.cli.connect import connect, load_setting
from juicefs_py.cli.errors import Fatal
from juicefs_py.cli.report import explain
from juicefs_py.ledger import Ledger
from juicefs_py.mount import passfd, process, takeover
from juicefs_py.mount.daemon import detach
from juicefs_py.mount.fuse_options import describe, kernel_options
from juicefs_py.mount.prepare import prepare, tell_what_is_covered, untouched
from juicefs_py.mount.program import LEDGER_FD, inherited_connection
from juicefs_py.mount.readiness import FAILED, tell_caller, timeout_s, wait_until_ready
from juicefs_py.mount.settings import check, plan
from juicefs_py.mount.store_options import own_tier
from juicefs_py.mount.supervisor import FORWARDED, Inheritance, Supervisor
from meta.engines import mask_url, with_scheme
from meta.setting import Setting

_LOCAL_SCHEMES = ("sqlite3://", "badger://")


class Job(NamedTuple):
    """What is to be mounted where, in words that mean the same in every directory."""

    url: str
    mountpoint: str
    values: Values
    bucket: str  # this client's own; empty: the setting's
    background: bool
    status: int  # pipe to a waiting caller (`readiness`); -1 without one
    running: takeover.Running | None  # the mount that is to be gone on with


def mount(values: Values) -> int:
    """Run `juicefs mount` with these options; the exit code of this process."""
    url, mountpoint = values.positionals
    url = absolute_url(with_scheme(url))
    check(values)
    setting = Setting.parse(process.in_a_child(lambda: _try_out(url, values).to_json().encode()))
    plan(values, mountpoint, setting)
    supervised = bool(os.environ.get("JFS_SUPERVISOR"))
    # A supervisor or a driver may keep the connection of a mount that nobody serves now: it must not be touched.
    kept = supervised or (bool(os.environ.get("JFS_SUPER_COMM")) and _is_native(values))
    mountpoint = untouched(mountpoint) if kept else prepare(mountpoint)
    old = None
    if not kept:
        if _is_native(values):
            old = takeover.running(
                mountpoint, setting.name, describe(values, setting),
                read_only=kernel_options(values).read_only, prefixed=values.flag("prefix-internal"),
            )  # fmt: skip
        if old is None:
            tell_what_is_covered(mountpoint)
    bucket = _own_bucket(values, setting)
    background = values.flag("background") and not os.environ.get("JFS_FOREGROUND") and not supervised
    if values.flag("update-fstab") and not supervised:
        from juicefs_py.mount.fstab import update

        update(url, mountpoint, values, bucket)
    words = _title(values, (mask_url(url), mountpoint))
    if background:
        return _in_background(Job(url, mountpoint, values, bucket, True, -1, old), setting, words)
    return _supervise(Job(url, mountpoint, values, bucket, False, -1, old), words)


def absolute_url(url: str) -> str:
    """A database file's path must survive the change to `/`."""
    for scheme in _LOCAL_SCHEMES:
        path = url.removeprefix(scheme)
        if path != url and path and not path.startswith("/"):
            return scheme + os.path.abspath(path)
    return url


def _own_bucket(values: Values, setting: Setting) -> str:
    """`--bucket` as it means the same from every directory."""
    given = values.text("bucket")
    return storage_check.overridden(setting, values.text("storage"), given).bucket if given else ""


def _try_out(url: str, values: Values) -> Setting:
    """Reach metadata and storage once, to fail while somebody watches."""
    engine = connect(url, read_only=True)
    try:
        setting = load_setting(engine, url)
        has_data = engine.reader.counter("nextChunk") > 1
    finally:
        engine.close()
    if setting.change_log and not kernel_options(values).read_only:
        raise Fatal(
            f"volume {setting.name} keeps a change log, which juicefs_py cannot write: mount it with --read-only"
        )
    clear = setting.decrypted()
    used = storage_check.overridden(clear, values.text("storage"), values.text("bucket"), own_tier(values, clear))
    bucket = storage_check.volume_bucket(used)
    log.LOG.info("Data use %s", bucket.describe())
    if has_data:
        storage_check.refuse_missing(bucket, used)
    if values.flag("check-storage"):
        started = time.monotonic()
        try:
            storage_check.check_storage(bucket)
        except Fatal as error:
            log.LOG.error("Object storage test failed: %s", error)
            raise
        log.LOG.info("Object storage test passed in %.3fs", time.monotonic() - started)
    elif not os.environ.get("JFS_NO_CHECK_OBJECT_STORAGE"):
        storage_check.refuse_unusable(bucket)
    bucket.close()
    return setting


def _in_background(job: Job, setting: Setting, words: list[str]) -> int:
    limit, log_path = timeout_s(), os.path.abspath(job.values.text("log"))
    status, sender = os.pipe()
    if detach(log_path):
        os.close(status)
        os._exit(_supervise(job._replace(status=sender), words))
    os.close(sender)
    problem = wait_until_ready(job.mountpoint, status, limit)
    if problem:
        raise Fatal(f'{problem}, please check the log ("{log_path}") or re-mount in foreground')
    log.LOG.info('\x1b[92mOK\x1b[0m, %s is ready at "%s"', setting.name, job.mountpoint)
    return 0


def _supervise(job: Job, words: list[str]) -> int:
    process.set_title(words)
    process.ignore_stray_signals()
    if os.environ.get("JFS_SUPERVISOR"):
        process.end_with(lambda: _serve(job, _from_other_supervisor()))
    process.raise_limits()
    process.protect_from_oom_killer()
    if not process.be_io_flusher():
        log.LOG.debug("no CAP_SYS_RESOURCE: this process cannot be made an I/O flusher")
    if job.values.flag("disable-transparent-hugepage"):
        process.disable_huge_pages()
    prefixed = job.values.flag("prefix-internal")
    # A signal must not end this process while it holds the only descriptor: they wait until the supervisor hears them.
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    taken = None
    if job.running is not None:
        taken = takeover.take_over(job.running, job.mountpoint, takeover.prefix_of(prefixed))
    # Only native mounts are kept by a driver: others could not go on with what it keeps.
    driver = os.environ.get("JFS_SUPER_COMM", "") if _is_native(job.values) else ""
    return Supervisor(
        job.mountpoint, lambda inherited: _serve(job, inherited), taken, prefixed=prefixed, driver=driver
    ).run()


def _is_native(values: Values) -> bool:
    return values.text("fuse") == "native"


def _from_other_supervisor() -> Inheritance:
    """Started by another supervisor than ours, such as an older program's, which may offer the connection by socket."""
    comm_path, ledger_fd = os.environ.get("_FUSE_FD_COMM", ""), os.environ.get(LEDGER_FD)
    ledger = Ledger(int(ledger_fd) if ledger_fd else None)
    kept = inherited_connection()
    if kept is None and comm_path:
        kept = passfd.take(comm_path)
        if kept is not None and kept.fd is not None:
            try:
                passfd.give(comm_path, kept.setting, kept.fd)  # it keeps a copy
            except OSError as error:
                log.LOG.warning("the supervisor at %s did not take the connection back: %s", comm_path, error)
    return Inheritance(ledger, comm_path, *((None, passfd.UNKNOWN) if kept is None else (kept.fd, kept.setting)))


def _serve(job: Job, inherited: Inheritance) -> int:
    """In the serving process: what only it needs is imported here, so that the supervisor stays small."""
    from juicefs_py.mount.serve import serve

    try:
        return serve(job, inherited)
    except BaseException as error:
        if job.background:
            tell_caller(job.status, FAILED + explain(error).encode(errors="replace"))
        raise


def _title(values: Values, shown: tuple[str, str]) -> list[str]:
    """The command line for the process list: no password, absolute paths."""
    replaced = dict(zip(values.positionals, shown, strict=True))
    return [replaced.get(word, word) for word in values.command_line]
