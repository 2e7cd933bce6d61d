"""The tables of a volume, exactly as official clients create them, and what a database lacks of them.

Not the statements that use them. Names come without the prefix `jfs_`. Conventions of the columns:

* times of `node` are microseconds, their `*nsec` columns the remaining 0 to 999 nanoseconds;
* `expire`, `deleted` and `added` are seconds;
* 64-bit unsigned numbers (lock owners) are stored as the signed number of the same bits;
* NULL in `rdev`, `parent`, ACL ids and `tier_id` of `node` is 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from meta.sql.dialect import Dialect


class Column(NamedTuple):
    name: str
    type: str  # a key of Dialect.types, or "serial"
    null: bool = False
    default: str = ""
    primary: bool = False


class Table(NamedTuple):
    """A table; `primary` names the columns of a primary key of several columns."""

    columns: tuple[Column, ...]
    unique: tuple[str, tuple[str, ...]] | None = None  # name of the index and its columns
    indexed: str = ""  # a column with an index of its own
    primary: tuple[str, ...] = ()


def _columns(text: str) -> tuple[Column, ...]:
    """Columns written as `name type [flags]`, separated by commas; flags: `pk`, `null`, `default=0`."""
    columns = []
    for item in text.split(","):
        name, kind, *flags = item.split()
        default = next((flag.partition("=")[2] for flag in flags if flag.startswith("default=")), "")
        columns.append(Column(name, kind, "null" in flags, default, "pk" in flags))
    return tuple(columns)


_LIMITS = "max_space big, max_inodes big, used_space big, used_inodes big"

TABLES: Final[dict[str, Table]] = {
    "setting": Table(_columns("name string pk, value text")),
    "counter": Table(_columns("name string pk, value big")),
    "edge": Table(
        _columns("id serial, parent big, name blob, inode big, type int"), ("edge", ("parent", "name")), "inode"
    ),
    "node": Table(
        _columns(
            "inode big pk, type int, flags int, mode int, uid int, gid int, atime big, mtime big, ctime big,"
            "atimensec int default=0, mtimensec int default=0, ctimensec int default=0, nlink int, length big,"
            "rdev int null, parent big null, access_acl_id int null, default_acl_id int null, tier_id int null"
        )
    ),
    "symlink": Table(_columns("inode big pk, target blob")),
    "xattr": Table(_columns("id serial, inode big, name string, value blob"), ("name", ("inode", "name"))),
    "chunk": Table(_columns("id serial, inode big, indx int, slices blob"), ("chunk", ("inode", "indx"))),
    "chunk_ref": Table(_columns("chunkid big pk, size int, refs int"), indexed="refs"),
    "delslices": Table(_columns("chunkid big pk, deleted big, slices blob")),
    "session2": Table(_columns("sid big pk, expire big, info blob null")),
    "sustained": Table(_columns("id serial, sid big, inode big"), ("sustained", ("sid", "inode"))),
    "delfile": Table(_columns("inode big pk, length big, expire big")),
    "flock": Table(
        _columns("id serial, inode big, sid big, owner big, ltype int"), ("flock", ("inode", "sid", "owner"))
    ),
    "plock": Table(
        _columns("id serial, inode big, sid big, owner big, records blob"), ("plock", ("inode", "sid", "owner"))
    ),
    "dir_stats": Table(_columns("inode big pk, data_length big, used_space big, used_inodes big")),
    "detached_node": Table(_columns("inode big pk, added big")),
    "dir_quota": Table(_columns("inode big pk," + _LIMITS)),
    "user_group_quota": Table(_columns("qtype int, qkey big," + _LIMITS), primary=("qtype", "qkey")),
    "acl": Table(
        _columns(
            "id serial, owner int null, group int null, mask int null, other int null,"
            "named_users blob null, named_groups blob null"
        )
    ),
    "delegation_token": Table(_columns("id serial, token blob null")),
    "change_log": Table(_columns("id serial, entry text")),
}


def create_table(dialect: Dialect, prefix: str, name: str) -> str:
    """The statement that creates a table."""
    table = TABLES[name]
    parts = [_definition(dialect, column) for column in table.columns]
    if table.primary:
        parts.append(f"PRIMARY KEY ({', '.join(f'`{column}`' for column in table.primary)})")
    return f"CREATE TABLE IF NOT EXISTS `{prefix}{name}` ({', '.join(parts)})"


def add_column(dialect: Dialect, prefix: str, name: str, column: Column) -> str:
    """The statement that adds a column which an older client did not know."""
    return f"ALTER TABLE `{prefix}{name}` ADD COLUMN {_definition(dialect, column)}"


def create_indexes(prefix: str, name: str) -> Iterator[tuple[str, str]]:
    """Names of a table's indexes, and the statements that create them."""
    table, full = TABLES[name], prefix + name
    if table.unique:
        label, columns = table.unique
        index = f"UQE_{full}_{label}"
        listed = ",".join(f"`{column}`" for column in columns)
        yield index, f"CREATE UNIQUE INDEX IF NOT EXISTS `{index}` ON `{full}` ({listed})"
    if table.indexed:
        index = f"IDX_{full}_{table.indexed}"
        yield index, f"CREATE INDEX IF NOT EXISTS `{index}` ON `{full}` (`{table.indexed}`)"


def _definition(dialect: Dialect, column: Column) -> str:
    if column.type == "serial":
        return f"`{column.name}` {dialect.serial}"
    key = " PRIMARY KEY" if column.primary else ""
    default = f" DEFAULT {column.default}" if column.default else ""
    return f"`{column.name}` {dialect.types[column.type]}{key}{default} {'NULL' if column.null else 'NOT NULL'}"
