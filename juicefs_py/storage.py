"""From a volume's setting to its bucket: address, keys, storage classes, encryption. Nothing is asked of it yet.

Layers, from the outside: encryption, the volume's prefix `{name}/`, shards, the driver.
"""

from __future__ import annotations

import os
from dataclasses import replace

from chunkstore.bucket import Access, Bucket, Tier
from chunkstore.buckets import open_bucket, with_prefix
from chunkstore.config import StoreConfig
from chunkstore.sums import unit_for
from meta.setting import Setting

_OF_STORAGE = (
    "storage", "bucket", "access_key", "secret_key", "session_token", "shards", "tiers", "encrypt_key", "encrypt_algo",
)  # fmt: skip


def volume_bucket(setting: Setting, config: StoreConfig | None = None) -> Bucket:
    """The volume's own part of its bucket; keys are relative to the volume. Raises StoreError.

    The setting's secrets must be in clear. `config` tells how many requests there may be at once, and how long they may
    take.
    """
    whole = open_bucket(setting.storage, setting.bucket, access(setting, config or StoreConfig()), setting.shards)
    bucket = with_prefix(whole, f"{setting.name}/")
    if not setting.encrypt_key:
        return bucket
    from chunkstore.buckets.encrypted import EncryptedBucket
    from chunkstore.crypt import PASSPHRASE, DataCipher

    cipher = DataCipher(setting.encrypt_key, os.environ.get(PASSPHRASE, ""), setting.encrypt_algo)
    return EncryptedBucket(bucket, cipher)


def access(setting: Setting, config: StoreConfig) -> Access:
    """How the storage of a volume is reached."""
    in_parts = not setting.encrypt_key and setting.compression.lower() in ("", "none")
    return Access(
        access_key=setting.access_key,
        secret_key=setting.secret_key,
        token=setting.session_token,
        tiers={number: Tier(each.storage_class, each.tag) for number, each in setting.tiers.items()},
        connections=config.max_uploads + config.max_downloads,
        timeout_s=max(config.get_timeout_s, config.put_timeout_s),
        block_size=setting.block_size << 10,
        sum_unit=unit_for(setting.block_size << 10) if in_parts else 0,
    )


def same_storage(one: Setting, other: Setting) -> bool:
    """Whether both settings, in clear, lead to the same bucket by the same keys."""
    return all(getattr(one, name) == getattr(other, name) for name in _OF_STORAGE)


def for_this_client(setting: Setting, storage: str = "", bucket: str = "", tier: Tier | None = None) -> Setting:
    """The setting with another storage, address or class of new objects, where these are given."""
    changed = replace(setting, storage=(storage or setting.storage).lower(), bucket=bucket or setting.bucket)
    if tier is None:
        return changed
    from meta.setting import Tier as StoredTier

    return replace(changed, tiers={**changed.tiers, 0: StoredTier(0, *tier)})
