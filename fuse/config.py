"""How a session behaves towards the kernel: what is asked for at INIT, and the limits of the thread pool.

Not here: mount options (mount) and what the kernel in fact granted (`handshake.Negotiated`).
"""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """Wishes for INIT; a wish that the kernel does not offer is silently dropped, except where a comment says so."""

    max_write: int = 128 << 10  # bytes of one READ or WRITE, 4 KiB to 1 MiB
    max_readahead: int = MIB  # bytes; the kernel takes the smaller of this and the device's own limit
    max_background: int = 50  # asynchronous requests (read-ahead, write-back) under way at once
    async_read: bool = True  # several READs of one handle at once
    async_dio: bool = False
    auto_inval_data: bool = True  # drop the page cache when mtime or size changed; False: only by notification
    cache_symlinks: bool = True
    dont_mask: bool = False  # the umask is ours to apply (default ACLs need it)
    export_support: bool = True  # lookups of "." and ".." are answered (NFS export)
    flock_locks: bool = True  # BSD locks come to us instead of being local to this mount
    posix_locks: bool = True
    posix_acl: bool = False  # the kernel caches and checks ACLs; wants default_permissions and dont_mask
    parallel_dirops: bool = True  # several lookups and listings of one directory at once
    readdirplus: bool = True
    readdirplus_auto: bool = True  # the kernel chooses READDIR where attributes seem not to be wanted
    writeback_cache: bool = False
    atomic_o_trunc: bool = False  # O_TRUNC comes with OPEN instead of as a SETATTR before it
    handle_killpriv_v2: bool = False  # clearing set-id bits is ours
    direct_io_mmap: bool = False  # shared mmap of files opened with FOPEN_DIRECT_IO
    passthrough_depth: int = 0  # 1 or 2: ask for FUSE_PASSTHROUGH with this max_stack_depth; 0: do not ask
    default_permissions: bool = True  # the mount was made with it: sets `Caller.checked`
    max_threads: int = 128  # requests served at once; waiting SETLKWs come on top
    max_lock_waits: int = 2048  # threads in a waiting SETLKW; one more is refused with ENOLCK
    idle_thread_s: float = 10.0  # a parked thread leaves after this time
    slow_us: float = 300.0  # an opcode that takes longer on average is served with a second thread already reading
    rescue_ms: float = 2.0  # a request that takes longer than this is reported to have blocked: another thread reads on
    debug: bool = False  # log one rx and one tx line per request

    def __post_init__(self) -> None:
        if not 4096 <= self.max_write <= MIB:
            raise ValueError(f"max_write must be 4096 to {MIB} bytes, not {self.max_write}")
        if self.max_threads < 2:
            raise ValueError("max_threads must be at least 2: one serves, one takes over when it blocks")
