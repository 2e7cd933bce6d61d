"""Option tables that several commands share. Texts here are what `--help` teaches; meanings are in docs/commands.md.

Options of one command only stand in that command's file.
"""

# ruff: noqa: E501  # a table reads best with one row per line

from __future__ import annotations

import os

from juicefs_py.cli.args import Option


def _home(name: str) -> str:
    return os.path.join(os.path.expanduser("~"), ".juicefs", name)


def default_cache_dir() -> str:
    """/var/jfsCache for root, ~/.juicefs/cache for others."""
    return "/var/jfsCache" if os.getuid() == 0 else _home("cache")


def default_log_dir() -> str:
    """/var/log for root, ~/.juicefs for others."""
    return "/var/log" if os.getuid() == 0 else os.path.join(os.path.expanduser("~"), ".juicefs")


def default_bucket() -> str:
    """/var/jfs for root, ~/.juicefs/local for others."""
    return "/var/jfs" if os.getuid() == 0 else _home("local")


HELP = Option(("help", "h"), "bool", "", "show help")
VERSION = Option(("version", "V"), "bool", "", "print version only")

GLOBAL = (
    Option(("verbose", "debug", "v"), "bool", "", "enable debug log"),
    Option(("quiet", "q"), "bool", "", "show warning and errors only"),
    Option(("trace",), "bool", "", "enable trace log"),
    Option(("log-level",), "string", "", "set log level: trace, debug, info, warn, error", hidden=True),
    Option(("log-id",), "string", "", 'append the given log id in log, use "random" to use random uuid'),
    Option(("no-agent",), "bool", "", "disable the debug agent (there is none to disable in this client)"),
    Option(("pyroscope",), "string", "", "pyroscope address for continuous profiling (not supported yet)"),
    Option(("no-color",), "bool", "", "disable colors"),
)

META = (
    Option(("subdir",), "string", "", "mount a sub-directory as root, created if missing", "META"),
    Option(("backup-meta",), "seconds", "1h", "interval to back up metadata to the object storage (0 means disable backup)", "META"),
    Option(("backup-skip-trash",), "bool", "", "skip files in trash when backing up metadata", "META"),
    Option(("heartbeat",), "seconds", "12s", "interval to send heartbeat; all clients should use the same value", "META"),
    Option(("read-only",), "bool", "", "allow lookup and read operations only", "META"),
    Option(("no-bgjob",), "bool", "", "disable background jobs (clean-up, backup, etc.)", "META"),
    Option(("atime-mode",), "string", "noatime", "when to update atime: noatime, relatime or strictatime", "META"),
    Option(("skip-dir-nlink",), "int", "20", "accepted for compatibility, has no effect: nlink of directories is always right", "META"),
    Option(("skip-dir-mtime",), "seconds", "100ms", "skip updating a directory's times if they changed less than this ago", "META"),
    Option(("sort-dir",), "bool", "", "sort entries of a directory by name", "META"),
    Option(("fast-statfs",), "bool", "", "answer statfs with the totals of the last heartbeat instead of asking the metadata engine", "META"),
    Option(("network-interfaces",), "string", "", "comma-separated interfaces whose addresses are recorded in the session", "META"),
)  # fmt: skip


def meta_cache(entry_cache: str) -> tuple[Option, ...]:
    """Options of the META CACHE group; the default of `--entry-cache` depends on the service."""
    return (
        Option(("attr-cache",), "seconds", "1.0s", "attributes cache timeout", "META CACHE"),
        Option(("entry-cache",), "seconds", entry_cache, "file entry cache timeout", "META CACHE"),
        Option(("dir-entry-cache",), "seconds", "1.0s", "dir entry cache timeout", "META CACHE"),
        Option(("negative-entry-cache",), "seconds", "", "cache timeout for names that do not exist", "META CACHE"),
        Option(("readdir-cache",), "bool", "", "let the kernel cache directory listings (kernel 4.20 or newer)", "META CACHE"),
        Option(("open-cache",), "seconds", "0s", "reuse the metadata of open files for this long without checking it (0 means disable)", "META CACHE"),
        Option(("open-cache-limit",), "uint", "10000", "max number of open files to cache (soft limit, 0 means unlimited)", "META CACHE"),
    )  # fmt: skip


DATA_STORAGE = (
    Option(("storage",), "string", "", "customized storage type (e.g. s3, file) for this client", "DATA STORAGE"),
    Option(("bucket",), "string", "", "customized endpoint to access the object storage", "DATA STORAGE"),
    Option(("storage-class",), "string", "", "storage class of objects written by this client", "DATA STORAGE"),
    Option(("tag",), "string", "", "tag (`key=value`) of objects written by this client", "DATA STORAGE"),
    Option(("get-timeout",), "seconds", "60s", "timeout to download an object", "DATA STORAGE"),
    Option(("put-timeout",), "seconds", "60s", "timeout to upload an object", "DATA STORAGE"),
    Option(("io-retries",), "int", "10", "number of retries after a network failure", "DATA STORAGE"),
    Option(("max-uploads",), "int", "20", "number of concurrent uploads", "DATA STORAGE"),
    Option(("max-downloads",), "int", "200", "number of concurrent downloads", "DATA STORAGE"),
    Option(("max-stage-write",), "int", "1000", "number of concurrent writes of staged blocks", "DATA STORAGE"),
    Option(("max-deletes",), "int", "10", "number of threads to delete objects (0 means never delete)", "DATA STORAGE"),
    Option(("upload-limit",), "mbps", "", "bandwidth limit for upload in Mbps", "DATA STORAGE"),
    Option(("download-limit",), "mbps", "", "bandwidth limit for download in Mbps", "DATA STORAGE"),
    Option(("check-storage",), "bool", "", "test storage before mounting to expose access issues early", "DATA STORAGE"),
)  # fmt: skip


def data_cache() -> tuple[Option, ...]:
    """Options of the DATA CACHE group; the default directory depends on who runs the program."""
    return (
        Option(("buffer-size",), "size", "300M", "total read/write buffering in MiB", "DATA CACHE"),
        Option(("max-readahead",), "size", "", "max buffering for read ahead in MiB per read session (0 means disable)", "DATA CACHE"),
        Option(("prefetch",), "int", "1", "prefetch N blocks in parallel", "DATA CACHE"),
        Option(("writeback",), "bool", "", "keep written blocks on the cache disk and upload them in background", "DATA CACHE"),
        Option(("writeback-threshold-size",), "size", "0", "stage only blocks smaller than this (writeback)", "DATA CACHE", "B"),
        Option(("upload-delay",), "seconds", "0s", "delay before uploading staged blocks (writeback)", "DATA CACHE"),
        Option(("upload-hours",), "string", "", "(start-end) hours of a day in which staged blocks are uploaded (writeback)", "DATA CACHE"),
        Option(("cache-dir",), "string", default_cache_dir(), "directory paths of local cache, use colon to separate multiple paths", "DATA CACHE"),
        Option(("cache-mode",), "string", "0600", "file permissions for cached blocks", "DATA CACHE"),
        Option(("cache-size",), "size", "100G", "size of cached objects for read in MiB", "DATA CACHE"),
        Option(("cache-items",), "int", "0", "max number of cached items (0 means derived from the free ratio)", "DATA CACHE"),
        Option(("free-space-ratio",), "float", "0.1", "keep at least this part of the disk's space and inodes free", "DATA CACHE"),
        Option(("cache-partial-only",), "bool", "", "cache only random/small reads", "DATA CACHE"),
        Option(("cache-large-write",), "bool", "", "cache full blocks after uploading them", "DATA CACHE"),
        Option(("verify-cache-checksum",), "string", "extend", "checksum level for cache data: none, full, shrink or extend", "DATA CACHE"),
        Option(("cache-eviction",), "string", "2-random", "cache eviction policy: none, 2-random or lru", "DATA CACHE"),
        Option(("cache-scan-interval",), "seconds", "1h", "interval to scan cache directories for the in-memory index", "DATA CACHE"),
        Option(("cache-expire",), "seconds", "0s", "cached blocks not accessed for longer than this are evicted (0 means never)", "DATA CACHE"),
    )  # fmt: skip


METRICS = (
    Option(("metrics",), "string", "127.0.0.1:9567", "address to export metrics", "METRICS"),
    Option(("custom-labels",), "string", "", "custom labels for metrics, as `key1:value1;key2:value2`", "METRICS"),
    Option(("consul",), "string", "127.0.0.1:8500", "address of a consul agent to register the metrics at", "METRICS"),
    Option(("no-usage-report",), "bool", "", "do not send usage report (this client never sends any)", "METRICS"),
)  # fmt: skip


def volume_storage(storage: str, bucket: str, environment: bool) -> tuple[Option, ...]:
    """Where a volume keeps its objects (`format`, `config`). `environment`: keys may come from there."""
    group = "DATA STORAGE"
    access, secret, token = (
        f" (env {name})" if environment else "" for name in ("ACCESS_KEY", "SECRET_KEY", "SESSION_TOKEN")
    )
    return (
        Option(("storage",), "string", storage, "object storage type (e.g. file, s3, oss, cos)", group),
        Option(("bucket",), "string", bucket, "a bucket URL, or a directory (storage file)", group),
        Option(("access-key",), "string", "", "access key for object storage" + access, group),
        Option(("secret-key",), "string", "", "secret key for object storage" + secret, group),
        Option(("session-token",), "string", "", "session token for object storage" + token, group),
        Option(("storage-class",), "string", "", "the default storage class", group),
        Option(("tag",), "string", "", "the default tag (`key=value`) of objects", group),
    )


def management(trash_days: str) -> tuple[Option, ...]:
    """Limits and features of a volume (`format`, `config`)."""
    group = "MANAGEMENT"
    return (
        Option(("capacity",), "size", "0", "hard quota of the volume in GiB (0 means unlimited)", group, "G"),
        Option(("inodes",), "uint", "0", "hard quota of the volume in number of inodes (0 means unlimited)", group),
        Option(("trash-days",), "int", trash_days, "days after which removed files are deleted for good", group),
        Option(("enable-acl",), "bool", "", "enable POSIX ACL (this cannot be undone)", group),
        Option(("ranger-rest-url",), "string", "", "URL of an Apache Ranger service (stored for other clients)", group),
        Option(("ranger-service",), "string", "", "name of the Ranger service (stored for other clients)", group),
        Option(("kerberos-config-file",), "string", "", "`path` of a Kerberos configuration to store", group),
    )
