"""The volume's setting: Go's exact JSON, unknown keys, secrets, version gates, what an update may change."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta.errors import SettingError
from meta.secrets import decrypt_secret, encrypt_secret
from meta.setting import Setting, Tier
from meta.version import Version

UUID = "00000000-1111-2222-3333-444444444444"

STORED = """{
"Name": "myjfs",
"UUID": "00000000-1111-2222-3333-444444444444",
"Storage": "file",
"Tiers": {
"0": {
"ID": 0,
"StorageClass": "",
"Tag": ""
}
},
"Bucket": "/var/jfs/\\u003ca\\u0026b\\u003e/",
"BlockSize": 4096,
"Compression": "none",
"EncryptAlgo": "aes256gcm-rsa",
"TrashDays": 1,
"MetaVersion": 1,
"MinClientVersion": "1.1.0-A",
"DirStats": true,
"EnableACL": false
}"""


def new(**changes: object) -> Setting:
    return Setting(**{"name": "myjfs", "uuid": UUID, "bucket": "/var/jfs/<a&b>/", **changes})


def test_a_new_volume_is_written_as_go_does() -> None:
    assert new().to_json() == STORED
    assert Setting.parse(STORED) == new()
    assert Setting.parse(STORED.encode()) == new()


def test_indented_for_people() -> None:
    lines = new().to_json(2).splitlines()
    assert lines[1] == '  "Name": "myjfs",'
    assert lines[5:7] == ['    "0": {', '      "ID": 0,']
    assert new().to_json(1).splitlines()[1] == ' "Name": "myjfs",'


def test_every_field_survives() -> None:
    full = new(
        storage_class="IA", tiers={0: Tier(0, "IA"), 3: Tier(3, "GLACIER", "k=v")}, access_key="a", secret_key="s",
        session_token="t", shards=2, hash_prefix=True, capacity=1 << 50, inodes=10**9, encrypt_key="k",
        key_encrypted=True, upload_limit=1, download_limit=2, trash_days=0, max_client_version="2.0.0", dir_stats=False,
        user_group_quota=True, enable_acl=True, ranger_rest_url="r", ranger_service="v", change_log=True,
        change_log_max_age=7200, change_log_max_lines=5, kerb_conf="c",
    )  # fmt: skip
    assert Setting.parse(full.to_json()) == full
    assert list(json.loads(full.to_json())) == [
        "Name", "UUID", "Storage", "StorageClass", "Tiers", "Bucket", "AccessKey", "SecretKey", "SessionToken",
        "BlockSize", "Compression", "Shards", "HashPrefix", "Capacity", "Inodes", "EncryptKey", "EncryptAlgo",
        "KeyEncrypted", "UploadLimit", "DownloadLimit", "TrashDays", "MetaVersion", "MinClientVersion",
        "MaxClientVersion", "UserGroupQuota", "EnableACL", "RangerRestUrl", "RangerService", "ChangeLog",
        "ChangeLogMaxAge", "ChangeLogMaxLines", "KerbConf",
    ]  # fmt: skip


def test_absent_is_zero_and_keys_match_in_any_case() -> None:
    old = Setting.parse('{"name": "x", "TRASHDAYS": 3, "StorageClass": "IA", "Tiers": null, "BlockSize": 1024.0}')
    assert (old.name, old.trash_days, old.dir_stats, old.meta_version, old.block_size) == ("x", 3, False, 0, 1024)
    assert old.tiers == {0: Tier(0, "IA")}


def test_unknown_keys_stay_byte_for_byte() -> None:
    odd = '{"a" :  [1,2.50, "\\u00e9<"], "b":1e400}'
    document = STORED[:-2] + f',\n"Future": {odd},\n"Other<": null\n}}'
    setting = Setting.parse(document)
    again = setting.to_json()
    assert f'"Future": {odd}' in again
    assert '"Other\\u003c": null' in again
    assert Setting.parse(again) == setting
    changed = setting.updated(new(trash_days=9))
    assert changed.trash_days == 9 and f'"Future": {odd}' in changed.to_json()


@pytest.mark.parametrize(
    "document",
    [b"", b"{", b"[]", b"{} x", b"\xff", b'{"Name": 5}', b'{"TrashDays": "1"}', b'{"TrashDays": true}',
     b'{"DirStats": 1}', b'{"BlockSize": 1.5}', b'{"Tiers": [1]}', b'{"Tiers": {"x": {}}}', b'{1: 2}', b'{"a" 1}'],
)  # fmt: skip
def test_what_is_no_setting_is_refused(document: bytes) -> None:
    with pytest.raises(SettingError):
        Setting.parse(document)


@given(st.text(), st.text(), st.integers(0, 2**63))
def test_any_text_survives(name: str, bucket: str, capacity: int) -> None:
    setting = new(name=name, bucket=bucket, capacity=capacity)
    text = setting.to_json()
    assert Setting.parse(text) == setting
    assert not set("<>&\u2028\u2029") & set(text)


# Secrets


def test_secret_vector() -> None:
    nonce = bytes.fromhex("000102030405060708090a0b")
    stored = "AAECAwQFBgcICQoLIAm5Y+n2mGleQriLFU9N9LaSlV/1k/9j"
    assert encrypt_secret("mysecret", UUID, "aes256gcm-rsa", nonce) == stored
    assert decrypt_secret(stored, UUID, "") == "mysecret"


@pytest.mark.parametrize("algo", ["aes256gcm-rsa", "chacha20-rsa", "", "sm4gcm"])
def test_secrets_come_back(algo: str) -> None:
    plain = new(secret_key="sécret", encrypt_key="pem", encrypt_algo=algo)
    hidden = plain.encrypted()
    assert hidden.key_encrypted and hidden.secret_key != plain.secret_key and hidden.session_token == ""
    assert hidden.encrypted() is hidden
    assert hidden.decrypted() == plain
    assert plain.decrypted() is plain


def test_no_secrets_no_flag() -> None:
    assert new(access_key="a").encrypted() == new(access_key="a")


def test_removed_secrets() -> None:
    shown = new(secret_key="s", encrypt_key="k").encrypted().without_secrets()
    assert (shown.secret_key, shown.session_token, shown.encrypt_key) == ("removed", "", "removed")
    assert shown.key_encrypted
    with pytest.raises(SettingError, match="removed"):
        shown.decrypted()


@pytest.mark.parametrize("text", ["", "%%%", "AAAA", encrypt_secret("x", "another volume", "")])
def test_damaged_secrets_are_told(text: str) -> None:
    with pytest.raises(SettingError, match="cannot decrypt"):
        decrypt_secret(text, UUID, "")


# Versions


def test_version_order() -> None:
    ordered = ["0.9.9", "1.1.0-A", "1.1.0-beta1", "1.1.0-rc1", "1.1.0", "1.1.1-A", "1.10.0"]
    parsed = [Version.parse(text) for text in ordered]
    assert parsed == sorted(parsed) and len(set(parsed)) == len(parsed)
    assert Version.parse("1.4.1+2026-07-30.0b90c7d") == Version.parse("1.4.1")
    for bad in ("", "1.4", "x", "1.4.1_2"):
        with pytest.raises(SettingError, match="Invalid version string"):
            Version.parse(bad)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"meta_version": 2}, "incompatible metadata version: 2; please upgrade the client"),
        ({"min_client_version": "1.5.0-A"}, "allowed minimum version: 1.5.0-A; please upgrade the client"),
        ({"max_client_version": "1.4.0"}, "allowed maximum version: 1.4.0; please use an older client"),
        ({"min_client_version": "soon"}, "Invalid version string: soon"),
    ],
)
def test_version_gates(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        new(**changes).check_version()


def test_volumes_for_us_pass_the_gates() -> None:
    for changes in ({}, {"meta_version": 0, "min_client_version": ""}, {"max_client_version": "1.4.1+x"}):
        new(**changes).check_version()


def test_requiring_a_version_never_lowers_it() -> None:
    assert new().requiring("1.2.0-A").min_client_version == "1.2.0-A"
    assert new(min_client_version="1.4.0-A").requiring("1.2.0-A").min_client_version == "1.4.0-A"


# Updates


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "b"}, "cannot update volume name from myjfs to b"),
        ({"block_size": 1024}, "cannot update block size from 4096 to 1024"),
        ({"compression": "lz4"}, "cannot update compression from none to lz4"),
        ({"shards": 3}, "cannot update shards from 0 to 3"),
        ({"hash_prefix": True}, "cannot update hash prefix from false to true"),
        ({"meta_version": 0}, "cannot update meta version from 1 to 0"),
    ],
)
def test_what_may_not_change(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError) as caught:
        new().updated(new(**changes))
    assert str(caught.value) == message
    assert new().updated(new(**changes), force=True) == new(**changes)


def test_the_uuid_stays_and_secrets_move_to_it() -> None:
    other = new(uuid="another", secret_key="s", capacity=5).encrypted()
    stored = new().updated(other)
    assert stored.uuid == UUID and stored.capacity == 5 and stored.key_encrypted
    assert stored.decrypted().secret_key == "s"
    plain = new().updated(replace(new(uuid="another"), secret_key="s"))
    assert (plain.uuid, plain.secret_key, plain.key_encrypted) == (UUID, "s", False)
