"""Opening buckets by the name of their storage. Each driver is a module of its own, imported when asked for."""

from __future__ import annotations

from chunkstore.bucket import Access, Bucket
from chunkstore.buckets.prefix import PrefixBucket
from chunkstore.errors import BadBucket

SPEAK_S3 = frozenset(("b2", "bos", "gs", "ks3", "obs", "qingstor", "qiniu", "tos"))
"""Storages that volumes may name and this version cannot open, but that have an S3-compatible endpoint as well."""

LATER = SPEAK_S3 | {
    "bunny", "ceph", "cifs", "dragonfly", "etcd", "gluster", "hdfs", "ibmcos", "mysql", "nfs", "postgres", "smb",
    "storj", "swift", "tikv", "ufile", "wasb",
}  # fmt: skip
"""All that volumes may name and this version cannot open."""

SUPPORTED = (
    "file", "mem", "s3", "minio", "wasabi", "scw", "space", "oos", "eos", "cos", "oss", "sftp", "webdav", "redis",
    "sqlite3",
)  # fmt: skip

MAX_SHARDS = 256

_ANYBODY = Access()


def open_bucket(storage: str, bucket: str, access: Access = _ANYBODY, shards: int = 0) -> Bucket:
    """The bucket of a volume's setting, without the volume's prefix. If possible, nothing is asked of it yet.

    With `shards` > 1 the bucket's address holds one `%d` for the number of the shard.
    """
    storage = storage.lower()
    if shards > 1:
        from chunkstore.buckets.sharded import ShardedBucket, shard_addresses

        return ShardedBucket([_open(storage, each, access) for each in shard_addresses(bucket, shards)])
    return _open(storage, bucket, access)


def _open(storage: str, bucket: str, access: Access) -> Bucket:
    match storage:
        case "file":
            from chunkstore.buckets.file import FileBucket

            return FileBucket(bucket, access.sum_unit)
        case "mem":
            from chunkstore.buckets.mem import MemBucket

            return MemBucket(bucket)
        case "s3" | "minio" | "wasabi" | "scw" | "space" | "oos" | "eos":
            from chunkstore.buckets.s3 import open_s3

            return open_s3(storage, bucket, access)
        case "cos":
            from chunkstore.buckets.cos import open_cos

            return open_cos(bucket, access)
        case "oss":
            from chunkstore.buckets.oss import open_oss

            return open_oss(bucket, access)
        case "sftp":
            from chunkstore.buckets.sftp import open_sftp

            return open_sftp(bucket, access)
        case "webdav":
            from chunkstore.buckets.webdav import open_webdav

            return open_webdav(bucket, access)
        case "redis":
            from chunkstore.buckets.redis_keys import RedisBucket

            return RedisBucket(bucket, access)
        case "sqlite3":
            from chunkstore.buckets.sqlite import SqliteBucket

            return SqliteBucket(bucket, access)
    if storage in SPEAK_S3:
        raise BadBucket(f"storage {storage!r} is not supported yet; try its S3-compatible endpoint with --storage s3")
    if storage in LATER:
        raise BadBucket(f"storage {storage!r} is not supported yet; this version opens: {', '.join(SUPPORTED)}")
    raise BadBucket(f"invalid storage: {storage!r}; this version opens: {', '.join(SUPPORTED)}")


def with_prefix(bucket: Bucket, prefix: str) -> Bucket:
    """The part of a bucket whose keys begin with `prefix`, as a bucket."""
    return PrefixBucket(bucket, prefix) if prefix else bucket
