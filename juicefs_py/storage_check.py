"""Does a volume's storage work? A test object is written, read back and deleted before anything depends on it.

Also the other questions that `format` has about a storage: is it empty, and what is it called.
"""

from __future__ import annotations

import contextlib
import os
import random
import string
import time
from collections.abc import Iterator

from chunkstore.bucket import Bucket, Tier
from chunkstore.buckets.encrypted import EncryptedBucket
from chunkstore.buckets.prefix import PrefixBucket
from chunkstore.errors import BadBucket, ChecksumMismatch, Damaged, Denied, NotFound, StoreError
from juicefs_py import storage
from juicefs_py.cli import log
from juicefs_py.cli.errors import Fatal
from juicefs_py.storage import for_this_client
from meta.setting import Setting

_SIZE = 100
_WAITS_S = (1, 4, 7)
_FOLDER = "testing/"
_UUID_KEY = "juicefs_uuid"


def volume_bucket(setting: Setting) -> Bucket:
    """The volume's own part of its bucket, or Fatal. Secrets of the setting must be in clear."""
    try:
        return storage.volume_bucket(setting)
    except StoreError as error:
        raise Fatal(f"object storage: {error}") from None


def check_storage(bucket: Bucket, tier: int = 0) -> None:
    """Try the storage as objects of a tier use it, several times unless waiting cannot help. Fatal if it fails."""
    for attempt, wait in enumerate(_WAITS_S, 1):
        try:
            _try_object(bucket, tier)
            return
        except StoreError as error:
            if error.final or attempt == len(_WAITS_S):
                raise Fatal(f"Storage {bucket.describe()} is not configured correctly: {error}") from None
            log.LOG.warning("Test storage %s failed: %s, tries: #%d", bucket.describe(), error, attempt)
            time.sleep(wait)


def _try_object(bucket: Bucket, tier: int) -> None:
    key = _FOLDER + "".join(random.choices(string.ascii_letters + string.digits, k=10))
    data = os.urandom(_SIZE)
    _put_first(bucket, key, data, tier)
    try:
        if _read_back(bucket, key, data, tier) != data:
            raise Damaged(f"object {key} was read back different from what was written")
    finally:
        try:
            bucket.delete(key)
            bucket.delete(_FOLDER)
        except StoreError as error:
            log.LOG.warning("Delete object %s: %s", key, error)


def _read_back(bucket: Bucket, key: str, data: bytes, tier: int) -> bytes:
    """What the object holds now. What lies in an archive cannot be read; that it could be written must do."""
    try:
        return bucket.get(key)
    except StoreError as error:
        if tier and error.final and not isinstance(error, NotFound):
            log.LOG.info("an object of tier %d is not readable at once: %s", tier, error)
            return data
        raise


def _put_first(bucket: Bucket, key: str, data: bytes, tier: int) -> None:
    """Write an object to a bucket that has perhaps to be created."""
    try:
        bucket.put(key, data, tier)
    except Denied:
        raise
    except StoreError as error:
        try:
            bucket.create()
        except StoreError:
            if isinstance(error, BadBucket):  # there is none, and this is why there will be none
                raise
            raise error from None
        bucket.put(key, data, tier)


def refuse_used(bucket: Bucket) -> None:
    """A new volume must not mix its objects with anybody else's."""
    try:
        for item in bucket.list_all():
            if not item.is_dir and item.size and item.key != "testing" and not item.key.startswith(_FOLDER):
                raise Fatal(f"Storage {bucket.describe()} is not empty; please clean it up or pick another volume name")
    except StoreError as error:
        raise Fatal(f"List storage {bucket.describe()}: {error}") from None


def refuse_missing(bucket: Bucket, setting: Setting) -> None:
    """For a volume that has stored data: a local bucket that is not there would be made anew, far from that data."""
    if setting.storage != "file" or setting.shards > 1:
        return
    try:
        bucket.head("")
    except NotFound:
        raise Fatal(
            f"Storage {bucket.describe()} is missing, but the volume has data in it: is its disk mounted? "
            "Create that directory if you really want to begin with an empty one"
        ) from None
    except StoreError as error:
        raise Fatal(f"Storage {bucket.describe()} cannot be used: {error}") from None


def mark(bucket: Bucket, uuid: str) -> None:
    """Leave the volume's UUID in its storage, for people who find the objects."""
    try:
        bucket.put(_UUID_KEY, uuid.encode())
    except StoreError as error:
        log.LOG.warning("Put uuid object: %s", error)


def unmark(bucket: Bucket) -> None:
    """Take the mark back: the volume did not come to be."""
    try:
        bucket.delete(_UUID_KEY)
    except StoreError as error:
        log.LOG.warning("Delete uuid object: %s", error)


def absolute_bucket(storage: str, bucket: str) -> str:
    """A local bucket must mean the same from every directory. Settings are UTF-8, and so must be what they name."""
    try:
        bucket.encode()
    except UnicodeEncodeError:
        raise Fatal(f'the name of bucket "{bucket}" is not UTF-8; choose another one') from None
    if storage == "file":
        return os.path.abspath(os.path.expanduser(bucket.removeprefix("file://"))).rstrip("/") + "/"
    return os.path.abspath(bucket) if storage == "sqlite3" else bucket


@contextlib.contextmanager
def nothing_left_of_a_failure(bucket: Bucket) -> Iterator[None]:
    """Take back the directories that were made for a volume, if what is done inside fails. Only empty ones go."""
    whole = bucket
    while isinstance(whole, PrefixBucket | EncryptedBucket):
        whole = whole.inner
    made = [each for each in (bucket, whole) if not _is_there(each)]
    try:
        yield
    except BaseException:
        for each in made:
            for key in (_FOLDER, ""):
                with contextlib.suppress(StoreError):
                    each.delete(key)
        raise


def _is_there(bucket: Bucket) -> bool:
    try:
        bucket.head("")
    except NotFound:
        return False
    except StoreError:
        pass  # who knows
    return True


def refuse_unusable(bucket: Bucket) -> None:
    """One question to the storage before a mount depends on it: wrong keys and wrong addresses show at once.

    A GET, since the answer to a HEAD has no words. Of an encrypted volume it also tries the key.
    """
    try:
        bucket.get(_UUID_KEY)
    except NotFound:
        return
    except StoreError as error:
        wrong_key = isinstance(error, Damaged) and not isinstance(error, ChecksumMismatch)
        if error.final or wrong_key:
            raise Fatal(f"Storage {bucket.describe()} cannot be used: {error}") from None
        log.LOG.warning("Storage %s does not answer well, mounting all the same: %s", bucket.describe(), error)


def overridden(setting: Setting, storage: str, bucket: str, tier: Tier | None = None) -> Setting:
    """The setting with another storage, address or class of objects for this client only."""
    if bucket:
        bucket = absolute_bucket((storage or setting.storage).lower(), bucket)
    return for_this_client(setting, storage, bucket, tier)
