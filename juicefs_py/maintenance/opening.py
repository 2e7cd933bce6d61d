"""Opening a volume to look after it: metadata client and chunk store, without a session and without a cache.

Not for mounts (`juicefs_py.volume`). Nobody is told that we are there: no session record, no heartbeat, no jobs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from chunkstore.bucket import Bucket
from chunkstore.store import ChunkStore
from juicefs_py.cli import log
from juicefs_py.cli.connect import connect, load_setting
from juicefs_py.cli.errors import Fatal
from juicefs_py.volume import open_store, plain_store_config
from meta.client import MetaClient
from meta.config import MetaConfig


class Opened(NamedTuple):
    """A volume in the hands of a command."""

    meta: MetaClient
    store: ChunkStore

    @property
    def bucket(self) -> Bucket:
        return self.store.bucket


@contextmanager
def opened_metadata(url: str, *, writing: bool = False, deletes: int = 0, logged: bool = True) -> Iterator[MetaClient]:
    """The metadata of a volume for the length of a `with`; its data are left alone.

    `logged`: what is written belongs into the volume's change log, if it has one (which we cannot write).
    """
    engine = connect(url, read_only=not writing)
    try:
        setting = load_setting(engine, url)
        if writing and logged and setting.change_log:
            raise Fatal("the volume keeps a change log, which this client cannot write; use the official client")
        meta = MetaClient(engine, MetaConfig(read_only=not writing, no_bgjob=True, max_deletes=deletes))
        meta.load()
        if writing:
            engine.prepare()
        try:
            yield meta
        finally:
            meta.close_session()
    finally:
        engine.close()


@contextmanager
def opened(url: str, *, writing: bool, deletes: int = 0) -> Iterator[Opened]:
    """The volume for the length of a `with`. `deletes`: how many objects may be deleted at a time."""
    with opened_metadata(url, writing=writing, deletes=deletes) as meta:
        store = open_store(meta.setting, plain_store_config(meta.setting))
        log.LOG.info("Data use %s", store.bucket.describe())
        try:
            yield Opened(meta, store)
        finally:
            meta.close_session()
            store.close()
