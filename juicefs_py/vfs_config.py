"""How a mounted file system behaves towards the kernel and its users: the options of `VFS`.

Not here: options of the metadata client (`meta.config`) and of the data store (`chunkstore.config`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class VFSConfig:
    """Mount options that concern the VFS. Times in seconds, sizes in bytes."""

    attr_timeout_s: float = 1.0
    entry_timeout_s: float = 1.0
    dir_entry_timeout_s: float = 1.0
    negative_timeout_s: float = 0.0  # 0: the absence of a name is not cached by the kernel
    readdir_cache: bool = False
    hide_internal: bool = False
    prefix_internal: bool = False  # .jfs.stats instead of .stats, and so on
    root_squash: tuple[int, int] | None = None
    all_squash: tuple[int, int] | None = None
    non_default_permission: bool = False
    umask: int | None = None  # replaces the kernel's when set
    enable_xattr: bool = False
    enable_ioctl: bool = False
    enable_cap: bool = False
    enable_selinux: bool = False
    writeback_cache: bool = False  # the kernel collects writes and owns size and mtime of open files
    io_retries: int = 10
    put_timeout_s: float = 60.0
    buffer_size: int = 300 << 20
    max_readahead: int | None = None  # None: 8 blocks; 0: none
    version: str = ""
    mount_point: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)  # constant labels of every metric
    document: Mapping[str, object] = field(default_factory=dict)  # more keys of `.config` (Port, FuseOpts)
    sections: Mapping[str, Mapping[str, object]] = field(default_factory=dict)  # fields inside Meta and Chunk

    @property
    def internal_prefix(self) -> bytes:
        return b".jfs" if self.prefix_internal else b""

    @property
    def checks_permissions(self) -> bool:
        """Whether the kernel's permission check is off or meaningless for some callers."""
        return self.non_default_permission or self.all_squash is not None or self.root_squash is not None
