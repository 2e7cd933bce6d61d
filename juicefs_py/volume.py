"""Opening a volume for use: engine, metadata client, setting, bucket, chunk store, file system, session.

Not here: the mount itself, and where options come from.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from chunkstore.config import StoreConfig
from chunkstore.errors import StoreError
from chunkstore.store import ChunkStore
from juicefs_py.data.slice_store import StoredSlices
from juicefs_py.ledger import Ledger
from juicefs_py.storage import same_storage, volume_bucket
from juicefs_py.vfs import VFS
from juicefs_py.vfs_config import VFSConfig
from meta.client import MetaClient, SessionInfo
from meta.config import MetaConfig
from meta.engines import open_engine
from meta.errors import MetaError
from meta.setting import Setting
from meta.version import COMPATIBLE_VERSION

log = logging.getLogger(__name__)


@dataclass
class OpenVolume:
    """A volume in use. `close` flushes and lets go of everything, in order."""

    meta: MetaClient
    setting: Setting
    store: ChunkStore
    slices: StoredSlices
    vfs: VFS
    _closed: bool = field(default=False, repr=False)

    def close(self) -> None:
        """End the file system, the session and the store. May be called twice."""
        self._close(lambda: _end_session(self.meta))

    def leave(self) -> None:
        """The same, but the session stays, for a successor on the same connection."""
        self._close(self.meta.leave_session)

    def _close(self, part_from_meta: Callable[[], None]) -> None:
        if self._closed:
            return
        self._closed = True
        self.vfs.close()
        part_from_meta()
        if not self.store.close():
            log.warning("not all transfers ended in time")


def _end_session(meta: MetaClient, inherited: bool = False) -> None:
    """With its record, if there is one, and the engine.

    One that is `inherited` stays: its locks and removed files are in use, and the next successor goes on with it.
    """
    try:
        if inherited:
            meta.leave_session()
        else:
            meta.shutdown()
    except MetaError as problem:
        log.warning("the session is left for others to clean: %s", problem)


def open_meta(url: str, config: MetaConfig | None = None) -> MetaClient:
    """A metadata client whose volume is formatted and fit for this version. Raises MetaError."""
    config = config or MetaConfig()
    meta = MetaClient(open_engine(url, config.read_only), config)
    try:
        meta.load()
    except BaseException:
        meta.engine.close()
        raise
    return meta


def open_store(setting: Setting, config: StoreConfig) -> ChunkStore:
    """The chunk store of a volume whose secrets are in clear. Raises StoreError."""
    return ChunkStore(volume_bucket(setting, config), config)


def plain_store_config(setting: Setting) -> StoreConfig:
    """The volume's block format with the defaults of everything else, and no cache."""
    return StoreConfig(
        block_size=setting.block_size << 10,
        compress=setting.compression,
        hash_prefix=setting.hash_prefix,
        cache_size=0,
        upload_limit=setting.upload_limit,
        download_limit=setting.download_limit,
    )


def open_volume(
    url: str,
    config: MetaConfig | None = None,
    store_config: Callable[[Setting], StoreConfig] = plain_store_config,
    vfs_config: Callable[[Setting], VFSConfig] = lambda setting: VFSConfig(),
    *,
    limits: Callable[[Setting], tuple[float, float]] = lambda setting: (setting.upload_limit, setting.download_limit),
    overridden: Callable[[Setting], Setting] = lambda setting: setting,
    sid: int = 0,
    ledger: Ledger | None = None,
) -> OpenVolume:
    """Open everything and begin a session. Raises MetaError or StoreError; nothing is left open then.

    `limits` tells the transfer limits (upload, download, in Mbps) again whenever the setting was changed, and
    `overridden` what of the storage is another one for this client. `sid` is a predecessor's session to go on with,
    `ledger` where open files are noted for a successor.
    """
    meta = open_meta(url, config)
    try:
        setting = meta.setting
        store = open_store(overridden(setting), store_config(setting))
    except BaseException:
        meta.engine.close()
        raise
    try:
        settings = vfs_config(setting)
        slices = StoredSlices(store)
        meta.set_slice_store(slices)
        mount_point = settings.mount_point or meta.config.mount_point
        meta.new_session(SessionInfo(mount_point, settings.version or COMPATIBLE_VERSION), sid)
        vfs = VFS(meta, store, _complete(settings, store), ledger)
    except BaseException:
        _end_session(meta, inherited=bool(sid))
        store.close()
        raise
    slices.compacted = vfs.stats.compact_sizes.observe
    meta.on_setting.append(lambda new: store.update_limits(*limits(new)))
    meta.on_setting.append(_Reopener(store, overridden, setting).changed)
    return OpenVolume(meta, setting, store, slices, vfs)


class _Reopener:
    """Gives a store another bucket when the volume's setting names one, or other keys for it."""

    def __init__(self, store: ChunkStore, overridden: Callable[[Setting], Setting], setting: Setting) -> None:
        self._store = store
        self._overridden = overridden
        self._used = overridden(setting)

    def changed(self, setting: Setting) -> None:
        """The setting was changed. A bucket that cannot be opened leaves the old one in use."""
        new = self._overridden(setting)
        if same_storage(new, self._used):
            return
        try:
            bucket = volume_bucket(new, self._store.config)
        except Exception as error:  # a driver's library may be missing: no reason to end the mount
            log.error(
                "the volume's new storage cannot be used, so the old one stays in use: %s",
                error, exc_info=not isinstance(error, StoreError),
            )  # fmt: skip
            return
        self._store.use_bucket(bucket)
        self._used = new
        log.info("the volume's storage was changed: %s", self._store.bucket.describe())


def _complete(config: VFSConfig, store: ChunkStore) -> VFSConfig:
    """With the `Chunk` section of `.config`, unless the caller has given one."""
    if "Chunk" in config.sections:
        return config
    return replace(config, sections={**config.sections, "Chunk": chunk_section(store.config)})


def chunk_section(config: StoreConfig) -> dict[str, object]:
    """The store's options as official clients name them in `.config`."""
    mib = 1 << 20
    return {
        "CacheDir": ":".join(config.cache_dirs),
        "CacheMode": config.cache_mode,
        "CacheSize": config.cache_size,
        "CacheItems": config.cache_items,
        "CacheChecksum": config.cache_checksum,
        "CacheEviction": config.cache_eviction,
        "CacheScanInterval": round(config.cache_scan_interval_s * 1e9),
        "CacheExpire": round(config.cache_expire_s * 1e9),
        "OSCache": True,
        "FreeSpace": config.free_space_ratio,
        "AutoCreate": config.auto_create,
        "Compress": "" if config.compress == "none" else config.compress,
        "MaxUpload": config.max_uploads,
        "MaxDownload": config.max_downloads,
        "MaxStageWrite": config.max_stage_write,
        "MaxRetries": config.max_retries,
        "UploadLimit": round(config.upload_limit * 1e6 / 8),
        "DownloadLimit": round(config.download_limit * 1e6 / 8),
        "Writeback": config.writeback,
        "WritebackThresholdSize": config.writeback_threshold,
        "UploadDelay": round(config.upload_delay_s * 1e9),
        "UploadHours": "" if config.upload_hours is None else "{},{}".format(*config.upload_hours),
        "HashPrefix": config.hash_prefix,
        "BlockSize": config.block_size,
        "GetTimeout": round(config.get_timeout_s * 1e9),
        "PutTimeout": round(config.put_timeout_s * 1e9),
        "CacheFullBlock": config.cache_full_block,
        "CacheLargeWrite": config.cache_large_write,
        "BufferSize": max(config.buffer_size, 32 * mib),
        "Readahead": config.readahead,
        "Prefetch": config.prefetch,
    }
