"""What a serving process opens before it mounts: metadata, storage and file system, with its own session or the one
of its predecessor.

Not here: the kernel's side (`connection`), and what becomes of a predecessor's files (`succession`).
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from juicefs_py import VERSION
from juicefs_py.cli import log
from juicefs_py.mount import settings, state, store_options, succession
from juicefs_py.mount.supervisor import Inheritance
from juicefs_py.storage import for_this_client
from juicefs_py.vfs_config import VFSConfig
from juicefs_py.volume import OpenVolume, open_volume
from meta.setting import Setting

if TYPE_CHECKING:
    from juicefs_py.mount.start import Job


class Opening:
    """A volume's opening, as its mount's options and its predecessor ask for."""

    def __init__(self, job: Job, inherited: Inheritance) -> None:
        self.job = job
        self._inherited = inherited
        self._ledger = inherited.ledger

    def volume(self, metrics_address: str) -> OpenVolume:
        """Metadata, storage and VFS, with a session record unless read-only."""
        job, values, ledger = self.job, self.job.values, self._ledger
        left = state.load(state.path_of(os.getppid()))
        # Without the connection of the last session its locks and open files are nobody's any more.
        ended = ledger.session if self._inherited.fd is None else 0
        sid = 0 if ended else ledger.session or int(os.environ.get("_JFS_META_SID") or 0)
        with log.warned_before():
            meta = settings.meta_config(values, job.mountpoint)
        volume = open_volume(
            job.url,
            meta,
            lambda setting: self.plan(setting).store,
            lambda setting: self._vfs_config(setting, metrics_address),
            limits=lambda setting: store_options.limits(values, setting),
            overridden=lambda setting: for_this_client(
                setting, values.text("storage"), job.bucket, store_options.own_tier(values, setting)
            ),
            sid=sid,
            ledger=ledger,
        )
        log.LOG.info("JuiceFS version %s", VERSION)
        if sid:
            log.LOG.info("Go on with session %d, version: %s", sid, VERSION)
        elif volume.meta.sid:
            log.LOG.info("Create session %d OK with version: %s", volume.meta.sid, VERSION)
        else:
            log.LOG.info("Create read-only session OK with version: %s", VERSION)
        ledger.session = volume.meta.sid
        if ended:
            succession.end_session(volume, ended)
        if self._inherited.fd is None:
            ledger.clear()
            left.put_aside()  # whoever has left it had the same process number
        else:
            succession.open_again(volume, ledger, left)
        return volume

    def plan(self, setting: Setting) -> settings.Plan:
        """The options with the setting as it is now; it may have changed since the command was given."""
        with log.warned_before():
            return settings.plan(self.job.values, self.job.mountpoint, setting)

    def _vfs_config(self, setting: Setting, metrics_address: str) -> VFSConfig:
        """With what is only known now: where the metrics are."""
        config = self.plan(setting).vfs
        port = {"PrometheusAgent": metrics_address} if metrics_address else {}
        native = self.job.values.text("fuse") == "native"  # others cannot be taken over, and do not offer it
        paths = {"CommPath": self._inherited.comm_path if native else "", "StatePath": state.path_of(os.getppid())}
        return replace(config, document={"Port": port, **paths, **config.document})
