"""A mount with objects on an S3 server behind a line that fails: what fsync acknowledged is right, the mount lives."""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import s3_server
from buckets import KEY
from http_faults import Faults, FaultyHTTP
from mounts import Mount, Volume, juicefs, wait_for_uploads
from needs import need_fuse

pytestmark = pytest.mark.battery

QUIET = (r"tried \d+ times of", "is tried again", "cannot delete", "does not answer", "cache-size is 0")
"""Complaints that faults provoke, and that are right."""


@pytest.fixture
def line() -> Iterator[FaultyHTTP]:
    proxy = FaultyHTTP(s3_server.shared_server().port)
    yield proxy
    proxy.close()


@pytest.fixture
def on_s3(scratch: Path, line: FaultyHTTP, new_mount: Callable[..., Mount]) -> Callable[..., Mount]:
    """on_s3(*mount options, format=(...)): a volume on a bucket of its own behind the line, mounted."""
    need_fuse()

    def make(*options: str, format: tuple[str, ...] = ()) -> Mount:
        words = (
            "--trash-days", "0", "--storage", "s3", "--bucket", f"{line.url}/{s3_server.shared_server().new_bucket()}",
            "--access-key", s3_server.ACCESS_KEY, "--secret-key", s3_server.SECRET_KEY, *format,
        )  # fmt: skip
        mount = new_mount(volume=Volume(scratch / "vol", format_options=words).format(), options=options)
        mount.expected += QUIET
        return mount

    return make


def write_synced(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def drop_page_cache(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


LINES = {
    "errors": Faults(error=0.05),
    "cut and changed": Faults(cut=0.05, flip=0.05, flip_up=0.05),
    "resets and lost answers": Faults(reset=0.05, lost_answer=0.05),
    "slow down": Faults(slow_down=0.3),
    "slow line": Faults(bytes_per_s=1e6),
}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("faults", LINES.values(), ids=list(LINES))
def test_files_written_under_faults(on_s3: Callable[..., Mount], line: FaultyHTTP, faults: Faults) -> None:
    mount = on_s3("--cache-size", "0", "--buffer-size", "64")
    line.faults = faults
    rng = random.Random(5)
    size = 500_000 if faults.bytes_per_s else 3_000_000
    contents = {f"f{number}": rng.randbytes(rng.randrange(1, size)) for number in range(8)}
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda item: write_synced(mount.path / item[0], item[1]), contents.items()))
    most = mount.rss_bytes()
    for name, data in contents.items():
        drop_page_cache(mount.path / name)
        try:
            assert (mount.path / name).read_bytes() == data
        except OSError as error:  # allowed while the line is bad: no data, but never wrong data
            print(name, error)
    line.faults = Faults()
    for name, data in contents.items():
        drop_page_cache(mount.path / name)
        assert (mount.path / name).read_bytes() == data
    print(f"{line.counts}, {max(most, mount.rss_bytes()) >> 20} MiB resident")
    assert max(most, mount.rss_bytes()) < (80 + 64 + 60) << 20  # two processes, and boto3


@pytest.mark.timeout(240)
@pytest.mark.parametrize("options", [(), ("--writeback",)], ids=["through", "staged"])
def test_an_outage(
    on_s3: Callable[..., Mount],
    line: FaultyHTTP,
    options: tuple[str, ...],
    long_run: bool,
    new_mount: Callable[..., Mount],
    scratch: Path,
) -> None:
    mount = on_s3(*options)
    seconds = 30 if long_run else 4
    line.faults = Faults(outage=True)
    threading.Timer(seconds, lambda: setattr(line, "faults", Faults())).start()
    data = random.Random(6).randbytes(9_000_000)
    started = time.monotonic()
    write_synced(mount.path / "f", data)
    took = time.monotonic() - started
    print(f"fsync took {took:.1f} s of an outage of {seconds} s")
    assert (took < seconds) == bool(options)
    drop_page_cache(mount.path / "f")
    assert hashlib.sha256((mount.path / "f").read_bytes()).digest() == hashlib.sha256(data).digest()
    (mount.path / "g").write_bytes(b"the mount lives")
    if options:
        mount.expected.append("are not uploaded yet; mount this volume again")
        mount.stop()  # in the middle of the outage
        time.sleep(max(0.0, seconds - (time.monotonic() - started)))
        mount.start()
        wait_for_uploads(mount.volume.cache)
    other = new_mount(volume=mount.volume, options=("--cache-dir", str(scratch / "cold"), "--read-only"))
    assert (other.path / "f").read_bytes() == data and (other.path / "g").read_bytes() == b"the mount lives"


def test_an_encrypted_and_compressed_volume(
    on_s3: Callable[..., Mount], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key.pem"
    key.write_text(KEY)
    monkeypatch.setenv("JFS_RSA_PASSPHRASE", "golden")
    mount = on_s3("--cache-size", "0", format=("--encrypt-rsa-key", str(key), "--compress", "lz4"))
    data = b"plain text " * 500_000
    write_synced(mount.path / "f", data)
    drop_page_cache(mount.path / "f")
    assert (mount.path / "f").read_bytes() == data
    objects = [path for path in s3_server.shared_server().root.rglob("*_*_*") if path.is_file()]
    assert objects and all(b"plain text" not in path.read_bytes() for path in objects)


def test_new_keys_are_used_without_a_new_mount(on_s3: Callable[..., Mount], line: FaultyHTTP) -> None:
    """What `juicefs config` changes of the storage reaches a mount with its next heartbeat."""
    mount = on_s3("--heartbeat", "1s", "--cache-size", "0")
    write_synced(mount.path / "before", b"1")
    other = FaultyHTTP(s3_server.shared_server().port)
    try:
        bucket = next(word for word in mount.volume.format_options if word.startswith(line.url))
        juicefs("config", mount.volume.url, "--bucket", bucket.replace(line.url, other.url), "--yes")
        mount.expected.append("the volume's storage was changed")
        deadline = time.monotonic() + 20
        number = 0
        while "PUT" not in other.counts.by_method:
            write_synced(mount.path / f"after{(number := number + 1)}", b"2")
            assert time.monotonic() < deadline, "the mount still writes to the old address"
            time.sleep(0.3)
        assert (mount.path / "before").read_bytes() == b"1"
    finally:
        mount.stop()
        other.close()
