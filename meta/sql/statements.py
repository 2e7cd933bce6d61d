"""The SQL of every record, with the names of a volume's tables. Not the calls (reader, transaction, engine).

Writes name their columns, so that columns which a newer client added keep their values.
"""

from __future__ import annotations

from collections.abc import Container

from meta.sql.dialect import Dialect
from meta.sql.rows import NODE_COLUMNS

LIMITS = ("max_space", "max_inodes", "used_space", "used_inodes")
QUOTA_TYPES = {"user": 1, "group": 2}


class Statements:
    """Statements by the name of what they do; arguments in the order of the calls that use them."""

    def __init__(
        self, dialect: Dialect, prefix: str, node_columns: Container[str] = NODE_COLUMNS, legacy_sessions: bool = False
    ) -> None:
        """`node_columns`: what the `node` table has; a column that an old client did not make reads as 0.

        `legacy_sessions`: whether there is a table of the sessions of very old clients.
        """
        self.prefix = prefix
        self.has_legacy_sessions = legacy_sessions
        self._dialect = dialect
        self._node = ", ".join(f"n.{column}" if column in node_columns else "0" for column in NODE_COLUMNS)
        self._namespace()
        self._attachments()
        self._data()
        self._sessions()
        self._totals()
        self._singles()

    def _upsert(self, table: str, columns: str, key: str, updates: str = "") -> str:
        """`Dialect.upsert` with lists written as text."""
        names = [name.strip() for name in columns.split(",")]
        parts = [part.strip() for part in updates.split(",") if part.strip()]
        return self._dialect.upsert(self.prefix + table, names, [name.strip() for name in key.split(",")], parts)

    # fmt: off

    def _namespace(self) -> None:
        p, node = self.prefix, self._node
        self.attr = f"SELECT {node} FROM {p}node n WHERE n.inode = ?"
        self.attrs = f"SELECT n.inode, {node} FROM {p}node n WHERE n.inode IN "
        self.nodes_from = f"SELECT n.inode, {node} FROM {p}node n WHERE n.inode > ? ORDER BY n.inode LIMIT ?"
        self.put_attr = self._upsert("node", "inode," + ",".join(NODE_COLUMNS), "inode", ",".join(NODE_COLUMNS))
        self.delete_attr = f"DELETE FROM {p}node WHERE inode = ?"

        self.entry = f"SELECT type, inode FROM {p}edge WHERE parent = ? AND name = ?"
        self.target = (
            f"SELECT e.type, e.inode, {node} FROM {p}edge e LEFT JOIN {p}node n ON n.inode = e.inode"
            " WHERE e.parent = ? AND e.name = ?")
        self.has_entries = f"SELECT 1 FROM {p}edge WHERE parent = ? LIMIT 1"
        self.list = f"SELECT name, inode, type FROM {p}edge WHERE parent = ? AND name > ? ORDER BY name LIMIT ?"
        self.list_plus = (
            f"SELECT e.name, e.inode, e.type, {node} FROM {p}edge e LEFT JOIN {p}node n ON n.inode = e.inode"
            " WHERE e.parent = ? AND e.name > ? ORDER BY e.name LIMIT ?")
        self.edges_from = f"SELECT id, parent, name, type, inode FROM {p}edge WHERE id > ? ORDER BY id LIMIT ?"
        self.put_entry = self._upsert("edge", "parent, name, inode, type", "parent, name", "inode, type")
        self.delete_entry = f"DELETE FROM {p}edge WHERE parent = ? AND name = ?"
        self.parents = f"SELECT parent, count(*) FROM {p}edge WHERE inode = ? GROUP BY parent"

    def _attachments(self) -> None:
        p, blob, text = self.prefix, self._dialect.as_bytes, self._dialect.as_text
        self.symlink = f"SELECT target FROM {p}symlink WHERE inode = ?"
        self.symlinks_from = f"SELECT inode, target FROM {p}symlink WHERE inode > ? ORDER BY inode LIMIT ?"
        self.put_symlink = self._upsert("symlink", "inode, target", "inode", "target")
        self.delete_symlink = f"DELETE FROM {p}symlink WHERE inode = ?"

        self.xattr = f"SELECT {blob('value')} FROM {p}xattr WHERE inode = ? AND name = {text('?')}"
        self.xattrs = f"SELECT {blob('name')}, {blob('value')} FROM {p}xattr WHERE inode = ?"
        self.xattrs_from = (
            f"SELECT id, inode, {blob('name')}, {blob('value')} FROM {p}xattr WHERE id > ? ORDER BY id LIMIT ?")
        self.put_xattr = (self._upsert("xattr", "inode, name, value", "inode, name", "value")
                          .replace("(?, ?, ?)", f"(?, {text('?')}, ?)"))
        self.delete_xattr = f"DELETE FROM {p}xattr WHERE inode = ? AND name = {text('?')}"
        self.delete_xattrs = f"DELETE FROM {p}xattr WHERE inode = ?"

    def _data(self) -> None:
        p, blob = self.prefix, self._dialect.as_bytes
        self.chunk = f"SELECT {blob('slices')} FROM {p}chunk WHERE inode = ? AND indx = ?"
        self.chunks = f"SELECT indx, {blob('slices')} FROM {p}chunk WHERE inode = ? ORDER BY indx"
        self.chunks_from = f"SELECT id, inode, indx, {blob('slices')} FROM {p}chunk WHERE id > ? ORDER BY id LIMIT ?"
        both = blob(f"{p}chunk.slices || excluded.slices")
        self.append_slices = (self._upsert("chunk", "inode, indx, slices", "inode, indx", f"slices = {both}")
                              + f" RETURNING length({blob('slices')})")
        self.put_chunk = self._upsert("chunk", "inode, indx, slices", "inode, indx", "slices")
        self.delete_chunk = f"DELETE FROM {p}chunk WHERE inode = ? AND indx = ?"

        self.slice_refs = f"SELECT refs FROM {p}chunk_ref WHERE chunkid = ?"
        self.new_slice = self._upsert(  # one more, should a commit whose answer was lost be repeated
            "chunk_ref", "chunkid, size, refs", "chunkid", f"refs = {p}chunk_ref.refs + excluded.refs")
        self.more_slice_refs = self._upsert(
            "chunk_ref", "chunkid, size, refs", "chunkid", f"refs = {p}chunk_ref.refs + excluded.refs - 1")
        self.fewer_slice_refs = f"UPDATE {p}chunk_ref SET refs = refs + ? WHERE chunkid = ?"
        self.delete_slice = f"DELETE FROM {p}chunk_ref WHERE chunkid = ?"
        self.refs_from = f"SELECT chunkid, size, refs FROM {p}chunk_ref WHERE chunkid > ? ORDER BY chunkid LIMIT ?"
        self.dead_from = (
            f"SELECT chunkid, size FROM {p}chunk_ref WHERE refs <= 0 AND chunkid > ? ORDER BY chunkid LIMIT ?")

        self.delayed = f"SELECT deleted, slices FROM {p}delslices WHERE chunkid = ? AND deleted = ?"
        self.put_delayed = self._upsert("delslices", "chunkid, deleted, slices", "chunkid", "deleted, slices")
        self.delete_delayed = f"DELETE FROM {p}delslices WHERE chunkid = ? AND deleted = ?"
        self.delayed_before = (
            f"SELECT chunkid, deleted, slices FROM {p}delslices WHERE deleted < ? ORDER BY deleted, chunkid LIMIT ?")
        self.delayed_from = (
            f"SELECT chunkid, deleted, slices FROM {p}delslices WHERE chunkid > ? ORDER BY chunkid LIMIT ?")

        self.put_deleted_file = self._upsert("delfile", "inode, length, expire", "inode", "length, expire")
        self.delete_deleted_file = f"DELETE FROM {p}delfile WHERE inode = ? AND length = ?"
        self.deleted_before = (
            f"SELECT inode, length, expire FROM {p}delfile WHERE expire < ? ORDER BY expire, inode LIMIT ?")
        self.deleted_from = f"SELECT inode, length, expire FROM {p}delfile WHERE inode > ? ORDER BY inode LIMIT ?"

    def _sessions(self) -> None:
        p = self.prefix
        self.flocks = f"SELECT sid, owner, ltype FROM {p}flock WHERE inode = ?"
        self.plocks = f"SELECT sid, owner, records FROM {p}plock WHERE inode = ?"
        self.put_flock = self._upsert("flock", "inode, sid, owner, ltype", "inode, sid, owner", "ltype")
        self.put_plock = self._upsert("plock", "inode, sid, owner, records", "inode, sid, owner", "records")
        self.delete_flock = f"DELETE FROM {p}flock WHERE inode = ? AND sid = ? AND owner = ?"
        self.delete_plock = f"DELETE FROM {p}plock WHERE inode = ? AND sid = ? AND owner = ?"
        self.session_flocks = f"SELECT inode, owner, ltype FROM {p}flock WHERE sid = ?"
        self.session_plocks = f"SELECT inode, owner, records FROM {p}plock WHERE sid = ?"
        self.drop_flocks = f"DELETE FROM {p}flock WHERE sid = ?"
        self.drop_plocks = f"DELETE FROM {p}plock WHERE sid = ?"

        self.session = f"SELECT sid, expire, info FROM {p}session2 WHERE sid = ?"
        self.sessions = f"SELECT sid, expire, info FROM {p}session2 ORDER BY sid"
        self.legacy_sessions = f"SELECT sid, heartbeat, info FROM {p}session ORDER BY sid"
        self.stale_sessions = f"SELECT sid FROM {p}session2 WHERE expire < ? ORDER BY expire LIMIT ?"
        self.stale_legacy_sessions = f"SELECT sid FROM {p}session WHERE heartbeat < ? ORDER BY heartbeat LIMIT ?"
        self.put_session = self._upsert("session2", "sid, expire, info", "sid", "expire, info")
        self.delete_session = f"DELETE FROM {p}session2 WHERE sid = ?"
        self.delete_legacy_session = f"DELETE FROM {p}session WHERE sid = ?"
        self.sustained = f"SELECT inode FROM {p}sustained WHERE sid = ? ORDER BY inode"
        self.put_sustained = self._upsert("sustained", "sid, inode", "sid, inode")
        self.delete_sustained = f"DELETE FROM {p}sustained WHERE sid = ? AND inode = ?"

        self.put_detached = self._upsert("detached_node", "inode, added", "inode", "added")
        self.delete_detached = f"DELETE FROM {p}detached_node WHERE inode = ?"
        self.detached_before = f"SELECT inode FROM {p}detached_node WHERE added < ? ORDER BY inode"

    def _totals(self) -> None:
        p = self.prefix
        self.dir_stat = f"SELECT data_length, used_space, used_inodes FROM {p}dir_stats WHERE inode = ?"
        self.put_dir_stat = self._upsert(
            "dir_stats", "inode, data_length, used_space, used_inodes", "inode", "data_length, used_space, used_inodes")
        self.add_dir_stat = (
            f"UPDATE {p}dir_stats SET data_length = data_length + ?, used_space = used_space + ?,"
            " used_inodes = used_inodes + ? WHERE inode = ?")
        self.delete_dir_stat = f"DELETE FROM {p}dir_stats WHERE inode = ?"
        self.dir_stats_from = (
            f"SELECT inode, data_length, used_space, used_inodes FROM {p}dir_stats WHERE inode > ?"
            " ORDER BY inode LIMIT ?")
        self.clear_dir_stats = f"DELETE FROM {p}dir_stats"

        limits = ", ".join(LIMITS)
        self.quota_dir = f"SELECT {limits} FROM {p}dir_quota WHERE inode = ?"
        self.quota_owner = f"SELECT {limits} FROM {p}user_group_quota WHERE qtype = ? AND qkey = ?"
        self.quotas_dir = f"SELECT inode, {limits} FROM {p}dir_quota"
        self.quotas_owner = f"SELECT qkey, {limits} FROM {p}user_group_quota WHERE qtype = ?"
        self.put_quota_dir = self._upsert("dir_quota", f"inode, {limits}", "inode", limits)
        self.put_quota_owner = self._upsert("user_group_quota", f"qtype, qkey, {limits}", "qtype, qkey", limits)
        grow = "used_space = {0}.used_space + {1}, used_inodes = {0}.used_inodes + {2}"
        self.add_quota_dir = (
            f"UPDATE {p}dir_quota SET used_space = used_space + ?, used_inodes = used_inodes + ? WHERE inode = ?")
        self.add_quota_owner = self._upsert(
            "user_group_quota", f"qtype, qkey, {limits}", "qtype, qkey",
            grow.format(f"{p}user_group_quota", "excluded.used_space", "excluded.used_inodes"))
        self.delete_quota_dir = f"DELETE FROM {p}dir_quota WHERE inode = ?"
        self.delete_quota_owner = f"DELETE FROM {p}user_group_quota WHERE qtype = ? AND qkey = ?"
        self.clear_quotas_dir = f"DELETE FROM {p}dir_quota"
        self.clear_quotas_owner = f"DELETE FROM {p}user_group_quota WHERE qtype = ?"

        self.counter = f"SELECT value FROM {p}counter WHERE name = ?"
        self.put_counter = self._upsert("counter", "name, value", "name", "value")
        self.new_counter = self._upsert("counter", "name, value", "name")
        self.add_counter = self._upsert("counter", "name, value", "name", f"value = {p}counter.value + excluded.value")
        self.add_usage = self.add_counter.replace("(?, ?)", "('usedSpace', ?), ('totalInodes', ?)")

    def _singles(self) -> None:
        p, blob, text = self.prefix, self._dialect.as_bytes, self._dialect.as_text
        self.acl = f"SELECT owner, `group`, mask, other, named_users, named_groups FROM {p}acl WHERE id = ?"
        self.acls = f"SELECT id, owner, `group`, mask, other, named_users, named_groups FROM {p}acl ORDER BY id"
        self.new_acl = (
            f"INSERT INTO {p}acl (owner, `group`, mask, other, named_users, named_groups) VALUES (?, ?, ?, ?, ?, ?)")

        self.setting = f"SELECT {blob('value')} FROM {p}setting WHERE name = 'format'"
        self.put_setting = (self._upsert("setting", "name, value", "name", "value")
                            .replace("(?, ?)", f"('format', {text('?')})"))
        self.last_change = f"SELECT id FROM {p}change_log ORDER BY id DESC LIMIT 1"
        self.changes = f"SELECT id, entry FROM {p}change_log WHERE id > ? ORDER BY id LIMIT ?"
        self.append_changelog = f"INSERT INTO {p}change_log (entry) VALUES (?)"
    # fmt: on
