"""From mount options to the configurations of the metadata client, the data store, the VFS and the FUSE session.

Pure translation with the warnings that belong to single options. What those configurations mean is said where they are.
"""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Callable
from typing import NamedTuple

from chunkstore.config import StoreConfig
from fuse.config import SessionConfig
from fuse.mount import MountOptions
from juicefs_py import VERSION
from juicefs_py.cli import log
from juicefs_py.cli import values as grammar
from juicefs_py.cli.args import Values
from juicefs_py.cli.errors import Fatal
from juicefs_py.control.config_document import nanoseconds
from juicefs_py.mount import consul
from juicefs_py.mount.fuse_options import KernelOptions, describe, kernel_options, mount_options, session_config
from juicefs_py.mount.store_options import max_readahead, one_of, store_config
from juicefs_py.vfs_config import VFSConfig
from meta.config import MetaConfig
from meta.setting import Setting

_NOBODY = 65534
_NOT_YET = ("network-interfaces",)
_NEEDS_WRITEBACK = ("upload-delay", "upload-hours", "writeback-threshold-size", "max-stage-write")
_NOT_NEGATIVE = ("io-retries", "max-deletes", "max-stage-write", "prefetch", "cache-items", "skip-dir-nlink")
_DOORS = ("native", "pyfuse3")
_NOT_THERE = "no locks between clients, fallocate, ioctl, SEEK_DATA, copy_file_range, O_TMPFILE, nor take-over"
_ATIMES = ("noatime", "relatime", "strictatime")


class Plan(NamedTuple):
    """A mount command line, understood."""

    meta: MetaConfig
    store: StoreConfig
    vfs: VFSConfig
    session: SessionConfig
    mount: MountOptions
    passthrough: bool  # asked for


def plan(values: Values, mountpoint: str, setting: Setting) -> Plan:
    """Translate all options, with a warning or a Fatal for those that are wrong."""
    kernel = kernel_options(values)
    store = store_config(values, setting)
    return Plan(
        meta_config(values, mountpoint),
        store,
        vfs_config(values, mountpoint, setting, kernel, store),
        session_config(values, setting, kernel),
        mount_options(values, setting, kernel),
        kernel.passthrough,
    )


def metrics_address(values: Values) -> tuple[str, int]:
    """Host and port of `--metrics`; without a host, every address."""
    host, _, port = values.text("metrics").rpartition(":")
    if values.is_set("consul"):
        try:
            own = consul.own_address(values.text("consul"))
        except ValueError as reason:
            raise Fatal(f"invalid --consul address: {reason}") from None
        host = host if values.is_set("metrics") else own
    if not port.isdigit() or int(port) > 65535:
        raise Fatal(f"invalid --metrics address {values.text('metrics')}; write HOST:PORT, for example 127.0.0.1:9567")
    return host.strip("[]") or "0.0.0.0", int(port)


def check(values: Values) -> None:
    """Refuse what would be unsafe to ignore, and warn of what is ignored."""
    metrics_address(values)
    _check_numbers(values)
    _check_door(values)
    for name in _NOT_YET:
        if values.is_set(name):
            log.LOG.warning("--%s is not supported yet and ignored", name)
    for name in _NEEDS_WRITEBACK:
        if values.is_set(name) and not values.flag("writeback"):
            log.LOG.warning("--%s has no effect without --writeback and is ignored", name)
    if values.is_set("skip-dir-nlink"):
        log.LOG.warning("--skip-dir-nlink has no effect and is ignored: nlink of directories is always right")
    backup = values.seconds("backup-meta")
    if 0 < backup < 300 and os.environ.get("SKIP_BACKUP_META_CHECK") != "true":
        raise Fatal(f"backup-meta should not be less than 5 minutes: {values.text('backup-meta')}")


def _check_door(values: Values) -> None:
    """The door exists, is installed, and says what it cannot do."""
    door = values.text("fuse")
    if door not in _DOORS:
        raise Fatal(f'unknown --fuse "{door}"; choose {" or ".join(_DOORS)}')
    if door == "pyfuse3":
        if importlib.util.find_spec("pyfuse3") is None:
            raise Fatal("--fuse pyfuse3: the package pyfuse3 is not installed; pip install 'juicefs-py[pyfuse3]'")
        log.LOG.info("--fuse pyfuse3 has %s", _NOT_THERE)
        if kernel_options(values).passthrough:
            log.LOG.warning("--passthrough is not used: --fuse pyfuse3 cannot")
        if values.is_set("max-fuse-io"):
            log.LOG.warning("--max-fuse-io has no effect with --fuse pyfuse3 and is ignored")
        if values.is_set("umask"):
            log.LOG.warning(
                "--umask can only take more away with --fuse pyfuse3: the kernel applies the program's, too"
            )


def _check_numbers(values: Values) -> None:
    """Negative numbers mean nothing here, and must not turn off what nobody wants off."""
    for name in _NOT_NEGATIVE:
        if values.number(name) < 0:
            raise Fatal(f'Invalid value "{values.number(name)}" for "{name}": must not be negative; write 0 or more')


def meta_config(values: Values, mountpoint: str) -> MetaConfig:
    heartbeat = values.seconds("heartbeat")
    max_deletes = values.number("max-deletes")
    if max_deletes == 0:
        log.LOG.warning("Deleting object will be disabled since max-deletes is 0")
    return MetaConfig(
        read_only=kernel_options(values).read_only,
        subdir=values.text("subdir"),
        atime_mode=one_of(values, "atime-mode", _ATIMES),
        skip_dir_mtime_s=values.seconds("skip-dir-mtime"),
        skip_dir_nlink=values.number("skip-dir-nlink"),
        open_cache_s=values.seconds("open-cache"),
        open_cache_limit=values.number("open-cache-limit"),
        heartbeat_s=min(max(heartbeat, 1.0), 600.0) if heartbeat else 0.0,
        no_bgjob=values.flag("no-bgjob"),
        max_deletes=max_deletes,
        retries=values.number("io-retries"),
        mount_point=printable(mountpoint),
        sort_dir=values.flag("sort-dir"),
        fast_statfs=values.flag("fast-statfs"),
    )


def vfs_config(
    values: Values, mountpoint: str, setting: Setting, kernel: KernelOptions, store: StoreConfig
) -> VFSConfig:
    """What the store has been told, too, is taken from there: each warning comes once."""
    xattr = values.flag("enable-xattr") or setting.enable_acl
    for name in ("enable-cap", "enable-selinux"):
        if values.flag(name) and not xattr:
            log.LOG.warning("--%s has no effect without --enable-xattr", name)
    return VFSConfig(
        attr_timeout_s=values.seconds("attr-cache"),
        entry_timeout_s=values.seconds("entry-cache"),
        dir_entry_timeout_s=values.seconds("dir-entry-cache"),
        negative_timeout_s=values.seconds("negative-entry-cache"),
        readdir_cache=values.flag("readdir-cache"),
        hide_internal=values.flag("hide-internal"),
        prefix_internal=values.flag("prefix-internal"),
        root_squash=_squash(values, "root-squash"),
        all_squash=_squash(values, "all-squash"),
        non_default_permission=values.flag("non-default-permission"),
        umask=umask(values),
        enable_xattr=xattr,
        enable_ioctl=values.flag("enable-ioctl"),
        enable_cap=values.flag("enable-cap"),
        enable_selinux=values.flag("enable-selinux"),
        writeback_cache=kernel.writeback_cache,
        io_retries=store.max_retries,
        put_timeout_s=store.put_timeout_s,
        buffer_size=store.buffer_size,
        max_readahead=max_readahead(values),
        version=VERSION,
        mount_point=printable(mountpoint),
        labels=labels(values, printable(mountpoint), setting),
        document={
            "FuseOpts": describe(values, setting),
            "BackupMeta": nanoseconds(backup_interval_s(values)),
            "BackupSkipTrash": values.flag("backup-skip-trash"),
        },
    )


def backup_interval_s(values: Values) -> float:
    """How often metadata is backed up; 0: never, by this mount."""
    if kernel_options(values).read_only or values.flag("no-bgjob"):
        return 0.0
    return values.seconds("backup-meta")


def printable(path: str) -> str:
    """A path for JSON and metrics, which are UTF-8: other bytes become U+FFFD, as official clients show them."""
    return os.fsencode(path).decode(errors="replace")


def labels(values: Values, mountpoint: str, setting: Setting) -> dict[str, str]:
    """Constant labels of every metric."""
    found = {
        "vol_name": setting.name, "mp": mountpoint, "juicefs_version": VERSION, "instance": socket.gethostname(),
    }  # fmt: skip
    for part in filter(None, values.text("custom-labels").split(";")):
        key, separator, value = part.partition(":")
        if not separator or not key or ":" in value:
            raise Fatal(f"invalid custom label: {part}; write key1:value1;key2:value2")
        if key in ("mp", "vol_name", "instance"):
            log.LOG.warning("overriding the label %s", key)
        found[key] = value
    return found


def umask(values: Values) -> int | None:
    text = values.text("umask")
    if not text:
        return None
    try:
        return grammar.octal(text, 16)
    except ValueError as reason:
        raise Fatal(f'invalid umask "{text}": {reason}; write it in octal, for example 022') from None


def _squash(values: Values, name: str) -> tuple[int, int] | None:
    """`U:G`; empty parts and 0 mean nobody and nogroup."""
    text = values.text(name)
    if not values.is_set(name) or not text:
        return None
    user, _, group = text.partition(":")
    import grp
    import pwd

    nobody = _or(_NOBODY, lambda: pwd.getpwnam("nobody").pw_uid)
    nogroup = _or(_NOBODY, lambda: grp.getgrnam("nogroup").gr_gid)
    ids = _id(name, user), _id(name, group)
    squashed = ids[0] or nobody, ids[1] or nogroup
    if 0 in ids:
        log.LOG.warning("--%s to root is refused, using %d:%d", name, *squashed)
    return squashed


def _id(name: str, text: str) -> int | None:
    """A number of `U:G`; None for an empty part."""
    if not text:
        return None
    if not text.isdigit() or int(text) >= 1 << 32:
        raise Fatal(f'invalid --{name}: "{text}" is not a user or group number; write uid:gid')
    return int(text)


def _or(default: int, read: Callable[[], int]) -> int:
    try:
        return read()
    except KeyError:
        return default
