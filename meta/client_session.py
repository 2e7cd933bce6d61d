"""The part of `MetaClient` about its session: beginning, heartbeat, end - and which directory it calls the root."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable

from meta.client_names import NameCalls
from meta.errors import NotFormatted, Refused, SettingError, VolumeGone
from meta.jobs import JOBS, Jobs
from meta.rules.create import Exists
from meta.rules.sessions import SessionInfo, end_session, put_session
from meta.setting import Setting
from meta.types import DIRECTORY, ROOT, SUPERUSER

log = logging.getLogger(__name__)

_JOB_POLL_S = 0.5  # how soon `run_jobs` notices that it should stop
_CLOSE_S = 5.0  # for deletions that are still waiting when a client closes


class SessionCalls(NameCalls):
    """A session makes this client known to others, and owns its locks and its open files without links."""

    _info = b""

    def new_session(self, info: SessionInfo, sid: int = 0) -> int:
        """Begin a session; its number, 0 for a read-only client, which has none. Loads the setting if need be.

        `sid` is the session of a predecessor to go on with: its locks and open files are this client's then.
        """
        if not self.vol.setting.uuid:
            self.load()
        if not self.config.read_only:
            if self.vol.setting.change_log:
                raise SettingError("the volume keeps a change log, which this client cannot write: mount it read-only")
            self.engine.prepare()
        if self.config.subdir:
            self.change_root(self.config.subdir.encode(errors="surrogateescape"))
        if not self.config.read_only:
            self._info = info.to_json()
            self.vol.sid = sid or self.engine.increment("nextSession")
            self.vol.transact(lambda tx: put_session(tx, self.vol, self._info))
        return self.vol.sid

    def refresh_session(self) -> None:
        """The heartbeat: stay alive for others, and learn what they have changed.

        Raises `VolumeGone` if the volume is not there any more or is another one: this client must end then, and write
        nothing before. `SettingError` if it may not use the volume any more for another reason (its version).
        """
        self.reload()
        if self.vol.sid:
            self.vol.transact(lambda tx: put_session(tx, self.vol, self._info))

    def reload(self) -> None:
        """Read the setting and the quotas again, and tell `on_setting` if the setting was changed."""
        document = self.reader.setting()
        if document is None:
            raise NotFormatted
        old, new = self.vol.setting, Setting.parse(document).decrypted()
        if new.uuid != old.uuid:
            raise VolumeGone(f"volume UUID changed from {old.uuid} to {new.uuid}")
        if new.meta_version > 1:
            new.check_version()
        if new != old:
            self.vol.setting = new
            for tell in self.on_setting:
                tell(new)
        self.load_quotas()

    def run_jobs(self, stop: Callable[[], bool]) -> None:
        """Run this client's share of the cleaning jobs until `stop`. Nothing for a client that must not or cannot."""
        if self.config.no_bgjob or not self.vol.sid:
            return
        jobs = Jobs(self.vol, self.deleter, JOBS, self.job_done)
        while not stop():
            jobs.run_due(stop)
            time.sleep(_JOB_POLL_S)

    def leave_session(self) -> None:
        """Let go of the engine and leave the session to a successor."""
        self.compactor.close()
        self.deleter.close(_CLOSE_S)
        self.engine.flush()
        self.engine.close()

    def adopt(self, ino: int, removed: bool) -> None:
        """A file that a predecessor has opened in this session is open here; `removed`: it has lost its last link."""
        self.files.adopt(ino, removed)

    def close_session(self) -> None:
        """End the session: locks and open files without links go with it."""
        self.compactor.close()
        try:
            if self.vol.sid:
                for file in end_session(self.vol, self.vol.sid):
                    self.deleter.delete_file(file)
                self.vol.sid = 0
        finally:
            self.deleter.close(_CLOSE_S)
        self.engine.flush()

    def end_other_session(self, sid: int) -> None:
        """End a session that nobody goes on with, as `close_session` does with this client's own."""
        for file in end_session(self.vol, sid):
            self.deleter.delete_file(file)

    def change_root(self, path: bytes) -> None:
        """Call the directory at `path` inode 1 from now on. What is missing of it is created (mode 0777, root's)."""
        ino = ROOT
        for name in path.split(b"/"):
            if name in (b"", b"."):
                continue
            if name == b"..":
                raise SettingError(f"subdir: {path.decode(errors='replace')} must not contain ..")
            entry = self.reader.entry(ino, name)
            if entry is None and self.config.read_only:
                shown = path.decode(errors="replace")
                raise SettingError(f"subdir: {shown} does not exist; create it with a mount that may write")
            if entry is None:
                ino = self._make_component(ino, name)
            elif entry.type == DIRECTORY:
                ino = entry.ino
            else:
                raise SettingError(f"subdir: {path.decode(errors='replace')} is not a directory")
        self.root = self.vol.root = ino

    def make_directories(self, path: bytes, mode: int) -> int:
        """The inode of a directory of the volume; what is missing on the way is created (`mode`, root's)."""
        ino = ROOT
        for name in filter(None, path.split(b"/")):
            try:
                ino, attr = self.lookup(SUPERUSER, ino, name)
            except Refused as missing:
                if missing.errno != errno.ENOENT:
                    raise
                ino = self._make_component(ino, name, mode)
            else:
                if not attr.is_dir:
                    raise Refused(errno.ENOTDIR)
        return ino

    def _make_component(self, parent: int, name: bytes, mode: int = 0o777) -> int:
        try:
            return self.mknod(SUPERUSER, parent, name, DIRECTORY, mode, 0)[0]
        except Exists as found:  # another client was faster
            return found.existing[0]

    def shutdown(self) -> None:
        """End the session, if any, and let go of the engine."""
        try:
            self.close_session()
        finally:
            self.engine.close()
