"""INIT: what the kernel offers, what we wish, and what both then keep to.

Not here: reading and writing the device (session). The kernel's first message is kept byte for byte, because a process
that takes over a running connection never sees it again and needs to know what was agreed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from fuse import abi
from fuse.config import SessionConfig
from fuse.errors import MalformedRequest, UnsupportedKernel

_HEADER = abi.fuse_in_header.size


@dataclass(frozen=True, slots=True)
class Negotiated:
    """The outcome of INIT, enough to serve the connection in another process: `Session(..., negotiated=...)`."""

    request: bytes  # the kernel's whole INIT message, header included
    minor: int
    flags: int  # of both sides: `flags` and, from bit 32 on, `flags2`
    max_readahead: int
    max_write: int

    def has(self, flag: int) -> bool:
        return bool(self.flags & flag)


def wished_flags(config: SessionConfig) -> int:
    """The INIT flags that `config` asks for."""
    wishes = {
        abi.FUSE_ASYNC_READ: config.async_read,
        abi.FUSE_ASYNC_DIO: config.async_dio,
        abi.FUSE_ATOMIC_O_TRUNC: config.atomic_o_trunc,
        abi.FUSE_AUTO_INVAL_DATA: config.auto_inval_data,
        abi.FUSE_BIG_WRITES: True,
        abi.FUSE_CACHE_SYMLINKS: config.cache_symlinks,
        abi.FUSE_DIRECT_IO_ALLOW_MMAP: config.direct_io_mmap,
        abi.FUSE_DO_READDIRPLUS: config.readdirplus,
        abi.FUSE_DONT_MASK: config.dont_mask,
        abi.FUSE_EXPLICIT_INVAL_DATA: not config.auto_inval_data,
        abi.FUSE_EXPORT_SUPPORT: config.export_support,
        abi.FUSE_FLOCK_LOCKS: config.flock_locks,
        abi.FUSE_HANDLE_KILLPRIV_V2: config.handle_killpriv_v2,
        abi.FUSE_HAS_IOCTL_DIR: True,
        abi.FUSE_HAS_RESEND: True,
        abi.FUSE_INIT_EXT: True,
        abi.FUSE_MAX_PAGES: True,
        abi.FUSE_PARALLEL_DIROPS: config.parallel_dirops,
        abi.FUSE_PASSTHROUGH: config.passthrough_depth > 0,
        abi.FUSE_POSIX_ACL: config.posix_acl,
        abi.FUSE_POSIX_LOCKS: config.posix_locks,
        abi.FUSE_READDIRPLUS_AUTO: config.readdirplus and config.readdirplus_auto,
        abi.FUSE_WRITEBACK_CACHE: config.writeback_cache,
    }
    return sum(flag for flag, wished in wishes.items() if wished)


def read_init(message: bytes) -> tuple[int, int, int, int]:
    """Major, minor, max_readahead and the offered flags (64 bits) of an INIT message with its header."""
    if len(message) < _HEADER + abi.fuse_init_in.size:
        raise MalformedRequest("INIT is too short")
    major, minor, max_readahead, flags = abi.fuse_init_in.unpack_from(message, _HEADER)
    if flags & abi.FUSE_INIT_EXT and len(message) >= _HEADER + abi.fuse_init_in_ext.size:
        flags |= abi.fuse_init_in_ext.unpack_from(message, _HEADER)[4] << 32
    return major, minor, max_readahead, flags


def negotiate(message: bytes, config: SessionConfig) -> tuple[Negotiated, bytes]:
    """Decide the connection's parameters and the payload of the INIT reply. Raises UnsupportedKernel."""
    major, minor, max_readahead, offered = read_init(message)
    if major != abi.FUSE_KERNEL_VERSION or minor < abi.OLDEST_MINOR_VERSION:
        oldest = f"{abi.FUSE_KERNEL_VERSION}.{abi.OLDEST_MINOR_VERSION}"
        raise UnsupportedKernel(f"the kernel speaks FUSE {major}.{minor}; {oldest} (Linux 5.4) or newer is needed")
    flags = offered & wished_flags(config)
    page = os.sysconf("SC_PAGESIZE")
    agreed = Negotiated(
        request=message,
        minor=min(minor, abi.FUSE_KERNEL_MINOR_VERSION),
        flags=flags,
        max_readahead=min(max_readahead, config.max_readahead),
        max_write=config.max_write if flags & abi.FUSE_MAX_PAGES else min(config.max_write, 32 * page),
    )
    reply = abi.fuse_init_out.pack(
        abi.FUSE_KERNEL_VERSION, agreed.minor, agreed.max_readahead, flags & 0xFFFFFFFF,
        config.max_background, max(1, config.max_background * 3 // 4), agreed.max_write,
        1,  # time_gran: timestamps are exact to the nanosecond
        -(-agreed.max_write // page),
        0, flags >> 32,
        config.passthrough_depth if flags & abi.FUSE_PASSTHROUGH else 0,
        0,
    )  # fmt: skip
    return agreed, reply


def other_major(message: bytes) -> bytes | None:
    """The INIT reply to a kernel with a newer major version, which then asks again with ours; None if ours matches."""
    if read_init(message)[0] <= abi.FUSE_KERNEL_VERSION:
        return None
    return abi.fuse_init_out.pack(abi.FUSE_KERNEL_VERSION, abi.FUSE_KERNEL_MINOR_VERSION, *(0,) * 11)
