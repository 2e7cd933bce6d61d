"""`.config`: how this mount is set up, as the JSON document that tools, supervisors and successors read.

Not here: reading it back (commands, mount). Durations are in nanoseconds, secrets read `removed`.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from juicefs_py.vfs_config import VFSConfig
from meta.config import MetaConfig

if TYPE_CHECKING:
    from meta.client import MetaClient

UMASK_UNSET = 65535
DEFAULT_DOCUMENT = {"Port": {}, "BackupMeta": 0, "BackupSkipTrash": False}


def nanoseconds(seconds: float) -> int:
    """A duration as Go prints it into JSON."""
    return round(seconds * 1_000_000_000)


def config_document(config: VFSConfig, meta: MetaClient) -> bytes:
    """The whole document."""
    extra = {**DEFAULT_DOCUMENT, **config.document}
    document: dict[str, object] = {
        "Meta": {**_meta(meta.config, meta.sid), **config.sections.get("Meta", {})},
        "Format": json.loads(meta.setting.without_secrets().to_json()),
        "Chunk": dict(config.sections.get("Chunk", {})),
        "Security": {"EnableCap": config.enable_cap, "EnableSELinux": config.enable_selinux},
        "Port": extra.pop("Port"),
        "Version": config.version,
        "AttrTimeout": nanoseconds(config.attr_timeout_s),
        "DirEntryTimeout": nanoseconds(config.dir_entry_timeout_s),
        "NegEntryTimeout": nanoseconds(config.negative_timeout_s),
        "EntryTimeout": nanoseconds(config.entry_timeout_s),
        "ReaddirCache": config.readdir_cache,
        "BackupMeta": extra.pop("BackupMeta"),
        "BackupSkipTrash": extra.pop("BackupSkipTrash"),
    }
    if meta.config.subdir:
        document["Subdir"] = meta.config.subdir
    document["PrefixInternal"] = config.prefix_internal
    document["HideInternal"] = config.hide_internal
    for key, ids in (("RootSquash", config.root_squash), ("AllSquash", config.all_squash)):
        if ids is not None:
            document[key] = {"Uid": ids[0], "Gid": ids[1]}
    if config.non_default_permission:
        document["NonDefaultPermission"] = True
    document["UMask"] = UMASK_UNSET if config.umask is None else config.umask
    document["Pid"] = os.getpid()
    document["PPid"] = os.getppid()
    document.update(extra)
    document["Mountpoint"] = config.mount_point or meta.config.mount_point
    return json.dumps(document, indent=1, ensure_ascii=False).encode(errors="replace")


def _meta(config: MetaConfig, sid: int) -> dict[str, object]:
    return {
        "Retries": config.retries,
        "MaxDeletes": config.max_deletes,
        "SkipDirNlink": config.skip_dir_nlink,
        "CaseInsensi": False,
        "ReadOnly": config.read_only,
        "NoBGJob": config.no_bgjob,
        "OpenCache": nanoseconds(config.open_cache_s),
        "OpenCacheLimit": config.open_cache_limit,
        "Heartbeat": nanoseconds(config.heartbeat_s),
        "MountPoint": config.mount_point,
        "Subdir": config.subdir,
        "AtimeMode": config.atime_mode,
        "DirStatFlushPeriod": nanoseconds(config.dir_stat_flush_s),
        "SkipDirMtime": nanoseconds(config.skip_dir_mtime_s),
        "Sid": sid,
        "SortDir": config.sort_dir,
        "FastStatfs": config.fast_statfs,
        "NetworkInterfaces": None,
    }
