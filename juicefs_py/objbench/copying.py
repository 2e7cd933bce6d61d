"""The tests of what copies between storages need: strange keys, large and empty objects, parts, and what files have."""

from __future__ import annotations

import contextlib
import os
import time

from chunkstore.bucket import Multipart
from chunkstore.errors import StoreError, Unsupported
from juicefs_py.objbench.cases import DATA, KEY, Cases, Doubt, not_found, right, same
from juicefs_py.objbench.local import LocalFiles, may_chown, nobody

_BIG = 256 << 20
_SPECIAL_START = "测试编码文件"
_SPECIAL = _SPECIAL_START + '{"name":"juicefs"}\x1f%uFF081%uFF09.jpg'
_OLD_S = 600.0


class CopyingTests(Cases):
    """Each method is a test."""

    def special_key(self) -> None:
        with self.put(_SPECIAL, DATA):
            same(self.bucket.get(_SPECIAL), DATA, "the object")
            same([each.key for each in self.bucket.list_all(_SPECIAL_START)], [_SPECIAL], "the key in the list")
        not_found(lambda: self.bucket.head(_SPECIAL), "head of the deleted object")

    def big_object(self) -> None:
        data = os.urandom(4 << 20) * (_BIG >> 22)
        with self.put(data=data):
            same(self.bucket.head(KEY).size, _BIG, "size")
            right(self.bucket.get(KEY, _BIG - 1000, 1000) == data[-1000:], "its last bytes are")

    def empty_object(self) -> None:
        with self.put("empty_test_file", b""):
            same(self.bucket.head("empty_test_file").size, 0, "size")
            same(self.bucket.get("empty_test_file"), b"", "the object")
            same([each.size for each in self.bucket.list_all("empty_test_file")], [0], "size in the list")
        with self.put("slash_test_file/", b""):
            same(self.bucket.head("slash_test_file/").key, "slash_test_file/", "key with a slash at its end")

    def multipart(self) -> None:
        bucket = self.whole
        if not isinstance(bucket, Multipart):
            raise Unsupported("no uploads in parts")
        key = self.prefix + "multi_test_file"
        parts = [os.urandom(bucket.min_part_size), os.urandom(bucket.min_part_size), DATA]
        try:
            self._upload(bucket, key, parts)
            given_up = bucket.start_upload(key)
            bucket.upload_part(key, given_up, 1, DATA)
            bucket.abort_upload(key, given_up)
            try:
                self._upload(bucket, key, parts, replacing=True)
            except StoreError as error:
                raise Doubt(f"sending a part again, changed: {error}") from None
        finally:
            with contextlib.suppress(StoreError):
                self.whole.delete(key)

    def _upload(self, bucket: Multipart, key: str, parts: list[bytes], replacing: bool = False) -> None:
        """In parts, if `replacing` with something else in their places at first."""
        upload = bucket.start_upload(key)
        try:
            if replacing:
                for number, data in enumerate(parts, 1):
                    bucket.upload_part(key, upload, number, data[: len(data) // 2])
            sent = [bucket.upload_part(key, upload, number, data) for number, data in enumerate(parts, 1)]
            bucket.complete_upload(key, upload, sent)
        except BaseException:
            with contextlib.suppress(StoreError):
                bucket.abort_upload(key, upload)
            raise
        right(self.whole.get(key) == b"".join(parts), "what was uploaded in parts is")

    # what files have

    def _local(self) -> LocalFiles:
        if self.files is None:
            raise Unsupported("objects have nothing of the kind")
        return self.files

    def chown(self) -> None:
        files = self._local()
        if reason := may_chown():
            raise Doubt(reason)
        with self.put():
            files.chown(KEY)
            status = os.stat(files.path(KEY))
            same((status.st_uid, status.st_gid), nobody(), "owner and group")

    def chmod(self) -> None:
        files = self._local()
        with self.put():
            files.chmod(KEY, 0o777)
            same(os.stat(files.path(KEY)).st_mode & 0o7777, 0o777, "permissions")

    def set_mtime(self) -> None:
        files, wanted = self._local(), time.time() - _OLD_S
        with self.put():
            files.set_mtime(KEY, wanted)
            right(abs(self.bucket.head(KEY).mtime - wanted) <= 2, "the mtime of the object is")
