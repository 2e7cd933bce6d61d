"""A bucket in a directory of an SFTP server: an object is a file, its key the path behind the bucket's own.

Not the connections (`sftp_pool`, `sftp_login`), nor how bytes are moved (`sftp_file`). Objects are written under a
temporary name, `.jfs.{base}.tmp.{random}`, and renamed, so a name never shows half an object; when a connection breaks
the temporary file may stay. Replacing an object is one step on servers that know posix-rename (OpenSSH does); on others
its name is gone for a moment. Durability is the server's: what it has acknowledged may still be in its memory, and the
protocol has nothing to force it to disk. There are no checksums but those of SSH.
"""

from __future__ import annotations

import posixpath
import re
import secrets
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from chunkstore.bucket import Access, Data, ObjectInfo
from chunkstore.buckets.folders import FolderBucket, walk
from chunkstore.buckets.sftp_file import RemoteFile
from chunkstore.buckets.sftp_pool import Pool
from chunkstore.buckets.within import within
from chunkstore.errors import BadBucket

_PATIENCE = 10  # times the timeout: a transfer that moves, but hardly, ends after that
_PLACE = re.compile(r"(?:\[(?P<six>[^\]]+)\]|(?P<host>[^:/@\[\]]+))(?::(?P<port>\d{1,5}))?")


class SftpAddress(NamedTuple):
    """Where a bucket is. `root` is put before every key as it is."""

    host: str
    port: int
    root: str


def parse_address(bucket: str) -> SftpAddress:
    """`HOST[:PORT]:PATH`, as official clients read it. A path without "/" at its end is a plain prefix of names."""
    place, colon, path = bucket.rpartition(":")
    found = _PLACE.fullmatch(place)
    if not colon or not found or bucket.startswith("sftp://"):
        raise BadBucket(
            "the bucket of an sftp storage is HOST[:PORT]:PATH, for example server:/var/jfs/; "
            "user and password are --access-key and --secret-key"
        )
    root = posixpath.normpath(re.sub("/+", "/", path))
    if path.endswith("/") and root != "/":
        root += "/"
    return SftpAddress(found["six"] or found["host"], int(found["port"] or 22), root)


def open_sftp(bucket: str, access: Access) -> SftpBucket:
    """The bucket at an address. `access` holds the user and the password, escaped as in a URL."""
    return SftpBucket(parse_address(bucket), access)


class SftpBucket(FolderBucket):
    """The files below a path of one server. Connected when first used."""

    def __init__(self, address: SftpAddress, access: Access) -> None:
        self._pool = Pool(address.host, address.port, access)
        self._root = address.root
        self._timeout_s = access.timeout_s
        self._making = threading.Lock()  # rclone loses files of a directory that two make at the same time
        host = f"[{address.host}]" if ":" in address.host else address.host
        port = "" if address.port == 22 else f":{address.port}"
        self._name = f"sftp://{self._pool.user}@{host}{port}:{address.root}"

    def describe(self) -> str:
        return self._name

    def put(self, key: str, data: Data, tier: int = 0) -> None:
        path = self._root + key
        what = f"write object {self._name}{key}"
        with self._pool.one(what) as files:
            if path.endswith("/"):
                self._make_folders(files, path.rstrip("/"), what)
                return
            folder, base = posixpath.split(path)
            temporary = posixpath.join(folder, f".jfs.{base[:200]}.tmp.{secrets.token_hex(8)}")
            try:
                file = RemoteFile(files, temporary, new=True)
            except FileNotFoundError:
                self._make_folders(files, folder, what)
                file = RemoteFile(files, temporary, new=True)
            try:
                with file:
                    file.write_all(data, self._deadline())
                _rename(files, temporary, path)
            except OSError as error:
                if not isinstance(error, TimeoutError):
                    _remove_quietly(files, temporary)
                raise

    def get_into(self, key: str, offset: int, view: memoryview) -> int:
        if key.endswith("/"):
            return len(self.get(key))
        with self._reading(key) as file:
            return file.read_into(offset, view, self._deadline())

    def get(self, key: str, offset: int = 0, length: int = -1) -> bytes:
        if key.endswith("/"):
            self.head(key)
            return b""
        with self._reading(key) as file:
            there = max(0, file.size() - offset)
            data = bytearray(there if length < 0 else min(length, there))
            with memoryview(data) as view:
                got = file.read_into(offset, view, self._deadline())
        return bytes(data[:got])

    @contextmanager
    def _reading(self, key: str) -> Iterator[RemoteFile]:
        with self._pool.one(f"read object {self._name}{key}") as files, RemoteFile(files, self._root + key) as file:
            yield file

    def _deadline(self) -> float:
        return time.monotonic() + _PATIENCE * self._timeout_s

    def delete(self, key: str) -> None:
        path = self._root + key
        with self._pool.one(f"delete object {self._name}{key}") as files:
            try:
                if path.endswith("/"):
                    files.rmdir(path.rstrip("/"))
                else:
                    files.remove(path)
            except FileNotFoundError:
                return

    def head(self, key: str) -> ObjectInfo:
        with self._pool.one(f"look at object {self._name}{key}") as files:
            found = files.stat(self._root + key or ".")
        if stat.S_ISDIR(found.st_mode or 0):
            return ObjectInfo(key.rstrip("/") + "/" if key else "", 0, found.st_mtime or 0, is_dir=True)
        return _info(key, found)

    def _found(self, prefix: str, after: str, deep: bool) -> Iterator[ObjectInfo]:
        for path, found in walk(self._read_folder, self._root + prefix, self._root + after, deep):
            yield _info(path[len(self._root) :], found)

    def _read_folder(self, folder: str) -> list[tuple[str, Any]]:
        with self._pool.one(f"list objects in {self._name}{folder[len(self._root) :]}") as files:
            try:
                found = files.listdir_attr(folder or ".")
            except FileNotFoundError:
                return []
            entries = []
            for each in found:
                followed = _followed(files, folder, each)
                mode = followed.st_mode or stat.S_IFREG
                if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
                    entries.append((each.filename + "/" * stat.S_ISDIR(mode), followed))
            return entries

    def create(self) -> None:
        folder = self._root.rstrip("/") if self._root.endswith("/") else posixpath.dirname(self._root)
        what = f"create {self._name}"
        with self._pool.one(what) as files:
            self._make_folders(files, folder, what)

    def _make_folders(self, files: Any, folder: str, what: str) -> None:
        with within(self._timeout_s, self._making, f"{what}: other folders were made"):
            _make_folders(files, folder)

    def close(self) -> None:
        self._pool.close()


def _info(key: str, found: Any) -> ObjectInfo:
    is_dir = key.endswith("/")
    return ObjectInfo(key, 0 if is_dir else found.st_size or 0, found.st_mtime or 0, is_dir)


def _followed(files: Any, folder: str, entry: Any) -> Any:
    """What a symbolic link leads to; the entry itself if it is none, or leads nowhere."""
    if not stat.S_ISLNK(entry.st_mode or 0):
        return entry
    try:
        return files.stat(folder + entry.filename)
    except FileNotFoundError:
        return entry


def _make_folders(files: Any, folder: str) -> None:
    """Create a directory and the missing ones above it."""
    if not folder:
        return
    try:
        files.mkdir(folder)
    except FileNotFoundError:
        _make_folders(files, posixpath.dirname(folder))
        files.mkdir(folder)
    except OSError:  # the protocol does not tell "exists" from other failures
        if not stat.S_ISDIR(files.stat(folder).st_mode or 0):
            raise


def _rename(files: Any, source: str, target: str) -> None:
    """Give a file its name, whoever has it now. A server without posix-rename refuses names that exist."""
    try:
        files.posix_rename(source, target)
        return
    except OSError as error:
        if error.errno or isinstance(error, TimeoutError | ConnectionError):
            raise
    try:
        files.rename(source, target)
    except OSError as error:
        if error.errno or isinstance(error, TimeoutError | ConnectionError):
            raise
        files.remove(target)
        files.rename(source, target)


def _remove_quietly(files: Any, path: str) -> None:
    try:
        files.remove(path)
    except Exception:
        pass
