"""How a volume's setting hides its secrets: a cipher whose key is made from the volume's UUID.

It keeps secrets out of casual sight only: whoever can read the setting can read them. Not the encryption of data.
Stored text: Base64 of a nonce of 12 bytes, the ciphertext and a tag of 16 bytes. AES-128-GCM, or SM4-GCM for `sm4gcm`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from typing import TYPE_CHECKING, Final

from meta.errors import SettingError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.modes import GCM

REMOVED: Final = "removed"
"""Stands where a secret was taken out, for display or in a backup."""

_NONCE, _TAG = 12, 16


def encrypt_secret(text: str, uuid: str, algo: str, nonce: bytes | None = None) -> str:
    """Hide a secret of the volume `uuid`. `nonce` is for tests; it must never repeat."""
    nonce = os.urandom(_NONCE) if nonce is None else nonce
    encryptor = _cipher(uuid, algo, nonce, None).encryptor()
    sealed = encryptor.update(text.encode()) + encryptor.finalize()
    return base64.b64encode(nonce + sealed + encryptor.tag).decode()


def decrypt_secret(text: str, uuid: str, algo: str) -> str:
    """The secret again; `SettingError` if it was removed or is not one of this volume."""
    from cryptography.exceptions import InvalidTag

    if text == REMOVED:
        raise SettingError("secret was removed; please correct it with `juicefs config`")
    try:
        data = base64.b64decode(text, validate=True)
        if len(data) < _NONCE + _TAG:
            raise binascii.Error("too short")
        decryptor = _cipher(uuid, algo, data[:_NONCE], data[-_TAG:]).decryptor()
        return (decryptor.update(data[_NONCE:-_TAG]) + decryptor.finalize()).decode()
    except (binascii.Error, InvalidTag, UnicodeDecodeError) as e:
        raise SettingError(f"cannot decrypt a secret of volume {uuid}: damaged, or of another volume") from e


def _cipher(uuid: str, algo: str, nonce: bytes, tag: bytes | None) -> Cipher[GCM]:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    if algo != "sm4gcm":
        key = hashlib.md5(uuid.encode(), usedforsecurity=False).digest()
        return Cipher(algorithms.AES(key), modes.GCM(nonce, tag))
    try:
        cipher = Cipher(algorithms.SM4(_sm3_key(uuid.encode())), modes.GCM(nonce, tag))
        cipher.encryptor() if tag is None else cipher.decryptor()  # asks the library whether it can
        return cipher
    except (ValueError, UnsupportedAlgorithm) as e:
        raise SettingError("this volume's secrets are encrypted with SM4-GCM, which OpenSSL here lacks") from e


def _sm3_key(seed: bytes) -> bytes:
    """Key derivation of the SM2 standard (SM3 over seed and counter); 16 bytes are less than one digest."""
    return hashlib.new("sm3", seed + (1).to_bytes(4, "big")).digest()[:16]
