"""`juicefs objbench`: try an object storage out, and measure it. Everything is done below a prefix that goes again.

Not here: the tests and the measurements (`juicefs_py.objbench`).
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from juicefs_py.cli import log
from juicefs_py.cli.args import Command, Option, Values
from juicefs_py.cli.errors import Fatal
from juicefs_py.cli.progress import Progress
from juicefs_py.cli.prompt import confirmed, warn
from juicefs_py.cli.sizes import ibytes

if TYPE_CHECKING:
    from chunkstore.bucket import Bucket
    from juicefs_py.objbench.local import LocalFiles
    from juicefs_py.objbench.speed import Load
    from juicefs_py.objbench.stopping import Stopping

_SIZES = ("block-size", "big-object-size", "small-object-size")
_KEYS = ("access-key", "secret-key", "session-token")


def _run(values: Values) -> int:
    from chunkstore.buckets import with_prefix
    from chunkstore.errors import StoreError
    from juicefs_py.objbench.local import LocalFiles, removed_afterwards
    from juicefs_py.objbench.stopping import stopping

    load = _load(values)
    storage, address = _place(values)
    try:
        whole = _open(values, storage, address, load.threads)
    except StoreError as error:
        raise Fatal(f"create storage failed: {error}") from None
    prefix = f"__juicefs_benchmark_{time.time_ns()}__/"
    folders = _folders(storage, address, values.number("shards"))
    files = LocalFiles(folders[0] + prefix) if len(folders) == 1 else None
    with (
        stopping() as stop, contextlib.closing(whole), removed_afterwards(folders, prefix), _cleaned(whole, prefix),
    ):  # fmt: skip
        if values.flag("skip-functional-tests"):
            _ensure(with_prefix(whole, prefix))
        else:
            _test(whole, prefix, files, values, stop)
        _measure(with_prefix(whole, prefix), load, files, values, stop)
    return 0


def _load(values: Values) -> Load:
    from juicefs_py.objbench.speed import Load

    for name in ("small-objects", "threads"):
        if values.number(name) == 0:
            raise Fatal(f"{name} should not be set to zero")
    block, big, small = map(values.size, _SIZES)
    if not block or not big or not small:
        raise Fatal(f"{_SIZES[0]}, {_SIZES[1]} and {_SIZES[2]} should not be zero")
    smalls, blocks, threads = values.number("small-objects"), -(-big // block), values.number("threads")
    if threads > min(smalls, blocks):
        threads = min(smalls, blocks)
        log.LOG.warning("The number of threads was set too large and has been reduced to %d", threads)
    return Load(block, blocks, small, smalls, threads)


def _place(values: Values) -> tuple[str, str]:
    """Name of the storage, and the address in it."""
    from juicefs_py.storage_check import absolute_bucket

    storage, address = values.text("storage").lower(), values.positionals[0]
    if storage == "file" and "://" in address:
        warn(f'"{address}" looks like an address and not like a local directory.')
        warn("Use the option `--storage` to say which kind of storage it is.")
        if not confirmed():
            raise Fatal("Aborted")
    return storage, absolute_bucket(storage, address)


def _folders(storage: str, address: str, shards: int) -> list[str]:
    """The local directories that the objects lie in; none for other storages."""
    if storage != "file":
        return []
    if shards <= 1:
        return [address]
    from chunkstore.buckets.sharded import shard_addresses

    return shard_addresses(address, shards)


def _open(values: Values, storage: str, address: str, threads: int) -> Bucket:
    from chunkstore.bucket import Access, Tier
    from chunkstore.buckets import open_bucket

    access_key, secret_key, token = (
        values.text(name) or os.environ.get(name.upper().replace("-", "_"), "") for name in _KEYS
    )
    tiers = {0: Tier(values.text("storage-class"))}
    access = Access(access_key, secret_key, token, tiers, connections=threads)
    return open_bucket(storage, address, access, values.number("shards"))


def _ensure(bucket: Bucket) -> None:
    from chunkstore.errors import StoreError
    from juicefs_py.objbench.cases import ensure

    try:
        ensure(bucket)
    except StoreError as error:
        raise Fatal(f"can't create bucket: {error}") from None


def _test(whole: Bucket, prefix: str, files: LocalFiles | None, values: Values, stop: Stopping) -> None:
    from juicefs_py.objbench import table
    from juicefs_py.objbench.functional import all_tests, try_out

    print("Start Functional Testing ...", flush=True)
    tests, results = all_tests(whole, prefix, files), []
    with Progress(quiet=values.flag("quiet")) as progress:
        bar = progress.bar("functional tests", len(tests))
        for test in tests:
            stop.check()
            results.append(try_out(test))
            bar.advance()
    print(table.of_tests(results, _colourful(values)))
    print(flush=True)


def _measure(bucket: Bucket, load: Load, files: LocalFiles | None, values: Values, stop: Stopping) -> None:
    from juicefs_py.objbench import table
    from juicefs_py.objbench.speed import Speed

    print("Start Performance Testing ...", flush=True)
    with Progress(quiet=values.flag("quiet")) as progress:
        measured = list(Speed(bucket, load, files, progress, stop).run())
    print(
        f"Benchmark finished! block-size: {ibytes(load.block_size)}, "
        f"big-object-size: {ibytes(values.size('big-object-size'))}, small-object-size: {ibytes(load.small_size)}, "
        f"small-objects: {load.smalls}, NumThreads: {load.threads}"
    )
    print(table.of_speed(measured, load, _colourful(values)), flush=True)


def _colourful(values: Values) -> bool:
    return sys.stdout.isatty() and not values.flag("no-color")


@contextlib.contextmanager
def _cleaned(whole: Bucket, prefix: str) -> Iterator[None]:
    """Afterwards there is no object below the prefix, whatever happens inside."""
    from chunkstore.buckets import with_prefix
    from chunkstore.errors import StoreError

    try:
        yield
    finally:
        bucket = with_prefix(whole, prefix)
        try:
            failed = bucket.delete_many([each.key for each in bucket.list_all()])
            for key, error in failed.items():
                log.LOG.warning("%s is left behind: %s", prefix + key, error)
            with contextlib.suppress(StoreError):
                whole.delete(prefix)  # some stores keep a directory
        except StoreError as error:
            log.LOG.warning("What may be left below %s cannot be removed: %s", bucket.describe(), error)


COMMAND = Command(
    "objbench", "Run benchmarks on an object storage", "ENDPOINT", "TOOL",
    "Try out whether an object storage does what volumes need, and measure how fast it is.\n\n"
    "Examples:\n# A local directory\n$ juicefs objbench /mnt/disk\n\n"
    "# An S3 bucket, by six threads\n"
    "$ ACCESS_KEY=myAccessKey SECRET_KEY=mySecretKey juicefs objbench --storage s3 "
    "https://mybucket.s3.us-east-2.amazonaws.com -p 6",
    (
        Option(("storage",), "string", "file", "object storage type (e.g. file, s3, oss, cos)"),
        Option(("access-key",), "string", "", "access key for object storage (env ACCESS_KEY)"),
        Option(("secret-key",), "string", "", "secret key for object storage (env SECRET_KEY)"),
        Option(("session-token",), "string", "", "session token for object storage (env SESSION_TOKEN)"),
        Option(("shards",), "int", "0", "spread the objects over N buckets by hash of key"),
        Option(("block-size",), "size", "4M", "size of each big object in KiB", unit="K"),
        Option(("big-object-size",), "size", "1G", "size of all big objects together in MiB"),
        Option(("small-object-size",), "size", "128K", "size of each small object in KiB", unit="K"),
        Option(("small-objects",), "uint", "100", "number of small objects"),
        Option(("skip-functional-tests",), "bool", "", "skip functional tests"),
        Option(("threads", "p"), "uint", "4", "number of concurrent threads"),
        Option(("storage-class", "sc"), "string", "", "storage class of the objects"),
    ),
    1, 1, _run,
)  # fmt: skip
