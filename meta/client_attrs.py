"""The part of `MetaClient` about attributes: setattr, access, symlinks, extended attributes, ACLs, statfs."""

from __future__ import annotations

import errno

from meta.acl import Rule
from meta.attr import Attr
from meta.client_base import ClientBase
from meta.errors import Refused
from meta.rules import acls, xattrs
from meta.rules.access import require
from meta.rules.setattr import Changes, set_attr
from meta.rules.statfs import StatTotals, stat_totals
from meta.types import SYMLINK, Caller


class AttrCalls(ClientBase):
    """Inodes, without their names and their content."""

    def access(self, caller: Caller, ino: int, mask: int) -> None:
        """EACCES unless the caller may do all of `mask` (r 4, w 2, x 1)."""
        require(self.reader, caller, self.getattr(ino), mask)

    def setattr(self, caller: Caller, ino: int, changes: Changes) -> Attr:
        """Change mode, owner, times, flags or tier; the new attributes."""
        ino = self._real(ino)
        done = self._write(lambda tx: set_attr(tx, self.vol, caller, ino, changes))
        self.files.changed(ino, done.attr, done.before, indx=-1)
        return done.attr

    def readlink(self, ino: int) -> bytes:
        """What a symlink says; EINVAL for anything else."""
        target = self.reader.symlink(ino)
        if target is None:
            attr = self.getattr(ino)
            raise Refused(errno.EIO if attr.type == SYMLINK else errno.EINVAL)
        self.touch_atime(ino)
        return target

    def getxattr(self, caller: Caller, ino: int, name: bytes) -> bytes:
        """An extended attribute's value; ENODATA if there is none."""
        return xattrs.get_xattr(self.reader, self._real(ino), name)

    def listxattr(self, caller: Caller, ino: int) -> list[bytes]:
        """Names of extended attributes, those of ACLs included."""
        return xattrs.list_xattrs(self.reader, self.vol, self._real(ino))

    def setxattr(self, caller: Caller, ino: int, name: bytes, value: bytes, flags: int = 0) -> None:
        """Set an extended attribute; `flags` as setxattr(2)."""
        ino = self._real(ino)
        self._write(lambda tx: xattrs.set_xattr(tx, ino, name, value, flags))

    def removexattr(self, caller: Caller, ino: int, name: bytes) -> None:
        """Remove an extended attribute; ENODATA if there is none."""
        ino = self._real(ino)
        self._write(lambda tx: xattrs.remove_xattr(tx, ino, name))

    def get_acl(self, ino: int, kind: acls.Kind) -> Rule | None:
        """The access or default ACL; ENOTSUP on a volume without ACLs."""
        return acls.get_acl(self.reader, self.vol, self._real(ino), kind)

    def set_acl(self, caller: Caller, ino: int, kind: acls.Kind, rule: Rule) -> Attr:
        """Set an ACL, or remove it with the empty rule."""
        ino = self._real(ino)
        attr = self._write(lambda tx: acls.set_acl(tx, self.vol, caller, ino, kind, rule))
        self.files.forget_attr(ino)
        return attr

    def statfs(self, caller: Caller, ino: int) -> StatTotals:
        """Space and inodes, as far as quotas from `ino` up to the client's root let them be used."""
        return stat_totals(self.reader, self.vol, self._real(ino))
