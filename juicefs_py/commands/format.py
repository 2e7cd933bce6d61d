"""`juicefs format`: create a volume, or (deprecated) change the settings of an existing one that are given."""

from __future__ import annotations

import os
import re
import time
import uuid
from dataclasses import replace
from typing import Any

from juicefs_py.cli import log
from juicefs_py.cli.args import Command, Option, Values
from juicefs_py.cli.errors import Fatal
from juicefs_py.cli.options import default_bucket, management, volume_storage

_NAME = re.compile(r"[a-z0-9][a-z0-9\-]{1,61}[a-z0-9]")
_SMALLEST_BLOCK, _LARGEST_BLOCK = 64 << 10, 16 << 20
_MAX_SHARDS = 256
_OTHER_WITHIN_S = 1.0  # from another process's mark in the storage to its setting in the database
_COMPRESSIONS = ("none", "lz4", "zstd")
_SECRETS = ("access_key", "secret_key", "session_token")


def _run(values: Values) -> int:
    from juicefs_py.cli.connect import connect, stored_setting
    from meta.errors import MetaError

    url, name = values.positionals
    engine = connect(url)
    try:
        old = stored_setting(engine, url)
        if old is not None and values.flag("no-update"):
            return 0
        _check(values, name)
        if old is None:
            old = _create_unless_made(engine, values, url, name)
        if old is not None and not values.flag("no-update"):
            _update(engine, values, name, old)
    except MetaError as error:
        raise Fatal(f"format: {error}") from None
    finally:
        engine.close()
    return 0


def _check(values: Values, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise Fatal(
            f'invalid name: "{name}", only alphabet, number and - are allowed, '
            "and the length should be 3 to 63 characters."
        )
    if values.text("compress").lower() not in _COMPRESSIONS:
        raise Fatal(f'Unsupported compress algorithm: "{values.text("compress")}"; use none, lz4 or zstd')
    if values.number("trash-days") < 0:
        raise Fatal(f"Invalid trash days: {values.number('trash-days')}; 0 switches the trash off")
    if values.number("shards") > _MAX_SHARDS:
        raise Fatal(f"too many shards: {values.number('shards')}; at most {_MAX_SHARDS}")


def _create_unless_made(engine: Any, values: Values, url: str, name: str) -> Any:
    """Create the volume; if another process has done so meanwhile, its setting. The CSI driver runs several at once."""
    from juicefs_py.cli.connect import stored_setting
    from meta.errors import SettingError

    try:
        _create(engine, values, name)
        return None
    except (Fatal, SettingError):
        end = time.monotonic() + _OTHER_WITHIN_S
        while (made := stored_setting(engine, url)) is None:  # it marks the storage first
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        log.LOG.info("volume %s was formatted by another process meanwhile", made.name)
        return made


def _create(engine: Any, values: Values, name: str) -> None:
    from juicefs_py import storage_check
    from meta.rules.format import init_volume
    from meta.setting import Setting, Tier

    setting = Setting(
        name=name,
        uuid=str(uuid.uuid4()),
        storage_class=values.text("storage-class"),  # for clients that know no tiers
        tiers={0: Tier(0, values.text("storage-class"))},
        block_size=block_size(values),
        compression=values.text("compress").lower(),
        shards=values.number("shards"),
        hash_prefix=values.flag("hash-prefix"),
        encrypt_key=file_content(values.text("encrypt-rsa-key")),
        encrypt_algo=values.text("encrypt-algo").lower(),
        **_storage(values),
        **_credentials(values),
        **_management(values),
    )
    setting = raise_version(setting)
    bucket = storage_check.volume_bucket(setting)
    log.LOG.info("Data use %s", bucket.describe())
    checked = not os.environ.get("JFS_NO_CHECK_OBJECT_STORAGE")
    with storage_check.nothing_left_of_a_failure(bucket):
        if checked:
            storage_check.check_storage(bucket)
            storage_check.refuse_used(bucket)
            storage_check.mark(bucket, setting.uuid)
        try:
            stored = init_volume(engine, setting.encrypted())
        except BaseException:
            if checked:
                storage_check.unmark(bucket)
            raise
    _tell(stored)


def _update(engine: Any, values: Values, name: str, old: Any) -> None:
    from juicefs_py import storage_check
    from meta.errors import SettingError
    from meta.rules.format import init_volume

    changes: dict[str, Any] = {"name": name}
    options = {
        **{option: field for field, option in _KEYS}, "storage": "storage", "bucket": "bucket", "capacity": "capacity",
        "inodes": "inodes", "trash-days": "trash_days", "ranger-rest-url": "ranger_rest_url",
        "ranger-service": "ranger_service", "kerberos-config-file": "kerb_conf", "shards": "shards",
        "hash-prefix": "hash_prefix",
    }  # fmt: skip
    given = {**_storage(values), **_management(values), **{field: values.text(option) for field, option in _KEYS}}
    given |= {"shards": values.number("shards"), "hash_prefix": values.flag("hash-prefix")}
    changes |= {field: given[field] for option, field in options.items() if values.is_set(option)}
    if values.is_set("block-size"):
        changes["block_size"] = block_size(values)
    if values.is_set("compress"):
        changes["compression"] = values.text("compress").lower()
    for option in ("encrypt-rsa-key", "encrypt-algo"):
        if values.is_set(option):
            log.LOG.warning('Flag "%s" is ignored since it cannot be updated', option)
    if values.flag("force"):
        log.LOG.warning("Existing volume will be overwritten: %s", old.without_secrets().to_json(2))
    clear = replace(old.decrypted(), **changes)
    setting = raise_version(clear.encrypted() if old.key_encrypted or any(map(changes.get, _SECRETS)) else clear)
    try:
        old.updated(setting, values.flag("force"))
    except SettingError as error:
        raise Fatal(f"format: update format: {error}; use another database, or --force if you are sure") from None
    bucket = storage_check.volume_bucket(clear)
    log.LOG.info("Data use %s", bucket.describe())
    if not os.environ.get("JFS_NO_CHECK_OBJECT_STORAGE"):
        storage_check.check_storage(bucket)
    _tell(init_volume(engine, setting, force=values.flag("force")))


def _tell(setting: Any) -> None:
    log.LOG.info("Volume is formatted as %s", setting.without_secrets().to_json(2))


_KEYS = (("access_key", "access-key"), ("secret_key", "secret-key"), ("session_token", "session-token"))


def _storage(values: Values) -> dict[str, Any]:
    from juicefs_py.storage_check import absolute_bucket

    storage = values.text("storage").lower()
    return {"storage": storage, "bucket": absolute_bucket(storage, values.text("bucket"))}


def _credentials(values: Values) -> dict[str, Any]:
    """Keys of a new volume; those not given come from the environment, and do not stay there."""
    return {
        field: values.text(option) or os.environ.pop(option.upper().replace("-", "_"), "") for field, option in _KEYS
    }


def _management(values: Values) -> dict[str, Any]:
    return {
        "capacity": values.size("capacity"),
        "inodes": values.number("inodes"),
        "trash_days": values.number("trash-days"),
        "enable_acl": values.flag("enable-acl"),
        "ranger_rest_url": values.text("ranger-rest-url"),
        "ranger_service": values.text("ranger-service"),
        "kerb_conf": file_content(values.text("kerberos-config-file")),
    }


def file_content(path: str) -> str:
    """The text of a file that becomes part of the setting."""
    if not path:
        return ""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise Fatal(f"read {path}: {getattr(error, 'strerror', None) or error}") from None


def block_size(values: Values) -> int:
    """KiB: rounded down to a power of two, within 64 KiB and 16 MiB."""
    wanted = values.size("block-size")
    rounded = 1 << max(wanted.bit_length() - 1, 0)
    size = min(max(rounded, _SMALLEST_BLOCK), _LARGEST_BLOCK)
    if size != wanted:
        log.LOG.warning("block size %s is adjusted to %d KiB", values.text("block-size"), size >> 10)
    return size >> 10


def raise_version(setting: Any) -> Any:
    """Clients too old for a feature in use are kept out."""
    for used, version in (
        (setting.enable_acl, "1.2.0-A"),
        (setting.ranger_rest_url or setting.ranger_service, "1.3.0-A"),
        (setting.kerb_conf, "1.4.0-A"),
    ):
        if used:
            setting = setting.requiring(version)
    return setting


COMMAND = Command(
    "format", "Format a volume", "META-URL NAME", "ADMIN",
    "Create a new volume. Its metadata goes to META-URL, its data to the storage given below.\n\n"
    "Examples:\n# Metadata in a SQLite database, data in a local directory\n"
    "$ juicefs format sqlite3://myjfs.db myjfs --bucket /data/jfs\n\n"
    "# A volume with quota\n$ juicefs format sqlite3://myjfs.db myjfs --inodes 1000000 --capacity 102400\n\n"
    "# A volume without trash\n$ juicefs format sqlite3://myjfs.db myjfs --trash-days 0",
    (
        Option(("force",), "bool", "", "overwrite the settings of an existing volume"),
        Option(("no-update",), "bool", "", "do not touch an existing volume"),
        *volume_storage("file", default_bucket(), environment=True),
        Option(("block-size",), "size", "4M", "size of block in KiB", "DATA FORMAT", "K"),
        Option(("compress",), "string", "none", "compression algorithm: lz4, zstd or none", "DATA FORMAT"),
        Option(("encrypt-rsa-key",), "string", "", "`path` of an RSA private key (PEM)", "DATA FORMAT"),
        Option(("encrypt-algo",), "string", "aes256gcm-rsa", "aes256gcm-rsa or chacha20-rsa", "DATA FORMAT"),
        Option(("hash-prefix",), "bool", "", "add a hash prefix to the names of objects", "DATA FORMAT"),
        Option(("shards",), "int", "0", "store the blocks into N buckets by hash of key", "DATA FORMAT"),
        *management("1"),
    ),
    2, 2, _run,
)  # fmt: skip
