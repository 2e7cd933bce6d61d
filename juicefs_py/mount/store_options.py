"""From mount options to the configuration of the chunk store, and to what of the storage is this client's own.

Not the options of metadata, VFS and kernel (`settings`).
"""

from __future__ import annotations

import os

from chunkstore.bucket import Tier
from chunkstore.config import EVICTIONS, VERIFY_LEVELS, StoreConfig
from juicefs_py.cli import log
from juicefs_py.cli import values as grammar
from juicefs_py.cli.args import Values
from juicefs_py.cli.errors import Fatal
from juicefs_py.mount.fuse_options import kernel_options
from meta.setting import Setting
from meta.setting import Tier as StoredTier

_MIB = 1 << 20
_MEMORY = ("memory",)


def store_config(values: Values, setting: Setting) -> StoreConfig:
    cache_size, directories = values.size("cache-size"), cache_dirs(values.text("cache-dir"), setting.uuid)
    if cache_size == 0:
        log.LOG.warning("cache-size is 0: blocks are not cached on disk")
        directories = _MEMORY
    block_size = setting.block_size << 10
    upload_limit, download_limit = limits(values, setting)
    writeback = values.flag("writeback")
    if writeback and directories == _MEMORY:
        log.LOG.warning("--writeback is ignored: there is no cache directory on a disk to keep blocks in")
        writeback = False
    return StoreConfig(
        block_size=block_size,
        compress=setting.compression,
        hash_prefix=setting.hash_prefix,
        cache_dirs=directories,
        cache_size=cache_size,
        cache_items=values.number("cache-items"),
        free_space_ratio=values.real("free-space-ratio"),
        cache_mode=cache_mode(values),
        cache_eviction=one_of(values, "cache-eviction", EVICTIONS),
        cache_checksum=one_of(values, "verify-cache-checksum", VERIFY_LEVELS),
        cache_scan_interval_s=values.seconds("cache-scan-interval"),
        cache_expire_s=_cache_expire(values),
        cache_full_block=not values.flag("cache-partial-only"),
        cache_large_write=values.flag("cache-large-write"),
        buffer_size=buffer_size(values),
        readahead=8 * block_size if (ahead := max_readahead(values)) is None else ahead,
        prefetch=values.number("prefetch"),
        max_uploads=_at_least_one(values, "max-uploads", 1),
        max_downloads=_at_least_one(values, "max-downloads", 200),
        max_stage_write=values.number("max-stage-write"),
        max_retries=values.number("io-retries"),
        get_timeout_s=_timeout(values, "get-timeout"),
        put_timeout_s=_timeout(values, "put-timeout"),
        upload_limit=upload_limit,
        download_limit=download_limit,
        writeback=writeback,
        writeback_threshold=values.size("writeback-threshold-size"),
        upload_delay_s=values.seconds("upload-delay") if writeback else 0.0,
        upload_hours=upload_hours(values.text("upload-hours")) if writeback else None,
        drain_staged=not kernel_options(values).read_only,
        auto_create=True,
    )


def own_tier(values: Values, setting: Setting) -> Tier | None:
    """The class and tag of objects that this mount writes, if it was told one."""
    if not values.any_set("storage-class", "tag"):
        return None
    given = setting.tiers.get(0) or StoredTier(0)
    return Tier(
        values.text("storage-class") if values.is_set("storage-class") else given.storage_class,
        tag(values.text("tag")) if values.is_set("tag") else given.tag,
    )


def tag(text: str) -> str:
    """A tag of objects: empty or one `key=value`."""
    try:
        grammar.tag(text)
    except ValueError as reason:
        raise Fatal(f'invalid tag "{text}": {reason}') from None
    return text


def limits(values: Values, setting: Setting) -> tuple[float, float]:
    """Mbps of uploads and downloads: the mount's own, or else the volume's."""
    own = values.mbps("upload-limit"), values.mbps("download-limit")
    return own[0] or setting.upload_limit, own[1] or setting.download_limit


def upload_hours(text: str) -> tuple[int, int] | None:
    """`START-END` or `START,END`, hours of a day."""
    if not text:
        return None
    parts = text.replace(",", "-").split("-")
    hours = [int(part) for part in parts if part.strip().isdecimal()]
    if len(parts) != 2 or len(hours) != 2 or max(hours) > 23:
        raise Fatal(f'invalid --upload-hours "{text}"; write START-END with hours from 0 to 23, for example 22-6')
    return hours[0], hours[1]


def cache_dirs(text: str, uuid: str) -> tuple[str, ...]:
    """Absolute cache directories of this volume, or the word that stands for a cache in memory."""
    parts = text.split(":") if ":" in text or "," not in text else text.split(",")
    paths = [part for part in parts if part]
    if not paths or paths == ["memory"]:
        return _MEMORY
    return tuple(os.path.join(os.path.abspath(os.path.expanduser(path)), uuid) for path in paths)


def cache_mode(values: Values) -> int:
    try:
        return grammar.octal(values.text("cache-mode"), 32)
    except ValueError as reason:
        log.LOG.warning("Invalid cache-mode %s: %s, using 0600", values.text("cache-mode"), reason)
        return 0o600


def buffer_size(values: Values) -> int:
    size = values.size("buffer-size")
    if size <= 32 * _MIB:
        log.LOG.warning("buffer-size %s is too small, setting it to 32 MiB", values.text("buffer-size"))
        return 32 * _MIB
    return size


def max_readahead(values: Values) -> int | None:
    return values.size("max-readahead") if values.is_set("max-readahead") else None


def _cache_expire(values: Values) -> float:
    expire = values.seconds("cache-expire")
    if 0 < expire < 1:
        log.LOG.warning("cache-expire should be at least 1 second, setting it to 1s")
        return 1.0
    return expire


def _timeout(values: Values, name: str) -> float:
    """Seconds that a transfer may take; with none at all, every one would fail."""
    seconds = values.seconds(name)
    if seconds <= 0:
        raise Fatal(f'Invalid value "{values.text(name)}" for "{name}": must be longer than 0, for example 60s')
    return seconds


def _at_least_one(values: Values, name: str, instead: int) -> int:
    number = values.number(name)
    if number <= 0:
        log.LOG.warning("%s should be greater than 0, setting it to %d", name, instead)
        return instead
    return number


def one_of(values: Values, name: str, choices: tuple[str, ...]) -> str:
    """The value of an option that has a few; the default, with a warning, for any other."""
    text = values.text(name)
    if text in choices:
        return text
    default = values.table[name].default
    log.LOG.warning("unknown %s: %s, setting it to %s", name, text, default)
    return default
