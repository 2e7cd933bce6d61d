"""What a mount asks of the kernel: the `-o` list, mount options, the FUSE session, and their description in `.config`.

Not here: options of the file system itself (settings), and what they do (`fuse`).
"""

from __future__ import annotations

import os
from typing import NamedTuple

from fuse.config import SessionConfig
from fuse.mount import MountOptions
from juicefs_py.cli.args import Values
from meta.setting import Setting

_MIB = 1 << 20


class KernelOptions(NamedTuple):
    """What `-o` asks for, sorted out."""

    passed: list[str]
    allow_other: bool
    read_only: bool
    debug: bool
    writeback_cache: bool
    async_dio: bool
    passthrough: bool


def kernel_options(values: Values) -> KernelOptions:
    """Sort the comma list of `-o`."""
    parts = [part for part in values.text("o").split(",") if part]
    known = {"allow_other", "allow_root", "ro", "nonempty", "debug", "writeback_cache", "async_dio",
             "passthrough"}  # fmt: skip
    return KernelOptions(
        passed=[part for part in parts if part not in known],
        allow_other="allow_other" in parts or "allow_root" in parts or os.getuid() == 0,
        read_only="ro" in parts or values.flag("read-only"),
        debug="debug" in parts,
        writeback_cache="writeback_cache" in parts,
        async_dio="async_dio" in parts,
        passthrough="passthrough" in parts or values.flag("passthrough"),
    )


def session_config(values: Values, setting: Setting, kernel: KernelOptions) -> SessionConfig:
    return SessionConfig(
        max_write=max_io(values),
        async_dio=kernel.async_dio,
        passthrough_depth=int(kernel.passthrough and not kernel.writeback_cache),
        posix_acl=setting.enable_acl,
        dont_mask=setting.enable_acl or values.is_set("umask"),
        writeback_cache=kernel.writeback_cache,
        default_permissions=kernel_checks(values),
        debug=kernel.debug,
    )


def mount_options(values: Values, setting: Setting, kernel: KernelOptions) -> MountOptions:
    return MountOptions(
        fsname=f"JuiceFS:{setting.name}",
        subtype="juicefs",
        options=kernel.passed,
        allow_other=kernel.allow_other,
        default_permissions=kernel_checks(values),
        read_only=False,  # refused by the metadata client, so that .control stays writable
        max_read=max_io(values),
    )


def kernel_checks(values: Values) -> bool:
    """Whether the kernel checks permissions; not where all users are mapped to one."""
    return not values.flag("non-default-permission") and not values.text("all-squash")


def max_io(values: Values) -> int:
    """Bytes of the largest READ and WRITE: `--max-fuse-io` within what the kernel can."""
    return min(max(values.size("max-fuse-io"), 4096), _MIB)


def describe(values: Values, setting: Setting) -> dict[str, object]:
    """`FuseOpts` of `.config`, by which clients tell whether two mounts have the same options.

    Official clients compare it with their own, so it has their fields, constants included, whatever we really use.
    """
    kernel = kernel_options(values)
    options = [*kernel.passed, *(["default_permissions"] if kernel_checks(values) else [])]
    return {
        "AllowOther": kernel.allow_other,
        "Options": options,
        "MaxBackground": 200,
        "MaxWrite": max_io(values),
        "MaxReadAhead": _MIB,
        "IgnoreSecurityLabels": False,
        "RememberInodes": False,
        "FsName": os.environ.get("FSTAB_NAME_PREFIX", "JuiceFS:") + setting.name,
        "Name": "juicefs",
        "SingleThreaded": False,
        "DisableXAttrs": not (values.flag("enable-xattr") or setting.enable_acl),
        "Debug": kernel.debug,
        "EnableLocks": True,
        "EnableSymlinkCaching": True,
        "ExplicitDataCacheControl": False,
        "DirectMount": True,
        "DirectMountFlags": 0,
        "EnableAcl": setting.enable_acl,
        "EnableReadDirPlusAuto": True,
        "EnableWriteback": kernel.writeback_cache,
        "DontUmask": True,
        "OtherCaps": 0,
        "NoAllocForRead": False,
        "Timeout": 900_000_000_000,
    }
