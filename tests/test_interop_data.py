"""Data beside an official client: objects in every form and cache files, written by one and read by the other."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import s3_server
from buckets import KEY
from go_client import UNCACHED, GoMount, go_format, is_old
from mounts import Mount, Volume, juicefs, wait_for_uploads
from needs import need_fuse

pytestmark = pytest.mark.battery

SIZES = (1, 5000, 65_536, 4 << 20, (9 << 20) + 77)


def files(seed: int) -> dict[str, bytes]:
    """Content that compresses well in places, and not at all in others."""
    made = {}
    for number, size in enumerate(SIZES):
        noise = os.urandom(size // 2)
        made[f"f{number}"] = noise + (b"%d plain %d " % (seed, number) * size)[: size - len(noise)]
    return made


def fill(root: Path, seed: int) -> dict[str, bytes]:
    made = files(seed)
    for name, data in made.items():
        (root / name).write_bytes(data)
    return made


def read(root: Path, names: dict[str, bytes]) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in names}


def s3_options(scheme: str = "s3") -> tuple[str, ...]:
    server = s3_server.shared_server()
    return (
        "--storage", scheme, "--bucket", server.address(server.new_bucket()), "--access-key", s3_server.ACCESS_KEY,
        "--secret-key", s3_server.SECRET_KEY,
    )  # fmt: skip


FORMS: dict[str, Callable[[Path], tuple[str, ...]]] = {
    "lz4": lambda path: ("--compress", "lz4"),
    "zstd, small blocks": lambda path: ("--compress", "zstd", "--block-size", "64"),
    "encrypted": lambda path: ("--encrypt-rsa-key", str(key_file(path))),
    "encrypted lz4": lambda path: ("--encrypt-rsa-key", str(key_file(path)), "--compress", "lz4"),
    "shards": lambda path: ("--bucket", f"{path}/shard%d/", "--shards", "3"),
    "s3": lambda path: s3_options(),
    "minio, zstd": lambda path: (*s3_options("minio"), "--compress", "zstd"),
}
NEWER: dict[str, Callable[[Path], tuple[str, ...]]] = {
    "hash prefix": lambda path: ("--hash-prefix",),
    "chacha20": lambda path: ("--encrypt-rsa-key", str(key_file(path)), "--encrypt-algo", "chacha20-rsa"),
    "encrypted s3": lambda path: (*s3_options(), "--encrypt-rsa-key", str(key_file(path))),
}
"""What 0.14 does not know."""
SECRETS = re.compile("s3|minio|encrypted")
"""Their secrets are encrypted in the setting when ours makes it, which 0.14 does not know either."""


def key_file(path: Path) -> Path:
    file = path / "key.pem"
    file.write_text(KEY)
    return file


@pytest.fixture(autouse=True)
def passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    need_fuse()
    monkeypatch.setenv("JFS_RSA_PASSPHRASE", "golden")


@pytest.mark.parametrize("maker", ["go", "ours"])
@pytest.mark.parametrize("form", [*FORMS, *NEWER])
def test_objects_of_one_are_read_by_the_other(scratch: Path, form: str, maker: str) -> None:
    if is_old() and (form in NEWER or (maker == "ours" and SECRETS.search(form))):
        pytest.skip("0.14 knows no such volumes; JFS_TEST_GO names a newer client")
    options = (FORMS | NEWER)[form](scratch)
    volume = Volume(scratch / "vol", "redis")
    if maker == "go":
        go_format(volume, *options)
    else:
        volume.format_options += options
        volume.format()
        if is_old():
            juicefs("config", volume.url, "--dir-stats=false")
    ours, go = Mount(volume, scratch / "ours", UNCACHED), GoMount(volume, scratch / "go", UNCACHED)
    ours.start()
    go.start()
    try:
        (ours.path / "a").mkdir()
        (ours.path / "b").mkdir()
        of_ours, of_go = fill(ours.path / "a", 1), fill(go.path / "b", 2)
        assert read(go.path / "a", of_ours) == of_ours
        assert read(ours.path / "b", of_go) == of_go
    finally:
        ours.stop()
        go.stop()


def wait_until_cached(cache: Path, blocks: int) -> None:
    """Blocks come to the disk a moment after they were read."""
    deadline = time.monotonic() + 20
    while len([path for path in cache.glob("*/raw/chunks/*/*/*") if path.suffix != ".tmp"]) < blocks:
        assert time.monotonic() < deadline, "the blocks are not cached"
        time.sleep(0.05)


@pytest.mark.parametrize("writer", ["go", "ours"])
@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_cache_files_of_one_are_read_by_the_other(scratch: Path, writer: str, compression: str) -> None:
    """The objects are taken away: what is read can only come from the cache directory that both have used."""
    volume = Volume(scratch / "vol", "redis")
    volume.format_options += ("--compress", compression)
    volume.format()
    if is_old():
        juicefs("config", volume.url, "--dir-stats=false")
    shared = ("--cache-dir", str(scratch / "shared"), "--free-space-ratio", "0.01")
    ours, go = Mount(volume, scratch / "ours", shared), GoMount(volume, scratch / "go", shared)
    first, second = (go, ours) if writer == "go" else (ours, go)
    first.start()
    try:
        made = fill(first.path, 3)
    finally:
        first.stop()
    first.start()
    try:
        for name in made:  # into the cache, whatever writing has left there
            with open(first.path / name, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                file.read()
        wait_until_cached(scratch / "shared", sum(-(-size // (4 << 20)) for size in SIZES))
    finally:
        first.stop()
    shutil.rmtree(volume.bucket / volume.name / "chunks")
    (volume.bucket / volume.name / "chunks").mkdir()
    second.start()
    try:
        assert read(second.path, made) == made
    finally:
        second.stop()


@pytest.mark.parametrize("writer", ["go", "ours"])
def test_staged_blocks_of_one_are_uploaded_by_the_other(scratch: Path, writer: str) -> None:
    volume = Volume(scratch / "vol", "redis").format()
    if is_old():
        juicefs("config", volume.url, "--dir-stats=false")
    shared = ("--cache-dir", str(scratch / "shared"), "--free-space-ratio", "0.01", "--writeback")
    delayed = (*shared, "--upload-delay", "3600") if writer == "ours" or not is_old() else shared
    ours, go = Mount(volume, scratch / "ours", delayed), GoMount(volume, scratch / "go", delayed)
    first, second = (go, ours) if writer == "go" else (ours, go)
    if writer == "ours":
        ours.expected.append("are not uploaded yet; mount this volume again")
    first.start()
    try:
        made = fill(first.path, 4)
        subprocess.run(["sync", "-f", str(first.path)], check=True)
    finally:
        first.stop()
    second.options = shared
    second.start()
    try:
        assert read(second.path, made) == made
        wait_for_uploads(scratch / "shared")
    finally:
        second.stop()
    elsewhere = Mount(volume, scratch / "elsewhere", ("--cache-dir", str(scratch / "cold")))
    elsewhere.start()
    try:
        assert read(elsewhere.path, made) == made
    finally:
        elsewhere.stop()
