"""Constants and struct layouts of the Linux FUSE protocol, 7.31 to 7.45, under the kernel's own names.

Not here: which opcode carries what (opcodes), and any logic. Facts from the kernel's `include/uapi/linux/fuse.h`. All
integers are in host byte order without implicit padding. Times are packed signed, because the kernel casts its signed
seconds; flag words above 32 bits travel as `flags` and `flags2`.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

FUSE_KERNEL_VERSION: Final = 7
FUSE_KERNEL_MINOR_VERSION: Final = 45
OLDEST_MINOR_VERSION: Final = 31  # Linux 5.4: every struct below has its present size since then

FUSE_ROOT_ID: Final = 1
FUSE_MIN_READ_BUFFER: Final = 8192
FUSE_UNIQUE_RESEND: Final = 1 << 63

# fuse_setattr_in.valid
FATTR_MODE: Final = 1 << 0
FATTR_UID: Final = 1 << 1
FATTR_GID: Final = 1 << 2
FATTR_SIZE: Final = 1 << 3
FATTR_ATIME: Final = 1 << 4
FATTR_MTIME: Final = 1 << 5
FATTR_FH: Final = 1 << 6
FATTR_ATIME_NOW: Final = 1 << 7
FATTR_MTIME_NOW: Final = 1 << 8
FATTR_LOCKOWNER: Final = 1 << 9
FATTR_CTIME: Final = 1 << 10
FATTR_KILL_SUIDGID: Final = 1 << 11

# fuse_open_out.open_flags
FOPEN_DIRECT_IO: Final = 1 << 0
FOPEN_KEEP_CACHE: Final = 1 << 1
FOPEN_NONSEEKABLE: Final = 1 << 2
FOPEN_CACHE_DIR: Final = 1 << 3
FOPEN_STREAM: Final = 1 << 4
FOPEN_NOFLUSH: Final = 1 << 5
FOPEN_PARALLEL_DIRECT_WRITES: Final = 1 << 6
FOPEN_PASSTHROUGH: Final = 1 << 7

# INIT flags; bit 32 and above are sent in flags2, once both sides set FUSE_INIT_EXT
FUSE_ASYNC_READ: Final = 1 << 0
FUSE_POSIX_LOCKS: Final = 1 << 1
FUSE_FILE_OPS: Final = 1 << 2
FUSE_ATOMIC_O_TRUNC: Final = 1 << 3
FUSE_EXPORT_SUPPORT: Final = 1 << 4
FUSE_BIG_WRITES: Final = 1 << 5
FUSE_DONT_MASK: Final = 1 << 6
FUSE_SPLICE_WRITE: Final = 1 << 7
FUSE_SPLICE_MOVE: Final = 1 << 8
FUSE_SPLICE_READ: Final = 1 << 9
FUSE_FLOCK_LOCKS: Final = 1 << 10
FUSE_HAS_IOCTL_DIR: Final = 1 << 11
FUSE_AUTO_INVAL_DATA: Final = 1 << 12
FUSE_DO_READDIRPLUS: Final = 1 << 13
FUSE_READDIRPLUS_AUTO: Final = 1 << 14
FUSE_ASYNC_DIO: Final = 1 << 15
FUSE_WRITEBACK_CACHE: Final = 1 << 16
FUSE_NO_OPEN_SUPPORT: Final = 1 << 17
FUSE_PARALLEL_DIROPS: Final = 1 << 18
FUSE_HANDLE_KILLPRIV: Final = 1 << 19
FUSE_POSIX_ACL: Final = 1 << 20
FUSE_ABORT_ERROR: Final = 1 << 21
FUSE_MAX_PAGES: Final = 1 << 22
FUSE_CACHE_SYMLINKS: Final = 1 << 23
FUSE_NO_OPENDIR_SUPPORT: Final = 1 << 24
FUSE_EXPLICIT_INVAL_DATA: Final = 1 << 25
FUSE_MAP_ALIGNMENT: Final = 1 << 26
FUSE_SUBMOUNTS: Final = 1 << 27
FUSE_HANDLE_KILLPRIV_V2: Final = 1 << 28
FUSE_SETXATTR_EXT: Final = 1 << 29
FUSE_INIT_EXT: Final = 1 << 30
FUSE_INIT_RESERVED: Final = 1 << 31
FUSE_SECURITY_CTX: Final = 1 << 32
FUSE_HAS_INODE_DAX: Final = 1 << 33
FUSE_CREATE_SUPP_GROUP: Final = 1 << 34
FUSE_HAS_EXPIRE_ONLY: Final = 1 << 35
FUSE_DIRECT_IO_ALLOW_MMAP: Final = 1 << 36
FUSE_PASSTHROUGH: Final = 1 << 37
FUSE_NO_EXPORT_SUPPORT: Final = 1 << 38
FUSE_HAS_RESEND: Final = 1 << 39
FUSE_ALLOW_IDMAP: Final = 1 << 40
FUSE_OVER_IO_URING: Final = 1 << 41
FUSE_REQUEST_TIMEOUT: Final = 1 << 42

# per-request flags
FUSE_RELEASE_FLUSH: Final = 1 << 0
FUSE_RELEASE_FLOCK_UNLOCK: Final = 1 << 1
FUSE_GETATTR_FH: Final = 1 << 0
FUSE_LK_FLOCK: Final = 1 << 0
FUSE_WRITE_CACHE: Final = 1 << 0
FUSE_WRITE_LOCKOWNER: Final = 1 << 1
FUSE_WRITE_KILL_SUIDGID: Final = 1 << 2
FUSE_READ_LOCKOWNER: Final = 1 << 1
FUSE_IOCTL_COMPAT: Final = 1 << 0
FUSE_IOCTL_UNRESTRICTED: Final = 1 << 1
FUSE_IOCTL_RETRY: Final = 1 << 2
FUSE_IOCTL_32BIT: Final = 1 << 3
FUSE_IOCTL_DIR: Final = 1 << 4
FUSE_IOCTL_COMPAT_X32: Final = 1 << 5
FUSE_FSYNC_FDATASYNC: Final = 1 << 0
FUSE_OPEN_KILL_SUIDGID: Final = 1 << 0
FUSE_SETXATTR_ACL_KILL_SGID: Final = 1 << 0
FUSE_EXPIRE_ONLY: Final = 1 << 0

# fuse_notify_code, sent in fuse_out_header.error with unique 0
FUSE_NOTIFY_POLL: Final = 1
FUSE_NOTIFY_INVAL_INODE: Final = 2
FUSE_NOTIFY_INVAL_ENTRY: Final = 3
FUSE_NOTIFY_STORE: Final = 4
FUSE_NOTIFY_RETRIEVE: Final = 5
FUSE_NOTIFY_DELETE: Final = 6
FUSE_NOTIFY_RESEND: Final = 7
FUSE_NOTIFY_INC_EPOCH: Final = 8
FUSE_NOTIFY_PRUNE: Final = 9

# device ioctls: _IOR(229, 0, u32), _IOW(229, 1, fuse_backing_map), _IOW(229, 2, u32)
FUSE_DEV_IOC_CLONE: Final = 0x8004E500
FUSE_DEV_IOC_BACKING_OPEN: Final = 0x4010E501
FUSE_DEV_IOC_BACKING_CLOSE: Final = 0x4004E502

_ATTR = "QQQqqqIIIIIIIIII"
_KSTATFS = "QQQQQIII28x"
_FILE_LOCK = "QQII"
_ENTRY = "QQQQII" + _ATTR
_OPEN = "QIi"

NOTHING = Struct("=")

# requests
fuse_in_header = Struct("=IIQQIIIHH")  # len opcode unique nodeid uid gid pid total_extlen padding
fuse_init_in = Struct("=IIII")  # major minor max_readahead flags
fuse_init_in_ext = Struct("=IIIII44x")  # the same, flags2: since 7.36
fuse_forget_in = Struct("=Q")  # nlookup
fuse_batch_forget_in = Struct("=II")  # count dummy
fuse_forget_one = Struct("=QQ")  # nodeid nlookup
fuse_getattr_in = Struct("=IIQ")  # getattr_flags dummy fh
fuse_setattr_in = Struct("=I4xQQQqqqIIII4xII4x")
"""valid fh size lock_owner atime mtime ctime atimensec mtimensec ctimensec mode uid gid"""
fuse_mknod_in = Struct("=IIII")  # mode rdev umask padding
fuse_mkdir_in = Struct("=II")  # mode umask
fuse_rename_in = Struct("=Q")  # newdir
fuse_rename2_in = Struct("=QII")  # newdir flags padding
fuse_link_in = Struct("=Q")  # oldnodeid
fuse_open_in = Struct("=II")  # flags open_flags
fuse_create_in = Struct("=IIII")  # flags mode umask open_flags
fuse_read_in = Struct("=QQIIQII")  # fh offset size read_flags lock_owner flags padding
fuse_write_in = Struct("=QQIIQII")  # fh offset size write_flags lock_owner flags padding
fuse_release_in = Struct("=QIIQ")  # fh flags release_flags lock_owner
fuse_flush_in = Struct("=QIIQ")  # fh unused padding lock_owner
fuse_fsync_in = Struct("=QII")  # fh fsync_flags padding
fuse_setxattr_in = Struct("=II")  # size flags (the short form: FUSE_SETXATTR_EXT is never negotiated)
fuse_getxattr_in = Struct("=II")  # size padding
fuse_lk_in = Struct("=QQ" + _FILE_LOCK + "II")  # fh owner (start end type pid) lk_flags padding
fuse_access_in = Struct("=II")  # mask padding
fuse_interrupt_in = Struct("=Q")  # unique
fuse_bmap_in = Struct("=QII")  # block blocksize padding
fuse_ioctl_in = Struct("=QIIQII")  # fh flags cmd arg in_size out_size
fuse_poll_in = Struct("=QQII")  # fh kh flags events
fuse_fallocate_in = Struct("=QQQII")  # fh offset length mode padding
fuse_lseek_in = Struct("=QQII")  # fh offset whence padding
fuse_copy_file_range_in = Struct("=QQQQQQQ")  # fh_in off_in nodeid_out fh_out off_out len flags
fuse_syncfs_in = Struct("=Q")  # padding
fuse_statx_in = Struct("=IIQII")  # getattr_flags reserved fh sx_flags sx_mask

# replies
fuse_out_header = Struct("=IiQ")  # len error unique
fuse_init_out = Struct("=IIIIHHIIHHIIH22x")
"""major minor max_readahead flags max_background congestion_threshold max_write time_gran max_pages map_alignment
flags2 max_stack_depth request_timeout"""
fuse_attr = Struct("=" + _ATTR)  # the order of operations.Stat
fuse_entry_out = Struct("=" + _ENTRY)
"""nodeid generation entry_valid attr_valid entry_valid_nsec attr_valid_nsec (fuse_attr)"""
fuse_attr_out = Struct("=QI4x" + _ATTR)  # attr_valid attr_valid_nsec (fuse_attr)
fuse_open_out = Struct("=" + _OPEN)  # fh open_flags backing_id
fuse_create_out = Struct("=" + _ENTRY + _OPEN)  # fuse_entry_out, then fuse_open_out
fuse_write_out = Struct("=I4x")  # size
fuse_statfs_out = Struct("=" + _KSTATFS)  # the order of operations.StatFs
fuse_getxattr_out = Struct("=I4x")  # size
fuse_lk_out = Struct("=" + _FILE_LOCK)  # start end type pid
fuse_ioctl_out = Struct("=iIII")  # result flags in_iovs out_iovs
fuse_lseek_out = Struct("=Q")  # offset
fuse_copy_file_range_out = Struct("=Q")  # bytes_copied
fuse_dirent = Struct("=QQII")  # ino off namelen type; the name follows, padded to 8 bytes
fuse_direntplus = Struct("=" + _ENTRY + "QQII")  # fuse_entry_out, then fuse_dirent

# notifications
fuse_notify_inval_inode_out = Struct("=Qqq")  # ino off len
fuse_notify_inval_entry_out = Struct("=QII")  # parent namelen flags
fuse_notify_delete_out = Struct("=QQI4x")  # parent child namelen
fuse_notify_store_out = Struct("=QQI4x")  # nodeid offset size
fuse_notify_retrieve_out = Struct("=QQQI4x")  # notify_unique nodeid offset size

fuse_backing_id = Struct("=I")
fuse_backing_map = Struct("=iIQ")  # fd flags padding
