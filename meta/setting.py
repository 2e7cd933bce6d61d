"""The volume's setting: the document that `format` writes, `config` changes and every client reads.

Not where it is kept (engines), and not which option of a command changes what (commands). The text is JSON exactly as
the official client writes it; keys that we do not know survive a rewrite unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, NamedTuple

from meta.errors import SettingError
from meta.gojson import go_dumps, object_members
from meta.secrets import REMOVED, decrypt_secret, encrypt_secret
from meta.version import COMPATIBLE_VERSION, META_VERSION, Version


class Tier(NamedTuple):
    """A storage tier: how objects of files on it are stored. `tag` is empty or one `key=value`."""

    id: int
    storage_class: str = ""
    tag: str = ""


def _key(key: str, default: Any, omitempty: bool = False, *, secret: bool = False) -> Any:
    """A field that the document has under `key`; with `omitempty` only if it is not zero or empty."""
    metadata = {"key": key, "omitempty": omitempty, "type": type(default)}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, repr=not secret, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A volume's setting, in the order of the document. Defaults are those of a new volume.

    Immutable: change it with `dataclasses.replace`, and store what `updated` returns.
    """

    name: str = _key("Name", "")
    uuid: str = _key("UUID", "")
    storage: str = _key("Storage", "file")
    storage_class: str = _key("StorageClass", "", True)
    tiers: Mapping[int, Tier] = _key("Tiers", {0: Tier(0)})
    bucket: str = _key("Bucket", "")
    access_key: str = _key("AccessKey", "", True)
    secret_key: str = _key("SecretKey", "", True, secret=True)
    session_token: str = _key("SessionToken", "", True, secret=True)
    block_size: int = _key("BlockSize", 4096)  # KiB
    compression: str = _key("Compression", "none", True)
    shards: int = _key("Shards", 0, True)
    hash_prefix: bool = _key("HashPrefix", False, True)
    capacity: int = _key("Capacity", 0, True)  # bytes; 0: unlimited
    inodes: int = _key("Inodes", 0, True)  # 0: unlimited
    encrypt_key: str = _key("EncryptKey", "", True, secret=True)
    encrypt_algo: str = _key("EncryptAlgo", "aes256gcm-rsa", True)
    key_encrypted: bool = _key("KeyEncrypted", False, True)
    upload_limit: int = _key("UploadLimit", 0, True)  # Mbps
    download_limit: int = _key("DownloadLimit", 0, True)  # Mbps
    trash_days: int = _key("TrashDays", 1)  # 0: no trash
    meta_version: int = _key("MetaVersion", META_VERSION, True)
    min_client_version: str = _key("MinClientVersion", "1.1.0-A", True)
    max_client_version: str = _key("MaxClientVersion", "", True)
    dir_stats: bool = _key("DirStats", True, True)
    user_group_quota: bool = _key("UserGroupQuota", False, True)
    enable_acl: bool = _key("EnableACL", False)
    ranger_rest_url: str = _key("RangerRestUrl", "", True)
    ranger_service: str = _key("RangerService", "", True)
    change_log: bool = _key("ChangeLog", False, True)
    change_log_max_age: int = _key("ChangeLogMaxAge", 0, True)  # seconds
    change_log_max_lines: int = _key("ChangeLogMaxLines", 0, True)
    kerb_conf: str = _key("KerbConf", "", True)
    unknown: Mapping[str, str] = field(default_factory=dict)
    """Members that this client does not know: key and value as they were written."""

    @classmethod
    def parse(cls, document: bytes | str) -> Setting:
        """Read a stored document. Keys match in any case; what is absent is zero, not a new volume's default."""
        try:
            text = document.decode() if isinstance(document, bytes) else document
            members = object_members(text)
        except ValueError as e:
            raise SettingError(f"the volume's setting is not readable: {e}") from e
        values: dict[str, Any] = {name: kind() for name, (_, kind, _) in _FIELDS.items()}
        unknown: dict[str, str] = {}
        for key, value, raw in members:
            name = _NAMES.get(key.lower())
            if name is None:
                unknown[key] = raw
            elif value is not None:
                values[name] = _tiers(value) if name == "tiers" else _checked(key, value, _FIELDS[name][1])
        values["tiers"] = values["tiers"] or {0: Tier(0, values["storage_class"])}
        return cls(**values, unknown=unknown)

    def to_json(self, indent: int = 0) -> str:
        """The document. `indent`: 0 as stored, 1 as in `.config`, 2 as `format` and `status` show it."""
        document: dict[str, Any] = {}
        for name, (key, _, omitempty) in _FIELDS.items():
            value = getattr(self, name)
            if value or not omitempty:
                document[key] = value
        document["Tiers"] = {
            str(number): {"ID": tier.id, "StorageClass": tier.storage_class, "Tag": tier.tag}
            for number, tier in sorted(self.tiers.items())
        }
        return go_dumps(document, indent, self.unknown)

    def check_version(self) -> None:
        """Refuse a volume of a newer layout, or one that does not want clients of our version."""
        if self.meta_version > META_VERSION:
            raise SettingError(f"incompatible metadata version: {self.meta_version}; please upgrade the client")
        ours = Version.parse(COMPATIBLE_VERSION)
        lowest, highest = self.min_client_version, self.max_client_version
        if lowest and ours < Version.parse(lowest):
            raise SettingError(f"check version: allowed minimum version: {lowest}; please upgrade the client")
        if highest and ours > Version.parse(highest):
            raise SettingError(f"check version: allowed maximum version: {highest}; please use an older client")

    def requiring(self, version: str) -> Setting:
        """The setting with the minimum client version raised to `version` (never lowered)."""
        current = self.min_client_version
        if current and Version.parse(current) >= Version.parse(version):
            return self
        return replace(self, min_client_version=version)

    def without_secrets(self) -> Setting:
        """For display: secrets that are set read "removed"."""
        return self._with_secrets(dict.fromkeys(self._secrets(), REMOVED), self.key_encrypted)

    def encrypted(self) -> Setting:
        """The setting with its secrets hidden; unchanged if they are already, or if there are none."""
        secrets = self._secrets()
        if self.key_encrypted or not secrets:
            return self
        hidden = {name: encrypt_secret(text, self.uuid, self.encrypt_algo) for name, text in secrets.items()}
        return self._with_secrets(hidden, True)

    def decrypted(self) -> Setting:
        """The setting with its secrets in clear; `SettingError` if one was removed or is not this volume's."""
        if not self.key_encrypted:
            return self
        clear = {name: decrypt_secret(text, self.uuid, self.encrypt_algo) for name, text in self._secrets().items()}
        return self._with_secrets(clear, False)

    def _secrets(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in _SECRETS if getattr(self, name)}

    def _with_secrets(self, secrets: Mapping[str, str], key_encrypted: bool) -> Setting:
        changes: dict[str, Any] = {**secrets, "key_encrypted": key_encrypted}
        return replace(self, **changes)

    def updated(self, new: Setting, force: bool = False) -> Setting:
        """What to store when `new` is to replace this setting of an existing volume.

        The UUID stays; `SettingError` if something differs that never may, unless `force`. Keys that only this one
        has (unknown to us) are kept.
        """
        for name, words in _IMMUTABLE.items():
            before, after = getattr(self, name), getattr(new, name)
            if before != after and not force:
                raise SettingError(f"cannot update {words} from {_go(before)} to {_go(after)}")
        if not force:
            new.check_version()
        if new.uuid != self.uuid:
            moved = replace(new.decrypted(), uuid=self.uuid)
            new = moved.encrypted() if new.key_encrypted else moved
        return replace(new, unknown={**self.unknown, **new.unknown})


_SECRETS: Final = ("secret_key", "session_token", "encrypt_key")
_IMMUTABLE: Final = {
    "name": "volume name",
    "block_size": "block size",
    "compression": "compression",
    "shards": "shards",
    "hash_prefix": "hash prefix",
    "meta_version": "meta version",
}
_FIELDS: Final[dict[str, tuple[str, Any, bool]]] = {
    f.name: (f.metadata["key"], f.metadata["type"], f.metadata["omitempty"]) for f in fields(Setting) if f.metadata
}
_NAMES: Final = {key.lower(): name for name, (key, _, _) in _FIELDS.items()}


def _checked(key: str, value: Any, kind: type) -> Any:
    """A member's value if it has the right type. JSON knows no integers, so 3.0 is 3."""
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not kind:
        raise SettingError(f"the volume's setting has {value!r} for {key}, expected {kind.__name__}")
    return value


def _tiers(value: Any) -> dict[int, Tier]:
    try:
        tiers = {}
        for number, members in value.items():
            lower = {key.lower(): member for key, member in members.items()}
            tiers[int(number)] = Tier(int(lower.get("id", 0)), lower.get("storageclass", ""), lower.get("tag", ""))
        return tiers
    except (AttributeError, TypeError, ValueError) as e:
        raise SettingError(f"the volume's setting has unreadable Tiers: {value!r}") from e


def _go(value: object) -> str:
    """A value as Go prints it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
