"""Objects encrypted at rest: a golden object of an official client, the layout, keys of every kind, and damage."""

from __future__ import annotations

import base64
import os
import struct
from functools import cache

import pytest
from buckets import KEY, cipher
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from chunkstore.buckets.encrypted import EncryptedBucket
from chunkstore.buckets.mem import MemBucket
from chunkstore.crypt import ALGORITHMS, DataCipher
from chunkstore.errors import BadKey, Damaged

OBJECT = base64.b64decode(
    "AQAMXYSEA9kj53NKa7N3LSVPOkURgGd6/hhTo09Log57wiGQf/xl67igY9hvkV6vn4Jg0lbR35PVVwtpg+NXnrYyjGvnHxlqE77I"
    "pe6fNhq7V+5hJTU1AVa7QTrOZxt4Pb/YSechPNBYOFc+FT9Zl/9ZEmFlOJSkoBQjnCdQ6G315Pp3GA/AkgRbey7B39tPQBGhsjLo"
    "kQW4MGRD48iN+tfRmuhPQDYXxrGIzKBb3fNlKEOXvlytUTp3LX0McdNduTqJgVyAWyNUhej9b4viT4Yx8d3ZrIw6u0lnLvvi6z3H"
    "qaaYdYm41j5r+YMMFRVBIjanHyXAHeL6oCxCZAnU+ikfb1pJoldZqN0ZwXL3fQMNyD1iUV0GN8HXN1IXN0jkNauz8HGdp/EF+sA="
)
"""The block `golden bytes` as JuiceFS 0.14.2 has encrypted it with that key."""


@cache
def private() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def pem(form: serialization.PrivateFormat, passphrase: bytes | None, key: object = None) -> str:
    lock = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    text: bytes = (key or private()).private_bytes(serialization.Encoding.PEM, form, lock)  # type: ignore[attr-defined]
    return text.decode()


def test_an_object_of_an_official_client() -> None:
    assert DataCipher(KEY, "golden").open(OBJECT) == b"golden bytes"


@pytest.mark.parametrize(("algorithm", "aead"), [("aes256gcm-rsa", AESGCM), ("chacha20-rsa", ChaCha20Poly1305)])
def test_the_layout(algorithm: str, aead: type[AESGCM] | type[ChaCha20Poly1305]) -> None:
    """Taken apart with nothing but the layout in mind, and put together the same way."""
    made = DataCipher(pem(serialization.PrivateFormat.PKCS8, None), "", algorithm)
    data = os.urandom(1000)
    stored = made.seal(data)
    length, nonce_length = struct.unpack_from(">HB", stored)
    assert (length, nonce_length) == (256, 12) and len(stored) == len(data) + made.overhead == len(data) + 287
    oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=b"keys")
    key = private().decrypt(stored[3:259], oaep)
    assert len(key) == 32
    assert aead(key).decrypt(stored[259:271], stored[271:], None) == data
    other_key, nonce = os.urandom(32), os.urandom(12)
    wrapped = private().public_key().encrypt(other_key, oaep)
    theirs = struct.pack(">HB", len(wrapped), 12) + wrapped + nonce + aead(other_key).encrypt(nonce, data, None)
    assert made.open(theirs) == data


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("size", [0, 1, 4 << 20])
def test_what_is_sealed_opens_again(algorithm: str, size: int) -> None:
    try:
        made = cipher(algorithm)
    except BadKey as error:
        assert algorithm == "sm4gcm" and "OpenSSL here lacks" in str(error)
        return
    data = os.urandom(size)
    stored = made.seal(memoryview(data))
    assert made.open(stored) == data and made.open(bytearray(stored)) == data
    assert made.seal(data) != stored, "every object has a key and a nonce of its own"


@pytest.mark.parametrize("passphrase", [None, b"secret"])
@pytest.mark.parametrize("form", [serialization.PrivateFormat.TraditionalOpenSSL, serialization.PrivateFormat.PKCS8])
def test_every_form_of_key(form: serialization.PrivateFormat, passphrase: bytes | None) -> None:
    made = DataCipher(pem(form, passphrase), "secret")  # a passphrase for a key without one does no harm
    assert made.open(made.seal(b"abc")) == b"abc"


def test_keys_that_cannot_be_used_say_why() -> None:
    locked = pem(serialization.PrivateFormat.PKCS8, b"secret")
    for text, passphrase, algorithm, words in (
        (locked, "", "", "put its passphrase into the environment variable JFS_RSA_PASSPHRASE"),
        (locked, "wrong", "", "the passphrase in JFS_RSA_PASSPHRASE is wrong"),
        (KEY, "wrong", "", "the passphrase in JFS_RSA_PASSPHRASE is wrong"),
        ("no key", "", "", "it is no private key in PEM format"),
        (KEY, "golden", "rot13", "unknown encryption algorithm 'rot13'; it may be aes256gcm-rsa, chacha20-rsa, sm4gcm"),
        (
            pem(serialization.PrivateFormat.PKCS8, None, ec.generate_private_key(ec.SECP256R1())), "", "",
            "only RSA keys are supported",
        ),
    ):  # fmt: skip
        with pytest.raises(BadKey, match=words) as caught:
            DataCipher(text, passphrase, algorithm)
        assert "wrong" not in str(caught.value) or passphrase not in str(caught.value).replace("is wrong", "")


def test_damage_is_found_at_every_byte() -> None:
    made = cipher()
    stored = made.seal(b"some bytes")
    for at in [*range(20), *range(250, len(stored))]:
        changed = bytearray(stored)
        changed[at] ^= 1
        with pytest.raises(Damaged):
            made.open(changed)
    for length in (0, 1, 2, 3, 100, 270, 271, 280, len(stored) - 1):
        with pytest.raises(Damaged):
            made.open(stored[:length])
    with pytest.raises(Damaged, match="another key"):
        DataCipher(KEY, "golden").open(stored)


def test_an_encrypted_bucket_keeps_nothing_in_clear() -> None:
    inner = MemBucket()
    bucket = EncryptedBucket(inner, cipher())
    bucket.put("k", b"plain text of the user")
    assert b"plain" not in inner.get("k") and bucket.get("k") == b"plain text of the user"
    assert bucket.head("k").size == 22 and [each.size for each in bucket.list_all()] == [22]
    inner.put("k", inner.get("k")[:-1])
    with pytest.raises(Damaged, match="object mem:///k cannot be decrypted"):
        bucket.get("k")


def test_backups_that_official_clients_left_in_clear_are_read() -> None:
    inner = MemBucket()
    inner.put("meta/dump-2026-01-01-000000.json.gz", b"\x1f\x8bgzip")
    inner.put("chunks/0/0/1_0_6", b"\x1f\x8bgzip")
    bucket = EncryptedBucket(inner, cipher())
    assert bucket.get("meta/dump-2026-01-01-000000.json.gz") == b"\x1f\x8bgzip"
    with pytest.raises(Damaged):
        bucket.get("chunks/0/0/1_0_6")
