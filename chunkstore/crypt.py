"""Encryption of objects at rest: a fresh key for each, wrapped with the volume's private key. Not where objects live.

An object is

    [0..2)      u16 BE  K, length of the wrapped data key
    [2]         u8      n, length of the nonce (12)
    [3..3+K)    the data key, RSA-OAEP (SHA-256 for hash and mask, label "keys")
    [3+K..+n)   the nonce
    [..end)     ciphertext and its tag of 16 bytes

The data key has 32 bytes for AES-256-GCM and ChaCha20-Poly1305, 16 for SM4-GCM. Whoever holds the private key reads
everything; it is part of the volume's setting, locked with a passphrase that only JFS_RSA_PASSPHRASE holds.
"""

from __future__ import annotations

import os
import struct
from typing import Protocol

from chunkstore.bucket import Data
from chunkstore.errors import BadKey, Damaged

PASSPHRASE = "JFS_RSA_PASSPHRASE"
ALGORITHMS = ("aes256gcm-rsa", "chacha20-rsa", "sm4gcm")

_NONCE = 12
_TAG = 16
_HEAD = struct.Struct(">HB")
_LABEL = b"keys"


class _Aead(Protocol):
    def encrypt(self, nonce: bytes, data: Data, associated_data: bytes | None, /) -> bytes: ...

    def decrypt(self, nonce: bytes, data: Data, associated_data: bytes | None, /) -> bytes: ...


class DataCipher:
    """Seals and opens objects with one private key. Thread-safe."""

    def __init__(self, pem: str, passphrase: str = "", algorithm: str = "") -> None:
        """`BadKey` when the key, its passphrase or the algorithm cannot be used."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding

        self._algorithm = (algorithm or ALGORITHMS[0]).lower()
        if self._algorithm not in ALGORITHMS:
            raise BadKey(f"unknown encryption algorithm {algorithm!r}; it may be {', '.join(ALGORITHMS)}")
        self._private = _load(pem, passphrase)
        self._public = self._private.public_key()
        sha256 = hashes.SHA256()
        self._padding = padding.OAEP(mgf=padding.MGF1(algorithm=sha256), algorithm=sha256, label=_LABEL)
        self._aead(os.urandom(self._key_size))  # says at once if this machine cannot

    @property
    def _key_size(self) -> int:
        return 16 if self._algorithm == "sm4gcm" else 32

    @property
    def overhead(self) -> int:
        """Bytes that an object has more than what is in it."""
        return _HEAD.size + -(-int(self._private.key_size) // 8) + _NONCE + _TAG

    def seal(self, data: Data) -> bytes:
        """The object for these bytes: never twice the same."""
        key = os.urandom(self._key_size)
        nonce = os.urandom(_NONCE)
        wrapped = self._public.encrypt(key, self._padding)
        return b"".join((_HEAD.pack(len(wrapped), _NONCE), wrapped, nonce, self._aead(key).encrypt(nonce, data, None)))

    def open(self, stored: Data) -> bytes:
        """The bytes of an object; `Damaged` if it is not one of this key, or was changed."""
        from cryptography.exceptions import InvalidTag

        if len(stored) < _HEAD.size:
            raise Damaged(f"not an encrypted object: {len(stored)} bytes")
        wrapped_length, nonce_length = _HEAD.unpack_from(stored)
        body = _HEAD.size + wrapped_length + nonce_length
        if body >= len(stored) or nonce_length != _NONCE:
            raise Damaged("not an encrypted object: its header makes no sense")
        with memoryview(stored) as view:
            wrapped = bytes(view[_HEAD.size : _HEAD.size + wrapped_length])
            nonce = bytes(view[body - nonce_length : body])
            try:
                return self._aead(self._private.decrypt(wrapped, self._padding)).decrypt(nonce, view[body:], None)
            except InvalidTag:
                raise Damaged("it was changed after it was encrypted") from None
            except ValueError:
                raise Damaged("it was encrypted with another key, or is damaged") from None

    def _aead(self, key: bytes) -> _Aead:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

        if self._algorithm == "aes256gcm-rsa":
            return AESGCM(key)
        if self._algorithm == "chacha20-rsa":
            return ChaCha20Poly1305(key)
        try:
            return _Sm4(key)
        except UnsupportedAlgorithm:
            raise BadKey("this volume is encrypted with SM4-GCM, which OpenSSL here lacks") from None


class _Sm4:
    """SM4-GCM with the tag behind the ciphertext."""

    def __init__(self, key: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers import algorithms

        self._key = algorithms.SM4(key)
        self._encryptor(bytes(_NONCE))

    def _encryptor(self, nonce: bytes):  # type: ignore[no-untyped-def]
        from cryptography.hazmat.primitives.ciphers import Cipher, modes

        return Cipher(self._key, modes.GCM(nonce)).encryptor()

    def encrypt(self, nonce: bytes, data: Data, associated_data: bytes | None, /) -> bytes:
        encryptor = self._encryptor(nonce)
        return bytes(encryptor.update(data) + encryptor.finalize() + encryptor.tag)

    def decrypt(self, nonce: bytes, data: Data, associated_data: bytes | None, /) -> bytes:
        from cryptography.hazmat.primitives.ciphers import Cipher, modes

        with memoryview(data) as view:
            decryptor = Cipher(self._key, modes.GCM(nonce, bytes(view[-_TAG:]))).decryptor()
            return decryptor.update(view[:-_TAG]) + decryptor.finalize()


def _load(pem: str, passphrase: str):  # type: ignore[no-untyped-def]
    """The private key in a PEM text: PKCS#1 or PKCS#8, locked or not. A passphrase for an unlocked key is ignored."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    locked = "ENCRYPTED" in pem
    if locked and not passphrase:
        raise BadKey(f"the RSA key is locked: put its passphrase into the environment variable {PASSPHRASE}")
    try:
        key = load_pem_private_key(pem.encode(), passphrase.encode() if locked else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        reason = f"the passphrase in {PASSPHRASE} is wrong" if locked else "it is no private key in PEM format"
        raise BadKey(f"cannot use the RSA key: {reason}") from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise BadKey("cannot use the key: only RSA keys are supported")
    return key
