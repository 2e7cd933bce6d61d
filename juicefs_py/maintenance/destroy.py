"""The end of a volume: who still uses it, and deleting all its objects. The metadata goes last, by the caller.

What is interrupted may be run again: as long as there is metadata, the volume is there to be destroyed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from chunkstore.bucket import Bucket, ObjectInfo
from chunkstore.errors import Unsupported
from juicefs_py.cli.progress import Progress
from juicefs_py.maintenance.parallel import results
from juicefs_py.storage import volume_bucket
from meta.client import MetaClient
from meta.jobs import clean_sessions
from meta.setting import Setting
from meta.transaction import SessionRecord

log = logging.getLogger(__name__)

THREADS = 8
_TOGETHER = 100  # objects that one thread deletes at a time


def living_sessions(meta: MetaClient) -> list[SessionRecord]:
    """Clients that use the volume, once those that died are undone."""
    clean_sessions(meta.vol, meta.deleter, lambda: False)
    return meta.engine.sessions()


def bucket_to_delete(setting: Setting) -> Bucket:
    """The volume's bucket. Deleting takes no key, so an encrypted one needs no passphrase."""
    return volume_bucket(replace(setting, encrypt_key=""))


class Deletion:
    """Deleting everything in a bucket. `deleted` and `failed` count objects; directories are deleted, not counted."""

    def __init__(self, bucket: Bucket, progress: Progress) -> None:
        self._bucket = bucket
        self._spinner = progress.spinner("Deleted objects")
        self.failed = 0

    @property
    def deleted(self) -> int:
        return self._spinner.count

    def run(self) -> None:
        """Delete all objects, then the directories that a store of files has, innermost first.

        Raises `StoreError` if they cannot be listed; what cannot be deleted is told and counted.
        """
        self._delete_all(info.key for info in self._bucket.list_all() if not info.is_dir)
        try:
            self._delete_folders("")
        except Unsupported:  # shards cannot list folders: where they are directories, these stay, empty
            return
        self._delete_folder("")  # the volume's own

    def _delete_all(self, keys: Iterator[str]) -> None:
        batches = iter(lambda: list(islice(keys, _TOGETHER)), [])
        for count, failed in results(self._delete, batches, THREADS):
            self._spinner.advance(count - len(failed), len(failed))
            self.failed += len(failed)
            for key, problem in failed.items():
                log.warning("delete %s: %s", key, problem)

    def _delete(self, keys: list[str]) -> tuple[int, dict[str, Exception]]:
        return len(keys), self._bucket.delete_many(keys)

    def _delete_folders(self, above: str) -> None:
        for info in self._listed(above):
            if not info.is_dir or info.key == above:
                continue
            self._delete_folders(info.key)
            self._delete_folder(info.key)

    def _delete_folder(self, key: str) -> None:
        for problem in self._bucket.delete_many([key]).values():
            self.failed += 1
            log.warning("delete %s: %s", key or "the directory of the volume", problem)

    def _listed(self, above: str) -> Iterator[ObjectInfo]:
        """What lies directly in a folder."""
        after, more = "", True
        while more:
            page, more = self._bucket.list(above, after, delimiter="/")
            yield from page
            after = page[-1].key if page else ""
            more = more and bool(page)
