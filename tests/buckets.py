"""Every kind of bucket that the conformance suite runs over: a name and how to make an empty one."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import cos_server
import oss_server
import rclone_server
import redis_server
import s3_server

from chunkstore.bucket import Bucket
from chunkstore.buckets import open_bucket, with_prefix
from chunkstore.buckets.encrypted import EncryptedBucket
from chunkstore.buckets.mem import MemBucket
from chunkstore.crypt import DataCipher

Maker = Callable[[Path], Bucket]
"""Makes a bucket; the directory is the test's own."""

UNIT = 32 << 10


KEY = """\
-----BEGIN RSA PRIVATE KEY-----
Proc-Type: 4,ENCRYPTED
DEK-Info: AES-256-CBC,07F95616BA91CFEB5CF3D8583B419BD7

w+FF6AtYKsfmB6N9kxTshttCKdKcZL/f09mwdIE2I2nMAXDaz4p5OzCm9tn/g6Li
HLHlnVgBSt17u/NUvRMFuh2Q3UbGznmv9UZFF8zL8HP5pEGs77b1687fFfokxOe7
qn9tUheZaeygUTwac3ckrX/qxlkLxUcQuGqPtfHzjGeWiSWwgcN8vYO+C/RHxnUa
kJigCAcPZ0RT3Mu72+QbchMoZafmM+i8lP/i0e1LwGXzwaYBHixjTTBB9YcBp9XP
CVqRwXQwIP3PfeKEaGECFBs9RdarbMYiBPp7zaOgKCbq2kxf7LQRhRzpZx43KQCD
rfJHl/jwo+cGHWIPAuFvioFWt5iMRQr991gLcblVy4UhBZQItri1VAHLH+OTEI4c
3w5EQfafT9fYX8hLD4e5Vs6fpVvGioVvmgVNu1UT+z3IdytE8Qv9OMVKhZiLWtIO
azByBM1rCOpNPh4SSZmteLKcnHpc7ONiqHRezc70StvlVrEyQ6mXWSnwkI1u8NBd
f7c+2+R9otq0fvpxJb4QHopItCIiqvbHGob43Y5UQDjuiz4n4z/Pj24qqvRDsptv
VxU0xRvgW2tfwx+NE749SzOaGEi8amYITDoAdABzCFN/SJUqMWdRj3zYYRuGb7iK
JzwYIgKDve8Ka06baiT/h55J6UQ+q/Qrkox6K5IFO/RrYgMwqH9HdVaDIvW2c4Eo
GX89HoIRdyE3xGSeLvn256MHQ37w45xyLoi77cfMzSLKQ8hWTv90f3GGzrUaMxpz
0EBxR8Go6HMRVEx8z3uYItv0UCqRujtznMGnHvM4dqEbTA3Ue45kaBJuM953iBJx
q6L8H6CM9na+sM0D/cYkPMdEK29q5cnrOdq82YetsNHi3oHU4qVVvGV0/vefDcaG
HO+ekVOXZsnJDWzvWWPOBFdHn6W8b/iR3C9uLVzqalDffukNMxkEkP80OLzVa5fw
8Qfr1WwS2ow3s1y90kHzKmBG5UWp6/I6LlidRY0CyWz2CQE38CEFKMc7g1vM9AB0
0SxU62rH0yq4rOKf+hibcs/23ra15MLWM9WuXA9t8drgv5fbz4HYJTTclWe6oWWc
tWQM5jyGGzrN9Kli54KHQstb6I7IkZ7au8hX7WwlyRCTqyIqLCqrVgMUN+uVVMJz
lJhkP4h1W25Ul5cx+gOBMb/WLHL2HiGVMK0FG+DgRKhwTltY+0GGo8M3S5msxFjD
PBBL2KBNKJTdWXLkB0HbarqIe4i+zyk3vTEShsjFErOLvDTp3yRiYh9ilt3ply9K
SruvAXlyASdMsw/z4dUOLjuvrpL/1JWWkJkV8GefqiEmTxjmFWiPYuodfE1D33rf
vaWpTpPcImBOP6vQT3umicj9Vah9skJw+3mWycLB9WLO6Ed85iqQ4MWEXyWl4Czk
PAnnbk8H0Sqw9/D+1W+tsvlPDHua7Q5FSJ0i9BDCePu7RBiCZ6lix49YwCQsG9WS
GogGHVSoRcdrpINBEDoZ0eLiWdlgfpv0Rld4JeaOjJpKnGfaPdyTJDNuaWGN5slh
3Q8i/sq3aTur0togn7XFfzwToTDuoBMhVBp0NgBmYwbEC1zDGn4OWqThila1RSAb
-----END RSA PRIVATE KEY-----
"""
"""Made by `openssl genrsa -traditional -aes256`; its passphrase is "golden"."""


@cache
def cipher(algorithm: str = "") -> DataCipher:
    """One key for all tests: making one takes a while."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    return DataCipher(pem.decode(), algorithm=algorithm)


def on_s3(path: Path) -> Bucket:
    """A bucket of the S3 server that all tests share."""
    server = s3_server.shared_server()
    return open_bucket("s3", server.address(server.new_bucket()), s3_server.access(sum_unit=UNIT))


def on_sftp(path: Path, folder: str = "{}/") -> Bucket:
    """A directory, or a prefix of names, of the SFTP server that all tests share."""
    server = rclone_server.shared_sftp()
    return open_bucket("sftp", server.address(folder.format(server.new_folder())), rclone_server.escaped())


def on_webdav(path: Path) -> Bucket:
    """A folder of the WebDAV server that all tests share."""
    server = rclone_server.shared_webdav()
    return open_bucket("webdav", f"{server.url}/{server.new_folder()}", rclone_server.access())


MAKERS: dict[str, Maker] = {
    "mem": lambda path: open_bucket("mem", ""),
    "file": lambda path: open_bucket("file", f"{path}/objects/"),
    "file, plain prefix": lambda path: open_bucket("file", f"{path}/obj-"),
    "prefix on mem": lambda path: with_prefix(MemBucket(), "vol/"),
    "prefix on file": lambda path: with_prefix(open_bucket("file", f"{path}/"), "vol/"),
    "shards": lambda path: open_bucket("file", f"{path}/shard%d/", shards=3),
    "encrypted": lambda path: EncryptedBucket(with_prefix(MemBucket(), "vol/"), cipher()),
    "s3": on_s3,
    "prefix on s3": lambda path: with_prefix(on_s3(path), "vol/"),
    "cos": lambda path: cos_server.shared_server().open(sum_unit=UNIT),
    "oss": lambda path: oss_server.shared_server().open(sum_unit=UNIT),
    "sftp": on_sftp,
    "sftp, plain prefix": lambda path: on_sftp(path, "./{}/obj-"),
    "webdav": on_webdav,
    "redis": lambda path: open_bucket("redis", redis_server.shared().url()),
    "sqlite3": lambda path: open_bucket("sqlite3", f"{path}/objects.db"),
}
PAGED = [name for name in MAKERS if name != "shards"]
"""Those that can list page by page."""
