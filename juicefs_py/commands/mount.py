"""`juicefs mount`: its options and its help.

Only the table is here. What runs, from the first check to the last unmount, is in `juicefs_py.mount`.
"""

from __future__ import annotations

import os

from juicefs_py.cli.args import Command, Option, Values
from juicefs_py.cli.options import DATA_STORAGE, META, METRICS, data_cache, default_log_dir, meta_cache

_OPTIONS = (
    Option(("background", "d"), "bool", "", "run in background"),
    Option(("foreground", "f"), "bool", "", "run in foreground (the default)", hidden=True),
    Option(("no-syslog",), "bool", "", "disable syslog (this client never writes to it)"),
    Option(("log",), "string", os.path.join(default_log_dir(), "juicefs.log"), "path of log file in background"),
    Option(("force",), "bool", "", "accepted for compatibility, has no effect"),
    Option(("hide-internal",), "bool", "", "do not list internal files (.accesslog, .stats, etc.)"),
    Option(("update-fstab",), "bool", "", "add or update an entry in /etc/fstab, so that `mount -a` mounts it"),
    Option(("disable-transparent-hugepage",), "bool", "", "disable transparent huge pages for the mount process"),
    Option(("enable-xattr",), "bool", "", "enable extended attributes (xattr)"),
    Option(("enable-cap",), "bool", "", "enable security.capability xattr (needs --enable-xattr)"),
    Option(("enable-selinux",), "bool", "", "enable security.selinux xattr (needs --enable-xattr)"),
    Option(("enable-ioctl",), "bool", "", "enable ioctl (support GETFLAGS/SETFLAGS only)"),
    Option(("root-squash",), "string", "", "map the root user (uid = 0) to another one, as `uid:gid`"),
    Option(("all-squash",), "string", "", "map all users to one, as `uid:gid`"),
    Option(("prefix-internal",), "bool", "", "add '.jfs' prefix to all internal files"),
    Option(("non-default-permission",), "bool", "", "check permissions here, not in the kernel", hidden=True),
    Option(("max-fuse-io",), "size", "128K", "maximum size of one request from the kernel", "", "B"),
    Option(("umask",), "string", "", "umask for new files and directories, in octal, instead of the application's"),
    Option(
        ("passthrough",), "bool", "",
        "let the kernel read files past this process that are assembled in the cache (Linux 6.9, root)",
    ),
    Option(("fuse",), "string", "native", "who speaks with the kernel: native, or pyfuse3, which can do less"),
    Option(("o",), "string", "", "other FUSE options, comma separated"),
    *META,
    *meta_cache("1.0s"),
    *DATA_STORAGE,
    *data_cache(),
    *METRICS,
)  # fmt: skip


def _run(values: Values) -> int:
    from juicefs_py.mount import start

    return start.mount(values)


COMMAND = Command(
    "mount", "Mount a volume", "META-URL MOUNTPOINT", "SERVICE",
    "Mount the target volume at the mount point.\n\n"
    "Examples:\n# Mount in foreground\n$ juicefs mount sqlite3://myjfs.db /mnt/jfs\n\n"
    "# Mount in background\n$ juicefs mount -d sqlite3://myjfs.db /mnt/jfs\n\n"
    "# Mount a sub-directory as root\n$ juicefs mount sqlite3://myjfs.db /mnt/jfs --subdir /dir/in/jfs\n\n"
    "# Read nothing ahead, use at most 10 GiB of cache\n"
    "$ juicefs mount sqlite3://myjfs.db /mnt/jfs --max-readahead 0 --cache-size 10G",
    _OPTIONS, 2, 2, _run,
)  # fmt: skip
