"""Opening buckets by the name of their storage. Each driver is a module of its own, imported when asked for."""

from __future__ import annotations

from chunkstore.bucket import Bucket
from chunkstore.buckets.prefix import PrefixBucket
from chunkstore.errors import BadBucket

LATER = frozenset(
    (
        "s3",
        "minio",
        "oss",
        "cos",
        "obs",
        "gs",
        "wasb",
        "b2",
        "bos",
        "ks3",
        "ibmcos",
        "qingstor",
        "qiniu",
        "oos",
        "scw",
        "space",
        "wasabi",
        "eos",
        "tos",
        "ufile",
        "swift",
        "storj",
        "webdav",
        "dragonfly",
        "hdfs",
        "nfs",
        "sftp",
        "cifs",
        "smb",
        "redis",
        "tikv",
        "etcd",
        "mysql",
        "postgres",
        "sqlite3",
        "ceph",
        "gluster",
        "bunny",
    )
)
"""Storages that volumes may name and this version cannot open."""

MAX_SHARDS = 256


def open_bucket(
    storage: str, bucket: str, access_key: str = "", secret_key: str = "", token: str = "", shards: int = 0
) -> Bucket:
    """The bucket of a volume's setting, without the volume's prefix.

    With `shards` > 1 the bucket's address holds one `%d` for the number of the shard.
    """
    if shards > 1:
        from chunkstore.buckets.sharded import ShardedBucket, shard_addresses

        addresses = shard_addresses(bucket, shards)
        return ShardedBucket([open_bucket(storage, each, access_key, secret_key, token) for each in addresses])
    match storage.lower():
        case "file":
            from chunkstore.buckets.file import FileBucket

            return FileBucket(bucket)
        case "mem":
            from chunkstore.buckets.mem import MemBucket

            return MemBucket(bucket)
    if storage.lower() in LATER:
        raise BadBucket(f"storage {storage!r} is not supported yet; this version opens: file, mem")
    raise BadBucket(f"invalid storage: {storage!r}; this version opens: file, mem")


def with_prefix(bucket: Bucket, prefix: str) -> Bucket:
    """The part of a bucket whose keys begin with `prefix`, as a bucket."""
    return PrefixBucket(bucket, prefix) if prefix else bucket
